"""Strategies beside the exact two against their definitions, momentum, many students at once, and too little memory."""

import math
import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.distill.test_unroll import batches_of, close, learned_of, network_of, score_of_end, score_of_many, start_of
from torch.utils._python_dispatch import TorchDispatchMode

from meddistill.distill.unroll import Learned, Rule, Student, Truncated, adjoint, memory, together, unroll, unroll_many
from meddistill.distill.unroll.stacked import stack
from meddistill.distill.unroll.step import Step, Tracing
from meddistill.distill.unroll.stretches import stretches, taken_twice, untraced
from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import leaves
from meddistill.runtime.errors import MeddistillError
from meddistill.runtime.streams import stream


def defined(network, start, learned, batches, score, at, *, momentum=0.0, moving=True, through=None):
    """The gradient by its definition, one graph of all steps: what is constant is detached.

    ``moving``: whether slopes depend on the states at which they are taken. ``through``: the steps whose slopes vary.
    """
    images, logits, log_steps = variables = leaves(learned.tensors())
    states, buffer = {0: leaves(start)}, [torch.zeros_like(p) for p in start]
    for step, batch in enumerate(batches):
        params = states[step] if moving else leaves(states[step])
        seen = images[batch.rows] if batch.draw is None else batch.draw.apply(images[batch.rows])
        loss = -(logits[batch.rows].softmax(1) * network.apply(params, seen).log_softmax(1)).sum(1).mean()
        slopes = torch.autograd.grad(loss, params, create_graph=True)
        if through is not None and step not in through:
            slopes = [slope.detach() for slope in slopes]
        buffer = [momentum * u + g for u, g in zip(buffer, slopes, strict=True)]
        size = log_steps[step if len(log_steps) > 1 else 0].exp()
        states[step + 1] = tuple(p - size * u for p, u in zip(states[step], buffer, strict=True))
    value = score({step: states[step] for step in at})
    return float(value.detach()), torch.autograd.grad(value, variables, materialize_grads=True)


def agree(outcome, value, slopes, relative=1e-9):
    assert outcome.score == pytest.approx(value, rel=1e-11)
    for one, other in zip(outcome.gradient.tensors(), slopes, strict=True):
        close(one, other, relative)


@st.composite
def problems(draw, students=1):
    depth = draw(st.integers(1, 2))
    network = network_of(draw(st.integers(2, 5)), depth, draw(st.sampled_from([1, 3])), draw(st.integers(4, 8)))
    steps, seed = draw(st.integers(1, 5)), draw(st.integers(0, 10**6))
    learned = learned_of(network, seed, count=5, step_sizes=draw(st.sampled_from([1, steps])))
    size, augment = draw(st.integers(1, 6)), draw(st.booleans())
    at = tuple(draw(st.sets(st.integers(0, steps), min_size=1)))
    many = [
        Student(
            start_of(network, seed + 50 * place),
            batches_of(steps, 5, size, seed + 100 * place, augment),
            score_of_many(network, seed + place),
        )
        for place in range(students)
    ]
    return network, learned, many, at, draw(st.sampled_from([0.0, 0.5, 0.9])), seed


@settings(max_examples=60)
@given(problems(), st.sampled_from(["full", "adjoint"]))
def test_momentum_is_exact(problem, strategy):
    network, learned, [student], at, momentum, _ = problem
    arguments = (network, student.start, learned, student.batches, student.score)
    agree(
        unroll(*arguments, at=at, rule=Rule(strategy, momentum)),
        *defined(*arguments, at, momentum=momentum),
    )


@pytest.mark.parametrize("strategy", ["full", "adjoint"])
def test_group_norm_has_its_own_slopes(strategy):
    """The curvature by hand is that of instance norm: a network with group norm must not get it."""
    network = ConvNet(4, 2, 1, 8, 3, "group")
    arguments = (network, start_of(network, 5), learned_of(network), batches_of(3), score_of_end(network, 3, 5))
    agree(unroll(*arguments, at=(3,), rule=Rule(strategy)), *defined(*arguments, (3,)))


@settings(max_examples=60)
@given(problems())
def test_two_pass_takes_the_states_of_slopes_as_constants(problem):
    network, learned, [student], at, momentum, _ = problem
    arguments = (network, student.start, learned, student.batches, student.score)
    agree(
        unroll(*arguments, at=at, rule=Rule("two-pass", momentum)),
        *defined(*arguments, at, momentum=momentum, moving=False),
    )


@settings(max_examples=60)
@given(problems(students=2), st.sampled_from(["adjoint", "two-pass", Truncated(2)]), st.integers(1, 6))
def test_states_that_are_computed_twice_change_no_byte(problem, strategy, kept):
    network, learned, students, at, momentum, _ = problem
    few, all_ = (
        unroll_many(network, students, learned, at=at, rule=Rule(strategy, momentum, states=states), together=2)
        for states in (kept, 99)
    )
    assert few.scores == all_.scores
    for one, other in zip(few.gradient.tensors(), all_.gradient.tensors(), strict=True):
        assert torch.equal(one, other)


@settings(max_examples=60)
@given(
    problems(students=2), st.sampled_from(["adjoint", "two-pass", Truncated(2)]), st.integers(1, 6), st.integers(1, 9)
)
def test_traces_that_are_kept_change_no_byte(problem, strategy, kept, traces):
    network, learned, students, at, momentum, _ = problem
    some, none = (
        unroll_many(
            network, students, learned, at=at, rule=Rule(strategy, momentum, states=kept, traces=count), together=2
        )
        for count in (traces, 0)
    )
    assert some.scores == none.scores
    for one, other in zip(some.gradient.tensors(), none.gradient.tensors(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("kept", [1, 6, 20])
@pytest.mark.parametrize("traces", [0, 1, 4, 99])
def test_so_many_traces_are_there_at_once_and_every_one_is_used(monkeypatch, momentum, kept, traces):
    network, steps = network_of(2), 15
    arguments = (network, start_of(network), learned_of(network), batches_of(steps, augment=False))
    left, most, used, step_of = [], [0], [0], adjoint.step_of

    def watched(*rest):
        by = step_of(*rest)

        def leaving(*step):
            found = by.tracing.slopes(*step)
            left.append(weakref.ref(found[1].flat))
            most[0] = max(most[0], sum(one() is not None for one in left))
            return found

        def using(*step):
            used[0] += 1
            return by.tracing.curvature(*step)

        return replace(by, tracing=Tracing(leaving, using))

    monkeypatch.setattr(adjoint, "step_of", watched)
    unroll(*arguments, score_of_end(network, steps, 5), rule=Rule("adjoint", momentum, states=kept, traces=traces))
    assert most[0] <= traces
    assert len(left) == used[0] == steps - untraced(stretches(steps, kept, 2 if momentum else 1), traces)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("kept", [1, 99])
@pytest.mark.parametrize("at", [range(9), (0, 2, 5, 8)])
@pytest.mark.parametrize("chosen", [0, 2, 5, 8])
def test_the_way_back_begins_where_the_score_depends_on_a_state(monkeypatch, momentum, kept, at, chosen):
    """Whatever else it asked for; with the exact gradient, and no step twice whose state it asked for."""
    network, at = network_of(2), tuple(at)
    end, taken = score_of_end(network, chosen, 5), {"slopes": 0, "curvature": 0}
    arguments = (network, start_of(network), learned_of(network, step_sizes=8), batches_of(8), end)
    expected = defined(*arguments, at, momentum=momentum)
    step_of = adjoint.step_of

    def counting(kind, function):
        def counted(*rest):
            taken[kind] += 1
            return function(*rest)

        return counted

    def watched(*rest):
        return Step(**{kind: counting(kind, getattr(step_of(*rest), kind)) for kind in taken})

    monkeypatch.setattr(adjoint, "step_of", watched)
    agree(unroll(*arguments, at=at, rule=Rule("adjoint", momentum, states=kept)), *expected)
    assert taken["curvature"] == chosen
    assert taken["slopes"] == 8 if len(at) == 9 else taken["slopes"] < 16


def test_students_side_by_side_go_back_from_the_last_step_that_any_depends_on():
    network, learned = network_of(2), learned_of(network_of(2))
    students = [
        Student(start_of(network, seed), batches_of(6, seed=seed), score_of_end(network, chosen, seed))
        for seed, chosen in ((1, 2), (2, 5))
    ]
    side_by_side, alone = (unroll_many(network, students, learned, at=range(7), together=size) for size in (2, 1))
    assert side_by_side.scores == pytest.approx(alone.scores, rel=1e-11)
    for one, other in zip(side_by_side.gradient.tensors(), alone.gradient.tensors(), strict=True):
        close(one, other, 1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("kept", [1, 6, 20])
def test_few_states_are_kept_over_many_steps_and_the_gradient_is_exact(monkeypatch, momentum, kept):
    network, steps = network_of(2), 24
    arguments = (network, start_of(network), learned_of(network, step_sizes=steps), batches_of(steps, augment=False))
    score, at = score_of_many(network), (0, 9, steps)
    taken, most, next_of = [], [0], adjoint._Walk._next

    def counted(walk, state, step, **rest):
        found = next_of(walk, state, step, **rest)
        taken.append(weakref.ref(found.params[0]))
        most[0] = max(most[0], sum(one() is not None for one in taken))
        return found

    monkeypatch.setattr(adjoint._Walk, "_next", counted)
    found = unroll(*arguments, score, at=at, rule=Rule("adjoint", momentum, states=kept))
    agree(found, *defined(*arguments, score, at, momentum=momentum))
    least = 9 if momentum else 7  # the smallest room in which 24 steps can be cut
    assert most[0] <= max(kept, least) + 3  # a state asked for in the middle, the one left and the one reached
    assert len(taken) < 2 * steps


@given(st.integers(0, 300), st.integers(1, 400), st.integers(1, 2))
def test_stretches_cover_all_steps_within_the_room_or_the_least_that_suffices(steps, at_once, each):
    parts = stretches(steps, at_once, each)
    assert [step for begin, end in parts for step in range(begin, end)] == list(range(steps))
    most = max((each * place + end - begin for place, (begin, end) in enumerate(parts)), default=0)
    assert most <= max(at_once, math.isqrt(2 * each * steps) + 2)
    assert taken_twice(parts) <= max(0, steps - at_once // 2)
    assert len(parts) <= 1 or steps > at_once


def test_two_pass_is_the_published_formula_with_its_factor():
    """For ‖θ_N − θ*‖² / Z, the published gradient of step i's images is −2β/Z ∂(g_i · (θ_N − θ*))/∂X."""
    network = network_of()
    start, learned, batches = start_of(network), learned_of(network), batches_of(4, augment=False)
    found = unroll(network, start, learned, batches, score_of_end(network, 4), strategy="two-pass").gradient.images
    target, beta, params = start_of(network, 1000), float(learned.step_size(0)), start
    states = []
    for batch in batches:
        variables, seen = leaves(params), learned.images[batch.rows].requires_grad_()
        loss = torch.nn.functional.cross_entropy(
            network.apply(variables, seen), learned.label_logits[batch.rows].softmax(1)
        )
        slopes = torch.autograd.grad(loss, variables, create_graph=True)
        states.append((batch.rows, seen, slopes))
        params = tuple((p - beta * g).detach() for p, g in zip(variables, slopes, strict=True))
    away = [p - t for p, t in zip(params, target, strict=True)]
    scale = sum(float(((s - t) ** 2).sum()) for s, t in zip(start, target, strict=True))
    expected = torch.zeros_like(found)
    for rows, seen, slopes in states:
        product = sum((g * a).sum() for g, a in zip(slopes, away, strict=True))
        expected.index_add_(0, rows, torch.autograd.grad(product, seen)[0], alpha=-2 * beta / scale)
    close(found, expected, 1e-9)


@settings(max_examples=60)
@given(problems(), st.integers(1, 6), st.sampled_from(["last", "random"]))
def test_truncated_takes_the_slopes_of_other_steps_as_constants(problem, kept, which):
    network, learned, [student], at, momentum, seed = problem
    arguments = (network, student.start, learned, student.batches, student.score)
    rule = Rule(Truncated(kept, which), momentum)
    through = rule.strategy.chosen(max(at), stream(seed, "truncated"))
    assert len(through) == min(kept, max(at))
    outcome = unroll(*arguments, at=at, rule=rule, generator=stream(seed, "truncated"))
    agree(outcome, *defined(*arguments, at, momentum=momentum, through=through))


def test_truncation_to_all_steps_is_exact_and_to_the_last_is_the_last():
    network = network_of()
    arguments = (network, start_of(network), learned_of(network), batches_of(4), score_of_end(network, 4))
    exact = unroll(*arguments)
    for kept in (4, 9):
        whole = unroll(*arguments, strategy=Truncated(kept))
        for one, other in zip(whole.gradient.tensors(), exact.gradient.tensors(), strict=True):
            assert torch.equal(one, other)
    assert Truncated(2).chosen(5, None) == {3, 4}
    assert Truncated(2, "random").chosen(9, stream(0, "a")) != Truncated(2, "random").chosen(9, stream(1, "a"))


def test_a_truncation_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Truncated(0)
    with pytest.raises(ValueError, match="pass one"):
        Truncated(1, "random").chosen(3, None)


@settings(max_examples=60)
@given(problems(students=3), st.sampled_from(["full", "adjoint"]), st.integers(1, 4))
def test_many_students_at_once_have_the_mean_gradient_of_each_alone(problem, strategy, size):
    network, learned, students, at, momentum, _ = problem
    found = unroll_many(network, students, learned, at=at, rule=Rule(strategy, momentum), together=size)
    alone = [
        unroll(network, s.start, learned, s.batches, s.score, at=at, rule=Rule("full", momentum)) for s in students
    ]
    assert found.used == (True,) * 3
    assert found.scores == pytest.approx([outcome.score for outcome in alone], rel=1e-11)
    for place, slope in enumerate(found.gradient.tensors()):
        close(slope, torch.stack([outcome.gradient.tensors()[place] for outcome in alone]).mean(0), 1e-9)


def class_of(count=4, steps=3):
    network = network_of()
    students = [
        Student(start_of(network, 10 * p), batches_of(steps, seed=p), score_of_end(network, steps, 10 * p))
        for p in range(count)
    ]
    return network, students, learned_of(network)


@pytest.mark.parametrize("strategy", ["full", "adjoint", "two-pass", Truncated(2), Truncated(2, "random")])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_student_that_is_not_finite_is_left_out_alone(strategy, value, size):
    network, students, learned = class_of()
    bad = tuple(torch.full_like(p, value) for p in students[2].start)
    spoiled = [*students[:2], Student(bad, students[2].batches, students[2].score), students[3]]
    rule, rest = Rule(strategy), [students[0], students[1], students[3]]
    found = unroll_many(network, spoiled, learned, rule=rule, generator=stream(0, "t"), together=size)
    expected = unroll_many(network, rest, learned, rule=rule, generator=stream(0, "t"), together=1)
    assert found.used == (True, True, False, True)
    assert found.score == pytest.approx(expected.score)
    for one, other in zip(found.gradient.tensors(), expected.gradient.tensors(), strict=True):
        close(one, other, 1e-9)


@pytest.mark.parametrize("size", [1, 4])
def test_students_above_the_limit_are_left_out_and_their_scores_told(size):
    network, students, learned = class_of()
    scores = unroll_many(network, students, learned).scores
    limit = sorted(scores)[1]
    found = unroll_many(network, students, learned, highest=limit, together=size)
    assert found.scores == pytest.approx(scores)
    assert found.used == tuple(score <= limit for score in scores)
    kept = [student for student, used in zip(students, found.used, strict=True) if used]
    expected = unroll_many(network, kept, learned, together=1)
    for one, other in zip(found.gradient.tensors(), expected.gradient.tensors(), strict=True):
        close(one, other, 1e-9)
    none = unroll_many(network, students, learned, highest=-1.0, together=size)
    assert none.used == (False,) * 4
    assert none.score == pytest.approx(sum(scores) / 4)
    assert all(bool(slope.isnan().all()) for slope in none.gradient.tensors())


def test_students_that_ran_away_cost_one_more_unroll_and_steps_of_the_same_shape(monkeypatch):
    """So that a compiled step serves it."""
    network, students, learned = class_of()
    spoiled = [Student(tuple(p * math.inf for p in s.start), s.batches, s.score) for s in students[:2]]
    sizes = []

    def seen(group, count, device):
        sizes.append(len(group))
        return stack(group, count, device)

    monkeypatch.setattr(together, "stack", seen)
    assert unroll_many(network, [*spoiled, *students[2:]], learned, together=4).used == (False, False, True, True)
    assert sizes == [4, 4]


def test_a_score_that_is_finite_with_a_gradient_that_is_not_is_left_out():
    network, students, learned = class_of(3)

    def edge(states):
        return (states[3][0] - states[3][0].detach()).abs().sum().sqrt()  # 0, with an infinite slope

    spoiled = [students[0], Student(students[1].start, students[1].batches, edge), students[2]]
    found = unroll_many(network, spoiled, learned, together=3)
    assert found.used == (True, False, True)
    assert all(bool(slope.isfinite().all()) for slope in found.gradient.tensors())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.AcceleratorError("CUDA error: out of memory"),
    ],
)
def test_no_memory_is_answered_by_fewer_at_once(monkeypatch, error):
    network, students, learned = class_of()
    expected, sizes = unroll_many(network, students, learned, together=1), []

    def failing(group, count, device):
        sizes.append(len(group))
        if len(group) > 1:
            raise error
        return stack(group, count, device)

    monkeypatch.setattr(together, "stack", failing)
    found = unroll_many(network, students, learned, together=4)
    assert sizes == [4, 2, 1, 1, 1, 1]
    assert found.together == 1
    for one, other in zip(found.gradient.tensors(), expected.gradient.tensors(), strict=True):
        assert torch.equal(one, other)


def test_too_little_memory_for_one_student_ends_with_advice(monkeypatch):
    network, students, learned = class_of()

    def failing(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(together, "stack", failing)
    with pytest.raises(MeddistillError, match="not enough memory for one student: use a smaller batch"):
        unroll_many(network, students, learned, together=2)


def test_other_errors_are_not_taken_for_missing_memory(monkeypatch):
    network, students, learned = class_of()

    def failing(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(together, "stack", failing)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        unroll_many(network, students, learned, together=2)


@pytest.mark.parametrize(("free", "expected"), [(0, 1), (100, 1), (1000, 8), (10**9, 50)])
def test_how_many_students_fit(free, expected):
    assert memory.students_that_fit(free, 100, 50) == expected


def test_a_gpu_takes_students_in_even_groups_of_maps_that_it_can_count(monkeypatch):
    """One shape for the compiler, and no map of more numbers than a kernel's index counts."""
    network, gpu = ConvNet(128, 5, 3, 112, 4), torch.device("cuda")
    each = memory.room_for(network, Rule(), 10, 80).bytes
    monkeypatch.setattr(together, "free_bytes", lambda device: int(8.5 * each / 0.8))
    assert [together.how_many(network, Rule(), 10, 80, count, gpu) for count in (1, 8, 9, 10, 17)] == [1, 8, 5, 5, 6]
    traced = memory.room_for(network, Rule(traces=10), 10, 80, traces=10).bytes
    assert together.how_many(network, Rule(traces=10), 10, 80, 8, gpu) == int(8.5 * each / traced)
    monkeypatch.setattr(together, "free_bytes", lambda device: 2**50)
    most = together.how_many(network, Rule(), 10, 80, 10_000, gpu)
    assert 120 < most <= (2**31 - 1) / (10 * 128 * 112**2)


def test_the_adjoint_is_counted_to_need_little_more_for_many_steps_and_full_a_graph_a_step():
    network = ConvNet(128, 3, 1, 28, 2)
    short, longer, long = (memory.room_for(network, Rule(), 10, steps) for steps in (9, 10, 80))
    assert longer.bytes - short.bytes == 4 * network.parameters
    assert longer.bytes < long.bytes <= 1.2 * longer.bytes
    assert (longer.taken_twice, longer.states) == (0, 10)
    assert 0 < long.taken_twice < 80
    every = memory.room_for(network, Rule(), 10, 80, asked=80)  # 79 states more than one, and their cotangents
    assert (every.states, every.taken_twice) == (80, 0)
    assert every.bytes - long.bytes == 4 * network.parameters * (80 - long.states + 79)
    graphs = [memory.room_for(network, Rule("full"), 10, steps).bytes for steps in (10, 11)]
    assert graphs[1] - graphs[0] > 10 * (longer.bytes - short.bytes)
    assert memory.free_bytes(torch.device("cpu")) > 0


def test_traces_are_counted_and_their_number_follows_from_the_memory_that_is_free(monkeypatch):
    network, cpu = ConvNet(128, 3, 1, 28, 2), torch.device("cpu")
    none, some = (memory.room_for(network, Rule(), 10, 80, traces=count) for count in (0, 10))
    assert (none.traces, none.untraced, some.traces) == (0, 80, 10)
    assert 0 < some.untraced < 80
    assert some.bytes - none.bytes == 10 * 4 * 10 * 5 * 128 * (28**2 + 14**2 + 7**2)
    assert some.bytes <= 1.2 * memory.room_for(network, Rule(), 10, 10, traces=10).bytes
    for free, expected in ((0, 0), (2**30, 5), (2**40, 10)):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        assert memory.traces_at_once(network, Rule(), 10, cpu) == expected
    assert memory.traces_at_once(network, Rule(), 10000, cpu) == 0  # one takes more than they may
    assert memory.traces_at_once(network, Rule(traces=3), 10, cpu) == 3
    for rule, expected in ((Rule(), 0), (Rule(traces=3), 3), (Rule(traces=3, compiled=True), 0)):
        assert memory.traces_at_once(network, rule, 10, torch.device("cuda")) == expected
    for other in (Rule("full", traces=3), Rule(traces=3)):
        named = ConvNet(128, 3, 1, 28, 2, norm="group") if other.strategy != "full" else network
        assert memory.traces_at_once(named, other, 10, cpu) == 0


def test_students_that_do_not_fit_side_by_side_are_refused():
    network, students, learned = class_of()
    shorter = Student(students[1].start, students[1].batches[:2], students[1].score)
    with pytest.raises(ValueError, match=r"the same number of steps, not \[2, 3\]"):
        unroll_many(network, [students[0], shorter], learned)
    smaller = Student(students[1].start, batches_of(3, size=2), students[1].score)
    with pytest.raises(ValueError, match=r"one size in a step, not of \[2, 3\]"):
        unroll_many(network, [students[0], smaller], learned, together=2)
    bare = Student(students[1].start, batches_of(3, augment=False), students[1].score)
    with pytest.raises(ValueError, match="all or none"):
        unroll_many(network, [students[0], bare], learned, together=2)


def test_half_precision_points_the_same_way():
    network = network_of(16, 2, 1, 16)
    start = tuple(p.float() for p in start_of(network))
    learned = Learned(*(tensor.float() for tensor in learned_of(network).tensors()))
    target = tuple(p.float() for p in start_of(network, 1000))

    def score(states):
        return sum(((p - t) ** 2).sum() for p, t in zip(states[4], target, strict=True))

    batches = batches_of(4, size=5)
    one, half = (unroll(network, start, learned, batches, score, rule=Rule(precision=p)) for p in ("full", "bfloat16"))
    assert all(slope.dtype == torch.float32 for slope in half.gradient.tensors())
    pair = (one.gradient.images.flatten(), half.gradient.images.flatten())
    assert 0.99 < float(torch.cosine_similarity(*pair, dim=0)) < 0.9999999


class Copies(TorchDispatchMode):
    """Counts the copies to another device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._to_copy.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("steps", [1, 5])
def test_batches_go_to_a_device_in_four_copies_however_many_steps_there_are(steps):
    starts = [tuple(torch.zeros(2, 3, device="meta") for _ in range(2)) for _ in range(3)]
    students = [Student(start, batches_of(steps, 5, 4, seed), None) for seed, start in enumerate(starts)]
    with Copies() as copies:
        there = stack(students, steps, torch.device("meta"))
    assert copies.count == 4
    for found, expected in zip(there.steps, stack(students, steps, torch.device("cpu")).steps, strict=True):
        assert found.students == 3
        for one, other in zip((found.rows, *found.draw.parts), (expected.rows, *expected.draw.parts), strict=True):
            assert (one.shape, one.dtype, one.device.type) == (other.shape, other.dtype, "meta")


def test_steps_without_augmentation_stay_without_it_on_a_device():
    seen = [*batches_of(2), *batches_of(1, augment=False), *batches_of(1)]
    there = stack([Student((), seen, None)], 4, torch.device("meta"))
    assert [step.draw is None for step in there.steps] == [False, False, True, False]
