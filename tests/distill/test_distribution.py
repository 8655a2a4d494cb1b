"""Matching of feature means: its gradient in float64, what it tells apart, and what it does in the loop's warm-up."""

import json
import math
from dataclasses import fields, replace
from statistics import fmean

import pytest
import torch

from meddistill.distill.labels import class_of_each, first_logits
from meddistill.distill.loop import Matching, distill
from meddistill.distill.loop_plan import LoopPlan
from meddistill.distill.matching.distribution import match_features
from meddistill.distill.segments import RandomSegments
from meddistill.distill.unroll import Learned
from meddistill.nets.augment import Augmentation
from meddistill.runtime.events import EventLog
from meddistill.runtime.streams import stream
from meddistill.teachers.images import LabelledImages

PLAN = LoopPlan(
    iterations=0,
    student_steps=3,
    batch=4,
    segments=RandomSegments(length=2, latest_start=6),
    segments_at_once=2,
    optimiser="sgd",
    image_rate=1.0,
    label_rate=1.0,
    step_rate=1.0,
    decay=True,
    learn_labels=True,
    strategy="adjoint",
    augmentation=Augmentation(flip=0),  # a flip would turn one class into the other
    warm_up=40,
)


def noise_of(count=3, step_size=0.1):
    labels = class_of_each(2, count)
    made = torch.randn(len(labels), 1, 8, 8, generator=stream(0, "made"))
    return Learned(made, first_logits(labels, 2, "learned"), torch.tensor([math.log(step_size)]))


def events_in(log):
    """What iterations told, without the first line, which says how segments are unrolled."""
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["event"] == "memory" for event in told].index(True) == 0
    return told[1:]


class Float64Images(LabelledImages):
    """The same images at the precision that finite differences need."""

    def inputs(self, rows):
        return super().inputs(rows).double()


def test_the_gradient_is_that_of_finite_differences(images, network):
    params = tuple(param.double() for param in network.init(stream(0, "init")))
    real = Float64Images(*(getattr(images, field.name) for field in fields(images)))
    learned = Learned(*(tensor.double() for tensor in noise_of().tensors()))

    def outcome(made):
        at = replace(learned, images=made)
        return match_features(network, params, at, real, Augmentation(), stream(0, "features"))

    def moved(place, by):
        made = learned.images.clone()
        made.view(-1)[place] += by
        return outcome(made).score

    gradient = outcome(learned.images).gradient
    places = list(range(0, learned.images.numel(), 7))
    measured = torch.tensor([(moved(p, 1e-6) - moved(p, -1e-6)) / 2e-6 for p in places], dtype=torch.float64)
    assert float(measured.norm()) > 1e-3
    torch.testing.assert_close(gradient.images.flatten()[places], measured, rtol=1e-5, atol=1e-7)
    assert gradient.label_logits.shape == learned.label_logits.shape
    assert not gradient.label_logits.any()
    assert not gradient.log_steps.any()


def test_images_of_the_right_class_are_near_and_those_of_the_other_far(images, network):
    made = torch.cat([images.inputs(images.rows_of(label)) for label in (0, 1)])
    labels = images.labels.sort().values
    still = Augmentation(0, 0, 0, 0, 0, 0)

    def distance(labels):
        learned = Learned(made, first_logits(labels, 2, "hard"), torch.zeros(1))
        return match_features(network, network.init(stream(0, "init")), learned, images, still, stream(0, "draw")).score

    assert distance(labels) < 0.2
    assert distance(1 - labels) > 2


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_a_warm_up_brings_the_features_near(images, network, store, tmp_path, optimiser):
    """Always by Adam at its own rate: what the plan says of rates is for the trajectories."""
    first, log = noise_of(), tmp_path / "events"
    plan = replace(PLAN, optimiser=optimiser)
    ended = distill(first, Matching(network, store, 2, images), plan, 0, events=EventLog(log))
    assert torch.equal(ended.label_logits, first.label_logits)
    assert torch.equal(ended.log_steps, first.log_steps)
    assert [event["phase"] for event in events_in(log)] == ["features"] * 40
    distances = [event["score"] for event in events_in(log)]
    assert fmean(distances[-5:]) < 0.5 * fmean(distances[:5])
    one = distill(first, Matching(network, store, 2, images), replace(plan, warm_up=1), 0)
    assert float((one.images - first.images).abs().max()) == pytest.approx(0.05, rel=1e-3)


def test_a_student_that_runs_away_with_a_finite_score_is_skipped(network, store, tmp_path):
    wild, log = noise_of(step_size=100.0), tmp_path / "events"
    plan = replace(PLAN, warm_up=0, iterations=3)
    ended = distill(wild, Matching(network, store, 2), plan, 0, events=EventLog(log))
    assert [event["event"] for event in events_in(log)] == ["skipped"] * 3
    assert all(event["score"] > 10 for event in events_in(log))
    assert all(torch.equal(a, b) for a, b in zip(ended.tensors(), wild.tensors(), strict=True))
