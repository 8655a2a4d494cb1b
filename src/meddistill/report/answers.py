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
    named = [one for one in events if isinstance(one.get("row"), str)]
    # A run that was killed may have told of a network twice.
    single = {(one["row"], str(one.get("seed"))): one for one in named}.values()
    for split in _SPLITS:
        by_row: dict[str, list[Answered]] = {}
        for event in single:
            if (one := _answered(event, split)) is not None:
                by_row.setdefault(event["row"], []).append(one)
        if by_row:
            return tuple(_together(parts) for parts in by_row.values())
    return ()


def _answered(event: Mapping[str, Any], split: str) -> Answered | None:
    """The answers of one event; None where they cannot be read, or there are none."""
    told, networks = event.get("answers"), event.get("networks")
    part = told.get(split) if isinstance(told, dict) else None
    bins = _counts(part.get("bins"), _MOST_BINS, width=3) if isinstance(part, dict) else None
    if part is None or bins is None or not sum(one[0] for one in bins):
        return None
    networks = networks if isinstance(networks, int) and _is_count(networks) and networks else 1
    return Answered(event["row"], split, networks, _square(part.get("confusion")), bins)


def _together(parts: Sequence[Answered]) -> Answered:
    """The sum of all parts that count the same bins and classes as the first."""
    first = parts[0]
    alike = [one for one in parts if _size(one.bins) == _size(first.bins)]
    alike = [one for one in alike if _size(one.confusion) == _size(first.confusion)]
    confusions = [one.confusion for one in alike if one.confusion is not None]
    return Answered(
        row=first.row,
        split=first.split,
        networks=sum(one.networks for one in alike),
        confusion=_sum(confusions) if confusions else None,
        bins=_sum([one.bins for one in alike]),
    )


def _size(rows: Rows | None) -> int:
    return 0 if rows is None else len(rows)


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
