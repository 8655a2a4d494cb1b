"""Results as charts and tables: a package beside as many random real images and, where measured, all real ones."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from meddistill.package.schema import METRICS, ROWS, SCORED_SPLITS
from meddistill.package.types import Results
from meddistill.report import charts
from meddistill.report.charts import Interval
from meddistill.report.elements import KINDS, METRIC_NAMES, ORDER, ROW_NAMES, SPLIT_NAMES, Figure, Table

_DRAWN_NAMES = ROW_NAMES | {"random": "random real images", "own": "its own recipe"}  # short, above a line


@dataclass(frozen=True)
class Measured:
    """The results on one split: a chart for each metric, the table, and what follows."""

    split: str
    charts: tuple[Figure, ...]
    table: Table
    verdict: str


def told_of_results(results: Results | None) -> list[Measured]:
    """What was measured, the test split first; nothing where the card has no scores."""
    return [_measured(results, split) for split in reversed(SCORED_SPLITS) if _has(results, split)]


def _has(results: Results | None, split: str) -> bool:
    return results is not None and any(results.splits.get(split, {}).values())


def score_of(results: Results | None, split: str, row: str, metric: str) -> Interval | None:
    """One score with its interval, ready to be drawn."""
    score = None if results is None else results.splits.get(split, {}).get(row, {}).get(metric)
    if score is None:
        return None
    return Interval(_DRAWN_NAMES[row], score.mean, score.low, score.high, score.per_seed, KINDS[row])


def _measured(results: Results | None, split: str) -> Measured:
    assert results is not None  # the caller asked before
    found = {(row, metric): score_of(results, split, row, metric) for row in ROWS for metric in METRICS}
    span = span_of(one for one in found.values() if one is not None)
    figures = []
    for metric in METRICS:
        rows = [one for row in ORDER if (one := found[row, metric]) is not None]
        if rows:
            name = METRIC_NAMES[metric]
            title = f"{name} on the {SPLIT_NAMES[split]} images, per cent"
            figures.append(Figure(name[:1].upper() + name[1:], charts.intervals(title, rows, span)))
    lines = [
        (ROW_NAMES[row], *(_percent(found[row, metric]) for metric in METRICS))
        for row in ORDER
        if any(found[row, metric] for metric in METRICS)
    ]
    headers = ("networks trained on", *(f"{METRIC_NAMES[metric]} %" for metric in METRICS))
    return Measured(SPLIT_NAMES[split], tuple(figures), Table(headers, tuple(lines)), _verdict(found))


def span_of(rows: Iterable[Interval]) -> tuple[float, float]:
    """Round ends of an axis for all intervals, one or more, within 0 and 1."""
    every = [end for row in rows for end in (row.low, row.high, *row.each)]
    low, high = max(0.0, min(every)), min(1.0, max(every))
    return max(0.0, math.floor(low * 20 - 0.2) / 20), min(1.0, math.ceil(high * 20 + 0.2) / 20)


def _percent(found: Interval | None) -> str:
    if found is None:
        return "–"
    ends = f" ({100 * found.low:.1f} to {100 * found.high:.1f})" if found.has_interval else ""
    return f"{100 * found.value:.1f}{ends}"


def _verdict(found: Mapping[tuple[str, str], Interval | None]) -> str:
    """Whether the package's intervals lie wholly above those of as many random real images."""
    above, others = list[str](), list[str]()
    for metric in METRICS:
        mine, random = found["distilled", metric], found["random", metric]
        if mine is not None and random is not None and len(mine.each) > 1:
            (above if mine.low > random.high else others).append(METRIC_NAMES[metric])
    if not above and not others:
        return ""
    rival = "the one of as many random real images"
    if not above:
        return f"The package's interval does not lie wholly above {rival} in {_joined(others, 'or')}."
    but = f", but not in {_joined(others, 'or')}" if others else ""
    return f"The package's interval lies wholly above {rival} in {_joined(above, 'and')}{but}."


def _joined(names: Sequence[str], last: str) -> str:
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
