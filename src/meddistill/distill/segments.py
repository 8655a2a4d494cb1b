"""Which piece of which trajectory an iteration reproduces."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Segment:
    """From snapshot ``start`` to snapshot ``end`` of one teacher."""

    teacher: int
    start: int
    end: int


@dataclass(frozen=True)
class RandomSegments:
    """Teacher and start are uniform; the length is fixed (Cazenavette et al. 2022, algorithm 1).

    ``length``: snapshots from start to end. ``latest_start`` and ``earliest_start``: the last and the first snapshot
    that a segment may start at; a trajectory too short for them is used as far as it goes.
    """

    length: int
    latest_start: int
    earliest_start: int = 0

    def draw(self, teachers: int, snapshots: int, generator: torch.Generator) -> Segment:
        """One segment of trajectories with that many snapshots."""
        latest = min(self.latest_start, snapshots - 1 - self.length)
        if latest < 0:
            raise ValueError(f"a segment of {self.length} snapshots does not fit a trajectory of {snapshots}")
        teacher = int(torch.randint(teachers, (), generator=generator))
        earliest = min(self.earliest_start, latest)
        start = int(torch.randint(earliest, latest + 1, (), generator=generator))
        return Segment(teacher, start, start + self.length)
