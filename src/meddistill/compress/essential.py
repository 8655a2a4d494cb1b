"""The essential weights of a network, in stages: fewer channels, fewer weights, fewer values, fewer bytes.

The order, and retraining after each stage, are those of Deep Compression (Han et al. 2016, arXiv:1510.00149). How much
each stage saves follows from the bytes that may remain: the network becomes so narrow that ``_BITS_A_WEIGHT`` are left
for each of its weights, then weights are pruned in rounds until the coded file is as small as asked.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from meddistill.compress import coding
from meddistill.compress.codebook import Coded, Floats, at_levels, code
from meddistill.compress.prune import Ranking, may_narrow, narrowed, ranked, without_idle_biases
from meddistill.compress.retrain import Course, Pace, Slopes, retrain, slopes_of
from meddistill.nets.classics import AffineResNet18, Classic
from meddistill.nets.convnet import ConvNet
from meddistill.nets.network import Network
from meddistill.nets.params import Params
from meddistill.runtime.progress import Progress, Silent
from meddistill.runtime.progress import Stage as Progressing
from meddistill.runtime.streams import stream
from meddistill.train.protocol import protocol_for

Widths = ConvNet | Classic

_BITS_A_WEIGHT = 1.5
_VECTOR_LEVELS = 15
_SEARCHES = 10
_GENTLER = 3  # so many times is the rate of training at the levels lower, or weights keep changing theirs
_WIDEST, _DEEPEST, _LEAST_SIDE = 128, 5, 3  # of the ConvNet that learns from another network; side in pixels
_MARGIN = 0.97  # of the target: codes take a little more after the last retraining than before


@dataclass(frozen=True)
class Effort:
    """Steps of retraining at each stage, and how many levels weights end with (15 are 4 bits).

    ``fresh``: for a small network that is trained anew. ``rounds``: of pruning, each with its own retraining.
    """

    narrow: int = 300
    fresh: int = 3000
    rounds: int = 3
    prune: int = 100
    quantise: int = 200
    levels: int = 15

    def steps(self, *, narrow: bool, fresh: bool) -> int:
        """All steps of a network that becomes narrower, or not, or is trained anew."""
        return (self.fresh if fresh else self.narrow * narrow) + self.rounds * self.prune + self.quantise


@dataclass(frozen=True)
class Stage:
    """What one stage left: its name, and the bytes of the weights after it."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Essential:
    """A network reduced to its essential weights, tensor by tensor, and what each stage left."""

    network: Network
    tensors: tuple[Coded, ...]
    stages: tuple[Stage, ...]

    @property
    def params(self) -> Params:
        """The weights as a file gives them back."""
        return tuple(torch.from_numpy(coded.values()) for coded in self.tensors)


def essential(
    network: Network,
    params: Params,
    course: Course,
    target: int,
    seed: int,
    *,
    fresh: bool = False,
    effort: Effort = Effort(),
    progress: Progress = Silent(),
) -> Essential:
    """Reduce a network so that its codebooks and codes take at most ``target`` bytes, or as few as there can be.

    ``fresh``: what is left does not start with the original's channels, it is trained anew (distillation into a small
    network). Of other networks than ConvNets with instance norm all channels stay, unless ``fresh``.
    """
    stages = [Stage("original", 4 * network.parameters)]
    pupil, params = _started(network, params, target, seed, fresh=fresh)
    slimmer, rate = pupil != network, protocol_for(pupil).learning_rate
    with progress.stage("retraining", effort.steps(narrow=slimmer, fresh=fresh)) as shown:
        if slimmer or fresh:
            pace = Pace(effort.fresh if fresh else effort.narrow, rate)
            params, _ = retrain(slopes_of(pupil), params, course, pace, seed, stage=shown)
            params = without_idle_biases(pupil, params)
            stages.append(Stage("a fresh network" if fresh else "fewer channels", 4 * pupil.parameters))
        tensors, sparse = reduced(slopes_of(pupil), params, course, target, seed, effort, shown, rate=rate)
    stages += [sparse, Stage("fewer values", _fixed_bytes(tensors)), Stage("coded", coded_bytes(tensors))]
    return Essential(pupil, tensors, tuple(stages))


def reduced(
    slopes: Slopes,
    params: Params,
    course: Course,
    target: int,
    seed: int,
    effort: Effort,
    shown: Progressing,
    *,
    rate: float = Pace.learning_rate,
) -> tuple[tuple[Coded, ...], Stage]:
    """Parameters pruned in rounds and quantised, at most ``target`` bytes when coded; and what pruning alone left.

    ``rate``: of retraining, that of the network's own training: a higher one moves the threshold between classes.
    """
    prunable = [param.ndim > 1 for param in params]
    for place in range(effort.rounds):
        # The cubic schedule of Zhu & Gupta 2017 (arXiv:1710.01878, equation 1).
        ranking = ranked(params, prunable)
        kept = kept_for(ranking, prunable, round(_MARGIN * target), effort.levels)
        masks = ranking.masks(kept + (1 - kept) * (1 - (place + 1) / effort.rounds) ** 3)
        params, _ = retrain(
            slopes, _masked(params, masks), course, Pace(effort.prune, rate), seed + place, masks=masks, stage=shown
        )
    sparse = Stage("fewer weights", _sparse_bytes(params))
    books = [_book(one) for one in _coded(params, prunable, effort.levels)]
    pace = Pace(effort.quantise, rate / _GENTLER)
    params, moved = retrain(slopes, params, course, pace, seed, masks=masks, levels=books, stage=shown)
    return _within(params, moved, prunable, target), sparse


def width_for(network: Widths, target: int) -> int:
    """The width at which pruning, quantising and coding can well reach the target."""
    widths = range(1, network.width + 1)
    fits = [width for width in widths if replace(network, width=width).parameters * _BITS_A_WEIGHT <= 8 * target]
    return max(fits, default=1)


def kept_for(ranking: Ranking, prunable: Sequence[bool], target: int, levels: int) -> float:
    """The largest share of the prunable weights with which the coded tensors take at most ``target`` bytes."""

    def fits(kept: float) -> bool:
        masked = _masked(ranking.params, ranking.masks(kept))
        return _estimated_bytes(_coded(masked, prunable, levels)) <= target

    return _largest(fits)


def coded_bytes(tensors: Sequence[Coded]) -> int:
    """What the tensors take in a file: scales, levels and codes."""
    stream_bytes = len(coding.encode([(one.codes, len(one.levels)) for one in tensors]))
    return sum(4 + 2 * len(one.levels) for one in tensors) + stream_bytes


def _estimated_bytes(tensors: Sequence[Coded]) -> float:
    """About the same without coding: the entropy of each tensor's codes, and what a coder pays to learn it."""
    found = 0.0
    for one in tensors:
        counts = np.bincount(one.codes.reshape(-1), minlength=len(one.levels) + 1)
        shares = counts[counts > 0] / one.codes.size
        bits = -float((shares * np.log2(shares)).sum()) * one.codes.size + len(one.levels) / 2 * np.log2(one.codes.size)
        found += bits / 8 + 4 + 2 * len(one.levels)
    return found


def _started(network: Network, params: Params, target: int, seed: int, *, fresh: bool) -> tuple[Network, Params]:
    """The network that is to be reduced, as narrow as the target asks for, and what it starts from."""
    if not fresh:
        if not may_narrow(network):
            return network, params
        params = without_idle_biases(network, params)
        width = width_for(network, target)
        return narrowed(network, params, width) if width < network.width else (network, params)
    wide = _of_widths(network)
    slim = replace(wide, width=width_for(wide, target))
    return slim, without_idle_biases(slim, slim.init(stream(seed, "small")))


def _of_widths(network: Network) -> Widths:
    """What the original teaches a narrow one of: its own kind, or a ConvNet where that has no widths or no norms.

    The ConvNet halves images until 3 to 5 pixels a side are left.
    """
    if may_narrow(network) or (isinstance(network, Classic) and not isinstance(network, AffineResNet18)):
        return network
    depth = min(_DEEPEST, max(1, int(math.log2(network.size / _LEAST_SIDE))))
    return ConvNet(_WIDEST, depth, network.channels, network.size, network.classes)


def _largest(fits: Callable[[float], bool]) -> float:
    """The largest share from 0 to 1 that fits, by bisection."""
    if fits(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_SEARCHES):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _within(params: Params, books: Sequence[Tensor | None], prunable: Sequence[bool], target: int) -> tuple[Coded, ...]:
    """The weights at their levels, a few more of them pruned where they would take more than the target."""
    ranking = ranked(params, prunable)

    def at(kept: float) -> tuple[Coded, ...]:
        masked = _masked(params, ranking.masks(kept))
        return tuple(at_levels(param.numpy(), _numbers(book)) for param, book in zip(masked, books, strict=True))

    return at(_largest(lambda kept: coded_bytes(at(kept)) <= target))


def _numbers(book: Tensor | None) -> Floats:
    return np.zeros(0, np.float32) if book is None else np.asarray(book.numpy())


def _book(coded: Coded) -> Tensor:
    return torch.from_numpy(coded.levels.astype("float32") * coded.scale)


def _masked(params: Params, masks: Sequence[Tensor]) -> Params:
    return tuple(param * mask for param, mask in zip(params, masks, strict=True))


def _coded(params: Params, prunable: Sequence[bool], levels: int) -> list[Coded]:
    return [code(param.numpy(), levels if may else _VECTOR_LEVELS) for param, may in zip(params, prunable, strict=True)]


def _sparse_bytes(params: Params) -> int:
    """Weights that are not zero as float32, and a bit for each weight that says which those are."""
    return sum(4 * int(param.count_nonzero()) + -(-param.numel() // 8) for param in params)


def _fixed_bytes(tensors: Sequence[Coded]) -> int:
    """The same with as many bits for a weight as its codebook needs instead of 32, and the codebooks."""
    bits = sum(int((one.codes > 0).sum()) * len(one.levels).bit_length() + one.codes.size for one in tensors)
    return -(-bits // 8) + sum(4 + 2 * len(one.levels) for one in tensors)
