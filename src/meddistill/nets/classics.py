"""ResNet-18, VGG-11 and AlexNet as the dataset distillation literature evaluates with them on small images.

Their stems are those for small images: no stride and no pooling before the first block (ResNet), and images of less
than 32 pixels are padded with zeros to 32, so that five halvings leave a pixel (Zhao et al. 2021 do so with 28).
Norms are instance norms, as in that literature: batches of a few synthetic images have no statistics worth the name.
No maintained library serves: those that have these networks have other stems and norms, and need packages that a plain
installation of PyTorch does not have.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.network import OfParts, Part, convolution, instance_norm, linear, norm
from meddistill.nets.params import Params
from meddistill.runtime.errors import InputError

MAX_BASE_WIDTH = 256
_SMALLEST = 32  # pixels that five halvings take
_LARGE = 64  # pixels above which a ResNet has the stem for large images
# Pixels of which three halvings, and that stem before them, leave four, so that there is a plane to normalise: of a
# single pixel an instance norm makes 0, whatever it was.
_RESNET_FROM, _STRIDED_FROM = 9, 33
_ENLARGED = 112  # pixels that a network for photographs sees at least
_RESNET_DEPTH, _RESNET_STAGES = 2, 4
_VGG = (1, "pool", 2, "pool", 4, 4, "pool", 8, 8, "pool", 8, 8, "pool")
_ALEXNET_SIDE = 4


@dataclass(frozen=True)
class Classic(OfParts):
    """What the three share: a base width that a name may change, and the images' shape."""

    width: int
    channels: int
    size: int
    classes: int

    def __post_init__(self) -> None:
        if not 1 <= self.width <= MAX_BASE_WIDTH:
            raise InputError(f"network {self.name}: the width must be 1 to {MAX_BASE_WIDTH}; change the name")

    @property
    def name(self) -> str:
        """The name that :func:`meddistill.nets.find.find` reads."""
        raise NotImplementedError


def _name(kind: str, width: int, usual: int) -> str:
    return kind if width == usual else f"{kind}-w{width}"


@dataclass(frozen=True)
class ResNet18(Classic):
    """He et al. 2016 (arXiv 1512.03385), table 1, with 18 layers.

    Up to 64 pixels a side the stem is a 3 × 3 convolution (their section 4.2); above, 7 × 7 with stride 2 and pooling.
    Raises :class:`InputError` for images of less than 9 pixels, of which it would see nothing.
    """

    smallest: ClassVar[int] = _RESNET_FROM
    for_smaller: ClassVar[str] = "vgg11"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < self.smallest:
            raise InputError(
                f"network {self.name}: images of {self.size} pixels are too small for it, it wants at least "
                f"{self.smallest}; take {_name(self.for_smaller, self.width, 64)}"
            )

    @property
    def name(self) -> str:
        """``resnet18``, or ``resnet18-w16`` with a quarter of the width."""
        return _name("resnet18", self.width, 64)

    @property
    def parts(self) -> list[Part]:
        """Stem, two blocks in each of four stages, linear layer."""
        stem = convolution(self.channels, self.width, 7 if self._is_large else 3, bias=False)
        parts, inputs = [*stem, *norm(self.width)], self.width
        for outputs, stride in self.blocks:
            parts += [*convolution(inputs, outputs, 3, bias=False), *norm(outputs)]
            parts += [*convolution(outputs, outputs, 3, bias=False), *norm(outputs)]
            if stride > 1:
                parts += [*convolution(inputs, outputs, 1, bias=False), *norm(outputs)]
            inputs = outputs
        return [*parts, *linear(inputs, self.classes)]

    def features(self, params: Params, images: Tensor) -> Tensor:
        """The last maps averaged over the plane, ``(N, 8 · width)``."""
        following = iter(params)
        stride, padding = (2, 3) if self._is_large else (1, 1)
        maps = F.conv2d(images, next(following), stride=stride, padding=padding)
        maps = F.relu(self._norm(maps, following))
        if self._is_large:
            maps = F.max_pool2d(maps, 3, 2, 1)
        for _, stride in self.blocks:
            inner = F.relu(self._norm(F.conv2d(maps, next(following), stride=stride, padding=1), following))
            inner = self._norm(F.conv2d(inner, next(following), padding=1), following)
            if stride > 1:
                maps = self._norm(F.conv2d(maps, next(following), stride=stride), following)
            maps = F.relu(inner + maps)
        return maps.mean((2, 3))

    def _norm(self, maps: Tensor, following: Iterator[Tensor]) -> Tensor:
        return instance_norm(maps, following)

    @property
    def _is_large(self) -> bool:
        return self.size > _LARGE

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """Output channels and stride of every block."""
        return [
            (self.width << stage, 2 if stage and not place else 1)
            for stage in range(_RESNET_STAGES)
            for place in range(_RESNET_DEPTH)
        ]


@dataclass(frozen=True)
class StridedResNet18(ResNet18):
    """The same with the stem for large images at any size from 33 pixels: what users have who train a ResNet-18 made
    for photographs on images of 64 pixels, with a fifteenth of the products that the stem for small ones leads to.
    """

    smallest: ClassVar[int] = _STRIDED_FROM
    for_smaller: ClassVar[str] = "resnet18"

    @property
    def name(self) -> str:
        """``resnet18-strided``, or ``resnet18-w16-strided`` with a quarter of the width."""
        return f"{super().name}-strided"

    @property
    def _is_large(self) -> bool:
        return True


@dataclass(frozen=True)
class AffineResNet18(ResNet18):
    """The ResNet-18 that weights from elsewhere belong to: the stem for large images, and norms that are fixed.

    A batch norm that no longer measures is a scale and a shift of every channel, which is what stands in the place of
    the norms. Images of less than 112 pixels are enlarged to that, so that the stem leaves something of them.
    """

    smallest: ClassVar[int] = 1

    @property
    def name(self) -> str:
        """``resnet18-affine``, or ``resnet18-w16-affine`` with a quarter of the width."""
        return f"{super().name}-affine"

    def features(self, params: Params, images: Tensor) -> Tensor:
        """The last maps averaged over the plane, ``(N, 8 · width)``."""
        if images.shape[-1] < _ENLARGED:
            images = F.interpolate(images, size=(_ENLARGED, _ENLARGED), mode="bilinear", align_corners=False)
        return super().features(params, images)

    def _norm(self, maps: Tensor, following: Iterator[Tensor]) -> Tensor:
        return maps * next(following)[:, None, None] + next(following)[:, None, None]

    @property
    def _is_large(self) -> bool:
        return True


@dataclass(frozen=True)
class VGG11(Classic):
    """Simonyan & Zisserman 2015 (arXiv 1409.1556), configuration A, with norms and one linear layer."""

    @property
    def name(self) -> str:
        """``vgg11``, or ``vgg11-w16`` with a quarter of the width."""
        return _name("vgg11", self.width, 64)

    @property
    def parts(self) -> list[Part]:
        """Eight convolutions with norms, linear layer."""
        parts: list[Part] = []
        inputs = self.channels
        for step in _VGG:
            if isinstance(step, int):
                parts += [*convolution(inputs, step * self.width, 3, bias=True), *norm(step * self.width)]
                inputs = step * self.width
        return [*parts, *linear(inputs, self.classes)]

    def features(self, params: Params, images: Tensor) -> Tensor:
        """The last maps averaged over the plane (a single pixel of images up to 63), ``(N, 8 · width)``."""
        following, maps = iter(params), padded(images)
        for step in _VGG:
            if step == "pool":
                maps = F.max_pool2d(maps, 2)
            else:
                maps = F.conv2d(maps, next(following), next(following), padding=1)
                maps = F.relu(instance_norm(maps, following))
        return maps.mean((2, 3))


@dataclass(frozen=True)
class AlexNet(Classic):
    """Krizhevsky et al. 2012 as evaluated by Zhao et al. 2021: five convolutions without norms and one linear layer."""

    @property
    def name(self) -> str:
        """``alexnet``, or ``alexnet-w32`` with a quarter of the width."""
        return _name("alexnet", self.width, 128)

    @property
    def parts(self) -> list[Part]:
        """Five convolutions, linear layer."""
        parts: list[Part] = []
        inputs = self.channels
        for outputs, side, _ in self._layers:
            parts += convolution(inputs, outputs, side, bias=True)
            inputs = outputs
        return [*parts, *linear(inputs * _ALEXNET_SIDE**2, self.classes)]

    def features(self, params: Params, images: Tensor) -> Tensor:
        """The last maps at 4 × 4 pixels (averaged where images have more than 32), flat."""
        following, maps = iter(params), padded(images)
        for _, side, pools in self._layers:
            maps = F.relu(F.conv2d(maps, next(following), next(following), padding=side // 2))
            if pools:
                maps = F.max_pool2d(maps, 2)
        return F.adaptive_avg_pool2d(maps, _ALEXNET_SIDE).flatten(1)

    @property
    def _layers(self) -> list[tuple[int, int, bool]]:
        """Output channels, side of the kernel, whether pooling follows."""
        wide, wider = self.width * 3 // 2, self.width * 2
        return [(self.width, 5, True), (wide, 5, True), (wider, 3, False), (wide, 3, False), (wide, 3, True)]


def padded(images: Tensor) -> Tensor:
    """Images of less than 32 pixels with zeros (the mean of all images) around them."""
    missing = max(0, _SMALLEST - images.shape[-1])
    before, after = missing // 2, missing - missing // 2
    return F.pad(images, (before, after, before, after)) if missing else images
