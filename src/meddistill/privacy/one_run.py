"""A lower bound of epsilon from one run with planted canaries (Steinke, Nasr & Jagielski 2023, arXiv 2305.08846).

Each of ``m`` records is put in or left out by a fair coin of its own. Somebody who sees nothing but the result says of
``r`` of them whether they were in, and is right of ``v``. Under (ε, δ)-differential privacy for adding or removing one
record no guesser does better, δ aside, than if every guess were right with probability e^ε / (1 + e^ε), independently
of all others (theorem 5.2 there). So many right guesses as that would seldom give prove a larger ε; chance in the coins
is all that the proof needs, whatever the run, the scores, or the records.

How many records are guessed must not be chosen by the answers. Here a few numbers of guesses are fixed beforehand, and
whoever looks at several pays for each (Bonferroni): ``error`` is to be divided by the number of all looks.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Guessed to be in, and as many to be out, of all canaries: a few at great risk, or many at a small one.
SHARES = (0.05, 0.125, 0.25)
_STEPS = 50  # of the bisection


@dataclass(frozen=True)
class Guesses:
    """``found`` of the ``each`` records guessed to be in were in, ``left`` of as many guessed to be out were out."""

    records: int
    each: int
    found: int
    left: int

    @property
    def made(self) -> int:
        """How many records were guessed."""
        return 2 * self.each

    @property
    def right(self) -> int:
        """How many guesses were right."""
        return self.found + self.left


def guess(included: npt.NDArray[np.floating[Any]], excluded: npt.NDArray[np.floating[Any]], share: float) -> Guesses:
    """Take the records of the highest scores for those that were in, those of the lowest for those that were out.

    ``included``, ``excluded``: scores of the records that were in, and of those that were not. ``share``: of all
    records, guessed on each side. Equal scores are guessed wrongly wherever possible, so that no order can help.
    """
    scores = np.concatenate([included, excluded])
    truth = np.arange(len(scores)) < len(included)
    order = np.argsort(scores, kind="stable")  # of equal scores those that were in come first: at the wrong end
    each = _guessed(len(scores), share)
    return Guesses(len(scores), each, int(truth[order[-each:]].sum()), int((~truth[order[:each]]).sum()))


def chance(records: int, made: int, right: int, epsilon: float, delta: float) -> float:
    """An upper bound of the probability of so many right guesses under (ε, δ)-differential privacy.

    ``β + 2 m δ α`` (theorem 5.2): with the number W of right answers of the randomised response, β = P[W ≥ v] and
    α = max over i from 1 to v of P[v > W ≥ v − i] / i.
    """
    from scipy.stats import binom

    truth = 1 / (1 + math.exp(-epsilon))
    beyond = float(binom.sf(right - 1, made, truth))
    if not delta or not right:
        return min(1.0, beyond)
    below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), made, truth))
    alpha = float((below / np.arange(1, right + 1)).max())
    return min(1.0, beyond + 2 * records * delta * alpha)


def least_epsilon(records: int, made: int, right: int, delta: float, error: float) -> float:
    """The ε below which so many right guesses have a chance under ``error``; 0 where there is none.

    Where the run is (ε, δ)-differentially private, the answer exceeds ε with a probability of ``error`` at most.
    """
    low, high = 0.0, 1.0
    if chance(records, made, right, low, delta) >= error:
        return 0.0
    while chance(records, made, right, high, delta) < error:
        low, high = high, 2 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if chance(records, made, right, middle, delta) < error else (low, middle)
    return low


def largest_epsilon(records: int, delta: float, looks: int, error: float) -> float:
    """What so many records can show at the very most: every guess right, at the best of the :data:`SHARES`.

    ``looks``: scores that are tried, at each of the shares.
    """
    return _shown(records, 1.0, delta, looks, error)


def convicts(records: int, epsilon: float, above: float, delta: float, looks: int, error: float) -> bool:
    """Whether guesses as good as randomised response allows at ``epsilon`` prove more than ``above``."""
    return _shown(records, 1 / (1 + math.exp(-epsilon)), delta, looks, error) > above


def _shown(records: int, right: float, delta: float, looks: int, error: float) -> float:
    """The largest ε that is shown where a share ``right`` of all guesses is right, at each of the :data:`SHARES`."""
    made = [2 * _guessed(records, share) for share in SHARES]
    paid = error / (looks * len(SHARES))
    return max(least_epsilon(records, one, math.floor(one * right), delta, paid) for one in made)


def _guessed(records: int, share: float) -> int:
    """How many records are guessed on each side."""
    return max(1, int(share * records))
