"""The synthetic images as PNG data URIs with what their labels say, class by class, within a budget of pixels."""

import base64
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from meddistill.package.types import Package
from meddistill.report import charts

MOST_IMAGES = 400  # shown in all
MOST_CLASSES = 200
FEW = 12  # images that are shown large
PIXEL_BUDGET = 2**22  # values of all shown images together
SIDE = 96  # pixels that a shown image should fill, about
NAMED = 5  # classes that a label names; the others are counted


@dataclass(frozen=True)
class Picture:
    """One image: its number in the package (from 1), the PNG, the side it is shown at, and what its label says."""

    number: int
    source: str
    side: int
    probability: float
    label: tuple[tuple[str, float], ...]
    others: tuple[int, float]
    bar: Markup

    @property
    def spoken(self) -> str:
        """The label in words."""
        named = ", ".join(f"{name} {share:.3f}" for name, share in self.label)
        return f"{named}, {self.others[0]} others {self.others[1]:.3f}" if self.others[0] else named


@dataclass(frozen=True)
class Shelf:
    """The shown images whose labels find one class most probable, and how many there are of them."""

    name: str
    pictures: tuple[Picture, ...]
    total: int


@dataclass(frozen=True)
class Gallery:
    """All shelves; ``reduction``: so many pixels a side became one; ``hidden``: classes that are not shown."""

    shelves: tuple[Shelf, ...]
    reduction: int
    hidden: int


def gallery(package: Package) -> Gallery:
    """The images of a package by their likeliest class, as many of each as there is room for."""
    names, labels = package.card.task.classes, package.labels
    likeliest, count = labels.argmax(axis=1), min(len(names), MOST_CLASSES)
    each = max(1, MOST_IMAGES // count)
    places = [np.flatnonzero(likeliest == place) for place in range(count)]
    shown = sum(min(len(rows), each) for rows in places)
    reduction = _reduction(package.images, shown)
    shelves = [
        Shelf(names[place], tuple(_picture(package, int(row), place, reduction) for row in rows[:each]), len(rows))
        for place, rows in enumerate(places)
    ]
    return Gallery(tuple(shelves), reduction, len(names) - count)


def data_uri(png: bytes) -> str:
    """The picture as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _reduction(images: npt.NDArray[np.float32], shown: int) -> int:
    side = images.shape[-1]
    return next((r for r in range(1, side) if max(shown, 1) * images[0].size / r**2 <= PIXEL_BUDGET), side)


def _picture(package: Package, row: int, place: int, reduction: int) -> Picture:
    names, label = package.card.task.classes, package.labels[row].astype(float)
    order = [int(one) for one in np.argsort(-label, kind="stable")]
    named, rest = order[:NAMED], order[NAMED:]
    png, side = _png(package.images[row], reduction)
    return Picture(
        number=row + 1,
        source=data_uri(png),
        side=side * max(1, round(SIDE / side)),
        probability=float(label[place]),
        label=tuple((names[one], float(label[one])) for one in named),
        others=(len(rest), float(label[rest].sum())),
        bar=_bar(label[named]),
    )


def _bar(shares: npt.NDArray[np.floating]) -> Markup:
    return charts.bar([float(share) for share in shares], "the label's probabilities")


def _png(image: npt.NDArray[np.float32], reduction: int) -> tuple[bytes, int]:
    """The PNG of ``(C, S, S)`` intensities, black and white cut off at 0 and 1, and its side."""
    from PIL import Image

    pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
    picture = picture.reduce(reduction) if reduction > 1 else picture
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=9)
    return buffer.getvalue(), picture.width
