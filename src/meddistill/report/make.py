"""``meddistill report``: read a package, a run folder or the folder of a benchmark, and write the page."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meddistill.package.members import TENSORS
from meddistill.package.read import read_judged
from meddistill.package.trust import judge
from meddistill.package.types import Card
from meddistill.report.cells import RESULTS, beside, is_benchmark, read_results
from meddistill.report.findings import Audit, audit_of, read_audit, without_figures
from meddistill.report.of_package import Shared
from meddistill.report.page import render
from meddistill.report.runlog import EVENTS, RunLog, read_run
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import require_another, require_writable, write_atomic


@dataclass(frozen=True)
class Written:
    """The page that was written, and what it shows: a package, a run, an audit, each None where there was none.

    ``benchmark``: the folder whose results are shown, of the benchmark itself or of a package that it made.
    """

    out: Path
    bytes: int
    package: Path | None
    run: Path | None
    audit: str | None
    benchmark: Path | None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        told = {name: value if value is None else str(value) for name, value in vars(self).items() if name != "bytes"}
        return told | {"bytes": self.bytes}


def report(subject: Path, out: Path, audit: Path | None = None) -> Written:
    """Write a report on ``subject``, a package or the folder of a run or a benchmark, to ``out``, one HTML file.

    A run is shown with the package that stands beside it under its name, if that was made by the run's plan; a package
    is shown alone, for its file is what others get. With one that a benchmark made, and that still stands in its
    folder, is shown what that measured on other networks. ``audit``: the result of an audit; without one, the
    package's own. Of one that is given nothing is shown that the card withholds.

    Raises :class:`InputError` for a subject or an audit that cannot be read, and for an audit of a package that states
    an epsilon; :class:`VerificationError` for a broken package, :class:`OutputError` where the page cannot be written.
    """
    if is_benchmark(subject) and not (subject / EVENTS).exists():
        return _of_benchmark(subject, out, audit)
    run = read_run(subject) if subject.is_dir() else None
    file = subject if run is None else _package_of(subject, run)
    require_another(out, (file, audit, subject / EVENTS))
    require_writable(out)
    shared = None if file is None else _open(file)
    told, tried = _audit(audit, shared), () if file is None else beside(file)
    page = render(shared, run, told, beside=tried).encode()
    write_atomic(out, page)
    return Written(
        out=out,
        bytes=len(page),
        package=file,
        run=subject if run is not None else None,
        audit=None if told is None else told.by,
        benchmark=_as_given(file.resolve().parent.parent, subject) if file is not None and tried else None,
    )


def _of_benchmark(folder: Path, out: Path, audit: Path | None) -> Written:
    if audit is not None:
        raise InputError(f"--audit {audit} is of one package, and {folder} is a benchmark: report on the package")
    require_another(out, [folder / RESULTS])
    require_writable(out)
    page = render(None, None, None, bench=read_results(folder)).encode()
    write_atomic(out, page)
    return Written(out=out, bytes=len(page), package=None, run=None, audit=None, benchmark=folder)


def _open(file: Path) -> Shared:
    package, found = read_judged(file)
    return Shared(file.name, file.stat().st_size, package, judge(found))


def _package_of(folder: Path, run: RunLog) -> Path | None:
    """The package that the run wrote: NAME.mdz for NAME.run, and with the run's plan on its card."""
    whole = folder.resolve()
    file = _as_given(whole.with_suffix(".mdz"), folder)
    if whole.suffix != ".run" or not run.finished or not file.is_file():
        return None
    return file if _made_by(read_judged(file)[0].card, run) else None


def _as_given(path: Path, given: Path) -> Path:
    """A path as the one that the user gave: from the root, or from the working folder."""
    return path if given.is_absolute() else Path(os.path.relpath(path))


def _made_by(card: Card, run: RunLog) -> bool:
    """The number of images is compared as it was asked for: small ones that stand for one another are more."""
    recipe, plan = card.recipe, run.plan
    told = {"method": recipe.method, "seed": recipe.seed, "network": recipe.network}
    told |= {name: recipe.plan.get(name) for name in ("images_per_class", "total_images", "formation")}
    return all(plan.get(name) == value for name, value in told.items())


def _audit(path: Path | None, shared: Shared | None) -> Audit | None:
    if path is not None:
        return _given(path, shared)
    if shared is not None and shared.package.audit is not None:
        return audit_of(shared.package.audit, "the package itself")
    return None


def _given(path: Path, shared: Shared | None) -> Audit:
    """An audit that stands beside the package, as far as a page about the package may tell it: others get the page."""
    by = "a file that was given beside the package"
    if shared is None:
        return audit_of(read_audit(path, None), by)
    card, document = shared.package.card, read_audit(path, shared.found.digests[TENSORS])
    if card.privacy is not None:
        raise InputError(
            f"the package states an epsilon, and the audit {path}, which is made of its patients without noise, would "
            "tell more: leave --audit out and keep the audit in the house"
        )
    if isinstance(card.cohort.counts, str):
        return audit_of(without_figures(document), f"{by}, without figures: the card withholds its counts")
    return audit_of(document, by)
