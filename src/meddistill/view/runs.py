"""What a run folder tells at this moment: how the run is going, what it logged, which pictures it has left.

All of it is read as a stranger's: a file that is too large, broken or of another shape counts as missing, and a number
that cannot be drawn as none.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from meddistill.report.charts import Point
from meddistill.report.runlog import EVENTS, MOST_BYTES, RunLog, json_object, number, read_run
from meddistill.runtime.errors import InputError
from meddistill.runtime.watch import COMMAND, STATUS, STOP, is_alive

State = Literal["waiting", "running", "stopping", "stopped", "lost", "failed", "done"]
RESUMABLE: tuple[State, ...] = ("stopped", "lost", "failed")
STAGES = ("teaching", "distilling", "evaluating")
_MOST_STATUS_BYTES = 2**16
_MEMORY = ("resident", "processes", "gpu")


@dataclass(frozen=True)
class Scored:
    """Networks that were trained on one row so far: how many, and their mean balanced accuracy by split."""

    row: str
    networks: int
    balanced_accuracy: Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """A run as it stands. Seconds and bytes are None where they are not known; ``share`` is of the present stage.

    ``log`` is None before the first event. ``moments``: iterations of which there are pictures.
    """

    folder: Path
    state: State
    error: str
    stage: str
    share: float | None
    seconds_left: float | None
    silent_seconds: float | None
    loss: float | None
    memory: Mapping[str, float]
    log: RunLog | None
    iterations: tuple[float, float] | None
    resident: tuple[Point, ...]
    scored: tuple[Scored, ...]
    moments: tuple[int, ...]
    command: tuple[str, ...]


def read(folder: Path) -> Run:
    """The run in ``folder`` at this moment; whatever is not there, or cannot be read, is left open."""
    status, log, now = _document(folder / STATUS), _log(folder), time.time()
    events, told = _events(folder), number(status.get("time"))
    done, total = number(status.get("done")), number(status.get("total"))
    figures = status.get("figures")
    return Run(
        folder=folder,
        state=_state(folder, status, log, now),
        error=str(status.get("error") or "")[:2000],
        stage=str(status.get("stage") or "")[:40],
        share=None if done is None or not total else min(1.0, max(0.0, done / total)),
        seconds_left=number(status.get("seconds_left")),
        silent_seconds=None if told is None else max(0.0, now - told),
        loss=(number(figures.get("loss")) if isinstance(figures, dict) else None) or _last_loss(log),
        memory=_memory(status.get("memory")),
        log=log,
        iterations=_iterations(log),
        resident=_resident(events),
        scored=_scored(events),
        moments=moments(folder),
        command=command_of(folder),
    )


def moments(folder: Path) -> tuple[int, ...]:
    """The iterations of which the run has left pictures, from first to last."""
    try:
        names = [path.stem for path in (folder / "snapshots").glob("*.safetensors")]
    except OSError:
        return ()
    return tuple(sorted({int(name) for name in names if name.isascii() and name.isdigit() and len(name) <= 12}))


def command_of(folder: Path) -> tuple[str, ...]:
    """The arguments of the command that continues the run, if they are known and lead to this very folder."""
    told = _document(folder / COMMAND)
    words, start = told.get("arguments"), told.get("folder")
    if not isinstance(words, list) or not isinstance(start, str) or not all(isinstance(word, str) for word in words):
        return ()
    try:
        return tuple(words) if _leads_to(words, Path(start), folder) else ()
    except (OSError, ValueError, RuntimeError):  # it names what no file can be called
        return ()


def starting_folder(folder: Path) -> Path:
    """Where the run's command was given."""
    return Path(str(_document(folder / COMMAND).get("folder", ".")))


def _leads_to(words: list[str], start: Path, folder: Path) -> bool:
    if words[:1] == ["demo"]:
        packages = start / (_option(words, "--out") or "meddistill-demo")
        return folder.resolve().parent == packages.resolve()
    if words[:1] != ["distill"]:
        return False
    run, out = _option(words, "--run"), _option(words, "--out")
    if run is None and out is None:
        return False
    place = start / run if run is not None else (start / str(out)).with_suffix(".run")
    return place.resolve() == folder.resolve()


def _option(words: list[str], name: str) -> str | None:
    for place, word in enumerate(words):
        if word == name:
            return "".join(words[place + 1 : place + 2])
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
    return None


def _state(folder: Path, status: Mapping[str, Any], log: RunLog | None, now: float) -> State:
    told = status.get("state")
    if told == "running":
        if not is_alive(status, now):
            return "lost"
        return "stopping" if (folder / STOP).exists() else "running"
    if told in ("stopped", "failed", "done"):
        return told  # type: ignore[no-any-return]
    if log is None:
        return "waiting"
    return "done" if log.finished else "lost"


def _document(path: Path) -> Mapping[str, Any]:
    """The JSON object in a small file; empty where there is none."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_STATUS_BYTES + 1)
    except OSError:
        return {}
    return (json_object(data) if len(data) <= _MOST_STATUS_BYTES else None) or {}


def _log(folder: Path) -> RunLog | None:
    try:
        return read_run(folder)
    except InputError:
        return None


def _events(folder: Path) -> list[Mapping[str, Any]]:
    """Events of the kinds that only the viewer shows."""
    try:
        with open(folder / EVENTS, "rb") as file:
            lines = file.read(MOST_BYTES).split(b"\n")
    except OSError:
        return []
    kinds = (b'"event": "resources"', b'"event": "evaluated"')
    return [found for line in lines if any(kind in line for kind in kinds) and (found := json_object(line))]


def _memory(told: object) -> Mapping[str, float]:
    found = told.items() if isinstance(told, dict) else ()
    return {name: value for name, each in found if name in _MEMORY and (value := number(each)) is not None}


def _resident(events: list[Mapping[str, Any]]) -> tuple[Point, ...]:
    """Megabytes by iteration."""
    pairs = [(number(one.get("iteration")), number(one.get("resident"))) for one in events]
    return tuple(sorted({x: y / 1e6 for x, y in pairs if x is not None and y is not None}.items()))


def _scored(events: list[Mapping[str, Any]]) -> tuple[Scored, ...]:
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for one in events:
        row, scores = one.get("row"), one.get("scores")
        if isinstance(row, str) and isinstance(scores, dict):
            found.setdefault(row[:40], {})[str(one.get("seed"))] = scores
    return tuple(Scored(row, len(seeds), _means(list(seeds.values()))) for row, seeds in sorted(found.items()))


def _means(scores: list[Mapping[str, Any]]) -> Mapping[str, float]:
    means = {}
    for split in ("val", "test"):
        parts = [one.get(split) for one in scores]
        told = [number(part.get("balanced_accuracy")) for part in parts if isinstance(part, dict)]
        values = [value for value in told if value is not None]
        if values:
            means[split] = fmean(values)
    return means


def _last_loss(log: RunLog | None) -> float | None:
    points = () if log is None else log.matched or log.features
    return points[-1][1] if points else None


def _iterations(log: RunLog | None) -> tuple[float, float] | None:
    """How many iterations are logged, and how many there will be, the warm-up included."""
    matching = None if log is None else log.plan.get("matching")
    if log is None or not isinstance(matching, dict):
        return None
    total = [number(matching.get(name)) or 0.0 for name in ("warm_up", "iterations")]
    reached = [x for x, _ in (*log.features, *log.matched)]
    return max(reached, default=0.0), sum(total)
