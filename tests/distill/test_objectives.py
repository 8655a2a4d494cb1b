"""Families that match no trajectories: their scores and gradients against plain definitions, and what a loop does."""

from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tests.distill.conftest import MILD, PLAN

from meddistill.distill import loop
from meddistill.distill.labels import classes_of, first_logits, shared_logits
from meddistill.distill.loop import Matching, distill
from meddistill.distill.matching.characteristic import CharacteristicFunctions, characteristic_distance
from meddistill.distill.matching.distribution import FeatureMeans
from meddistill.distill.matching.gradients import ClassGradients, gradient_distance, life_of
from meddistill.distill.methods import METHODS
from meddistill.distill.objective import Scene
from meddistill.distill.pool import Pool, Upbringing
from meddistill.distill.regression import Regression, regression_loss
from meddistill.distill.training import ThroughTraining, fixed_start, schedule
from meddistill.distill.unroll import Learned, Rule
from meddistill.nets.augment import Augmentation
from meddistill.runtime.errors import InputError
from meddistill.runtime.streams import stream
from meddistill.testing.trial import DoubleImages, DoubleNet

CPU = torch.device("cpu")
TRAINING = ThroughTraining(distilled_steps=2, epochs=2, real_batch=12)
YOUNG = Upbringing(size=2, life=4, rate=0.05, batch=4)
OBJECTIVES = {
    "fixed start": TRAINING,
    "random starts": replace(TRAINING, starts="random"),
    "dc": ClassGradients(),
    "dsa": ClassGradients(siamese=True),
    "dm": FeatureMeans(),
    "ncfm": CharacteristicFunctions(frequencies=64),
    "frepo": Regression(real_batch=12, upbringing=YOUNG),
}


def noise_of(count=3, steps=1, dtype=torch.float32):
    labels = classes_of(2 * count, 2)
    made = torch.randn(len(labels), 1, 8, 8, generator=stream(0, "made"))
    learned = Learned(made, first_logits(labels, 2, "learned"), torch.full((steps,), 0.3).log())
    return Learned(*(tensor.to(dtype) for tensor in learned.tensors()))


@pytest.fixture
def scene(images, network):
    net, real = DoubleNet.of(network), DoubleImages.of(images)

    def teacher(generator):
        return net.init(stream(0, "first")), net.init(stream(0, "last"))

    return Scene(net, real, MILD, Rule(), 8, 2, None, seed=3, iteration=1, teacher=teacher)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_gradient_is_that_of_finite_differences(scene, name):
    objective = OBJECTIVES[name]
    learned = noise_of(3, objective.step_sizes(6, 2), torch.float64)
    carried = scene.network.init(stream(0, "carried"))
    if name == "frepo":  # so is the training of its pool
        carried = objective.outcome(scene, learned, ()).carried
    if getattr(objective, "exact", "always") == "first":  # then a network's own training on the images is a constant
        scene = replace(scene, iteration=0)
    found, _ = objective.outcome(scene, learned, carried)
    moved = [True, objective.family in ("training", "regression"), objective.family == "training"]
    assert [bool(slope.any()) for slope in found.gradient.tensors()] == moved
    for place, slope in enumerate(found.gradient.tensors()[: sum(moved)]):
        for entry in range(0, slope.numel(), 1 + slope.numel() // 4):
            measured = slope_at(objective, scene, learned, carried, place, entry)
            assert float(slope.flatten()[entry]) == pytest.approx(measured, rel=1e-4, abs=1e-8)


def slope_at(objective, scene, learned, carried, place, entry, by=1e-6):
    scores = []
    for step in (by, -by):
        tensors = [tensor.clone() for tensor in learned.tensors()]
        tensors[place].view(-1)[entry] += step
        scores.append(objective.outcome(scene, Learned(*tensors), carried).outcome.score)
    return (scores[0] - scores[1]) / (2 * by)


def test_the_score_of_training_is_the_loss_on_real_images_after_plain_descent(scene):
    learned = noise_of(3, 4, torch.float64)
    learned.log_steps.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]).log())
    params = fixed_start(scene.network, scene.seed)
    groups = [[0, 3, 1], [4, 2, 5]]  # first images of both classes, then their second, then their third, cut in two
    for step, rows in enumerate(groups * 2):
        variables = tuple(param.clone().requires_grad_() for param in params)
        logits = scene.network.apply(variables, learned.images[rows])
        loss = F.cross_entropy(logits, learned.label_logits[rows].softmax(1))
        slopes = torch.autograd.grad(loss, variables)
        size = learned.step_size(step)
        params = tuple(param - size * slope for param, slope in zip(params, slopes, strict=True))
    generator, rows = scene.stream("real", 0), []
    for label in (0, 1):
        mine = scene.images.rows_of(label)
        rows.append(mine[torch.randint(len(mine), (6,), generator=generator)])
    chosen = torch.cat(rows)
    expected = F.cross_entropy(scene.network.apply(params, scene.images.inputs(chosen)), scene.images.labels[chosen])
    assert TRAINING.outcome(scene, learned, ()).outcome.score == pytest.approx(float(expected), rel=1e-9)


def test_random_starts_differ_in_every_iteration_and_the_fixed_one_does_not(scene):
    learned = noise_of(3, 4, torch.float64)
    still = replace(TRAINING, real_batch=2)
    one = scene.images.subset(torch.tensor([0, 1]))  # always the same real batch
    one_image = replace(scene, images=DoubleImages.of(one))
    for starts, differ in (("fixed", False), ("random", True)):
        scores = {
            replace(still, starts=starts).outcome(replace(one_image, iteration=i), learned, ()).outcome.score
            for i in range(3)
        }
        assert (len(scores) == 3) == differ


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 50), st.integers(1, 3))
def test_every_epoch_sees_every_image_once_in_even_steps(images, classes, asked, epochs):
    steps = schedule(images, classes, asked, epochs)
    labels = classes_of(images, classes)
    each = len(steps) // epochs
    assert each == min(images, asked or max(1, min(10, images // classes)))
    for epoch in range(epochs):
        mine = steps[epoch * each : (epoch + 1) * each]
        assert sorted(torch.cat(mine).tolist()) == list(range(images))
        sizes = [len(rows) for rows in mine]
        assert max(sizes) - min(sizes) <= 1
        for rows in mine:
            counts = labels[rows].bincount(minlength=min(classes, images))
            assert counts.max() - counts.min() <= 1


@given(st.integers(1, 12), st.integers(2, 12))
def test_few_images_share_the_classes_among_them(images, classes):
    labels = shared_logits(min(images, classes), classes).softmax(1)
    favoured = labels > labels.min(1, keepdim=True).values + 1e-4
    if images == 1:
        assert torch.allclose(labels, torch.full_like(labels, 1 / classes))
    else:
        assert favoured.sum(0).tolist() == [1] * classes
        assert (labels * favoured).sum(1).tolist() == pytest.approx([0.95] * len(labels), abs=1e-5)
    if images >= classes:
        assert torch.allclose(labels, first_logits(torch.arange(classes), classes, "learned").softmax(1), atol=1e-6)


def test_the_distance_of_gradients_counts_output_nodes_and_leaves_biases_out():
    shapes = [(3, 2, 3, 3), (3,), (4, 5), (4,)]
    one = tuple(torch.randn(shape, generator=stream(0, "one", place)) for place, shape in enumerate(shapes))
    other = tuple(torch.randn(shape, generator=stream(0, "other", place)) for place, shape in enumerate(shapes))
    slow = 0.0
    for a, b in ((one[0], other[0]), (one[2], other[2])):
        for node in range(len(a)):
            slow += 1 - float(F.cosine_similarity(a[node].flatten(), b[node].flatten(), dim=0))
    assert float(gradient_distance(one, other)) == pytest.approx(slow, rel=1e-4)
    assert float(gradient_distance(one, tuple(2 * part for part in one))) == pytest.approx(0, abs=1e-4)
    assert float(gradient_distance(one, tuple(-part for part in one))) == pytest.approx(2 * 7, rel=1e-4)


@pytest.mark.parametrize(("each", "expected"), [(1, (1, 50)), (10, (10, 50)), (20, (20, 25)), (50, (50, 10))])
def test_a_network_lives_as_long_as_in_the_source(each, expected):
    assert life_of(torch.Size([each * 3, 3])) == expected


def test_a_network_is_carried_on_and_replaced_at_the_end_of_its_life(scene):
    learned = noise_of(3, dtype=torch.float64)
    carried, seen = (), []
    for iteration in range(4):
        now = replace(scene, iteration=iteration)
        carried = ClassGradients().outcome(now, learned, carried).carried
        seen.append(carried)
    for born in (0, 3):
        new = scene.network.init(replace(scene, iteration=born).stream("network"))
        assert all(torch.equal(a, b) for a, b in zip(seen[born], new, strict=True))
    assert F.cross_entropy(scene.network.apply(seen[2], learned.images), learned.label_logits.softmax(1)) < (
        F.cross_entropy(scene.network.apply(seen[0], learned.images), learned.label_logits.softmax(1))
    )


@pytest.mark.parametrize("amplitude", [0.0, 0.3, 1.0])
def test_characteristic_functions_are_compared_as_complex_numbers_say(amplitude):
    made = torch.randn(5, 6, generator=stream(0, "made"), dtype=torch.float64)
    real = torch.randn(9, 6, generator=stream(0, "real"), dtype=torch.float64)
    frequencies = torch.randn(6, 20, generator=stream(0, "t"), dtype=torch.float64)
    one, other = (torch.exp(1j * (some @ frequencies)).mean(0) for some in (made, real))
    of_phase = 2 * one.abs() * other.abs() * (1 - torch.cos(one.angle() - other.angle()))
    slow = (amplitude * (one.abs() - other.abs()) ** 2 + (1 - amplitude) * of_phase).sqrt().mean()
    found = characteristic_distance(made, real, frequencies, amplitude)
    assert float(found) == pytest.approx(float(slow), rel=1e-3)
    assert float(characteristic_distance(real, real.flip(0), frequencies, amplitude)) < 1e-3


@given(seed=st.integers(0, 1000), spread=st.sampled_from([0.0, 0.01, 0.05, 0.2]), amplitude=st.floats(0, 1))
def test_characteristic_functions_that_nearly_agree_have_a_score_and_a_slope_in_float32(seed, spread, amplitude):
    draw = stream(seed, "samples")
    centre = torch.rand(32, generator=draw)
    made, real = (F.normalize(centre + spread * torch.randn(n, 32, generator=draw), dim=1) for n in (40, 32))
    frequencies = torch.randn(32, 256, generator=draw)
    made.requires_grad_()
    found = characteristic_distance(made, real, frequencies, amplitude)
    (slope,) = torch.autograd.grad(found, made)
    one, other = (torch.exp(1j * (some.double() @ frequencies.double())).mean(0) for some in (made.detach(), real))
    of_phase = 2 * one.abs() * other.abs() * (1 - torch.cos(one.angle() - other.angle()))
    slow = (amplitude * (one.abs() - other.abs()) ** 2 + (1 - amplitude) * of_phase + 1e-8).sqrt().mean()
    assert float(found.detach()) == pytest.approx(float(slow), rel=0.01)
    assert bool(torch.isfinite(slope).all())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_run_that_was_killed_ends_with_the_same_bytes(images, network, store, tmp_path, name, monkeypatch):
    objective = OBJECTIVES[name]
    plan = replace(PLAN, objective=objective)
    first = noise_of(3, objective.step_sizes(6, 2))
    matching = Matching(network, store if objective.needs_teachers else None, 2 * objective.needs_teachers, images)
    whole = distill(first, matching, plan, 0)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    kept = tmp_path / "state"
    distill(first, matching, plan, 0, checkpoint=kept, is_enough=lambda done: done == 5)
    ended = distill(first, matching, plan, 0, checkpoint=kept)
    assert all(torch.equal(a, b) for a, b in zip(whole.tensors(), ended.tensors(), strict=True))
    assert not torch.equal(whole.images, first.images)
    learns = METHODS["soft-label" if objective.family == "training" else "dm"].learns
    assert torch.equal(whole.log_steps, first.log_steps) == ("step sizes" not in learns)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_score_falls(images, network, store, name):
    objective = OBJECTIVES[name]
    first = noise_of(3, objective.step_sizes(6, 2))
    matching = Matching(network, store, 2, images)
    ended = distill(first, matching, replace(PLAN, objective=objective, warm_up=0, iterations=25), 0)
    before, after = (mean_score(objective, matching, learned) for learned in (first, ended))
    assert after < 0.9 * before


def mean_score(objective, matching, learned):
    """Over draws that no iteration of the loop saw; of gradients, under untrained networks."""
    scene = Scene(
        matching.network, matching.real, MILD, Rule(), 8, 2, None, 0, 0, lambda draws: matching.ends(draws, CPU)
    )
    scenes = (replace(scene, iteration=6000 + 6 * number) for number in range(6))
    return fmean(objective.outcome(one, learned, ()).outcome.score for one in scenes)


@given(seed=st.integers(0, 1000), ridge=st.floats(1e-4, 1.0))
def test_the_loss_of_regression_is_that_of_the_ridge_regression_itself(seed, ridge):
    """The kernel's form against the normal equations of the weights, solved by another library."""
    draw = stream(seed, "regression")
    made, real = (torch.randn(count, 5, generator=draw, dtype=torch.float64) for count in (7, 4))
    labels = torch.randn(7, 3, generator=draw, dtype=torch.float64).softmax(1)
    truth = F.one_hot(torch.randint(3, (4,), generator=draw), 3).double()
    strength = ridge * (made**2).sum(1).mean()
    x, y = made.numpy(), labels.numpy() - 1 / 3
    weights = np.linalg.solve(x.T @ x + float(strength) * np.eye(5), x.T @ y)
    slow = 0.5 * ((real.numpy() @ weights - (truth.numpy() - 1 / 3)) ** 2).sum(1).mean()
    assert float(regression_loss(made, labels, real, truth, ridge)) == pytest.approx(slow, rel=1e-8)


def test_networks_of_a_pool_age_and_are_replaced(scene):
    learned = noise_of(dtype=torch.float64)
    pool = YOUNG.first(scene, learned)
    assert pool.ages.tolist() == [0, 2]
    older = YOUNG.older(pool, 1, scene, learned, steps=2)
    assert older.ages.tolist() == [0, 4]
    assert all(torch.equal(a, b) for a, b in zip(older.network(0), pool.network(0), strict=True))
    assert not torch.equal(older.network(1)[0], pool.network(1)[0])
    anew = YOUNG.older(older, 1, scene, learned)
    assert anew.ages.tolist() == [0, 0]
    assert all(torch.equal(a, b) for a, b in zip(Pool.of(anew.carried).network(1), anew.network(1), strict=True))
    step = YOUNG.older(replace_ages(pool, 0), 0, scene, learned)
    assert step.ages.tolist()[0] == 1


def test_a_network_that_is_looked_at_twice_takes_its_steps_on_different_images(scene, monkeypatch):
    """The draws of its steps, of an iteration that looks at a pool of one network three times."""
    drawn, trained = [], Upbringing._trained

    def watch(self, scene, learned, params, steps, generator):
        drawn.append(tuple(generator.get_state().tolist()))
        return trained(self, scene, learned, params, steps, generator)

    alone = replace(OBJECTIVES["frepo"], upbringing=replace(YOUNG, size=1, life=50))
    learned = noise_of(dtype=torch.float64)
    carried = alone.outcome(scene, learned, ()).carried
    monkeypatch.setattr(Upbringing, "_trained", watch)
    alone.outcome(replace(scene, at_once=3), learned, carried)
    assert len(set(drawn)) == len(drawn) == 3
    assert drawn[0] == tuple(scene.stream("pool", 0).get_state().tolist())  # of one look, what it always was


def replace_ages(pool, age):
    return Pool(pool.networks, torch.full_like(pool.ages, age))


def test_a_pool_takes_plain_steps_on_the_synthetic_set(scene):
    still = replace(scene, augmentation=Augmentation(shift=0, scale=0, rotate=0, flip=0, brightness=0, contrast=0))
    learned, whole = noise_of(dtype=torch.float64), replace(YOUNG, batch=6)
    pool = whole.first(still, learned)
    variables = tuple(param.clone().requires_grad_() for param in pool.network(0))
    loss = F.cross_entropy(scene.network.apply(variables, learned.images), learned.label_logits.softmax(1))
    slopes = torch.autograd.grad(loss, variables)
    found = whole.older(pool, 0, still, learned).network(0)
    for param, slope, after in zip(variables, slopes, found, strict=True):
        assert torch.allclose(after, param - 0.05 * slope, rtol=1e-9, atol=1e-12)


def test_what_a_method_needs_is_asked_for_by_name(images, network, scene):
    with pytest.raises(ValueError, match="real images"):
        distill(noise_of(), Matching(network, None, 0), replace(PLAN, objective=FeatureMeans()), 0)
    with pytest.raises(ValueError, match="teachers"):
        CharacteristicFunctions().outcome(replace(scene, teacher=None), noise_of(dtype=torch.float64), ())
    with pytest.raises(ValueError, match="needs teachers"):
        distill(noise_of(), Matching(network, None, 0, images), replace(PLAN, warm_up=0), 0)


def test_a_broken_checkpoint_is_named(images, network, tmp_path):
    plan = replace(PLAN, objective=ClassGradients())
    kept = tmp_path / "state"
    kept.write_bytes(b"{")
    with pytest.raises(InputError, match="delete it"):
        distill(noise_of(), Matching(network, None, 0, images), plan, 0, checkpoint=kept)


def test_methods_say_what_they_are():
    families = {name: METHODS[name].family for name in ("mtt", "soft-label", "frepo", "dc", "dsa", "dm", "ncfm")}
    assert list(families.values()) == [
        "trajectories",
        "training",
        "regression",
        "gradients",
        "gradients",
        *["distributions"] * 2,
    ]
    assert {name for name, method in METHODS.items() if not method.needs_teachers} == {
        "soft-label",
        "frepo",
        "dc",
        "dsa",
        "dm",
    }
    assert METHODS["soft-label"].learns == ("images", "soft labels", "step sizes")
    assert METHODS["dm"].learns == ("images",)
    assert all("arXiv" in method.source and method.cost for method in METHODS.values())
