"""``meddistill demo``: the main job on the embedded chest X-rays."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from meddistill.cli.common import Answer, Count, Output
from meddistill.cli.text import making


def demo(
    *,
    out: Path = Path("meddistill-demo"),
    images_per_class: Annotated[tuple[Count, ...], Parameter(consume_multiple=True, negative=())] = (1, 10),
    seeds: Count = 5,
    seed: int = 0,
    output: Output = Output(),
) -> Answer:
    """Distil the embedded chest X-rays (PneumoniaMNIST) and compare with random and with all real images.

    The state is saved as it goes: after Ctrl-C the same command continues.

    Args:
        out: Folder for the packages, previews and runs.
        images_per_class: Sizes of the synthetic sets, in images a class.
        seeds: Trainings for every row, for the mean and the 95 % interval.
        seed: Seed of all random draws.
    """
    from meddistill import api

    result = api.demo(out, images_per_class=images_per_class, seed=seed, seeds=seeds, progress=output.progress())
    return Answer(result.as_dict(), making.demonstration)
