"""How far figures of trials would vary with other patients, where one patient has several trials: a bootstrap.

Patients are drawn with replacement, each with all trials (Efron 1979; by clusters, Davison & Hinkley 1997, 3.8), and
every figure is measured again, thresholds included. Such an interval of few hits is too narrow, an exact one that takes
trials for independent is too narrow where a patient's trials are alike: what is told reaches as far as either.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from meddistill.audit.statistics import Floats, Interval
from meddistill.runtime.streams import numpy_stream

_TIMES = 1000
_SEED = 0  # of the draws of patients: nothing else of an audit depends on it


@dataclass(frozen=True)
class Whose:
    """The patient of each trial of ``members`` and of ``control``, numbered across both."""

    members: npt.NDArray[np.intp]
    control: npt.NDArray[np.intp]


@dataclass(frozen=True)
class Deviations:
    """Of the area under the ROC curve, and at each rate of the share of members found and of its excess."""

    area: float
    found: tuple[float, ...]
    excess: tuple[float, ...]


def deviations(members: Floats, control: Floats, whose: Whose, rates: Sequence[float] = ()) -> Deviations:
    """How much the figures of these scores vary over draws of patients."""
    patients = np.unique(np.concatenate([whose.members, whose.control]))
    values, place = np.unique(np.concatenate([members, control]), return_inverse=True)
    mine, theirs = place[: len(members)], place[len(members) :]
    own, others = (np.searchsorted(patients, one) for one in (whose.members, whose.control))
    draws, figures = numpy_stream(_SEED, "audit patients drawn"), []
    for _ in range(_TIMES):
        times = np.bincount(draws.integers(len(patients), size=len(patients)), minlength=len(patients))
        inside = np.bincount(mine, times[own], len(values))
        outside = np.bincount(theirs, times[others], len(values))
        if inside.sum() and outside.sum():
            figures.append(_figures(inside, outside, rates))
    spread = np.std(figures, axis=0, ddof=1)
    count = len(rates)
    return Deviations(float(spread[0]), tuple(spread[1 : 1 + count].tolist()), tuple(spread[1 + count :].tolist()))


def reaching(found: Interval, deviation: float, confidence: float, least: float = 0.0) -> Interval:
    """The interval, at least as wide as a normal one of this ``deviation``, from ``least`` to 1."""
    from scipy.stats import norm

    half = float(norm.ppf((1 + confidence) / 2)) * deviation
    low, high = min(found.low, found.value - half), max(found.high, found.value + half)
    return Interval(found.value, max(least, low), min(1.0, high))


def _figures(inside: npt.NDArray[Any], outside: npt.NDArray[Any], rates: Sequence[float]) -> list[float]:
    """Area, shares of members and their excess, of how often each score, in rising order, is drawn on either side."""
    members, control = inside.sum(), outside.sum()
    below = outside.cumsum()
    area = float((inside * (below - outside / 2)).sum() / members / control)
    found, excess = [], []
    for rate in rates:
        # The lowest score of control that no more than this share of them exceeds, as in statistics.threshold.
        limit = int(np.argmax((outside > 0) & (control - below <= np.floor(rate * control))))
        found.append(float(1 - inside.cumsum()[limit] / members))
        excess.append(found[-1] - float(1 - below[limit] / control))
    return [area, *found, *excess]
