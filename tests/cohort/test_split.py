import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meddistill.cohort.split import assign


@st.composite
def cohorts(draw):
    count = draw(st.integers(1, 120))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    classes, groups = draw(st.integers(1, 5)), draw(st.integers(1, 60))
    labels = rng.choice(classes, count, p=rng.dirichlet(np.ones(classes)))
    return labels.astype(np.int64), rng.integers(0, groups, count)


@settings(max_examples=80)
@given(cohorts(), st.integers(0, 2**40))
def test_groups_stay_together_and_classes_stay_in_training(cohort, seed):
    labels, group = cohort
    splits = assign(labels, group, seed)
    assert set(splits) <= {0, 1, 2}
    for one in np.unique(group):
        assert len(set(splits[group == one])) == 1
    for label in np.unique(labels):
        if len(np.unique(group[labels == label])) == 1:
            assert (splits[labels == label] == 0).all()
    np.testing.assert_array_equal(splits, assign(labels, group, seed))


def test_shares_are_exact_per_class_without_groups():
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    splits = assign(labels, np.arange(1000), 3)
    table = [[int(((labels == label) & (splits == split)).sum()) for split in range(3)] for label in range(3)]
    assert table == [[490, 70, 140], [140, 20, 40], [70, 10, 20]]


def test_shares_are_near_with_groups():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 400, 1000)
    labels = (group % 3 == 0).astype(np.int64)
    splits = assign(labels, group, 0)
    for label in (0, 1):
        share = np.bincount(splits[labels == label], minlength=3) / (labels == label).sum()
        np.testing.assert_allclose(share, [0.7, 0.1, 0.2], atol=0.04)


def test_the_seed_decides():
    labels, group = np.arange(100) % 2, np.arange(100)
    assert (assign(labels, group, 0) != assign(labels, group, 1)).any()


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.0), (0.8, 0.0, 0.2), (1.0, 0.0, 0.0)])
def test_other_fractions(fractions):
    splits = assign(np.arange(200) % 2, np.arange(200), 0, fractions)
    np.testing.assert_allclose(np.bincount(splits, minlength=3) / 200, fractions)


@pytest.mark.parametrize("largest", [40, 100, 300])
def test_the_largest_patient_does_not_decide_the_shares(largest):
    group = np.repeat(np.arange(40), [largest] + [10] * 39)
    labels = np.random.default_rng(0).integers(0, 2, len(group))
    for seed in range(12):
        assert 0.1 < (assign(labels, group, seed) == 2).mean() < 0.28


def test_who_is_in_test_is_drawn_whatever_how_many_images_there_are():
    sizes = np.random.default_rng(1).lognormal(2.5, 0.8, 60).astype(int) + 1
    group = np.repeat(np.arange(60), sizes)
    labels = np.random.default_rng(0).integers(0, 2, len(group))
    tested = [set(group[assign(labels, group, seed) == 2]) for seed in range(40)]
    for patient in np.argsort(sizes)[-5:]:
        assert 2 <= sum(patient in found for found in tested) <= 20
