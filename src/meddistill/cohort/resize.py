"""The one resize rule, documented because results depend on it."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from meddistill.cohort.types import Fit


def resize(pixels: npt.NDArray[np.generic], size: int, fit: Fit = "crop") -> npt.NDArray[np.generic]:
    """``pixels`` as a ``size`` by ``size`` image of the same dtype and the same number of channels.

    ``pixels``: ``(H, W)`` or ``(H, W, 3)``, uint8 or uint16, of any height and width.

    - ``crop``: the largest central square, then scaled. Of an odd surplus the extra row or column is cut at the
      bottom or the right.
    - ``pad``: the whole image is scaled so that its longer side is ``size``; the shorter side, rounded to the nearest
      whole number (halves up) and at least 1, is centred on black (0), the extra row or column at the bottom or right.
    - ``stretch``: both sides are scaled to ``size``; the aspect ratio is lost.

    Scaling is Pillow's ``BILINEAR``: a triangle filter whose width grows with the reduction, so that every pixel of the
    original has weight (no aliasing) and no value leaves the range of the original (no ringing). 16-bit values are
    filtered in float32 and rounded to the nearest whole number. A side that has the wanted length already is copied
    unchanged, so an image of the working size comes out exactly as it went in.
    """
    if fit == "crop":
        return _scale(_central_square(pixels), size, size)
    if fit == "stretch":
        return _scale(pixels, size, size)
    return _padded(pixels, size)


def resize_intensities(images: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """Square float32 images ``(n, C, S, S)`` at another size, by the same filter; unchanged if they have it already."""
    if images.shape[-1] == size:
        return images
    planes = images.reshape(-1, *images.shape[2:])
    scaled = [Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR) for plane in planes]
    return np.stack([np.asarray(plane, np.float32) for plane in scaled]).reshape(*images.shape[:2], size, size)


def _central_square(pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def _padded(pixels: npt.NDArray[np.generic], size: int) -> npt.NDArray[np.generic]:
    height, width = pixels.shape[:2]
    longer = max(height, width)
    new_height, new_width = (max(1, (2 * side * size + longer) // (2 * longer)) for side in (height, width))
    canvas = np.zeros((size, size, *pixels.shape[2:]), pixels.dtype)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    canvas[top : top + new_height, left : left + new_width] = _scale(pixels, new_height, new_width)
    return canvas


def _scale(pixels: npt.NDArray[np.generic], height: int, width: int) -> npt.NDArray[np.generic]:
    if pixels.shape[:2] == (height, width):
        return np.ascontiguousarray(pixels)
    if pixels.dtype == np.uint8:
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
    if pixels.ndim == 3:
        return np.stack([_scale(pixels[..., channel], height, width) for channel in range(pixels.shape[2])], axis=-1)
    picture = Image.fromarray(pixels.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    rounded: npt.NDArray[np.uint16] = np.clip(np.rint(np.asarray(picture)), 0, 65535).astype(np.uint16)
    return rounded
