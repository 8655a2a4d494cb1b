"""Which way a teacher steps: down the loss (SGD), or down to where the loss is flat (SAM, GSAM).

Every function works on K teachers at once: their parameters are the rows of one matrix ``(K, P)``, and no row sees
another.
"""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

Optimiser = Literal["sgd", "sam", "gsam"]
OPTIMISERS: tuple[Optimiser, ...] = ("sgd", "sam", "gsam")
Slope = Callable[[Tensor], Tensor]
_TINY = 1e-12  # a teacher whose gradient is zero stays where it is


def direction(
    optimiser: Optimiser, slope: Slope, params: Tensor, *, rho: float, alpha: float, adaptive: bool
) -> Tensor:
    """What is subtracted from ``params``, times the learning rate; ``(K, P)``.

    ``slope`` gives the gradient of every row's loss on the step's batch. ``sam``: the gradient at the top of a climb of
    length ``rho`` (Foret et al. 2021, arXiv 2010.01412, equations 2 and 3). ``gsam``: that gradient, less ``alpha``
    times the part of the gradient at ``params`` that is perpendicular to it (Zhuang et al. 2022, arXiv 2203.08065,
    algorithm 1): descends the climbed loss and closes its gap to the loss itself.
    """
    here = slope(params)
    if optimiser == "sgd":
        return here
    above = slope(params + climb(params, here, rho, adaptive))
    return above if optimiser == "sam" else above - alpha * _perpendicular(here, above)


def climb(params: Tensor, slope: Tensor, rho: float, adaptive: bool) -> Tensor:
    """The climb ``ρ·g/‖g‖`` of every row; ``adaptive``: ``ρ·θ²g/‖θg‖`` (Kwon et al. 2021, arXiv 2102.11600)."""
    if not adaptive:
        return rho * slope / (_length(slope) + _TINY)
    return rho * params**2 * slope / (_length(params * slope) + _TINY)


def _perpendicular(vector: Tensor, axis: Tensor) -> Tensor:
    """What is left of every row of ``vector`` without its part along that of ``axis``."""
    along = (vector * axis).sum(1, keepdim=True) / (axis.square().sum(1, keepdim=True) + _TINY)
    return vector - along * axis


def _length(rows: Tensor) -> Tensor:
    return rows.square().sum(1, keepdim=True).sqrt()
