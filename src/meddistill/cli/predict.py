"""``meddistill predict``: what a model says of single images."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from meddistill.cli.common import OUTPUT, Answer, Flag, Output, Volumes
from meddistill.cli.text import receiving


def predict(
    model: Path,
    files: Annotated[tuple[Path, ...], Parameter(negative=())],
    /,
    *,
    csv: Annotated[Flag, Parameter(group=OUTPUT)] = False,
    device: str = "auto",
    volumes: Volumes = Volumes(),
    output: Output = Output(),
) -> Answer:
    """Tell the probability of each class for single images.

    Args:
        model: Model that `meddistill train` wrote.
        files: Images (PNG, JPEG, TIFF, BMP, DICOM, NIfTI), or folders of them.
        csv: Print one line an image, comma-separated.
        device: auto, cpu, cuda, cuda:1, mps.
    """
    from meddistill import api

    progress = output.progress()
    result = api.predict(model, files, device=device, options=volumes.options(), progress=progress)
    return Answer(result.as_dict(), receiving.predictions_csv if csv else receiving.predictions)
