"""Overlap of synthetic images, against its definition and on images made to overlap."""

from itertools import combinations
from statistics import fmean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meddistill.distill.formation import Formation
from meddistill.distill.overlap import judge_of, least_alike, measure_overlap, worse_of_pairs
from meddistill.distill.start import MIN_PROTOTYPE_IMAGES
from meddistill.runtime.streams import stream


@pytest.fixture
def params(network, store):
    from meddistill.nets.params import unflatten

    return unflatten(store.snapshot(0, store.snapshots - 1), network.shapes)


@pytest.fixture
def judge(network, params, images):
    return judge_of(network, params, images, torch.tensor([0, 1]), 0.99, stream(0, "overlap"))


def real(images, label, count):
    return images.inputs(images.rows_of(label)[:count])


def test_a_copy_overlaps_and_different_real_images_do_not(judge, images):
    own, other = real(images, 0, 3), real(images, 1, 3)
    synthetic = torch.cat([own, own[:1], other])
    classes = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    found = measure_overlap(judge, synthetic, classes)
    assert found.similarity[[0, 3]].tolist() == pytest.approx([1, 1], abs=1e-6)
    assert found.worse.tolist() == [False, False, False, True, False, False, False]
    assert found.share == pytest.approx(2 / 7)


def test_similarity_is_the_cosine_of_centred_features(network, params, images):
    rows = images.rows_of(0)
    assert len(rows) < 64  # all of them are looked at, so that the centre does not depend on the draw
    centre = network.features(params, images.inputs(rows)).mean(0).double()
    synthetic = real(images, 0, 2)
    first, second = (network.features(params, synthetic).double() - centre).detach()
    cosine = float(first @ second / first.norm() / second.norm())
    classes = torch.tensor([0, 0])
    judge = judge_of(network, params, images, classes, 0.9, stream(0, "overlap"))
    found = measure_overlap(judge, synthetic, classes)
    assert found.similarity.tolist() == pytest.approx([cosine, cosine], abs=1e-5)
    assert found.diversity == pytest.approx(1 - cosine, abs=1e-5)

    features, usual = network.features(params, images.inputs(rows)).double().detach(), []
    for i, j in combinations(range(len(features)), 2):
        others = torch.stack([features[k] for k in range(len(features)) if k not in (i, j)]).mean(0)
        a, b = features[i] - others, features[j] - others
        usual += 2 * [float(a @ b / a.norm() / b.norm())]
    assert float(found.threshold[0]) == pytest.approx(float(torch.tensor(usual).quantile(0.9)), abs=1e-5)


@pytest.mark.parametrize("known", [8, 12])
def test_other_images_of_a_class_with_few_known_ones_seldom_overlap(network, params, images, known):
    """Over draws of the known ones, of eight other real images."""
    shares, rows = [], images.rows_of(0)
    for seed in range(20):
        order = rows[torch.randperm(len(rows), generator=stream(seed, "known"))]
        judge = judge_of(network, params, images.subset(order[:known]), torch.tensor([0]), 0.99, stream(0, "overlap"))
        others = images.inputs(order[-8:])
        shares.append(measure_overlap(judge, others, torch.zeros(len(others), dtype=torch.int64)).share)
    assert fmean(shares) < 0.4


def test_nothing_overlaps_in_a_class_of_which_too_little_is_known(network, params, images):
    few = images.subset(images.rows_of(0)[: MIN_PROTOTYPE_IMAGES - 1])
    judge = judge_of(network, params, few, torch.tensor([0]), 0.99, stream(0, "overlap"))
    twins = real(images, 0, 1).repeat(3, 1, 1, 1)
    found = measure_overlap(judge, twins, torch.zeros(3, dtype=torch.int64))
    assert found.similarity.tolist() == pytest.approx([1, 1, 1], abs=1e-6)
    assert not found.worse.any()
    assert found.share == 0


def test_images_of_which_all_but_one_are_copies_have_a_threshold(network, params, images):
    rows = images.rows_of(0)
    copies = images.subset(torch.cat([rows[:1].repeat(9), rows[1:2]]))
    judge = judge_of(network, params, copies, torch.tensor([0]), 0.99, stream(0, "overlap"))
    assert -1 <= judge.thresholds[0] <= 1


def test_one_image_a_class_never_overlaps(judge):
    found = measure_overlap(judge, torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]))
    assert found.similarity.tolist() == [-1, -1]
    assert found.share == 0
    assert not found.worse.any()
    assert found.diversity == 1


def test_of_a_pair_the_image_goes_that_overlaps_with_more_and_the_good_ones_stay():
    similarity = torch.full((5, 5), 0.1)
    for one, other, alike in ((0, 1, 0.8), (1, 2, 0.9), (3, 4, 0.7)):
        similarity[one, other] = similarity[other, one] = alike
    # 1 overlaps with both 0 and 2, which do not overlap with each other; of 3 and 4 the later one
    assert worse_of_pairs(similarity, 0.5).tolist() == [False, True, False, False, True]
    assert not worse_of_pairs(similarity, 0.95).any()


@given(seed=st.integers(0, 10_000), count=st.integers(1, 12), threshold=st.floats(-0.5, 0.9))
def test_where_images_overlap_some_go_and_at_most_half_of_them(seed, count, threshold):
    similarity = 2 * torch.rand(count, count, generator=stream(seed, "similarity")) - 1
    similarity = (similarity + similarity.T) / 2 - 3 * torch.eye(count)
    worse = worse_of_pairs(similarity, threshold)
    overlapping = (similarity > threshold).any(1)
    assert not (worse & ~overlapping).any()
    assert 2 * int(worse.sum()) <= int(overlapping.sum())
    assert bool(worse.any()) == bool(overlapping.any())


def test_what_starts_anew_is_the_least_alike_of_its_draws(judge, images):
    """Against all choices tried one after the other, with the copies of what stays among the draws."""
    synthetic, classes = real(images, 0, 4), torch.zeros(4, dtype=torch.int64)
    worse = torch.tensor([False, True, False, True])
    draws = {row: torch.cat([synthetic[:1], real(images, 0, 20)[4 + 4 * row : 8 + 4 * row]]) for row in (1, 3)}
    found = least_alike(judge, synthetic, classes, worse, Formation(8, 8), draws.__getitem__)
    stay = [synthetic[0], synthetic[2]]
    for row, chosen in zip((1, 3), found, strict=True):
        largest = []
        for drawn in draws[row]:
            directions = judge.directions(torch.stack([drawn, *stay]), 0)
            largest.append(float((directions[0] * directions[1:]).sum(1).max()))
        assert torch.equal(chosen, draws[row][largest.index(min(largest))])
        stay.append(chosen)
    assert not any(torch.equal(chosen, synthetic[0]) for chosen in found)
