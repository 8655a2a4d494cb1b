"""A tiny source with something to learn, and a plan that a few seconds carry out."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from meddistill.pipeline import run as running

SIDE, IMAGES = 10, 40
PLAN = """
images_per_class = 2
size = 10
network = "convnet-d2-w8"
[teachers]
count = 3
steps = 120
snapshot_every = 3
batch = 16
[matching]
warm_up = 60
iterations = 80
student_steps = 2
segment = 2
batch = 2
[evaluation]
seeds = 2
"""


def draw(folder: Path, classes: dict[str, bool], count: int = IMAGES, seed: int = 5) -> Path:
    """Class folders of noisy pictures with (True) or without stripes; no two images are the same."""
    rng = np.random.default_rng(seed)
    for name, striped in classes.items():
        (folder / name).mkdir(parents=True)
        stripes = np.tile(np.arange(SIDE) % 4 // 2 * 130, (SIDE, 1)) if striped else np.full((SIDE, SIDE), 60)
        for index in range(count):
            pixels = stripes + rng.integers(0, 120, (SIDE, SIDE))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"mueller-{seed}{index:03}.png")
    return folder


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in the same order as in the processes that tests start; and tiny networks gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("source") / "pictures", {"clear": True, "ill": False})


@pytest.fixture(scope="session")
def plan_text() -> str:
    return PLAN


@pytest.fixture
def matched(monkeypatch):
    """What runs of the test hand to ``distill`` to match against, in order."""
    given, real = [], running.distill

    def noting(first, matching, *rest, **more):
        given.append(matching)
        return real(first, matching, *rest, **more)

    monkeypatch.setattr(running, "distill", noting)
    return given
