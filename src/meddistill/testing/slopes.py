"""Gradients against central differences, in float64."""

import math
from collections.abc import Callable, Collection, Iterator

import torch
from torch import Tensor

from meddistill.distill.unroll import Learned, Outcome
from meddistill.runtime.streams import stream

NAMES = ("images", "labels", "step size")
# Where a network's bend lies between two points, nearer ones agree.
_STEPS, _TOLERANCE = (1e-6, 1e-7, 1e-8), 1e-4


def is_finite(outcome: Outcome) -> bool:
    """Whether score and gradient are."""
    return math.isfinite(outcome.score) and all(bool(slope.isfinite().all()) for slope in outcome.gradient.tensors())


def wrong_slopes(
    score: Callable[[Learned], float], learned: Learned, gradient: Learned, places: Collection[int]
) -> Iterator[str]:
    """Where a gradient is not the slope of the score.

    It is measured along every part of the gradient that is not zero; along the parts at ``places``, which are learned,
    also in a random direction, for a gradient that lacks something is a slope along itself nevertheless.
    """
    if not gradient.images.any():
        yield "the score does not depend on the images, or its gradient leaves them out"
        return
    for place, (name, slope) in enumerate(zip(NAMES, gradient.tensors(), strict=True)):
        length = float(slope.norm())
        directions = [(f"along its gradient for the {name}", slope / length)] if length else []
        if place in places:
            drawn = torch.randn(slope.shape, generator=stream(0, "direction", place), dtype=slope.dtype)
            directions.append((f"in a random direction of the {name}", drawn / drawn.norm()))
        for where, direction in directions:
            told = float((slope * direction).sum())
            measured = _measured(score, learned, place, direction, told, _TOLERANCE * max(length, _TOLERANCE))
            if measured is not None:
                yield f"{where} the score should rise by {told:g}, and rises by {measured:g}"
                break


def _measured(
    score: Callable[[Learned], float], learned: Learned, place: int, direction: Tensor, told: float, tolerance: float
) -> float | None:
    """The slope in that direction, where at no distance it is what is told; else None."""
    found = list[float]()
    for step in _STEPS:
        ahead, behind = (_moved(learned, place, sign * step * direction) for sign in (1, -1))
        found.append((score(ahead) - score(behind)) / (2 * step))
        if abs(found[-1] - told) <= tolerance:
            return None
    return found[0]


def _moved(learned: Learned, place: int, by: Tensor) -> Learned:
    return Learned(*(t + by if k == place else t for k, t in enumerate(learned.tensors())))
