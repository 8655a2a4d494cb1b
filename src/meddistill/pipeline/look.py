"""Look at a source: what it is like, what is wrong with it, which plan fits it and what that will cost."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meddistill.cohort.fingerprint import Fingerprint
from meddistill.cohort.prepare import survey
from meddistill.cohort.problems import Problem, in_order
from meddistill.cohort.read import ReadOptions, places
from meddistill.cohort.types import Fit
from meddistill.pipeline.estimate import Estimate, Shape, estimate, fit_to_time, measure_costs, too_long
from meddistill.pipeline.plan import Plan, override
from meddistill.pipeline.plan_file import to_toml
from meddistill.pipeline.sides import mirrored_sides
from meddistill.runtime.device import choose
from meddistill.runtime.files import require_another, write_atomic
from meddistill.runtime.progress import Progress, Silent


@dataclass(frozen=True)
class Inspection:
    """What was seen, and the plan that follows from it."""

    fingerprint: Fingerprint
    problems: tuple[Problem, ...]
    plan: Plan
    plan_file: Path | None
    estimate: Estimate

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "fingerprint": self.fingerprint.as_dict(),
            "problems": [found.as_dict() for found in self.problems],
            "plan": self.plan.as_dict(),
            "plan_file": None if self.plan_file is None else str(self.plan_file),
            "estimate": self.estimate.as_dict(),
        }


def inspect(
    source: Path,
    *,
    options: ReadOptions = ReadOptions(),
    images_per_class: int | None = None,
    method: str | None = None,
    size: int | None = None,
    fit: Fit | None = None,
    flip: bool | None = None,
    fixed_normalisation: bool | None = None,
    time_s: float | None = None,
    seed: int | None = None,
    device: str = "auto",
    plan_out: Path | None = None,
    progress: Progress = Silent(),
) -> Inspection:
    """Survey ``source``, propose a plan, estimate it from a few real steps, and write it to ``plan_out`` if given."""
    if plan_out is not None:
        require_another(plan_out, places(source, options), "--plan-out")
    where = choose(device)
    plan = override(
        Plan(),
        images_per_class=images_per_class,
        method=method,
        fit=fit,
        flip=flip,
        fixed_normalisation=fixed_normalisation,
        seed=seed,
    )
    seen = survey(source, options=options, images_per_class=plan.images_per_class, seed=plan.seed, progress=progress)
    plan = override(plan, size=size or seen.fingerprint.proposed_size)
    shape = _shape(seen.fingerprint)
    with progress.stage("measuring"):
        if time_s is None:
            costs = measure_costs(plan, shape, where)
        else:
            plan, costs = fit_to_time(plan, time_s, shape, where)
    expected = estimate(plan, costs, shape)
    if time_s is not None and (late := too_long(expected, time_s)):
        progress.warn(late)
    if plan_out is not None:
        write_atomic(plan_out, to_toml(plan).encode())
    found = in_order((*seen.problems, *mirrored_sides(plan, seen.fingerprint.classes)))
    return Inspection(seen.fingerprint, found, plan, plan_out, expected)


def _shape(seen: Fingerprint) -> Shape:
    images = {split: sum(counts.values()) for split, counts in seen.counts.items()}
    return Shape(seen.channels, len(seen.classes), images["train"], images["val"] + images["test"])
