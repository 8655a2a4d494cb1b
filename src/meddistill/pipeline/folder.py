"""The run folder: the plan, the event log, trajectories, checkpoints; owned by one process and one run."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from meddistill.cohort.types import Cohort
from meddistill.pipeline.plan import Plan
from meddistill.pipeline.plan_file import from_toml, to_toml
from meddistill.runtime.errors import InputError
from meddistill.runtime.events import EventLog, Listener
from meddistill.runtime.files import remove_leftovers, write_atomic, write_error

LOCK = "lock"
# A run that finds all teachers there holds their folder for a moment only: so long another one waits for it.
_PATIENCE = 5.0
_PAUSE = 0.05


@dataclass(frozen=True)
class RunFolder:
    """Where things are in the folder ``path``; ``listener`` is told the events that are logged there."""

    path: Path
    listener: Listener | None = None

    @property
    def events(self) -> EventLog:
        return EventLog(self.path / "events.jsonl", self.listener)

    @property
    def plan_file(self) -> Path:
        return self.path / "plan.toml"

    @property
    def identity_file(self) -> Path:
        return self.path / "run.json"

    @property
    def teachers(self) -> Path:
        return self.path / "teachers"

    @property
    def checkpoint(self) -> Path:
        return self.path / "distilled.safetensors"

    @property
    def release(self) -> Path:
        return self.path / "release.safetensors"

    @property
    def released(self) -> Path:
        return self.path / "released.json"

    @property
    def canaries(self) -> Path:
        return self.path / "canaries.safetensors"

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    @property
    def scores(self) -> Path:
        return self.path / "scores.json"

    def resume(self, identity: str) -> Plan | None:
        """The plan of the run that is there, or None where none has begun. Raises if it is another run's folder."""
        if not self.identity_file.exists():
            return None
        try:
            stored = dict(json.loads(self.identity_file.read_text()))
            text = self.plan_file.read_text()
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"cannot read the run folder {self.path} ({error}): delete it or choose another with --run"
            ) from None
        if stored.get("identity") != identity or _digest(text) not in stored.get("plans", ()):
            raise InputError(
                f"the run folder {self.path} belongs to another run: other images, other options or an edited plan. "
                "Repeat the first command to continue that run, choose another folder with --run, or delete this one"
            )
        return from_toml(text, str(self.plan_file))

    def begin(self, identity: str, plan: Plan) -> None:
        """Write the plan, then the run's identity, which makes it resumable."""
        text = to_toml(plan)
        write_atomic(self.plan_file, text.encode())
        self._identify(identity, _digest(text))

    def amend(self, plan: Plan) -> None:
        """Put what was really done in the place of the plan; whenever this is cut short, the run stays resumable."""
        stored, text = json.loads(self.identity_file.read_text()), to_toml(plan)
        self._identify(stored["identity"], *stored["plans"], _digest(text))
        write_atomic(self.plan_file, text.encode())

    def _identify(self, identity: str, *plans: str) -> None:
        write_atomic(self.identity_file, json.dumps({"identity": identity, "plans": plans}).encode())


@contextlib.contextmanager
def owned(path: Path) -> Iterator[RunFolder]:
    """The run folder, held by this process alone until the end. Raises if another process has it."""
    problem = f"the run folder {path} is in use by another process: wait for it, or choose another folder with --run"
    with locked(path, problem):
        remove_leftovers(path)
        yield RunFolder(path)


@contextlib.contextmanager
def filling(teachers: Path, identity: str, device: str) -> Iterator[str]:
    """A folder of trajectories, which this process alone may add to until the end; the kind of device it began on.

    One folder may serve several runs. ``device``: the kind that this process would train on. Raises if it holds the
    trajectories of another ``identity``, or if another process is adding to it.
    """
    problem = (
        f"another run is training the teachers in {teachers}: wait until it distils, then repeat this command; "
        "or choose another folder with --teachers"
    )
    with locked(teachers, problem, _PATIENCE):
        yield _claimed(teachers, identity, device)


def _claimed(teachers: Path, identity: str, device: str) -> str:
    """Mark a folder of trajectories as those of ``identity``, or raise if it holds the trajectories of another one."""
    mark = teachers / "teachers.json"
    if not mark.exists():
        write_atomic(mark, json.dumps({"identity": identity, "device": device}).encode())
    held = _held(mark)
    if held.get("identity") != identity:
        raise InputError(
            f"the trajectories in {teachers} were trained on other images or by another plan: choose another folder "
            "with --teachers, or leave it out to train new ones"
        )
    return str(held.get("device", "cpu"))  # folders of before do not say: hardly any was a GPU's


def _held(mark: Path) -> dict[str, Any]:
    try:
        held = json.loads(mark.read_text())
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


def identify(request: Mapping[str, Any], cohort: Cohort) -> str:
    """A digest of all that determines a run's result: what was asked for, and every pixel, label and split."""
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode())
    for array in (cohort.images, cohort.labels, cohort.splits):
        digest.update(str((array.shape, array.dtype)).encode())
        digest.update(np.ascontiguousarray(array).data)
    digest.update(json.dumps(cohort.classes).encode())
    return digest.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def locked(folder: Path, problem: str, patience: float = 0.0) -> Iterator[None]:
    """Hold a folder; raises :class:`InputError` with ``problem`` if another process does for ``patience`` seconds."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR)
    except OSError as error:
        raise write_error(folder, error) from error
    try:
        _lock(handle, problem, time.monotonic() + patience)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, problem: str, until: float) -> None:
    try:
        import fcntl
    except ImportError:  # not a POSIX system: two processes in one folder are then the user's to avoid
        return
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if time.monotonic() >= until:
                raise InputError(problem) from None
        time.sleep(_PAUSE)
