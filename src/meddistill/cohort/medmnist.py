"""MedMNIST files: one ``.npz`` with ``train_images``, ``train_labels``, and the same for ``val`` and ``test``.

The classes' names are those that MedMNIST publishes (Yang et al. 2023, https://medmnist.com), chosen by file name.
"""

import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from meddistill.cohort.decode import MAX_PIXELS, grey_if_equal
from meddistill.cohort.options import ReadOptions
from meddistill.cohort.problems import Problem, problem
from meddistill.cohort.types import SPLITS, Listing, Picture, Record, SplitName
from meddistill.runtime.errors import InputError

_ORGANS = (
    "bladder",
    "femur-left",
    "femur-right",
    "heart",
    "kidney-left",
    "kidney-right",
    "liver",
    "lung-left",
    "lung-right",
    "pancreas",
    "spleen",
)
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "pathmnist": (
        "adipose",
        "background",
        "debris",
        "lymphocytes",
        "mucus",
        "smooth muscle",
        "normal colon mucosa",
        "cancer-associated stroma",
        "colorectal adenocarcinoma epithelium",
    ),
    "dermamnist": (
        "actinic keratoses and intraepithelial carcinoma",
        "basal cell carcinoma",
        "benign keratosis-like lesions",
        "dermatofibroma",
        "melanoma",
        "melanocytic nevi",
        "vascular lesions",
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "breastmnist": ("malignant", "normal, benign"),
    "bloodmnist": (
        "basophil",
        "eosinophil",
        "erythroblast",
        "immature granulocytes",
        "lymphocyte",
        "monocyte",
        "neutrophil",
        "platelet",
    ),
    "tissuemnist": (
        "collecting duct, connecting tubule",
        "distal convoluted tubule",
        "glomerular endothelial cells",
        "interstitial endothelial cells",
        "leukocytes",
        "podocytes",
        "proximal tubule segments",
        "thick ascending limb",
    ),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
}
MAX_LABEL = 65_535
_EXPECTED = "expected the arrays train_images and train_labels, val_images and val_labels, test_images and test_labels"


@dataclass(frozen=True)
class _Split:
    name: SplitName
    images: npt.NDArray[np.generic]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Header:
    """What an array in the archive says of itself, and the bytes that follow that."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    held: int


def read_medmnist(source: Path, options: ReadOptions) -> Listing:
    """List a MedMNIST file. Raises :class:`~meddistill.runtime.errors.InputError`, naming what is not supported.

    Images: ``(N, H, W)`` or ``(N, H, W, 3)``, uint8 or uint16; labels: ``(N, 1)`` or ``(N,)`` whole numbers from 0 to
    ``MAX_LABEL``.
    """
    if options.patient_pattern is not None:
        raise InputError(f"{source} holds no file names, so a patient pattern cannot be used: leave it out")
    splits = _load(source)
    numbers = sorted({int(label) for split in splits for label in np.unique(split.labels)})
    names = _class_names(source, numbers)
    records = tuple(record for split in splits for record in _records(split, names))
    classes = tuple(names[label] for label in numbers)
    return Listing(source.stem, "medmnist", records, classes, {}, _gaps(source, numbers, classes))


def _records(split: _Split, names: dict[int, str]) -> list[Record]:
    size = (int(split.images.shape[2]), int(split.images.shape[1]))
    return [
        Record(
            f"{split.name}[{row}]",
            names[int(label)],
            split.name,
            None,
            partial(_picture, split.images, row),
            lambda: size,
        )
        for row, label in enumerate(split.labels)
    ]


def _picture(images: npt.NDArray[np.generic], row: int) -> Picture:
    pixels = images[row]
    kind = "grey" if pixels.ndim == 2 else "colour"
    return Picture(grey_if_equal(pixels), f"{kind} {pixels.dtype.itemsize * 8}-bit")


def _class_names(source: Path, numbers: list[int]) -> dict[int, str]:
    known = _known(source)
    if numbers and numbers[-1] < len(known):
        return {label: known[label] for label in numbers}
    return {label: str(label) for label in numbers}


def _known(source: Path) -> tuple[str, ...]:
    # The larger versions are called bloodmnist_64.npz, and so on.
    return CLASS_NAMES.get(re.split(r"[_.\-\s]", source.name.lower())[0], ())


def _gaps(source: Path, numbers: list[int], classes: tuple[str, ...]) -> tuple[Problem, ...]:
    missing = sorted(set(range(max(len(_known(source)), numbers[-1] + 1))) - set(numbers))
    if not missing:
        return ()
    what = f"labels run from {numbers[0]} to {numbers[-1]} with gaps; no image has"
    remedy = f"The {len(classes)} labels that occur are used, in their order; check that no class was lost."
    return (problem("label-gap", "warning", what, [f"label {label}" for label in missing], remedy),)


def _load(source: Path) -> list[_Split]:
    try:
        with zipfile.ZipFile(source) as archive:
            headers = {name: _header(archive, name) for name in archive.namelist() if name.endswith(".npy")}
        _require_supported(source, headers)
        with np.load(source, allow_pickle=False) as arrays:
            found = [_split(source, name, arrays) for name in SPLITS if f"{name}_images" in arrays.files]
    except InputError:
        raise
    except Exception as error:  # a broken file makes zipfile, zlib and numpy raise errors of every kind
        reason = str(error).strip() or type(error).__name__
        raise InputError(f"{source} cannot be read as a MedMNIST .npz: {reason}. Fetch or write it again") from error
    if not any(len(split.labels) for split in found):
        raise InputError(f"{source} holds no image: {_EXPECTED}")
    return found


def _header(archive: zipfile.ZipFile, name: str) -> _Header:
    with archive.open(name) as member:
        shape, dtype = _array_header(member)
        return _Header(shape, dtype, archive.getinfo(name).file_size - member.tell())


def _array_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    version = np.lib.format.read_magic(member)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(member)
    return shape, dtype


def _require_supported(source: Path, headers: Mapping[str, _Header]) -> None:
    """Refuse by name, before any pixel is loaded, whatever is not one picture with one label."""
    names = [name for name in SPLITS if f"{name}_images.npy" in headers]
    if not names or any(f"{name}_labels.npy" not in headers for name in names):
        found = ", ".join(sorted(name.removesuffix(".npy") for name in headers)) or "no array"
        raise InputError(f"{source} is not laid out like MedMNIST: found {found}; {_EXPECTED}")
    for name in names:
        images, labels = headers[f"{name}_images.npy"], headers[f"{name}_labels.npy"]
        _require_images(source, f"{name}_images", images.shape, images.dtype)
        _require_labels(source, f"{name}_labels", labels.shape, labels.dtype)
        if images.shape[0] != labels.shape[0]:
            raise InputError(
                f"{source}: {name}_images has {images.shape[0]} images but {name}_labels {labels.shape[0]} labels"
            )
        _require_whole(source, f"{name}_images", images)
        _require_whole(source, f"{name}_labels", labels)


def _require_whole(source: Path, name: str, header: _Header) -> None:
    """Before anything is allocated: the bytes that an array claims are those that the archive has of it."""
    claimed = math.prod(header.shape) * header.dtype.itemsize
    if claimed != header.held:
        raise InputError(
            f"{source}: {name} of shape {header.shape} takes {claimed} bytes, but the file has {header.held} of it: "
            "fetch or write it again"
        )


def _require_images(source: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    where = f"{source}: {name} has shape {shape}"
    if len(shape) == 5 or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise InputError(f"{where}: 3-D volumes (such as OrganMNIST3D) are not supported; cut them into slices")
    if len(shape) not in (3, 4) or 0 in shape[1:] or shape[1] * shape[2] > MAX_PIXELS:
        raise InputError(f"{where}: expected (N, H, W) or (N, H, W, 3)")
    if dtype not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise InputError(f"{source}: {name} is {dtype}: expected uint8 or uint16; rescale the images to one of these")


def _require_labels(source: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    where = f"{source}: {name} has shape {shape}"
    if len(shape) == 2 and shape[1] > 1:
        raise InputError(
            f"{where}: multi-label sets (such as ChestMNIST) are not supported; "
            "write a file with one label an image, (N, 1), e.g. one finding against the rest"
        )
    if len(shape) not in (1, 2) or dtype.kind not in "iu":
        raise InputError(f"{where} and type {dtype}: expected (N, 1) whole numbers")


def _split(source: Path, name: SplitName, arrays: Mapping[str, npt.NDArray[np.generic]]) -> _Split:
    images = arrays[f"{name}_images"]
    grey = images.ndim == 4 and images.shape[3] == 1
    return _Split(name, images[..., 0] if grey else images, _labels(source, f"{name}_labels", arrays))


def _labels(source: Path, name: str, arrays: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    labels = arrays[name].reshape(-1)
    wrong = np.flatnonzero((labels < 0) | (labels > MAX_LABEL))
    if len(wrong):
        raise InputError(
            f"{source}: {name} has {labels[wrong[0]]} in row {wrong[0]}: expected whole numbers from 0 to {MAX_LABEL}; "
            "number the classes from 0"
        )
    return np.asarray(labels, np.int64)
