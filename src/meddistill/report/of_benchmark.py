"""A benchmark as a page tells it: every set beside the others, and what sets are worth on networks of other kinds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meddistill.report import charts
from meddistill.report.cells import ALL, FULL, RANDOM, Amount, Cell, Results, Spread, Transfer, transfers
from meddistill.report.charts import Interval
from meddistill.report.elements import METRIC_NAMES, Figure, Table
from meddistill.report.of_results import span_of
from meddistill.runtime.words import size

_ROWS = {RANDOM: "random real images", FULL: "all real images"}


@dataclass(frozen=True)
class Tried:
    """One field of a transfer matrix, in per cent, and its shade from 0 to 10; what there is none of is empty.

    ``is_own``: the set was made with this network.
    """

    score: str
    interval: str
    drop: str
    drop_interval: str
    shade: int
    is_own: bool


@dataclass(frozen=True)
class Matrix:
    """A transfer matrix; a row's name says what was trained on and what it was made with, ``sets`` how many of them."""

    title: str
    networks: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[Tried | None, ...]], ...]
    sets: int


def told_of_benchmark(results: Results) -> Mapping[str, Any]:
    """What the template asks of a benchmark."""
    cells = results.cells
    cohorts = dict.fromkeys(one.cohort for one in cells)
    return {
        "name": results.name,
        "count": len(cells),
        "methods": len({one.method for one in cells} - {FULL}),
        "seeds": max((len(one.main.each) for one in cells), default=0),
        "distillations": max((one.distillations for one in cells), default=1),
        "cohorts": [(name, _charts(cells, name), _tables(cells, name)) for name in cohorts],
        "unreadable": results.unreadable,
    }


def told_of_transfer(cells: Sequence[Cell]) -> list[Matrix]:
    """What the template asks of transfer: nothing where none was measured."""
    return [_matrix(one) for one in transfers(cells)]


def _matrix(found: Transfer) -> Matrix:
    every = [cell for row in found.rows for cell in row if cell is not None]
    least, most = (pick(cell.main.mean for cell in every) for pick in (min, max))
    rows = []
    for row in found.rows:
        first = next(cell for cell in row if cell is not None)
        tried = tuple(None if cell is None else _tried(cell, least, most) for cell in row)
        rows.append((*_named(first), tried))
    title = f"{found.cohort}, {_count(found.amount)}"
    return Matrix(title, found.networks, tuple(rows), max(len(cell.sets) for cell in every))


def _named(cell: Cell) -> tuple[str, str]:
    if not cell.matching:
        return _ROWS[cell.method], ""
    return cell.method, f"{'chosen' if cell.contains_patients else 'matched'} on {cell.matching}"


def _tried(cell: Cell, least: float, most: float) -> Tried:
    main, drop = cell.main, cell.figures.get("drop")
    return Tried(
        score=_points(main.mean),
        interval=_ends(main),
        drop="" if drop is None else _points(drop.mean),
        drop_interval="" if drop is None else _ends(drop),
        shade=round(10 * (main.mean - least) / (most - least)) if most > least else 5,
        is_own=cell.matching == cell.evaluation,
    )


def _ends(spread: Spread) -> str:
    """Of the interval; nothing of a single network."""
    return f"{_points(spread.low)} to {_points(spread.high)}" if spread.has_interval else ""


def _points(value: float) -> str:
    """In per cent; what is shown as 0.0 is not −0.0."""
    return f"{round(100 * value, 1) + 0.0:.1f}"


def _count(amount: Amount) -> str:
    if amount == ALL:
        return "all images"
    each, total = amount
    count = total or each
    return f"{count} image{'' if count == 1 else 's'} {'in all' if total else 'a class'}"


def _charts(cells: Sequence[Cell], cohort: str) -> list[Figure]:
    """A chart for each size and matching network: what its own network learns from every set, the best first."""
    mine = [one for one in cells if one.cohort == cohort]
    places = dict.fromkeys((one.amount, one.matching) for one in mine if one.matching)
    sizes = dict.fromkeys(one.amount for one in mine if one.amount != ALL)
    asked = list(places) or [(amount, "") for amount in sizes]
    return [_chart(mine, amount, matching) for amount, matching in asked]


def _chart(mine: Sequence[Cell], amount: Amount, matching: str) -> Figure:
    shown = [one for one in mine if one.amount in (amount, ALL) and one.matching in ("", matching)]
    tried = list(dict.fromkeys(one.evaluation for one in shown if one.amount == amount))
    network = matching if matching in tried else tried[0]
    rows = sorted((one for one in shown if one.evaluation == network), key=lambda one: -one.main.mean)
    drawn = [_interval(one) for one in rows]
    title = f"{_count(amount)}, {network}"
    return Figure(title, charts.intervals(f"{mine[0].cohort}, {title}: per cent", drawn, span_of(drawn)))


def _interval(cell: Cell) -> Interval:
    kind = "s2" if cell.method == FULL else "s1" if cell.contains_patients else "s0"
    main = cell.main
    return Interval(_ROWS.get(cell.method, cell.method), main.mean, main.low, main.high, main.each, kind)


def _tables(cells: Sequence[Cell], cohort: str) -> list[tuple[str, Table]]:
    """A table for each size, with all that was measured."""
    mine = [one for one in cells if one.cohort == cohort]
    amounts = sorted({one.amount for one in mine}, key=_in_order)
    scores = [f"{name}\u00a0%" for name in METRIC_NAMES.values()]  # the sign stays with its word
    headers = ("trained on", "made with", "network", *scores, "gain", "bytes")
    found = []
    for amount in amounts:
        rows = [_row(one) for one in mine if one.amount == amount]
        found.append((f"{cohort}, {_count(amount)}", Table(headers, tuple(rows))))
    return found


def _in_order(amount: Amount) -> tuple[bool, bool, int]:
    """So many in all, then so many of each class, then all there are."""
    each, total = amount
    return amount == ALL, total is None, total or each or 0


def _row(cell: Cell) -> tuple[str, ...]:
    scores = [_percent(cell.figures.get(metric)) for metric in METRIC_NAMES]
    shared = "–" if cell.bytes is None else size(cell.bytes)
    name = _ROWS.get(cell.method, cell.method)
    return (name, cell.matching or "–", cell.evaluation, *scores, _percent(cell.figures.get("gain")), shared)


def _percent(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    half = f" ± {50 * (spread.high - spread.low):.1f}" if spread.has_interval else ""
    return f"{100 * spread.mean:.1f}{half}"
