"""Teaching in groups, which plans share teachers, and what is said of how they learned."""

import json
from dataclasses import replace

import pytest
import torch

from meddistill.nets.convnet import ConvNet
from meddistill.nets.gradient import Kernels
from meddistill.pipeline import estimate
from meddistill.pipeline import teach as teaching
from meddistill.pipeline.plan import Plan, Teachers
from meddistill.pipeline.teach import describe, learning_window, teach, teacher_identity, trajectory_store
from meddistill.runtime.errors import MeddistillError
from meddistill.runtime.events import EventLog
from meddistill.runtime.progress import Silent
from meddistill.runtime.streams import stream
from meddistill.teachers import train as training
from meddistill.teachers.images import LabelledImages, Normalisation
from meddistill.teachers.train import train_teacher

NETWORK = ConvNet(width=4, depth=1, channels=1, size=8, classes=2)
PLAN = Plan(teachers=Teachers(count=5, steps=12, snapshot_every=3, batch=8, momentum=0.5))


@pytest.fixture
def images():
    pixels = torch.randint(0, 256, (20, 1, 8, 8), generator=stream(0, "pixels"), dtype=torch.uint8)
    return LabelledImages(pixels, torch.arange(20) % 2, 255, 2, Normalisation((0.5,), (0.25,)))


@pytest.fixture
def pairs(monkeypatch):
    """Two teachers side by side, as on a GPU; and their state is kept after every point."""
    monkeypatch.setattr(teaching, "side_by_side", lambda *_: 2)
    monkeypatch.setattr(teaching, "SECONDS_BETWEEN_PARTS", -1.0)


class Interrupting(Silent):
    """Interrupts the run after so many points."""

    def __init__(self, points):
        self._left = points

    def stage(self, name, total=None):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def advance(self, amount=1, **_):
        self._left -= amount
        if self._left <= 0:
            raise KeyboardInterrupt


def test_groups_are_those_trained_alone_and_go_on_after_an_interruption(images, pairs, tmp_path):
    stores = {name: trajectory_store(tmp_path / name, PLAN, NETWORK) for name in ("whole", "stopped")}
    plan, quiet = PLAN.teacher_plan(), {"events": EventLog(), "progress": Silent()}
    teach(NETWORK, images, plan, 0, stores["whole"], **quiet)
    for points in (1, 5, 9, 17):  # those of earlier calls count
        with pytest.raises(KeyboardInterrupt):
            teach(NETWORK, images, plan, 0, stores["stopped"], events=EventLog(), progress=Interrupting(points))
    teach(NETWORK, images, plan, 0, stores["stopped"], **quiet)
    for teacher in range(5):
        whole = stores["whole"].trajectory(teacher)
        assert stores["stopped"].path(teacher).read_bytes() == stores["whole"].path(teacher).read_bytes()
        torch.testing.assert_close(whole, train_teacher(NETWORK, images, plan, 0, teacher), rtol=1e-5, atol=1e-5)
    assert sorted(path.name for path in stores["stopped"].folder.iterdir()) == [
        f"teacher-000{teacher}.safetensors" for teacher in range(5)
    ]


@pytest.mark.parametrize("reason", ["no luck", None])
def test_kernels_are_tried_once_a_folder_and_taken_where_they_serve(images, pairs, monkeypatch, tmp_path, reason):
    """On a CPU they are not; here it is said that it were a GPU. Who goes on does not choose again."""
    tried, taken, plan, log = [], set(), PLAN.teacher_plan(), tmp_path / "events"
    plain, store = (trajectory_store(tmp_path / name, PLAN, NETWORK) for name in ("plain", "kernels"))
    teach(NETWORK, images, plan, 0, plain, events=EventLog(log), progress=Silent(), kernels=True)

    def trial(network, plan, kernels, teachers, device, timed):
        tried.append((teachers, kernels.compiled, timed))
        return reason

    def train(*some, kernels, **named):
        taken.add(kernels)
        return training.train_teachers(*some, kernels=kernels, **named)

    monkeypatch.setattr(teaching, "are_there_kernels", lambda *_: True)
    monkeypatch.setattr(teaching, "why_no_kernels", trial)
    monkeypatch.setattr("meddistill.teachers.crew.train_teachers", train)
    for points in (1, 9):
        with pytest.raises(KeyboardInterrupt):
            watch = Interrupting(points)
            teach(NETWORK, images, plan, 0, store, events=EventLog(log), progress=watch, kernels=True)
    for _ in range(2):  # the second time nothing is left to train, and nothing is tried
        teach(NETWORK, images, plan, 0, store, events=EventLog(log), progress=Silent(), kernels=True)
    assert tried == [(2, False, True), *([(2, False, False)] * 2 if reason is None else [])]
    assert taken == {Kernels() if reason is None else None} and store.kernels is (reason is None)
    for teacher in range(5):
        found, expected = (one.trajectory(teacher) for one in (store, plain))
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
        assert torch.equal(found, expected) == (reason is not None)
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert [one["reason"] for one in told if one["event"] == "teachers without kernels"] == [reason] * bool(reason)


def test_teachers_that_were_begun_without_kernels_go_on_without(images, pairs, monkeypatch, tmp_path):
    monkeypatch.setattr(teaching, "why_no_kernels", lambda *_, **named: pytest.fail("tried"))
    store, plan = trajectory_store(tmp_path / "teachers", PLAN, NETWORK), PLAN.teacher_plan()
    with pytest.raises(KeyboardInterrupt):
        teach(NETWORK, images, plan, 0, store, events=EventLog(), progress=Interrupting(5))
    monkeypatch.setattr(teaching, "are_there_kernels", lambda *_: True)
    teach(NETWORK, images, plan, 0, store, events=EventLog(), progress=Silent(), kernels=True)
    assert store.kernels is False and not (store.folder / "kernels.json").exists()


def test_a_decision_that_cannot_be_read_is_told(tmp_path):
    store = trajectory_store(tmp_path, PLAN, NETWORK)
    (tmp_path / "kernels.json").write_text("{")
    with pytest.raises(MeddistillError, match=r"cannot read .*kernels.json"):
        assert store.kernels


def test_plans_share_teachers_unless_their_beginnings_differ():
    def identity(**changes):
        return teacher_identity(replace(PLAN, teachers=replace(PLAN.teachers, **changes)))

    assert identity() == identity(count=9) == identity(steps=999)
    for changes in ({"batch": 9}, {"optimiser": "sam"}, {"momentum": 0.6}, {"storage": "int16"}, {"snapshot_every": 4}):
        assert identity() != identity(**changes)
    for changes in ({"decay": True}, {"storage": "convex2"}):
        assert identity(**changes) == identity(count=9, **changes)
        assert identity(**changes) != identity(steps=999, **changes)


def test_the_curve_is_told_in_one_line():
    curve = {0: 0.5, 4: 0.71234, 8: 0.8, 12: 0.85, 16: 0.9}
    assert describe(curve).endswith("untrained to trained: 0.500 → 0.712 → 0.800 → 0.850 → 0.900")
    assert describe({0: 0.5, 1: 0.6}).endswith("0.500 → 0.600")


def test_an_untrained_network_is_no_end_of_the_window():
    assert learning_window({0: 0.9, 4: 0.6, 8: 0.9}) == learning_window({4: 0.6, 8: 0.9}) == (4, 8)


def test_fewer_teachers_side_by_side_are_told_and_go_on(images, monkeypatch, tmp_path):
    direction = training.direction

    def crowded(optimiser, slope, params, **rest):
        if len(params) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return direction(optimiser, slope, params, **rest)

    monkeypatch.setattr(training, "direction", crowded)
    monkeypatch.setattr(teaching, "side_by_side", lambda *_: 4)
    store, log = trajectory_store(tmp_path / "teachers", PLAN, NETWORK), tmp_path / "events"
    teach(NETWORK, images, PLAN.teacher_plan(), 0, store, events=EventLog(log), progress=Silent())
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["together"] for event in told if event["event"] == "fewer teachers"] == [2]
    assert [event["teacher"] for event in told if event["event"] == "teacher"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("most", "expected"), [(8, [8]), (3, [8, 4, 2]), (0, [8, 4, 2, 1])])
def test_the_estimate_of_a_teacher_is_that_of_as_many_as_there_is_memory_for(images, monkeypatch, most, expected):
    tried = []

    def crowded(network, images, plan, seed, teachers, **rest):
        tried.append(len(teachers))
        if len(teachers) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(estimate, "train_teachers", crowded)
    there = replace(images, pixels=images.pixels.to("meta"))  # not a CPU
    if most:
        assert estimate._teacher_seconds(PLAN, NETWORK, there, 8) >= 0
    else:
        with pytest.raises(MeddistillError, match=r"smaller teachers\.batch"):
            estimate._teacher_seconds(PLAN, NETWORK, there, 8)
    assert list(dict.fromkeys(tried)) == expected
