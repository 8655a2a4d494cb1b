"""Several small images in the place of a large one.

Kim et al. 2022 (IDC, arXiv 2205.14959), *multi-formation*: f² images of 1/f of the side take the bytes of one, and
networks see them enlarged. Neighbouring pixels of an image tell much the same; more images, each with a label of its
own, tell more. The loop keeps and moves the small images; whatever looks at the synthetic set sees the enlarged ones.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.runtime.enlarge import enlarging


@dataclass(frozen=True)
class Formation:
    """Between images stored with ``stored`` pixels a side and those of ``size`` that networks see."""

    stored: int
    size: int

    def enlarged(self, small: Tensor) -> Tensor:
        """``(n, C, stored, stored)`` to ``(n, C, size, size)``; the very same tensor where the sides are equal."""
        if self.stored == self.size:
            return small
        matrix = _matrix(self.stored, self.size, small.dtype, small.device)
        return matrix @ small @ matrix.T

    def pulled_back(self, slope: Tensor) -> Tensor:
        """The gradient with respect to the small images, from that with respect to the enlarged ones."""
        if self.stored == self.size:
            return slope
        matrix = _matrix(self.stored, self.size, slope.dtype, slope.device)
        return matrix.T @ slope @ matrix

    def shrunk(self, images: Tensor) -> Tensor:
        """``(n, C, size, size)`` to ``(n, C, stored, stored)``, each pixel the mean of what it stands for."""
        return images if self.stored == self.size else F.adaptive_avg_pool2d(images, self.stored)


@lru_cache(maxsize=32)  # every iteration asks for it, and a device would have to wait for a copy
def _matrix(small: int, large: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.from_numpy(enlarging(small, large).copy()).to(device, dtype)


def stored_side(size: int, formation: int) -> int:
    """The side of ``formation``² images that together have no more pixels than one of side ``size``."""
    return size // formation
