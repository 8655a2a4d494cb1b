"""Pictures of a benchmark: accuracy against bytes and against time, transfer between networks, how teachers learned."""

import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from meddistill.bench.grid import FULL, Source
from meddistill.bench.tables import Line
from meddistill.bench.tasks import Cell, Layout, places, read_outcome, tasks

_DPI = 120
_PANEL = (4.6, 3.6)  # inches
_LIGHT = 0.6  # of the range of colours: from here on they are too light for white figures
Point = Callable[[Line], float | None]


def plots(layout: Layout, found: Sequence[Line]) -> dict[str, bytes]:
    """PNG files by name. Raises :class:`ImportError` without matplotlib."""
    from matplotlib.figure import Figure

    def seconds(line: Line) -> float | None:
        if not line.cell.is_distilled:
            return None
        told = read_outcome(layout.made(line.cell.source, layout.plan(line.cell, 0)))
        made: float | None = told.get("seconds")
        return made

    drawn = {
        "accuracy-bytes.png": _against(Figure, layout, found, lambda line: line.bytes or None, "bytes shared"),
        "accuracy-time.png": _against(Figure, layout, found, seconds, "seconds to make"),
        "transfer.png": _transfer(Figure, layout, found),
        "teachers.png": _teachers(Figure, layout),
    }
    return {name: _png(figure) for name, figure in drawn.items() if figure is not None}


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    # Without the metadata that would tell the version: the same figures give the same bytes.
    figure.savefig(buffer, format="png", dpi=_DPI, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def _panels(Figure: Any, count: int) -> tuple[Any, list[Any]]:
    figure = Figure(figsize=(_PANEL[0] * count, _PANEL[1]))
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _legend(panel: Any) -> None:
    if panel.get_legend_handles_labels()[1]:
        panel.legend(fontsize="small")


def _against(Figure: Any, layout: Layout, found: Sequence[Line], x: Point, label: str) -> Any:
    """A panel a cohort: balanced accuracy of the matching network over ``x``, a line for every method."""
    figure, panels = _panels(Figure, len(layout.grid.cohorts))
    is_empty = True
    for source, panel in zip(layout.grid.cohorts, panels, strict=True):
        first = layout.grid.matched_with(source)[0]
        trained = layout.grid.evaluated_with(first)
        evaluation = first if first in trained else trained[0]
        for method in layout.grid.methods:
            mine = [line for line in found if (line.cell.source, line.cell.method) == (source, method)]
            mine = [line for line in mine if line.cell.evaluation == evaluation and line.cell.matching in ("", first)]
            points = [(place, line.main) for line in mine if (place := x(line)) is not None]
            if not points:
                continue
            is_empty = False
            middle = [100 * main.mean for _, main in points]
            spread = [50 * (main.high - main.low) if main.has_interval else float("nan") for _, main in points]
            panel.errorbar([place for place, _ in points], middle, spread, marker="o", capsize=3, label=method)
        for line in found:
            if (line.cell.source, line.cell.method, line.cell.evaluation) == (source, FULL, evaluation):
                panel.axhline(100 * line.main.mean, color="grey", linestyle="--", label="all images")
        panel.set(title=f"{source.name}, {evaluation}", xscale="log", xlabel=label, ylabel="balanced accuracy, %")
        _legend(panel)
    return None if is_empty else figure


def _transfer(Figure: Any, layout: Layout, found: Sequence[Line]) -> Any:
    """Mean balanced accuracy of every method and matching network with every network that is trained on its sets."""
    grid = layout.grid
    networks = list(dict.fromkeys(name for source in grid.cohorts for name in grid.matched_with(source)))
    evaluations = list(dict.fromkeys(name for matching in networks for name in grid.evaluated_with(matching)))
    sets = [(method, matching) for method in grid.methods for matching in networks]
    means = transfer_means(layout, found)
    if len(evaluations) < 2 or not means:
        return None
    values = [[means.get((*one, evaluation), float("nan")) for evaluation in evaluations] for one in sets]
    figure, [panel] = _panels(Figure, 1)
    drawn = panel.imshow(values, aspect="auto")
    panel.set_xticks(range(len(evaluations)), evaluations, rotation=30, ha="right")
    panel.set_yticks(range(len(sets)), [f"{method}, {matching}" for method, matching in sets])
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            is_light = drawn.norm(value) > _LIGHT
            panel.text(column, row, f"{value:.1f}", ha="center", va="center", color="black" if is_light else "white")
    panel.set_title("balanced accuracy, %, mean over cohorts and sizes of all methods")
    return figure


def transfer_means(layout: Layout, found: Sequence[Line]) -> dict[tuple[str, str, str], float]:
    """By method, matching and evaluation network mean balanced accuracy in percent, all over the same sets.

    Cohorts and sizes where any of them has no figure are left out, so that none is spared a hard one.
    """
    by_cell = {line.cell: line for line in found}
    by_size: defaultdict[tuple[Source, int, int], list[tuple[str, str, Cell]]] = defaultdict(list)
    for place in places(layout.grid):
        size = (place.source, place.images_per_class, place.total_images)
        by_size[size] += [(method, place.matching, place.cell(method)) for method in layout.grid.methods]
    whole = [rows for rows in by_size.values() if all(cell in by_cell for *_, cell in rows)]
    values: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
    for method, matching, cell in (row for rows in whole for row in dict.fromkeys(rows)):
        values[method, matching, cell.evaluation].append(100 * by_cell[cell].main.mean)
    return {one: fmean(scores) for one, scores in values.items()}


def _teachers(Figure: Any, layout: Layout) -> Any:
    """How the teachers learned: balanced accuracy on validation images by snapshot, a panel a cohort."""
    taught = [(task, read_outcome(task.outcome)) for task in tasks(layout) if task.kind == "teach"]
    curves = [(task, told["curve"]) for task, told in taught if "curve" in told]
    if not curves:
        return None
    figure, panels = _panels(Figure, len(layout.grid.cohorts))
    for source, panel in zip(layout.grid.cohorts, panels, strict=True):
        for task, curve in curves:
            if task.source == source and task.plan is not None:
                points = sorted((int(point), 100 * value) for point, value in curve.items())
                name = f"{task.plan.network}, {task.plan.teachers.optimiser}, seed {task.plan.seed}"
                panel.plot([point for point, _ in points], [value for _, value in points], marker=".", label=name)
        panel.set(title=source.name, xlabel="snapshot", ylabel="balanced accuracy on validation, %")
        _legend(panel)
    return figure
