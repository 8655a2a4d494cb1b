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
from tests.report.conftest import make_package

from meddistill.package.types import Terms
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


@pytest.fixture
def new_package(tmp_path: Path) -> Callable[..., Path]:
    """``new_package(name, class names)`` writes a package and gives its path."""

    def make(name: str = "lungs.mdz", classes: tuple[str, str] = ("clear lung", "shadowed lung")) -> Path:
        write(tmp_path / name, make_package(per_class=2, names=classes, rows=("random", "distilled"), terms=Terms()))
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
