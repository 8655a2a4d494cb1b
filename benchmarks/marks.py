"""Write text on real images and look for it: how small the letters may be that `meddistill audit` finds, and how often
it takes for text what is none.

    .venv/bin/python benchmarks/marks.py --data ../shared/data [--cells "COVID-19 radiography 64"]

A set and a side of its images are one entry of ``benchmarks/records/marks.json``, written as soon as it is measured;
what is in it is not measured again. Names and numbers of 4 to 10 characters, as many as fit, are drawn with Pillow's
own font at four times the size, reduced as the images are, and laid over images at places drawn by lot: bright where
the image is dark there, else dark. Each image is looked at as it is and with noise such as distilled images may have.
``--table`` prints the record.
"""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from shared import images_of, markdown, of_cells, today

from meddistill.audit.marks import NOISE, Floats, longest_rows
from meddistill.runtime.streams import numpy_stream

RECORD = Path(__file__).parent / "records" / "marks.json"
# No image is enlarged: that would smooth it.
CELLS = (
    ("PneumoniaMNIST", 28),
    ("COVID-19 radiography", 28),
    ("COVID-19 radiography", 64),
    ("COVID-19 radiography", 112),
    ("HAM10000", 28),
    ("HAM10000", 64),
    ("HAM10000", 96),
    ("PBC blood cells", 28),
    ("PBC blood cells", 64),
    ("Kermany chest X-ray", 224),
)
HEIGHTS = (4, 5, 6, 7, 8, 10, 14, 20)
UNMARKED, MARKED, SEED = 300, 60, 0
LARGE, FEWER = 200, 2  # pixels, from which so many times fewer images are looked at
SIGNS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"
LEAST, MOST, FINE = 4, 10, 4


def measure(name: str, side: int, data: Path) -> dict[str, Any]:
    """One entry of the record."""
    fewer = FEWER if side >= LARGE else 1
    images: Floats = images_of(data, name, side, UNMARKED // fewer).astype(np.float32) / 255
    marked = MARKED // fewer
    draws = numpy_stream(SEED, "marks", name, str(side))
    found = {}
    for height in HEIGHTS:
        written = [one for image in images[:marked] if (one := write(image, height, draws)) is not None]
        if 2 * len(written) > marked:
            found[str(height)] = {"images": len(written), "found": seen(np.stack(written), draws)}
    return {
        "command": shlex.join(["benchmarks/marks.py", "--cells", f"{name} {side}"]),
        "date": today(),
        "seed": SEED,
        "noise": NOISE,
        "unmarked": {"images": len(images), "found": seen(images, draws)},
        "letters": found,
    }


def seen(images: Floats, draws: np.random.Generator) -> dict[str, int]:
    """In how many images a row is found, as they are and with noise."""
    noise = draws.normal(0, NOISE, images.shape).astype(np.float32)
    return {way: int((longest_rows(some) > 0).sum()) for way, some in (("plain", images), ("noisy", images + noise))}


def write(image: Floats, height: int, draws: np.random.Generator) -> Floats | None:
    """The image with a name or number on it whose capitals are ``height`` pixels high; None where four do not fit."""
    side, count = image.shape[-1], int(draws.integers(LEAST, MOST + 1))
    text, font = "".join(draws.choice(list(SIGNS), count)), font_of(FINE * height)
    while font.getlength(text) > FINE * side and len(text) > LEAST:
        text = text[:-1]
    left, top, right, bottom = font.getbbox(text)
    free = FINE * side - (right - left), FINE * side - (bottom - top)
    if min(free) < 0:
        return None
    x, y = (int(draws.integers(0, room + 1)) for room in free)
    mask = Image.new("L", (FINE * side, FINE * side))
    ImageDraw.Draw(mask).text((x - left, y - top), text, font=font, fill=255)
    inked = np.asarray(mask.resize((side, side), Image.Resampling.BILINEAR), np.float32) / 255
    shade = 1.0 if np.average(image.mean(0), weights=inked) < 0.5 else 0.0
    return (image * (1 - inked) + shade * inked).astype(np.float32)


def font_of(height: int) -> Any:
    """Pillow's own font with capitals of this height."""
    _, top, _, bottom = ImageFont.load_default(size=100).getbbox("H")
    return ImageFont.load_default(size=100 * height / (bottom - top))


def table(record: dict[str, Any]) -> str:
    """The record as Markdown: per cent of images in which a row is found, as they are / with noise."""
    heads = ("images, side", "without text", *(f"letters of {height} px" for height in HEIGHTS))
    lines = list[tuple[str, ...]]()
    for key, one in record.items():
        cells = [rate(one["unmarked"], ".1f")]
        cells += [rate(one["letters"][str(h)], ".0f") if str(h) in one["letters"] else "" for h in HEIGHTS]
        lines.append((key, *cells))
    return markdown(heads, lines)


def rate(counted: dict[str, Any], form: str) -> str:
    """Both shares in per cent."""
    return " / ".join(format(100 * counted["found"][way] / counted["images"], form) for way in ("plain", "noisy"))


def main() -> None:
    """Measure what was asked for and is not in the record yet."""
    of_cells(__doc__.splitlines()[0], RECORD, CELLS, measure, table)


if __name__ == "__main__":
    main()
