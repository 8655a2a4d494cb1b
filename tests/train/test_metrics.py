"""Scores against values worked out by hand, and intervals against scipy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from meddistill.train.metrics import METRICS, Scores, calibration_error, measure, summarise, summarise_scores


def test_two_classes_by_hand():
    ill = np.array([0.1, 0.6, 0.3, 0.2, 0.9, 0.4])
    labels = np.array([0, 0, 0, 0, 1, 1])
    found = measure(np.stack([1 - ill, ill], 1), labels)
    assert found.accuracy == pytest.approx(4 / 6)
    assert found.balanced_accuracy == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert found.auroc == pytest.approx(7 / 8)  # of the 8 pairs, one is the wrong way round: 0.6 above 0.4


def test_three_classes_by_hand():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8]])
    found = measure(probabilities, np.array([0, 1, 1, 2]))
    assert found.accuracy == pytest.approx(3 / 4)
    assert found.balanced_accuracy == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert found.auroc == pytest.approx((3 / 3 + 4 / 4 + 3 / 3) / 3)


def test_ties_count_half():
    assert measure(np.full((4, 2), 0.5), np.array([0, 1, 0, 1])).auroc == 0.5


def test_a_class_without_images_does_not_count():
    probabilities = np.array([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1]])
    found = measure(probabilities, np.array([0, 0, 1, 1]))  # the first image is taken for class 2, which has none
    assert found.accuracy == pytest.approx(3 / 4)
    assert found.balanced_accuracy == pytest.approx((1 / 2 + 1) / 2)
    assert found.auroc == pytest.approx((2 / 4 + 4 / 4) / 2)  # 0.1 stands below both images of class 1, 0.8 above


def test_a_single_class_has_no_auroc():
    found = measure(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 0]))
    assert (found.balanced_accuracy, found.auroc, found.accuracy) == (0.5, 0.5, 0.5)


def test_the_calibration_error_by_hand():
    """Two images of the bin up to 10/15, one of them right; one of the last bin, right; the bounds go down."""
    ill = np.array([0.65, 10 / 15, 0.99])
    found = calibration_error(np.stack([1 - ill, ill], 1), np.array([0, 1, 1]))
    assert found == pytest.approx(2 / 3 * abs((0.65 + 10 / 15) / 2 - 1 / 2) + 1 / 3 * 0.01)


@given(count=st.integers(1, 200), classes=st.integers(2, 5), seed=st.integers(0, 99))
def test_the_calibration_error_bin_by_bin(count, classes, seed):
    rng = np.random.default_rng(seed)
    probabilities, labels = rng.dirichlet(np.ones(classes), count), rng.integers(0, classes, count)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    expected = 0.0
    for index in range(15):
        inside = (confidence > index / 15) & (confidence <= (index + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration_error(probabilities, labels) == pytest.approx(expected, abs=1e-12)
    assert calibration_error(np.eye(classes)[labels], labels) == 0
    assert calibration_error(np.eye(classes)[(labels + 1) % classes], labels) == 1


def test_the_interval_is_students():
    values = [0.81, 0.84, 0.79, 0.86, 0.80]
    found = summarise(values)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), low, high))
    assert found.per_seed == tuple(values)
    half = 12.706204736 * math.sqrt(0.0002) / math.sqrt(2)  # t with one degree of freedom, from a table
    assert summarise([0.7, 0.72]).high == pytest.approx(0.71 + half)


def test_one_seed_has_no_spread():
    found = summarise([0.75])
    assert (found.mean, found.low, found.high, found.per_seed) == (0.75, 0.75, 0.75, (0.75,))


def test_every_metric_is_summarised():
    found = summarise_scores([Scores(0.5, 0.6, 0.7, 0.1), Scores(0.7, 0.8, 0.9, 0.3)])
    assert tuple(found) == METRICS
    assert [summary.mean for summary in found.values()] == pytest.approx([0.6, 0.7, 0.8, 0.2])
    assert found["auroc"].as_dict()["per_seed"] == [0.6, 0.8]
