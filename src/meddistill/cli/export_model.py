"""``meddistill export-model``: a trained model for programs without PyTorch."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from meddistill.cli.common import Answer, Output
from meddistill.cli.text import receiving


def export_model(
    model: Path,
    /,
    *,
    out: Path,
    to: Annotated[Literal["onnx"], Parameter(name="--to")] = "onnx",
    output: Output = Output(),
) -> Answer:
    """Write a model for programs without PyTorch; normalisation and softmax are inside, resizing is not.

    Args:
        model: Model that `meddistill train` wrote.
        out: File to write.
        to: Form of the file.
    """
    from meddistill import api

    return Answer(api.export_model(model, out, to=to).as_dict(), receiving.exported_model)
