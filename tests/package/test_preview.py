"""The two pictures: PNGs that our own check lets through, of sensible size, with the pixels where they belong."""

import io
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from meddistill.package import preview
from meddistill.package.picture import png_problem
from meddistill.package.preview import grid
from meddistill.package.thumbnail import MOST_VALUES, thumbnail
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


def test_names_that_the_font_cannot_write_are_told_apart() -> None:
    images, labels = np.zeros((2, 1, 8, 8), np.float32), np.eye(2, dtype=np.float32)
    assert grid(images, labels, ("骨折", "正常")) == grid(images, labels, ("class 1", "class 2"))
    assert grid(images, labels, ("Größe", "naïve")) == grid(images, labels, ("Grosse", "naive"))


def test_a_large_package_has_a_small_picture(make: Make) -> None:
    package = make(8, 10, 224, 3)
    assert len(grid(package.images, package.labels, package.card.task.classes)) < 400_000


@pytest.mark.parametrize("size", [1, 3, 28, 300])
@pytest.mark.parametrize(("classes", "per_class"), [(1, 1), (2, 1), (8, 1), (2, 10), (3, 25)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_thumbnail_is_valid_and_never_the_bulk(
    make: Make, size: int, classes: int, per_class: int, channels: int
) -> None:
    package = make(classes, per_class, size, channels)
    data = thumbnail(package.images, package.labels)
    assert png_problem(memoryview(data)) is None
    picture = Image.open(io.BytesIO(data))
    picture.load()
    assert picture.mode == ("L" if channels == 1 else "RGB")
    assert len(zlib.compress(data, 9)) < max(1_500, 0.35 * package.images.size), "as the package stores it"
    assert picture.width * picture.height < 8 * MOST_VALUES
    assert data == thumbnail(package.images, package.labels)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_thumbnail_shows_the_images_by_class(channels: int) -> None:
    shades = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    images = np.stack([shades, 1 - shades, shades.T, 1 - shades.T])[:, None].repeat(channels, axis=1)
    labels = np.eye(2, dtype=np.float32)[[1, 0, 0, 1]]
    levels = _levels(thumbnail(images, labels))
    np.testing.assert_allclose(levels[:4, :4], images[1, 0], atol=1e-6)
    np.testing.assert_allclose(levels[:4, 5:9], images[2, 0], atol=1e-6)
    np.testing.assert_allclose(levels[5:9, :4], images[0, 0], atol=1e-6)
    assert (levels[4] == 1).all()
    side_by_side = _levels(thumbnail(images[:2], labels[:2]))
    np.testing.assert_allclose(side_by_side, np.hstack([images[1, 0], np.ones((4, 1)), images[0, 0]]), atol=1e-6)


def _levels(data: bytes) -> np.ndarray:
    """The first channel of a thumbnail, 0 to 1; a grey one is enlarged, and every pixel is four times there."""
    page = np.asarray(Image.open(io.BytesIO(data)), dtype=np.float64) / 255
    if page.ndim == 3:
        return page[:, :, 0]
    np.testing.assert_array_equal(page[::2, ::2], page[1::2, 1::2])
    return page[::2, ::2]


def test_a_thumbnail_of_many_classes_and_of_odd_labels() -> None:
    labels = np.eye(40, dtype=np.float32)[np.repeat(np.arange(1, 40), 2)]
    images = np.full((78, 3, 16, 16), 3.0, np.float32)
    levels = _levels(thumbnail(images, labels))
    assert levels.shape[0] < 24 * 17
    assert (levels == 1).all()
