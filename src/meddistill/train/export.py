"""A package's images as other programs take them: class folders of PNG, a MedMNIST file, a Hugging Face folder.

All three hold 8-bit values: 0 is black, 255 is white, and what lies outside is cut off. Distilled images do reach
outside, so a network trains a little differently on exported images than on the package itself.
"""

import csv
import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from meddistill.package.readme import readme
from meddistill.package.text import cell
from meddistill.package.types import Package
from meddistill.runtime.files import write_atomic, write_folder

Target = Literal["folder", "npz", "huggingface"]
_UNSAFE = re.compile(r"[^\w ,()+-]")
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d|train|training|val|valid|validation|dev|test|testing)")
_LONGEST = 200  # bytes of a class's folder: systems take 255, and a number may come behind
_CLOCK = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class ExportReport:
    """Where the images went; ``clipped``: the share of values that lay outside black and white and were cut off."""

    out: Path
    to: Target
    images: int
    clipped: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"out": str(self.out), "to": self.to, "images": self.images, "clipped": self.clipped}


def export(package: Package, out: Path, to: Target) -> ExportReport:
    """Write the images of ``package`` to the new folder ``out``, or for ``npz`` to the file ``out``.

    An image's class is the one that its label finds most probable. Raises :class:`OutputError`; nothing is left
    half-written.
    """
    pixels = _pixels(package.enlarged)
    if to == "npz":
        write_atomic(out, _medmnist(package, pixels))
    else:
        write_folder(out, (_class_folders if to == "folder" else _image_folder)(package, pixels))
    clipped = float(((package.images < 0) | (package.images > 1)).mean())
    return ExportReport(out, to, len(pixels), clipped)


def folder_names(classes: Sequence[str]) -> list[str]:
    """A folder's name for each class, safe and different on every system whatever a stranger called the class."""
    names: dict[str, str] = {}  # by what they are where case is ignored
    for place, name in enumerate(classes):
        plain = _UNSAFE.sub("_", name).strip().encode()[:_LONGEST].decode(errors="ignore").strip()
        while not plain.strip("_") or plain.casefold() in names or _RESERVED.fullmatch(plain):
            plain = f"{plain}_{place}"
        names[plain.casefold()] = plain
    return list(names.values())


def _pixels(images: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """``(n, H, W)`` or ``(n, H, W, 3)``."""
    values = np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)
    return values[:, 0] if values.shape[1] == 1 else np.ascontiguousarray(values.transpose(0, 2, 3, 1))


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _texts(package: Package) -> dict[str, bytes]:
    """What the sender says goes with the images, whatever their form."""
    card = json.dumps(package.card.to_dict(), indent=2, ensure_ascii=False) + "\n"
    lines = [line for line in readme(package.card).split("\n") if "](preview.png)" not in line]
    return {"card.json": card.encode(), "README.md": "\n".join(lines).encode()}


def _class_folders(package: Package, pixels: npt.NDArray[np.uint8]) -> dict[str, bytes]:
    classes, folders = package.card.task.classes, folder_names(package.card.task.classes)
    chosen = package.labels.argmax(1)
    paths = [f"{folders[label]}/{row:05d}.png" for row, label in enumerate(chosen)]
    lines = [["path", "label", *(f"p({name})" for name in classes)]]
    for path, label, row in zip(paths, chosen, package.labels, strict=True):
        lines.append([path, cell(classes[label]), *(f"{value:.7g}" for value in row)])
    files = {path: _png(image) for path, image in zip(paths, pixels, strict=True)}
    return files | {"labels.csv": _csv(lines)} | _texts(package)


def _csv(lines: Sequence[Sequence[str]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue().encode()


def _medmnist(package: Package, pixels: npt.NDArray[np.uint8]) -> bytes:
    """All images are training images; validation and test are there and empty, as readers of the layout expect."""
    labels = package.labels.argmax(1).astype(np.uint8 if len(package.card.task.classes) < 256 else np.int64)[:, None]
    arrays: dict[str, npt.NDArray[Any]] = {"train_images": pixels, "train_labels": labels}
    for split in ("val", "test"):
        arrays |= {f"{split}_images": pixels[:0], f"{split}_labels": labels[:0]}
    arrays |= {"train_probabilities": package.labels, "classes": np.array(package.card.task.classes)}
    return _npz(arrays)


def _npz(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """As ``numpy.savez_compressed`` writes it, but without the clock: the same package gives the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _CLOCK), member.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _image_folder(package: Package, pixels: npt.NDArray[np.uint8]) -> dict[str, bytes]:
    """Hugging Face's ``imagefolder``: pictures beside a ``metadata.jsonl`` whose other keys become columns."""
    classes = package.card.task.classes
    names = [f"{row:05d}.png" for row in range(len(pixels))]
    rows = [
        {"file_name": name, "label": classes[label.argmax()], "probabilities": [float(f"{p:.7g}") for p in label]}
        for name, label in zip(names, package.labels, strict=True)
    ]
    files = {f"train/{name}": _png(image) for name, image in zip(names, pixels, strict=True)}
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    return files | {"train/metadata.jsonl": lines.encode()} | _texts(package)
