"""One public function for every verb of the command line. Heavy imports wait until a function is called.

Every function returns a frozen dataclass whose ``as_dict()`` is the JSON document that the verb prints with ``--json``,
and raises a :class:`~meddistill.runtime.errors.MeddistillError` for whatever the caller can mend.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meddistill.bench.demo import Demonstration
    from meddistill.cohort.read import ReadOptions
    from meddistill.cohort.types import Fit, Leak
    from meddistill.package.read import Verification
    from meddistill.pipeline.look import Inspection
    from meddistill.pipeline.receive import EvaluateReport, Scored, TrainReport
    from meddistill.pipeline.run import Report
    from meddistill.runtime.progress import Progress

__all__ = ["demo", "distill", "evaluate", "inspect", "methods", "show", "train", "verify"]


@dataclass(frozen=True)
class Document:
    """An answer that is nothing but its JSON document."""

    content: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The document."""
        return self.content


def inspect(
    source: Path,
    *,
    images_per_class: int | None = None,
    method: str | None = None,
    size: int | None = None,
    fit: Fit | None = None,
    time_s: float | None = None,
    seed: int | None = None,
    device: str = "auto",
    plan_out: Path | None = None,
    options: ReadOptions | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Survey a source, list its problems, propose a plan and estimate it; write the plan to ``plan_out`` if given.

    ``fit``: how images that are not square become so: ``crop``, ``pad`` or ``stretch``. Choices that are None are the
    defaults.
    """
    from meddistill.pipeline.look import inspect as look

    return look(
        Path(source),
        images_per_class=images_per_class,
        method=method,
        size=size,
        fit=fit,
        time_s=time_s,
        seed=seed,
        device=device,
        plan_out=plan_out,
        options=_options(options),
        progress=_progress(progress),
    )


def distill(
    source: Path,
    out: Path,
    *,
    images_per_class: int | None = None,
    method: str | None = None,
    size: int | None = None,
    fit: Fit | None = None,
    time_s: float | None = None,
    plan: Path | None = None,
    seed: int | None = None,
    device: str = "auto",
    run: Path | None = None,
    teachers: Path | None = None,
    start: str | None = None,
    leak: Leak = "stop",
    skip_unreadable: bool = False,
    full_data: bool | None = None,
    options: ReadOptions | None = None,
    progress: Progress | None = None,
) -> Report:
    """Distil a source into the package ``out``; the same call continues an interrupted run.

    ``time_s``: seconds that the whole run should take. ``run``: the run folder, by default beside ``out``.
    ``teachers``: a folder of trajectories to use or to fill, shared by several runs on one cohort. ``fit``:
    how images that are not square become so. ``full_data``: measure networks trained on all training images, too.
    Choices that are None come from the plan file, or are the defaults.
    """
    from meddistill.pipeline.run import Request
    from meddistill.pipeline.run import run as run_request

    request = Request(
        source=Path(source),
        out=Path(out),
        plan=plan,
        method=method,
        images_per_class=images_per_class,
        size=size,
        fit=fit,
        start=start,
        seed=seed,
        seconds=time_s,
        device=device,
        run=run,
        teachers=teachers,
        leak=leak,
        skip_unreadable=skip_unreadable,
        full_row=full_data,
        options=_options(options),
    )
    return run_request(request, _progress(progress))


def train(
    package: Path,
    out: Path,
    *,
    net: str | None = None,
    test: Path | None = None,
    test_split: Scored = "test",
    seeds: int = 5,
    seed: int = 0,
    device: str = "auto",
    options: ReadOptions | None = None,
    progress: Progress | None = None,
) -> TrainReport:
    """Train ``seeds`` networks on a package, write the first to ``out``, and score all on real images if given."""
    from meddistill.pipeline.receive import train as train_package

    return train_package(
        Path(package),
        Path(out),
        net=net,
        test=None if test is None else Path(test),
        test_split=test_split,
        seeds=seeds,
        seed=seed,
        device=device,
        options=_options(options),
        progress=_progress(progress),
    )


def evaluate(
    model: Path,
    source: Path,
    *,
    split: Scored = "test",
    device: str = "auto",
    options: ReadOptions | None = None,
    progress: Progress | None = None,
) -> EvaluateReport:
    """Score a model on a split of a source."""
    from meddistill.pipeline.receive import evaluate as evaluate_model

    return evaluate_model(
        Path(model),
        Path(source),
        split=split,
        device=device,
        options=_options(options),
        progress=_progress(progress),
    )


def show(package: Path) -> Document:
    """What a package says of itself."""
    from meddistill.package.read import read
    from meddistill.package.show import summary

    return Document(summary(read(Path(package)), Path(package).stat().st_size))


def verify(package: Path) -> Verification:
    """Whether a package is sound; a broken one is an answer, not an error."""
    from meddistill.package.read import verify as verify_package

    return verify_package(Path(package))


def methods() -> Document:
    """The methods, with a line on each and where it comes from."""
    from meddistill.distill.methods import METHODS

    listed = [{"name": m.name, "summary": m.summary, "source": m.source} for m in METHODS.values()]
    return Document({"methods": listed})


def demo(
    out: Path,
    *,
    images_per_class: tuple[int, ...] = (1, 10),
    seed: int = 0,
    seeds: int = 5,
    progress: Progress | None = None,
) -> Demonstration:
    """Distil the embedded PneumoniaMNIST and compare with random and with all real images."""
    from meddistill.bench.demo import demo as run_demo

    return run_demo(Path(out), images_per_class=images_per_class, seed=seed, seeds=seeds, progress=_progress(progress))


def _options(options: ReadOptions | None) -> ReadOptions:
    from meddistill.cohort.read import ReadOptions

    return options or ReadOptions()


def _progress(progress: Progress | None) -> Progress:
    from meddistill.runtime.progress import Silent

    return progress or Silent()
