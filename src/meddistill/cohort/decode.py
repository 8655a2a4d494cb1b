"""From the bytes of an image file to pixels: PNG, JPEG, TIFF and BMP, 8 and 16 bits, grey and colour.

Files are not trusted: the size is checked before anything is decoded, half an image is an error, and whatever a
decoder raises becomes a ``ValueError`` with the reason.
"""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.BmpImagePlugin import BmpImageFile, DibImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from meddistill.cohort.types import Picture

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".bmp"})
# The only decoders that ever see a file, whatever its suffix.
_READERS = (PngImageFile, JpegImageFile, TiffImageFile, BmpImageFile, DibImageFile)
FORMATS = tuple(str(reader.format) for reader in _READERS)
MAX_PIXELS = 80_000_000
MAX_BYTES = 1 << 29
DIGEST_BYTES = 16

_ORIENTATION, _BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 274, 258, 262, 0
_PNG_DEPTH = 24  # offset of the bit depth in a PNG file: after the signature, and the head, width and height of IHDR


def load_file(path: Path) -> Picture:
    """Read and decode one file. Raises ``OSError`` or ``ValueError`` with the reason."""
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"the file is larger than {MAX_BYTES >> 20} MiB")
    data = path.read_bytes()
    pixels, mode = decode(data)
    return Picture(pixels, mode, hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest())


def peek_file(path: Path) -> tuple[int, int]:
    """Native ``(width, height)`` from the file's header. Raises ``OSError`` or ``ValueError``."""
    with open(path, "rb") as file, _opened(file) as image:
        return image.size


def decode(data: bytes) -> tuple[npt.NDArray[np.generic], str]:
    """Pixels and mode (see :class:`~meddistill.cohort.types.Picture`) of the image that ``data`` holds.

    The orientation tag is applied. Transparent images are laid on black. One-bit and palette images become 8-bit.
    16-bit grey stays 16-bit; 16-bit colour is reduced to 8 bits, which ``mode`` says.
    Raises ``ValueError`` for anything that is not one whole image of at most ``MAX_PIXELS`` pixels.
    """
    if not data:
        raise ValueError("the file is empty")
    with _opened(io.BytesIO(data)) as image:
        depth = _stored_bits(image, data)
        image.load()
        upright = ImageOps.exif_transpose(image)
        stored = _whole_numbers(upright, inverted=_inverted(image)) if _wide(image) else _bytes(upright)
    pixels = grey_if_equal(stored)
    return pixels, _mode(pixels, depth)


def grey_if_equal(pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """``(H, W)`` if the image is grey or its three channels are equal, else ``(H, W, 3)`` unchanged."""
    if pixels.ndim == 2:
        return pixels
    red = pixels[..., 0]
    if np.array_equal(red, pixels[..., 1]) and np.array_equal(red, pixels[..., 2]):
        return np.ascontiguousarray(red)
    return pixels


@contextmanager
def _opened(file: object) -> Iterator[Image.Image]:
    try:
        with Image.open(file, formats=FORMATS) as image:  # type: ignore[arg-type]
            _require_one_picture(image)
            yield image
    except UnidentifiedImageError as error:
        raise ValueError("not a PNG, JPEG, TIFF or BMP image, whatever its name says") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"more pixels than the {MAX_PIXELS // 10**6} million that are read") from error
    except (MemoryError, ValueError):
        raise
    except Exception as error:  # decoders meet a broken file with OSError, SyntaxError, struct.error, IndexError, …
        raise ValueError(_reason(error)) from error


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return f"broken or cut short: {text[:120]}"


def _require_one_picture(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} × {height} pixels are more than the {MAX_PIXELS // 10**6} million that are read")
    # Multi-picture JPEGs hold the photograph and smaller copies of it; other formats hold a stack or a film.
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise ValueError(f"a stack of {frames} pictures, not one (volumes are not supported)")


def _wide(image: Image.Image) -> bool:
    return image.mode == "I" or image.mode.startswith("I;16")


def _inverted(image: Image.Image) -> bool:
    # Pillow turns white-is-zero TIFFs round at 8 bits, not at 16.
    tags = getattr(image, "tag_v2", None)
    return tags is not None and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _whole_numbers(image: Image.Image, inverted: bool) -> npt.NDArray[np.uint16]:
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"pixel values from {low} to {high}; 0 to 65535 are read: rescale the image")
    wide = values.astype(np.uint16)
    transparent = image.info.get("transparency")  # of a PNG: one value
    if isinstance(transparent, int):
        wide[values == transparent] = 0
    return 65535 - wide if inverted else wide


def _bytes(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose black and white are not defined: save it as 8- or 16-bit")
    if image.has_transparency_data:
        return _on_black(image)
    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def _on_black(image: Image.Image) -> npt.NDArray[np.uint8]:
    values = np.asarray(image.convert("RGBA")).astype(np.uint16)
    return ((values[..., :3] * values[..., 3:] + 127) // 255).astype(np.uint8)


def _stored_bits(image: Image.Image, data: bytes) -> int:
    if image.format == "PNG":
        return data[_PNG_DEPTH]
    tags = getattr(image, "tag_v2", None)
    return max(tags.get(_BITS, (8,))) if tags is not None else 8


def _mode(pixels: npt.NDArray[np.generic], stored_bits: int) -> str:
    kind = "grey" if pixels.ndim == 2 else "colour"
    bits = pixels.dtype.itemsize * 8
    return f"{kind} {bits}-bit" if stored_bits <= bits else f"{kind} {bits}-bit (stored with {stored_bits})"
