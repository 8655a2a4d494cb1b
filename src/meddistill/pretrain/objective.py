"""What a way to pretrain is: heads on top of an encoder, and a loss of augmented images without labels.

An encoder is a network without its last linear layer. Heads are thrown away at the end, so their batch norms need no
memory: they always take the statistics of the batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.network import NORM_EPSILON, Network, Part, linear, norm
from meddistill.nets.params import Params

HIDDEN, PROJECTED = 512, 128
Heads = Mapping[str, Params]


@dataclass(frozen=True)
class Side:
    """An encoder and its heads; of a pair of networks the one that learns, or its slow average."""

    network: Network
    encoder: Params
    heads: Heads

    def features(self, images: Tensor) -> Tensor:
        """What the encoder sees, ``(N, F)``, of normalised images."""
        return self.network.features(self.encoder, images)

    def project(self, features: Tensor) -> Tensor:
        """The head ``projector``, on the features of one view."""
        return perceptron(self.heads["projector"], features)

    def predict(self, projections: Tensor) -> Tensor:
        """The head ``predictor``."""
        return perceptron(self.heads["predictor"], projections)


class Objective(Protocol):
    """A way to pretrain an encoder; it holds no state."""

    @property
    def momentum(self) -> float | None:
        """How much the slow average keeps of itself in the first step; None: there is none."""

    def heads(self, network: Network) -> dict[str, list[Part]]:
        """The tensors of every head. Raises :class:`InputError` for an encoder that it cannot pretrain."""

    def loss(self, online: Side, target: Side, view: Callable[[], Tensor], generator: torch.Generator) -> Tensor:
        """The loss of a batch, of which every call of ``view`` gives another augmentation ``(N, C, H, W)``.

        No gradient may flow into ``target``, which is ``online`` itself where there is no slow average.
        """


def width_of(network: Network) -> int:
    """How many features an encoder has."""
    weight = network.shapes[len(network.shapes) - network.statistics - 2]
    return weight[1]


def perceptron_parts(inputs: int, hidden: int, outputs: int, *, normed: bool = False) -> list[Part]:
    """Two linear layers with batch norm and ReLU between; ``normed``: a batch norm at the end, too."""
    parts = [*linear(inputs, hidden), *norm(hidden), *linear(hidden, outputs)]
    return [*parts, *norm(outputs)] if normed else parts


def perceptron(params: Params, inputs: Tensor) -> Tensor:
    """``(N, outputs)`` of ``(N, inputs)``, all of one view: batch norms see nothing else."""
    weight, bias, scale, shift, last, offset, *end = params
    hidden = F.relu(batch_norm(F.linear(inputs, weight, bias), scale, shift))
    outputs = F.linear(hidden, last, offset)
    return batch_norm(outputs, *end) if end else outputs


def batch_norm(inputs: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Every column to mean 0 and variance 1 over the batch, then scale and shift."""
    return F.batch_norm(inputs, None, None, scale, shift, training=True, eps=NORM_EPSILON)


def each_view(side: Side, views: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The features of every view, in one pass: an encoder sees every image by itself."""
    features = side.features(torch.cat(list(views)))
    return tuple(features.split_with_sizes([len(view) for view in views]))
