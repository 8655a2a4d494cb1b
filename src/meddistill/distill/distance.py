"""How the student's way is compared with the segment's end.

A distance says after which of the N steps it looks at the student, and maps what it sees there, the segment's end and
its start to a scalar that is 1 for a student that has not moved and 0 for one that has arrived.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from meddistill.nets.params import Params


class Distance(Protocol):
    """What the loop needs of a distance."""

    def looks_at(self, steps: int) -> Sequence[int]:
        """The steps after which it wants the parameters of a student that takes ``steps`` steps."""

    def __call__(self, states: Mapping[int, Params], target: Params, start: Params) -> Tensor:
        """A scalar, differentiable with respect to the states."""


@dataclass(frozen=True)
class NormalisedL2:
    """:func:`normalised_l2` of the student's end."""

    def looks_at(self, steps: int) -> Sequence[int]:
        return (steps,)

    def __call__(self, states: Mapping[int, Params], target: Params, start: Params) -> Tensor:
        return normalised_l2(states[max(states)], target, start)


@dataclass(frozen=True)
class Pruned:
    """Normalised L2 without the parameters that are hard to match.

    Li et al. 2022 (arXiv 2209.14603, 2209.14609): after the student's steps, parameters whose similarity to the
    teacher's is below a threshold are pruned from student, target and normaliser. Our reading, for the papers leave it
    open: the similarity of a and b is min(a/b, b/a), which is 1 for equal and negative for opposite signs; the
    ``threshold`` σ lies in (0, 1]; which parameters stay is a constant for the gradient. Where none stay the distance
    is not a number.
    """

    threshold: float = 0.1

    def looks_at(self, steps: int) -> Sequence[int]:
        return (steps,)

    def __call__(self, states: Mapping[int, Params], target: Params, start: Params) -> Tensor:
        end = states[max(states)]
        kept = [self.keeps(a, b) for a, b in zip(end, target, strict=True)]
        return _squared(end, target, kept) / _squared(start, target, kept)

    def keeps(self, end: Tensor, target: Tensor) -> Tensor:
        """Which parameters are similar enough, a truth value each."""
        end = end.detach()
        small = torch.minimum(end.abs(), target.abs())
        large = torch.maximum(end.abs(), target.abs())
        return (end == target) | ((end * target > 0) & (small >= self.threshold * large))


@dataclass(frozen=True)
class Adaptive:
    """Normalised L2 at the step after which the student came closest to the target, by the L1 norm.

    Liu et al. 2024 (ATT, arXiv 2407.14245): the number of student steps is chosen anew for
    every segment, and the gradient flows through the chosen ones alone.
    """

    def looks_at(self, steps: int) -> Sequence[int]:
        return range(1, steps + 1)

    def __call__(self, states: Mapping[int, Params], target: Params, start: Params) -> Tensor:
        closest = min(sorted(states), key=lambda step: _absolute(states[step], target))
        return normalised_l2(states[closest], target, start)


def normalised_l2(end: Params, target: Params, start: Params) -> Tensor:
    """‖θ̂_N − θ*_end‖² / ‖θ*_start − θ*_end‖², a scalar: 1 is no progress, 0 is arrival.

    Cazenavette et al. 2022 (arXiv 2203.11932), equation 2. Differentiable with respect to ``end``.
    """
    return _squared(end, target) / _squared(start, target)


def _squared(one: Params, other: Params, kept: Sequence[Tensor] | None = None) -> Tensor:
    differences = [a - b for a, b in zip(one, other, strict=True)]
    if kept is not None:
        differences = [d * mask for d, mask in zip(differences, kept, strict=True)]
    return torch.stack([(d**2).sum() for d in differences]).sum()


def _absolute(one: Params, other: Params) -> float:
    with torch.no_grad():
        return float(sum((a - b).abs().sum() for a, b in zip(one, other, strict=True)))
