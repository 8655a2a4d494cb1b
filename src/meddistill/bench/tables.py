"""Figures of a benchmark: a line for every cell, comparisons by seed, and both as JSON lines, CSV and Markdown.

All figures are of the test split, but for those under ``val``. Nothing here depends on the clock except ``times.csv``.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

from meddistill.bench.grid import FULL, Grid
from meddistill.bench.scores import augmentation_robust, label_robust
from meddistill.bench.tasks import (
    BENCH_VERSION,
    Cell,
    Layout,
    Task,
    cells,
    counterpart,
    full,
    is_done,
    is_taught,
    places,
    read_outcome,
    tasks,
)
from meddistill.report.cells import SETS, Spread, cell_of, transfers
from meddistill.report.cells import Cell as Told
from meddistill.train.metrics import METRICS, Repeated, Summary, summarise_distillations
from meddistill.train.protocol import PROTOCOL_VERSION

# What comparisons and the two robust scores are made of.
MAIN = "balanced_accuracy"
Figures = dict[str, list[float]]


@dataclass(frozen=True)
class Line:
    """A cell and its figures; those that need something that is not there (yet) are None.

    ``scores``: by split, row (``as is``, ``hard``, ``plain``) and metric. ``bytes``: of what somebody has to hand out,
    the package, the images at working size, or the encoder. ``gain``: by seed, how much better than random real images
    with labels of the same kind; of pretrained encoders, than the same without pretraining. ``label_robust``,
    ``augmentation_robust``: :mod:`~meddistill.bench.scores`, of balanced accuracy. ``drop``: by seed, how much worse
    than the matching network on the same sets; None for that one itself. ``sets``: the packages, below the folder of
    results.
    """

    cell: Cell
    scores: dict[str, dict[str, dict[str, Summary]]]
    bytes: float | None
    gain: Summary | None
    label_robust: Summary | None
    augmentation_robust: Summary | None
    drop: Summary | None = None
    sets: tuple[str, ...] = ()

    @property
    def main(self) -> Summary:
        """Balanced accuracy on test images, trained on the set as it is."""
        return self.scores["test"]["as is"][MAIN]

    @property
    def repeated(self) -> dict[str, int]:
        """How many distillations the figures are over, where there are several."""
        return {"distillations": len(self.main.per_distillation)} if isinstance(self.main, Repeated) else {}

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        told = {name: None if value is None else value.as_dict() for name, value in self._summaries.items()}
        scores = {
            split: {row: {metric: one.as_dict() for metric, one in metrics.items()} for row, metrics in rows.items()}
            for split, rows in self.scores.items()
        }
        return self.place | self.repeated | {"bytes": self.bytes, "sets": list(self.sets), **told, "scores": scores}

    @property
    def place(self) -> dict[str, Any]:
        """What the cell is."""
        cell = self.cell
        return {
            "cohort": cell.source.name,
            "images_per_class": cell.images_per_class or None,
            **({"total_images": cell.total_images} if cell.total_images else {}),
            "method": cell.method,
            **({"variant_of": cell.variant_of} if cell.variant_of else {}),
            "matching": cell.matching or None,
            "evaluation": cell.evaluation,
            "labels": "soft" if cell.has_soft_labels else "hard",
            "contains_patients": not cell.is_distilled,
            "shared": cell.shared,
            "labelled_by_receiver": cell.images_per_class if cell.has_few_labels else 0,
        }

    @property
    def _summaries(self) -> dict[str, Summary | None]:
        return {
            "gain": self.gain,
            "label_robust": self.label_robust,
            "augmentation_robust": self.augmentation_robust,
            "drop": self.drop,
        }


@dataclass(frozen=True)
class Comparison:
    """How much better a method is than another one on the same seeds: in one cell, or on average over all of them."""

    cohort: str
    images_per_class: int | None
    matching: str | None
    evaluation: str | None
    method: str
    against: str
    cells: int
    difference: Summary
    total_images: int = 0

    @property
    def place(self) -> dict[str, Any]:
        """All but the difference."""
        told = {name: value for name, value in vars(self).items() if name not in ("difference", "total_images")}
        return told | ({"total_images": self.total_images} if self.total_images else {})


@dataclass(frozen=True)
class Ranked:
    """A method over all cells that every method has: mean, and in how many it is best or not worse than the best.

    Not worse: the interval of the paired difference to the best mean reaches 0; None where single networks leave none.
    """

    method: str
    cells: int
    mean: float
    best: int
    not_worse: int | None


def lines(layout: Layout) -> list[Line]:
    """A line for every cell that is done."""
    done = {cell: figures for cell in cells(layout.grid) if (figures := _figures(layout, cell)) is not None}
    return [_line(layout, cell, done) for cell in done]


def _figures(layout: Layout, cell: Cell) -> dict[str, dict[str, Figures]] | None:
    """By split, row and metric the scores of all seeds, in their order; None if the cell is not done."""
    task = Task("score", layout.scores(cell), cell.source, cell=cell)
    if not is_done(layout, task):
        return None
    found = read_outcome(task.outcome)

    def of(row: str, split: str, metric: str) -> list[float]:
        return [found[f"{row} {seed}"]["scores"][split][metric] for seed in layout.seeds]

    return {
        split: {row: {metric: of(row, split, metric) for metric in METRICS} for row in layout.rows(cell)}
        for split in ("val", "test")
    }


def _over_seeds(layout: Layout) -> Callable[[Sequence[float]], Summary]:
    """How the values of all seeds become one figure."""
    return partial(summarise_distillations, distillations=layout.grid.distillations)


def _line(layout: Layout, cell: Cell, done: dict[Cell, dict[str, dict[str, Figures]]]) -> Line:
    over_seeds = _over_seeds(layout)
    scores = {
        split: {row: {metric: over_seeds(values) for metric, values in found.items()} for row, found in rows.items()}
        for split, rows in done[cell].items()
    }
    sets = (
        layout.package(cell.source, layout.plan(cell, place)) for place in layout.distillations if cell.is_distilled
    )
    names = tuple(f"{SETS}/{path.name}" for path in sets)
    gain, label, augmentation, drop = (
        None if values is None else over_seeds(values) for values in (*_against_random(cell, done), _drop(cell, done))
    )
    return Line(cell, scores, _bytes(layout, cell), gain, label, augmentation, drop, names)


def _drop(cell: Cell, done: dict[Cell, dict[str, dict[str, Figures]]]) -> list[float] | None:
    own = replace(cell, evaluation=cell.matching)
    if not cell.matching or own == cell or own not in done:
        return None
    mine, there = (done[one]["test"]["as is"][MAIN] for one in (cell, own))
    return [a - b for a, b in zip(there, mine, strict=True)]


def _against_random(
    cell: Cell, done: dict[Cell, dict[str, dict[str, Figures]]]
) -> tuple[list[float] | None, list[float] | None, list[float] | None]:
    """The gain and the two robust scores, by seed; None where what they are compared with has no figures, or is it."""
    other, ceiling = counterpart(cell), full(cell)
    if cell.method == FULL or other == cell or other not in done:
        return None, None, None
    mine, random = ({row: found[MAIN] for row, found in done[one]["test"].items()} for one in (cell, other))
    gain = [a - b for a, b in zip(mine["as is"], random["as is"], strict=True)]
    if "plain" not in mine:
        return gain, None, None
    augmentation = [
        augmentation_robust(distilled=a, random=b, distilled_plain=c, random_plain=d)
        for a, b, c, d in zip(mine["as is"], random["as is"], mine["plain"], random["plain"], strict=True)
    ]
    if ceiling not in done or (cell.has_soft_labels and not cell.is_distilled):
        return gain, None, augmentation
    hard, everything = mine.get("hard", mine["as is"]), done[ceiling]["test"]["as is"][MAIN]
    label = [
        label_robust(distilled=a, distilled_hard=b, random=c, full=d)
        for a, b, c, d in zip(mine["as is"], hard, random["as is"], everything, strict=True)
    ]
    return gain, label, augmentation


def _bytes(layout: Layout, cell: Cell) -> float | None:
    if cell.is_distilled:
        made = [read_outcome(layout.made(cell.source, layout.plan(cell, place))) for place in layout.distillations]
        return _mean_of("bytes", made)
    if cell.shared.startswith("nothing"):
        return 0.0
    if cell.has_encoder:
        return _mean_of("bytes", _pretrained(layout, cell))
    facts = read_outcome(layout.facts(cell.source, 0))
    if not facts:
        return None
    count = facts["train"] if cell.method == FULL else cell.asked(len(facts["classes"]))
    return float(count * facts["image_bytes"])


def _pretrained(layout: Layout, cell: Cell) -> list[dict[str, Any]]:
    """What is known of the encoders that the cell's seeds take."""
    used = dict.fromkeys(layout.pretrained(layout.encoder(cell, seed)) for seed in layout.seeds)
    return [read_outcome(path) for path in used]


def _mean_of(name: str, told: Sequence[dict[str, Any]]) -> float | None:
    return fmean(one[name] for one in told) if all(one.get(name) is not None for one in told) else None


def comparisons(layout: Layout, found: Sequence[Line]) -> list[Comparison]:
    """Every method against the reference on the same seeds, cell by cell and on average over the cells of both."""
    grid, over_seeds, by_cell = layout.grid, _over_seeds(layout), {line.cell: line for line in found}
    compared: list[Comparison] = []
    for method in (name for name in grid.methods if name != grid.reference):
        by_place: list[list[float]] = []
        for place in places(grid):
            mine, other = (by_cell.get(place.cell(name)) for name in (method, grid.reference))
            if mine is not None and other is not None:
                by_place.append(_differences(mine, other))
                where = (place.source.name, place.images_per_class or None, place.matching, place.evaluation)
                found_here = (1, over_seeds(by_place[-1]), place.total_images)
                compared.append(Comparison(*where, method, grid.reference, *found_here))
        if by_place:
            mean = over_seeds([fmean(differences) for differences in zip(*by_place, strict=True)])
            compared.append(Comparison("all", None, None, None, method, grid.reference, len(by_place), mean))
    return compared


def _differences(line: Line, other: Line) -> list[float]:
    return [a - b for a, b in zip(line.main.per_seed, other.main.per_seed, strict=True)]


def ranking(layout: Layout, found: Sequence[Line]) -> list[Ranked]:
    """The grid's methods over all places where each of them has figures, the highest mean first."""
    grid, over_seeds, by_cell = layout.grid, _over_seeds(layout), {line.cell: line for line in found}
    asked = [[place.cell(method) for method in grid.methods] for place in places(grid)]
    rows = [[by_cell[cell] for cell in row] for row in asked if all(cell in by_cell for cell in row)]
    if not rows:
        return []
    best = [max(row, key=lambda line: line.main.mean) for row in rows]

    def rank(place: int) -> Ranked:
        mine = [row[place] for row in rows]
        differences = [over_seeds(_differences(line, top)) for line, top in zip(mine, best, strict=True)]
        return Ranked(
            grid.methods[place],
            len(rows),
            fmean(line.main.mean for line in mine),
            sum(line is top for line, top in zip(mine, best, strict=True)),
            sum(one.high >= 0 for one in differences) if all(one.has_interval for one in differences) else None,
        )

    return sorted(map(rank, range(len(grid.methods))), key=lambda ranked: -ranked.mean)


_ENCODERS = (
    "Validation images, and beside each figure that of an encoder that was not pretrained. Rank: effective rank of the "
    "features (RankMe). Spread: how much of the features differs between images. Read by a line: balanced accuracy of "
    "a linear layer that was fitted to all training labels."
)


def encoders(layout: Layout) -> list[dict[str, str | float | bool]]:
    """What is known of every encoder that is done, on validation images."""
    rows: list[dict[str, str | float | bool]] = []
    for task in tasks(layout):
        told = read_outcome(task.outcome) if task.encoder is not None else {}
        if task.encoder is None or "pretrained" not in told:
            continue
        mine, fresh, encoder = told["pretrained"], told["fresh"], task.encoder
        place = {"cohort": encoder.source.name, "method": encoder.row, "network": encoder.network}
        row = place | {"distillation": encoder.distillation, "number": encoder.number, "bytes": told["bytes"]}
        row |= {"features": mine["features"], "collapsed": mine["collapsed"]}
        for name in ("rank", "spread", "read by a line"):
            row |= {name: mine[name], f"{name}, not pretrained": fresh[name]}
        rows.append(row)
    return rows


def encoders_csv(layout: Layout) -> str:
    """A row for every encoder."""
    return _csv(encoders(layout))


def json_lines(found: Iterable[Line]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(line.as_dict()) + "\n" for line in found)


def results_csv(found: Iterable[Line]) -> str:
    """A row for every line; of each figure the mean and the ends of its 95 % interval, where it has one."""
    rows = []
    for line in found:
        figures: dict[str, Summary | None] = {
            f"{split} {row} {metric}".replace(" as is", ""): summary
            for split, rows_ in sorted(line.scores.items())
            for row, metrics in rows_.items()
            for metric, summary in metrics.items()
        }
        figures |= {name: getattr(line, name) for name in ("gain", "label_robust", "augmentation_robust", "drop")}
        rows.append(line.place | line.repeated | {"bytes": line.bytes} | _columns(figures))
    return _csv(rows)


def comparisons_csv(found: Iterable[Comparison]) -> str:
    """A row for every comparison."""
    return _csv([one.place | {"difference": None} | _columns({"difference": one.difference}) for one in found])


def _columns(figures: dict[str, Summary | None]) -> dict[str, float | None]:
    return {
        f"{name}{suffix}": getattr(summary, part) if summary.has_interval or part == "mean" else None
        for name, summary in figures.items()
        if summary is not None
        for suffix, part in (("", "mean"), (" low", "low"), (" high", "high"))
    }


def times_csv(layout: Layout) -> str:
    """Seconds of this machine: to teach and to make each distilled set or encoder, and to train one network."""
    rows = []
    for cell in cells(layout.grid):
        scored = read_outcome(layout.scores(cell))
        if not scored:
            continue
        row = Line(cell, {}, None, None, None, None).place | {
            "training": round(fmean(one["seconds"] for one in scored.values()), 3)
        }
        if cell.has_plan:
            plan = layout.plan(cell, 0)
            taught = read_outcome(layout.taught(cell.source, plan)) if is_taught(plan) else {}
            row["teaching"] = taught.get("seconds")
            row["making"] = read_outcome(layout.made(cell.source, plan)).get("seconds") if cell.is_distilled else None
        if cell.has_encoder:
            row["making"] = _mean_of("seconds", _pretrained(layout, cell))
        rows.append(row)
    return _csv(rows)


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def markdown(layout: Layout, found: Sequence[Line]) -> str:
    """The tables for people, in percent."""
    grid = layout.grid
    parts = [
        f"Protocol {PROTOCOL_VERSION}, benchmark {BENCH_VERSION}: {_measured(grid)} Gain: over as many random "
        "real images with labels of the same kind, paired by seed; LRS and ARS: the label-robust and the "
        "augmentation-robust score, of balanced accuracy. Sets of real images (*) hold patients' images. Shared: what "
        "somebody has to hand out; in rows with † the few labelled images are the receiver's own."
        + _unmirrored(layout, found)
    ]
    parts += [_variants(grid)] if any(name in grid.variants for name in grid.methods) else []
    parts += [_overall(layout, found)] if len(grid.methods) > 1 else []
    for source in grid.cohorts:
        mine = [line for line in found if line.cell.source == source]
        if mine:
            parts.append(f"## {source.name}, {source.size} pixels\n\n" + _table(_HEADERS, map(_row, mine)))
    parts += _transfer(found)
    if rows := encoders(layout):
        parts.append(f"## Encoders\n\n{_table(tuple(rows[0]), map(_words, rows))}\n\n{_ENCODERS}")
    return "\n\n".join(parts) + "\n"


def _unmirrored(layout: Layout, found: Sequence[Line]) -> str:
    """Which rows were trained with ``flip = false``."""
    cells = [line.cell for line in found if not layout.flip(line.cell)]
    rows = dict.fromkeys(f"{cell.source.name} {cell.method}" for cell in cells)
    return f" Trained without mirrored images: {', '.join(rows)}." if rows else ""


def _measured(grid: Grid) -> str:
    """What was repeated, and hence what the intervals hold."""
    if grid.distillations == 1:
        shown = "mean ± half of the 95 % interval" if grid.seeds > 1 else "of one network, which has no interval"
        return f"{grid.seeds} seeds, 1 distillation(s) a method. Test split, percent, {shown}."
    return (
        f"{grid.distillations} distillations a method, each with a seed, teachers and {grid.seeds} trained network(s) "
        "of its own. Test split, percent, mean ± half of the 95 % interval over the distillations (Student's t over "
        "their means): it holds what another distillation would change, teachers, start, training and, of sources "
        "without splits, the split among it, but not what other patients would. Random real images are drawn anew for "
        "every network."
    )


def _variants(grid: Grid) -> str:
    """What each variant is."""
    told = []
    for name, method in ((name, grid.variants[name]) for name in grid.methods if name in grid.variants):
        settings = (
            {f"{key}.{inner}": one for inner, one in value.items()} if isinstance(value, dict) else {key: value}
            for key, value in grid.settings_of(name).items()
        )
        words = [f"{key} = {json.dumps(value)}" for part in settings for key, value in part.items()]
        told.append(f"{name}: {method} with {', '.join(words) or 'nothing of its own'}.")
    return " ".join(told)


_HEADERS = (
    *("images a class", "method", "matched on", "trained", "shared", "balanced accuracy", "AUROC", "accuracy"),
    *("gain", "LRS", "ARS"),
)


def _row(line: Line) -> list[str]:
    cell, scores = line.cell, line.scores["test"]["as is"]
    return [
        cell.amount or "all",
        cell.method + ("†" if cell.has_few_labels else "*" * (not cell.is_distilled)),
        cell.matching or "–",
        cell.evaluation,
        cell.shared + (f", {line.bytes / 1000:,.1f} kB" if line.bytes else ""),
        *(percent(scores[metric]) for metric in ("balanced_accuracy", "auroc", "accuracy")),
        *(percent(summary) for summary in (line.gain, line.label_robust, line.augmentation_robust)),
    ]


_TRANSFER = (
    "Balanced accuracy of every network that was trained on a set; behind it, where it is another than the set was "
    "made with, how many points it is worse than that one, paired by seed."
)


def _transfer(found: Sequence[Line]) -> list[str]:
    """A matrix for each cohort and size; nothing where no set was tried on another network."""
    read = [cell_of(line.as_dict()) for line in found]
    tables = []
    for one in transfers([cell for cell in read if cell is not None]):
        rows = [_transfer_row(row) for row in one.rows]
        each, total = one.amount
        title = f"{one.cohort}, {total} image(s) in all" if total else f"{one.cohort}, {each} image(s) a class"
        tables.append(f"### {title}\n\n" + _table(("method", "matched on", *one.networks), rows))
    return [f"## Transfer\n\n{_TRANSFER}", *tables] if tables else []


def _transfer_row(row: Sequence[Told | None]) -> list[str]:
    first = next(cell for cell in row if cell is not None)
    return [first.method + "*" * first.contains_patients, first.matching or "–", *map(_tried, row)]


def _tried(cell: Told | None) -> str:
    if cell is None:
        return "–"
    drop = cell.figures.get("drop")
    return percent(cell.main) + ("" if drop is None else f" (drop {percent(drop)})")


def _words(row: dict[str, str | float | bool]) -> list[str]:
    words = {True: "yes", False: "no"}
    return [
        words[one] if isinstance(one, bool) else f"{one:.3g}" if isinstance(one, float) else str(one)
        for one in row.values()
    ]


def _overall(layout: Layout, found: Sequence[Line]) -> str:
    against = {one.method: one for one in comparisons(layout, found) if one.cohort == "all"}
    headers = ("method", "cells", "balanced accuracy", f"difference to {layout.grid.reference}", "best", "not worse")
    rows = [
        [
            one.method,
            str(one.cells),
            f"{100 * one.mean:.1f}",
            percent(against[one.method].difference) if one.method in against else "–",
            str(one.best),
            "–" if one.not_worse is None else str(one.not_worse),
        ]
        for one in ranking(layout, found)
    ]
    note = "Best: the highest mean of a cell; not worse: the interval of the paired difference to it reaches 0."
    return f"## All cells\n\n{_table(headers, rows)}\n\n{note}"


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (headers, ["---"] * len(headers), *rows))


def percent(summary: Summary | Spread | None) -> str:
    """Mean ± half of the 95 % interval, in percent; of a single network, which has no interval, its score."""
    if summary is None:
        return "–"
    half = f" ± {50 * (summary.high - summary.low):.1f}" if summary.has_interval else ""
    return f"{100 * summary.mean:.1f}{half}"
