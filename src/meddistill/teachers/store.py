"""Trajectories on disk: one safetensors file a teacher, of which only the point that is asked for is read.

While a teacher trains, its points are written into a ``.part`` file that has its final length from the beginning; from
time to time the exact state of the training is kept beside it, in one file for all teachers that train side by side.
What was written after that state is written again, with the same bytes, when a killed training goes on. A whole
trajectory gets its own name and also holds the state at its end, so that it can be made longer.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from meddistill.runtime.errors import InputError
from meddistill.runtime.files import remove_leftovers, sync_folder, write_atomic, write_error
from meddistill.teachers.storage import Layout, Storage, convexify, grow, is_convex, layout, on_the_way, shrink
from meddistill.teachers.train import State

_NAMES = {torch.float32: "F32", torch.int16: "I16", torch.int64: "I64"}
_REMEDY = "delete it to have it trained again"
Group = tuple[int, ...]
# Teachers that go on together, and from where; None: from the start.
Task = tuple[Group, State | None]


@dataclass(frozen=True)
class TrajectoryStore:
    """The trajectories in ``folder``: ``snapshots`` points of ``parameters`` numbers each.

    A file may hold more points than are asked for. Points are float32 vectors ``(P,)``. ``momentum``: whether the state
    of a training has a velocity. ``sizes``: of the network's tensors, which convex storage needs.
    """

    folder: Path
    snapshots: int
    parameters: int
    storage: Storage = "float32"
    momentum: bool = False
    sizes: tuple[int, ...] = ()

    def is_complete(self, teacher: int) -> bool:
        """Whether the teacher's whole trajectory is there."""
        return self.length(teacher) >= self.snapshots

    def length(self, teacher: int) -> int:
        """Points that are there for good, 0 without a file."""
        path = self.path(teacher)
        if not path.exists():
            return 0
        return self.rows(path)

    def snapshot(self, teacher: int, index: int) -> Tensor:
        """One point of a trajectory, ``(P,)``: only its bytes are read."""
        path = self.path(teacher)
        with self._open(path) as file:
            if not 0 <= index < self._rows(file, path):
                raise IndexError(f"{path} has no snapshot {index}")
            return self._point(file, index)

    def mean(self, teacher: int, first: int, last: int) -> Tensor:
        """The mean of the points from ``first`` to ``last``, ``(P,)``: the file is opened once."""
        path = self.path(teacher)
        with self._open(path) as file:
            if not 0 <= first <= last < self._rows(file, path):
                raise IndexError(f"{path} has no snapshots {first} to {last}")
            if self.storage == "float32":
                points: Tensor = file.get_slice("trajectory")[first : last + 1]
            else:
                points = torch.stack([self._point(file, index) for index in range(first, last + 1)])
            return points.mean(0)

    def trajectory(self, teacher: int) -> Tensor:
        """All points, ``(snapshots, P)``."""
        return torch.stack([self.snapshot(teacher, index) for index in range(self.snapshots)])

    def save(self, teacher: int, trajectory: Tensor) -> None:
        """Keep a whole trajectory that was not written point by point, ``(snapshots, P)``."""
        writer = self.writer((teacher,))
        for count, point in enumerate(trajectory.float(), 1):
            writer.add(State(count, point[None], torch.zeros_like(point[None]) if self.momentum else None))
        writer.finish()

    def waiting(self, group: Sequence[int]) -> list[Task]:
        """What is left to train of a group."""
        missing = tuple(teacher for teacher in group if not self.is_complete(teacher))
        tasks = list[Task]()
        for first in missing:
            # Several, where memory had not sufficed for all of the group.
            interrupted = None if any(first in known for known, _ in tasks) else self._interrupted(first)
            if interrupted is not None:
                known, state = interrupted
                # A shorter trajectory than the interrupted one is wanted: where that one stood is no help.
                tasks.append((known, state if state.snapshots <= self.snapshots else None))
        others = [teacher for teacher in missing if not any(teacher in known for known, _ in tasks)]
        lengths = sorted({self.length(teacher) for teacher in others})
        together = [tuple(k for k in others if self.length(k) == length) for length in lengths]
        return tasks + [(teachers, self._end(teachers)) for teachers in together]

    def writer(self, group: Group, state: State | None = None) -> "Writer":
        """Writes the points of teachers that train side by side, from the start or on from ``state``."""
        return Writer(self, group, state)

    def tidy(self) -> None:
        """Delete what killed processes left and nothing will go on from; for the one process that may write here."""
        remove_leftovers(self.folder)
        for teacher in self._numbers("state"):
            interrupted = self._interrupted(teacher)
            if interrupted is None or not any(self.path(k, "part").exists() for k in interrupted[0]):
                _unlink(self.path(teacher, "state"))
        going_on = {k for teacher in self._numbers("state") for k in (self._interrupted(teacher) or ((),))[0]}
        for teacher in set(self._numbers("part")) - going_on:
            _unlink(self.path(teacher, "part"))

    def keep(self, group: Group, state: State) -> None:
        """Keep where a group stands, under the name of its first teacher."""
        kept = {
            "teachers": torch.tensor(group),
            "snapshots": torch.tensor(state.snapshots),
            "states": _stacked(state),
        }
        write_atomic(self.path(group[0], "state"), safetensors.torch.save(kept))

    def is_at(self, group: Group, snapshots: int) -> bool:
        """Whether the training of that group was interrupted with so many points."""
        interrupted = self._interrupted(group[0])
        return interrupted is not None and (interrupted[0], interrupted[1].snapshots) == (group, snapshots)

    def forget(self, group: Group) -> None:
        """Delete the states of trainings with any of these teachers: their points are about to be written anew."""
        for teacher in self._numbers("state"):
            interrupted = self._interrupted(teacher)
            if interrupted is not None and set(interrupted[0]) & set(group):
                _unlink(self.path(teacher, "state"))

    @property
    def kernels(self) -> bool | None:
        """Whether these teachers are trained by a GPU's kernels; None where that is not decided and none has begun."""
        try:
            return bool(json.loads(self._decision.read_text()))
        except FileNotFoundError:
            return False if any(self.folder.glob("teacher-*.safetensors")) else None
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {self._decision} ({error}): delete it to do without kernels") from None

    def decide(self, kernels: bool) -> None:
        """Keep whether they are, for all who go on here."""
        write_atomic(self._decision, json.dumps(kernels).encode())

    @property
    def _decision(self) -> Path:
        return self.folder / "kernels.json"

    def path(self, teacher: int, kind: str = "") -> Path:
        """The file of a whole trajectory, or its ``part`` or ``state``."""
        return self.folder / f"teacher-{teacher:04d}{kind and '.' + kind}.safetensors"

    def layout(self, snapshots: int) -> Layout:
        """The tensors of a file with that many points."""
        return layout(self.storage, snapshots, self.parameters, len(self.sizes), 2 if self.momentum else 1)

    def _numbers(self, kind: str) -> list[int]:
        """Teachers of whom there is a ``part`` or a ``state``."""
        names = (path.name for path in self.folder.glob(f"teacher-*.{kind}.safetensors"))
        return sorted(int(name.split(".")[0].removeprefix("teacher-")) for name in names)

    def _end(self, teachers: Group) -> State | None:
        """The states at the ends of trajectories of equal lengths."""
        if self.length(teachers[0]) == 0 or is_convex(self.storage):
            return None
        states = [self.read(self.path(teacher), "state") for teacher in teachers]
        params, *velocity = torch.stack(states, 1)
        return State(self.length(teachers[0]), params, velocity[0] if velocity else None)

    def _interrupted(self, first: int) -> tuple[Group, State] | None:
        """The group whose first teacher that is, and where it stood; None if it is not known or its points are not."""
        path = self.path(first, "state")
        if not path.exists():
            return None
        with self._open(path) as file:
            group, count = tuple(file.get_tensor("teachers").tolist()), int(file.get_tensor("snapshots"))
            states = file.get_tensor("states").clone()
        if states.shape != (2 if self.momentum else 1, len(group), self.parameters):
            raise InputError(f"{path} belongs to another plan: delete it to have these teachers trained anew")
        known = all(self.path(k, "part").exists() or self.is_complete(k) for k in group)
        return (group, State(count, states[0], states[1] if self.momentum else None)) if known else None

    def read(self, path: Path, name: str) -> Tensor:
        """One tensor of a file."""
        with self._open(path) as file:
            tensor: Tensor = file.get_tensor(name).clone()
            return tensor

    @contextlib.contextmanager
    def _open(self, path: Path) -> Iterator[Any]:
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                yield file
        except (OSError, RuntimeError, safetensors.SafetensorError) as error:
            raise InputError(f"cannot read the trajectory {path} ({error}): {_REMEDY}") from None

    def rows(self, path: Path) -> int:
        """How many points a file has room for."""
        with self._open(path) as file:
            return self._rows(file, path)

    def _rows(self, file: Any, path: Path) -> int:
        """How many points a file has. Raises :class:`InputError` if it is not laid out as this store's files are."""
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
        types = {name: file.get_slice(name).get_dtype() for name in found}
        long = found.get("shares" if is_convex(self.storage) else "trajectory", (0,))
        expected = self.layout(long[0] if long else 0)
        if found != {name: shape for name, (_, shape) in expected.items()} or types != {
            name: _NAMES[dtype] for name, (dtype, _) in expected.items()
        }:
            shapes = ", ".join(f"{name} {shape}" for name, shape in sorted(found.items())) or "nothing"
            raise InputError(
                f"{path} holds {shapes}, expected a trajectory of {self.parameters} parameters kept as "
                f"{self.storage}{' with momentum' * self.momentum}: it belongs to another plan; {_REMEDY}"
            )
        count: int = long[0]
        return count

    def _point(self, file: Any, index: int) -> Tensor:
        if self.storage == "float32":
            point: Tensor = file.get_slice("trajectory")[index : index + 1][0].clone()
            return point
        if self.storage == "int16":
            units = file.get_slice("trajectory")[index : index + 1][0]
            return grow(units, file.get_slice("scales")[index : index + 1], file.get_tensor("start"))
        places = file.get_tensor("places").tolist()
        piece = sum(place <= index for place in places[1:-1])
        before, after = file.get_slice("points")[piece : piece + 2]
        return on_the_way(before, after, file.get_slice("shares")[index : index + 1][0], self.sizes)


class Writer:
    """Writes the trajectories of a group as they come into being.

    ``add`` a point of each teacher; ``checkpoint`` from time to time, so that a killed training goes on from there;
    ``finish`` makes them whole. All raise :class:`~meddistill.runtime.errors.OutputError`.
    """

    def __init__(self, store: TrajectoryStore, group: Group, state: State | None) -> None:
        self._store, self._group, self._state = store, group, state
        # A trajectory of which only some points stay is whole before it can be said which.
        self._parts = replace(store, storage="float32") if is_convex(store.storage) else store
        # Of a group whose training ended and was killed then, some may be complete.
        self._missing = {k: place for place, k in enumerate(group) if not store.is_complete(k)}
        going_on = state is not None and store.is_at(group, state.snapshots)
        if not going_on:
            store.forget(group)
        for teacher in self._missing:
            self._begin(teacher, 0 if state is None else state.snapshots, store.path(teacher, "part" * going_on))

    def add(self, state: State) -> None:
        """The newest point of each teacher, ``state.params``, in the place that ``state.snapshots`` says."""
        for teacher, place in self._missing.items():
            self._put(self._part(teacher), state.snapshots - 1, state.params[place])
        self._state = state

    def checkpoint(self) -> None:
        """Keep the state of the training, once all points up to it are on the disk."""
        for teacher in self._missing:
            _flush(self._part(teacher))
        self._store.keep(self._group, self._reached)

    def halves(self) -> list[Task]:
        """The group in two, each of which goes on from the last point, also after a kill; for the writer's end."""
        middle = len(self._group) // 2
        parts = [slice(middle), slice(middle, None)]
        if self._state is None:
            return [(self._group[part], None) for part in parts]
        self.checkpoint()
        halves = [(self._group[part], _of(self._state, part)) for part in parts]
        # The first one last: its name is that of the whole group's state, which holds until then.
        for group, state in reversed(halves):
            self._store.keep(group, state)
        return list(halves)

    def finish(self) -> None:
        """Make every trajectory whole, the first teacher's last: it is under its name that the state is looked for."""
        self.checkpoint()
        states = _stacked(self._reached)
        for teacher, place in reversed(self._missing.items()):
            finish = self._thin if is_convex(self._store.storage) else self._complete
            finish(teacher, states[:, place])
        _unlink(self._store.path(self._group[0], "state"))

    @property
    def _reached(self) -> State:
        if self._state is None:
            raise ValueError("no point has been added yet")
        return self._state

    def _complete(self, teacher: int, state: Tensor) -> None:
        part, whole = self._part(teacher), self._store.path(teacher)
        self._write(part, {"state": (0, state)})
        _flush(part)
        try:
            os.replace(part, whole)
            sync_folder(whole.parent)
        except OSError as error:
            raise write_error(whole, error) from error

    def _thin(self, teacher: int, state: Tensor) -> None:
        part, places = self._part(teacher), self._store.layout(self._store.snapshots)
        trajectory = self._store.read(part, "trajectory")
        kept = convexify(trajectory, places["points"][1][0], self._store.sizes) | {"state": state}
        write_atomic(self._store.path(teacher), _header(places) + b"".join(_raw(kept[name]) for name in places))
        _unlink(part)

    def _begin(self, teacher: int, count: int, source: Path) -> None:
        """A part of the final length with the first ``count`` points, those of ``source``, in it from the first moment.

        One that had its length before its points would be gone on from, zeros and all, after a kill in between.
        """
        part, places = self._part(teacher), self._parts.layout(self._store.snapshots)
        if source == part and self._parts.rows(part) == self._store.snapshots:
            return
        known = {name: self._store.read(source, name) for name in places if name != "state"} if count else {}
        begun = part.with_name(f".{part.name}.{os.getpid()}.tmp")
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            with open(begun, "wb") as file:
                file.write(_header(places))
                file.truncate(len(_header(places)) + sum(_bytes(*of) for of in places.values()))
            self._write(begun, {name: (0, tensor[: places[name][1][0]]) for name, tensor in known.items()})
            _flush(begun)
            os.replace(begun, part)
            sync_folder(part.parent)
        except OSError as error:
            raise write_error(part, error) from error

    def _put(self, part: Path, index: int, point: Tensor) -> None:
        if self._parts.storage == "float32":
            self._write(part, {"trajectory": (index, point)})
            return
        if index == 0:
            self._write(part, {"start": (0, point)})
        units, scale = shrink(point, self._store.read(part, "start"))
        self._write(part, {"trajectory": (index, units), "scales": (index, scale)})

    def _write(self, part: Path, pieces: Mapping[str, tuple[int, Tensor]]) -> None:
        """Write tensors into their places, each from some row on."""
        places = self._parts.layout(self._store.snapshots)
        try:
            with open(part, "r+b") as file:
                for name, (row, tensor) in pieces.items():
                    self._seek(file, places, name, row)
                    file.write(_raw(tensor))
        except OSError as error:
            raise write_error(part, error) from error

    def _seek(self, file: BinaryIO, places: Layout, name: str, row: int) -> None:
        before = list(places)[: list(places).index(name)]
        dtype, shape = places[name]
        start = len(_header(places)) + sum(_bytes(*places[other]) for other in before)
        file.seek(start + row * _bytes(dtype, shape[1:]))

    def _part(self, teacher: int) -> Path:
        return self._store.path(teacher, "part")


def _stacked(state: State) -> Tensor:
    """The vectors of a state, ``(1 or 2, K, P)``."""
    return torch.stack([state.params] if state.velocity is None else [state.params, state.velocity])


def _of(state: State, some: slice) -> State:
    """Where some of the teachers stand."""
    velocity = None if state.velocity is None else state.velocity[some]
    return State(state.snapshots, state.params[some], velocity)


def _header(places: Layout) -> bytes:
    """What a safetensors file begins with: the length of the header, and in it where each tensor is."""
    entries, end = {}, 0
    for name, (dtype, shape) in places.items():
        start, end = end, end + _bytes(dtype, shape)
        entries[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes(dtype: torch.dtype, shape: Sequence[int]) -> int:
    return dtype.itemsize * int(np.prod(shape, dtype=np.int64))


def _raw(tensor: Tensor) -> bytes:
    array = tensor.contiguous().numpy()
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _flush(path: Path) -> None:
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
