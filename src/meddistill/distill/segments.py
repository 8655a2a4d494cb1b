"""Which piece of which trajectory an iteration reproduces."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch


@dataclass(frozen=True)
class Segment:
    """From snapshot ``start`` to snapshot ``end`` of one teacher, in the given share of a student's steps.

    A point between two snapshots is on the straight way from one to the other.
    """

    teacher: int
    start: float
    end: float
    share_of_steps: float = 1.0

    @property
    def middle(self) -> float:
        """Half-way, in whole snapshots from the start (Dong et al. 2025, HoP-TM, arXiv 2509.24177)."""
        return self.start + (self.end - self.start) // 2

    def steps(self, most: int) -> int:
        """Student steps, of at most ``most``."""
        return max(1, math.ceil(most * self.share_of_steps - _ROUNDING))


@dataclass(frozen=True)
class Pace:
    """How far matching has come: the stage, its iterations so far, and their mean score, recent ones counting more."""

    stage: int = 0
    iterations: int = 0
    mean: float = math.nan

    def with_score(self, score: float) -> "Pace":
        """One more iteration of the stage."""
        mean = score if self.iterations == 0 else _MEMORY * self.mean + (1 - _MEMORY) * score
        return replace(self, iterations=self.iterations + 1, mean=mean)


# 7/50 of 50 steps are a little more than 7.
_ROUNDING = 1e-9
# Of the mean score of a stage, what the scores before the last one count.
_MEMORY = 0.9
# Fewer iterations say nothing about whether a stage is matched.
_LEAST_OF_A_STAGE = 10


class SegmentRule(Protocol):
    """What the loop needs of a rule for segments."""

    def draw(self, teachers: int, snapshots: int, generator: torch.Generator, share: float, pace: Pace) -> Segment:
        """A segment of trajectories with that many snapshots, after the given share of all iterations."""

    def paced(self, pace: Pace, score: float, share: float) -> Pace:
        """The pace after an iteration with that score, when the given share of all iterations is done."""


def _window(length: int, earliest: int, latest: int, snapshots: int) -> tuple[int, int]:
    """The first and the last snapshot that a segment of that length may start at in such a trajectory."""
    latest = min(latest, snapshots - 1 - length)
    if latest < 0:
        raise ValueError(f"a segment of {length} snapshots does not fit a trajectory of {snapshots}")
    return min(earliest, latest), latest


@dataclass(frozen=True)
class RandomSegments:
    """Teacher and start are uniform; the length is fixed (Cazenavette et al. 2022, algorithm 1).

    ``length``: snapshots from start to end. ``latest_start`` and ``earliest_start``: the last and the first snapshot
    that a segment may start at; a trajectory too short for them is used as far as it goes.
    """

    length: int
    latest_start: int
    earliest_start: int = 0

    def draw(
        self, teachers: int, snapshots: int, generator: torch.Generator, share: float = 0.0, pace: Pace = Pace()
    ) -> Segment:
        """One segment of trajectories with that many snapshots; neither share nor pace matters."""
        earliest, latest = _window(self.length, self.earliest_start, self.latest_start, snapshots)
        teacher = int(torch.randint(teachers, (), generator=generator))
        start = int(torch.randint(earliest, latest + 1, (), generator=generator))
        return Segment(teacher, start, start + self.length)

    def paced(self, pace: Pace, score: float, share: float) -> Pace:
        """There is one stage."""
        return pace


@dataclass(frozen=True)
class WideningSegments:
    """Random segments whose latest start moves from ``first_latest`` to ``last_latest``: easy ones come first.

    Guo et al. 2024 (DATM, arXiv 2310.05773). ``widened``: the share of all iterations after which the window is open,
    a tenth to a fifth in the source.
    """

    length: int
    first_latest: int
    last_latest: int
    earliest_start: int = 0
    widened: float = 0.2

    def draw(
        self, teachers: int, snapshots: int, generator: torch.Generator, share: float = 0.0, pace: Pace = Pace()
    ) -> Segment:
        """One segment of the window that is open after that share of the iterations."""
        opened = min(1.0, share / self.widened)
        latest = self.first_latest + math.floor((self.last_latest - self.first_latest) * opened)
        return RandomSegments(self.length, latest, self.earliest_start).draw(teachers, snapshots, generator)

    def paced(self, pace: Pace, score: float, share: float) -> Pace:
        """There is one stage."""
        return pace


@dataclass(frozen=True)
class ContinuousSegments:
    """Random segments that may start between two snapshots.

    Zhong et al. 2025 (MCT, arXiv 2406.19827): on a convexified trajectory every point between two snapshots is known.
    """

    length: int
    latest_start: int
    earliest_start: int = 0

    def draw(
        self, teachers: int, snapshots: int, generator: torch.Generator, share: float = 0.0, pace: Pace = Pace()
    ) -> Segment:
        """One segment that starts anywhere from the earliest to the latest start."""
        earliest, latest = _window(self.length, self.earliest_start, self.latest_start, snapshots)
        teacher = int(torch.randint(teachers, (), generator=generator))
        start = earliest + (latest - earliest) * float(torch.rand((), generator=generator))
        return Segment(teacher, start, start + self.length)

    def paced(self, pace: Pace, score: float, share: float) -> Pace:
        """There is one stage."""
        return pace


@dataclass(frozen=True)
class ProgressiveSegments:
    """Every segment starts where its trajectory does; its end, and the student's steps, grow in stages.

    Yu et al. 2024 (arXiv 2403.13469): the start is fixed to the beginning of the trajectory and the end is gradually
    extended. How is left open; our reading: from ``first_length`` to ``last_length`` snapshots, or to the end of a
    shorter trajectory, in ``stages`` equal parts. A stage ends when its mean score has fallen below ``matched``, or
    when its equal share of the iterations is over. A student takes steps in proportion to the segment's length.
    """

    first_length: int
    last_length: int
    stages: int
    matched: float = 0.5

    def draw(
        self, teachers: int, snapshots: int, generator: torch.Generator, share: float = 0.0, pace: Pace = Pace()
    ) -> Segment:
        """A segment of the stage that was reached, of any teacher."""
        longest = min(self.last_length, snapshots - 1)
        if longest < 1:
            raise ValueError(f"a trajectory of {snapshots} snapshot has no segment")
        length = self._length(pace.stage, longest)
        return Segment(int(torch.randint(teachers, (), generator=generator)), 0, length, length / longest)

    def paced(self, pace: Pace, score: float, share: float) -> Pace:
        """On to the next stage where this one is matched or its time is over."""
        pace = pace.with_score(score)
        is_matched = pace.iterations >= _LEAST_OF_A_STAGE and pace.mean < self.matched
        if pace.stage < self.stages - 1 and (is_matched or share >= (pace.stage + 1) / self.stages):
            return Pace(stage=pace.stage + 1)
        return pace

    def _length(self, stage: int, longest: int) -> int:
        first = min(self.first_length, longest)
        return first + round((longest - first) * stage / max(1, self.stages - 1))


# In so many parts progressive segments grow.
STAGES = 5
# A rule from the segments' length and the earliest and the latest start, in snapshots.
Segments = Callable[[int, int, int], SegmentRule]


def random(length: int, earliest: int, latest: int) -> SegmentRule:
    """The window as it is."""
    return RandomSegments(length, latest, earliest)


def widening(length: int, earliest: int, latest: int) -> SegmentRule:
    """The window, of which only the first half is open to begin with."""
    return WideningSegments(length, earliest + (latest - earliest) // 2, latest, earliest)


def continuous(length: int, earliest: int, latest: int) -> SegmentRule:
    """The window, and all that lies between its snapshots."""
    return ContinuousSegments(length, latest, earliest)


def progressive(length: int, earliest: int, latest: int) -> SegmentRule:
    """From the beginning of a trajectory; in the end as far as the window's segments reach."""
    return ProgressiveSegments(length, max(length, latest + length), STAGES)
