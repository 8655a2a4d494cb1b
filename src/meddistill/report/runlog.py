"""The event log of a run, read for its curves: what teachers learned, how matching went, what each stage took.

The log is read as a stranger's: lines that are no events (a killed run may leave half of one) are counted and passed
over, and a field that is not a number of sensible size counts as missing.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from meddistill.report.answers import Answered, read_answers
from meddistill.report.charts import Point
from meddistill.runtime.errors import InputError

EVENTS = "events.jsonl"
MOST_BYTES = 64 * 2**20
_LARGEST = 1e30
# Phases of distilling by what a method compares; before them is the warm-up, of ``features``.
FAMILIES = ("trajectories", "training", "regression", "gradients", "distributions")

Event = Mapping[str, Any]
Points = tuple[Point, ...]

# The stage that the time before an event belongs to; before any other event it is the one of the event before.
_STAGES = {
    "teacher": "training the teachers",
    "fewer teachers": "training the teachers",
    "teachers without kernels": "training the teachers",
    "teachers": "measuring the teachers",
    "window": "measuring the teachers",
    "memory": "distilling",
    "memory ran out": "distilling",
    "not compiled": "distilling",
    "no kernels": "distilling",
    "distilled": "distilling",
    "skipped": "distilling",
    "left out": "distilling",
    "overlap": "distilling",
    "evaluated": "evaluating",
    "written": "writing the package",
}


@dataclass(frozen=True)
class Trained:
    """The networks of one row of the evaluation: how many, seconds of one, mean, least and most of the calibration."""

    row: str
    networks: int
    seconds: float
    calibration: tuple[float, float, float] | None


@dataclass(frozen=True)
class RunLog:
    """What a log tells. Curves are points (step or iteration, value); ``window``: steps that segments start at.

    ``matched``: scores of what the method lowers after the warm-up; ``family``: what that is."""

    name: str
    begun: Event
    teachers: int
    balanced_accuracy: Points
    auroc: Points
    window: tuple[float, float] | None
    features: Points
    family: str
    matched: Points
    step_sizes: Points
    overlap: Points
    diversity: Points
    skipped: int
    left_out: int
    memory: Event | None
    stages: tuple[tuple[str, float], ...]
    trained: tuple[Trained, ...]
    answers: tuple[Answered, ...]
    continued: int
    finished: bool
    unreadable: int

    @property
    def plan(self) -> Event:
        """What the run set out to do; parts that are not there are left out."""
        found = self.begun.get("plan")
        return found if isinstance(found, dict) else {}

    @property
    def plans_teachers(self) -> bool:
        """Whether the plan has teachers; also where it does not tell, for most have."""
        part = self.plan.get("teachers")
        return not isinstance(part, dict) or part.get("count") != 0

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names; none where the log does not tell them."""
        found = self.begun.get("classes")
        return tuple(map(str, found)) if isinstance(found, list) else ()


def read_run(folder: Path) -> RunLog:
    """The log of the run in ``folder``. Raises :class:`InputError` where there is none, or it cannot be read."""
    events, unreadable = _events(folder)
    begun = next((one for one in events if one["event"] == "begun"), {})
    every = _setting(begun, "teachers", "snapshot_every")
    window = _of(events, "window")
    warm = [one for one in _of(events, "distilled") if one.get("phase") == "features"]
    matched = [one for one in _of(events, "distilled") if one.get("phase") in FAMILIES]
    return RunLog(
        name=folder.resolve().name,
        begun=begun,
        teachers=len(_of(events, "teacher")),
        balanced_accuracy=_points(_of(events, "teachers"), "snapshot", "balanced_accuracy", every),
        auroc=_points(_of(events, "teachers"), "snapshot", "auroc", every),
        window=_window(window[-1], every) if window else None,
        features=_points(warm, "iteration", "score"),
        family=matched[-1]["phase"] if matched else FAMILIES[0],
        matched=_points(matched, "iteration", "score"),
        step_sizes=_points(matched, "iteration", "step_size"),
        overlap=_points(_of(events, "overlap"), "iteration", "share"),
        diversity=_points(_of(events, "overlap"), "iteration", "diversity"),
        skipped=len(_of(events, "skipped")),
        left_out=len(_of(events, "left out")),
        memory=next(iter(_of(events, "memory")[-1:]), None),
        stages=tuple(_stages(events).items()),
        trained=_trained(_of(events, "evaluated")),
        answers=read_answers(_of(events, "evaluated")),
        continued=len(_of(events, "continued")),
        finished=bool(_of(events, "written")),
        unreadable=unreadable,
    )


def number(value: object) -> float | None:
    """``value`` if it is a number that can be drawn: within ±1e30; nearer to 0 than 1e-30 it is 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        return None
    return float(value) if abs(value) * _LARGEST >= 1 else 0.0


def json_object(data: bytes) -> dict[str, Any] | None:
    """The JSON object that stands there; None for anything else, however it is broken."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _events(folder: Path) -> tuple[list[Event], int]:
    path = folder / EVENTS
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"{folder} is a folder without a readable {EVENTS} ({error.strerror}): give a package (NAME.mdz), the "
            "folder of a run (NAME.run), or that of a benchmark"
        ) from None
    if len(data) > MOST_BYTES:
        raise InputError(f"{path} has more than {MOST_BYTES} bytes: no run of meddistill writes so many; give another")
    read = [_event(line) for line in data.split(b"\n") if line.strip()]
    events = [one for one in read if one is not None]
    return events, len(read) - len(events)


def _event(line: bytes) -> Event | None:
    found = json_object(line)
    return found if found is not None and isinstance(found.get("event"), str) else None


def _of(events: Iterable[Event], kind: str) -> list[Event]:
    return [one for one in events if one["event"] == kind]


def _points(events: Iterable[Event], across: str, up: str, factor: float = 1.0) -> Points:
    """The values by place; of a place that a continued run came to again, the later one."""
    pairs = [(number(one.get(across)), number(one.get(up))) for one in events]
    return tuple(sorted({x * factor: y for x, y in pairs if x is not None and y is not None}.items()))


def _setting(begun: Event, part: str, name: str) -> float:
    """A number of the plan, or 1."""
    plan = begun.get("plan")
    settings = plan.get(part) if isinstance(plan, dict) else None
    return (number(settings.get(name)) if isinstance(settings, dict) else None) or 1.0


def _window(event: Event, every: float) -> tuple[float, float] | None:
    begin, end = number(event.get("earliest_start")), number(event.get("latest_start"))
    return None if begin is None or end is None else (begin * every, end * every)


def _stages(events: Sequence[Event]) -> dict[str, float]:
    """Seconds by stage, from the times of the events; those between a killed run and its continuation do not count."""
    seconds: dict[str, float] = {}
    stage = None
    for before, event in pairwise(events):
        stage = _STAGES.get(event["event"], stage)
        begin, end = number(before.get("time")), number(event.get("time"))
        if stage is None or begin is None or end is None or event["event"] == "continued":
            continue
        seconds[stage] = seconds.get(stage, 0.0) + max(0.0, end - begin)
    return seconds


def _trained(events: Sequence[Event]) -> tuple[Trained, ...]:
    rows = sorted({one["row"] for one in events if isinstance(one.get("row"), str)})
    found = []
    for row in rows:
        # A run that was continued may have told of a network twice: the last word counts.
        mine = list({str(one.get("seed")): one for one in events if one.get("row") == row}.values())
        seconds = [taken for one in mine if (taken := number(one.get("seconds"))) is not None]
        errors = [error for one in mine if (error := _calibration(one)) is not None]
        spread = (fmean(errors), min(errors), max(errors)) if errors else None
        found.append(Trained(row, len(mine), fmean(seconds) if seconds else 0.0, spread))
    return tuple(found)


def _calibration(event: Event) -> float | None:
    """The expected calibration error on the test split."""
    scores = event.get("scores")
    test = scores.get("test") if isinstance(scores, dict) else None
    return number(test.get("expected_calibration_error")) if isinstance(test, dict) else None
