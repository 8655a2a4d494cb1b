"""The ConvNet family of the distillation literature, as stateless functions."""

import math
import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.params import Params, Shapes
from meddistill.runtime.errors import InputError

_NAME = re.compile(r"convnet-d(\d+)-w(\d+)")
MAX_WIDTH, MAX_DEPTH = 1024, 8
NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class ConvNet:
    """``depth`` blocks of 3×3 convolution, instance norm, ReLU and 2×2 average pooling, then a linear layer.

    This is the ConvNet of Gidaris & Komodakis (2018) that dataset condensation (Zhao et al. 2021) made the field's
    standard matching network. Instance norm is computed as group norm with one group a channel: the same function, with
    a much faster second derivative on a CPU.
    """

    width: int
    depth: int
    channels: int
    size: int
    classes: int

    def __post_init__(self) -> None:
        if not (1 <= self.width <= MAX_WIDTH and 1 <= self.depth <= MAX_DEPTH):
            raise InputError(
                f"network {self.name}: width must be 1 to {MAX_WIDTH} and depth 1 to {MAX_DEPTH}; change the name"
            )
        if self.size >> self.depth < 1:
            raise InputError(
                f"network {self.name} halves the image {self.depth} times, which {self.size} pixels do not allow: "
                f"use a depth of at most {int(math.log2(self.size))} or larger images"
            )

    @property
    def name(self) -> str:
        """The name that :func:`parse` reads, for example ``convnet-d3-w32``."""
        return f"convnet-d{self.depth}-w{self.width}"

    @property
    def shapes(self) -> Shapes:
        """Shapes of the parameters: per block weight, bias, norm scale, norm shift; then the linear layer's two."""
        shapes: list[tuple[int, ...]] = []
        inputs = self.channels
        for _ in range(self.depth):
            shapes += [(self.width, inputs, 3, 3), (self.width,), (self.width,), (self.width,)]
            inputs = self.width
        features = self.width * (self.size >> self.depth) ** 2
        shapes += [(self.classes, features), (self.classes,)]
        return tuple(map(torch.Size, shapes))

    @property
    def parameters(self) -> int:
        """How many numbers the network has."""
        return sum(shape.numel() for shape in self.shapes)

    def init(self, generator: torch.Generator) -> Params:
        """Random float32 parameters on the CPU: uniform within 1/√fan-in, norm scales 1 and shifts 0."""
        params: list[Tensor] = []
        shapes = self.shapes
        for block in range(self.depth):
            weight, bias, scale, shift = shapes[4 * block : 4 * block + 4]
            params += _uniform(weight, bias, generator)
            params += [torch.ones(scale), torch.zeros(shift)]
        params += _uniform(shapes[-2], shapes[-1], generator)
        return tuple(params)

    def apply(self, params: Params, images: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of normalised images ``(N, channels, size, size)``."""
        return F.linear(self.features(params, images), params[-2], params[-1])

    def apply_many(self, params: Params, images: Tensor) -> Tensor:
        """Logits ``(S, N, classes)`` of S networks, each on its own images ``(S, N, channels, size, size)``.

        Every parameter has a leading dimension S. Network s sees only ``images[s]``: the S networks stand side by side
        as groups of one convolution, so that a device has S times the work in one launch.
        """
        networks, count = images.shape[:2]
        features = images.transpose(0, 1).flatten(1, 2)
        for block in range(self.depth):
            weight, bias, scale, shift = (param.flatten(0, 1) for param in params[4 * block : 4 * block + 4])
            features = F.conv2d(features, weight, bias, padding=1, groups=networks)
            features = F.group_norm(features, networks * self.width, scale, shift, NORM_EPSILON)
            features = F.avg_pool2d(F.relu(features), 2)
        flat = features.view(count, networks, -1).transpose(0, 1)
        return torch.baddbmm(params[-1][:, None], flat, params[-2].transpose(1, 2))

    def features(self, params: Params, images: Tensor) -> Tensor:
        """What the linear layer sees, ``(N, width · side²)``, of normalised images ``(N, channels, size, size)``."""
        features = images
        for block in range(self.depth):
            weight, bias, scale, shift = params[4 * block : 4 * block + 4]
            features = F.conv2d(features, weight, bias, padding=1)
            features = F.group_norm(features, self.width, scale, shift, NORM_EPSILON)
            features = F.avg_pool2d(F.relu(features), 2)
        return features.flatten(1)


def parse(name: str, *, channels: int, size: int, classes: int) -> ConvNet:
    """The network of that name for images of that shape. Raises :class:`InputError` for an unknown name."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(f"unknown network '{name}': expected convnet-dDEPTH-wWIDTH, for example convnet-d3-w32")
    return ConvNet(width=int(match[2][:6]), depth=int(match[1][:6]), channels=channels, size=size, classes=classes)


def _uniform(weight: torch.Size, bias: torch.Size, generator: torch.Generator) -> list[Tensor]:
    bound = 1 / math.sqrt(weight[1:].numel())
    return [torch.empty(shape).uniform_(-bound, bound, generator=generator) for shape in (weight, bias)]
