"""What networks answered, as a page tells it: who is taken for whom, and whether confidence is to be believed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meddistill.report import charts
from meddistill.report.answers import Answered, Rows
from meddistill.report.charts import Bin
from meddistill.report.elements import KINDS, ORDER, ROW_NAMES, SPLIT_NAMES, Figure, Table

_MOST_CLASSES = 12  # of a matrix that is shown whole; of more classes the most frequent mistakes are listed
_MOST_MISTAKES = 15
_FEW = 3  # classes, whose matrices stand side by side

Errors = Mapping[str, tuple[float, float, float] | None]


@dataclass(frozen=True)
class Cell:
    """One cell: the share of a class in per cent, its images (a mean over networks), and its shade from 0 to 10."""

    share: str
    images: str
    shade: int
    right: bool


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix with the names of its rows and columns."""

    title: str
    classes: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def told_of_answers(answers: Sequence[Answered], classes: Sequence[str], errors: Errors) -> Mapping[str, Any] | None:
    """What the template asks of the answers; ``errors``: of each row the calibration error: mean, least, most."""
    known = sorted((one for one in answers if one.row in ORDER), key=lambda one: ORDER.index(one.row))
    if not known:
        return None
    counted = [(one, one.confusion, _names(classes, len(one.confusion))) for one in known if one.confusion is not None]
    small = [(one, found, names) for one, found, names in counted if len(names) <= _MOST_CLASSES]
    large = [(one, found, names) for one, found, names in counted if len(names) > _MOST_CLASSES]
    return {
        "split": SPLIT_NAMES[known[0].split],
        "many": any(len(names) > _FEW for _, _, names in counted),
        "matrices": [_matrix(one, found, names) for one, found, names in small],
        "mistakes": [(_title(one), _mistakes(one, found, names)) for one, found, names in large],
        "calibration": [_reliability(one, errors.get(one.row)) for one in known],
    }


def _names(classes: Sequence[str], count: int) -> tuple[str, ...]:
    """The classes' names, or numbers where the names that are known are of other classes."""
    return tuple(classes) if len(classes) == count else tuple(f"class {place + 1}" for place in range(count))


def _title(one: Answered) -> str:
    return ROW_NAMES[one.row][:1].upper() + ROW_NAMES[one.row][1:]


def _matrix(one: Answered, confusion: Rows, names: tuple[str, ...]) -> Matrix:
    rows = []
    for place, (name, counts) in enumerate(zip(names, confusion, strict=True)):
        total = sum(counts)
        shares = [count / total if total else 0.0 for count in counts]
        cells = [
            Cell(f"{100 * share:.1f}" if total else "–", _images(count / one.networks), round(10 * share), at == place)
            for at, (share, count) in enumerate(zip(shares, counts, strict=True))
        ]
        rows.append((name, tuple(cells)))
    return Matrix(_title(one), names, tuple(rows))


def _mistakes(one: Answered, confusion: Rows, names: tuple[str, ...]) -> Table:
    """The classes that are most often taken for another, by the share of the class."""
    found = [
        (count / sum(counts), names[place], names[at], count / one.networks)
        for place, counts in enumerate(confusion)
        for at, count in enumerate(counts)
        if at != place and count
    ]
    found.sort(key=lambda mistake: -mistake[0])
    rows = tuple((a, b, f"{100 * share:.1f}", _images(images)) for share, a, b, images in found[:_MOST_MISTAKES])
    return Table(("images of", "taken for", "% of the class", "images"), rows)


def _images(mean: float) -> str:
    return f"{mean:,.0f}" if mean == round(mean) or mean >= 100 else f"{mean:.1f}"


def _reliability(one: Answered, error: tuple[float, float, float] | None) -> Figure:
    total = sum(bin_[0] for bin_ in one.bins)
    bins = [Bin(sure / count, right / count, count / total) if count else None for count, sure, right in one.bins]
    name = _title(one)
    chart = charts.reliability(f"{name}: share that is right, by confidence", bins, KINDS[one.row])
    rows = tuple(
        (f"{place / len(bins):.0%} to {(place + 1) / len(bins):.0%}", *_per_cent(found))
        for place, found in enumerate(bins)
        if found is not None
    )
    note = (
        ""
        if error is None
        else "Expected calibration error {:.1f} % ({:.1f} to {:.1f}).".format(*(100 * value for value in error))
    )
    return Figure(name, chart, note, Table(("confidence", "mean %", "right %", "of all %"), rows))


def _per_cent(found: Bin) -> tuple[str, str, str]:
    return f"{100 * found.confidence:.1f}", f"{100 * found.right:.1f}", f"{100 * found.share:.1f}"
