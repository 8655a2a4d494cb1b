"""Trajectories on disk: what is written is read, and what is broken is named."""

import pytest
import safetensors.torch
import torch

from meddistill.runtime.errors import InputError
from meddistill.runtime.streams import stream
from meddistill.teachers.store import TrajectoryStore

TRAJECTORY = torch.randn(5, 7, generator=stream(0, "trajectory"))


@pytest.fixture
def store(tmp_path):
    return TrajectoryStore(tmp_path / "new" / "trajectories", snapshots=5, parameters=7)


def files(store):
    return sorted(path.name for path in store.folder.iterdir())


def test_a_trajectory_is_read_as_it_was_written(store):
    store.save(3, TRAJECTORY)
    assert torch.equal(store.load_part(3), TRAJECTORY)
    for index in range(5):
        assert store.snapshot(3, index).shape == (7,)
        assert torch.equal(store.snapshot(3, index), TRAJECTORY[index])
    assert files(store) == ["teacher-0003.safetensors"]


def test_other_layouts_and_precisions_are_stored_as_float32(store):
    store.save(0, TRAJECTORY.double().T.contiguous().T)
    assert torch.equal(store.load_part(0), TRAJECTORY)


def test_a_part_is_not_complete_and_goes_when_the_whole_comes(store):
    assert store.load_part(0) is None
    assert not store.is_complete(0)
    store.save_part(0, TRAJECTORY[:2])
    store.save_part(0, TRAJECTORY[:3])
    assert torch.equal(store.load_part(0), TRAJECTORY[:3])
    assert not store.is_complete(0)
    with pytest.raises(InputError, match=r"teacher-0000\.safetensors"):
        store.snapshot(0, 0)
    store.save(0, TRAJECTORY)
    assert store.is_complete(0)
    assert not store.is_complete(1)
    assert torch.equal(store.load_part(0), TRAJECTORY)
    assert files(store) == ["teacher-0000.safetensors"]


def test_a_part_that_stayed_behind_does_not_hide_the_whole(store):
    store.save(0, TRAJECTORY)
    store.save_part(0, TRAJECTORY[:2])
    assert torch.equal(store.load_part(0), TRAJECTORY)


@pytest.mark.parametrize("broken", [b"", b"not a trajectory", "cut", "other"])
def test_a_broken_file_is_named_with_what_to_do(store, broken):
    store.save(0, TRAJECTORY)
    path = store.folder / "teacher-0000.safetensors"
    if broken == "cut":
        broken = path.read_bytes()[:-1]
    if broken == "other":
        broken = safetensors.torch.save({"something else": TRAJECTORY})
    path.write_bytes(broken)
    for read in (lambda: store.load_part(0), lambda: store.snapshot(0, 1)):
        with pytest.raises(InputError, match=r"cannot read the trajectory .*teacher-0000\.safetensors.*delete it"):
            read()


@pytest.mark.parametrize("shape", [(5, 6), (6, 7), (7,), (5, 7, 1)])
@pytest.mark.parametrize("whole", [True, False])
def test_a_trajectory_of_another_plan_is_refused(store, shape, whole):
    (store.save if whole else store.save_part)(0, torch.zeros(shape))
    with pytest.raises(InputError) as raised:
        store.load_part(0)
    assert f"shape {shape}, expected up to 5 snapshots of 7 parameters" in str(raised.value)
    assert "delete it" in str(raised.value)
