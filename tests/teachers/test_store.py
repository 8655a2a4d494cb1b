"""Trajectories on disk: what is written is read, in every storage, whenever the writer is killed; and what is broken is
named."""

import json
import resource
import shutil
import sys
from itertools import pairwise

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meddistill.runtime.errors import InputError
from meddistill.runtime.streams import stream
from meddistill.teachers.storage import STORAGES, convexify, grow, is_convex, shrink
from meddistill.teachers.store import TrajectoryStore, Writer
from meddistill.teachers.train import State

SIZES = (4, 2, 1)
# Like a trajectory: points near 1 and a way from one to the next that is small beside them.
STEPS = 0.03 * torch.randn(8, 7, generator=stream(0, "trajectory"))
TRAJECTORY = 1 + STEPS.cumsum(0)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """These tests stop between calls; none of them pulls the plug."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture(params=STORAGES)
def storage(request):
    return request.param


@pytest.fixture
def make(tmp_path):
    def make(snapshots=5, storage="float32", folder="trajectories", **more):
        return TrajectoryStore(tmp_path / "new" / folder, snapshots, 7, storage, sizes=SIZES, **more)

    return make


@pytest.fixture
def store(make):
    return make()


def files(store):
    return sorted(path.name for path in store.folder.iterdir())


def states(count, group, momentum=False):
    """States of a training whose teacher k has the trajectory times k + 1."""
    scales = torch.tensor([[k + 1.0] for k in group])
    return [
        State(place + 1, scales * TRAJECTORY[place], scales * STEPS[place] if momentum else None)
        for place in range(count)
    ]


def write(store, group, count, start=None, checkpoint_at=()):
    """Points up to ``count``, after those of ``start``."""
    writer = store.writer(group, start)
    for state in states(count, group, store.momentum)[0 if start is None else start.snapshots :]:
        writer.add(state)
        if state.snapshots in checkpoint_at:
            writer.checkpoint()
    return writer


def test_a_trajectory_is_read_as_it_was_written(store):
    store.save(3, TRAJECTORY[:5])
    assert torch.equal(store.trajectory(3), TRAJECTORY[:5])
    assert store.snapshot(3, 2).shape == (7,)
    assert torch.equal(store.snapshot(3, 2), TRAJECTORY[2])
    assert files(store) == ["teacher-0003.safetensors"]
    with pytest.raises(IndexError):
        store.snapshot(3, 5)


@pytest.mark.parametrize(("first", "last"), [(0, 4), (1, 3), (2, 2)])
def test_the_mean_of_some_points_is_that_of_the_points_read_one_by_one(make, storage, first, last):
    store = make(storage=storage)
    store.save(0, TRAJECTORY[:5])
    points = [store.snapshot(0, index) for index in range(first, last + 1)]
    assert torch.equal(store.mean(0, first, last), torch.stack(points).mean(0))


@pytest.mark.parametrize(("first", "last"), [(-1, 2), (3, 2), (3, 5)])
def test_there_is_no_mean_of_points_that_are_not_there(store, first, last):
    store.save(0, TRAJECTORY[:5])
    with pytest.raises(IndexError, match=f"no snapshots {first} to {last}"):
        store.mean(0, first, last)


def test_a_file_is_one_that_any_reader_of_safetensors_takes(make, storage):
    store = make(storage=storage)
    store.save(0, TRAJECTORY[:5])
    tensors = safetensors.torch.load_file(store.path(0))
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()} == store.layout(5)


def test_other_layouts_and_precisions_are_stored_as_float32(store):
    store.save(0, TRAJECTORY[:5].double().T.contiguous().T)
    assert torch.equal(store.trajectory(0), TRAJECTORY[:5])


def test_a_point_that_was_read_does_not_hang_on_the_file(store):
    store.save(0, TRAJECTORY[:5])
    point = store.snapshot(0, 1)
    store.path(0).write_bytes(b"")
    assert torch.equal(point, TRAJECTORY[1])


def test_half_the_bytes_keep_the_way_between_near_points_better_than_float16(make):
    trajectory = 1 + 1e-3 * torch.randn(5, 7, generator=stream(0, "near")).cumsum(0)
    store = make(storage="int16")
    store.save(0, trajectory)
    assert torch.equal(store.snapshot(0, 0), trajectory[0])
    way, kept = trajectory[4] - trajectory[3], store.snapshot(0, 4) - store.snapshot(0, 3)
    plain = trajectory[4].half().float() - trajectory[3].half().float()
    assert float((kept - way).norm() / way.norm()) < 1e-3
    assert float((plain - way).norm() / way.norm()) > 1e-2


@settings(max_examples=60)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=9), st.floats(0, 1e3, width=32))
def test_a_shrunken_point_is_back_to_half_a_unit(values, spread):
    start = torch.tensor(values)
    point = start + spread * torch.linspace(-1, 1, len(values))
    units, scale = shrink(point, start)
    assert units.dtype == torch.int16
    rounding = 1e-38 + 2e-7 * (start.abs() + point.abs())
    assert bool(((grow(units, scale, start) - point).abs() <= 0.5001 * scale + rounding).all())


@pytest.mark.parametrize("points", [2, 3, 4])
def test_convex_trajectories_go_straight_at_the_pace_of_every_tensor(make, points):
    store = make(8, f"convex{points}")
    store.save(0, TRAJECTORY)
    places = convexify(TRAJECTORY, points, SIZES)["places"].tolist()
    assert (len(places), places[0], places[-1], sorted(set(places))) == (points, 0, 7, places)
    found = store.trajectory(0)
    assert torch.equal(found[places], TRAJECTORY[places])
    for first, last in pairwise(places):
        for tensor in (slice(0, 4), slice(4, 6), slice(6, 7)):
            exact, kept = TRAJECTORY[first : last + 1, tensor], found[first : last + 1, tensor]
            paths = [0.0, *(exact[1:] - exact[:-1]).norm(dim=1).cumsum(0).tolist()]
            for place, path in enumerate(paths):
                expected = exact[0] + path / paths[-1] * (exact[-1] - exact[0])
                torch.testing.assert_close(kept[place], expected, rtol=1e-5, atol=1e-6)


def test_a_tensor_that_never_moves_stays(make):
    still = TRAJECTORY.clone()
    still[:, 4:6] = 3.0
    store = make(8, "convex3")
    store.save(0, still)
    assert torch.equal(store.trajectory(0)[:, 4:6], still[:, 4:6])


@settings(max_examples=40)
@given(st.integers(2, 9), st.integers(2, 4), st.integers(0, 99))
def test_places_ascend_however_long_the_path_is(snapshots, points, seed):
    trajectory = torch.randn(snapshots, 7, generator=stream(seed, "path")).abs().cumsum(0) ** 3
    places = convexify(trajectory, min(points, snapshots), SIZES)["places"].tolist()
    assert places[0] == 0
    assert places[-1] == snapshots - 1
    assert places == sorted(set(places))


@pytest.mark.parametrize("momentum", [False, True])
def test_killed_after_any_point_and_continued_gives_the_same_bytes(make, storage, momentum):
    group = (2, 4, 5)
    alone = make(storage=storage, folder="alone", momentum=momentum)
    write(alone, group, 5).finish()
    for kept, reached in ((1, 1), (1, 4), (3, 3), (3, 5), (5, 5)):
        store = make(storage=storage, folder=f"{kept}-{reached}", momentum=momentum)
        write(store, group, reached, checkpoint_at=(kept,))
        store.tidy()
        ((again, state),) = store.waiting(group)
        assert (again, state.snapshots) == (group, kept)
        assert torch.equal(state.params, states(kept, group)[-1].params)
        write(store, group, 5, state).finish()
        assert files(store) == [f"teacher-000{k}.safetensors" for k in group]
        for teacher in group:
            assert store.path(teacher).read_bytes() == alone.path(teacher).read_bytes()


def test_killed_between_completing_one_teacher_and_the_next(make, storage):
    group = (0, 1, 2)
    alone, store = make(storage=storage, folder="alone"), make(storage=storage)
    write(alone, group, 5).finish()
    write(store, group, 5, checkpoint_at=(5,))
    shutil.copy(alone.path(2), store.path(2))
    store.path(2, "part").unlink()
    store.tidy()
    ((again, state),) = store.waiting(group)
    assert (again, state.snapshots) == (group, 5)
    store.writer(again, state).finish()
    assert files(store) == files(alone)
    assert all(store.path(k).read_bytes() == alone.path(k).read_bytes() for k in group)


def test_killed_before_the_first_state_starts_anew(store):
    write(store, (0,), 3)
    assert store.waiting((0,)) == [((0,), None)]
    store.tidy()
    assert files(store) == []


def test_teachers_are_added_without_touching_those_that_are_there(store):
    write(store, (0, 1), 5).finish()
    before = store.path(1).read_bytes()
    assert store.waiting((0, 1)) == []
    assert store.waiting((0, 1, 2, 3)) == [((2, 3), None)]
    write(store, (2, 3), 5).finish()
    assert store.path(1).read_bytes() == before
    assert torch.equal(store.snapshot(3, 4), 4 * TRAJECTORY[4])


@pytest.mark.parametrize("storage", ["float32", "int16"])
@pytest.mark.parametrize("momentum", [False, True])
def test_points_are_added_from_where_a_trajectory_ended(make, storage, momentum):
    short, long = (make(count, storage, momentum=momentum) for count in (5, 8))
    whole = make(8, storage, folder="whole", momentum=momentum)
    write(whole, (0,), 8).finish()
    write(short, (0,), 5).finish()
    ((group, state),) = long.waiting((0,))
    assert (group, state.snapshots) == ((0,), 5)
    assert torch.equal(state.params[0], TRAJECTORY[4])
    assert not momentum or torch.equal(state.velocity[0], STEPS[4])
    # killed on the way: the shorter one can still be used, and the way is gone on from where it was
    write(long, group, 7, state, checkpoint_at=(6,))
    assert short.is_complete(0)
    assert torch.equal(short.trajectory(0), whole.trajectory(0)[:5])
    long.tidy()
    ((group, state),) = long.waiting((0,))
    assert state.snapshots == 6
    write(long, group, 8, state).finish()
    assert long.path(0).read_bytes() == whole.path(0).read_bytes()
    assert short.is_complete(0)
    assert torch.equal(short.trajectory(0), whole.trajectory(0)[:5])


def test_an_interrupted_longer_trajectory_is_no_start_for_a_shorter_one(make):
    write(make(8), (0,), 7, checkpoint_at=(7,))
    shorter = make(3)
    assert shorter.waiting((0,)) == [((0,), None)]
    write(shorter, (0,), 3).finish()
    assert torch.equal(shorter.trajectory(0), TRAJECTORY[:3])


def test_an_interrupted_shorter_trajectory_is_gone_on_from(make):
    write(make(5), (0,), 4, checkpoint_at=(3,))
    longer = make(8)
    ((group, state),) = longer.waiting((0,))
    assert state.snapshots == 3
    write(longer, group, 8, state).finish()
    assert torch.equal(longer.trajectory(0), TRAJECTORY)


@pytest.mark.parametrize("reached", [4, 5])
def test_killed_while_a_longer_trajectory_takes_over_the_points(make, monkeypatch, reached):
    """Of an interrupted one, and of a whole one."""
    writer = write(make(5), (0,), reached, checkpoint_at=(4,))
    if reached == 5:
        writer.finish()
    longer = make(8)
    ((group, state),) = longer.waiting((0,))
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(Writer, "_write", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        longer.writer(group, state)
    longer.tidy()
    ((group, state),) = longer.waiting((0,))
    write(longer, group, 8, state).finish()
    assert torch.equal(longer.trajectory(0), TRAJECTORY)
    assert files(longer) == ["teacher-0000.safetensors"]


@pytest.mark.parametrize(("group", "snapshots"), [((0, 1), 3), ((0, 1, 2), 8), ((1,), 8)])
def test_what_was_begun_anew_and_killed_is_not_gone_on_from_where_it_stood_before(make, group, snapshots):
    """The points up to there are gone, whatever the state says: as a shorter trajectory, or in another group."""
    long = make(8)
    write(long, (0, 1), 7, checkpoint_at=(7,))
    write(make(snapshots), group, 2)
    long.tidy()
    for waiting, state in long.waiting((0, 1)):
        write(long, waiting, 8, state).finish()
    for teacher in (0, 1):
        assert torch.equal(long.trajectory(teacher), (teacher + 1) * TRAJECTORY)


def test_what_killed_processes_left_is_cleaned_and_the_rest_stays(store):
    write(store, (0,), 5).finish()
    write(store, (1,), 3, checkpoint_at=(2,))
    for name in (
        ".teacher-0000.safetensors.1.abc.tmp",
        "teacher-0000.part.safetensors",
        "teacher-0007.part.safetensors",
    ):
        (store.folder / name).write_bytes(b"half")
    store.tidy()
    assert files(store) == [
        "teacher-0000.safetensors",
        "teacher-0001.part.safetensors",
        "teacher-0001.state.safetensors",
    ]


@pytest.mark.parametrize("broken", [b"", b"not a trajectory", "cut"])
def test_a_broken_file_is_named_with_what_to_do(store, broken):
    store.save(0, TRAJECTORY[:5])
    path = store.path(0)
    path.write_bytes(path.read_bytes()[:-1] if broken == "cut" else broken)
    for read in (lambda: store.is_complete(0), lambda: store.snapshot(0, 1), lambda: store.waiting((0,))):
        with pytest.raises(InputError, match=r"cannot read the trajectory .*teacher-0000\.safetensors.*delete it"):
            read()


@pytest.mark.parametrize(
    "tensors",
    [
        {"trajectory": torch.zeros(5, 6), "state": torch.zeros(1, 6)},
        {"trajectory": torch.zeros(5, 7), "state": torch.zeros(2, 7)},
        {"trajectory": torch.zeros(5, 7).half(), "state": torch.zeros(1, 7)},
        {"trajectory": torch.zeros(7), "state": torch.zeros(1, 7)},
        {"trajectory": torch.zeros(()), "state": torch.zeros(1, 7)},
        {"trajectory": torch.zeros(5, 7)},
        {"something else": torch.zeros(5, 7)},
    ],
)
def test_a_trajectory_of_another_plan_is_refused(storage, make, tensors):
    other = make(storage=storage)
    other.folder.mkdir(parents=True)
    safetensors.torch.save_file(tensors, other.path(0))
    for read in (lambda: other.is_complete(0), lambda: other.snapshot(0, 1), lambda: other.waiting((0,))):
        with pytest.raises(InputError, match=r"expected a trajectory of 7 parameters.*another plan; delete it"):
            read()


def test_another_storage_is_refused(make, storage):
    make(storage=storage).save(0, TRAJECTORY[:5])
    for other in STORAGES:
        if other == storage or (is_convex(other) and is_convex(storage)):
            continue
        with pytest.raises(InputError, match=f"kept as {other}: it belongs to another plan"):
            make(storage=other).snapshot(0, 0)


def test_a_state_of_another_plan_is_refused(make):
    write(make(momentum=True), (0,), 3, checkpoint_at=(3,))
    with pytest.raises(InputError, match=r"teacher-0000\.state\.safetensors belongs to another plan: delete it"):
        make().waiting((0,))


def test_only_the_point_that_is_asked_for_is_read(tmp_path):
    """A file of 2 GB, mostly a hole, is read without taking its size in memory."""
    huge = TrajectoryStore(tmp_path, 5000, 10**5)
    huge.writer((0,)).add(State(1, torch.full((1, 10**5), 2.0)))
    huge.path(0, "part").rename(huge.path(0))
    assert huge.path(0).stat().st_size > 2 * 10**9
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert torch.equal(huge.snapshot(0, 0), torch.full((10**5,), 2.0))
    assert float(huge.snapshot(0, 4999).abs().max()) == 0
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (
        1 if sys.platform == "darwin" else 1 / 1024
    )
    assert grown < 100 * 2**20


def test_headers_are_json_that_ends_on_a_boundary(make, storage):
    store = make(storage=storage)
    store.save(0, TRAJECTORY[:5])
    data = store.path(0).read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    assert json.loads(data[8 : 8 + length]).keys() == store.layout(5).keys()
