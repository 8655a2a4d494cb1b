"""``meddistill evaluate``: measure a model on real images."""

from pathlib import Path

from meddistill.cli.common import Answer, Output, Reading, Split
from meddistill.cli.text import receiving


def evaluate(
    model: Path,
    source: Path,
    /,
    *,
    split: Split = "test",
    device: str = "auto",
    reading: Reading = Reading(),
    output: Output = Output(),
) -> Answer:
    """Measure a model on real images.

    Args:
        model: Model that `meddistill train` wrote.
        source: Folder of class folders, folder of split and class folders, CSV file, or MedMNIST .npz.
        split: Split to measure on; all: every image of the source.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from meddistill import api

    progress = output.progress()
    result = api.evaluate(model, source, split=split, device=device, options=reading.options(), progress=progress)
    return Answer(result.as_dict(), receiving.evaluation)
