"""NIfTI volumes as slices, through nibabel (the extra ``nifti``).

A volume is turned to the nearest of the standard orientations (right, anterior, superior), and cut along one axis.
Axial slices have anterior at the top, coronal and sagittal ones superior; at the left is the patient's left, in
sagittal slices posterior. Voxels that are not cubes stay as they are: a coronal slice of thick slices looks flat.

All slices of a volume share one scale: the window asked for, else from its 0.5th to its 99.5th percentile (from its
lowest to its highest value where these are equal); 8-bit volumes without a scale of their own are taken as they are.
The slices of a volume are one patient's, unless told otherwise.
"""

import warnings
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from meddistill.cohort.decode import MAX_BYTES
from meddistill.cohort.options import ReadOptions
from meddistill.cohort.types import Frame, Picture
from meddistill.runtime.errors import InputError

MAX_VOXELS = 1 << 27
AXES = ("sagittal", "coronal", "axial")
_PERCENTILES = (0.5, 99.5)
_ENDINGS = (".nii", ".nii.gz")
_VOLUMES = 8  # held at a time: as many as threads read images
_lock = Lock()


def is_nifti(path: Path) -> bool:
    """Whether the name ends as those of NIfTI files do."""
    return path.name.lower().endswith(_ENDINGS)


def nifti_slices(path: Path, options: ReadOptions) -> tuple[Frame, ...]:
    """The slices of the volume. Raises ``OSError``, ``ValueError``, or :class:`InputError` without nibabel."""
    axis = AXES.index(options.slice_axis)
    image, turn = _opened(path)
    shape = [side for _, side in sorted(zip(turn[:, 0], image.shape[:3], strict=True))]
    width, height = (side for place, side in enumerate(shape) if place != axis)
    return tuple(
        Frame(
            f" ({options.slice_axis} slice {index + 1})",
            partial(_load, path, axis, index, options.window),
            partial(_size, width, height),
            patient=str(path),
            stands_in=True,
        )
        for index in range(shape[axis])
    )


def _size(width: int, height: int) -> tuple[int, int]:
    return width, height


def _load(path: Path, axis: int, index: int, window: tuple[float, float] | None) -> Picture:
    volume: npt.NDArray[Any]
    with _lock:  # threads that want slices of one volume wait for the first to read it
        volume = _volume(path, path.stat().st_mtime_ns, window)
    pixels = np.ascontiguousarray(volume.take(index, axis).T[::-1])
    return Picture(pixels, f"grey {pixels.dtype.itemsize * 8}-bit")


@lru_cache(maxsize=_VOLUMES)
def _volume(path: Path, _changed: int, window: tuple[float, float] | None) -> npt.NDArray[Any]:
    """The whole volume ``(right, anterior, superior)``, uint8 as stored or uint16 from black to white."""
    from nibabel.orientations import apply_orientation

    image, turn = _opened(path)
    try:
        raw = np.asanyarray(image.dataobj).reshape(image.shape[:3])
    except Exception as error:  # a file cut short, a broken gzip stream
        raise ValueError(f"broken or cut short: {str(error)[:200] or type(error).__name__}") from error
    raw = np.asarray(apply_orientation(raw, turn))
    if raw.dtype == np.uint8 and window is None:
        return raw
    values = raw.astype(np.float32)
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("no voxel has a finite value")
    low, high = _spread(finite) if window is None else _bounds(window)
    unit = np.clip((np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / max(high - low, 1e-12), 0, 1)
    return np.asarray(np.rint(unit * 65535), np.uint16)


def _spread(finite: npt.NDArray[np.float32]) -> tuple[float, float]:
    low, high = map(float, np.percentile(finite, _PERCENTILES))
    # Equal where what is to be seen fills less than a percent, as a lesion on an empty ground does.
    return (low, high) if low < high else (float(finite.min()), float(finite.max()))


def _bounds(window: tuple[float, float]) -> tuple[float, float]:
    centre, width = window
    return centre - width / 2, centre + width / 2


def _opened(path: Path) -> tuple[Any, npt.NDArray[np.float64]]:
    """The image, its voxels not yet read, and which standard axis each of its axes is, and whether turned round."""
    try:
        import nibabel
    except ImportError:
        raise InputError(f"{path} is NIfTI: reading it needs nibabel: pip install 'meddistill[nifti]'") from None
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"the file is larger than {MAX_BYTES >> 20} MiB")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = nibabel.load(path)
    except OSError:
        raise
    except Exception as error:  # whatever a broken file makes nibabel raise
        raise ValueError(f"not a NIfTI volume: {str(error)[:200] or type(error).__name__}") from error
    if not isinstance(image, nibabel.Nifti1Image):
        raise ValueError("not a NIfTI volume, whatever its name says")
    if len(image.shape) < 3 or any(side != 1 for side in image.shape[3:]) or 0 in image.shape:
        raise ValueError(f"the shape is {image.shape}: one volume of three dimensions is read; split series first")
    if np.prod(image.shape, dtype=np.float64) > MAX_VOXELS:
        raise ValueError(f"{image.shape} voxels are more than the {MAX_VOXELS} that are read")
    if image.get_data_dtype().kind not in "iuf":
        raise ValueError(f"voxels of type {image.get_data_dtype()}: whole or floating-point numbers are read")
    turn = nibabel.io_orientation(image.affine)
    if not np.isfinite(turn).all():
        raise ValueError("its affine matrix does not say how it is oriented")
    return image, turn
