"""The final evaluation: the same scores whoever trains, and nothing is trained twice."""

import json

import numpy as np
import pytest
import torch

from meddistill.nets.convnet import parse
from meddistill.pipeline.evaluate import Judged, evaluate_rows, rows_of
from meddistill.runtime import crew
from meddistill.runtime.errors import InputError
from meddistill.runtime.streams import stream
from meddistill.teachers.images import LabelledImages, Normalisation
from meddistill.train.metrics import METRICS
from meddistill.train.protocol import Protocol, synthetic_set


@pytest.fixture
def judged() -> Judged:
    pixels = torch.randint(0, 256, (40, 1, 8, 8), generator=stream(0, "test"), dtype=torch.uint8)
    images = LabelledImages(pixels, torch.arange(40) % 2, 255, 2, Normalisation((0.5,), (0.25,)))
    network = parse("convnet-d1-w4", channels=1, size=8, classes=2)
    return Judged(network, Protocol(steps=10, epochs=0, batch=8), {"test": images}, [3, 4, 5])


@pytest.fixture
def rows(judged):
    distilled = synthetic_set(torch.randn(2, 1, 8, 8, generator=stream(1, "test")), torch.eye(2))
    return rows_of(distilled, judged.scored["test"], 1, random_sets=2, full_row=True)


@pytest.mark.parametrize("processes", [1, 3])
def test_scores_do_not_depend_on_who_trains(rows, judged, tmp_path, monkeypatch, processes):
    expected = evaluate_rows(rows, judged).results
    monkeypatch.setattr(crew, "SECONDS_WORTH_HELP", -1.0)
    monkeypatch.setattr(crew, "processes_for", lambda device: processes)
    saved = tmp_path / "scores.json"
    assert evaluate_rows(rows, judged, saved=saved).results == expected
    assert len(json.loads(saved.read_text())) == 9


@pytest.mark.parametrize("threads", [1, 3])
def test_as_many_processes_train_as_there_would_be_threads(rows, judged, monkeypatch, threads):
    wanted = []
    monkeypatch.setattr(crew, "SECONDS_WORTH_HELP", -1.0)
    monkeypatch.setattr(crew, "_Helper", lambda *_: wanted.append("a helper") or _Idle())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        evaluate_rows(rows, judged)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(wanted) == threads - 1


def test_what_networks_answered_is_counted_and_agrees_with_their_scores(rows, judged, tmp_path):
    saved = tmp_path / "scores.json"
    evaluate_rows(rows, judged, saved=saved)
    for name, one in json.loads(saved.read_text()).items():
        confusion, bins = (np.array(one["answers"]["test"][key]) for key in ("confusion", "bins"))
        networks = 2 if name.startswith("random") else 1
        assert one["networks"] == networks
        assert confusion.sum(1).tolist() == [20 * networks] * 2  # images of each class
        assert bins[:, 0].sum() == 40 * networks
        assert bins[:, 2].sum() == np.trace(confusion)
        assert np.trace(confusion) / 40 / networks == pytest.approx(one["scores"]["test"]["accuracy"])
        if networks == 1:
            error = abs(bins[:, 1] - bins[:, 2]).sum() / 40
            assert error == pytest.approx(one["scores"]["test"]["expected_calibration_error"], abs=1e-5)


class _Idle:
    """A helper that takes no task."""

    def is_working(self):
        return False

    def end(self):
        pass


def test_what_is_saved_is_not_done_again(rows, judged, tmp_path, monkeypatch):
    saved = tmp_path / "scores.json"
    expected = evaluate_rows(rows, judged, saved=saved).results
    left = json.loads(saved.read_text())
    del left["full 4"]
    saved.write_text(json.dumps(left))
    done = []
    monkeypatch.setattr("meddistill.pipeline.evaluate._score", _counting(done))
    assert evaluate_rows(rows, judged, saved=saved).results == expected
    assert done == [4]


def _counting(done):
    from meddistill.pipeline.evaluate import _score

    def score(sets, judged, seed):
        done.append(seed)
        return _score(sets, judged, seed)

    return score


@pytest.mark.parametrize(
    "change",
    [
        lambda done: [],
        lambda done: done | {"full 4": 0.5},
        lambda done: done | {"full 4": {"scores": [], "seconds": 1}},
        lambda done: done | {"full 4": {"scores": {"test": {"accuracy": 1}}, "seconds": 1}},
        lambda done: done | {"full 4": done["full 4"] | {"seconds": None}},
        lambda done: done | {"full 4": done["full 4"] | {"scores": {}}},
    ],
)
def test_damaged_scores_are_refused_by_name(rows, judged, tmp_path, change):
    scores = dict.fromkeys(METRICS, 0.5)
    done = {f"{row} {seed}": {"scores": {"test": scores}, "seconds": 1} for row in rows for seed in judged.seeds}
    saved = tmp_path / "scores.json"
    saved.write_text(json.dumps(done))
    assert set(evaluate_rows(rows, judged, saved=saved).results["test"]) == set(rows)
    saved.write_text(json.dumps(change(done)))
    with pytest.raises(InputError, match=r"scores\.json .*delete it to have them measured again"):
        evaluate_rows(rows, judged, saved=saved)
