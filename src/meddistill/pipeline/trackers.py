"""Trackers: small optional companions of the event log, which draw its figures where a team looks at all its runs.

``tensorboard[:FOLDER]`` writes files for TensorBoard through tensorboardX, which is 1 MB and needs no torch.
``mlflow[:FOLDER]`` writes ``mlflow.db``, MLflow's own SQLite store, through mlflow-skinny, without a server. Both write
into FOLDER, by default one of their name in the run folder, and send nothing. TensorBoard is given images if they are
asked for, MLflow none. What a run computes does not depend on them.
"""

import importlib.util
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from meddistill.runtime.errors import InputError, OutputError
from meddistill.runtime.events import told
from meddistill.runtime.files import write_error

TENSORBOARD, MLFLOW = "tensorboard", "mlflow"
_NEEDED = {TENSORBOARD: ("tensorboardX",), MLFLOW: ("mlflow", "sqlalchemy", "alembic")}
EXPERIMENT = "meddistill"
_LONGEST = 500  # letters of a setting that MLflow is told
# Event → field that counts its steps, and the fields that are drawn.
_DRAWN = {
    "teachers": ("snapshot", ("balanced_accuracy", "auroc")),
    "overlap": ("iteration", ("share", "diversity")),
    "resources": ("iteration", ("resident", "gpu")),
}


class Tracker(Protocol):
    """Whoever is told the events of a run."""

    wants_images: bool

    def event(self, event: Mapping[str, Any]) -> None:
        """Draw the numbers of one event."""

    def images(self, iteration: int, images: npt.NDArray[np.uint8]) -> None:
        """Draw the synthetic images ``(n, C, S, S)`` of an iteration, if they are wanted."""

    def close(self, state: str) -> None:
        """Write what is left; ``state``: ``FINISHED``, ``KILLED`` (it can be continued) or ``FAILED``."""


class TensorBoard:
    """The figures of a run as TensorBoard's scalars, and, if asked for, its images."""

    def __init__(self, folder: Path, run: Path, wants_images: bool) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder))
        self._networks = _Networks(run)
        self.wants_images = wants_images

    def event(self, event: Mapping[str, Any]) -> None:
        """Draw the numbers of one event."""
        self._networks.note(event)
        for step, name, value in scalars(event, self._networks.of_rows):
            self._writer.add_scalar(name, value, step)

    def images(self, iteration: int, images: npt.NDArray[np.uint8]) -> None:
        """Draw the synthetic images ``(n, C, S, S)`` of an iteration."""
        self._writer.add_images("synthetic_images", images, iteration)

    def close(self, state: str) -> None:
        """Write what is left."""
        self._writer.close()


class MLflow:
    """The settings and figures of a run as a run of MLflow; one that is continued goes on in the same.

    Which that is stands in ``mlflow.json`` in the run folder. A store that fails on the way is told of once, and ends
    nothing.
    """

    wants_images = False

    def __init__(self, folder: Path, run: Path, warn: Callable[[str], None]) -> None:
        self._client, self._known, self._warn = _mlflow_client(folder), run / "mlflow.json", warn
        self._networks = _Networks(run)
        self._is_lost = False
        self._run = self._continued() or self._new(folder, run.resolve().name)

    def event(self, event: Mapping[str, Any]) -> None:
        """Tell the numbers of one event, and what the run set out to do."""
        from mlflow.entities import Metric, Param

        self._networks.note(event)
        when = int(1000 * event["time"])
        figures = [
            Metric(name, float(value), when, step) for step, name, value in scalars(event, self._networks.of_rows)
        ]
        settings = [Param(name, value) for name, value in _settings(event)]
        if figures or settings:
            self._tell(lambda: self._client.log_batch(self._run, metrics=figures, params=settings))

    def images(self, iteration: int, images: npt.NDArray[np.uint8]) -> None:
        """Nothing: MLflow is given no images."""

    def close(self, state: str) -> None:
        """Say how the run ended."""
        self._tell(lambda: self._client.set_terminated(self._run, state))

    def _tell(self, say: Callable[[], None]) -> None:
        if self._is_lost:
            return
        try:
            say()
        except Exception as error:  # whatever its store raises: a full disk or a lock must not end hours of work
            self._is_lost = True
            self._warn(f"MLflow is told nothing any more: {error}")

    def _continued(self) -> str | None:
        """The run of MLflow that this run was before; None without one, or where this store does not have it."""
        try:
            known = str(json.loads(self._known.read_text())["run"])
            self._client.update_run(known, status="RUNNING")
        except Exception:
            return None
        return known

    def _new(self, folder: Path, name: str) -> str:
        found = self._client.get_experiment_by_name(EXPERIMENT)
        place = (folder.resolve() / "artifacts").as_uri()
        experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT, place)
        made = str(self._client.create_run(experiment, run_name=name).info.run_id)
        self._known.write_text(json.dumps({"run": made}))
        return made


class _Networks:
    """How many networks of each row were evaluated by now, before the run was continued as well."""

    def __init__(self, run: Path) -> None:
        self._seen: set[tuple[str, int]] = set()
        for event in told(run / "events.jsonl"):
            self.note(event)

    def note(self, event: Mapping[str, Any]) -> None:
        """One more, if the event tells of one that is new."""
        if event["event"] == "evaluated":
            self._seen.add((event["row"], event["seed"]))

    @property
    def of_rows(self) -> Counter[str]:
        return Counter(row for row, _ in self._seen)


def _mlflow_client(folder: Path) -> Any:
    """A client of the store ``mlflow.db`` in ``folder``."""
    # By default MLflow reports to its makers how it is used: not from here.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name in ("alembic", "mlflow.store.db.utils"):  # that tables are made at first is no news
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient

    folder.mkdir(parents=True, exist_ok=True)
    store = f"sqlite:///{folder.resolve() / 'mlflow.db'}"
    return MlflowClient(tracking_uri=store, registry_uri=store)


def _settings(event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and value of every setting that a run begins with."""
    plan = event.get("plan", {}) if event["event"] == "begun" else {}
    for name, value in plan.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        yield from ((f"{name}.{part}".rstrip("."), str(one)[:_LONGEST]) for part, one in parts)


def scalars(event: Mapping[str, Any], networks: Mapping[str, int]) -> Iterator[tuple[int, str, float]]:
    """Step, name and value of every figure of an event; ``networks``: how many of each row were evaluated by now."""
    kind = event["event"]
    if kind == "distilled":
        yield event["iteration"], f"loss/{event['phase']}", event["score"]
        yield event["iteration"], "step_size", event["step_size"]
    elif kind == "evaluated":
        for split, scores in event["scores"].items():
            for metric, value in scores.items():
                yield networks[event["row"]], f"{split}/{event['row']}/{metric}", value
    elif kind in _DRAWN:
        counted, names = _DRAWN[kind]
        yield from ((event[counted], f"{kind}/{name}", event[name]) for name in names if name in event)


def require_tracker(asked: str, wants_images: bool = False) -> None:
    """Raise :class:`InputError` now, before hours of work, for a tracker that is not there."""
    if not asked:
        return
    name = asked.partition(":")[0]
    if name not in _NEEDED:
        told = " or ".join(f"{one}, {one}:FOLDER" for one in _NEEDED)
        raise InputError(f"there is no tracker '{asked}': write {told}")
    if wants_images and name == MLFLOW:
        raise InputError(f"MLflow is given no images: leave --track-images out, or write --track {TENSORBOARD}")
    if not all(map(_is_installed, _NEEDED[name])):
        raise InputError(
            f"--track {name} needs another package: pip install 'meddistill[{name}]', or leave --track out"
        )


def _is_installed(module: str) -> bool:
    """Whether it could be imported: some take seconds."""
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # imported by something that left no trace of where from
        return sys.modules.get(module) is not None


@contextmanager
def tracked(asked: str, run: Path, wants_images: bool, warn: Callable[[str], None]) -> Iterator[Tracker | None]:
    """The tracker that was asked for, or None; told in the end how the run ended. ``warn``: for what goes wrong."""
    if not asked:
        yield None
        return
    tracker, state = _opened(asked, run, wants_images, warn), "FAILED"
    try:
        yield tracker
        state = "FINISHED"
    except KeyboardInterrupt:
        state = "KILLED"
        raise
    finally:
        tracker.close(state)


def _opened(asked: str, run: Path, wants_images: bool, warn: Callable[[str], None]) -> Tracker:
    name, _, place = asked.partition(":")
    folder = Path(place or run / name)
    try:
        return MLflow(folder, run, warn) if name == MLFLOW else TensorBoard(folder, run, wants_images)
    except OSError as error:
        raise write_error(folder, error) from error
    except Exception as error:  # MLflow's store raises those of several libraries
        if name != MLFLOW:
            raise
        what = str(error).splitlines()[0]
        raise OutputError(f"MLflow's store in {folder} cannot be used ({what}): name another folder") from error
