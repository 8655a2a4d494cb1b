"""Segments, distances, labels, start images, feature matching, methods."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meddistill.distill.distance import normalised_l2
from meddistill.distill.labels import class_of_each, classes_of, first_logits, shared_logits, taught_logits
from meddistill.distill.matching.distribution import match_features
from meddistill.distill.methods import DEFAULT_METHOD, METHODS, find
from meddistill.distill.segments import (
    Pace,
    ProgressiveSegments,
    RandomSegments,
    Segment,
    WideningSegments,
    continuous,
    widening,
)
from meddistill.distill.start import MIN_PROTOTYPE_IMAGES, first_images
from meddistill.distill.unroll import Learned
from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet
from meddistill.runtime.errors import InputError
from meddistill.runtime.streams import stream
from meddistill.teachers.images import LabelledImages, Normalisation

STILL = Augmentation(shift=0, scale=0, rotate=0, flip=0, brightness=0, contrast=0)


def pictures(counts, size=8, channels=1, seed=0):
    """Random images, ``counts`` of each class, each class about a pattern of its own."""
    generator = stream(seed, "pictures")
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    patterns = torch.rand(len(counts), channels, size, size, generator=generator)
    noise = torch.rand(len(labels), channels, size, size, generator=generator)
    pixels = (255 * (0.5 * patterns[labels] + 0.5 * noise)).to(torch.uint8)
    return LabelledImages(pixels, labels, 255, len(counts), Normalisation((0.5,) * channels, (0.2,) * channels))


@given(
    length=st.integers(1, 20),
    earliest=st.integers(0, 30),
    latest=st.integers(0, 30),
    teachers=st.integers(1, 5),
    spare=st.integers(1, 30),
    seed=st.integers(0, 2**32),
)
def test_segments_lie_on_the_trajectory_and_start_where_they_may(length, earliest, latest, teachers, spare, seed):
    snapshots = length + spare
    segment = RandomSegments(length, latest, earliest).draw(teachers, snapshots, stream(seed, "segment"))
    assert 0 <= segment.teacher < teachers
    assert 0 <= segment.start < segment.end == segment.start + length < snapshots
    assert segment.start <= latest
    last = min(latest, snapshots - 1 - length)
    assert segment.start >= min(earliest, last)


def test_every_start_and_every_teacher_is_drawn_equally_often():
    drawn = [RandomSegments(2, 5, 3).draw(2, 20, stream(0, number)) for number in range(3000)]
    for kind in {(d.teacher, d.start) for d in drawn}:
        count = sum((d.teacher, d.start) == kind for d in drawn)
        assert abs(count - 500) < 4 * math.sqrt(3000 / 6)
    assert {d.start for d in drawn} == {3, 4, 5}
    assert {d.teacher for d in drawn} == {0, 1}


@given(length=st.integers(1, 10), snapshots=st.integers(1, 10))
def test_a_segment_longer_than_the_trajectory_is_refused(length, snapshots):
    if length < snapshots:
        return
    with pytest.raises(ValueError, match="does not fit a trajectory"):
        RandomSegments(length, 3).draw(1, snapshots, stream(0, "segment"))


def test_a_window_widens_to_its_latest_start_and_stays():
    rule = WideningSegments(length=2, first_latest=4, last_latest=14, earliest_start=3, widened=0.5)

    def latest(share):
        return max(rule.draw(2, 40, stream(0, number), share).start for number in range(300))

    assert [latest(share) for share in (0.0, 0.1, 0.25, 0.5, 1.0)] == [4, 6, 9, 14, 14]
    assert widening(2, 3, 14) == WideningSegments(2, first_latest=8, last_latest=14, earliest_start=3)
    assert min(rule.draw(2, 40, stream(0, number), 1.0).start for number in range(300)) == 3


def test_continuous_segments_start_anywhere_in_the_window():
    drawn = [continuous(3, 2, 6).draw(2, 20, stream(0, number)) for number in range(1000)]
    starts = torch.tensor([d.start for d in drawn])
    assert 2 <= starts.min() < 2.1
    assert 5.9 < starts.max() <= 6
    assert float(starts.mean()) == pytest.approx(4, abs=4 * 4 / math.sqrt(12 * 1000))
    assert all(d.end - d.start == pytest.approx(3) for d in drawn)
    assert max(continuous(3, 2, 60).draw(2, 7, stream(0, number)).end for number in range(200)) <= 6
    with pytest.raises(ValueError, match="does not fit a trajectory"):
        continuous(7, 0, 3).draw(1, 7, stream(0))


def test_the_middle_of_a_segment_is_a_snapshot_where_its_start_is():
    assert [Segment(0, 4, 4 + length).middle for length in (1, 2, 3, 4)] == [4, 5, 5, 6]


def test_progressive_segments_start_at_the_beginning_and_grow_with_the_steps():
    rule = ProgressiveSegments(first_length=2, last_length=10, stages=5)
    drawn = [rule.draw(3, 30, stream(0, stage), 0.0, Pace(stage)) for stage in range(5)]
    assert [(d.start, d.end) for d in drawn] == [(0, 2), (0, 4), (0, 6), (0, 8), (0, 10)]
    assert [d.steps(20) for d in drawn] == [4, 8, 12, 16, 20]
    short = [rule.draw(3, 7, stream(0), 0.0, Pace(stage)) for stage in range(5)]  # as far as the trajectory goes
    assert [(d.end, d.steps(20)) for d in short] == [(2, 7), (3, 10), (4, 14), (5, 17), (6, 20)]
    assert rule.draw(3, 2, stream(0), 0.0, Pace(0)).end == 1


@given(longest=st.integers(1, 100), most=st.integers(1, 100), data=st.data())
def test_steps_are_the_share_of_a_segment_rounded_up_as_whole_numbers_are(longest, most, data):
    length = data.draw(st.integers(1, longest))
    assert Segment(0, 0, length, length / longest).steps(most) == -(-most * length // longest)


def test_rounding_adds_no_step():
    assert Segment(0, 0, 7, 7 / 50).steps(50) == 7


def test_a_stage_ends_when_it_is_matched_or_its_time_is_over():
    rule = ProgressiveSegments(first_length=2, last_length=10, stages=4, matched=0.5)
    pace = Pace()
    for _ in range(9):
        pace = rule.paced(pace, 0.3, 0.01)
    assert pace.stage == 0
    assert rule.paced(pace, 0.3, 0.01) == Pace(1)
    assert rule.paced(pace, 9.0, 0.01).stage == 0  # not matched any more
    assert rule.paced(Pace(1), 0.9, 0.49).stage == 1
    assert rule.paced(Pace(1), 0.9, 0.5).stage == 2
    assert rule.paced(Pace(3, 50, 0.1), 0.1, 1.0).stage == 3


def test_the_mean_score_of_a_stage_counts_recent_scores_more():
    pace = Pace()
    for score in (1.0, 0.5, 0.25):
        pace = pace.with_score(score)
    assert pace == Pace(0, 3, pytest.approx(0.9 * (0.9 * 1 + 0.1 * 0.5) + 0.1 * 0.25))


def test_the_distance_is_one_at_the_start_and_nought_at_the_target():
    start, target = (ConvNet(3, 1, 1, 4, 2).init(stream(0, name)) for name in ("start", "target"))
    assert float(normalised_l2(start, target, start)) == 1
    assert float(normalised_l2(target, target, start)) == 0
    halfway = tuple((s + t) / 2 for s, t in zip(start, target, strict=True))
    assert float(normalised_l2(halfway, target, start)) == pytest.approx(0.25)


@given(st.integers(2, 50), st.integers(1, 4))
def test_hard_labels_are_exactly_one_hot(classes, images_per_class):
    labels = class_of_each(classes, images_per_class)
    assert torch.bincount(labels).tolist() == [images_per_class] * classes
    rows = first_logits(labels, classes, "hard").softmax(1)
    assert torch.equal(rows, torch.nn.functional.one_hot(labels, classes).float())


@given(st.integers(2, 50))
def test_learned_labels_start_nearly_sure_of_their_class(classes):
    rows = first_logits(torch.arange(classes), classes, "learned").softmax(1)
    torch.testing.assert_close(rows.diagonal(), torch.full((classes,), 0.95), rtol=1e-5, atol=0)
    torch.testing.assert_close(rows.sum(1), torch.ones(classes))


def test_labels_are_the_mean_of_the_teachers_that_are_right():
    network, images = ConvNet(4, 1, 1, 8, 3), torch.randn(12, 1, 8, 8, generator=stream(0, "images"))
    teachers = [network.init(stream(0, "init", number)) for number in range(3)]
    first = first_logits(torch.arange(12) % 3, 3, "learned")
    found, kinds = taught_logits(network, teachers, images, first), set()
    for place in range(12):
        said = [network.apply(params, images[place : place + 1])[0] for params in teachers]
        right = [logits for logits in said if int(logits.argmax()) == place % 3]
        kinds.add(len(right))
        expected = torch.stack(right).mean(0) if right else first[place]
        torch.testing.assert_close(found[place], expected)
    assert 0 in kinds
    assert len(kinds) > 1


def test_methods_are_found_by_name_and_an_unknown_one_names_all():
    assert find(DEFAULT_METHOD) is METHODS[DEFAULT_METHOD]
    assert find("mtt").labels == "hard"
    with pytest.raises(InputError, match=", ".join(METHODS)):
        find("magic")


@pytest.mark.parametrize("kind", ["noise", "prototypes", "real"])
def test_start_images_have_the_shape_and_follow_the_seed(kind):
    images, labels = pictures([20, 30], channels=3), class_of_each(2, 3)
    one, again, other = (first_images(kind, images, labels, Augmentation(), seed) for seed in (1, 1, 2))
    assert one.shape == (6, 3, 8, 8)
    assert one.dtype == torch.float32
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_noise_knows_nothing_of_the_images():
    labels = class_of_each(2, 2)
    one, other = (first_images("noise", pictures([20, 20], seed=seed), labels, STILL, 0) for seed in (1, 2))
    assert torch.equal(one, other)


def test_real_starts_are_different_training_images_of_their_class():
    images, labels = pictures([12, 12]), class_of_each(2, 12)
    made = first_images("real", images, labels, Augmentation(), 0)
    for label in range(2):
        mine = {tuple(row.flatten().tolist()) for row in made[labels == label]}
        assert mine == {tuple(row.flatten().tolist()) for row in images.inputs(images.rows_of(label))}


@pytest.mark.parametrize("augmentation", [STILL, Augmentation()])
def test_prototypes_are_near_no_single_image_but_near_their_class(augmentation):
    images, labels = pictures([200, 200]), class_of_each(2, 4)
    made = first_images("prototypes", images, labels, augmentation, 0).flatten(1)
    real = images.inputs(torch.arange(400)).flatten(1)
    between = torch.cdist(real, real).fill_diagonal_(math.inf).min(1).values.min()  # the closest two real images
    assert torch.cdist(made, real).min() > 0.5 * between

    def alike(one, other):
        return torch.corrcoef(torch.stack([one, other]))[0, 1].abs()

    copies = [max(float(alike(row, single)) for single in real) for row in made]
    assert max(copies) < 0.9
    if augmentation is STILL:
        means = torch.stack([real[images.labels == label].mean(0) for label in range(2)])
        for row, label in zip(made, labels.tolist(), strict=True):
            assert alike(row, means[label]) > 0.9
            assert alike(row, means[label]) > alike(row, means[1 - label])


def test_prototypes_are_as_contrasted_as_one_image():
    images = pictures([100, 100])
    made = first_images("prototypes", images, class_of_each(2, 3), STILL, 0)
    single = images.inputs(torch.arange(200)).std(dim=(1, 2, 3)).mean()
    torch.testing.assert_close(made.std(dim=(1, 2, 3)), single.expand(6), rtol=0.1, atol=0)


def test_a_class_with_few_images_starts_from_noise():
    images = pictures([MIN_PROTOTYPE_IMAGES - 1, MIN_PROTOTYPE_IMAGES])
    made = first_images("prototypes", images, torch.tensor([0, 1]), STILL, 0)
    expected = torch.randn(1, 8, 8, generator=stream(0, "start", "prototypes", 0))
    assert torch.equal(made[0], expected)
    mean = images.inputs(images.rows_of(1)).mean(0)
    assert torch.corrcoef(torch.stack([made[1].flatten(), mean.flatten()]))[0, 1] > 0.99


def test_constant_images_make_finite_prototypes():
    flat = LabelledImages(
        torch.full((20, 1, 8, 8), 7, dtype=torch.uint8), torch.zeros(20).long(), 255, 1, Normalisation((0.5,), (1.0,))
    )
    made = first_images("prototypes", flat, torch.tensor([0]), STILL, 0)
    assert bool(torch.isfinite(made).all())


def synthetic(images, per_class=2):
    labels = class_of_each(images.classes, per_class)
    start = first_images("noise", images, labels, STILL, 0)
    return Learned(start, first_logits(labels, images.classes, "learned"), torch.zeros(1))


def test_matched_features_move_the_images_alone_and_downhill():
    images = pictures([40, 40])
    network = ConvNet(4, 1, 1, 8, 2)
    params, learned = network.init(stream(0, "init")), synthetic(images)
    outcome = match_features(network, params, learned, images, STILL, stream(0, "draw"))
    assert outcome.gradient.images.shape == learned.images.shape
    assert float(outcome.gradient.label_logits.abs().sum()) == 0
    assert float(outcome.gradient.log_steps.abs().sum()) == 0
    slope = outcome.gradient.images
    size = 1e-3
    moved = Learned(learned.images - size * slope / slope.norm(), learned.label_logits, learned.log_steps)
    after = match_features(network, params, moved, images, STILL, stream(0, "draw"))
    assert after.score - outcome.score == pytest.approx(-size * float(slope.norm()), rel=0.05)


def test_features_of_the_real_class_means_are_at_distance_nought():
    images = pictures([1, 1, 1])  # of one image a class, whatever is drawn is that image
    network = ConvNet(4, 1, 1, 8, 3)
    learned = Learned(images.inputs(torch.arange(3)), first_logits(torch.arange(3), 3, "hard"), torch.zeros(1))
    outcome = match_features(network, network.init(stream(0, "init")), learned, images, STILL, stream(0, "draw"))
    assert outcome.score == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("count", "classes"), [(1, 2), (1, 3), (2, 3), (2, 5), (3, 3), (6, 3)])
def test_images_follow_the_mean_of_all_classes_that_they_stand_for(count, classes):
    images, network, groups = pictures([9] * classes), ConvNet(4, 1, 1, 8, classes), min(count, classes)
    params, start = network.init(stream(0, "init")), torch.randn(count, 1, 8, 8, generator=stream(0, "made"))
    hard = first_logits(classes_of(count, classes), classes, "learned")
    logits = shared_logits(count, classes) if count < classes else hard
    learned = Learned(start, logits, torch.zeros(1))
    found = match_features(network, params, learned, images, STILL, stream(0, "draw"), 16).score

    draw, rows = stream(0, "draw"), []
    for label in range(classes):
        mine = images.rows_of(label)
        rows += mine[torch.randint(len(mine), (16,), generator=draw)].tolist()
    real = network.features(params, STILL.draw(len(rows), draw).apply(images.inputs(torch.tensor(rows))))
    made = network.features(params, STILL.draw(count, draw).apply(start))
    # Group g stands for the classes g, g + groups, …; its images lie beside each other.
    targets = torch.stack([torch.cat(real.split(16)[group::groups]).mean(0) for group in range(groups)])
    means = made.view(groups, count // groups, -1).mean(1)
    spread = (targets - targets.mean(0) if groups > 1 else targets).square().sum(1).mean()
    assert found == pytest.approx(float((means - targets).square().sum(1).mean() / spread), rel=1e-4)


def test_a_warm_up_of_one_image_sees_all_classes():
    images, network = pictures([20, 20]), ConvNet(4, 1, 1, 8, 2)
    blanked = images.pixels.clone()
    blanked[images.labels == 1] = 0
    learned = Learned(torch.randn(1, 1, 8, 8, generator=stream(0, "made")), shared_logits(1, 2), torch.zeros(1))
    slopes = [
        match_features(
            network, network.init(stream(0, "init")), learned, seen, STILL, stream(0, "draw")
        ).gradient.images
        for seen in (images, replace(images, pixels=blanked))
    ]
    assert not torch.equal(*slopes)
