"""Train a network on, or anew, by the answers of the network that it stands for.

The loss is the cross-entropy with a mixture of the original's class probabilities for the very image, augmented alike
(Hinton et al. 2015, arXiv:1503.02531; the same view for both: Beyer et al. 2022, arXiv:2106.05237), and the label.
Two kinds of constraint hold at every step: weights that were pruned stay zero, and, towards the end, the network
computes with the few levels of its codebooks while the gradient moves the weights behind them (straight-through
estimator, Bengio et al. 2013, arXiv:1308.3432); the codebooks follow by one step of k-means.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.augment import Augmentation
from meddistill.nets.gradient import gradient_of_one
from meddistill.nets.network import Network
from meddistill.nets.params import Params, leaves, sound
from meddistill.runtime.errors import MeddistillError
from meddistill.runtime.progress import Stage
from meddistill.runtime.streams import stream
from meddistill.train.protocol import TrainingSet

# The gradient of the mean cross-entropy of (parameters, inputs, what they should give), as of the parameters.
Slopes = Callable[[Params, Tensor, Tensor], Params]
_VIEWS = 8


@dataclass
class Course:
    """What is taught: images in a few fixed augmented views, and what the original says of each.

    The original is asked once for every view of an image that is used, however often it is used: it is many times
    larger than what learns from it. ``teach``: its class probabilities ``(n, K)`` of normalised images. ``truth``: the
    share of the labels in what is taught. ``augmentation``: None for inputs that are not images.
    """

    data: TrainingSet
    teach: Callable[[Tensor], Tensor]
    seed: int
    augmentation: Augmentation | None = field(default_factory=Augmentation)
    truth: float = 0.3
    _answers: dict[int, Tensor] = field(default_factory=dict)

    def lessons(self, batch: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and what they should give ``(n, K)``, without end; every pass is another view in another order."""
        count = len(self.data)
        view = int(torch.randint(_VIEWS, (), generator=generator))
        while True:
            order = torch.randperm(count, generator=generator)
            for chosen in order[: max(count - count % batch, min(count, batch))].split(batch):
                yield self._lesson(view, chosen)
            view = (view + 1) % _VIEWS

    def _lesson(self, view: int, chosen: Tensor) -> tuple[Tensor, Tensor]:
        rows = chosen.to(self.data.labels.device)
        inputs = self.data.inputs(rows)
        if self.augmentation is not None:
            numbers = torch.rand(7, len(self.data), generator=stream(self.seed, "view", view))[:, chosen]
            inputs = self.augmentation.of(numbers).apply(inputs)
        labels = self.data.labels
        answers = self._answers.setdefault(view, torch.full_like(labels, torch.nan))
        unasked = answers[rows, 0].isnan()
        if bool(unasked.any()):
            with torch.no_grad():
                answers[rows[unasked]] = self.teach(inputs[unasked])
        return inputs, self.truth * labels[rows] + (1 - self.truth) * answers[rows]


@dataclass(frozen=True)
class Pace:
    """How one stage of retraining goes: SGD with momentum, the rate falls to zero along half a cosine."""

    steps: int
    learning_rate: float = 0.03
    batch: int = 64
    momentum: float = 0.9
    weight_decay: float = 1e-4


def slopes_of(network: Network) -> Slopes:
    """The gradient of a network of this project."""
    return partial(gradient_of_one, network)


def automatic_slopes(apply: Callable[[Params, Tensor], Tensor]) -> Slopes:
    """The gradient of anything that gives logits ``(n, K)``."""

    def slopes(params: Params, inputs: Tensor, target: Tensor) -> Params:
        used = leaves(params)
        return torch.autograd.grad(F.cross_entropy(apply(used, inputs), target), used)

    return slopes


def retrain(
    slopes: Slopes,
    params: Params,
    course: Course,
    pace: Pace,
    seed: int,
    *,
    masks: Sequence[Tensor] | None = None,
    levels: Sequence[Tensor | None] | None = None,
    stage: Stage | None = None,
) -> tuple[Params, list[Tensor | None]]:
    """The parameters after some lessons, pruned ones zero; and the levels as they have moved.

    ``masks``: 1 where a weight may move. ``levels``: the ascending levels ``(K,)`` to compute with, ``None`` for a
    tensor that has none; the parameters given back are those behind, not yet at their levels. Raises
    :class:`MeddistillError` if parameters explode.
    """
    params = tuple(param.detach().clone() for param in params)
    buffers = [torch.zeros_like(param) for param in params]
    books: list[Tensor | None] = [None] * len(params) if levels is None else list(levels)
    lessons = course.lessons(pace.batch, stream(seed, "retrain"))
    for step in range(pace.steps):
        inputs, target = next(lessons)
        found = slopes(_at_levels(params, books), inputs, target)
        rate = pace.learning_rate * 0.5 * (1 + math.cos(math.pi * step / pace.steps))
        for place, (param, buffer, slope) in enumerate(zip(params, buffers, found, strict=True)):
            buffer.mul_(pace.momentum).add_(slope).add_(param, alpha=pace.weight_decay)
            param.sub_(buffer, alpha=rate)
            if masks is not None:
                param.mul_(masks[place])
        if stage is not None:
            stage.advance()
    if not all(bool(sound(param).all()) for param in params):
        raise MeddistillError(
            "retraining diverged: parameters have exploded. The images or their normalisation have extreme "
            "values; ask for a larger size"
        )
    return params, books


def snap(weights: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """The weights, each that is not zero at its nearest level, and the levels moved to the means of their weights."""
    places = torch.bucketize(weights, (levels[1:] + levels[:-1]) / 2)
    there = (weights != 0).to(weights)
    counts = torch.zeros_like(levels).index_add_(0, places.reshape(-1), there.reshape(-1))
    sums = torch.zeros_like(levels).index_add_(0, places.reshape(-1), weights.reshape(-1))
    moved = torch.where(counts > 0, sums / counts.clamp_min(1), levels)
    return moved[places] * there, moved


def _at_levels(params: Params, books: list[Tensor | None]) -> Params:
    """What the network computes with; moves the books."""
    used = []
    for place, (param, book) in enumerate(zip(params, books, strict=True)):
        if book is None or not len(book):
            used.append(param)
        else:
            snapped, books[place] = snap(param, book)
            used.append(snapped)
    return tuple(used)
