"""The picture beside a package: the images in a grid, with class names and, small underneath, what their labels say.

One image per class: cells side by side, the class name above each. More: one row per class, its name at the left.
An image is shown under the class that its label finds most probable, with that probability. Small images are
enlarged by a whole factor, so that their pixels stay what they are; large ones are reduced. Needs Pillow, whose font
has the letters of English: of others the marks are left out, and a class whose name is written in other letters is
told by its number. Inside the package is a smaller picture of the same images, :mod:`meddistill.package.thumbnail`.
"""

import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

MAX_COLUMNS = 10  # images shown of a class
MAX_ROWS = 24  # classes shown
PIXEL_BUDGET = 2**18  # values of all shown images together before enlarging
CELL_SIDE = 96  # pixels that a shown image should fill at least, about
SINGLE_SIDE = 168  # the same where there is one image per class
SINGLE_COLUMNS = 4
SHADES = 32  # of each channel: the eye sees no difference, the file is a third smaller

_MARGIN, _GAP, _PAPER, _INK, _SOFT_INK, _LINE = 20, 10, 255, 25, 110, 205
_NAME_SIZE, _SMALL_SIZE, _NAME_WIDTH = 17, 12, 150


@dataclass(frozen=True)
class _Cell:
    """One shown image: its pixels ``(H, W)`` or ``(H, W, 3)`` uint8 and the probability underneath."""

    pixels: npt.NDArray[np.uint8]
    probability: float


@dataclass(frozen=True)
class _Row:
    """One class, the images shown of it and how many it has."""

    name: str
    cells: tuple[_Cell, ...]
    total: int


def grid(images: npt.NDArray[np.floating], labels: npt.NDArray[np.floating], classes: Sequence[str]) -> bytes:
    """A PNG (8-bit grey or RGB) of ``images`` (n, C, H, W; 0 is black, 1 white, clipped) with ``labels`` (n, K)."""
    rows = _rows(images, labels, classes)
    draw_page = _single_page if max(row.total for row in rows) <= 1 else _row_page
    page = draw_page(rows, len(classes) - len(rows), "L" if images.shape[1] == 1 else "RGB")
    buffer = io.BytesIO()
    page.save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


def _rows(
    images: npt.NDArray[np.floating], labels: npt.NDArray[np.floating], classes: Sequence[str]
) -> tuple[_Row, ...]:
    likeliest = labels.argmax(axis=1)
    chosen = [np.flatnonzero(likeliest == index) for index in range(min(len(classes), MAX_ROWS))]
    shown = max(1, sum(min(len(indices), MAX_COLUMNS) for indices in chosen))
    side = CELL_SIDE if max(map(len, chosen)) > 1 else SINGLE_SIDE
    reduction = next(r for r in range(1, images.shape[-1] + 1) if shown * images[0].size / r**2 <= PIXEL_BUDGET)
    return tuple(
        _Row(
            _drawable(classes[index], index),
            tuple(_cell(images[i], float(labels[i, index]), reduction, side) for i in indices[:MAX_COLUMNS]),
            len(indices),
        )
        for index, indices in enumerate(chosen)
    )


def _drawable(name: str, index: int) -> str:
    """``name`` in letters that the font has, or ``class 3`` for the third."""
    parts = unicodedata.normalize("NFKD", name.replace("ß", "ss"))
    plain = "".join(sign for sign in parts if not unicodedata.combining(sign))
    return plain if plain.isascii() else f"class {index + 1}"


def _cell(image: npt.NDArray[np.floating], probability: float, reduction: int, side: int) -> _Cell:
    from PIL import Image

    pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
    picture = picture.reduce(reduction) if reduction > 1 else picture
    factor = max(1, round(side / picture.width))
    small = np.round(np.round(np.asarray(picture) / 255 * (SHADES - 1)) / (SHADES - 1) * 255).astype(np.uint8)
    return _Cell(small.repeat(factor, axis=0).repeat(factor, axis=1), probability)


def _single_page(rows: Sequence[_Row], left_out: int, mode: str) -> "Image.Image":
    side = _side(rows)
    columns = min(SINGLE_COLUMNS, len(rows))
    names = [_wrap(row.name, side, _NAME_SIZE, 2) for row in rows]
    head = max(len(lines) for lines in names) * (_NAME_SIZE + 4) + 6
    step_x, step_y = side + 2 * _GAP, head + side + 34
    height = 2 * _MARGIN + -(-len(rows) // columns) * step_y + _SMALL_SIZE + 8
    caption = _caption(left_out)
    width = max(columns * step_x - 2 * _GAP, _width(caption, _SMALL_SIZE)) + 2 * _MARGIN
    page, draw = _blank(mode, width, height)
    for index, (row, lines) in enumerate(zip(rows, names, strict=True)):
        x, y = _MARGIN + index % columns * step_x, _MARGIN + index // columns * step_y
        _lines(draw, (x, y + head - 6 - len(lines) * (_NAME_SIZE + 4)), lines, _NAME_SIZE, _INK)
        _cells(page, draw, row, (x, y + head), side)
    _lines(draw, (_MARGIN, height - _MARGIN - _SMALL_SIZE), [caption], _SMALL_SIZE, _SOFT_INK)
    return page


def _row_page(rows: Sequence[_Row], left_out: int, mode: str) -> "Image.Image":
    side = _side(rows)
    columns = max(len(row.cells) for row in rows)
    names = [_wrap(row.name, _NAME_WIDTH, _NAME_SIZE, 3) for row in rows]
    name_width = max(_width(line, _NAME_SIZE) for lines in names for line in lines)
    left = _MARGIN + max(name_width, 90) + 2 * _GAP
    step_y = max(side, 60) + 36
    height = 2 * _MARGIN + len(rows) * step_y + _SMALL_SIZE + 8
    caption = _caption(left_out)
    width = max(left + columns * (side + _GAP) - _GAP, _MARGIN + _width(caption, _SMALL_SIZE)) + _MARGIN
    page, draw = _blank(mode, width, height)
    for index, (row, lines) in enumerate(zip(rows, names, strict=True)):
        y = _MARGIN + index * step_y
        _lines(draw, (_MARGIN, y), lines, _NAME_SIZE, _INK)
        _lines(draw, (_MARGIN, y + len(lines) * (_NAME_SIZE + 4) + 2), [_count(row)], _SMALL_SIZE, _SOFT_INK)
        _cells(page, draw, row, (left, y), side)
    _lines(draw, (_MARGIN, height - _MARGIN - _SMALL_SIZE), [caption], _SMALL_SIZE, _SOFT_INK)
    return page


def _cells(page: "Image.Image", draw: "ImageDraw.ImageDraw", row: _Row, at: tuple[int, int], side: int) -> None:
    """The images of a class from ``at`` rightwards, each with a bar and the number of its probability."""
    from PIL import Image

    x, y = at

    for cell in row.cells:
        page.paste(Image.fromarray(cell.pixels), (x, y))
        draw.rectangle((x - 1, y - 1, x + side, y + side), outline=_shade(page.mode, _LINE))
        draw.rectangle((x, y + side + 4, x + side - 1, y + side + 6), fill=_shade(page.mode, 230))
        filled = max(1, round(cell.probability * side))
        draw.rectangle((x, y + side + 4, x + filled - 1, y + side + 6), fill=_shade(page.mode, _SOFT_INK))
        _lines(draw, (x, y + side + 9), [f"{cell.probability:.2f}"], _SMALL_SIZE, _SOFT_INK)
        x += side + _GAP
    if not row.cells:
        _lines(draw, (x, y), ["no image has this as", "its likeliest class"], _SMALL_SIZE, _SOFT_INK)


def _caption(left_out: int) -> str:
    more = f" {left_out} more classes are not shown." if left_out else ""
    return f"Synthetic images. Below each: the probability that its label gives the class.{more}"


def _count(row: _Row) -> str:
    return f"{row.total} images" if row.total == len(row.cells) else f"{len(row.cells)} of {row.total} images"


def _width(line: str, size: int) -> int:
    return int(_font(size).getlength(line)) + 1


def _side(rows: Sequence[_Row]) -> int:
    return next(len(cell.pixels) for row in rows for cell in row.cells)


def _blank(mode: str, width: int, height: int) -> "tuple[Image.Image, ImageDraw.ImageDraw]":
    from PIL import Image, ImageDraw

    page = Image.new(mode, (width, height), _shade(mode, _PAPER))
    return page, ImageDraw.Draw(page)


def _lines(draw: "ImageDraw.ImageDraw", at: tuple[int, int], lines: Sequence[str], size: int, ink: int) -> None:
    for index, line in enumerate(lines):
        draw.text((at[0], at[1] + index * (size + 4)), line, font=_font(size), fill=_shade(str(draw.im.mode), ink))


def _wrap(name: str, width: int, size: int, most: int) -> list[str]:
    """``name`` in at most ``most`` lines of ``width`` pixels; what does not fit ends in an ellipsis."""
    font, lines = _font(size), [""]
    for word in name.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width or not lines[-1]:
            lines[-1] = joined
        else:
            lines.append(word)
    kept = lines[:most] if len(lines) <= most else [*lines[: most - 1], " ".join(lines[most - 1 :])]
    return [_shorten(line, width, font) for line in kept]


def _shorten(line: str, width: int, font: "Font") -> str:
    if font.getlength(line) <= width:
        return line
    fitting = next(n for n in range(len(line), -1, -1) if font.getlength(line[:n] + "…") <= width or n == 0)
    return line[:fitting] + "…"


def _shade(mode: str, value: int) -> Any:
    return value if mode == "L" else (value, value, value)


def _font(size: int) -> "Font":
    from PIL import ImageFont

    return ImageFont.load_default(size)
