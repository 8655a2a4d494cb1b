"""``meddistill inspect``: look at a source, list its problems, propose a plan and say what it will cost."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from meddistill.cli.common import Answer, Budget, Count, Fit, Flag, Output, Reading
from meddistill.cli.text import making

DEFAULT_PLAN = Path("plan.toml")


def inspect(
    source: Path,
    /,
    *,
    images_per_class: Count | None = None,
    method: str | None = None,
    size: Count | None = None,
    fit: Fit | None = None,
    no_flip: Flag = False,
    fixed_normalisation: Flag = False,
    time: Budget = None,
    seed: int | None = None,
    device: str = "auto",
    plan_out: Annotated[Path | None, Parameter(show_default=False)] = None,
    reading: Reading = Reading(),
    output: Output = Output(),
) -> Answer:
    """Look at a source: counts, sizes, problems; write an editable plan with an estimate of time and memory.

    Args:
        source: Folder of class folders, folder of split and class folders, CSV file, or MedMNIST .npz.
        images_per_class: Synthetic images a class to plan for [default: 10].
        method: Method to plan for (see: meddistill methods) [default: meddistill].
        size: Side of the synthetic images in pixels [default: proposed from the images].
        fit: How images that are not square become so [default: crop].
        no_flip: Mirror no images: for classes that only the side tells apart (left, right).
        fixed_normalisation: Normalise by fixed numbers; else the package tells the training images' mean and deviation.
        time: Budget that the plan must fit, such as 90s, 5m or 1h30m.
        seed: Seed of all random draws [default: 0].
        device: auto, cpu, cuda, cuda:1, mps.
        plan_out: Where to write the plan [default: plan.toml, unless there is one already].
    """
    from meddistill import api

    progress = output.progress()
    if plan_out is None and DEFAULT_PLAN.exists():
        progress.note("plan.toml exists and is kept as it is: --plan-out plan.toml replaces it")
    elif plan_out is None:
        plan_out = DEFAULT_PLAN
    result = api.inspect(
        source,
        options=reading.options(),
        images_per_class=images_per_class,
        method=method,
        size=size,
        fit=fit,
        flip=False if no_flip else None,
        fixed_normalisation=fixed_normalisation or None,
        time_s=time,
        seed=seed,
        device=device,
        plan_out=plan_out,
        progress=progress,
    )
    return Answer(result.as_dict(), making.inspection)
