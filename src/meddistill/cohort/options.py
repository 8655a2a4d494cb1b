"""How a source is to be read; light enough for a command line to import at start-up."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class ReadOptions:
    """Columns of a CSV, where patient ids come from, and how DICOM and NIfTI files become pictures.

    ``patient_column`` and ``split_column``: ``None`` uses the column ``patient`` or ``split`` if there is one.
    ``images``: the folder that the paths of a CSV are relative to; ``None`` is the CSV's own folder.
    ``patient_pattern``: regular expression searched in each file name (without its folder); the patient id is its
    first group, or the whole match if it has no group.
    ``window``: centre and width of the grey values of DICOM and NIfTI files that go from black to white, instead of
    the file's own. ``slice_axis``: how NIfTI volumes are cut. ``allow_burned_in``: take DICOM images that say that
    text is burned into them. ``skip_unreadable``: leave out images that cannot be read instead of stopping.
    """

    path_column: str = "path"
    label_column: str = "label"
    patient_column: str | None = None
    split_column: str | None = None
    images: Path | None = None
    patient_pattern: str | None = None
    window: tuple[float, float] | None = None
    slice_axis: Literal["axial", "coronal", "sagittal"] = "axial"
    allow_burned_in: bool = False
    skip_unreadable: bool = False
