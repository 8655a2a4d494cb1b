"""The picture: a PNG that our own check lets through, of sensible size, with the pixels where they belong."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from meddistill.package import preview
from meddistill.package.picture import png_problem
from meddistill.package.preview import grid
from meddistill.package.types import Package

Make = Callable[..., Package]


@pytest.mark.parametrize("size", [1, 28, 224])
@pytest.mark.parametrize(("classes", "per_class"), [(1, 1), (2, 1), (2, 10), (8, 10), (3, 25)])
@pytest.mark.parametrize("channels", [1, 3])
def test_valid_and_sensible(make: Make, size: int, classes: int, per_class: int, channels: int) -> None:
    package = make(classes, per_class, size, channels)
    data = grid(package.images, package.labels, package.card.task.classes)
    assert png_problem(memoryview(data)) is None
    picture = Image.open(io.BytesIO(data))
    picture.load()
    assert picture.mode == ("L" if channels == 1 else "RGB")
    assert 200 <= picture.width <= 2500
    assert 100 <= picture.height <= 2500
    assert data == grid(package.images, package.labels, package.card.task.classes)


def test_pixels_are_enlarged_by_a_whole_factor() -> None:
    checks = (np.indices((4, 4)).sum(0) % 2).astype(np.float32)
    images = np.stack([checks, 1 - checks])[:, None]
    picture = np.asarray(Image.open(io.BytesIO(grid(images, np.eye(2, dtype=np.float32), ("a", "b")))))
    side, black = preview.SINGLE_SIDE // 4, picture == 0
    row, column = np.argwhere(black)[0]
    assert black[row : row + side, column : column + side].all()
    assert not black[row : row + side, column + side].any()
    assert black[row + side : row + 2 * side, column + side : column + 2 * side].all()


def test_many_classes_long_names_and_none_of_a_class() -> None:
    labels = np.eye(40, dtype=np.float32)[np.repeat(np.arange(1, 40), 2)]
    images = np.full((78, 1, 16, 16), 3.0, np.float32)
    names = [f"class {i} " + "veryLongWordWithoutSpaces" * 3 for i in range(40)]
    picture = Image.open(io.BytesIO(grid(images, labels, names)))
    assert picture.width < 1000
    assert picture.height < 4000


def test_a_large_package_has_a_small_picture(make: Make) -> None:
    package = make(8, 10, 224, 3)
    assert len(grid(package.images, package.labels, package.card.task.classes)) < 400_000
