"""Images that somebody calls public: no labels and no splits are asked of them, only pixels."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from meddistill.cohort.files import KINDS, header_problems, listed
from meddistill.cohort.folders import find_images, path_problems
from meddistill.cohort.options import ReadOptions
from meddistill.cohort.problems import number
from meddistill.cohort.read import read
from meddistill.cohort.scan import Pixels, scan
from meddistill.cohort.types import Fit, Frame, Listing, NoPictureError, Record
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import is_folder
from meddistill.runtime.progress import Progress, Silent

Intensities = npt.NDArray[np.float32]

# Weights of red, green and blue in grey (ITU-R BT.601).
_GREY = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class PublicImages:
    """``images``: ``(n, C, size, size)``, 0 is black, 1 white; ``digests``: of the pixels and the file of each."""

    images: Intensities
    digests: tuple[frozenset[bytes], ...]


def public_images(
    source: Path,
    size: int,
    channels: int,
    fit: Fit = "crop",
    options: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
    progress: Progress = Silent(),
) -> PublicImages:
    """All images beneath a folder, however it is laid out, or those of a CSV or ``.npz``.

    Colour becomes grey and grey becomes colour as ``channels`` asks. ``options``: of the cohort that the images are
    for; DICOM and NIfTI files become pictures in the same way. Raises
    :class:`~meddistill.runtime.errors.InputError` if there is none, one that cannot be read, or one with text burned in
    that is not allowed. DICOM files without pixels are left aside.
    """
    options = ReadOptions(window=options.window, slice_axis=options.slice_axis, allow_burned_in=options.allow_burned_in)
    listing = _listed(source, options) if is_folder(source) else read(source, options)
    if burned := [one.message for one in listing.problems if one.code == "burned-in"]:
        raise InputError(f"{source}: {' '.join(burned)}")
    found = scan(listing, size, fit, progress)
    if found.unreadable:
        shown = "\n".join(f"- {one}" for one in found.unreadable[:10])
        raise InputError(f"{number(len(found.unreadable), 'image')} of {source} cannot be read:\n{shown}\nRemove them")
    if not found.pixels:
        raise InputError(f"{source} holds no image: expected {KINDS} files")
    images = np.stack([in_channels(_channels_first(pixels), channels) for pixels in found.pixels])
    return PublicImages(images, tuple(facts.digests for facts in found.facts))


def intensities(pixels: Pixels) -> Intensities:
    """Whole numbers as numbers from 0 to 1."""
    peak = 2 ** (8 * pixels.dtype.itemsize) - 1
    return np.asarray(pixels.astype(np.float32) / np.float32(peak), np.float32)


def in_channels(image: Intensities, channels: int) -> Intensities:
    """``(1, H, W)`` or ``(3, H, W)`` as ``(channels, H, W)``: colour becomes grey, grey is repeated."""
    if len(image) == channels:
        return image
    return np.tensordot(_GREY, image, axes=1)[None] if channels == 1 else np.repeat(image, channels, axis=0)


def _channels_first(pixels: Pixels) -> Intensities:
    values = intensities(pixels)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


def _listed(folder: Path, options: ReadOptions) -> Listing:
    found = find_images(folder)
    if problems := [one.message for one in path_problems(found) if one.level == "error"]:
        raise InputError(f"{folder}: {' '.join(problems)}")
    frames = [("/".join(parts), frame) for parts in found.images for frame in _frames(folder.joinpath(*parts), options)]
    records = tuple(Record(name + frame.place, "", None, None, frame.load, frame.peek) for name, frame in frames)
    return Listing(folder.name, "folder", records, ("",), problems=tuple(header_problems(frames, options)))


def _frames(path: Path, options: ReadOptions) -> tuple[Frame, ...]:
    with contextlib.suppress(NoPictureError):
        return listed(path, options)
    return ()
