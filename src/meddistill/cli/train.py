"""``meddistill train``: from a package to a model."""

from pathlib import Path

from meddistill.cli import text
from meddistill.cli.common import Answer, Count, Output, Reading, Split


def train(
    package: Path,
    /,
    *,
    out: Path,
    net: str | None = None,
    test: Path | None = None,
    test_split: Split = "test",
    seeds: Count = 5,
    seed: int = 0,
    device: str = "auto",
    reading: Reading = Reading(),
    output: Output = Output(),
) -> Answer:
    """Train a classifier from a package; with --test, measure it on real images.

    Args:
        package: The package (FILE.mdz).
        out: Where to write the model of the first seed.
        net: Network, such as convnet-d3-w64 [default: the package's].
        test: Source of real images; they are measured once, after training.
        test_split: Split of that source to measure on; all: every image.
        seeds: Trainings, each with its own seed, for the mean and the 95 % interval.
        seed: First of the seeds.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from meddistill import api

    result = api.train(
        package,
        out,
        net=net,
        test=test,
        test_split=test_split,
        seeds=seeds,
        seed=seed,
        device=device,
        options=reading.options(),
        progress=output.progress(),
    )
    return Answer(result.as_dict(), text.training)
