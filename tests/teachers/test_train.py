"""Teachers: their snapshots, stopping and continuing, how they sample, and what happens when they diverge."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from meddistill.nets.augment import Augmentation
from meddistill.nets.params import flatten, leaves, unflatten
from meddistill.runtime.errors import MeddistillError
from meddistill.runtime.streams import stream
from meddistill.teachers.train import TeacherPlan, sampler, train_teacher

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


def test_snapshots_handed_out_early_are_not_changed_later(images, network):
    kept, copies = [], []

    def keep(snapshots):
        kept.append(snapshots)
        copies.append(snapshots.clone())

    trajectory = train_teacher(network, images, PLAN, 0, 0, keep=keep)
    assert [len(snapshots) for snapshots in kept] == [2, 3, 4, 5]
    for snapshots, copy in zip(kept, copies, strict=True):
        assert torch.equal(snapshots, copy)
        assert torch.equal(snapshots, trajectory[: len(snapshots)])


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
def test_continued_training_equals_one_that_never_stopped(images, network, finished, sampling):
    plan = replace(PLAN, sampling=sampling)
    whole = train_teacher(network, images, plan, 0, 0)
    done = whole[:finished].clone()
    continued = train_teacher(network, images, plan, 0, 0, done=done)
    assert torch.equal(continued, whole)
    assert torch.equal(done, whole[:finished])


def test_training_that_is_stopped_anywhere_goes_on_from_what_was_kept(images, network):
    whole, done, stops = train_teacher(network, images, PLAN, 0, 0), None, 0

    def keep(snapshots):
        nonlocal done
        done = snapshots
        raise KeyboardInterrupt

    while done is None or len(done) < PLAN.snapshots:
        with pytest.raises(KeyboardInterrupt):
            train_teacher(network, images, PLAN, 0, 0, done=done, keep=keep)
        stops += 1
    assert stops == 4
    assert torch.equal(done, whole)


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
    with pytest.raises(MeddistillError, match=r"teacher 1 diverged at step \d+.*learning_rate.*1e\+30"):
        train_teacher(network, images, plan, 0, 1)
