"""Scores and answers as matplotlib figures, for notebooks."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from meddistill.runtime.plot import panels
from meddistill.train.metrics import CALIBRATION_BINS, CARD_METRICS, Answers, Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMES = {"balanced_accuracy": "balanced accuracy", "auroc": "AUROC", "accuracy": "accuracy"}
_MOST_WRITTEN = 12  # classes; the cells of a larger matrix hold no numbers


def answers(found: Answers, classes: Sequence[str], error: float) -> "Figure":
    """The confusion matrix in per cent of each class, and the reliability diagram with its calibration error."""
    figure, axes = panels(1, 2, 9.5, 4.2)
    if found.confusion is not None:
        _confusion(axes[0], found, classes)
    else:
        axes[0].set_axis_off()
    _reliability(axes[1], found, error)
    return figure


def scores(rows: Mapping[str, Mapping[str, Summary]]) -> "Figure":
    """A panel for each metric: every row's mean, its 95 % interval, and the single networks."""
    figure, axes = panels(1, len(CARD_METRICS), 10.0, 0.9 + 0.5 * len(rows))
    for panel, metric in zip(axes, CARD_METRICS, strict=True):
        for place, name in enumerate(reversed(list(rows))):
            one = rows[name][metric]
            spread = [[100 * (one.mean - one.low)], [100 * (one.high - one.mean)]]
            panel.errorbar([100 * one.mean], [place], xerr=spread, fmt="o", capsize=3, color=f"C{place}")
            panel.plot([100 * value for value in one.per_seed], [place] * len(one.per_seed), "|", color=f"C{place}")
        panel.set(title=f"{_NAMES[metric]}, %", yticks=range(len(rows)), ylim=(-0.6, len(rows) - 0.4))
        panel.set_yticklabels(list(reversed(list(rows))) if panel is axes[0] else [])
    return figure


def _confusion(panel: Any, found: Answers, classes: Sequence[str]) -> None:
    counts = np.asarray(found.confusion, np.float64)
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    panel.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    if len(classes) <= _MOST_WRITTEN:
        for row, column in np.ndindex(*shares.shape):
            dark = shares[row, column] > 55
            panel.text(column, row, f"{shares[row, column]:.1f}", ha="center", va="center", color="w" if dark else "k")
    panel.set_xticks(range(len(classes)), classes, rotation=30, ha="right")
    panel.set_yticks(range(len(classes)), classes)
    panel.set(xlabel="answer", ylabel="images of", title="per cent of each class")


def _reliability(panel: Any, found: Answers, error: float) -> None:
    count, _, right = found.bins.T
    middle = (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS
    panel.bar(100 * middle, 100 * right / np.maximum(count, 1), width=95 / CALIBRATION_BINS, alpha=0.75)
    panel.plot([0, 100], [0, 100], "k:", linewidth=1)
    panel.set(xlabel="confidence, %", ylabel="right, %", xlim=(0, 100), ylim=(0, 100))
    panel.set_title(f"calibration error {100 * error:.1f} %")
