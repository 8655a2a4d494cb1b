"""``meddistill report``: read a package or a run folder, and write the page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meddistill.package.members import TENSORS
from meddistill.package.read import read_judged
from meddistill.package.trust import judge
from meddistill.package.types import Card
from meddistill.report.findings import Audit, audit_of, read_audit
from meddistill.report.of_package import Shared
from meddistill.report.page import render
from meddistill.report.runlog import FILE, RunLog, read_run
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import require_writable, write_atomic


@dataclass(frozen=True)
class Written:
    """The page that was written, and what it shows: a package, a run, an audit, each None where there was none."""

    out: Path
    bytes: int
    package: Path | None
    run: Path | None
    audit: str | None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        told = {name: value if value is None else str(value) for name, value in vars(self).items() if name != "bytes"}
        return told | {"bytes": self.bytes}


def report(subject: Path, out: Path, audit: Path | None = None) -> Written:
    """Write a report on ``subject``, a package or the folder of a run, to ``out``, one HTML file.

    A run is shown with the package that stands beside it under its name, if that was made by the run's plan; a package
    is shown alone, for its file is what others get. ``audit``: the result of an audit; without one, the package's own.

    Raises :class:`InputError` for a subject or an audit that cannot be read, :class:`VerificationError` for a broken
    package, :class:`OutputError` where the page cannot be written.
    """
    run = read_run(subject) if subject.is_dir() else None
    file = subject if run is None else _beside(subject, run)
    _require_another(out, [path for path in (file, audit, subject / FILE) if path is not None])
    require_writable(out)
    shared = None if file is None else _open(file)
    told = _audit(audit, shared)
    page = render(shared, run, told).encode()
    write_atomic(out, page)
    return Written(
        out=out,
        bytes=len(page),
        package=file,
        run=subject if run is not None else None,
        audit=None if told is None else told.by,
    )


def _open(file: Path) -> Shared:
    package, found = read_judged(file)
    return Shared(file.name, file.stat().st_size, package, judge(found))


def _beside(folder: Path, run: RunLog) -> Path | None:
    """The package that the run wrote: NAME.mdz for NAME.run, and with the run's plan on its card."""
    file = folder.resolve().with_suffix(".mdz")
    if folder.resolve().suffix != ".run" or not run.finished or not file.is_file():
        return None
    return file if _made_by(read_judged(file)[0].card, run) else None


def _made_by(card: Card, run: RunLog) -> bool:
    plan = run.plan
    told = {
        "method": card.recipe.method,
        "seed": card.recipe.seed,
        "network": card.recipe.network,
        "images_per_class": card.images.per_class,
    }
    return all(plan.get(name) == value for name, value in told.items())


def _audit(path: Path | None, shared: Shared | None) -> Audit | None:
    if path is not None:
        digest = None if shared is None else shared.found.digests[TENSORS]
        return audit_of(read_audit(path, digest), "a file that was given beside the package")
    if shared is not None and shared.package.audit is not None:
        return audit_of(shared.package.audit, "the package itself")
    return None


def _require_another(out: Path, read: list[Path]) -> None:
    for path in read:
        if out.resolve() == path.resolve():
            raise InputError(f"--out {out} is what the report is made from: name another file, such as report.html")
