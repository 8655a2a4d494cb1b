"""What TensorBoard is given, read from the files that the real writer wrote."""

import struct
import sys

import numpy as np
import pytest

from meddistill.pipeline.run import Request, run
from meddistill.pipeline.trackers import require_tracker, tracked
from meddistill.runtime.errors import InputError
from meddistill.runtime.events import EventLog

SCORES = {"val": {"balanced_accuracy": 0.75}, "test": {"balanced_accuracy": 0.5}}


def written(folder):
    """(step, tag, value) of every value in the files of a folder; an image's value is its width and height."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in folder.iterdir():
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            event = Event.FromString(data[place + 12 : place + 12 + length])
            place += 16 + length
            for value in event.summary.value:
                is_image = value.WhichOneof("value") == "image"
                size = (value.image.width, value.image.height)
                found.append((event.step, value.tag, size if is_image else round(value.simple_value, 4)))
    return found


def log_all(path, listener):
    events = EventLog(path, listener)
    events.write("begun", plan={})
    events.write("teachers", snapshot=3, split="val", balanced_accuracy=0.625, auroc=0.875)
    events.write("distilled", iteration=7, phase="trajectories", score=0.5, step_size=0.25)
    events.write("skipped", iteration=8, score=None)
    events.write("resources", iteration=7, resident=1000)
    for seed in (11, 12):
        events.write("evaluated", row="distilled", seed=seed, seconds=1.0, scores=SCORES)
    events.write("written", bytes=5)


def test_every_figure_of_the_log_is_drawn_and_no_image(tmp_path):
    with tracked("tensorboard", tmp_path, wants_images=False) as tracker:
        log_all(tmp_path / "events.jsonl", tracker.event)
        assert not tracker.wants_images
    assert sorted(written(tmp_path / "tensorboard")) == [
        (1, "test/distilled/balanced_accuracy", 0.5),
        (1, "val/distilled/balanced_accuracy", 0.75),
        (2, "test/distilled/balanced_accuracy", 0.5),
        (2, "val/distilled/balanced_accuracy", 0.75),
        (3, "teachers/auroc", 0.875),
        (3, "teachers/balanced_accuracy", 0.625),
        (7, "loss/trajectories", 0.5),
        (7, "resources/resident", 1000.0),
        (7, "step_size", 0.25),
    ]


def test_images_are_drawn_in_a_folder_of_their_own_where_both_are_asked_for(tmp_path):
    with tracked(f"tensorboard:{tmp_path / 'board'}", tmp_path, wants_images=True) as tracker:
        assert tracker.wants_images
        tracker.images(5, np.zeros((4, 1, 8, 8), np.uint8))
    ((step, tag, (width, height)),) = written(tmp_path / "board")
    assert (step, tag) == (5, "synthetic_images")
    assert width * height >= 4 * 64
    assert not (tmp_path / "tensorboard").exists()


def test_nothing_is_drawn_unless_asked_for(tmp_path):
    with tracked("", tmp_path, wants_images=True) as tracker:
        assert tracker is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["wandb", "tensorboards", "Tensorboard", ":x"])
def test_another_tracker_is_refused_before_anything_is_read(tmp_path, name):
    with pytest.raises(InputError, match="write tensorboard"):
        run(Request(source=tmp_path / "not looked for", out=tmp_path / "x.mdz", track=name))
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match=r"pip install 'meddistill\[tensorboard\]'"):
        require_tracker("tensorboard")
