"""A run as a page tells it: learning curves, losses, overlap and diversity, time, memory, and what went wrong."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from meddistill.report import charts
from meddistill.report.charts import Band, Curve
from meddistill.report.elements import ORDER, ROW_NAMES, Figure, Table
from meddistill.report.of_answers import told_of_answers
from meddistill.report.runlog import RunLog
from meddistill.runtime.words import duration, size

_LOSSES = {
    "trajectories": "distance of trajectories",
    "training": "loss on real images",
    "regression": "error of regression on real images",
    "gradients": "distance of gradients",
    "distributions": "distance of distributions",
}
_MOST_POINTS = 12  # that the table below a curve tells


def told_of_run(run: RunLog) -> Mapping[str, Any]:
    """What the template asks of a run."""
    return {
        "log": run,
        "begun": [(name, run.begun[name]) for name in ("version", "torch", "device") if name in run.begun],
        "figures": [*_teacher_figures(run), *_matching_figures(run), *_overlap_figures(run)],
        "stages": _stage_table(run),
        "memory": _memory(run),
        "trained": _trained_table(run),
        "answers": told_of_answers(run.answers, run.classes, {one.row: one.calibration for one in run.trained}),
        "trouble": _trouble(run),
    }


def _teacher_figures(run: RunLog) -> list[Figure]:
    lines = [Curve("balanced accuracy", run.balanced_accuracy), Curve("AUROC", run.auroc)]
    bands = [Band("segments start here", *run.window)] if run.window else []
    note = (
        "Mean over teachers on validation images, by training step. Pieces of their trajectories that begin in the "
        "shaded stretch are what the synthetic images learn to reproduce."
    )
    return _figure("How the teachers learned", "training step", lines, note, bands)


def _matching_figures(run: RunLog) -> list[Figure]:
    warm = [Curve("distance of features", run.features, smoothed=True)]
    matched = [Curve(_LOSSES[run.family], run.matched, smoothed=True)]
    steps = [Curve("step size", run.step_sizes)]
    smooth = "Each point is one iteration's score; the bold line is the median of nine. Lower is nearer."
    return [
        *_figure("Distilling: the warm-up by distribution matching", "iteration", warm, smooth),
        *_figure("Distilling: the loss", "iteration", matched, smooth),
        *_figure("The learned step size", "iteration", steps, "Of the student's first step on the synthetic images."),
    ]


def _overlap_figures(run: RunLog) -> list[Figure]:
    shares = [Curve("overlapping share", run.overlap)]
    spread = [Curve("diversity", run.diversity)]
    too_near = "Share of images more alike to another of their class than nearly all pairs of real ones."
    distance = "Mean distance between images of a class: 1 less the cosine of the features a teacher sees."
    return [
        *_figure("Overlap of the synthetic images", "iteration", shares, too_near),
        *_figure("Diversity of the synthetic images", "iteration", spread, distance),
    ]


def _figure(title: str, across: str, lines: Sequence[Curve], note: str, bands: Sequence[Band] = ()) -> list[Figure]:
    """One figure, or none where nothing was logged."""
    lines = [line for line in lines if line.points]
    if not lines:
        return []
    chart = charts.curves(title, across, lines, bands)
    return [Figure(title, chart, note, _points_table(across, lines))]


def _points_table(across: str, lines: Sequence[Curve]) -> Table:
    """Some of the points that are drawn, for whoever cannot see them."""
    places = sorted({x for line in lines for x, _ in line.points})
    step = max(1, math.ceil(len(places) / _MOST_POINTS))
    kept = [*places[::-1][::step]][::-1]
    values = [dict(line.points) for line in lines]
    rows = tuple((f"{x:g}", *(f"{v[x]:.4g}" if x in v else "–" for v in values)) for x in kept)
    return Table((across, *(line.name for line in lines)), rows)


def _stage_table(run: RunLog) -> Table | None:
    if not run.stages:
        return None
    total = sum(seconds for _, seconds in run.stages)
    rows = [(name, duration(seconds), f"{seconds / max(total, 1e-9):.0%}") for name, seconds in run.stages]
    return Table(("stage", "time", "share"), (*rows, ("all", duration(total), "100%")))


def _memory(run: RunLog) -> list[tuple[str, str]]:
    """What was counted before distilling; fields that are missing are left out."""
    told = run.memory or {}
    each, free, together = (_count(told.get(key)) for key in ("bytes_each", "bytes_free", "together"))
    found = [("gradient", told.get("strategy")), ("precision", told.get("precision"))]
    rows = [(name, value) for name, value in found if isinstance(value, str)]
    rows += [("segments at once", f"{together:.0f}")] if together is not None else []
    rows += [("memory of one segment, counted beforehand", size(each))] if each is not None else []
    return rows + ([("memory that was free", size(free))] if free is not None else [])


def _count(value: object) -> float | None:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62 else None


def _trained_table(run: RunLog) -> Table | None:
    if not run.trained:
        return None
    rows = tuple(
        (ROW_NAMES.get(one.row, one.row), str(one.networks), duration(one.seconds), _range(one.calibration))
        for one in sorted(run.trained, key=lambda one: ORDER.index(one.row) if one.row in ORDER else len(ORDER))
    )
    return Table(("networks trained on", "trainings", "time of one", "calibration error %, test"), rows)


def _range(spread: tuple[float, float, float] | None) -> str:
    return "–" if spread is None else "{:.1f} ({:.1f} to {:.1f})".format(*(100 * one for one in spread))


def _trouble(run: RunLog) -> list[str]:
    """What went otherwise than smoothly."""
    told = [
        (not run.finished, "The run has not finished: what follows is what its log held."),
        (run.continued > 0, f"It was interrupted and continued {run.continued} time(s); breaks are not counted."),
        (run.skipped > 0, f"{run.skipped} iteration(s) gave no usable gradient and were skipped."),
        (run.left_out > 0, f"In {run.left_out} iteration(s) some segments ran away and were left out."),
        (run.unreadable > 0, f"{run.unreadable} line(s) of the log could not be read."),
        (
            run.plans_teachers and not run.balanced_accuracy,
            "The teachers were not measured in this run: they had been before, by another.",
        ),
    ]
    return [text for is_so, text in told if is_so]
