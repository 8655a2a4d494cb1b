"""Differentiable augmentation: what a draw is, and how it changes a batch.

A draw is plain numbers, made on the CPU from a named stream, so that the same draw can be applied in a forward sweep
and again in a backward one, to real images and to synthetic ones (Zhao & Bilen 2021, "siamese" augmentation).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.runtime.device import sent


@dataclass(frozen=True)
class Augmentation:
    """How strongly images are changed; all zero is no change.

    ``shift``: largest translation as a fraction of the side. ``scale``: largest relative change of size.
    ``rotate``: largest angle in degrees. ``flip``: probability of a left-right flip. ``brightness``: largest offset in
    units of the normalised image. ``contrast``: largest relative change about the image's mean.
    """

    shift: float = 0.08
    scale: float = 0.1
    rotate: float = 10.0
    flip: float = 0.5
    brightness: float = 0.2
    contrast: float = 0.2

    def draw(self, count: int, generator: torch.Generator) -> "Draw":
        """Independent draws for ``count`` images."""
        return self.of(torch.rand(7, count, generator=generator))

    def draws(self, sizes: Sequence[int], generator: torch.Generator) -> list["Draw"]:
        """What one call of :meth:`draw` after another gives for so many images each, to the bit, but in one go."""
        numbers = torch.rand(7 * sum(sizes), generator=generator).split([7 * size for size in sizes])
        return self.of(torch.cat([part.view(7, -1) for part in numbers], 1)).split(sizes)

    def of(self, numbers: Tensor) -> "Draw":
        """The draws that uniform ``numbers`` in [0, 1) make, ``(7, count)``: one column an image."""
        uniform, count = numbers * 2 - 1, numbers.shape[1]
        zoom = 1 + self.scale * uniform[0]
        angle = math.radians(self.rotate) * uniform[1]
        mirror = torch.where(uniform[2] < 2 * self.flip - 1, -1.0, 1.0)
        cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        rows = [cos * mirror, -sin, 2 * self.shift * uniform[3], sin * mirror, cos, 2 * self.shift * uniform[4]]
        return Draw(
            affine=torch.stack(rows, 1).view(count, 2, 3),
            brightness=(self.brightness * uniform[5]).view(count, 1, 1, 1),
            contrast=(1 + self.contrast * uniform[6]).view(count, 1, 1, 1),
        )


def usual(flip: bool) -> Augmentation:
    """How images are changed wherever networks are trained on them; ``flip``: whether half of them are mirrored.

    No left is told from a right by networks that see mirror images under the same label.
    """
    return Augmentation() if flip else Augmentation(flip=0.0)


@dataclass(frozen=True)
class Draw:
    """One augmentation of a batch of N images: affine ``(N, 2, 3)``, brightness and contrast ``(N, 1, 1, 1)``."""

    affine: Tensor
    brightness: Tensor
    contrast: Tensor

    @classmethod
    def joined(cls, draws: Sequence["Draw"]) -> "Draw":
        """Those of several batches as one of all their images."""
        return cls(*(torch.cat(parts) for parts in zip(*(draw.parts for draw in draws), strict=True)))

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three in a fixed order."""
        return self.affine, self.brightness, self.contrast

    def split(self, sizes: Sequence[int]) -> list["Draw"]:
        """The draws of successive batches of so many images, as views."""
        return [Draw(*parts) for parts in zip(*(part.split(list(sizes)) for part in self.parts), strict=True)]

    def on(self, device: torch.device) -> "Draw":
        """The same on a device."""
        return Draw(*(sent(part, device) for part in self.parts))

    def repeated(self, count: int) -> "Draw":
        """A draw for one image, for ``count`` images alike."""
        return Draw(*(part.expand(count, *part.shape[1:]) for part in self.parts))

    def apply(self, images: Tensor) -> Tensor:
        """The augmented images, same shape and dtype; differentiable with respect to ``images``."""
        grid = F.affine_grid(self.affine.to(images), list(images.shape), align_corners=False)
        moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        mean = moved.mean(dim=(1, 2, 3), keepdim=True)
        return (moved - mean) * self.contrast.to(images) + mean + self.brightness.to(images)
