"""The ConvNet family of the distillation literature, as stateless functions."""

import math
import re
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.network import NORM_EPSILON, bounded
from meddistill.nets.params import Params, Shapes
from meddistill.runtime.errors import InputError

_NAME = re.compile(r"convnet-d(\d+)-w(\d+)(?:-(gn|bn))?")
MAX_WIDTH, MAX_DEPTH = 1024, 8
Norm = Literal["instance", "group", "batch"]
_NORMS: dict[str | None, Norm] = {None: "instance", "gn": "group", "bn": "batch"}
_SUFFIXES: dict[Norm, str] = {"instance": "", "group": "-gn", "batch": "-bn"}
_GROUPS = 4  # of group norm, as in the literature's networks


@dataclass(frozen=True)
class ConvNet:
    """``depth`` blocks of 3×3 convolution, norm, ReLU and 2×2 average pooling, then a linear layer.

    With instance norm this is the ConvNet of Gidaris & Komodakis (2018) that dataset condensation (Zhao et al. 2021)
    made the field's standard matching network. Instance norm is computed as group norm with one group a channel: the
    same function, with a much faster second derivative on a CPU. ``norm``: ``group`` has four groups; ``batch`` has the
    batch's statistics while it learns and afterwards those that :meth:`settle` measured, which stand behind the linear
    layer's parameters.
    """

    width: int
    depth: int
    channels: int
    size: int
    classes: int
    norm: Norm = "instance"

    def __post_init__(self) -> None:
        if not (1 <= self.width <= MAX_WIDTH and 1 <= self.depth <= MAX_DEPTH):
            raise InputError(
                f"network {self.name}: width must be 1 to {MAX_WIDTH} and depth 1 to {MAX_DEPTH}; change the name"
            )
        if self.norm == "group" and self.width % _GROUPS:
            raise InputError(f"network {self.name}: group norm needs a width that is a multiple of {_GROUPS}")
        if self.size >> self.depth < 1:
            raise InputError(
                f"network {self.name} halves the image {self.depth} times, which {self.size} pixels do not allow: "
                f"use a depth of at most {int(math.log2(self.size))} or larger images"
            )

    @property
    def name(self) -> str:
        """The name that :func:`parse` reads, for example ``convnet-d3-w32``."""
        return f"convnet-d{self.depth}-w{self.width}{_SUFFIXES[self.norm]}"

    @property
    def shapes(self) -> Shapes:
        """Shapes: per block weight, bias, norm scale, norm shift; the linear layer's two; for batch norm statistics."""
        shapes: list[tuple[int, ...]] = []
        inputs = self.channels
        for _ in range(self.depth):
            shapes += [(self.width, inputs, 3, 3), (self.width,), (self.width,), (self.width,)]
            inputs = self.width
        features = self.width * (self.size >> self.depth) ** 2
        shapes += [(self.classes, features), (self.classes,), *[(self.width,)] * self.statistics]
        return tuple(map(torch.Size, shapes))

    @property
    def parameters(self) -> int:
        """How many numbers the network has."""
        return sum(shape.numel() for shape in self.shapes)

    @property
    def statistics(self) -> int:
        """Tensors that are measured, not learned: with batch norm each block's mean and variance."""
        return 2 * self.depth if self.norm == "batch" else 0

    def init(self, generator: torch.Generator) -> Params:
        """Random float32 parameters on the CPU: uniform within 1/√fan-in, norm scales 1 and shifts 0."""
        params: list[Tensor] = []
        shapes = self.shapes
        for block in range(self.depth):
            weight, bias, scale, shift = shapes[4 * block : 4 * block + 4]
            params += _uniform(weight, bias, generator)
            params += [torch.ones(scale), torch.zeros(shift)]
        last = 4 * self.depth
        params += _uniform(shapes[last], shapes[last + 1], generator)
        for shape in shapes[last + 2 :: 2]:
            params += [torch.zeros(shape), torch.ones(shape)]
        return tuple(params)

    def apply(self, params: Params, images: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of normalised images ``(N, channels, size, size)``."""
        return self._logits(params, self.features(params, images))

    def apply_training(self, params: Params, images: Tensor) -> Tensor:
        """The same while it learns: batch norm takes the batch's own statistics."""
        return self._logits(params, self._run(params, images, learning=True)[0])

    def settle(self, params: Params, images: Tensor) -> Params:
        """The parameters with the statistics of these images, for batch norm."""
        if not self.statistics:
            return params
        with torch.no_grad():
            return (*params[: 4 * self.depth + 2], *self._run(params, images, learning=True)[1])

    def apply_many(self, params: Params, images: Tensor) -> Tensor:
        """Logits ``(S, N, classes)`` of S networks, each on its own images ``(S, N, channels, size, size)``.

        Every parameter has a leading dimension S. Network s sees only ``images[s]``: the S networks stand side by side
        as groups of one convolution, so that a device has S times the work in one launch. Not for batch norm.
        """
        networks, count = images.shape[:2]
        features = images.transpose(0, 1).flatten(1, 2)
        for block in range(self.depth):
            weight, bias, scale, shift = (param.flatten(0, 1) for param in params[4 * block : 4 * block + 4])
            features = F.conv2d(features, weight, bias, padding=1, groups=networks)
            features = F.group_norm(features, networks * self._groups, scale, shift, NORM_EPSILON)
            features = F.avg_pool2d(F.relu(features), 2)
        flat = features.view(count, networks, -1).transpose(0, 1)
        return torch.baddbmm(params[-1][:, None], flat, params[-2].transpose(1, 2))

    def features(self, params: Params, images: Tensor) -> Tensor:
        """What the linear layer sees, ``(N, width · side²)``, of normalised images ``(N, channels, size, size)``."""
        return self._run(params, images)[0]

    def _run(self, params: Params, images: Tensor, *, learning: bool = False) -> tuple[Tensor, list[Tensor]]:
        """The features, and where a network with batch norm is ``learning`` each block's mean and variance."""
        features, found = images, list[Tensor]()
        for block in range(self.depth):
            weight, bias, scale, shift = params[4 * block : 4 * block + 4]
            features = F.conv2d(features, weight, bias, padding=1)
            if self.norm == "batch" and learning:
                found += [features.detach().mean((0, 2, 3)), features.detach().var((0, 2, 3))]
                features = F.batch_norm(features, None, None, scale, shift, training=True, eps=NORM_EPSILON)
            elif self.norm == "batch":
                mean, variance = params[4 * self.depth + 2 + 2 * block :][:2]
                features = F.batch_norm(features, mean, variance, scale, shift, eps=NORM_EPSILON)
            else:
                features = F.group_norm(features, self._groups, scale, shift, NORM_EPSILON)
            features = F.avg_pool2d(F.relu(features), 2)
        return features.flatten(1), found

    def _logits(self, params: Params, features: Tensor) -> Tensor:
        last = 4 * self.depth
        return F.linear(features, params[last], params[last + 1])

    @property
    def _groups(self) -> int:
        return _GROUPS if self.norm == "group" else self.width


def parse(name: str, *, channels: int, size: int, classes: int) -> ConvNet:
    """The network of that name for images of that shape.

    Raises :class:`InputError` for an unknown name, and for a network of too many parameters.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(f"unknown network '{name}': expected convnet-dDEPTH-wWIDTH, for example convnet-d3-w32")
    width, depth = int(match[2][:6]), int(match[1][:6])
    return bounded(ConvNet(width, depth, channels, size, classes, _NORMS[match[3]]))


def _uniform(weight: torch.Size, bias: torch.Size, generator: torch.Generator) -> list[Tensor]:
    bound = 1 / math.sqrt(weight[1:].numel())
    return [torch.empty(shape).uniform_(-bound, bound, generator=generator) for shape in (weight, bias)]
