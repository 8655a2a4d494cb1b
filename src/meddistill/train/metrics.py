"""Scores of a classifier, their mean and interval over seeds, and what it answered, counted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

CARD_METRICS = ("balanced_accuracy", "auroc", "accuracy")  # those that a card of format version 1 holds
METRICS = (*CARD_METRICS, "expected_calibration_error")
CALIBRATION_BINS = 15
# A confusion matrix of more classes tells nobody anything and fills the log.
MOST_CONFUSED = 50


@dataclass(frozen=True)
class Scores:
    """Scores of one network on one set of images, each in [0, 1].

    ``auroc`` is one-vs-rest, averaged over classes. Of ``expected_calibration_error`` 0 is best.
    """

    balanced_accuracy: float
    auroc: float
    accuracy: float
    expected_calibration_error: float


@dataclass(frozen=True)
class Summary:
    """A score over seeds: mean and the 95 % interval of Student's t, which needs at least two seeds."""

    mean: float
    low: float
    high: float
    per_seed: tuple[float, ...]

    @property
    def has_interval(self) -> bool:
        """Whether the ends are those of an interval: of a single network they are its score."""
        return len(self.per_seed) > 1

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "per_seed": list(self.per_seed)}


@dataclass(frozen=True)
class Repeated(Summary):
    """A score over several sets made alike: ``per_distillation`` the mean over each set's networks.

    The mean and the interval are over these.
    """

    per_distillation: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return super().as_dict() | {"per_distillation": list(self.per_distillation)}


@dataclass(frozen=True)
class Answers:
    """What networks answered on one set of images, counted over all of them.

    ``confusion``: ``(K, K)``, images by their class (rows) and by the likeliest one of the answer; None where there are
    more than 50 classes. ``bins``: ``(15, 3)``, for each bin of confidence the answers, the sum of their confidences,
    and how many of them were right.
    """

    confusion: npt.NDArray[np.int64] | None
    bins: npt.NDArray[np.float64]

    def __add__(self, other: "Answers") -> "Answers":
        """The answers of both, about the same classes."""
        if self.confusion is None or other.confusion is None:
            return Answers(None, self.bins + other.bins)
        return Answers(self.confusion + other.confusion, self.bins + other.bins)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        confusion = None if self.confusion is None else self.confusion.tolist()
        return {"confusion": confusion, "bins": np.round(self.bins, 6).tolist()}


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
        expected_calibration_error=calibration_error(probabilities, labels),
    )


def calibration_error(probabilities: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.int64]) -> float:
    """How far confidence is from accuracy, on average over images: Guo et al. 2017 (arXiv:1706.04599), equation 3.

    ``probabilities`` ``(N, K)``; the confidence of an image is its largest one. Images are sorted into 15 bins of equal
    width by confidence, ``(0, 1/15], …, (14/15, 1]``; each bin counts by the share of the images in it.
    """
    bins = calibration_bins(probabilities, labels)
    return float(np.abs(bins[:, 1] - bins[:, 2]).sum() / len(labels))


def calibration_bins(
    probabilities: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """``(15, 3)``: of the images in each bin how many there are, the sum of their confidences, and how many are right.

    ``probabilities`` ``(N, K)``, ``labels`` ``(N,)``; bins as in :func:`calibration_error`.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    place = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    columns = (np.ones(len(labels)), confidence, right)
    return np.stack([np.bincount(place, weights=column, minlength=CALIBRATION_BINS) for column in columns], axis=1)


def count_answers(probabilities: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.int64]) -> Answers:
    """The answers of one network: class probabilities ``(N, K)`` for images with labels ``(N,)``."""
    classes = probabilities.shape[1]
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, probabilities.argmax(1)), 1)
    return Answers(confusion if classes <= MOST_CONFUSED else None, calibration_bins(probabilities, labels))


def summarise(values: Sequence[float]) -> Summary:
    """Mean and 95 % interval of the mean over seeds; with one seed the interval is the value itself."""
    from scipy.stats import t

    mean = float(np.mean(values))
    half = 0.0
    if len(values) > 1:
        half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return Summary(mean, mean - half, mean + half, tuple(float(v) for v in values))


def summarise_distillations(values: Sequence[float], distillations: int) -> Summary:
    """The same over sets made alike: ``values`` of as many networks on each of so many sets, set by set.

    The interval is Student's t over the means of the sets, with ``distillations`` − 1 degrees of freedom: it holds how
    sets and the networks trained on them vary. Of one set it is :func:`summarise`.
    """
    if distillations == 1:
        return summarise(values)
    means = summarise(np.reshape(values, (distillations, -1)).mean(1).tolist())
    return Repeated(means.mean, means.low, means.high, tuple(map(float, values)), means.per_seed)


def summarise_scores(scores: Sequence[Scores]) -> dict[str, Summary]:
    """Every metric over seeds."""
    return {metric: summarise([getattr(score, metric) for score in scores]) for metric in METRICS}
