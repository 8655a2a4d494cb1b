"""Teachers: their snapshots, stopping and continuing, how they sample, and what happens when they diverge."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import flatten, leaves, unflatten
from meddistill.runtime.errors import MeddistillError
from meddistill.runtime.streams import stream
from meddistill.teachers.train import (
    Batches,
    State,
    TeacherPlan,
    first_state,
    sampler,
    side_by_side,
    train_teacher,
    train_teachers,
)

NONE = Augmentation(0, 0, 0, 0, 0, 0)
PLAN = TeacherPlan(
    count=2, steps=12, snapshot_every=3, batch=8, learning_rate=0.1, sampling="balanced", augmentation=Augmentation()
)


def test_a_trajectory_starts_at_the_initial_network_and_every_snapshot_differs(images, network):
    trajectory = train_teacher(network, images, PLAN, 0, 1)
    assert trajectory.shape == (PLAN.snapshots, network.parameters) == (5, network.parameters)
    assert trajectory.dtype == torch.float32
    assert not trajectory.requires_grad
    assert torch.equal(trajectory[0], flatten(network.init(stream(0, "teacher", 1, "init"))))
    assert all(not torch.equal(trajectory[i], trajectory[j]) for i in range(5) for j in range(i))


def states(network, images, plan, teachers=(0,), state=None):
    kept = []
    train_teachers(network, images, plan, 0, teachers, state=state, keep=kept.append)
    return kept


def test_states_handed_out_are_not_changed_later(images, network):
    kept, copies = [], []

    def keep(state):
        kept.append(state)
        copies.append((state.params.clone(), state.velocity.clone()))

    train_teachers(network, images, replace(PLAN, momentum=0.9), 0, (0, 1), keep=keep)
    assert [state.snapshots for state in kept] == [1, 2, 3, 4, 5]
    for state, (params, velocity) in zip(kept, copies, strict=True):
        assert torch.equal(state.params, params)
        assert torch.equal(state.velocity, velocity)


@pytest.mark.parametrize("steps", [3, 4, 5])
def test_steps_after_the_last_whole_interval_are_not_taken(images, network, steps):
    trajectory = train_teacher(network, images, replace(PLAN, steps=steps), 0, 0)
    assert torch.equal(trajectory, train_teacher(network, images, PLAN, 0, 0)[:2])


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_step_is_plain_sgd_on_the_mean_cross_entropy(images, network, step):
    plan = replace(PLAN, steps=3, snapshot_every=1, sampling="natural", augmentation=NONE, learning_rate=0.3)
    trajectory = train_teacher(network, images, plan, 0, 0)
    rows = torch.randint(len(images), (plan.batch,), generator=stream(0, "teacher", 0, "step", step))
    params = leaves(unflatten(trajectory[step].clone(), network.shapes))
    log_probabilities = network.apply(params, images.inputs(rows)).log_softmax(1)
    loss = -log_probabilities[range(plan.batch), images.labels[rows]].mean()
    expected = trajectory[step] - 0.3 * flatten(torch.autograd.grad(loss, params))
    torch.testing.assert_close(trajectory[step + 1], expected, rtol=1e-4, atol=1e-6)


def test_teachers_and_seeds_differ_and_repeat(images, network):
    one = train_teacher(network, images, PLAN, 0, 0)
    assert torch.equal(one, train_teacher(network, images, PLAN, 0, 0))
    assert not torch.equal(one[0], train_teacher(network, images, PLAN, 0, 1)[0])
    assert not torch.equal(one[0], train_teacher(network, images, PLAN, 1, 0)[0])


@pytest.mark.parametrize("finished", [1, 2, 4, 5])
@pytest.mark.parametrize("sampling", ["balanced", "natural"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_continued_training_equals_one_that_never_stopped(images, network, finished, sampling, momentum):
    plan = replace(PLAN, sampling=sampling, momentum=momentum)
    whole = states(network, images, plan, (0, 1))
    before = whole[finished - 1].params.clone()
    continued = states(network, images, plan, (0, 1), whole[finished - 1])
    assert [state.snapshots for state in continued] == list(range(finished + 1, 6))
    for one, other in zip(continued, whole[finished:], strict=True):
        assert torch.equal(one.params, other.params)
        assert momentum == 0 or torch.equal(one.velocity, other.velocity)
    assert torch.equal(whole[finished - 1].params, before)


@pytest.mark.parametrize("rule", [{}, {"optimiser": "gsam", "momentum": 0.9}], ids=["sgd", "gsam"])
@pytest.mark.parametrize("sampling", ["balanced", "natural"])
def test_a_teacher_side_by_side_with_others_is_the_one_trained_alone(images, network, rule, sampling):
    """In float64 to the last digits, in float32 as far as the rounding of sums allows."""
    plan = replace(PLAN, sampling=sampling, **rule)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        ends = []
        for teachers in ((3, 1, 2), (1,)):
            first = first_state(network, plan, 0, teachers)
            velocity = None if first.velocity is None else first.velocity.to(dtype)
            start = State(1, first.params.to(dtype), velocity)
            ends.append(states(network, images, plan, teachers, start)[-1].params)
        torch.testing.assert_close(ends[0][1], ends[1][0], rtol=tolerance, atol=tolerance)


def test_bfloat16_is_near_and_keeps_float32_parameters(images, network):
    exact = train_teacher(network, images, PLAN, 0, 0)
    rough = train_teacher(network, images, replace(PLAN, arithmetic="bfloat16"), 0, 0)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    ways = rough[-1] - rough[0], exact[-1] - exact[0]
    assert float(torch.cosine_similarity(*ways, dim=0)) > 0.98


def test_how_many_stand_side_by_side_follows_from_plan_and_device(network):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert side_by_side(network, replace(PLAN, at_once=5), cpu) == 1
    assert side_by_side(network, replace(PLAN, at_once=5), gpu) == 5
    wide = ConvNet(width=128, depth=5, channels=3, size=112, classes=3)
    assert side_by_side(wide, replace(PLAN, batch=256), gpu) == 1
    narrow = ConvNet(width=32, depth=3, channels=1, size=28, classes=2)
    assert side_by_side(narrow, replace(PLAN, batch=64), gpu) >= 50


def test_a_teacher_learns(images, network):
    trajectory = train_teacher(network, images, replace(PLAN, steps=60, snapshot_every=60), 0, 0)
    inputs = images.inputs(torch.arange(len(images)))
    losses = [
        float(F.cross_entropy(network.apply(unflatten(one, network.shapes), inputs), images.labels))
        for one in trajectory
    ]
    assert losses[1] < 0.6 * losses[0]


@pytest.mark.parametrize("sampling", ["balanced", "natural"])
def test_sampling_frequencies(images, sampling):
    """Within 5 standard deviations: of the classes and of the single images."""
    count = 20_000
    rows = sampler(images, sampling)(count, stream(0, "rows"))
    assert rows.shape == (count,)
    share = 0.5 if sampling == "balanced" else 10 / 50
    tolerance = 5 * math.sqrt(share * (1 - share) / count)
    assert abs(float(images.labels[rows].float().mean()) - share) < tolerance
    drawn = torch.bincount(rows, minlength=len(images)) / count
    for label, of_class in enumerate([1 - share, share]):
        members = images.rows_of(label)
        expected = of_class / len(members)
        assert ((drawn[members] - expected).abs() < 5 * math.sqrt(expected / count)).all()


def test_a_class_without_training_images_is_never_drawn(images):
    only = images.subset(images.rows_of(1))
    rows = sampler(only, "balanced")(200, stream(0, "rows"))
    assert sorted(set(rows.tolist())) == list(range(10))


def test_divergence_says_which_teacher_and_what_to_lower(images, network):
    plan = replace(PLAN, learning_rate=1e30)
    with pytest.raises(MeddistillError, match=r"teacher 1 diverged by step \d+.*learning_rate.*1e\+30"):
        train_teacher(network, images, plan, 0, 1)


def test_only_the_teacher_that_diverged_is_named(images, network):
    start = first_state(network, PLAN, 0, (5, 6))
    start.params[1, 0] = math.inf
    with pytest.raises(MeddistillError, match="teacher 6 diverged"):
        states(network, images, PLAN, (5, 6), start)


@pytest.mark.parametrize("sampling", ["balanced", "natural"])
@pytest.mark.parametrize("teachers", [(0,), (3, 1, 2)])
def test_batches_drawn_ahead_are_those_of_each_teacher_and_step(images, monkeypatch, sampling, teachers):
    """To the bit, from whatever step on, and none beyond the last."""
    plan = replace(PLAN, sampling=sampling)
    step_by_step, ahead = (Batches(images, plan, 0, teachers) for _ in range(2))
    monkeypatch.setattr(ahead, "_ahead", 5)
    drawn, draw = [], ahead._draw
    monkeypatch.setattr(ahead, "_draw", lambda steps: drawn.append(list(steps)) or draw(steps))
    for step in (*range(3, 12), 2, 20):
        (inputs, labels), (expected, known) = (batches.draw(step, torch.float32) for batches in (ahead, step_by_step))
        assert torch.equal(inputs, expected)
        assert torch.equal(labels, known)
    assert drawn == [[3, 4, 5, 6, 7], [8, 9, 10, 11], [2, 3, 4, 5, 6], [20]]


def test_a_batch_is_what_its_stream_says(images):
    """First the classes, then their images, then the augmentation; whoever trains beside it."""
    generator, members = stream(0, "teacher", 2, "step", 7), [images.rows_of(label) for label in range(2)]
    chosen, places = (torch.randint(below, (8,), generator=generator).tolist() for below in (2, 2**40))
    rows = torch.tensor([int(members[c][p % len(members[c])]) for c, p in zip(chosen, places, strict=True)])
    expected = PLAN.augmentation.draw(8, generator).apply(images.inputs(rows))
    inputs, labels = Batches(images, PLAN, 0, (0, 2)).draw(7, torch.float32)
    torch.testing.assert_close(inputs[1], expected, rtol=0, atol=1e-6)
    assert torch.equal(labels[1], images.labels[rows])
