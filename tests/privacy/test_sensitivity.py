"""What one patient can change, as it is claimed: of statistics, counts, and steps of noised teachers."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import flatten
from meddistill.privacy import noise
from meddistill.privacy.accountant import delta_of, gaussian_noise, spent
from meddistill.privacy.patients import Patients, clipped, patients_of
from meddistill.privacy.sgd import NoisyPlan, clean_step, noised_counts, sampling_rates, shards, train_noisily
from meddistill.privacy.statistics import Looks, clean_sum, contributions, fixed_normalisation, over_classes, release
from meddistill.runtime.streams import numpy_stream
from meddistill.teachers.images import LabelledImages

NETWORK = ConvNet(4, 2, 1, 8, 2)
LOOKS = Looks(NETWORK, Augmentation(), 3, 3)
PLAN = NoisyPlan(6, 2, 0.5, 0.7, 0.3, 2, Augmentation(0, 0, 0, 0, 0, 0))
ROUNDING = 1e-5
NORMALISATION = fixed_normalisation(1)


def cohort(owners: list[int], seed: int = 0) -> Patients:
    """Images of 8 × 8 noise, labelled at random, of the patients with these ids."""
    rng = numpy_stream(seed, "cohort")
    pixels = torch.from_numpy(rng.integers(0, 256, (len(owners), 1, 8, 8)).astype(np.uint8))
    labels = torch.from_numpy(rng.integers(0, 2, len(owners)))
    return patients_of(LabelledImages(pixels, labels, 255, 2, NORMALISATION), np.array(owners))


def without(patients: Patients, one: int) -> Patients:
    chosen = torch.ones(patients.count, dtype=torch.bool)
    chosen[one] = False
    return patients.subset(chosen)


owners = st.lists(st.integers(0, 4), min_size=2, max_size=14).filter(lambda ids: len(set(ids)) > 1)


@settings(max_examples=25)
@given(owners, st.integers(0, 1000))
def test_a_patient_changes_the_clean_sum_by_one_at_most(ids, seed):
    patients = cohort(ids, seed)
    whole = clean_sum(patients, LOOKS)
    changes = [float((whole - clean_sum(without(patients, one), LOOKS)).norm()) for one in range(patients.count)]
    assert max(changes) <= 1 + ROUNDING
    assert min(changes) > 0.1  # and nobody is left out


def test_the_bound_is_reached_by_a_patient_of_one_image():
    patients = cohort([0, 1])
    change = clean_sum(patients, LOOKS) - clean_sum(without(patients, 0), LOOKS)
    assert float(change.norm()) == pytest.approx(1, abs=ROUNDING)


@settings(max_examples=25)
@given(owners, st.integers(0, 1000))
def test_the_sum_is_that_of_all_contributions(ids, seed):
    patients = cohort(ids, seed)
    rows = torch.cat(list(contributions(patients, LOOKS)))
    assert len(rows) == patients.count
    torch.testing.assert_close(clean_sum(patients, LOOKS), rows.sum(0), rtol=0, atol=1e-12)


@settings(max_examples=25)
@given(owners, st.integers(1, 20))
def test_the_sum_does_not_depend_on_how_many_are_looked_at_together(ids, rows):
    patients = cohort(ids)
    whole = clean_sum(patients, LOOKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("meddistill.privacy.statistics._ROWS", rows)
        torch.testing.assert_close(clean_sum(patients, LOOKS), whole, rtol=0, atol=ROUNDING)


def test_who_else_is_there_does_not_change_what_a_patient_adds():
    """Networks round an image differently beside more or fewer others, so there are always as many."""
    count = 33  # so that one was looked at alone, with the first patient there
    images = torch.from_numpy(numpy_stream(1, "cohort").integers(0, 256, (count, 1, 28, 28)).astype(np.uint8))

    def added(first: int) -> torch.Tensor:
        rows = torch.arange(first, count)
        labelled = LabelledImages(images[rows], rows % 2, 255, 2, NORMALISATION)
        looks = Looks(ConvNet(32, 3, 1, 28, 2), Augmentation(), 3, 2)
        return torch.cat(list(contributions(patients_of(labelled, rows.numpy()), looks)))

    torch.testing.assert_close(added(0)[1:], added(1), rtol=0, atol=1e-12)


@settings(max_examples=25)
@given(owners, st.integers(0, 1000))
def test_a_patient_changes_a_step_by_the_clip_at_most(ids, seed):
    """Two sums over the same patients but one, who has the same images in both."""
    patients, params = cohort(ids, seed), flatten(NETWORK.init(torch.Generator().manual_seed(seed)))
    # All of a patient's draws are their first image: what is left is the patients' own doing.
    first = bytes  # from a number to so many zeros
    everyone = torch.arange(patients.count)
    whole = clean_step(NETWORK, params, patients, everyone, PLAN, first)
    for one in range(patients.count):
        rest = clean_step(NETWORK, params, patients, everyone[everyone != one], PLAN, first)
        assert float((whole - rest).norm()) <= PLAN.clip * (1 + ROUNDING)


def test_a_step_in_which_nobody_was_drawn_is_noise_alone():
    patients, params = cohort([0, 1]), flatten(NETWORK.init(torch.Generator().manual_seed(0)))
    assert not clean_step(NETWORK, params, patients, torch.arange(0), PLAN).any()


def test_a_step_is_the_sum_of_clipped_gradients_one_by_one():
    patients = cohort([0, 0, 1, 2, 2, 2, 3])
    params = flatten(NETWORK.init(torch.Generator().manual_seed(1)))
    everyone, first = torch.arange(4), bytes
    alone = [clean_step(NETWORK, params, patients, everyone[[k]], PLAN, first) for k in range(4)]
    assert torch.allclose(clean_step(NETWORK, params, patients, everyone, PLAN, first), sum(alone), atol=1e-6)
    parts = torch.nn.functional
    leaf = params.clone().requires_grad_()
    sizes = [shape.numel() for shape in NETWORK.shapes]
    views = tuple(p.view(s) for p, s in zip(leaf.split(sizes), NETWORK.shapes, strict=True))
    image = patients.images
    loss = parts.cross_entropy(NETWORK.apply(views, image.inputs(torch.tensor([0]))), image.labels[:1])
    (slope,) = torch.autograd.grad(loss, leaf)
    assert torch.allclose(alone[0].float(), clipped(slope[None], PLAN.clip)[0], atol=1e-5)


@given(owners, st.integers(0, 1000))
@settings(max_examples=25)
def test_a_patient_changes_counts_by_one_at_most(ids, seed):
    patients = cohort(ids, seed)
    whole = noised_counts(patients, 0.0)
    assert float(whole.sum()) == pytest.approx(patients.count)
    for one in range(patients.count):
        assert float((whole - noised_counts(without(patients, one), 0.0)).norm()) <= 1 + 1e-12


@given(owners, st.integers(0, 1000), st.lists(st.floats(-50, 500), min_size=2, max_size=2))
@settings(max_examples=25)
def test_rates_follow_from_a_patient_alone_and_never_exceed_the_highest(ids, seed, counts):
    patients, noised = cohort(ids, seed), torch.tensor(counts, dtype=torch.float64)
    rates, expected = sampling_rates(patients, 0.3, noised)
    assert float(rates.max()) <= 0.3 + 1e-12
    assert expected >= 1
    rest, same = sampling_rates(without(patients, 0), 0.3, noised)
    assert torch.equal(rest, rates[1:])
    assert same == expected


def test_blocks_keep_patients_together():
    rng = np.random.default_rng(0)
    patients = cohort(list(rng.integers(0, 90, 1500)))
    seen = [(set(patients.patient[rows].tolist()), rows, owner) for rows, owner in patients.blocks()]
    assert len(seen) > 2
    assert sorted(torch.cat([rows for _, rows, _ in seen]).tolist()) == list(range(1500))
    assert all(not a & b for (a, *_), (b, *_) in pairwise(seen))
    assert all(len(people) == len(owner.unique()) == int(owner.max()) + 1 for people, _, owner in seen)
    few = list(patients.blocks(20))
    assert sorted(torch.cat([rows for rows, _ in few]).tolist()) == list(range(1500))
    assert all(len(rows) <= 20 or int(owner.max()) == 0 for rows, owner in few)


def test_the_release_is_the_clean_sum_with_the_noise_that_epsilon_needs():
    patients = cohort([place // 2 for place in range(40)])
    found = [release(patients, LOOKS, 1.0, 1e-5) for _ in range(40)]
    counts = torch.stack([one.counts for one in found]).double()
    # The counts' part of the vector has length √0.1, and the second sum nine tenths of the budget.
    assert float(counts.std()) == pytest.approx(3.73 / (0.1 * 0.9) ** 0.5, rel=0.35)
    features = torch.stack([one.features for one in found]).double()
    assert float(features.std(0).mean()) == pytest.approx(3.73 * (3 / (0.9 * 0.9)) ** 0.5, rel=0.05)
    whole = torch.stack([one.whole for one in found]).double()
    assert float(whole.std(0).mean()) == pytest.approx(3.73 / 0.1**0.5, rel=0.05)
    assert not torch.equal(found[0].features, found[1].features)
    clean = release(patients, LOOKS, 1.0, 1e-5, source=lambda count: b"\xff" * count)
    assert clean.features.isfinite().all()


@settings(max_examples=25)
@given(owners, st.integers(0, 1000))
def test_a_patient_changes_the_sum_over_classes_by_one_at_most(ids, seed):
    """And the second sum, wherever its directions are looked at from."""
    patients = cohort(ids, seed)
    changes = over_classes(torch.cat(list(contributions(patients, LOOKS))), 2).norm(dim=1)
    assert float(changes.max()) <= 1 + ROUNDING
    assert float(changes.min()) > 0.1
    centre = torch.randn(3, 16, generator=torch.Generator().manual_seed(seed)) / 10
    rows = torch.cat(list(contributions(patients, replace(LOOKS, centre=centre))))
    assert float(rows.norm(dim=1).max()) <= 1 + ROUNDING


def test_two_sums_are_worth_one_release(monkeypatch):
    seen = release(cohort([0, 1, 2]), LOOKS, 2.0, 1e-5)
    together = sum(event.noise_multiplier**-2 for event in seen.events) ** -0.5
    assert together == pytest.approx(gaussian_noise(2.0, 1e-5))
    assert delta_of(2.0, together) <= 1e-5
    pytest.importorskip("opacus")
    assert 2.0 <= spent(seen.events, 1e-5) < 2.5  # a bound that is not exact


def test_the_centre_is_the_mean_direction_where_noise_lets_it_be_seen():
    patients = cohort([place // 2 for place in range(400)])
    seen = release(patients, LOOKS, 1e6, 1e-5)
    inputs, centred = patients.images.inputs(torch.arange(400)), replace(LOOKS, centre=seen.centre)
    before, after = (
        torch.stack([looks.features(place, inputs).mean(0) for place in range(3)]) for looks in (LOOKS, centred)
    )
    torch.testing.assert_close(seen.centre, before, rtol=0, atol=0.01)
    assert bool((after.norm(dim=1) < before.norm(dim=1) / 2).all())
    assert float(release(cohort([0, 1]), LOOKS, 0.1, 1e-5).centre.norm(dim=1).max()) <= 1 + ROUNDING


def test_a_noised_teacher_without_noise_is_sgd_on_clipped_gradients_of_whom_it_drew():
    patients = cohort([0, 1, 2, 3, 4, 5])
    first = bytes  # zeros: everyone is always drawn
    counts = torch.tensor([3.0, 3.0], dtype=torch.float64)
    found = train_noisily(NETWORK, patients, PLAN, 0.0, counts, 0, 0, source=first)
    assert found.shape == (4, NETWORK.parameters)
    params, points = found[0], [found[0]]
    for step in range(6):
        total = clean_step(NETWORK, params, patients, torch.arange(6), PLAN, first)
        params = params - 0.5 / (0.3 * 6) * total.float()
        if step % 2:
            points.append(params)
    assert torch.allclose(found, torch.stack(points), atol=1e-6)


@pytest.mark.parametrize("byte", [b"\x00", b"\x7f", b"\xff"])
def test_no_uniform_number_is_0_or_1(byte):
    (found,) = noise.uniform(1, lambda count: byte * count)
    assert 0 < found < 1


def test_noise_is_normal_and_never_repeats():
    drawn = noise.normal(200_001)
    assert abs(drawn.mean()) < 0.02
    assert drawn.std() == pytest.approx(1, abs=0.01)
    assert np.mean(np.abs(drawn) > 2) == pytest.approx(0.0455, abs=0.004)
    assert np.mean(np.abs(drawn) > 3.5) == pytest.approx(0.000465, abs=0.0003)
    assert not np.array_equal(drawn[:100], noise.normal(100))
    shares = noise.uniform(100_000)
    assert 0 < shares.min() < 1e-3
    assert 0.999 < shares.max() < 1


def test_noise_does_not_follow_from_seeds():
    """Not from torch's, numpy's or Python's generators, and not from the run's seed, which stands on the card."""
    import random

    patients, found = cohort([0, 1, 2, 3]), []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        found.append(release(patients, LOOKS, 1.0, 1e-5).features)
    assert not torch.equal(*found)


def test_groups_are_drawn_for_each_patient_alone():
    found = shards(3000, 3)
    assert sorted(found.unique().tolist()) == [0, 1, 2]
    assert min(torch.bincount(found)) > 800
