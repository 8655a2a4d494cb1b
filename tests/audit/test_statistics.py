"""Intervals against published examples, and fast formulas against the slow obvious ones."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from meddistill.audit.finding import judge, worst
from meddistill.audit.statistics import Interval, area, difference, share, threshold


def test_a_share_of_none_and_of_all_has_the_exact_interval():
    assert share(0, 100) == Interval(0.0, 0.0, pytest.approx(1 - 0.025**0.01))
    assert share(100, 100) == Interval(1.0, pytest.approx(0.025**0.01), 1.0)


def test_an_exact_interval_leaves_two_and_a_half_per_cent_on_either_side():
    from scipy.stats import binom

    found = share(7, 300)
    assert binom.sf(6, 300, found.low) == pytest.approx(0.025)
    assert binom.cdf(7, 300, found.high) == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [((56, 70, 48, 80), 0.0524, 0.3339), ((9, 10, 3, 10), 0.1705, 0.8090), ((10, 10, 0, 10), 0.6075, 1.0)],
)
def test_the_difference_of_shares_has_the_interval_that_newcombe_published(counts, low, high):
    found = difference(*counts)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def slow_area(positives, negatives):
    """Every pair counted, DeLong's variance from its definition, and the degrees of freedom of Welch."""
    wins = (positives[:, None] > negatives).astype(np.float64) + 0.5 * (positives[:, None] == negatives)
    parts = [(wins.mean(side).var(ddof=1) / count, count - 1) for side, count in zip((1, 0), wins.shape, strict=True)]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / one for part, one in parts) if variance else 1
    return wins.mean(), t.ppf(0.975, freedom) * math.sqrt(variance)


def test_the_area_is_that_of_all_pairs_ties_included():
    rng = np.random.default_rng(3)
    positives, negatives = rng.integers(0, 12, 70).astype(np.float64), rng.integers(-3, 9, 50).astype(np.float64)
    value, half = slow_area(positives, negatives)
    found = area(positives, negatives)
    assert (found.value, found.low, found.high) == pytest.approx((value, value - half, value + half))


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=60), st.floats(0, 0.9))
def test_no_more_than_the_rate_exceed_the_threshold_and_with_distinct_scores_no_fewer(scores, rate):
    values = np.array(scores)
    exceeding = int((values > threshold(values, rate)).sum())
    assert exceeding <= rate * len(values)
    if len(set(scores)) == len(scores):
        assert exceeding == math.floor(rate * len(values))


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(-0.01, 0.01, "pass"), (0.001, 0.01, "pass"), (-0.01, 0.03, "inconclusive"), (0.01, 0.05, "alarm")]
    + [(0.041, 0.05, "fail")],
)
def test_what_an_interval_means(low, high, outcome):
    assert judge(Interval((low + high) / 2, low, high), 0.0, 0.02, 0.04) == outcome


def test_an_audit_is_as_good_as_its_worst_attack():
    assert worst(["pass", "alarm", "inconclusive"]) == "alarm"
    assert worst(["fail", "pass"]) == "fail"
    assert worst(["inconclusive", "pass"]) == "inconclusive"
