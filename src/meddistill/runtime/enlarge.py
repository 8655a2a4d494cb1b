"""The one rule by which small images become larger ones: linear, with pixels as squares, the border repeated.

A pixel's centre is at half its side. It is what ``torch.nn.functional.interpolate`` calls bilinear without aligned
corners, written as a matrix, so that a package needs numpy alone and a gradient goes back through its transpose.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

_BLOCK = 2**20  # values that are enlarged at a time: float64 takes twice the room of what comes out


@lru_cache(maxsize=32)
def enlarging(small: int, large: int) -> npt.NDArray[np.float64]:
    """The matrix ``(large, small)`` whose product with a row of pixels is the longer row; every row of it sums to 1.

    Raises ValueError if ``large`` is below ``small``.
    """
    if not 1 <= small <= large:
        raise ValueError(f"{small} pixels cannot be enlarged to {large}")
    centre = ((np.arange(large) + 0.5) * small / large - 0.5).clip(0, small - 1)
    left = np.minimum(centre.astype(np.int64), small - 1)
    right = np.minimum(left + 1, small - 1)
    found = np.zeros((large, small))
    np.add.at(found, (np.arange(large), left), 1 - (centre - left))
    np.add.at(found, (np.arange(large), right), centre - left)
    found.setflags(write=False)
    return found


def enlarge(images: npt.NDArray[np.floating[Any]], size: int) -> npt.NDArray[np.float32]:
    """Square images ``(n, C, s, s)`` with ``size`` pixels a side, float32; the same array if they have that side."""
    if images.shape[-1] == size:
        return np.asarray(images, np.float32)
    matrix = enlarging(images.shape[-1], size)
    found = np.empty((*images.shape[:2], size, size), np.float32)
    block = max(1, _BLOCK // (images.shape[1] * size**2))
    for begin in range(0, len(images), block):
        rows = slice(begin, begin + block)
        found[rows] = matrix @ images[rows].astype(np.float64) @ matrix.T
    return found
