"""The outer loop on real, small trajectories."""

import json
from dataclasses import replace
from itertools import islice, pairwise

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from meddistill.distill import loop, loop_plan
from meddistill.distill.distance import Pruned, SelfPaced, Weighted, normalised_l2
from meddistill.distill.formation import Formation
from meddistill.distill.labels import class_of_each, first_logits, taught_logits
from meddistill.distill.loop import Matching, distill, student_batches
from meddistill.distill.loop_plan import LoopPlan, usual_batch
from meddistill.distill.overlap import Mitigation
from meddistill.distill.segments import ContinuousSegments, ProgressiveSegments, RandomSegments
from meddistill.distill.start import first_images
from meddistill.distill.state import State
from meddistill.distill.unroll import Learned, Outcome, Truncated, unroll
from meddistill.distill.unroll import together as side_by_side
from meddistill.distill.unroll.stacked import stack
from meddistill.distill.unroll.step import step_of
from meddistill.nets import compiled
from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import flatten, unflatten
from meddistill.runtime.errors import InputError, MeddistillError
from meddistill.runtime.events import EventLog
from meddistill.runtime.streams import stream
from meddistill.teachers.images import LabelledImages, Normalisation
from meddistill.teachers.store import TrajectoryStore
from meddistill.teachers.train import TeacherPlan, train_teacher

NETWORK = ConvNet(4, 1, 1, 8, 2)
TEACHING = TeacherPlan(2, 30, 3, 16, 0.1, "balanced", Augmentation())
PLAN = LoopPlan(
    iterations=12,
    student_steps=3,
    batch=2,
    segments=RandomSegments(length=2, latest_start=6),
    segments_at_once=1,
    optimiser="adam",
    image_rate=0.05,
    label_rate=0.05,
    step_rate=0.05,
    decay=True,
    learn_labels=True,
    strategy="adjoint",
    augmentation=Augmentation(),
    warm_up=4,
)
SEED = 3


class StoppedError(Exception):
    """What a test raises to end a loop in the middle."""


class StopAfter:
    """A progress display that lets a stage take so many steps and then ends the process's work."""

    def __init__(self, steps):
        self._left = steps + 1  # the first advance tells what was done before

    def stage(self, name, total=None):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def advance(self, amount=1, **figures):
        if self._left == 0:
            raise StoppedError
        self._left -= 1


@pytest.fixture(scope="module")
def images():
    generator = stream(0, "images")
    labels = torch.arange(60) % 2
    ramp = torch.linspace(0, 1, 8).expand(8, 8)
    base = torch.stack([ramp, ramp.flip(1)])[labels][:, None]
    pixels = (255 * (0.5 * base + 0.5 * torch.rand(60, 1, 8, 8, generator=generator))).to(torch.uint8)
    return LabelledImages(pixels, labels, 255, 2, Normalisation((0.5,), (0.25,)))


@pytest.fixture(scope="module")
def matching(images, tmp_path_factory):
    store = TrajectoryStore(tmp_path_factory.mktemp("teachers"), TEACHING.snapshots, NETWORK.parameters)
    for teacher in range(TEACHING.count):
        store.save(teacher, train_teacher(NETWORK, images, TEACHING, 0, teacher))
    return Matching(NETWORK, store, TEACHING.count, images)


@pytest.fixture
def first(images):
    labels = class_of_each(2, 2)
    pixels = first_images("noise", images, labels, Augmentation(), 0)
    return Learned(pixels, first_logits(labels, 2, "learned"), torch.tensor([0.05]).log())


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.tensors(), other.tensors(), strict=True))


def events_of(path, kind):
    return [event for event in map(json.loads, path.read_text().splitlines()) if event["event"] == kind]


def outcome_of(learned, matching, plan, iteration):
    """Score and gradient of one iteration, worked out beside the loop."""
    scores, slopes = [], []
    for place in range(plan.segments_at_once):
        generator = stream(SEED, "distill", iteration, place)
        segment = plan.segments.draw(TEACHING.count, TEACHING.snapshots, generator)
        start, target = (
            unflatten(matching.store.snapshot(segment.teacher, at), NETWORK.shapes)
            for at in (segment.start, segment.end)
        )
        batches = student_batches(len(learned.images), plan, generator)
        outcome = unroll(
            NETWORK, start, learned, batches, lambda s, t=target, b=start: normalised_l2(s[plan.student_steps], t, b)
        )
        scores.append(outcome.score)
        slopes.append(outcome.gradient.tensors())
    return sum(scores) / len(scores), [torch.stack(parts).mean(0) for parts in zip(*slopes, strict=True)]


def mean_score(learned, matching):
    """Of the learned set as it is, over segments and batches that the loop did not see."""
    scores = []
    for number in range(40):
        generator = stream(99, "judge", number)
        segment = PLAN.segments.draw(TEACHING.count, TEACHING.snapshots, generator)
        start, target = (
            unflatten(matching.store.snapshot(segment.teacher, at), NETWORK.shapes)
            for at in (segment.start, segment.end)
        )
        batches = student_batches(4, PLAN, generator)
        scores.append(
            unroll(NETWORK, start, learned, batches, lambda s, t=target, b=start: normalised_l2(s[3], t, b)).score
        )
    return sum(scores) / len(scores)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("warm_up", [0, 20])
def test_students_of_the_result_come_closer_to_the_teachers(first, matching, optimiser, warm_up):
    rate = 0.05 if optimiser == "adam" else 2.0
    plan = replace(PLAN, iterations=100, warm_up=warm_up, optimiser=optimiser, image_rate=rate)
    found = distill(first, matching, plan, SEED)
    assert mean_score(found, matching) < 0.9 * mean_score(first, matching)


def test_the_result_follows_the_seed_and_the_first_set_is_left_alone(first, matching):
    before = Learned(*(tensor.clone() for tensor in first.tensors()))
    one, again, other = (distill(first, matching, PLAN, seed) for seed in (1, 1, 2))
    assert same(one, again)
    assert not same(one, other)
    assert same(first, before)


def test_strategies_give_the_same_result_but_for_rounding(first, matching):
    one, other = (distill(first, matching, replace(PLAN, strategy=name), SEED) for name in ("full", "adjoint"))
    torch.testing.assert_close(one.images, other.images, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("at_once", [1, 3])
def test_two_steps_of_plain_descent_are_worked_out_by_hand(first, matching, tmp_path, at_once):
    """Rates times gradients averaged over segments, momentum one half, and half of the rates at half time."""
    rates = (2.0, 3.0, 0.5)
    plan = replace(PLAN, iterations=2, warm_up=0, optimiser="sgd", segments_at_once=at_once)
    plan = replace(plan, image_rate=rates[0], label_rate=rates[1], step_rate=rates[2])
    score, slopes = outcome_of(first, matching, plan, 0)
    between = [before - rate * slope for before, rate, slope in zip(first.tensors(), rates, slopes, strict=True)]
    _, then = outcome_of(Learned(*between), matching, plan, 1)
    found = distill(first, matching, plan, SEED, events=EventLog(tmp_path / "events"))
    assert events_of(tmp_path / "events", "distilled")[0]["score"] == pytest.approx(score)
    for place in range(3):
        moved = rates[place] * 0.5 * (then[place] + 0.5 * slopes[place])
        torch.testing.assert_close(found.tensors()[place], between[place] - moved, rtol=1e-4, atol=1e-6)
        assert slopes[place].abs().sum() > 0


def test_without_decay_the_rates_stay(first, matching):
    """Adam's first step is the rate itself, whatever the gradient."""
    plan = replace(PLAN, warm_up=0, iterations=1, image_rate=0.07, label_rate=0.02, step_rate=0.01)
    found = distill(first, matching, plan, SEED)
    for before, after, rate in zip(first.tensors(), found.tensors(), (0.07, 0.02, 0.01), strict=True):
        assert float((after - before).abs().max()) == pytest.approx(rate, rel=1e-2)
    steady, falling = (
        distill(first, matching, replace(PLAN, warm_up=0, iterations=40, decay=d), SEED) for d in (False, True)
    )
    assert (falling.images - first.images).abs().mean() < (steady.images - first.images).abs().mean()


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_a_warm_up_steps_as_adam_does(first, matching, optimiser):
    plan = replace(PLAN, warm_up=1, iterations=1, image_rate=0.0, optimiser=optimiser)
    moved = (distill(first, matching, plan, SEED).images - first.images).abs()
    assert float(moved.max()) == pytest.approx(0.05, rel=1e-2)


def test_a_warm_up_moves_only_the_images(first, matching):
    plan = replace(PLAN, warm_up=10, iterations=1, image_rate=0.0, label_rate=0.0, step_rate=0.0)
    found = distill(first, matching, plan, SEED)
    assert not torch.equal(found.images, first.images)
    assert torch.equal(found.label_logits, first.label_logits)
    assert torch.equal(found.log_steps, first.log_steps)


def test_a_warm_up_goes_on_where_classes_look_alike(first, matching, images, tmp_path):
    """The score is then large, which in a student would mean that it ran away."""
    alike = LabelledImages(images.pixels[:30].repeat(2, 1, 1, 1), torch.arange(60) // 30, 255, 2, images.normalisation)
    matching = replace(matching, images=alike)
    far = Learned(5 * first.images, first.label_logits, first.log_steps)
    plan = replace(PLAN, warm_up=40, iterations=1)
    distill(far, matching, plan, SEED, events=EventLog(tmp_path / "events"))
    done = events_of(tmp_path / "events", "distilled")
    assert max(event["score"] for event in done if event["phase"] == "features") > 10
    assert len([event for event in done if event["phase"] == "features"]) == 40


def test_a_warm_up_needs_images(first, matching):
    with pytest.raises(ValueError, match=r"pass them in Matching\.images"):
        distill(first, replace(matching, images=None), PLAN, SEED)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("steps", [0, 1, 3, 4, 5, 11, 15, 16])
def test_a_run_that_ended_in_between_continues_to_the_same_bits(
    first, matching, tmp_path, monkeypatch, optimiser, steps
):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    plan = replace(PLAN, optimiser=optimiser)
    whole = distill(first, matching, plan, SEED)
    checkpoint = tmp_path / "state"
    if steps < 16:
        with pytest.raises(StoppedError):
            distill(first, matching, plan, SEED, checkpoint=checkpoint, progress=StopAfter(steps))
        assert checkpoint.exists() == (steps > 0)
    continued = distill(first, matching, plan, SEED, checkpoint=checkpoint)
    assert same(continued, whole)
    # once done, the same call finds all done
    assert same(distill(first, matching, plan, SEED, checkpoint=checkpoint, progress=StopAfter(0)), whole)


def test_a_run_cut_into_single_steps_ends_with_the_same_bits(first, matching, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    whole = distill(first, matching, PLAN, SEED)
    for _ in range(15):
        with pytest.raises(StoppedError):
            distill(first, matching, PLAN, SEED, checkpoint=tmp_path / "state", progress=StopAfter(1))
    assert same(distill(first, matching, PLAN, SEED, checkpoint=tmp_path / "state", progress=StopAfter(1)), whole)


def test_a_run_that_is_told_to_stop_is_the_run_of_that_many_iterations(first, matching, tmp_path):
    plan = replace(PLAN, warm_up=2, iterations=50, decay=False)
    asked = []
    stopped = distill(
        first,
        matching,
        plan,
        SEED,
        is_enough=lambda done: bool(asked.append(done)) or done == 3,
        checkpoint=tmp_path / "s",
    )
    assert asked == [1, 2, 3]
    assert same(stopped, distill(first, matching, replace(plan, iterations=3), SEED))
    assert same(stopped, distill(first, matching, replace(plan, iterations=3), SEED, checkpoint=tmp_path / "s"))


def test_how_often_the_state_is_saved_has_no_part_in_the_result(first, matching, tmp_path, monkeypatch):
    seldom = distill(first, matching, PLAN, SEED, checkpoint=tmp_path / "seldom")
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    often = distill(first, matching, PLAN, SEED, checkpoint=tmp_path / "often")
    assert same(seldom, often)
    kept = [safetensors.torch.load_file(tmp_path / name) for name in ("seldom", "often")]
    assert kept[0].keys() == kept[1].keys()
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])


STRANGE = [
    safetensors.torch.save(tensors, metadata)
    for tensors, metadata in (
        ({"learned.0": torch.zeros(1)}, None),
        ({"learned.0": torch.zeros(1)}, {"iteration": "1", "skipped": "0"}),
        ({"learned.1": torch.zeros(1)}, {"iteration": "1", "skipped": "0"}),
    )
]


@pytest.mark.parametrize("content", [b"", b"no checkpoint", *STRANGE])
def test_a_broken_checkpoint_is_named(first, matching, tmp_path, content):
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read the checkpoint .*state .*: delete it to start this stage anew"):
        distill(first, matching, PLAN, SEED, checkpoint=tmp_path / "state")


def spoiled(matching, folder, snapshots, value):
    """The same teachers, with the given snapshots of the first one set to a value that no training gives."""
    store = replace(matching.store, folder=folder)
    for teacher in range(2):
        trajectory = matching.store.trajectory(teacher)
        if teacher == 0:
            trajectory[snapshots] = value
        store.save(teacher, trajectory)
    return replace(matching, store=store)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_iterations_that_are_not_finite_are_skipped_logged_and_change_nothing(first, matching, tmp_path, value):
    matching = spoiled(matching, tmp_path, [2, 4], value)
    plan = replace(PLAN, iterations=60, warm_up=0)
    log = EventLog(tmp_path / "events")
    found = distill(first, matching, plan, SEED, events=log)
    skipped = {event["iteration"] - 1 for event in events_of(tmp_path / "events", "skipped")}

    drawn = [plan.segments.draw(2, TEACHING.snapshots, stream(SEED, "distill", i, 0)) for i in range(60)]
    expected = {i for i, d in enumerate(drawn) if d.teacher == 0 and {d.start, d.end} & {2, 4}}
    # A student that is to reach a point far away is not moved by it: its score is 1, and finite.
    assert skipped == {i for i in expected if value != 1e30 or drawn[i].start in (2, 4) or i in skipped}
    assert skipped
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found.tensors())
    assert len(skipped) + len(events_of(tmp_path / "events", "distilled")) == 60


def test_a_skipped_iteration_leaves_every_bit_of_the_state(first, matching, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    good = replace(PLAN, warm_up=0, iterations=30)
    state, log = tmp_path / "state", tmp_path / "events"
    bad = spoiled(matching, tmp_path, list(range(11)), float("nan"))
    with pytest.raises(StoppedError):
        distill(first, matching, good, SEED, checkpoint=state, progress=StopAfter(3))
    before, unchanged = safetensors.torch.load_file(state), []
    for iteration in range(4, 14):  # some of them draw the spoiled teacher
        with pytest.raises(StoppedError):
            distill(first, bad, good, SEED, checkpoint=state, progress=StopAfter(1), events=EventLog(log))
        after = safetensors.torch.load_file(state)
        assert before.keys() == after.keys()
        if all(torch.equal(before[name], after[name]) for name in before):
            unchanged.append(iteration)
        before = after
    skipped = {event["iteration"] for event in events_of(log, "skipped")}
    assert unchanged == sorted(skipped & set(range(4, 14)))
    assert 0 < len(unchanged) < 10


def test_when_nothing_but_skipped_iterations_is_left_the_run_ends(first, matching, tmp_path):
    bad = spoiled(spoiled(matching, tmp_path / "a", list(range(11)), float("nan")), tmp_path / "b", [0], float("nan"))
    bad = replace(bad, teachers=1)
    plan = replace(PLAN, warm_up=0, iterations=100)
    with pytest.raises(MeddistillError, match=r"25 iterations in a row .* Lower image_rate"):
        distill(first, bad, plan, SEED, events=EventLog(tmp_path / "events"))
    skipped = events_of(tmp_path / "events", "skipped")
    assert [event["iteration"] for event in skipped] == list(range(1, 26))
    assert {event["score"] for event in skipped} == {None}


def test_the_count_of_skipped_iterations_survives_an_interruption(first, matching, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    bad = replace(spoiled(matching, tmp_path, list(range(11)), float("nan")), teachers=1)
    plan, log, state = replace(PLAN, warm_up=0, iterations=100), EventLog(tmp_path / "events"), tmp_path / "state"
    with pytest.raises(StoppedError):
        distill(first, matching, plan, SEED, checkpoint=state, progress=StopAfter(10))
    with pytest.raises(StoppedError):
        distill(first, bad, plan, SEED, checkpoint=state, progress=StopAfter(20))
    with pytest.raises(MeddistillError, match="25 iterations in a row"):
        distill(first, bad, plan, SEED, checkpoint=state, events=log)
    last = events_of(tmp_path / "events", "skipped")[-1]["iteration"]
    assert last == 10 + 25


def test_skipped_iterations_that_are_not_in_a_row_do_not_end_the_run(first, matching, tmp_path):
    bad = spoiled(matching, tmp_path, list(range(11)), float("nan"))
    plan = replace(PLAN, warm_up=0, iterations=80)
    distill(first, bad, plan, SEED, events=EventLog(tmp_path / "events"))
    assert len(events_of(tmp_path / "events", "skipped")) > 25


def test_a_student_that_runs_away_changes_nothing(first, matching, tmp_path):
    wild = Learned(first.images, first.label_logits, torch.tensor([5.0]))
    with pytest.raises(MeddistillError, match="above 10"):
        distill(wild, matching, replace(PLAN, warm_up=0, iterations=100), SEED, events=EventLog(tmp_path / "events"))
    assert all(event["score"] > 10 for event in events_of(tmp_path / "events", "skipped"))


def test_step_sizes_stay_positive_however_fast_they_are_pushed_down(first, matching):
    plan = replace(PLAN, warm_up=0, iterations=25, step_rate=1.0, decay=False)
    found = distill(first, matching, plan, SEED)
    assert 0 < float(found.step_size(0)) < float("inf")
    assert not torch.equal(found.log_steps, first.log_steps)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("kind", ["hard", "learned"])
def test_labels_that_are_not_learned_do_not_move(first, matching, optimiser, kind):
    fixed = Learned(first.images, first_logits(class_of_each(2, 2), 2, kind), first.log_steps)
    found = distill(fixed, matching, replace(PLAN, iterations=20, learn_labels=False, optimiser=optimiser), SEED)
    assert torch.equal(found.label_logits, fixed.label_logits)
    assert kind == "learned" or set(found.label_logits.softmax(1).flatten().tolist()) == {0.0, 1.0}
    assert not torch.equal(found.images, fixed.images)


@pytest.mark.parametrize(("count", "batch", "sizes"), [(4, 9, [4] * 5), (5, 2, [2, 2, 1, 2, 2]), (4, 2, [2] * 5)])
def test_students_see_every_image_before_they_see_one_again(count, batch, sizes):
    batches = student_batches(count, replace(PLAN, student_steps=5, batch=batch), stream(0, "batches"))
    assert [len(b.rows) for b in batches] == sizes
    assert all(len(b.draw.affine) == len(b.rows) for b in batches)
    rows = torch.cat([b.rows for b in batches])
    for begin in range(0, len(rows) - count + 1, count):
        assert sorted(rows[begin : begin + count].tolist()) == list(range(count))


@given(count=st.integers(1, 2000), steps=st.integers(1, 60))
def test_usual_batches_hold_four_times_all_images_or_are_the_largest(count, steps):
    batch = usual_batch(count, steps)
    assert 32 <= batch <= 128
    assert batch * steps >= 4 * count or batch == 128
    assert (batch - 1) * steps < 4 * count or batch == 32
    plan = replace(PLAN, student_steps=steps, batch=0)
    batches = student_batches(count, plan, stream(0, "batches"))
    assert len(batches[0].rows) == plan.batch_of(count) == min(batch, count)
    times = torch.bincount(torch.cat([each.rows for each in batches]), minlength=count)
    assert times.max() - times.min() <= 1


def test_a_segment_that_is_not_finite_is_left_out_of_its_iteration(first, matching, tmp_path):
    """Of two segments the sound one still counts, alone."""
    bad = spoiled(matching, tmp_path, list(range(11)), float("nan"))
    plan = replace(PLAN, warm_up=0, iterations=30, segments_at_once=2)
    log = EventLog(tmp_path / "events")
    found = distill(first, bad, plan, SEED, events=log)
    drawn = [
        [plan.segments.draw(2, TEACHING.snapshots, stream(SEED, "distill", i, place)).teacher for place in range(2)]
        for i in range(30)
    ]
    skipped = {event["iteration"] - 1 for event in events_of(tmp_path / "events", "skipped")}
    assert skipped == {i for i, pair in enumerate(drawn) if pair == [0, 0]}
    assert any(sorted(pair) == [0, 1] for pair in drawn)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found.tensors())


@pytest.mark.parametrize("together", [2, 3])
def test_segments_side_by_side_give_the_same_result_but_for_rounding(first, matching, together):
    plan = replace(PLAN, segments_at_once=3, momentum=0.5)
    one, other = (distill(first, matching, replace(plan, together=size), SEED) for size in (1, together))
    torch.testing.assert_close(one.images, other.images, rtol=1e-3, atol=1e-4)


def test_the_log_says_how_segments_are_unrolled(first, matching, tmp_path):
    plan = replace(PLAN, segments_at_once=3, together=8, compiled=True, precision="bfloat16")
    distill(first, matching, plan, SEED, events=EventLog(tmp_path / "events"))
    (told,) = events_of(tmp_path / "events", "memory")
    assert told["strategy"] == "adjoint"
    assert (told["segments"], told["together"], told["precision"]) == (3, 3, "bfloat16")
    assert told["compiled"] is False  # so short a run does not earn the time back
    assert told["states"] == plan.student_steps
    assert 0 < told["bytes_each"] < told["bytes_free"]


def test_memory_that_runs_out_is_told_and_asked_for_once(first, matching, tmp_path, monkeypatch):
    sizes = []

    def failing(group, count, device):
        sizes.append(len(group))
        if len(group) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return stack(group, count, device)

    plan = replace(PLAN, warm_up=0, iterations=3, segments_at_once=2, together=2)
    expected = distill(first, matching, replace(plan, together=1), SEED)
    monkeypatch.setattr(side_by_side, "stack", failing)
    assert same(distill(first, matching, plan, SEED, events=EventLog(tmp_path / "events")), expected)
    (told,) = events_of(tmp_path / "events", "memory ran out")
    assert (told["iteration"], told["together"]) == (1, 1)
    assert sizes == [2, *6 * [1]]


def test_a_compiler_that_fails_is_told_once(first, matching, tmp_path, monkeypatch):
    def broken(function, **_):
        raise RuntimeError("no luck")

    step_of.cache_clear()
    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(compiled, "has_compiler", lambda device: True)
    monkeypatch.setattr(loop, "pays", lambda *_: True)
    found = distill(first, matching, replace(PLAN, compiled=True), SEED, events=EventLog(tmp_path / "events"))
    step_of.cache_clear()
    assert same(found, distill(first, matching, PLAN, SEED))
    assert [event["reason"] for event in events_of(tmp_path / "events", "not compiled")] == ["no luck"]


@pytest.mark.parametrize("reason", ["no luck", None])
def test_kernels_are_tried_once_a_run_and_taken_where_they_serve(first, matching, tmp_path, monkeypatch, reason):
    """On a CPU they are not; here it is said that it were a GPU. A run that is continued does not choose again."""
    tried, rules, plan = [], set(), replace(PLAN, kernels=True)
    expected = distill(first, matching, PLAN, SEED)
    assert same(distill(first, matching, plan, SEED), expected)

    def trial(network, precision, compiled, students, batch, device, timed):
        tried.append((students, batch, timed))
        return reason

    many = loop.unroll_many
    monkeypatch.setattr(loop, "are_there_kernels", lambda *_: True)
    monkeypatch.setattr(loop, "why_no_kernels", trial)
    monkeypatch.setattr(
        loop, "unroll_many", lambda *some, rule, **named: rules.add(rule) or many(*some, rule=rule, **named)
    )
    log, kept = EventLog(tmp_path / "events"), tmp_path / "state"
    distill(first, matching, plan, SEED, checkpoint=kept, events=log, is_enough=lambda done: True)
    found = distill(first, matching, plan, SEED, checkpoint=kept, events=log)
    assert tried == [(1, 2, True), *([(1, 2, False)] if reason is None else [])]
    assert {rule.kernels for rule in rules} == {reason is None}
    for one, other in zip(found.tensors(), expected.tensors(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)
    assert same(found, expected) == (reason is not None)
    assert [event["reason"] for event in events_of(tmp_path / "events", "no kernels")] == [reason] * bool(reason)


def test_a_segment_that_is_left_out_is_told(first, matching, tmp_path, monkeypatch):
    plan, scores = replace(PLAN, warm_up=0, iterations=1, segments_at_once=2), []
    monkeypatch.setattr(loop_plan, "_RUNAWAY_SCORE", 1e9)
    together = loop.unroll_many

    def watched(*arguments, **named):
        found = together(*arguments, **named)
        scores.extend(found.scores)
        return found

    monkeypatch.setattr(loop, "unroll_many", watched)
    distill(first, matching, plan, SEED)
    monkeypatch.setattr(loop_plan, "_RUNAWAY_SCORE", sum(scores) / 2)
    distill(first, matching, plan, SEED, events=EventLog(tmp_path / "events"))
    (told,) = events_of(tmp_path / "events", "left out")
    assert told["iteration"] == 1
    assert told["scores"] == pytest.approx(scores[:2])
    assert told["used"] == [score < max(scores[:2]) for score in scores[:2]]


def test_random_truncations_follow_the_seed(first, matching):
    plan = replace(PLAN, strategy=Truncated(1, "random"))
    one, again = (distill(first, matching, plan, SEED) for _ in range(2))
    assert same(one, again)
    assert not same(one, distill(first, matching, replace(plan, strategy=Truncated(1)), SEED))


EVERYTHING = replace(
    PLAN,
    iterations=40,
    warm_up=1,
    segments=ProgressiveSegments(first_length=1, last_length=6, stages=3, matched=0.9),
    distance=Pruned(),
    averaging=0.9,
    mitigation=Mitigation(every=12, retrained=5, quantile=0.01),
)


@pytest.mark.parametrize("distance", [Weighted(rate=0.5), SelfPaced()])
def test_what_a_distance_remembers_is_part_of_the_state(first, matching, tmp_path, monkeypatch, distance):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    plan = replace(PLAN, distance=distance, segments_at_once=2)
    whole = distill(first, matching, plan, SEED, checkpoint=tmp_path / "whole")
    for steps in (2, 4, 9):
        with pytest.raises(StoppedError):
            distill(first, matching, plan, SEED, checkpoint=tmp_path / str(steps), progress=StopAfter(steps))
        assert same(distill(first, matching, plan, SEED, checkpoint=tmp_path / str(steps)), whole)
    memory = safetensors.torch.load_file(tmp_path / "whole")["carried.0"]
    assert memory.shape == NETWORK.shapes[0]
    assert memory.any()
    with pytest.raises(InputError, match=r"cannot read the checkpoint .*remembers"):
        distill(first, matching, PLAN, SEED, checkpoint=tmp_path / "plain")
        distill(first, matching, plan, SEED, checkpoint=tmp_path / "plain")


def test_a_mask_is_the_union_of_what_every_student_noted(first, matching, tmp_path, monkeypatch):
    plan = replace(PLAN, warm_up=0, iterations=3, distance=SelfPaced(), segments_at_once=2)
    noted = []
    monkeypatch.setattr(State, "update", watched_update(State.update, noted))
    distill(first, matching, plan, SEED, checkpoint=tmp_path / "state")
    assert len(noted) == 6
    kept = safetensors.torch.load_file(tmp_path / "state")
    for place in range(len(NETWORK.shapes)):
        assert torch.equal(kept[f"carried.{place}"], torch.stack([note[place] for note in noted]).any(0))


def watched_update(update, noted):
    def watch(state, outcome, usable):
        noted.extend(state.notes)
        update(state, outcome, usable)

    return watch


@pytest.mark.parametrize("warm_up", [0, 4])
def test_matching_begins_with_the_labels_of_the_teachers(first, matching, tmp_path, monkeypatch, warm_up):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    plan = replace(PLAN, warm_up=warm_up, iterations=3, taught_labels=True, label_rate=0.0)
    found = distill(first, matching, plan, SEED)
    warm = first
    if warm_up:
        with pytest.raises(StoppedError):
            distill(first, matching, plan, SEED, checkpoint=tmp_path / "state", progress=StopAfter(warm_up))
        kept = safetensors.torch.load_file(tmp_path / "state")
        warm = Learned(kept["learned.0"], kept["learned.1"], kept["learned.2"])
        assert same(distill(first, matching, plan, SEED, checkpoint=tmp_path / "state"), found)
    last = [matching.params(teacher, TEACHING.snapshots - 1, torch.device("cpu")) for teacher in range(2)]
    expected = taught_logits(NETWORK, last, warm.images, first.label_logits)
    assert torch.equal(found.label_logits, expected)
    assert not torch.equal(expected, first.label_logits)


def test_segments_above_the_highest_score_of_a_method_are_left_out(first, matching, tmp_path):
    plan = replace(PLAN, warm_up=0, iterations=20)
    distill(first, matching, plan, SEED, events=EventLog(tmp_path / "all"))
    middle = sorted(event["score"] for event in events_of(tmp_path / "all", "distilled"))[10]
    limited = replace(plan, highest_score=middle)
    distill(first, matching, limited, SEED, events=EventLog(tmp_path / "some"))
    skipped = events_of(tmp_path / "some", "skipped")
    assert 0 < len(skipped) < 20
    assert all(event["score"] > middle for event in skipped)
    assert all(event["score"] <= middle for event in events_of(tmp_path / "some", "distilled"))
    with pytest.raises(MeddistillError, match=r"above 0\.001"):
        distill(first, matching, replace(plan, iterations=40, highest_score=0.001), SEED)


def test_a_point_between_two_snapshots_is_on_the_straight_way(matching):
    before, after = matching.store.snapshot(1, 4), matching.store.snapshot(1, 5)
    found = flatten(matching.params(1, 4.25, torch.device("cpu")))
    torch.testing.assert_close(found, before + 0.25 * (after - before))
    last = TEACHING.snapshots - 1
    assert torch.equal(flatten(matching.params(1, float(last), torch.device("cpu"))), matching.store.snapshot(1, last))


@pytest.mark.parametrize(
    ("point", "reach", "averaged"),
    [
        (5, 0, [5]),
        (5, 2, [3, 4, 5, 6, 7]),
        (0, 2, [0]),  # the untrained network, as it is
        (1, 2, [0, 1, 2]),
        (3, 9, [0, 1, 2, 3, 4, 5, 6]),
        (9, 2, [7, 8, 9, 10]),  # 10 is the last
        (10, 3, [7, 8, 9, 10]),
    ],
)
def test_a_smooth_point_is_the_mean_of_snapshots_around_it(matching, point, reach, averaged):
    found = flatten(replace(matching, smoothing=reach).params(1, point, torch.device("cpu")))
    points = [matching.store.snapshot(1, index) for index in averaged]
    assert torch.allclose(found, sum(points) / len(points), rtol=1e-6, atol=1e-7)
    if len(averaged) == 1:
        assert torch.equal(found, points[0])


def test_a_place_between_two_smooth_points_is_on_the_straight_way(matching):
    smooth = replace(matching, smoothing=2)
    before, after = (flatten(smooth.params(0, point, torch.device("cpu"))) for point in (4, 5))
    found = flatten(smooth.params(0, 4.25, torch.device("cpu")))
    assert torch.allclose(found, before + (after - before) / 4, rtol=1e-5, atol=1e-7)


def test_a_student_of_smoothed_teachers_starts_and_ends_at_smooth_points(matching, first):
    """What a run reads is smoothed, whoever reads it: it agrees with a run on a store that holds the means."""
    smooth = replace(matching, smoothing=2)
    means = {
        (k, point): flatten(smooth.params(k, point, torch.device("cpu")))
        for k in range(2)
        for point in range(TEACHING.snapshots)
    }

    class Means:
        snapshots = TEACHING.snapshots

        def snapshot(self, teacher, index):
            return means[teacher, index]

    found, wanted = (distill(first, one, PLAN, SEED) for one in (smooth, replace(matching, store=Means())))
    assert same(found, wanted)
    assert not same(found, distill(first, matching, PLAN, SEED))


def test_on_a_convexified_trajectory_every_point_is_on_the_straight_way(first, matching, tmp_path):
    sizes = tuple(shape.numel() for shape in NETWORK.shapes)
    store = TrajectoryStore(tmp_path, TEACHING.snapshots, NETWORK.parameters, "convex2", sizes=sizes)
    store.save(0, matching.store.trajectory(0))
    start, end = store.snapshot(0, 0), store.snapshot(0, TEACHING.snapshots - 1)
    convex = replace(matching, store=store, teachers=1)
    found = flatten(convex.params(0, 3.6, torch.device("cpu")))
    for point, begin, last in zip(*(flat.split(sizes) for flat in (found, start, end)), strict=True):
        if torch.equal(begin, last):  # a bias before a norm: it has no way to go
            assert torch.equal(point, begin)
            continue
        share = (point - begin).norm() / (last - begin).norm()
        assert 0 < share < 1
        torch.testing.assert_close(point, begin + share * (last - begin), rtol=1e-4, atol=1e-6)
    assert not same(distill(first, convex, replace(PLAN, segments=ContinuousSegments(2, 6)), SEED), first)


def test_a_run_of_all_parts_continues_to_the_same_bits(first, matching, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    whole = distill(first, matching, EVERYTHING, SEED)
    for steps in (7, 14, 20):  # before, while and after images are retrained
        path = tmp_path / f"{steps}"
        with pytest.raises(StoppedError):
            distill(first, matching, EVERYTHING, SEED, checkpoint=path, progress=StopAfter(steps))
        assert same(distill(first, matching, EVERYTHING, SEED, checkpoint=path), whole)


def test_overlapping_images_start_anew_and_only_they_are_retrained(first, matching, tmp_path, monkeypatch):
    twins = Learned(first.images[[0, 0, 2, 2]], first.label_logits, first.log_steps)
    plan = replace(PLAN, warm_up=0, iterations=6, image_rate=0.01, mitigation=Mitigation(every=3, retrained=2))
    seen = []
    iteration = loop._iteration

    def watch(state, *rest):
        seen.append(state.learned.images.clone())
        return iteration(state, *rest)

    monkeypatch.setattr(loop, "_iteration", watch)
    distill(twins, matching, plan, SEED, events=EventLog(tmp_path / "log"))
    (told,) = events_of(tmp_path / "log", "overlap")
    assert (told["share"], told["restarted"]) == (1, 2)
    assert 0 <= told["diversity"] < 2
    moved = [(after - before).abs().amax((1, 2, 3)) for before, after in pairwise(seen)]
    assert (moved[2][[1, 3]] > 0.1).all()  # new pixels, a step of the optimiser besides
    assert (moved[2][[0, 2]] < 0.02).all()
    for change in moved[3:5]:
        assert (change[[0, 2]] == 0).all()
        assert (change[[1, 3]] > 0).all()


def test_the_share_of_overlapping_images_falls(images, matching, tmp_path):
    """Four copies of one image in each of two classes, where nothing else moves the images."""
    copies = real_images(images, [0, 0, 0, 0, 1, 1, 1, 1])
    still = replace(PLAN, warm_up=0, iterations=9, image_rate=0.0, batch=4, augmentation=Augmentation(flip=0))
    plan = replace(still, mitigation=Mitigation(every=2, retrained=1, draws=32))
    first = Learned(copies, first_logits(class_of_each(2, 4), 2, "hard"), torch.tensor([0.05]).log())
    distill(first, matching, plan, SEED, events=EventLog(tmp_path / "log"))
    shares = [event["share"] for event in events_of(tmp_path / "log", "overlap")]
    assert len(shares) == 3
    assert shares[0] == 1
    assert shares[0] > shares[1] > shares[2]
    assert shares[2] <= 0.5


def real_images(images, labels):
    """The first of each label's class."""
    return torch.cat([images.inputs(images.rows_of(label)[:1]) for label in labels])


def test_a_run_that_ends_before_its_time_gives_no_images_that_have_only_begun(first, matching, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    twins = Learned(first.images[[0, 0, 2, 2]], first.label_logits, first.log_steps)
    plan = replace(PLAN, warm_up=0, iterations=10, mitigation=Mitigation(every=5, retrained=3))

    def ended(after):
        path = tmp_path / f"{after}"
        return distill(twins, matching, plan, SEED, is_enough=lambda done: done >= after, checkpoint=path)

    looked, whole = ended(5), distill(twins, matching, plan, SEED)
    assert same(ended(6), looked)
    assert same(ended(7), looked)
    assert not same(ended(8), looked)
    assert same(distill(twins, matching, plan, SEED, checkpoint=tmp_path / "6"), whole)
    with pytest.raises(StoppedError):
        distill(twins, matching, plan, SEED, checkpoint=tmp_path / "killed", progress=StopAfter(6))
    assert same(distill(twins, matching, plan, SEED, is_enough=lambda _: True, checkpoint=tmp_path / "killed"), looked)


@pytest.mark.parametrize(("start", "shown"), [("noise", False), ("prototypes", True)])
def test_images_that_start_anew_from_noise_show_nothing_of_patients(first, matching, monkeypatch, start, shown):
    twins = Learned(first.images[[0, 0, 2, 2]], first.label_logits, first.log_steps)
    rule = Mitigation(every=3, retrained=2, start=start)
    given, restart = {}, State.restart

    def watch(state, rows, new, *rest):
        given.update(zip(rows.tolist(), new, strict=True))
        restart(state, rows, new, *rest)

    monkeypatch.setattr(State, "restart", watch)
    plan = replace(PLAN, warm_up=0, iterations=6, mitigation=rule, augmentation=Augmentation(flip=0))
    distill(twins, matching, plan, SEED)
    assert set(given) == {1, 3}
    for row, image in given.items():
        mean = matching.real.inputs(matching.real.rows_of(row // 2)).mean(0)
        alike = torch.corrcoef(torch.stack([image.flatten(), mean.flatten()]))[0, 1]
        assert alike > 0.6 if shown else abs(alike) < 0.4


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_images_that_start_anew_take_steps_as_long_as_the_others(first, optimiser):
    """Under slopes of one scale, of the mean step over the rate: ten after the restart against ten before it."""
    plan = replace(PLAN, warm_up=0, iterations=400, decay=False, optimiser=optimiser)
    state = State(first, plan, (), Formation(8, 8))
    draw, rows = stream(0, "slopes"), torch.tensor([1, 3])

    def step():
        slope = Learned(*(torch.randn(part.shape, generator=draw) for part in first.tensors()))
        before = state.learned.images.clone()
        state.update(Outcome(1.0, slope), usable=True)
        return (state.learned.images - before).abs() / plan.image_rate

    usual = torch.stack([step() for _ in range(40)])[-10:].mean()
    state.restart(rows, torch.zeros(2, 1, 8, 8), Mitigation(every=40, retrained=10))
    after = torch.stack([step()[rows] for _ in range(10)]).mean((1, 2, 3, 4))
    assert after.max() < 1.3 * usual
    assert 0.6 * usual < after.mean() < 1.1 * usual
    assert after[0] < usual  # no direction of the images that they replaced is left


def test_the_result_is_the_average_of_what_was_seen(first, matching, monkeypatch):
    plan = replace(PLAN, warm_up=1, iterations=4, averaging=0.6)
    seen = []
    update = State.update

    def watch(state, *rest):
        update(state, *rest)
        seen.append(state.learned.images.clone())

    monkeypatch.setattr(State, "update", watch)
    found = distill(first, matching, plan, SEED).images
    mean = seen[1]
    for count, images in ((2, seen[2]), (3, seen[3]), (4, seen[4])):
        kept = min(0.6, (count - 1) / count)
        mean = kept * mean + (1 - kept) * images
    torch.testing.assert_close(found, mean)


@pytest.mark.parametrize("skipped", [(), (1,), (1, 2, 4)])
def test_an_average_is_of_the_iterations_that_counted_alone(first, tmp_path, skipped):
    """Also where the first ones were skipped, and the state goes through a checkpoint in between."""
    plan = replace(PLAN, warm_up=0, iterations=8, averaging=0.999)
    state, seen = State(first, plan, (), Formation(8, 8)), []
    for number in range(1, 8):
        slope = Learned(*(torch.randn(part.shape, generator=stream(0, "slope", number)) for part in first.tensors()))
        state.update(Outcome(0.5, slope), usable=number not in skipped)
        seen += [] if number in skipped else [state.learned.images.clone()]
        expected = torch.stack(seen).mean(0) if seen else first.images
        torch.testing.assert_close(state.result.images, expected)
        state.save(tmp_path / "state")
        state = State(first, plan, (), Formation(8, 8))
        state.load(tmp_path / "state")


def test_before_anything_is_averaged_the_result_is_the_set_as_it_is(first, matching):
    plan = replace(PLAN, warm_up=4, iterations=2, averaging=0.999)
    averaged, plain = [], []
    distill(first, matching, plan, SEED, look=lambda done, shown: averaged.append(shown.images.clone()))
    distill(
        first, matching, replace(plan, averaging=0.0), SEED, look=lambda _, shown: plain.append(shown.images.clone())
    )
    assert all(torch.equal(one, other) for one, other in zip(averaged[:6], plain[:6], strict=True))
    assert not torch.equal(averaged[4], first.images)
    assert not torch.equal(averaged[-1], plain[-1])


def test_the_end_of_progressive_segments_moves_on(first, matching, monkeypatch):
    plan = replace(PLAN, warm_up=0, iterations=9, student_steps=6, segments=ProgressiveSegments(1, 6, 3, matched=0.0))
    lengths = []
    many = loop.unroll_many

    def watch(network, students, *rest, **named):
        lengths.append(len(students[0].batches))
        return many(network, students, *rest, **named)

    monkeypatch.setattr(loop, "unroll_many", watch)
    distill(first, matching, plan, SEED)
    assert lengths == [1, 1, 1, 3, 3, 3, 6, 6, 6]


@pytest.mark.parametrize(("count", "batch"), [(4, 9), (5, 2), (20, 10), (300, 256)])
def test_batches_are_those_drawn_one_after_another(count, batch):
    """To the bit: the order first, then a draw a step."""
    plan, generator = replace(PLAN, student_steps=7, batch=batch), stream(0, "batches")
    orders = (torch.randperm(count, generator=generator) if count > batch else torch.arange(count) for _ in range(7))
    parts = [rows for order in islice(orders, -(-7 // -(-count // batch))) for rows in order.split(batch)][:7]
    draws = [plan.augmentation.draw(len(rows), generator) for rows in parts]
    for one, rows, draw in zip(student_batches(count, plan, stream(0, "batches")), parts, draws, strict=True):
        assert torch.equal(one.rows, rows)
        assert all(torch.equal(part, same) for part, same in zip(one.draw.parts, draw.parts, strict=True))


@pytest.mark.parametrize(("device", "together", "expected"), [("meta", 5, 3), ("meta", 12, 1), ("cpu", 5, 12)])
def test_whether_compiling_pays_is_counted_by_launches_on_a_gpu(first, monkeypatch, device, together, expected):
    """Of 12 segments 5 go side by side: three launches a step."""
    told = []
    monkeypatch.setattr(loop, "how_many", lambda *_: together)
    monkeypatch.setattr(loop, "pays", lambda steps, *_: told.append(steps))
    there = Learned(*(tensor.to(device) for tensor in first.tensors()))
    loop._compiling_pays(NETWORK, replace(PLAN, segments_at_once=12), there)
    assert told == [PLAN.iterations * PLAN.student_steps * expected]
