"""What TensorBoard and MLflow are given, read back from what the real libraries wrote."""

import contextlib
import os
import socket
import struct
import sys

import numpy as np
import pytest

from meddistill.pipeline.request import Request
from meddistill.pipeline.run import run
from meddistill.pipeline.trackers import require_tracker, tracked
from meddistill.runtime.errors import InputError, OutputError
from meddistill.runtime.events import EventLog

PLAN = {"method": "mtt", "seed": 3, "matching": {"iterations": 40}}
SCORES = {"val": {"balanced_accuracy": 0.75}, "test": {"balanced_accuracy": 0.5}}


FIGURES = [
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
    events.write("begun", plan=PLAN)
    events.write("teachers", snapshot=3, split="val", balanced_accuracy=0.625, auroc=0.875)
    events.write("distilled", iteration=7, phase="trajectories", score=0.5, step_size=0.25)
    events.write("skipped", iteration=8, score=None)
    events.write("resources", iteration=7, resident=1000)
    for seed in (11, 12):
        events.write("evaluated", row="distilled", seed=seed, seconds=1.0, scores=SCORES)
    events.write("written", bytes=5)


def test_every_figure_of_the_log_is_drawn_and_no_image(tmp_path):
    with tracked("tensorboard", tmp_path, False, print) as tracker:
        log_all(tmp_path / "events.jsonl", tracker.event)
        assert not tracker.wants_images
    assert sorted(written(tmp_path / "tensorboard")) == FIGURES


def test_networks_go_on_being_counted_where_a_run_was_interrupted(tmp_path):
    for place, seeds in enumerate(((11, 12), (13,))):
        with tracked(f"tensorboard:{tmp_path / str(place)}", tmp_path, False, print) as tracker:
            events = EventLog(tmp_path / "events.jsonl", tracker.event)
            for seed in seeds:
                events.write("evaluated", row="distilled", seed=seed, seconds=1.0, scores=SCORES)
        with open(tmp_path / "events.jsonl", "a") as file:
            file.write('{"event": "evaluated", "row": "dist\n')  # what a killed process leaves
    assert {step for step, _, _ in written(tmp_path / "0")} == {1, 2}
    assert {step for step, _, _ in written(tmp_path / "1")} == {3}


def test_images_are_drawn_in_a_folder_of_their_own_where_both_are_asked_for(tmp_path):
    with tracked(f"tensorboard:{tmp_path / 'board'}", tmp_path, True, print) as tracker:
        assert tracker.wants_images
        tracker.images(5, np.zeros((4, 1, 8, 8), np.uint8))
    ((step, tag, (width, height)),) = written(tmp_path / "board")
    assert (step, tag) == (5, "synthetic_images")
    assert width * height >= 4 * 64
    assert not (tmp_path / "tensorboard").exists()


def test_nothing_is_drawn_unless_asked_for(tmp_path):
    with tracked("", tmp_path, True, print) as tracker:
        assert tracker is None
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def offline(monkeypatch):
    """Whoever asks for a connection is told of at the end of the test, and gets none."""
    asked = []

    def refuse(*words, **_):
        asked.append(words)
        raise OSError("there is no network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert asked == []


def runs_in(folder):
    """A client of MLflow's own, and all runs in its store."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    return client, client.search_runs([client.get_experiment_by_name("meddistill").experiment_id])


def told(client, run):
    """(step, name, value) of every figure, with those that came before."""
    return [
        (one.step, name, round(one.value, 4))
        for name in run.data.metrics
        for one in client.get_metric_history(run.info.run_id, name)
    ]


@pytest.mark.usefixtures("offline")
def test_mlflow_is_told_every_figure_and_setting_and_a_continued_run_stays_one(tmp_path, monkeypatch):
    for name in ("PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS"):  # where these are, MLflow reports nothing anyway
        monkeypatch.delenv(name, raising=False)
    place = tmp_path / "lungs.run"
    place.mkdir()
    with (
        pytest.raises(KeyboardInterrupt),
        tracked("mlflow", place, False, print) as tracker,
    ):
        log_all(place / "events.jsonl", tracker.event)
        assert not tracker.wants_images
        raise KeyboardInterrupt
    client, (run,) = runs_in(place / "mlflow")
    assert (run.info.run_name, run.info.status) == ("lungs.run", "KILLED")
    assert run.data.params == {"method": "mtt", "seed": "3", "matching.iterations": "40"}
    assert sorted(told(client, run)) == FIGURES
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    with tracked("mlflow", place, False, print) as tracker:
        EventLog(place / "events.jsonl", tracker.event).write(
            "distilled", iteration=9, phase="trajectories", score=0.25, step_size=0.25
        )
    client, (run,) = runs_in(place / "mlflow")
    assert run.info.status == "FINISHED"
    assert (9, "loss/trajectories", 0.25) in told(client, run)
    assert not (place / "mlflow" / "artifacts").exists()  # no image, nor anything else


def test_runs_share_a_store_of_mlflow_and_one_that_fails_ends_nothing(tmp_path):
    said, store = [], tmp_path / "store"
    for name in ("a.run", "b.run"):
        (tmp_path / name).mkdir()
        with (
            contextlib.suppress(ValueError),
            tracked(f"mlflow:{store}", tmp_path / name, False, said.append) as tracker,
        ):
            tracker.event({"time": 1.0, "event": "overlap", "iteration": 3, "share": 0.5, "diversity": 1})
            if name == "b.run":
                tracker._client.log_batch = None
                for _ in range(2):
                    tracker.event({"time": 2.0, "event": "overlap", "iteration": 4, "share": 0.5, "diversity": 1})
                raise ValueError
    client, runs = runs_in(store)
    assert {one.info.run_name for one in runs} == {"a.run", "b.run"}
    assert all(len(told(client, one)) == 2 for one in runs)
    assert len(said) == 1
    assert said[0].startswith("MLflow is told nothing any more")
    (store / "mlflow.db").write_bytes(b"no store" * 1000)
    with pytest.raises(OutputError, match="name another folder"), tracked(f"mlflow:{store}", tmp_path, False, print):
        pass


def test_mlflow_is_given_no_images(tmp_path):
    with pytest.raises(InputError, match="MLflow is given no images"):
        run(Request(source=tmp_path / "not looked for", out=tmp_path / "x.mdz", track="mlflow", track_images=True))


@pytest.mark.parametrize("name", ["wandb", "tensorboards", "Tensorboard", "mlflows", ":x"])
def test_another_tracker_is_refused_before_anything_is_read(tmp_path, name):
    with pytest.raises(InputError, match="write tensorboard"):
        run(Request(source=tmp_path / "not looked for", out=tmp_path / "x.mdz", track=name))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "tensorboardX"), ("mlflow", "sqlalchemy")])
def test_a_tracker_that_is_not_installed_says_how_to_install_it(monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"pip install 'meddistill\[{name}\]'"):
        require_tracker(name)
