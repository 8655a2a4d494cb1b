"""How two models differ on the same images: paired differences of every score, with intervals over images."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from meddistill.nets.network import Network
from meddistill.nets.params import Params
from meddistill.runtime.streams import numpy_stream, stream
from meddistill.train.metrics import CALIBRATION_BINS, METRICS, measure

Floats = npt.NDArray[np.float64]

RESAMPLES = 2000
_BLOCK = 100
_TIMED_BATCH, _TIMED = 32, 5


@dataclass(frozen=True)
class Difference:
    """A score before and after, and by how much it changed: 95 % percentile interval over resampled images."""

    before: float
    after: float
    change: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """JSON-able."""
        return dict(vars(self))


def compare(before: Floats, after: Floats, labels: npt.NDArray[np.int64], seed: int = 0) -> dict[str, Difference]:
    """Every metric of two models' probabilities ``(N, K)`` for the same N images.

    The bootstrap (Efron 1979) draws images, and both models are scored on the same draw: what makes an image hard for
    both cancels. The interval says nothing of another training of either.
    """
    first, second = vars(measure(before, labels)), vars(measure(after, labels))
    generator = numpy_stream(seed, "bootstrap")
    changes = {metric: np.empty(0) for metric in METRICS}
    for _ in range(0, RESAMPLES, _BLOCK):
        drawn = generator.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), _BLOCK).astype(np.float64)
        old, new = weighted_scores(before, labels, drawn), weighted_scores(after, labels, drawn)
        changes = {metric: np.concatenate([changes[metric], new[metric] - old[metric]]) for metric in METRICS}
    found = {}
    for metric in METRICS:
        low, high = np.nanpercentile(changes[metric], [2.5, 97.5])
        change = second[metric] - first[metric]
        found[metric] = Difference(first[metric], second[metric], change, float(low), float(high))
    return found


def weighted_scores(probabilities: Floats, labels: npt.NDArray[np.int64], weights: Floats) -> dict[str, Floats]:
    """Each metric of :func:`meddistill.train.metrics.measure` for B weightings ``(B, N)`` of the images: ``(B,)``.

    A weight is how often an image was drawn. Classes that no image of a draw has do not count in it.
    """
    right = probabilities.argmax(1) == labels
    recalls, aurocs = [], []
    for label in np.unique(labels):
        mine = labels == label
        total = weights[:, mine].sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            recalls.append(weights[:, mine & right].sum(1) / total)
            aurocs.append(_auroc(probabilities[:, label], mine, weights))
    confidence = probabilities.max(1)
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    member = np.eye(CALIBRATION_BINS)[bins] * (confidence - right)[:, None]
    return {
        "balanced_accuracy": np.nanmean(recalls, axis=0),
        "auroc": np.nanmean(aurocs, axis=0) if len(aurocs) > 1 else np.full(len(weights), 0.5),
        "accuracy": weights[:, right].sum(1) / weights.sum(1),
        "expected_calibration_error": np.abs(weights @ member).sum(1) / weights.sum(1),
    }


def _auroc(scores: Floats, positive: npt.NDArray[np.bool_], weights: Floats) -> Floats:
    """The chance that a positive image scores above a negative one, a tie counting half."""
    _, place = np.unique(scores, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    of = np.add.reduceat(np.where(positive, weights, 0)[:, order], starts, axis=1)
    against = np.add.reduceat(np.where(positive, 0, weights)[:, order], starts, axis=1)
    below = against.cumsum(1) - against / 2
    return np.asarray((of * below).sum(1) / (of.sum(1) * against.sum(1)))


@dataclass(frozen=True)
class Cost:
    """What it takes to use a model: seconds for an image, in batches of 32, and bytes of parameters and features."""

    seconds: float
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"seconds_an_image": self.seconds, "bytes": self.bytes}


def cost(network: Network, params: Params) -> Cost:
    """The median of a few runs on random images, on this machine; and parameters plus the two largest features."""
    images = torch.randn(_TIMED_BATCH, network.channels, network.size, network.size, generator=stream(0, "timing"))
    seconds = []
    with torch.no_grad():
        for _ in range(_TIMED):
            begun = time.perf_counter()
            network.apply(params, images)
            seconds.append(time.perf_counter() - begun)
        with _Largest() as seen:
            network.apply(params, images)
    return Cost(float(np.median(seconds)) / _TIMED_BATCH, 4 * network.parameters + sum(seen.bytes))


class _Largest(TorchDispatchMode):
    """Sees every tensor that is computed, and keeps the bytes of the two largest."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = [0, 0]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called for every operation."""
        result = func(*args, **(kwargs or {}))
        there = {one.data_ptr() for one in tree_leaves(args) if isinstance(one, Tensor)}
        for one in tree_leaves(result):
            if isinstance(one, Tensor) and one.data_ptr() not in there:  # else it is a view
                self.bytes = sorted([*self.bytes, one.numel() * one.element_size()])[-2:]
        return result
