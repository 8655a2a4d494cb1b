"""The synthetic images of one moment of a run, from arrays whose every size, type and range is checked first."""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from meddistill.report.pictures import data_uri

_MOST_BYTES, _MOST_IMAGES, _MOST_CLASSES, _MOST_SIDE = 2**23, 400, 10_000, 1024


@dataclass(frozen=True)
class Picture:
    """One image: its number in the set (from 1), the PNG as an address, and the probability of its likeliest class."""

    number: int
    source: str
    probability: float
    spoken: str


@dataclass(frozen=True)
class Shelf:
    """The images whose labels find one class most probable."""

    name: str
    pictures: tuple[Picture, ...]

    @property
    def total(self) -> int:
        """How many there are: all of a snapshot are shown."""
        return len(self.pictures)


def shelves(folder: Path, iteration: int) -> tuple[Shelf, ...]:
    """The images that the run in ``folder`` has left of an iteration, class by class; none if they cannot be read."""
    try:
        images, labels, rows = _arrays(folder / "snapshots" / f"{iteration:08}.safetensors")
    except (OSError, KeyError, ValueError, safetensors.SafetensorError):
        return ()
    names, likeliest = _classes(folder, labels.shape[1]), labels.argmax(1)
    return tuple(
        Shelf(names[place], tuple(_picture(images[i], labels[i], int(rows[i]), names) for i in chosen))
        for place in range(labels.shape[1])
        if len(chosen := np.flatnonzero(likeliest == place))
    )


def _arrays(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Images ``(n, C, S, S)``, labels ``(n, K)`` and rows ``(n,)``. Raises ValueError for any others."""
    with open(path, "rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError("too many bytes for a picture of a run")
    found = safetensors.numpy.load(data)
    images, labels, rows = found["images"], found["labels"], found["rows"]
    sound = (
        [array.dtype.str for array in (images, labels, rows)] == ["|u1", "<f4", "<i4"]
        and (images.ndim, labels.ndim, rows.ndim) == (4, 2, 1)
        and 1 <= len(images) == len(labels) == len(rows) <= _MOST_IMAGES
        and images.shape[1] in (1, 3)
        and 1 <= images.shape[2] == images.shape[3] <= _MOST_SIDE
        and 1 <= labels.shape[1] <= _MOST_CLASSES
        and bool(np.isfinite(labels).all())
        and bool((rows >= 0).all())
    )
    if not sound:
        raise ValueError("not the arrays of a picture of a run")
    return images, labels, rows


def _classes(folder: Path, count: int) -> list[str]:
    """The class names that the run has left, or numbers where they do not fit."""
    try:
        with open(folder / "snapshots" / "classes.json", "rb") as file:
            names = json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        names = None
    if isinstance(names, list) and len(names) == count and all(isinstance(name, str) for name in names):
        return [name[:200] for name in names]
    return [f"class {place}" for place in range(count)]


def _picture(image: npt.NDArray[np.uint8], label: npt.NDArray[np.float32], row: int, names: list[str]) -> Picture:
    order = [int(place) for place in np.argsort(-label, kind="stable")[:3]]
    said = ", ".join(f"{names[place]} {label[place]:.2f}" for place in order)
    return Picture(row + 1, _png(image), float(label.max()), said)


def _png(image: npt.NDArray[np.uint8]) -> str:
    from PIL import Image

    pixels = image.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)).save(buffer, "PNG")
    return data_uri(buffer.getvalue())
