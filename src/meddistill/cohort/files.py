"""The pictures in a file: one in an image file, the frames of a DICOM file, the slices of a NIfTI volume."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

from meddistill.cohort import decode
from meddistill.cohort.dicom import dicom_frames, is_dicom
from meddistill.cohort.nifti import is_nifti, nifti_slices
from meddistill.cohort.options import ReadOptions
from meddistill.cohort.problems import Problem, number, problem
from meddistill.cohort.types import Frame, NoPictureError

__all__ = ["KINDS", "SUFFIXES", "header_problems", "is_picture", "listed", "pictures"]

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
NIFTI_SUFFIXES = frozenset({".nii", ".nii.gz"})
SUFFIXES = decode.SUFFIXES | DICOM_SUFFIXES | NIFTI_SUFFIXES
KINDS = "PNG, JPEG, TIFF, BMP, DICOM or NIfTI"


def is_picture(path: Path) -> bool:
    """Whether the file is of a kind that is read: by its suffix, or, as DICOM often has none, by its content."""
    return path.suffix.lower() in SUFFIXES or is_nifti(path) or is_dicom(path)


def pictures(path: Path, options: ReadOptions) -> tuple[Frame, ...]:
    """The pictures in the file, in order, none of them decoded yet.

    Raises ``OSError`` or ``ValueError`` with the reason (:class:`NoPictureError` for a DICOM file that holds something
    else), and :class:`~meddistill.runtime.errors.InputError` if the library for the file's kind is not installed.
    """
    if path.suffix.lower() in decode.SUFFIXES:
        return (Frame("", partial(decode.load_file, path), partial(decode.peek_file, path)),)
    if is_nifti(path):
        return nifti_slices(path, options)
    if is_dicom(path) or path.suffix.lower() in DICOM_SUFFIXES:
        return dicom_frames(path, options)
    return (Frame("", partial(decode.load_file, path), partial(decode.peek_file, path)),)


def listed(path: Path, options: ReadOptions) -> tuple[Frame, ...]:
    """The same for a listing: a file whose header cannot be read is one picture that will not load, with the reason.

    Raises :class:`NoPictureError`.
    """
    try:
        return pictures(path, options)
    except NoPictureError:
        raise
    except (OSError, ValueError) as error:
        return (Frame("", partial(_fail, error), partial(_fail, error)),)


def header_problems(found: list[tuple[str, Frame]], options: ReadOptions) -> list[Problem]:
    """What headers alone tell of listed pictures: ``found`` are pairs of a file's name and a picture in it."""
    problems = []
    burned = _names(found, lambda frame: frame.burned_in)
    if burned and not options.allow_burned_in:
        what = f"{number(len(burned), 'file')} with text burned into the picture (BurnedInAnnotation is YES)"
        remedy = "It may name the patient: blacken or remove them, or take them as they are with --allow-burned-in."
        problems.append(problem("burned-in", "error", what, burned, remedy))
    plain = _names(found, lambda frame: frame.no_window)
    if plain and options.window is None:
        what = f"{number(len(plain), 'DICOM file')} without a window, shown over all values that could be stored"
        remedy = "Give one with --window CENTRE WIDTH if the pictures have little contrast."
        problems.append(problem("no-window", "warning", what, plain, remedy))
    return problems


def _names(found: list[tuple[str, Frame]], condition: Callable[[Frame], bool]) -> list[str]:
    return list(dict.fromkeys(name for name, frame in found if condition(frame)))


def _fail(error: Exception) -> NoReturn:
    raise error
