"""Unroll S students on one synthetic set: as many side by side as fit, each left out alone if it runs away."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from meddistill.distill.unroll.adjoint import carried_back
from meddistill.distill.unroll.graph import full
from meddistill.distill.unroll.memory import (
    countable_students,
    free_bytes,
    room_for,
    states_at_once,
    students_that_fit,
    traces_at_once,
)
from meddistill.distill.unroll.stacked import Class, add_to, stack, zeros_of
from meddistill.distill.unroll.step import step_of
from meddistill.distill.unroll.types import (
    Batch,
    Learned,
    Network,
    Outcome,
    Outcomes,
    Rule,
    Score,
    Strategy,
    Student,
    Truncated,
)
from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import Params
from meddistill.runtime.device import give_back, is_out_of_memory, rounded_convolutions
from meddistill.runtime.errors import MeddistillError


def unroll(
    network: Network,
    start: Params,
    learned: Learned,
    batches: Sequence[Batch],
    score: Score,
    *,
    at: Sequence[int] | None = None,
    strategy: Strategy = "adjoint",
    rule: Rule | None = None,
    generator: torch.Generator | None = None,
) -> Outcome:
    """Take ``len(batches)`` student steps from ``start`` and differentiate ``score`` of the states on the way.

    ``at``: the steps whose parameters the score asks for, from 0 (the start) to N (the end, the default). ``score`` is
    called with a mapping from those steps to parameters, and must return a scalar tensor. ``rule`` says more than a
    strategy and replaces it. ``generator`` draws the steps of a random truncation.
    """
    rule = rule or Rule(strategy)
    wanted = _checked([Student(start, batches, score)], learned, at)
    through = _through(rule.strategy, max(wanted), generator)
    values, gradient = _compute(network, [Student(start, batches, score)], learned, wanted, rule, through)
    return Outcome(float(values), gradient)


def unroll_many(
    network: Network,
    students: Sequence[Student],
    learned: Learned,
    *,
    at: Sequence[int] | None = None,
    rule: Rule | None = None,
    generator: torch.Generator | None = None,
    highest: float = math.inf,
    together: int | None = None,
) -> Outcomes:
    """The gradient of the mean score of S students, of one number of steps N and one batch size in each step.

    A student whose score is not finite or above ``highest``, or whose gradient is not finite, is left out of the mean.
    ``together``: how many go side by side; by default one on a CPU, where more need memory and gain nothing, and on a
    GPU what its free memory holds. When memory runs out after all, half as many go on; how many did in the end is in
    :attr:`Outcomes.together`. Raises :class:`MeddistillError` when it does not suffice for one.
    """
    rule = rule or Rule()
    wanted = _checked(students, learned, at)
    batch = max((len(batch.rows) for batch in students[0].batches), default=0)
    device = learned.images.device
    size = together or how_many(network, rule, batch, max(wanted), len(students), device, len(wanted))
    total, scores, used = zeros_of(learned), list[float](), list[bool]()
    through = _through(rule.strategy, max(wanted), generator)
    while len(scores) < len(students):
        group = students[len(scores) : len(scores) + size]
        try:
            part = _usable(network, group, learned, wanted, rule, through, highest)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            part = None
        if part is None:  # halved out here, where the error no longer holds on to the tensors of its frames
            size = _halved(size, learned, rule)
            continue
        add_to(total, part.gradient)
        scores += part.scores
        used += part.used
    count = sum(used)
    mean = (slope / count if count else torch.full_like(slope, math.nan) for slope in total.tensors())
    return Outcomes(tuple(scores), tuple(used), Learned(*mean), size)


def _checked(students: Sequence[Student], learned: Learned, at: Sequence[int] | None) -> frozenset[int]:
    """The steps asked for, once they and the step sizes fit the students."""
    lengths = {len(student.batches) for student in students}
    if len(lengths) != 1:
        raise ValueError(f"students must take the same number of steps, not {sorted(lengths)}")
    steps = lengths.pop()
    wanted = frozenset((steps,) if at is None else at)
    if not wanted or min(wanted) < 0 or max(wanted) > steps:
        raise ValueError(f"a score may ask for the steps 0 to {steps}, not {sorted(wanted)}")
    if len(learned.log_steps) not in (1, steps):
        raise ValueError(f"{len(learned.log_steps)} step sizes for {steps} steps: expected one, or one per step")
    return wanted


def _through(strategy: Strategy, steps: int, generator: torch.Generator | None) -> frozenset[int]:
    """The steps whose slopes are not constants."""
    return strategy.chosen(steps, generator) if isinstance(strategy, Truncated) else frozenset(range(steps))


def _compute(
    network: Network,
    students: Sequence[Student],
    learned: Learned,
    wanted: frozenset[int],
    rule: Rule,
    through: frozenset[int],
) -> tuple[Tensor, Learned]:
    """The scores ``(S,)`` of students and the gradient of their sum; steps after the last score are not taken."""
    side_by_side = stack(students, max(wanted), learned.images.device)
    with rounded_convolutions() if rule.precision == "bfloat16" else contextlib.nullcontext():
        return _differentiated(network, side_by_side, learned, wanted, rule, through)


def _differentiated(
    network: Network,
    side_by_side: Class,
    learned: Learned,
    wanted: frozenset[int],
    rule: Rule,
    through: frozenset[int],
) -> tuple[Tensor, Learned]:
    if rule.strategy == "full":
        return full(network, side_by_side, learned, wanted, rule)
    batch = max((len(seen.rows) // seen.students for seen in side_by_side.steps), default=0)
    states, traces = max(wanted), 0
    if isinstance(network, ConvNet):
        states = states_at_once(network, batch)
        traces = traces_at_once(network, rule, batch * len(side_by_side.scores), learned.images.device)
    return carried_back(
        network,
        side_by_side,
        learned,
        wanted,
        rule,
        through=through,
        hessian=rule.strategy != "two-pass",
        at_once=rule.states or states,
        traces=traces,
    )


def _usable(
    network: Network,
    students: Sequence[Student],
    learned: Learned,
    wanted: frozenset[int],
    rule: Rule,
    through: frozenset[int],
    highest: float,
) -> Outcomes:
    """The gradient of the sum of scores of the students that can be used; one by one where the sum is not finite."""
    values, gradient = _compute(network, students, learned, wanted, rule, through)
    scores = tuple(values.tolist())
    good = [math.isfinite(score) and score <= highest for score in scores]
    if any(good) and not all(good):
        _, gradient = _compute(network, _stood_in(students, good), learned, wanted, rule, through)
    finite = all(bool(torch.isfinite(slope).all()) for slope in gradient.tensors())
    if any(good) and finite:
        return Outcomes(scores, tuple(good), gradient, len(students))
    total = zeros_of(learned)
    for place, student in enumerate(students if len(students) > 1 else ()):
        if not good[place]:
            continue
        alone = _usable(network, [student], learned, wanted, rule, through, highest)
        good[place] = alone.used[0]
        add_to(total, alone.gradient)
    return Outcomes(scores, tuple(good) if len(students) > 1 else (False,), total, len(students))


def _stood_in(students: Sequence[Student], good: Sequence[bool]) -> list[Student]:
    """The same number of students, so that a compiled step serves them: a good one, whose score counts nothing, in the
    place of each that ran away.
    """
    stand_in = students[good.index(True)]
    idle = replace(stand_in, score=lambda states: 0 * states[max(states)][0].sum())
    return [student if fine else idle for student, fine in zip(students, good, strict=True)]


def how_many(
    network: Network, rule: Rule, batch: int, steps: int, students: int, device: torch.device, asked: int = 1
) -> int:
    """How many students of N ``steps`` of ``batch`` images go side by side where nobody says.

    ``asked``: how many states their scores ask for.
    """
    if device.type == "cpu" or not isinstance(network, ConvNet):
        return 1
    each = room_for(network, rule, batch, steps, asked, traces_at_once(network, rule, batch, device)).bytes
    most = min(students_that_fit(free_bytes(device), each, students), max(1, countable_students(network, batch)))
    return math.ceil(students / math.ceil(students / most))  # in groups as even as can be: a step has one shape


def _halved(size: int, learned: Learned, rule: Rule) -> int:
    """Half as many students at once. Raises :class:`MeddistillError` when one was too many."""
    if size == 1:
        raise MeddistillError(
            "there is not enough memory for one student: use a smaller batch, network or image size, "
            "or strategy = adjoint"
        )
    if rule.compiled and learned.images.device.type == "cuda":  # captured steps hold memory of their own
        step_of.cache_clear()
        torch.compiler.reset()
    give_back(learned.images.device)
    return size // 2
