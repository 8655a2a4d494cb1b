"""``meddistill train``: from packages to a model."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from meddistill.cli.common import Answer, Count, Output, Reading, Split
from meddistill.cli.text import receiving


def train(
    packages: Annotated[tuple[Path, ...], Parameter(negative=())],
    /,
    *,
    out: Path,
    net: str | None = None,
    recipe: Literal["protocol", "tutored", "own"] = "protocol",
    classes: Path | None = None,
    test: Path | None = None,
    test_split: Split = "test",
    seeds: Count = 5,
    seed: int = 0,
    device: str = "auto",
    reading: Reading = Reading(),
    output: Output = Output(),
) -> Answer:
    """Train a classifier from one or several packages; with --test, measure it on real images.

    Classes of several packages are matched by name. With --test the answer tells what each package contributed.

    Args:
        packages: The packages (FILE.mdz …).
        out: Where to write the model of the first seed.
        net: Network, such as convnet-d3-w64, resnet18, vgg11, alexnet, vit [default: the first package's].
        recipe: protocol: the same for every package; tutored: by way of a network of the kind that the package was made
            with, better for other kinds; own: the one network that the package was distilled to make.
        classes: CSV that renames classes: columns class, becomes and, if wanted, package.
        test: Source of real images; they are measured once, after training.
        test_split: Split of that source to measure on; all: every image.
        seeds: Trainings, each with its own seed, for the mean and the 95 % interval.
        seed: First of the seeds.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from meddistill import api

    result = api.train(
        packages,
        out,
        net=net,
        recipe=recipe,
        classes=classes,
        test=test,
        test_split=test_split,
        seeds=seeds,
        seed=seed,
        device=device,
        options=reading.options(),
        progress=output.progress(),
    )
    return Answer(result.as_dict(), receiving.training)
