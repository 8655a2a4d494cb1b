"""List a source: class folders, split-and-class folders, a CSV, or a MedMNIST file. No pixel is decoded here.

Headers of DICOM and NIfTI files are read: they tell how many pictures there are, and of which patient.
"""

from pathlib import Path

from meddistill.cohort.files import is_picture
from meddistill.cohort.folders import read_folder
from meddistill.cohort.medmnist import read_medmnist
from meddistill.cohort.options import ReadOptions
from meddistill.cohort.table import read_table
from meddistill.cohort.types import Listing
from meddistill.runtime.errors import InputError

__all__ = ["EXPECTED", "Listing", "ReadOptions", "read"]

_TABLES = (".csv", ".tsv")
EXPECTED = "a folder of class folders (or of train, val and test folders with class folders in them), a .csv or a .npz"


def read(source: Path, options: ReadOptions = ReadOptions()) -> Listing:  # noqa: B008 (frozen)
    """List every labelled image that ``source`` names.

    Classes are sorted by name, those of a MedMNIST file by number. Problems that listing alone can tell are in
    the listing's ``problems``. Raises :class:`~meddistill.runtime.errors.InputError` if nothing can be listed.
    """
    source = Path(source)
    try:
        if source.is_dir():
            return read_folder(source, options)
        if not source.exists():
            raise InputError(f"there is no file or folder {source}: expected {EXPECTED}")
    except OSError as error:
        raise InputError(f"cannot read {source}: {error.strerror or error}") from error
    return _read_file(source, options)


def _read_file(source: Path, options: ReadOptions) -> Listing:
    suffix = source.suffix.lower()
    if suffix in _TABLES:
        return read_table(source, options)
    if suffix == ".npz":
        return read_medmnist(source, options)
    if is_picture(source):
        raise InputError(
            f"{source} is one image file, and its class is not known: put it into a class folder or name it in a CSV; "
            f"expected {EXPECTED}"
        )
    raise InputError(f"{source} is a file of an unknown kind ({suffix or 'no suffix'}): expected {EXPECTED}")


def places(source: Path | None, options: ReadOptions) -> tuple[Path | None, ...]:
    """Where reading ``source`` looks: there, and where its images are, which may be the folder that a table lies in."""
    if source is None:
        return ()
    return source, source.parent if options.images is None and source.suffix.lower() in _TABLES else options.images
