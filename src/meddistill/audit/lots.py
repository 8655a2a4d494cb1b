"""Are images nearer to members than to control patients on the whole, more than if lots had decided who is a member?

The area under the ROC curve of an image's ratios to both groups is no measure by itself: the larger group is denser, so
that its second nearest is nearer to the nearest, and images that show nobody would seem nearer to the smaller group.
Among so many people drawn by lot for members and the rest for control it is what it is where nothing leaks, whatever
the sizes, and however much images have the same neighbours. That distribution is also as wide as chance is in few
images, where an interval from the images' own spread may have no width at all.
"""

import numpy as np
import numpy.typing as npt

from meddistill.audit.nearest import Floats, Near
from meddistill.audit.statistics import Interval

DRAWS = 1000
_AT_ONCE = 50


def drawn(
    people: int, members: int, draws: np.random.Generator, count: int = DRAWS
) -> tuple[npt.NDArray[np.bool_], ...]:
    """Who of so many people is a member, ``members`` of them ``(draws, people)``; a few draws at a time."""
    first = np.arange(people) < members
    some = (np.stack([draws.permutation(first) for _ in range(_AT_ONCE)]) for _ in range(count // _AT_ONCE))
    return tuple(some)


def areas(ratios: Floats, others: Floats) -> Floats:
    """How often a ratio is smaller than one of the ``others``, of all pairs ``(...)`` of ``(..., n)``; ties half."""
    from scipy.stats import rankdata

    count = ratios.shape[-1]
    ranks = rankdata(np.concatenate([ratios, others], -1), axis=-1)[..., count:]
    return np.asarray((ranks.sum(-1) - count * (count + 1) / 2) / count**2)


def by_lot(near: Near, chosen: tuple[npt.NDArray[np.bool_], ...]) -> Floats:
    """The area for each draw of members."""
    return np.concatenate([areas(near.ratios(some), near.ratios(~some)) for some in chosen])


def usual(lots: Floats) -> float:
    """An area, 0.5 being that of lots, that chance exceeds seldom: two deviations more."""
    return 0.5 + 2 * float(lots.std())


def beside_lots(found: float, lots: Floats, confidence: float) -> Interval:
    """An area, 0.5 being that of lots, with the interval that their spread gives."""
    tail = (1 - confidence) / 2
    mean = float(lots.mean())
    highest = float(np.quantile(lots, 1 - tail, method="higher"))
    lowest = float(np.quantile(lots, tail, method="lower"))
    value = found - mean + 0.5
    return Interval(*(min(1.0, max(0.0, one)) for one in (value, value - (highest - mean), value + (mean - lowest))))
