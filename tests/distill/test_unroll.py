"""The gradient of a score of a student's states: by both strategies, against plain code and finite differences."""

import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from meddistill.distill.distance import normalised_l2
from meddistill.distill.unroll import STRATEGIES, Batch, Learned, unroll
from meddistill.nets.augment import Augmentation, Draw
from meddistill.nets.convnet import ConvNet
from meddistill.runtime.streams import stream

CLASSES = 3
EXACT = ("full", "adjoint")


def noise(seed, *shape, scale=1.0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=stream(seed, "noise", *shape))


def network_of(width=4, depth=1, channels=1, size=6):
    return ConvNet(width=width, depth=depth, channels=channels, size=size, classes=CLASSES)


def start_of(network, seed=0):
    """Float64 parameters whose norm scales and shifts are random too."""
    params = network.init(stream(seed, "init"))
    return tuple(p.double() + noise(seed + place, *p.shape, scale=0.1) for place, p in enumerate(params))


def learned_of(network, seed=0, count=5, step_sizes=1):
    return Learned(
        noise(seed, count, network.channels, network.size, network.size),
        noise(seed, count, CLASSES, scale=2.0),
        math.log(0.2) + noise(seed, step_sizes, scale=0.3),
    )


def draw_of(count, seed):
    draw = Augmentation().draw(count, stream(seed, "draw"))
    return Draw(draw.affine.double(), draw.brightness.double(), draw.contrast.double())


def batches_of(steps, count=5, size=3, seed=0, augment=True):
    """Rows may come twice in a batch."""
    drawn = [torch.randint(count, (size,), generator=stream(seed, "rows", step)) for step in range(steps)]
    return [Batch(rows, draw_of(size, seed + step) if augment else None) for step, rows in enumerate(drawn)]


def score_of_many(network, seed=0):
    """A score in which every asked state counts differently, and which multiplies states with one another."""
    target = start_of(network, seed + 1000)

    def score(states):
        flat = {step: torch.cat([p.flatten() for p in params]) for step, params in states.items()}
        away = torch.cat([p.flatten() for p in target])
        terms = [(1 + step) * ((one - away) ** 2).mean() for step, one in flat.items()]
        pairs = [(flat[a] * flat[b]).mean().sin() for a in flat for b in flat if a < b]
        return torch.stack(terms + pairs).sum()

    return score


def score_of_end(network, steps, seed=0):
    start, target = start_of(network, seed), start_of(network, seed + 1000)
    return lambda states: normalised_l2(states[steps], target, start)


def close(one, other, relative):
    assert one.shape == other.shape
    error, size = float((one - other).norm()), float(other.norm())
    assert error <= relative * size + 1e-13, f"relative error {error / max(size, 1e-300):.1e}"


@st.composite
def problems(draw):
    depth = draw(st.integers(1, 2))
    network = network_of(draw(st.integers(2, 6)), depth, draw(st.sampled_from([1, 3])), draw(st.integers(4, 8)))
    steps, seed = draw(st.integers(1, 5)), draw(st.integers(0, 10**6))
    learned = learned_of(network, seed, count=5, step_sizes=draw(st.sampled_from([1, steps])))
    batches = batches_of(steps, 5, draw(st.integers(1, 6)), seed, augment=draw(st.booleans()))
    at = draw(st.none() | st.sets(st.integers(0, steps), min_size=1))
    return network, learned, batches, at, seed


@settings(max_examples=400)
@given(problems())
def test_adjoint_and_full_are_the_same_gradient(problem):
    network, learned, batches, at, seed = problem
    start, score = start_of(network, seed), score_of_many(network, seed)
    full, adjoint = (unroll(network, start, learned, batches, score, at=at, strategy=s) for s in ("full", "adjoint"))
    assert adjoint.score == pytest.approx(full.score, rel=1e-12)
    for one, other in zip(adjoint.gradient.tensors(), full.gradient.tensors(), strict=True):
        close(one, other, 1e-9)
    if at is None or max(at) > 0:
        assert all(float(slope.abs().max()) > 0 for slope in full.gradient.tensors())


def plain_gradient(network, start, learned, batches, score, at):
    """The same by torch's own modules and a loss written out, without any code of ours but the augmentation."""
    layers, inputs = [], network.channels
    for _ in range(network.depth):
        layers += [nn.Conv2d(inputs, network.width, 3, padding=1)]
        layers += [nn.InstanceNorm2d(network.width, affine=True), nn.ReLU(), nn.AvgPool2d(2)]
        inputs = network.width
    side = network.size // 2**network.depth
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * side * side, CLASSES))
    names = [name for name, _ in module.named_parameters()]
    images, logits, log_steps = (tensor.clone().requires_grad_() for tensor in learned.tensors())
    params = [p.clone().requires_grad_() for p in start]
    states = {0: params}
    for step, batch in enumerate(batches):
        seen = images[batch.rows] if batch.draw is None else batch.draw.apply(images[batch.rows])
        out = torch.func.functional_call(module, dict(zip(names, params, strict=True)), (seen,))
        labels = logits[batch.rows].exp() / logits[batch.rows].exp().sum(1, keepdim=True)
        loss = -(labels * F.log_softmax(out, 1)).sum() / len(batch.rows)
        slopes = torch.autograd.grad(loss, params, create_graph=True)
        size = torch.exp(log_steps[step] if len(log_steps) == len(batches) else log_steps[0])
        params = [p - size * slope for p, slope in zip(params, slopes, strict=True)]
        states[step + 1] = params
    value = score({step: states[step] for step in at})
    return float(value.detach()), torch.autograd.grad(value, (images, logits, log_steps))


@pytest.mark.parametrize("strategy", EXACT)
@pytest.mark.parametrize(("depth", "size", "step_sizes"), [(1, 6, 1), (2, 7, 4)])
def test_a_plain_implementation_agrees(strategy, depth, size, step_sizes):
    network, at = network_of(3, depth, 2, size), (1, 4)
    start, learned, batches = start_of(network), learned_of(network, step_sizes=step_sizes), batches_of(4)
    value, slopes = plain_gradient(network, start, learned, batches, score_of_many(network), at)
    outcome = unroll(network, start, learned, batches, score_of_many(network), at=at, strategy=strategy)
    assert outcome.score == pytest.approx(value, rel=1e-12)
    for one, other in zip(outcome.gradient.tensors(), slopes, strict=True):
        close(one, other, 1e-9)


@pytest.mark.parametrize("strategy", EXACT)
@pytest.mark.parametrize("step_sizes", [1, 3])
@pytest.mark.parametrize("place", [0, 1, 2], ids=["images", "label logits", "log steps"])
def test_finite_differences_agree(strategy, step_sizes, place):
    network = network_of(width=2, size=4)
    start, learned, batches = start_of(network), learned_of(network, step_sizes=step_sizes), batches_of(3)
    score = score_of_end(network, 3)
    slope = unroll(network, start, learned, batches, score, strategy=strategy).gradient.tensors()[place].flatten()

    def moved(index, by):
        tensors = [tensor.clone() for tensor in learned.tensors()]
        tensors[place].view(-1)[index] += by
        return unroll(network, start, Learned(*tensors), batches, score, strategy=strategy).score

    some = range(0, len(slope), 5 if place == 0 else 1)
    measured = torch.tensor([(moved(i, 1e-5) - moved(i, -1e-5)) / 2e-5 for i in some], dtype=torch.float64)
    assert float(measured.norm()) > 1e-4
    close(slope[list(some)], measured, 1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_start_does_not_depend_on_what_is_learned(strategy):
    network = network_of()
    score = score_of_many(network)
    outcome = unroll(network, start_of(network), learned_of(network), batches_of(3), score, at=(0,), strategy=strategy)
    assert all(not slope.any() for slope in outcome.gradient.tensors())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_asked_state_may_be_left_unused(strategy):
    network = network_of()
    arguments = (network, start_of(network), learned_of(network), batches_of(3), score_of_end(network, 3))
    alone = unroll(*arguments, strategy=strategy)
    beside = unroll(*arguments, at=(0, 1, 3), strategy=strategy)
    for one, other in zip(beside.gradient.tensors(), alone.gradient.tensors(), strict=True):
        close(one, other, 1e-12)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_rows_that_no_step_sees_get_no_gradient_and_inputs_stay_as_they_are(strategy):
    network, learned = network_of(), learned_of(network_of())
    before = [tensor.clone() for tensor in learned.tensors()]
    batches = [Batch(torch.tensor([0, 3]), draw_of(2, step)) for step in range(3)]
    gradient = unroll(
        network, start_of(network), learned, batches, score_of_end(network, 3), strategy=strategy
    ).gradient
    for slope in (gradient.images, gradient.label_logits):
        assert slope[[0, 3]].flatten(1).norm(dim=1).gt(0).all()
        assert not slope[[1, 2, 4]].any()
    assert all(torch.equal(one, other) for one, other in zip(learned.tensors(), before, strict=True))
    assert not any(tensor.requires_grad for tensor in learned.tensors() + gradient.tensors())


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("at", [(), (-1,), (4,), (0, 3, 4)])
def test_steps_outside_the_unroll_are_refused(strategy, at):
    network = network_of()
    with pytest.raises(ValueError, match="0 to 3"):
        unroll(
            network,
            start_of(network),
            learned_of(network),
            batches_of(3),
            score_of_many(network),
            at=at,
            strategy=strategy,
        )


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("step_sizes", [0, 2, 4])
def test_a_wrong_number_of_step_sizes_is_refused(strategy, step_sizes):
    network = network_of()
    learned = learned_of(network, step_sizes=step_sizes)
    with pytest.raises(ValueError, match=f"{step_sizes} step sizes for 3 steps"):
        unroll(network, start_of(network), learned, batches_of(3), score_of_end(network, 3), strategy=strategy)


class Saved:
    """One tensor that a graph keeps."""

    def __init__(self, tensor):
        self.tensor = tensor


def peak_of_saved_bytes(strategy, steps):
    """The most bytes that live graphs hold at once, as autograd reports what it saves and drops."""
    live = peak = 0

    def drop(size):
        nonlocal live
        live -= size

    def pack(tensor):
        nonlocal live, peak
        held, size = Saved(tensor), tensor.numel() * tensor.element_size()
        weakref.finalize(held, drop, size)
        live += size
        peak = max(peak, live)
        return held

    network = network_of(width=4, depth=2, size=8)
    arguments = (network, start_of(network), learned_of(network), batches_of(steps), score_of_end(network, steps))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        unroll(*arguments, strategy=strategy)
    assert peak > 0
    return peak


def test_adjoint_keeps_one_step_and_full_keeps_all():
    assert peak_of_saved_bytes("adjoint", 12) <= 1.2 * peak_of_saved_bytes("adjoint", 3)
    assert peak_of_saved_bytes("full", 12) > 3 * peak_of_saved_bytes("full", 3)
