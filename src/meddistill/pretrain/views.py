"""Views: augmentations strong enough that an encoder has to see what an image is in order to recognise it."""

from dataclasses import dataclass, field, replace

import torch

from meddistill.nets.augment import Augmentation, Draw


@dataclass(frozen=True)
class Views:
    """A random square of the image, enlarged to the whole, and a strong :class:`~meddistill.nets.augment.Augmentation`.

    ``smallest``: least area of the square, as a share of the image (SimCLR's crop, with a square's aspect). Colours are
    left alone but for brightness and contrast: most medical images are grey, or their colours mean something.
    """

    smallest: float = 0.5
    change: Augmentation = field(
        default_factory=lambda: Augmentation(shift=0, scale=0, rotate=15, flip=0.5, brightness=0.2, contrast=0.2)
    )

    def draw(self, count: int, generator: torch.Generator) -> Draw:
        """Independent draws for ``count`` images: one interpolation does it all."""
        draw = self.change.draw(count, generator)
        area, across, down = torch.rand(3, count, generator=generator)
        side = (self.smallest + (1 - self.smallest) * area).sqrt()
        affine = draw.affine * side.view(-1, 1, 1)
        free = 1 - side  # how far the square's middle may be from the image's, where half the image is 1
        affine[:, 0, 2] += free * (2 * across - 1)
        affine[:, 1, 2] += free * (2 * down - 1)
        return Draw(affine, draw.brightness, draw.contrast)


def views(smallest: float, flip: bool) -> Views:
    """Views of these squares; ``flip``: whether half of them are mirrored."""
    usual = Views(smallest)
    return usual if flip else replace(usual, change=replace(usual.change, flip=0.0))
