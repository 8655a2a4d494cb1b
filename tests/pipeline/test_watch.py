"""Watching a run, stopping it and continuing it change no byte of what it makes."""

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from meddistill.pipeline import run as pipeline
from meddistill.pipeline.request import Request
from meddistill.pipeline.snapshots import MOST, MOST_BYTES, MOST_IMAGES, _shown
from meddistill.runtime import watch
from meddistill.runtime.progress import Silent
from meddistill.runtime.watch import StopRequested


class StopsAt(Silent):
    """Asks for a stop when distilling has come so far."""

    def __init__(self, folder: Path, iteration: int) -> None:
        self._folder, self._iteration = folder, iteration

    @contextmanager
    def stage(self, name, total=None):
        yield _Stage(self._folder, self._iteration if name == "distilling" else -1)


class _Stage:
    def __init__(self, folder, at):
        self._folder, self._at, self._done = folder, at, 0

    def advance(self, amount=1, **figures):
        self._done += amount
        if self._done == self._at:
            (self._folder / "stop").touch()


def test_a_run_that_is_watched_stopped_and_continued_ends_with_the_bytes_of_one_that_is_not(
    source, plan_text, tmp_path, monkeypatch
):
    plan = tmp_path / "plan.toml"
    plan.write_text(plan_text.replace("count = 3", "count = 2").replace("seeds = 2", "seeds = 0"))
    alone, seen = (Request(source=source, out=tmp_path / f"{name}.mdz", plan=plan) for name in ("alone", "seen"))
    seen = replace(seen, track="tensorboard")

    @contextmanager
    def unwatched(folder, progress):
        yield progress

    with monkeypatch.context() as unseen:
        unseen.setattr(pipeline, "watched", unwatched)
        unseen.setattr(pipeline, "snapshots", lambda *_, **__: None)
        pipeline.run(alone)
    assert not (tmp_path / "alone.run" / "snapshots").exists()

    monkeypatch.setattr(watch, "SECONDS_BETWEEN", -1.0)
    folder = tmp_path / "seen.run"
    with pytest.raises(StopRequested):
        pipeline.run(seen, StopsAt(folder, 90))
    assert json.loads((folder / "status.json").read_text())["state"] == "stopped"
    with safetensors.safe_open(folder / "distilled.safetensors", framework="np") as file:
        assert int(file.metadata()["iteration"]) == 90  # nothing was lost
    pipeline.run(seen)
    assert seen.out.read_bytes() == alone.out.read_bytes()
    assert json.loads((folder / "status.json").read_text())["state"] == "done"
    _check_pictures(folder)
    assert any((folder / "tensorboard").iterdir())


def _check_pictures(folder: Path) -> None:
    """First and last are there; the last is what the package holds; memory was logged beside each."""
    kept = sorted((folder / "snapshots").glob("*.safetensors"))
    assert (kept[0].stem, kept[-1].stem) == (f"{0:08}", f"{140:08}")
    assert 10 <= len(kept) <= MOST + 2
    arrays = safetensors.numpy.load_file(kept[-1])
    assert (arrays["images"].shape, arrays["images"].dtype) == ((4, 1, 10, 10), np.uint8)
    assert arrays["labels"].sum(1) == pytest.approx(np.ones(4), abs=1e-5)
    assert json.loads((folder / "snapshots" / "classes.json").read_text()) == ["clear", "ill"]
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().split("\n")[:-1]]
    told = [event for event in events if event["event"] == "resources"]
    assert {event["iteration"] for event in told} == {int(path.stem) for path in kept}


def test_pictures_of_a_large_set_are_bounded():
    rng = np.random.default_rng(0)
    images = rng.uniform(-0.5, 1.5, (300, 3, 64, 64)).astype(np.float32)
    shown, rows = _shown(images)
    assert shown.nbytes <= MOST_BYTES
    assert len(shown) == len(rows) == MOST_IMAGES
    by = 64 // shown.shape[-1]
    block = np.clip(images[rows[7], 2, by : 2 * by, :by], 0, 1)
    assert shown[7, 2, 1, 0] == pytest.approx(block.mean() * 255, abs=0.51)
