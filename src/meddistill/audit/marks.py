"""Does anything that looks like a row of characters stand in a synthetic image, as burned-in names and dates do?

Characters are looked for as they differ from tissue (Wu, Manmatha and Riseman 1997, "Finding text in images", find
strokes and join them into lines in much the same way): details brighter or darker than all around, much stronger than
the image's noise, cut where they fall to half of what is strongest near by; up to twice as wide as high, no solid
blocks. A *row* is three or more of them (in small images four) side by side, of like height and contrast on one line.
Slim strokes may stand among them, as 1 and I do, and do not count, for ribs and rulers are rows of strokes. Nothing is
read: a person has to look.

Images are looked at with the side that they are stored with, and so are first images of control patients and of
members. One row in a synthetic image is an alarm if it is longer than any in control images, or if surely more
synthetic than control images have one; else it is inconclusive, since text that a source has everywhere would be in
both. Only where no image has a row does a package pass, and then no more is said than that no row was found.

What is too small to be read is no text. Most letters are found from ``LETTER`` pixels height on, by measurement
(``benchmarks/marks.py``). In images so small that usual labels are lower than that nothing could be read, little is
found, and the finding says so.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from meddistill.audit.case import Case, Side
from meddistill.audit.finding import Finding, Outcome, numbered
from meddistill.audit.people import People
from meddistill.audit.statistics import difference, share
from meddistill.cohort.resize import resize_intensities
from meddistill.runtime.streams import numpy_stream

NAME, ASKS = "marks", "rows of characters burned into synthetic images"
ROW, ROW_IN_SMALL = 3, 4  # characters; what passes for three of them is too frequent in small images
LETTER = 7  # pixels: height of the lowest letters of which most rows are found
LABEL = 1 / 8  # of the image's side: letters of burned-in labels are seldom higher
NOISE, NOISIEST = 0.05, 0.06  # deviation that was added where letters were looked for; that such images have
LIMIT = (
    "rows of characters from {share:.0f} % of the image's height on are looked for, nothing is read: look at all images"
)
SMALL = (
    "at {side} pixels only letters from {share:.0f} % of the image's height on could be read: usual labels cannot, and "
    "of larger ones many are missed here"
)
NOISY = "{count} of the synthetic images are noisier than those in which letters were found: look at them"

Floats = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int64]
_MOST: dict[Side, int] = {"control": 1000, "members": 300}  # images; of members it is told alone
_SHOWN = 50  # images named
_PIXELS = 2**19  # looked at together
_MARGIN = 2
_WINDOWS = (3, 5, 9)  # pixels: strokes are thinner than one of them
_DETAIL, _CONTRAST = 0.15, 0.3  # of a character's pixels, and of its strongest one, to what is around
_NOISES, _STRONG_NOISES = 4.0, 7.0  # the same, in deviations of the image's noise
_LOWEST, _WIDEST = 5, 2.0  # height in pixels; width over height
_SOLID, _SLIM = 0.9, 0.4  # share of its box that no character fills, unless it is a stroke; width over height of those
_HEIGHTS, _LINE, _GAP, _OVERLAP, _CONTRASTS = 1.35, 0.25, 1.0, 0.25, 0.35  # of two neighbours in a row


@dataclass(frozen=True)
class Prepared:
    """``synthetic``: characters in the longest row of each synthetic image ``(n,)``, 0 where there is no row."""

    case: Case
    synthetic: Counts


@dataclass(frozen=True)
class Marked:
    """The longest rows of the synthetic images ``(n,)``, and of images of one side ``(m,)``."""

    synthetic: Counts
    real: Counts


@dataclass(frozen=True)
class _Characters:
    """What may be characters, by image and from left to right, each ``(c,)``: boxes (ends exclusive) and contrast.

    ``slim``: those that are mere strokes.
    """

    image: npt.NDArray[np.intp]
    top: npt.NDArray[np.intp]
    bottom: npt.NDArray[np.intp]
    left: npt.NDArray[np.intp]
    right: npt.NDArray[np.intp]
    contrast: Floats
    slim: npt.NDArray[np.bool_]

    def taken(self, rows: npt.NDArray[np.intp] | npt.NDArray[np.bool_] | slice) -> "_Characters":
        return _Characters(*(one[rows] for one in vars(self).values()))


def prepare(case: Case) -> Prepared:
    """Look at every synthetic image, as it is stored."""
    return Prepared(case, longest_rows(case.package.images))


def attack(prepared: Prepared, side: Side) -> Marked:
    """Look at the first images of up to a thousand control patients, or 300 members, at the same size."""
    case = prepared.case
    images = _first_images(case.people(side), _MOST[side], case.seed, case.package.images.shape[-1])
    return Marked(prepared.synthetic, longest_rows(images))


def judge(members: Marked, control: Marked, case: Case) -> Finding:
    """No row in any synthetic image, or which have one and whether control images have the like."""
    synthetic, side = control.synthetic, case.package.images.shape[-1]
    marked = np.flatnonzero(synthetic).tolist()
    hits, others = len(marked), int((control.real > 0).sum())
    excess = difference(hits, len(synthetic), others, len(control.real))
    beyond = int(synthetic.max(initial=0)) > int(control.real.max(initial=0)) or excess.low > 0
    outcome: Outcome = "pass" if not hits else "alarm" if beyond else "inconclusive"
    named = numbered(marked, _SHOWN)
    found = f"{hits} of {len(synthetic)} synthetic images have what may be characters: look at {named}"
    return Finding(
        NAME,
        ASKS,
        outcome,
        main=share(hits, len(synthetic)),
        control=share(others, len(control.real)),
        excess=excess,
        warnings=(*((found,) if hits else ()), *_limits(case.package.images)),
        figures={
            "synthetic_images": len(synthetic),
            "marked": hits,
            "images": [place + 1 for place in marked[:_SHOWN]],
            "members": share(int((members.real > 0).sum()), len(members.real)).as_dict(),
            "longest_row": {
                name: int(rows.max(initial=0))
                for name, rows in (("synthetic", synthetic), ("control", control.real), ("members", members.real))
            },
            "side": side,
            "letters_from": LETTER,
        },
    )


def _limits(images: Floats) -> tuple[str, ...]:
    """What images of this side and with this much noise do not allow to say."""
    side = images.shape[-1]
    lowest = 100 * LETTER / side
    if _is_small(side):
        return (SMALL.format(side=side, share=lowest),)
    noisy = int((_noise(images.mean(1)) > NOISIEST).sum())
    return (*((NOISY.format(count=noisy),) if noisy else ()), LIMIT.format(share=lowest))


def _is_small(side: int) -> bool:
    """Whether letters of usual labels are too low to be read in images of this side."""
    return LABEL * side < LETTER


def _first_images(people: People, most: int, seed: int, side: int) -> Floats:
    """One image each of some patients, drawn by lot ``(m, C, side, side)``."""
    first = np.unique(people.patient, return_index=True)[1]
    drawn = numpy_stream(seed, "marks").permutation(first)[:most]
    return resize_intensities(people.images(np.sort(drawn)).numpy(), side)


def longest_rows(images: Floats) -> Counts:
    """How many characters the longest row of each image has ``(n,)``, 0 for fewer than three, in small images four.

    ``images``: intensities ``(n, C, S, S)``, whose mean over channels is looked at.
    """
    grey = images.mean(1, dtype=np.float32)
    together = max(1, _PIXELS // grey[0].size)
    parts = [_longest(grey[begin : begin + together]) for begin in range(0, len(grey), together)]
    return np.concatenate(parts)


def _longest(grey: Floats) -> Counts:
    """The same of a few grey images ``(n, S, S)``: bright and dark characters, of thin and of thick strokes."""
    noise = _noise(grey)
    wide = np.pad(grey, ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN)), mode="edge")
    found = np.zeros(len(grey), np.int64)
    least = ROW_IN_SMALL if _is_small(grey.shape[-1]) else ROW
    for signed in (wide, -wide):
        for window in _WINDOWS:
            characters = _characters(signed, window, noise)
            bounds = np.searchsorted(characters.image, np.arange(len(grey) + 1))
            for place in np.flatnonzero(np.diff(bounds) >= least):
                row = _chain(characters.taken(slice(bounds[place], bounds[place + 1])))
                found[place] = max(found[place], row if row >= least else 0)
    return found


def _noise(grey: Floats) -> Floats:
    """The deviation of each image's noise ``(n,)``, from the median difference of a pixel to the nine around it."""
    from scipy.ndimage import uniform_filter

    apart = np.abs(grey - uniform_filter(grey, (0, 3, 3)))
    return np.asarray(1.4826 * np.sqrt(9 / 8) * np.median(apart, axis=(1, 2)), np.float32)


def _characters(grey: Floats, window: int, noise: Floats) -> _Characters:
    """Bright details of up to ``window`` pixels that have the size, the shape and the contrast of characters."""
    from scipy.ndimage import grey_opening, label, maximum_filter

    details = grey - grey_opening(grey, (1, window, window))
    near = maximum_filter(details, (1, 2 * window + 1, 2 * window + 1))
    least = np.maximum(_DETAIL, _NOISES * noise)[:, None, None]
    within = np.zeros((3, 3, 3))
    within[1] = 1  # neighbours are those of the same image
    numbers, count = label(details > np.maximum(least, near / 2), within)
    found, pixels = _boxes(numbers, count, details)
    height, width = found.bottom - found.top, found.right - found.left
    fits = (height >= _LOWEST) & (height <= grey.shape[1] // 2) & (width <= _WIDEST * height)
    stroked = (pixels <= _SOLID * height * width) | found.slim
    strong = found.contrast >= np.maximum(_CONTRAST, _STRONG_NOISES * noise)[found.image]
    kept = found.taken(fits & stroked & strong)
    return kept.taken(np.lexsort((kept.left, kept.image)))


def _boxes(numbers: npt.NDArray[np.int32], count: int, details: Floats) -> tuple[_Characters, npt.NDArray[np.intp]]:
    """Boxes and contrasts of components that are numbered from 1 to ``count``, and how many pixels each has."""
    places = np.nonzero(numbers)
    which = numbers[places] - 1
    contrast = np.zeros(count, np.float32)
    np.maximum.at(contrast, which, details[places])
    image = np.zeros(count, np.intp)
    image[which] = places[0]
    edges: list[npt.NDArray[np.intp]] = []
    for line in places[1:]:
        low, high = np.full(count, np.iinfo(np.intp).max), np.zeros(count, np.intp)
        np.minimum.at(low, which, line)
        np.maximum.at(high, which, line + 1)
        edges += [low, high]
    top, bottom, left, right = edges
    slim = right - left <= _SLIM * (bottom - top)
    return _Characters(image, top, bottom, left, right, contrast, slim), np.bincount(which, minlength=count)


def _chain(one: _Characters) -> int:
    """How many characters of one image, given from left to right, the longest row has."""
    follows = _follows(one)
    length = np.where(one.slim, 0, 1)
    for place in range(1, len(length)):
        length[place] += length[:place][follows[:place, place]].max(initial=0)
    return int(length.max())


def _follows(one: _Characters) -> npt.NDArray[np.bool_]:
    """Whether the character of the column may stand right of that of the row, in one line of text ``(c, c)``."""
    height = one.bottom - one.top
    higher = np.maximum.outer(height, height)
    slack = np.maximum(1, _LINE * higher)
    gap = one.left[None] - one.right[:, None]
    alike = (
        (higher <= _HEIGHTS * np.minimum.outer(height, height))
        & (np.abs(np.subtract.outer(one.top, one.top)) <= slack)
        & (np.abs(np.subtract.outer(one.bottom, one.bottom)) <= slack)
        & (gap <= _GAP * higher)
        & (gap >= -_OVERLAP * higher)
    )
    apart = np.abs(np.subtract.outer(one.contrast, one.contrast))
    like = apart <= _CONTRASTS * np.maximum.outer(one.contrast, one.contrast)
    return np.asarray(alike & like & (one.left[None] > one.left[:, None]))
