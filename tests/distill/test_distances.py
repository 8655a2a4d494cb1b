"""Distances against their definitions, written out slowly."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meddistill.distill.distance import Adaptive, NormalisedL2, Pruned, normalised_l2
from meddistill.runtime.streams import stream

SHAPES = ((3, 2), (4,))


def params(seed, scale=1.0):
    generator = stream(seed, "params")
    return tuple(scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES)


def numbers(tensors):
    return [float(value) for tensor in tensors for value in tensor.flatten()]


def similarity(a, b):
    if a == b:
        return 1.0
    return -math.inf if a == 0 or b == 0 else min(a / b, b / a)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), threshold=st.floats(0.01, 1), noise=st.floats(0, 2))
def test_pruning_leaves_out_what_is_hard_to_match(seed, threshold, noise):
    start, target = params(seed), params(seed + 1)
    end = tuple(t + noise * n for t, n in zip(target, params(seed + 2), strict=True))
    triples = list(zip(numbers(end), numbers(target), numbers(start), strict=True))
    kept = [(e, t, s) for e, t, s in triples if similarity(e, t) >= threshold]
    found = Pruned(threshold)({7: end}, target, start)
    if not kept:
        assert math.isnan(found)
        return
    expected = sum((e - t) ** 2 for e, t, _ in kept) / sum((s - t) ** 2 for _, t, s in kept)
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_equal_parameters_stay_and_zeros_and_opposite_signs_go():
    kept = Pruned(0.1).keeps(
        torch.tensor([0.0, 0.0, 1.0, -1.0, 1.0, 0.2]), torch.tensor([0.0, 1.0, -1.0, -1.0, 9.0, 1.0])
    )
    assert kept.tolist() == [True, False, False, True, True, True]


def test_what_is_pruned_gets_no_gradient_and_the_rest_that_of_the_ratio():
    start, target = (torch.tensor([5.0, 5.0]),), (torch.tensor([1.0, 1.0]),)
    end = (torch.tensor([2.0, -3.0], requires_grad=True),)
    Pruned(0.1)({4: end}, target, start).backward()
    assert end[0].grad.tolist() == pytest.approx([2 * (2 - 1) / 16, 0])


def test_the_adaptive_distance_is_that_of_the_closest_state():
    start, target = params(0), params(1)
    ways = {
        step: tuple((1 - w) * s + w * t for s, t in zip(start, target, strict=True))
        for step, w in ((1, 0.3), (2, 0.8), (3, 0.5))
    }
    assert float(Adaptive()(ways, target, start)) == pytest.approx(0.2**2)
    variables = {step: tuple(p.clone().requires_grad_() for p in state) for step, state in ways.items()}
    Adaptive()(variables, target, start).backward()
    assert all((p.grad is not None) == (step == 2) for step, state in variables.items() for p in state)


@pytest.mark.parametrize(
    ("distance", "steps"), [(NormalisedL2(), [6]), (Pruned(), [6]), (Adaptive(), [1, 2, 3, 4, 5, 6])]
)
def test_where_a_distance_looks(distance, steps):
    assert list(distance.looks_at(6)) == steps
    start, target = params(0), params(1)
    if len(steps) == 1:
        assert float(NormalisedL2()({6: start}, target, start)) == float(normalised_l2(start, target, start)) == 1
