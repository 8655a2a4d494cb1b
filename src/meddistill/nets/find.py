"""Networks by name: the ConvNets that are matched and evaluated, and the others that are evaluated only."""

import re
from collections.abc import Callable

from meddistill.nets import convnet
from meddistill.nets.classics import VGG11, AffineResNet18, AlexNet, ResNet18, StridedResNet18
from meddistill.nets.network import Network, bounded
from meddistill.nets.vit import ViT
from meddistill.runtime.errors import InputError

_CLASSIC = re.compile(r"(resnet18|vgg11|alexnet)(?:-w(\d{1,6}))?(-affine|-strided)?")
_VIT = re.compile(r"vit(?:-d(\d{1,6})-w(\d{1,6}))?(-mean)?")
_CLASSICS: dict[str, tuple[Callable[[int, int, int, int], Network], int]] = {
    "resnet18": (ResNet18, 64),
    "resnet18-affine": (AffineResNet18, 64),
    "resnet18-strided": (StridedResNet18, 64),
    "vgg11": (VGG11, 64),
    "alexnet": (AlexNet, 128),
}
_VIT_DEPTH, _VIT_WIDTH = 6, 192
EXPECTED = (
    "convnet-dDEPTH-wWIDTH (with -gn or -bn for group or batch norm), resnet18, vgg11, alexnet (with -wWIDTH for "
    "another width), resnet18-affine (for weights from elsewhere), resnet18-strided (with the stem for photographs), "
    "vit or vit-dDEPTH-wWIDTH (with -mean for the mean of its patches)"
)


def find(name: str, *, channels: int, size: int, classes: int) -> Network:
    """The network of that name for images of that shape.

    Raises :class:`InputError` for an unknown name, and for a network of too many parameters.
    """
    if (match := _CLASSIC.fullmatch(name)) is not None and not (match[3] and match[1] != "resnet18"):
        make, usual = _CLASSICS[match[1] + (match[3] or "")]
        return bounded(make(int(match[2] or usual), channels, size, classes))
    if (match := _VIT.fullmatch(name)) is not None:
        width, depth = int(match[2] or _VIT_WIDTH), int(match[1] or _VIT_DEPTH)
        return bounded(ViT(width, depth, channels, size, classes, averages=match[3] is not None))
    if not name.startswith("convnet"):
        raise InputError(f"unknown network '{name}': expected {EXPECTED}")
    return convnet.parse(name, channels=channels, size=size, classes=classes)
