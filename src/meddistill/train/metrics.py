"""Scores of a classifier, and their mean and interval over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

METRICS = ("balanced_accuracy", "auroc", "accuracy")


@dataclass(frozen=True)
class Scores:
    """Scores of one network on one set of images, each in [0, 1]; ``auroc`` is one-vs-rest, averaged over classes."""

    balanced_accuracy: float
    auroc: float
    accuracy: float


@dataclass(frozen=True)
class Summary:
    """A score over seeds: mean and the 95 % interval of Student's t, which needs at least two seeds."""

    mean: float
    low: float
    high: float
    per_seed: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "per_seed": list(self.per_seed)}


def measure(probabilities: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.int64]) -> Scores:
    """Scores of class probabilities ``(N, K)`` against labels ``(N,)``.

    Classes that no image has count neither in the balanced accuracy nor in the AUROC; with a single class present the
    AUROC is undefined and given as 0.5.
    """
    from sklearn.metrics import accuracy_score, recall_score, roc_auc_score

    predicted = probabilities.argmax(1)
    present = np.unique(labels)
    recalls = recall_score(labels, predicted, labels=present, average=None, zero_division=0)
    aurocs = [roc_auc_score(labels == label, probabilities[:, label]) for label in present if len(present) > 1]
    return Scores(
        balanced_accuracy=float(np.mean(recalls)),
        auroc=float(np.mean(aurocs)) if aurocs else 0.5,
        accuracy=float(accuracy_score(labels, predicted)),
    )


def summarise(values: Sequence[float]) -> Summary:
    """Mean and 95 % interval of the mean over seeds; with one seed the interval is the value itself."""
    from scipy.stats import t

    mean = float(np.mean(values))
    half = 0.0
    if len(values) > 1:
        half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return Summary(mean, mean - half, mean + half, tuple(float(v) for v in values))


def summarise_scores(scores: Sequence[Scores]) -> dict[str, Summary]:
    """Every metric over seeds."""
    return {metric: summarise([getattr(score, metric) for score in scores]) for metric in METRICS}
