"""A tiny grid on a tiny source, carried out in this process with few steps of training."""

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.pipeline.conftest import draw

from meddistill.train.protocol import Protocol

GRID = """
[grid]
images_per_class = [1, 2]
methods = ["mtt", "mtt-soft", "random", "herding", "k-center-soft"]
matching = ["convnet-d2-w4"]
evaluation = ["convnet-d2-w4", "convnet-d1-w4"]
seeds = 2
distillations = 2

[cohorts.stripes]
source = "pictures"
size = 10

[plan.teachers]
count = 2
steps = 9
snapshot_every = 3
batch = 8

[plan.matching]
warm_up = 2
iterations = 3
student_steps = 2
segment = 1
batch = 4

[methods.mtt.matching]
iterations = 2

[subsets.small]
images_per_class = [1]
methods = ["mtt", "random"]
evaluation = ["convnet-d2-w4"]
"""
SHORT = functools.partial(Protocol, steps=4, epochs=0)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    draw(folder / "pictures", {"clear": True, "ill": False})
    return folder


@pytest.fixture(scope="module")
def short() -> Iterator[None]:
    """Networks learn for four steps; the trained networks are then worth nothing, and quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("meddistill.bench.work.protocol_for", lambda _, flip: SHORT())
        yield


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than all else."""
    monkeypatch.setattr("meddistill.bench.plots.plots", lambda *_: {})


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in the same order as in the processes that tests start."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
