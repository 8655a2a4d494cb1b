"""How the student's way is compared with the teacher's.

A distance says after which of the N steps it looks at the student, and maps what it sees there and the piece of the
teacher's trajectory to a scalar that is 1 for a student that has not moved and 0 for one that has arrived. A
:class:`Remembering` one also keeps something from one iteration to the next: learned weights, a mask that grows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.params import Params, leaves

# Kept parameters that hold less than this share of the segment's squared length do not say how far a student has come:
# biases before a norm, for example, never move.
_LEAST_KEPT = 1e-6


@dataclass(frozen=True)
class Way:
    """What a student is compared with: the segment's start, middle and end.

    ``share``: of all iterations, how many are done. ``memory``: what a :class:`Remembering` distance keeps.
    """

    start: Params
    middle: Params
    end: Params
    share: float = 0.0
    memory: Params = ()


class Distance(Protocol):
    """What the loop needs of a distance."""

    def looks_at(self, steps: int) -> Sequence[int]:
        """The steps after which it wants the parameters of a student that takes ``steps`` steps."""

    def __call__(self, states: Mapping[int, Params], way: Way) -> Tensor:
        """A scalar, differentiable with respect to the states."""


@runtime_checkable
class Remembering(Distance, Protocol):
    """A distance that keeps tensors from one iteration to the next; they are part of a run's state."""

    def first_memory(self, params: Params) -> Params:
        """The memory before the first iteration, for a network with parameters like ``params``."""

    def noted(self, states: Mapping[int, Params], way: Way) -> Params:
        """What is remembered of one student, without a graph."""

    def remembered(self, memory: Params, notes: Sequence[Params]) -> Params:
        """The memory after an iteration whose students left these notes."""


@dataclass(frozen=True)
class NormalisedL2:
    """:func:`normalised_l2` of the student's end."""

    def looks_at(self, steps: int) -> Sequence[int]:
        return (steps,)

    def __call__(self, states: Mapping[int, Params], way: Way) -> Tensor:
        return normalised_l2(states[max(states)], way.end, way.start)


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

    def __call__(self, states: Mapping[int, Params], way: Way) -> Tensor:
        end = states[max(states)]
        kept = [self.keeps(a, b) for a, b in zip(end, way.end, strict=True)]
        return _squared(end, way.end, kept) / _squared(way.start, way.end, kept)

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

    def __call__(self, states: Mapping[int, Params], way: Way) -> Tensor:
        steps = sorted(states)
        # Read all at once: on a GPU, reading waits for all that it has been told to do.
        distances = torch.stack([_absolute(states[step], way.end) for step in steps]).tolist()
        closest = steps[min(range(len(steps)), key=distances.__getitem__)]
        return normalised_l2(states[closest], way.end, way.start)


@dataclass(frozen=True)
class Weighted:
    """Normalised L2 with a learned weight for every parameter.

    Li et al. 2024 (IADD, arXiv 2401.15863) put self-adaptive weights, learned together with the images, in the place of
    pruning. How is left open; our reading: a weight is 2 σ(ω), so that it starts at 1 and stays between 0 and 2, and
    weighs a parameter's squared difference. Every iteration the ω descend by ``rate`` times their mean gradient over
    its students, divided by the gradient's root mean square, which makes the rate independent of the network.
    Parameters that are hard to match lose weight. ``weighs_normaliser``: whether the normaliser is weighted alike. The
    source's is not, from which this deviates: there no weight ever grows, and making all of them small wins.
    """

    rate: float = 0.02
    weighs_normaliser: bool = True

    def looks_at(self, steps: int) -> Sequence[int]:
        return (steps,)

    def __call__(self, states: Mapping[int, Params], way: Way) -> Tensor:
        weights = [2 * omega.sigmoid() for omega in way.memory]
        normaliser = _squared(way.start, way.end, weights if self.weighs_normaliser else None)
        return _squared(states[max(states)], way.end, weights) / normaliser

    def first_memory(self, params: Params) -> Params:
        """Every ω is 0."""
        return tuple(torch.zeros_like(param) for param in params)

    def noted(self, states: Mapping[int, Params], way: Way) -> Params:
        """The distance's gradient with respect to ω."""
        omegas = leaves(way.memory)
        with torch.enable_grad():
            return torch.autograd.grad(self(states, replace(way, memory=omegas)), omegas)

    def remembered(self, memory: Params, notes: Sequence[Params]) -> Params:
        """ω after one step of descent."""
        slopes = [torch.stack(parts).mean(0) for parts in zip(*notes, strict=True)]
        size = torch.cat([slope.flatten() for slope in slopes]).square().mean().sqrt()
        if not 0 < float(size) < math.inf:
            return memory
        return tuple(omega - self.rate * slope / size for omega, slope in zip(memory, slopes, strict=True))


@dataclass(frozen=True)
class SelfPaced:
    """Normalised L2 of the parameters that are easy so far, and the shape of the way there.

    Dong et al. 2025 (HoP-TM, arXiv 2509.24177) with its published code: a parameter counts once its squared difference
    to the target has been below the threshold τ, in any iteration; then ``shape_weight`` λ times :func:`shape_distance`
    of start, middle and end is added. τ grows by the factor ``growth`` γ in ``growths`` steps, as many as the source
    has in its 10 000 iterations. The source sets the first τ by hand for each data set; our reading, independent of the
    teachers' rate: ``threshold`` is in units of the mean squared difference between the segment's start and end. γ and
    λ are the source's for 32 pixels; for 112 it has 1.3 or 1.6, and 1.
    Where what counts hardly moves along the segment, every parameter counts.
    """

    threshold: float = 0.005
    growth: float = 1.5
    growths: int = 20
    shape_weight: float = 0.5

    def looks_at(self, steps: int) -> Sequence[int]:
        return (steps // 2, steps)

    def __call__(self, states: Mapping[int, Params], way: Way) -> Tensor:
        middle, end = states[min(states)], states[max(states)]
        shape = shape_distance((way.start, middle, end), (way.start, way.middle, way.end))
        return self._easy(end, way, self.noted(states, way)) + self.shape_weight * shape

    def first_memory(self, params: Params) -> Params:
        """No parameter counts."""
        return tuple(torch.zeros_like(param, dtype=torch.bool) for param in params)

    def noted(self, states: Mapping[int, Params], way: Way) -> Params:
        """Which parameters count, those that did before included, a truth value each."""
        end, highest = states[max(states)], self.highest(way)
        easy = ((a.detach() - b) ** 2 < highest for a, b in zip(end, way.end, strict=True))
        return tuple(before | now for before, now in zip(way.memory, easy, strict=True))

    def remembered(self, memory: Params, notes: Sequence[Params]) -> Params:
        """Those that count for any student."""
        return tuple(torch.stack(parts).any(0) for parts in zip(memory, *notes, strict=True))

    def highest(self, way: Way) -> Tensor:
        """τ, a scalar tensor."""
        mean = _squared(way.start, way.end) / sum(param.numel() for param in way.end)
        return self.threshold * self.growth ** math.floor(self.growths * way.share) * mean

    def _easy(self, end: Params, way: Way, counts: Params) -> Tensor:
        normaliser, whole = _squared(way.start, way.end, counts), _squared(way.start, way.end)
        kept, length = torch.stack([normaliser, whole]).tolist()  # in one reading
        if kept <= _LEAST_KEPT * length:
            return normalised_l2(end, way.end, way.start)
        return _squared(end, way.end, counts) / normaliser


def normalised_l2(end: Params, target: Params, start: Params) -> Tensor:
    """‖θ̂_N − θ*_end‖² / ‖θ*_start − θ*_end‖², a scalar: 1 is no progress, 0 is arrival.

    Cazenavette et al. 2022 (arXiv 2203.11932), equation 2. Differentiable with respect to ``end``.
    """
    return _squared(end, target) / _squared(start, target)


def shape_distance(student: Sequence[Params], teacher: Sequence[Params]) -> Tensor:
    """How differently two ways of three points bend, a scalar.

    Dong et al. 2025 (HoP-TM, arXiv 2509.24177) after relational distillation's angles: seen from each point a, the
    cosines between the directions to points b and c; the mean over the 27 of the smooth L1 difference.
    """
    return F.smooth_l1_loss(_cosines(student), _cosines(teacher))


def _cosines(points: Sequence[Params]) -> Tensor:
    """``(3, 3, 3)``: [a, b, c] is the cosine at a between b and c, 0 where one of them is a itself."""
    start, middle, end = (torch.cat([param.flatten() for param in point]) for point in points)
    (first, whole), second = ((_direction(point - start) for point in (middle, end)), _direction(end - middle))
    nothing = torch.zeros_like(start)
    seen = torch.stack([nothing, first, whole, -first, nothing, second, -whole, -second, nothing])
    seen = seen.view(3, 3, -1)
    return seen @ seen.transpose(1, 2)


def _direction(way: Tensor) -> Tensor:
    """Of length 1, or 0 where there is no way; its gradient is finite there too."""
    length = way.norm()
    return way / torch.where(length > 0, length, 1.0)


def _squared(one: Params, other: Params, weights: Sequence[Tensor] | None = None) -> Tensor:
    squares = [(a - b) ** 2 for a, b in zip(one, other, strict=True)]
    if weights is not None:
        squares = [weight * square for weight, square in zip(weights, squares, strict=True)]
    return torch.stack([square.sum() for square in squares]).sum()


@torch.no_grad()
def _absolute(one: Params, other: Params) -> Tensor:
    """The L1 norm of the difference, a scalar tensor."""
    return reduce(torch.add, [(a - b).abs().sum() for a, b in zip(one, other, strict=True)])
