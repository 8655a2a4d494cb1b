"""What evaluated networks answered, read from the log of a run: confusion matrices and bins of confidence, row by row.

Read as a stranger's, like the rest of the log: what is not a count of sensible size is passed over.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_CLASSES = 50  # of a confusion matrix
_MOST_BINS = 50
_SPLITS = ("test", "val")  # the first that was measured is shown
_LARGEST = 1e15

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Answered:
    """The answers of all networks of one row on one split.

    ``confusion``: images by their class (rows) and by the answer, None where it was not counted. ``bins``: of each bin
    of confidence, in order, the answers, the sum of their confidences, and how many were right.
    """

    row: str
    split: str
    networks: int
    confusion: Rows | None
    bins: Rows


def read_answers(events: Iterable[Mapping[str, Any]]) -> tuple[Answered, ...]:
    """The answers that the events ``evaluated`` hold, a record for each row, all of one split."""
    # A run that was killed may have told of a network twice.
    single = {(one.get("row"), str(one.get("seed"))): one.get("answers") for one in events if _is_named(one)}
    for split in _SPLITS:
        by_row: dict[str, list[Mapping[str, Any]]] = {}
        for (row, _), told in single.items():
            part = told.get(split) if isinstance(told, dict) else None
            if isinstance(row, str) and isinstance(part, dict):
                by_row.setdefault(row, []).append(part)
        found = [one for row, parts in by_row.items() if (one := _answered(row, split, parts)) is not None]
        if found:
            return tuple(found)
    return ()


def _is_named(event: Mapping[str, Any]) -> bool:
    return isinstance(event.get("row"), str)


def _answered(row: str, split: str, parts: Sequence[Mapping[str, Any]]) -> Answered | None:
    """The sum of all parts that count the same bins; None where no part can be read."""
    bins = [one for part in parts if (one := _counts(part.get("bins"), _MOST_BINS, width=3)) is not None]
    bins = [one for one in bins if len(one) == len(bins[0])]
    confusions = [one for part in parts if (one := _square(part.get("confusion"))) is not None]
    confusions = [one for one in confusions if len(one) == len(confusions[0])]
    if not bins or not sum(one[0] for one in _sum(bins)):
        return None
    return Answered(row, split, len(bins), _sum(confusions) if confusions else None, _sum(bins))


def _square(told: object) -> Rows | None:
    return _counts(told, MOST_CLASSES, width=len(told)) if isinstance(told, list) else None


def _counts(told: object, most: int, width: int) -> Rows | None:
    """Rows of ``width`` numbers from 0 on, one row or more and at most so many."""
    if not isinstance(told, list) or not 1 <= len(told) <= most:
        return None
    if not all(isinstance(row, list) and len(row) == width and all(map(_is_count, row)) for row in told):
        return None
    return tuple(tuple(float(value) for value in row) for row in told)


def _is_count(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LARGEST


def _sum(tables: Sequence[Rows]) -> Rows:
    return tuple(tuple(map(sum, zip(*rows, strict=True))) for rows in zip(*tables, strict=True))
