"""What training and evaluation need of a network, and how a network that is a list of parts is written down."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.params import Params, Shapes
from meddistill.runtime.errors import InputError

NORM_EPSILON = 1e-5
# Of one network: it fits into a model file of 512 MiB, and a stranger's package, which names a network and a size of
# images, cannot ask for terabytes.
MAX_PARAMETERS = 127 * 2**20
_TOKEN_STD = 0.02


class Network(Protocol):
    """A function of parameters and images; it holds no state of its own."""

    @property
    def name(self) -> str:
        """The name that :func:`meddistill.nets.find.find` reads."""

    @property
    def channels(self) -> int:
        """Of the images."""

    @property
    def size(self) -> int:
        """Side of the images in pixels."""

    @property
    def classes(self) -> int:
        """How many logits there are."""

    @property
    def shapes(self) -> Shapes:
        """Shapes of the parameters, in order."""

    @property
    def parameters(self) -> int:
        """How many numbers the network has."""

    @property
    def statistics(self) -> int:
        """How many of the last tensors are not learned but measured on the training images, see :meth:`settle`."""

    def init(self, generator: torch.Generator) -> Params:
        """Random float32 parameters on the CPU."""

    def apply(self, params: Params, images: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of normalised images ``(N, channels, size, size)``, each by itself."""

    def apply_training(self, params: Params, images: Tensor) -> Tensor:
        """The same while it learns: a network with batch norm takes the batch's own statistics."""

    def features(self, params: Params, images: Tensor) -> Tensor:
        """What the last linear layer sees, ``(N, F)``."""

    def settle(self, params: Params, images: Tensor) -> Params:
        """The parameters with the statistics of these images in the place of those that were there."""


_N = TypeVar("_N", bound=Network)


def bounded(network: _N) -> _N:
    """The network. Raises :class:`InputError` if it has more parameters than any that is used."""
    if network.parameters > MAX_PARAMETERS:
        raise InputError(
            f"network {network.name} has {network.parameters} parameters for images of {network.size} pixels and "
            f"{network.classes} classes, at most {MAX_PARAMETERS} are allowed: choose a smaller network"
        )
    return network


@dataclass(frozen=True)
class Part:
    """One tensor of parameters: its shape and what it starts as.

    ``uniform``: within 1/√``fan``, as PyTorch starts convolutions and linear layers. ``token``: normal with standard
    deviation 0.02, cut off at two of them, as transformers start.
    """

    shape: tuple[int, ...]
    start: Literal["uniform", "ones", "zeros", "token"]
    fan: int = 1

    def draw(self, generator: torch.Generator) -> Tensor:
        """The tensor before training."""
        empty = torch.empty(self.shape)
        if self.start == "uniform":
            bound = 1 / math.sqrt(self.fan)
            return empty.uniform_(-bound, bound, generator=generator)
        if self.start == "token":
            cut = 2 * _TOKEN_STD
            return torch.nn.init.trunc_normal_(empty, std=_TOKEN_STD, a=-cut, b=cut, generator=generator)
        return empty.fill_(float(self.start == "ones"))


def convolution(inputs: int, outputs: int, side: int, *, bias: bool) -> list[Part]:
    """Weight and, if wanted, bias of a ``side`` × ``side`` convolution."""
    fan = inputs * side * side
    weight = Part((outputs, inputs, side, side), "uniform", fan)
    return [weight, Part((outputs,), "uniform", fan)] if bias else [weight]


def linear(inputs: int, outputs: int) -> list[Part]:
    """Weight and bias of a linear layer."""
    return [Part((outputs, inputs), "uniform", inputs), Part((outputs,), "uniform", inputs)]


def norm(channels: int) -> list[Part]:
    """Scale and shift of a norm."""
    return [Part((channels,), "ones"), Part((channels,), "zeros")]


def instance_norm(images: Tensor, params: Iterator[Tensor]) -> Tensor:
    """Every channel of every image to mean 0 and variance 1, then the next two parameters as scale and shift."""
    return F.group_norm(images, images.shape[1], next(params), next(params), NORM_EPSILON)


class OfParts:
    """A network whose parameters are a list of parts, the last two of them those of a linear layer.

    Whoever inherits says :attr:`parts` and :meth:`features`, which takes its parameters in the order of the parts.
    """

    statistics = 0

    @property
    def parts(self) -> list[Part]:
        """All tensors, in order."""
        raise NotImplementedError

    def features(self, params: Params, images: Tensor) -> Tensor:
        """What the last linear layer sees, ``(N, F)``, of normalised images ``(N, channels, size, size)``."""
        raise NotImplementedError

    @property
    def shapes(self) -> Shapes:
        """Shapes of the parameters, in order."""
        return tuple(torch.Size(part.shape) for part in self.parts)

    @property
    def parameters(self) -> int:
        """How many numbers the network has."""
        return sum(shape.numel() for shape in self.shapes)

    def init(self, generator: torch.Generator) -> Params:
        """Random float32 parameters on the CPU."""
        return tuple(part.draw(generator) for part in self.parts)

    def apply(self, params: Params, images: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of normalised images ``(N, channels, size, size)``."""
        return F.linear(self.features(params, images), params[-2], params[-1])

    def apply_training(self, params: Params, images: Tensor) -> Tensor:
        """The same: an image is never seen by another."""
        return self.apply(params, images)

    def settle(self, params: Params, images: Tensor) -> Params:
        """The parameters as they are: there are no statistics."""
        return params
