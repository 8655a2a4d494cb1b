"""Shares, differences of shares and areas under curves, each with the interval that the audit's answers rest on."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A measured value and its interval, of 95 % unless it is one of several that are looked at together."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """JSON-able."""
        return {"value": _told(self.value), "low": _told(self.low), "high": _told(self.high)}


def share(hits: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """``hits / trials`` with the exact interval of Clopper and Pearson (1934)."""
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = float(beta.ppf(tail, hits, trials - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, trials - hits)) if hits < trials else 1.0
    return Interval(hits / trials, low, high)


def difference(hits: int, trials: int, other_hits: int, other_trials: int, confidence: float = CONFIDENCE) -> Interval:
    """The difference of two independent shares: Newcombe (1998), method 10, from Wilson's intervals of both."""
    one, low, high = _wilson(hits, trials, confidence)
    other, other_low, other_high = _wilson(other_hits, other_trials, confidence)
    value = one - other
    below, above = math.hypot(one - low, other_high - other), math.hypot(high - one, other - other_low)
    return Interval(value, value - below, value + above)


def area(positives: Floats, negatives: Floats, confidence: float = CONFIDENCE) -> Interval:
    """The area under the ROC curve of scores that should be larger for ``positives``; the interval is DeLong's (1988).

    Ties count half. It is computed from ranks (Sun and Xu 2014). Student's t has the degrees of freedom of Brunner and
    Munzel (2000): of twenty, normal intervals of 99.9 % err four times as often as they should. At a
    perfect separation the interval has no width.
    """
    from scipy.stats import rankdata, t

    together = rankdata(np.concatenate([positives, negatives]))
    above = (together[: len(positives)] - rankdata(positives)) / len(negatives)
    below = 1 - (together[len(positives) :] - rankdata(negatives)) / len(positives)
    value = float(above.mean())
    one, other = above.var(ddof=1) / len(positives), below.var(ddof=1) / len(negatives)
    variance = float(one + other)
    if not variance:
        return Interval(value, value, value)
    freedom = variance**2 / (one**2 / (len(positives) - 1) + other**2 / (len(negatives) - 1))
    half = float(t.ppf((1 + confidence) / 2, freedom)) * math.sqrt(variance)
    return Interval(value, max(0.0, value - half), min(1.0, value + half))


def threshold(negatives: Floats, rate: float) -> float:
    """The score that at most the share ``rate`` of ``negatives`` exceeds: the lowest of their own scores that does."""
    allowed = math.floor(rate * len(negatives))
    return float(np.sort(negatives)[len(negatives) - 1 - allowed])


def _wilson(hits: int, trials: int, confidence: float) -> tuple[float, float, float]:
    """The share, and the score interval of Wilson (1927)."""
    from scipy.stats import norm

    value, z = hits / trials, float(norm.ppf((1 + confidence) / 2))
    centre = (value + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(value * (1 - value) / trials + z * z / (4 * trials**2))
    return value, max(0.0, centre - half), min(1.0, centre + half)


def _told(value: float) -> float:
    """Five digits behind the point: more than any of these samples can tell."""
    return round(value, 5)
