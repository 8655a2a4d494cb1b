"""Run folders as a run leaves them, packages, and a server that shows them."""

import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from meddistill.package.types import (
    Card,
    CohortCounts,
    Images,
    Normalisation,
    Package,
    Recipe,
    Results,
    Score,
    Sizes,
    Software,
    Task,
    Terms,
)
from meddistill.package.write import write
from meddistill.view.serve import Server, open_server

PLAN = {
    "method": "mtt-soft",
    "seed": 3,
    "network": "convnet-d2-w8",
    "images_per_class": 2,
    "teachers": {"count": 2, "snapshot_every": 5},
    "matching": {"warm_up": 0, "iterations": 40},
}


class Folder:
    """A run folder into which a test writes as a run does."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True)
        self.path = path

    def log(self, *events: dict[str, Any] | str) -> None:
        lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
        with open(self.path / "events.jsonl", "a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))

    def tell(self, **status: Any) -> None:
        """A status of this very process, which is alive, unless the test says otherwise."""
        whole = {"pid": os.getpid(), "host": platform.node(), "began": None, "time": time.time(), **status}
        (self.path / "status.json").write_text(json.dumps(whole))

    def command(self, *words: str) -> None:
        (self.path / "command.json").write_text(json.dumps({"arguments": words, "folder": str(self.path.parent)}))

    def picture(self, iteration: int, **changes: Any) -> None:
        rng = np.random.default_rng(iteration)
        arrays = {
            "images": rng.integers(0, 256, (4, 1, 8, 8)).astype(np.uint8),
            "labels": np.eye(2, dtype=np.float32).repeat(2, 0),
            "rows": np.arange(4, dtype=np.int32),
        }
        folder = self.path / "snapshots"
        folder.mkdir(exist_ok=True)
        (folder / "classes.json").write_text(json.dumps(["clear", "ill"]))
        (folder / f"{iteration:08}.safetensors").write_bytes(safetensors.numpy.save(arrays | changes))


def fill(folder: Folder, iterations: int = 20) -> None:
    """A run that distils: teachers are there, half of the iterations are done."""
    begun = {"time": 100.0, "event": "begun", "version": "0.1.0", "torch": "2", "device": "cpu", "plan": PLAN}
    learned = [
        {
            "time": 110.0 + point,
            "event": "teachers",
            "snapshot": point,
            "split": "val",
            "balanced_accuracy": value,
            "auroc": value,
        }
        for point, value in ((0, 0.5), (1, 0.7), (2, 0.875))
    ]
    matched = [
        {
            "time": 120.0 + place,
            "event": "distilled",
            "iteration": place,
            "phase": "trajectories",
            "score": 1.0 - place / 100,
            "step_size": 0.02,
        }
        for place in range(1, iterations + 1)
    ]
    folder.log(begun, *learned, *matched)
    for place in range(0, iterations + 1, 5):
        folder.log({"time": 120.0 + place, "event": "resources", "iteration": place, "resident": 3e8 + place * 1e6})
        folder.picture(place)
    folder.tell(
        state="running",
        stage="distilling",
        done=float(iterations),
        total=40,
        seconds_left=95.0,
        figures={"loss": 0.8},
        memory={"resident": 321_000_000},
    )


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., Folder]:
    """``new_run(name)`` makes a folder of a run that distils."""

    def make(name: str = "lungs.run") -> Folder:
        folder = Folder(tmp_path / name)
        fill(folder)
        return folder

    return make


def score(mean: float) -> Score:
    return Score(mean=mean, low=mean - 0.01, high=mean + 0.01, per_seed=(mean - 0.01, mean, mean + 0.01))


@pytest.fixture
def new_package(tmp_path: Path) -> Callable[..., Path]:
    """``new_package(name, class names)`` writes a package and gives its path."""

    def make(name: str = "lungs.mdz", classes: tuple[str, str] = ("clear lung", "shadowed lung")) -> Path:
        rows = {
            row: {metric: score(mean) for metric in ("balanced_accuracy", "auroc", "accuracy")}
            for row, mean in (("random", 0.7), ("distilled", 0.8))
        }
        card = Card(
            software=Software(name="meddistill", version="0.1.0"),
            task=Task(classes=classes, labels="soft"),
            images=Images(count=4, per_class=2, size=8, channels=1),
            normalisation=Normalisation(mean=(0.5,), std=(0.25,)),
            recipe=Recipe(method="mtt", seed=3, start="noise", network="convnet-d2-w8", plan={"fit": "crop"}),
            cohort=CohortCounts(counts={"train": dict.fromkeys(classes, 1234), "test": dict.fromkeys(classes, 77)}),
            contains_real_images=False,
            results=Results(protocol="1", network="convnet-d2-w8", seeds=3, splits={"val": rows, "test": rows}),
            bytes=Sizes(cohort_train=1_000_000),
            terms=Terms(),
        )
        images = np.random.default_rng(1).normal(0.5, 0.3, (4, 1, 8, 8)).astype(np.float32)
        labels = np.eye(2, dtype=np.float32).repeat(2, 0) * np.float32(0.75) + np.float32(0.125)
        write(
            tmp_path / name, Package(images=images, labels=labels, step_sizes=np.array([0.02], np.float32), card=card)
        )
        return tmp_path / name

    return make


@pytest.fixture
def serving() -> Iterator[Callable[..., Server]]:
    """``serving(paths …)`` starts a server in a thread; it ends with the test."""
    servers: list[Server] = []

    def start(*paths: Path) -> Server:
        server = open_server(paths)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
