"""Small generated sources for the cohort tests, and the real sets where they are at hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"


@pytest.fixture(scope="session")
def data() -> Path:
    if not (DATA / "README.md").is_file():
        pytest.skip("the real image sets are not at hand")
    return DATA.resolve()


def make_noise(seed: int, height: int = 12, width: int = 12, channels: int = 1) -> npt.NDArray[np.uint8]:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save_image(path: Path, pixels: npt.NDArray[np.generic]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="session")
def noise() -> Callable[..., npt.NDArray[np.uint8]]:
    return make_noise


@pytest.fixture(scope="session")
def save() -> Callable[..., Path]:
    return save_image


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """Two classes of 20 different images."""
    for label, name in enumerate(("cat", "dog")):
        for number in range(20):
            save_image(tmp_path / "set" / name / f"{number:02}.png", make_noise(100 * label + number))
    return tmp_path / "set"


@pytest.fixture
def split_folders(tmp_path: Path) -> Path:
    """Three splits of two classes, 6 + 2 + 3 different images each; the file name starts with the patient."""
    seed = 0
    for split, count in (("train", 6), ("valid", 2), ("Test", 3)):
        for name in ("cat", "dog"):
            for _ in range(count):
                seed += 1
                save_image(tmp_path / "set" / split / name / f"p{seed:03}_{name}.png", make_noise(seed))
    return tmp_path / "set"


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Writes a CSV from rows beside a folder with the images a.png … h.png."""
    for seed, name in enumerate("abcdefgh"):
        save_image(tmp_path / f"{name}.png", make_noise(seed))

    def write(*lines: str) -> Path:
        path = tmp_path / "table.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write
