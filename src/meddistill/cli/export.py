"""``meddistill export``: a package's images for other programs."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from meddistill.cli.common import Answer, Output
from meddistill.cli.text import receiving


def export(
    package: Path,
    /,
    *,
    to: Annotated[Literal["folder", "npz", "huggingface"], Parameter(name="--to")],
    out: Path,
    output: Output = Output(),
) -> Answer:
    """Write a package's images for other programs.

    Values become 8-bit from 0 (black) to 255 (white); what lies outside is cut off, and the answer tells how much.

    Args:
        package: The package (FILE.mdz).
        to: folder: class folders of PNG and a CSV; npz: MedMNIST's layout; huggingface: for load_dataset.
        out: New folder to write; for npz, the file.
    """
    from meddistill import api

    return Answer(api.export(package, out, to=to).as_dict(), receiving.exported)
