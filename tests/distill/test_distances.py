"""Distances against their definitions, written out slowly."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from meddistill.distill.distance import (
    Adaptive,
    NormalisedL2,
    Pruned,
    Remembering,
    SelfPaced,
    Way,
    Weighted,
    normalised_l2,
    shape_distance,
)
from meddistill.runtime.streams import stream

SHAPES = ((3, 2), (4,))
LEAST_KEPT = 1e-6  # of a segment's squared length; where what counts holds less, every parameter does


def params(seed, scale=1.0):
    generator = stream(seed, "params")
    return tuple(scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES)


def numbers(tensors):
    return [float(value) for tensor in tensors for value in tensor.flatten()]


def way(start, target, middle=None, **rest):
    return Way(start, target if middle is None else middle, target, **rest)


def similarity(a, b):
    if a == b:
        return 1.0
    return -math.inf if a == 0 or b == 0 else min(a / b, b / a)


@given(seed=st.integers(0, 2**32), threshold=st.floats(0.01, 1), noise=st.floats(0, 2))
def test_pruning_leaves_out_what_is_hard_to_match(seed, threshold, noise):
    start, target = params(seed), params(seed + 1)
    end = tuple(t + noise * n for t, n in zip(target, params(seed + 2), strict=True))
    triples = list(zip(numbers(end), numbers(target), numbers(start), strict=True))
    kept = [(e, t, s) for e, t, s in triples if similarity(e, t) >= threshold]
    found = Pruned(threshold)({7: end}, way(start, target))
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
    Pruned(0.1)({4: end}, way(start, target)).backward()
    assert end[0].grad.tolist() == pytest.approx([2 * (2 - 1) / 16, 0])


def test_the_adaptive_distance_is_that_of_the_closest_state():
    start, target = params(0), params(1)
    states = {
        step: tuple((1 - w) * s + w * t for s, t in zip(start, target, strict=True))
        for step, w in ((1, 0.3), (2, 0.8), (3, 0.5))
    }
    assert float(Adaptive()(states, way(start, target))) == pytest.approx(0.2**2)
    variables = {step: tuple(p.clone().requires_grad_() for p in state) for step, state in states.items()}
    Adaptive()(variables, way(start, target)).backward()
    assert all((p.grad is not None) == (step == 2) for step, state in variables.items() for p in state)


@pytest.mark.parametrize(
    ("distance", "steps"),
    [
        (NormalisedL2(), [6]),
        (Pruned(), [6]),
        (Adaptive(), [1, 2, 3, 4, 5, 6]),
        (Weighted(), [6]),
        (SelfPaced(), [3, 6]),
    ],
)
def test_where_a_distance_looks(distance, steps):
    assert list(distance.looks_at(6)) == steps
    start, target = params(0), params(1)
    assert float(NormalisedL2()({6: start}, way(start, target))) == float(normalised_l2(start, target, start)) == 1


def test_only_some_distances_remember():
    assert [isinstance(one(), Remembering) for one in (NormalisedL2, Pruned, Adaptive, Weighted, SelfPaced)] == [
        False,
        False,
        False,
        True,
        True,
    ]


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_weights_count_in_student_and_normaliser_and_their_slope_is_that_of_the_ratio(seed):
    start, target, end, omega = (params(seed + place) for place in range(4))
    rows = list(zip(*(numbers(tensors) for tensors in (end, target, start, omega)), strict=True))
    weights = [2 / (1 + math.exp(-o)) for *_, o in rows]
    above = sum(w * (e - t) ** 2 for w, (e, t, _, _) in zip(weights, rows, strict=True))
    below = sum(w * (s - t) ** 2 for w, (_, t, s, _) in zip(weights, rows, strict=True))
    seen = way(start, target, memory=omega)
    assert float(Weighted()({5: end}, seen)) == pytest.approx(above / below)
    slopes = [
        w * (1 - w / 2) * ((e - t) ** 2 * below - (s - t) ** 2 * above) / below**2
        for w, (e, t, s, _) in zip(weights, rows, strict=True)
    ]
    assert numbers(Weighted().noted({5: end}, seen)) == pytest.approx(slopes)


def test_without_a_weighted_normaliser_no_weight_can_grow():
    """The source's formula, from which the method deviates."""
    start, target, end, omega = (params(place) for place in range(4))
    seen, plain = way(start, target, memory=omega), Weighted(weighs_normaliser=False)
    rows = list(zip(*(numbers(tensors) for tensors in (end, target, start, omega)), strict=True))
    above = sum(2 / (1 + math.exp(-o)) * (e - t) ** 2 for e, t, _, o in rows)
    assert float(plain({5: end}, seen)) == pytest.approx(above / sum((s - t) ** 2 for _, t, s, _ in rows))
    assert min(numbers(plain.noted({5: end}, seen))) >= 0
    assert min(numbers(Weighted().noted({5: end}, seen))) < 0


def test_weights_take_one_step_along_the_mean_slope_whatever_its_size():
    memory = Weighted().first_memory(params(0))
    assert set(numbers(memory)) == {0.0}
    one, other = params(1), params(2)
    mean = [(a + b) / 2 for a, b in zip(numbers(one), numbers(other), strict=True)]
    size = math.sqrt(sum(m**2 for m in mean) / len(mean))
    for scale in (1.0, 1e-6):
        notes = [tuple(scale * n for n in note) for note in (one, other)]
        moved = Weighted(rate=0.1).remembered(memory, notes)
        assert numbers(moved) == pytest.approx([-0.1 * m / size for m in mean])
    nothing = tuple(torch.zeros_like(m) for m in memory)
    assert Weighted().remembered(memory, [nothing]) is memory


def test_a_parameter_that_is_hard_to_match_loses_weight():
    start, target, end = ((torch.tensor(v),) for v in ([0.0, 0.0], [1.0, 1.0], [0.9, 0.1]))
    distance = Weighted(rate=0.5)
    memory = distance.first_memory(start)
    before = distance({3: end}, way(start, target, memory=memory))
    memory = distance.remembered(memory, [distance.noted({3: end}, way(start, target, memory=memory))])
    assert memory[0][0] > 0 > memory[0][1]
    assert distance({3: end}, way(start, target, memory=memory)) < before


def cosine_differences(student, teacher):
    """The 27 of both ways, one after the other."""

    def cosine(points, a, b, c):
        one, other = points[b] - points[a], points[c] - points[a]
        lengths = one.norm() * other.norm()
        return float(one @ other / lengths) if lengths > 0 else 0.0

    flat = [[torch.cat([p.flatten() for p in point]) for point in points] for points in (student, teacher)]
    places = [(a, b, c) for a in range(3) for b in range(3) for c in range(3)]
    return [cosine(flat[0], *place) - cosine(flat[1], *place) for place in places]


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), standing=st.booleans())
def test_the_shape_is_that_of_27_cosines(seed, standing):
    start, middle, end, mine, last = (params(seed + place) for place in range(5))
    student = (start, start if standing else mine, last)
    differences = cosine_differences(student, (start, middle, end))
    smooth = [0.5 * d**2 if abs(d) < 1 else abs(d) - 0.5 for d in differences]
    found = shape_distance(student, (start, middle, end))
    assert float(found) == pytest.approx(sum(smooth) / 27)
    assert float(shape_distance(student, student)) == 0


def test_the_slope_of_the_shape_is_finite_where_the_student_stands_still():
    start, middle, end = (params(place) for place in range(3))
    mine = tuple(p.clone().requires_grad_() for p in start)
    shape_distance((start, mine, end), (start, middle, end)).backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in mine)


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32), share=st.floats(0, 0.999), known=st.booleans(), noise=st.floats(0.01, 1))
@example(seed=18345473, share=0.0, known=False, noise=1.0)  # what counts hardly moves, so that every parameter does
def test_parameters_count_once_they_were_easy(seed, share, known, noise):
    distance = SelfPaced(threshold=0.02, growth=1.3, growths=10, shape_weight=0.7)
    start, middle, target, mine = (params(seed + place) for place in range(4))
    end = tuple(t + noise * n for t, n in zip(target, params(seed + 9), strict=True))
    before = tuple((p > 0.5) & known for p in params(seed + 10))
    seen = way(start, target, middle, share=share, memory=before)
    states = {2: mine, 4: end}

    rows = list(zip(*(numbers(tensors) for tensors in (end, target, start, before)), strict=True))
    mean = sum((s - t) ** 2 for _, t, s, _ in rows) / len(rows)
    highest = 0.02 * 1.3 ** int(10 * share) * mean
    counts = [bool(b) or (e - t) ** 2 < highest for e, t, _, b in rows]
    assert [bool(value) for value in numbers(distance.noted(states, seen))] == counts
    kept = [row for row, yes in zip(rows, counts, strict=True) if yes]
    if sum((s - t) ** 2 for _, t, s, _ in kept) <= LEAST_KEPT * mean * len(rows):
        kept = rows
    easy = sum((e - t) ** 2 for e, t, *_ in kept) / sum((s - t) ** 2 for _, t, s, _ in kept)
    shape = float(shape_distance((start, mine, end), (start, middle, target)))
    assert float(distance(states, seen)) == pytest.approx(easy + 0.7 * shape)


def test_what_counts_for_one_student_counts_for_all_from_then_on():
    distance, start = SelfPaced(), (torch.zeros(4),)
    nothing = distance.first_memory(start)
    assert nothing[0].tolist() == [False] * 4
    notes = [(torch.tensor([True, False, False, False]),), (torch.tensor([False, True, False, False]),)]
    memory = distance.remembered(nothing, notes)
    assert memory[0].tolist() == [True, True, False, False]
    assert distance.remembered(memory, [])[0].tolist() == [True, True, False, False]


def test_parameters_that_never_move_do_not_count_alone():
    start, target, end = ((torch.tensor(v),) for v in ([0.0, 1.0], [1e-9, 2.0], [1e-8, 1.5]))
    seen = way(start, target, memory=SelfPaced().first_memory(start))
    found = SelfPaced(shape_weight=0.0)({2: end, 4: end}, seen)
    assert float(found) == pytest.approx(float(normalised_l2(end, target, start)))


class Readings(TorchDispatchMode):
    """Counts the numbers that are read from tensors one by one; a GPU is waited for at each."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("distance", "steps"), [(Adaptive(), range(1, 41)), (SelfPaced(), (20, 40))])
def test_a_student_is_looked_at_once_however_many_steps_it_takes(monkeypatch, distance, steps):
    read, tolist = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: read.append(1) or tolist(tensor))
    start, target = (torch.zeros(4),), (torch.ones(4),)
    seen = replace(way(start, target), memory=(torch.ones(4, dtype=torch.bool),))
    with Readings() as readings:
        distance({step: (torch.full((4,), step / 40),) for step in steps}, seen)
    assert (len(read), readings.count) == (1, 0)


def test_adaptive_takes_the_first_of_the_closest_and_none_that_is_no_number():
    start, target = (torch.zeros(1),), (torch.ones(1),)
    ends = {1: 0.25, 2: 0.5, 3: 1.5, 4: float("nan"), 5: 0.125}
    states = {step: (torch.tensor([end], requires_grad=True),) for step, end in ends.items()}
    Adaptive()(states, way(start, target)).backward()
    assert [step for step, (param,) in states.items() if param.grad is not None] == [2]
