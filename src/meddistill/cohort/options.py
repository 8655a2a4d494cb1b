"""How a source is to be read; light enough for a command line to import at start-up."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ReadOptions:
    """Columns of a CSV, and where patient ids come from.

    ``patient_column`` and ``split_column``: ``None`` uses the column ``patient`` or ``split`` if there is one.
    ``images``: the folder that the paths of a CSV are relative to; ``None`` is the CSV's own folder.
    ``patient_pattern``: regular expression searched in each file name (without its folder); the patient id is its
    first group, or the whole match if it has no group.
    """

    path_column: str = "path"
    label_column: str = "label"
    patient_column: str | None = None
    split_column: str | None = None
    images: Path | None = None
    patient_pattern: str | None = None
