"""Images as whole numbers with one scale and offset per channel, so exact that every reader gets the same float32.

``value = number * scale + offset``. Scale and offset are whole multiples of 2**-19 and products and
sums stay below 2**5, so they fit into float32's 24 bits without rounding. Quantising what was read back gives the same
numbers, scale and offset again: a package can be rewritten without losing anything.
"""

import numpy as np
import numpy.typing as npt

from meddistill.package.limits import INTENSITY_UNIT, MAX_INTENSITY, MIN_SCALE
from meddistill.runtime.errors import InputError

# Of each channel: the fewest that cost no accuracy, benchmarks/records/quantisation.json.
LEVELS = 64

Floats = npt.NDArray[np.float32]
Levels = npt.NDArray[np.uint8]


def quantise(images: npt.NDArray[np.floating], levels: int = LEVELS) -> tuple[Levels, Floats, Floats]:
    """``(n, C, H, W)`` intensities as ``(numbers uint8, scale (C,), offset (C,))``.

    The error of a value is at most half its channel's scale, which is the channel's range / (levels - 1), rounded up to
    a multiple of 2**-19 and at least 2**-10. ``levels``: 2 to 256. Raises :class:`InputError` for values that are not
    finite or beyond ±8.
    """
    if images.ndim != 4 or not images.size:
        raise InputError(f"images have the shape {images.shape}; expected (images, channels, height, width), not empty")
    low, high = (edge(images, axis=(0, 2, 3)).astype(np.float64) for edge in (np.min, np.max))
    # Rounding may carry what is read back above the limit by less than MIN_SCALE; it can be written again all the same.
    if not ((low >= -MAX_INTENSITY).all() and (high <= MAX_INTENSITY + MIN_SCALE).all()):  # NaN fails this too
        raise InputError(
            f"the images' intensities go from {low.min():g} to {high.max():g}; a package holds finite values from "
            f"-{MAX_INTENSITY:g} to {MAX_INTENSITY:g} (0 is black, 1 is white): clip them, or distil with smaller steps"
        )
    offset, top = np.round(low / INTENSITY_UNIT) * INTENSITY_UNIT, levels - 1
    scale = np.maximum(np.ceil((high - offset) / top / INTENSITY_UNIT) * INTENSITY_UNIT, MIN_SCALE)
    numbers = np.empty(images.shape, np.uint8)
    for index, image in enumerate(images):  # one at a time: the float64 copy stays small
        numbers[index] = np.clip(np.round((image - _channels(offset)) / _channels(scale)), 0, top)
    return numbers, scale.astype(np.float32), offset.astype(np.float32)


def dequantise(levels: Levels, scale: Floats, offset: Floats) -> Floats:
    """The intensities ``(n, C, H, W)`` that a reader sees, without a second full-size copy."""
    images = levels.astype(np.float32)
    images *= _channels(scale)
    images += _channels(offset)
    return images


def round_trip(images: npt.NDArray[np.floating]) -> Floats:
    """The images as they will be read back from a package. Idempotent."""
    return dequantise(*quantise(images))


def _channels(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return values.reshape(-1, 1, 1)
