"""``preview.png`` inside the package: the images as small as they can be seen, for whoever unzips the file.

The labelled picture that the sender and the receiver look at is :func:`meddistill.package.preview.grid`, drawn from the
same images; it is several times larger than the data and stays outside. Needs numpy alone. Its data are stored, the
package deflates it: the same images give the same bytes, hence the same digest, with every version of zlib.
"""

import struct
import zlib

import numpy as np
import numpy.typing as npt

MOST_ROWS, MOST_COLUMNS = 24, 10  # classes, and images of a class
MOST_SIDE = 64  # pixels of a shown image
LEAST_VALUES, MOST_VALUES = 2**11, 2**16  # of all shown images together
SHARE = 2  # of the package's own values, one in so many may be shown
SHADES = 16  # of each channel
_BLOCK = 2**16 - 1  # the longest stored block of deflate
_GAP = 1
_PAPER = SHADES - 1

Levels = npt.NDArray[np.uint8]


def thumbnail(images: npt.NDArray[np.floating], labels: npt.NDArray[np.floating]) -> bytes:
    """A PNG (4-bit grey or 8-bit RGB) of ``images`` (n, C, S, S; 0 is black, 1 white) with ``labels`` (n, K).

    One row per class, of the images whose label finds it most probable; one row in all where there is one image per
    class. Shown are as many images of each class as fit, reduced only where one of each does not.
    """
    count, channels, size, _ = images.shape
    likeliest, classes = labels.argmax(axis=1), min(labels.shape[1], MOST_ROWS)
    budget = min(max(LEAST_VALUES, images.size // SHARE), MOST_VALUES)
    reduction = next(
        r for r in range(1, size + 1) if size // r <= MOST_SIDE and classes * channels * (size // r) ** 2 <= budget
    )
    most = budget // (classes * channels * (size // reduction) ** 2)
    columns = min(most, MOST_COLUMNS, max(1, count // labels.shape[1]))
    chosen = [np.flatnonzero(likeliest == index)[:columns] for index in range(classes)]
    rows = [_row([_small(images[i], reduction) for i in row], columns, size // reduction, channels) for row in chosen]
    return _png(_joined(rows, axis=1 if count > labels.shape[1] else 2))


def _small(image: npt.NDArray[np.floating], reduction: int) -> Levels:
    """``(C, s, s)`` shades of an image, each the mean of ``reduction`` squared pixels."""
    side = image.shape[-1] // reduction
    cut = np.clip(image[:, : side * reduction, : side * reduction], 0, 1).astype(np.float64)
    means = cut.reshape(-1, side, reduction, side, reduction).mean(axis=(2, 4))
    shades: Levels = np.round(means * (SHADES - 1)).astype(np.uint8)
    return shades


def _row(images: list[Levels], columns: int, side: int, channels: int) -> Levels:
    blank = np.full((channels, side, side), _PAPER, np.uint8)
    return _joined([*images, *[blank] * (columns - len(images))], axis=2)


def _joined(parts: list[Levels], axis: int) -> Levels:
    """The parts along an axis with a gap between them."""
    shape = list(parts[0].shape)
    shape[axis] = _GAP
    gap = np.full(shape, _PAPER, np.uint8)
    spaced = [piece for part in parts for piece in (gap, part)][1:]
    return np.concatenate(spaced, axis=axis)


def _png(levels: Levels) -> bytes:
    """The picture of ``(1 or 3, H, W)`` shades; grey ones are shown at twice their side.

    A grey pixel twice is one byte, and a line twice a match: that costs next to nothing. In colour it would double.
    """
    grey = len(levels) == 1
    page = levels.repeat(2, axis=1).repeat(2, axis=2) if grey else levels
    height, width = page.shape[1:]
    lines: Levels = _pairs(page[0]) if grey else _triples(page)
    unfiltered = np.concatenate([np.zeros((height, 1), np.uint8), lines], axis=1)
    header = struct.pack(">2I5B", width, height, 4 if grey else 8, 0 if grey else 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", _stored(unfiltered.tobytes())), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_part(*part) for part in parts)


def _stored(data: bytes) -> bytes:
    """``data`` as a zlib stream (RFC 1950) of stored blocks (RFC 1951, 3.2.4)."""
    starts = range(0, len(data), _BLOCK)
    blocks = [data[start : start + _BLOCK] for start in starts]
    heads = [
        struct.pack("<B2H", start + _BLOCK >= len(data), len(b), len(b) ^ 0xFFFF)
        for start, b in zip(starts, blocks, strict=True)
    ]
    stored = b"".join(head + block for head, block in zip(heads, blocks, strict=True))
    return b"\x78\x01" + stored + zlib.adler32(data).to_bytes(4, "big")


def _pairs(shades: Levels) -> Levels:
    """``(H, W)`` shades, W even, two to a byte."""
    packed: Levels = np.bitwise_or(np.left_shift(shades[:, ::2], np.uint8(4)), shades[:, 1::2], dtype=np.uint8)
    return packed


def _triples(shades: Levels) -> Levels:
    """``(3, H, W)`` shades as ``(H, 3 W)`` bytes from black to white, colour by colour of each pixel."""
    values: Levels = np.multiply(shades, np.uint8(255 // (SHADES - 1)), dtype=np.uint8)
    lines: Levels = values.transpose(1, 2, 0).reshape(shades.shape[1], -1)
    return lines


def _part(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
