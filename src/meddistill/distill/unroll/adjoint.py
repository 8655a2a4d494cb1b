"""The strategies that keep states instead of graphs and carry cotangents backwards, one step at a time.

With p the cotangent of θ_{i+1} and w that of the momentum buffer u_{i+1}, step i gives

    ∂/∂log β_i = p · (θ_{i+1} − θ_i)           because θ_{i+1} − θ_i = −β_i u_{i+1}
    c = w − β_i p                              the cotangent of u_{i+1}, and so of the slope g_i
    ∂/∂X = ∂(g_i · c)/∂X, labels alike         read off the step's curvature along c
    p ← p + H_i c,   w ← μ c                   cotangents of θ_i and u_i

and what the score asked of θ_i enters p there. Memory is one step's and that of the states. ``two-pass`` leaves
``H_i c`` out: the states at which slopes are taken are then constants, and with one state asked for, p is the same in
all steps. A step whose slope is a constant contributes nothing but its step size.

Not all N states need be there at once. The steps are cut into stretches (:mod:`.stretches`); of each the state it
begins with is kept, and the others are taken once more, by the same calls and so with the same bytes, when the way
back comes to it. The last stretch is kept whole. Shorter unrolls are a single stretch, and so are those whose score
asks for every state: they are all there then. The way back begins at the last state that the score depends on.

Slopes and curvature of a step share work. Where the step can trace it, the steps that the way back comes to next leave
their traces, a fixed number of them, whatever N.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from meddistill.distill.unroll.stacked import Class, Seen, differentiate, zeros_of
from meddistill.distill.unroll.step import Step, step_of
from meddistill.distill.unroll.stretches import stretches
from meddistill.distill.unroll.types import Learned, Network, Rule
from meddistill.nets.curvature import Trace
from meddistill.nets.params import Params


def carried_back(
    network: Network,
    students: Class,
    learned: Learned,
    wanted: frozenset[int],
    rule: Rule,
    *,
    through: frozenset[int],
    hessian: bool,
    at_once: int,
    traces: int,
) -> tuple[Tensor, Learned]:
    """The scores ``(S,)`` and the gradient of their sum; the students stop where the score asks for the last time.

    ``through``: the steps whose slopes are not constants. ``hessian``: whether slopes depend on where they are taken.
    ``at_once``: how many states may be kept at once; more are where fewer do not suffice or the score asks for more.
    ``traces``: of how many steps at once, of those that can leave one.
    """
    step_by = step_of(network, rule.precision, rule.compiled, rule.kernels)
    walk = _Walk(step_by, students, learned, rule.momentum, through, traces)
    parts = stretches(len(students.steps), max(at_once, len(wanted)), each=2 if rule.momentum else 1)
    asked, begins, states = _sweep(walk, parts, wanted)
    values, cotangents = differentiate(students.scores, asked)
    total, nothing = zeros_of(learned), tuple(torch.zeros_like(param) for param in students.start)
    last = _last_that_counts(cotangents)
    if last == 0:
        return values, total
    if last < len(students.steps):
        parts, states = _up_to(last, parts, begins, states, asked[last])
    of_state, of_buffer = cotangents[last], nothing
    del asked
    for step, before, after in _backwards(walk, parts, begins, states):
        total.log_steps[total.place_of(step)] += _dot(of_state, _less(after, before))
        size = learned.step_size(step)
        of_slope = tuple(w - size * p for w, p in zip(of_buffer, of_state, strict=True))
        if step in through:
            seen, traced = students.steps[step], walk.traced.pop
            curved = _step_back(step_by, before, of_slope, learned, seen, hessian, total, traced(step, None))
            if curved is not None:
                of_state = tuple(p + h for p, h in zip(of_state, curved, strict=True))
        of_buffer = tuple(rule.momentum * c for c in of_slope) if rule.momentum else nothing
        if step in cotangents:
            of_state = tuple(p + extra for p, extra in zip(of_state, cotangents[step], strict=True))
    return values, total


class _State(NamedTuple):
    """θ_i, and the momentum's buffer u_i where there is one by then."""

    params: Params
    buffer: Params | None


@dataclass(frozen=True)
class _Walk:
    """Students on their way, without a graph, and the traces of the steps that the way back comes to next."""

    by: Step
    students: Class
    learned: Learned
    momentum: float
    through: frozenset[int]
    traces: int
    traced: dict[int, Trace] = field(default_factory=dict)

    def states(self, first: _State, begin: int, end: int, *, traces: int) -> Iterator[_State]:
        """The states after the steps ``begin`` to ``end - 1``, from the state before them.

        ``traces``: of so many, the last ones, which the way back comes to next.
        """
        state = first
        self.traced.clear()
        for step in range(begin, end):
            state = self._next(state, step, trace=step >= end - traces and step in self.through)
            yield state

    @torch.no_grad()
    def _next(self, state: _State, step: int, *, trace: bool) -> _State:
        seen, size = self.students.steps[step], self.learned.step_size(step)
        labels = seen.logits(self.learned.label_logits).softmax(2)
        images = seen.images(self.learned.images)
        if trace and self.by.tracing:
            slopes, self.traced[step] = self.by.tracing.slopes(state.params, images, labels)
        else:
            slopes = self.by.slopes(state.params, images, labels)
        if self.momentum:  # the first buffer is a copy: what a captured step returns does not last
            last = state.buffer or tuple(torch.zeros_like(slope) for slope in slopes)
            slopes = tuple(g + self.momentum * u for g, u in zip(slopes, last, strict=True))
        params = tuple(p - size * u for p, u in zip(state.params, slopes, strict=True))
        return _State(params, slopes if self.momentum else None)


def _sweep(
    walk: _Walk, parts: list[tuple[int, int]], wanted: frozenset[int]
) -> tuple[dict[int, Params], list[_State], list[Params]]:
    """The states that the score asks for, those with which stretches begin, and all that the last stretch leads to."""
    state = _State(walk.students.start, None)
    asked = {0: state.params} if 0 in wanted else {}
    begins, kept = list[_State](), list[Params]()
    for begin, end in parts:
        begins.append(state)
        last = end == parts[-1][1]
        traces = walk.traces if last else 0
        for step, state in enumerate(walk.states(begins[-1], begin, end, traces=traces), begin + 1):
            if step in wanted:
                asked[step] = state.params
            if last:
                kept.append(state.params)
    return asked, begins, kept


def _last_that_counts(cotangents: dict[int, Params]) -> int:
    """The last step whose state the score depends on; 0, the start, where it depends on none.

    A score that asks for one state depends on it: a GPU is not waited for to know.
    """
    steps = sorted(cotangents, reverse=True)
    if len(steps) == 1:
        return steps[0]
    return next((step for step in steps if any(bool(part.any()) for part in cotangents[step])), 0)


def _up_to(
    last: int, parts: list[tuple[int, int]], begins: list[_State], kept: list[Params], reached: Params
) -> tuple[list[tuple[int, int]], list[Params]]:
    """The stretches up to the step ``last``, and what is kept of the last of them, at least what it ``reached``.

    ``begins`` is shortened.
    """
    shorter = [(begin, min(end, last)) for begin, end in parts if begin < last]
    del begins[len(shorter) :]
    return shorter, kept[: last - parts[-1][0]] if len(shorter) == len(parts) else [reached]


def _backwards(
    walk: _Walk, parts: list[tuple[int, int]], begins: list[_State], kept: list[Params]
) -> Iterator[tuple[int, Params, Params]]:
    """Every step from the last to the first with θ before and after it; ``begins`` and ``kept`` are used up."""
    for begin, end in reversed(parts):
        first = begins.pop()
        if len(kept) < end - begin:  # all but the last state, which the stretch behind began with
            # The step behind them is not taken again: its curvature makes a trace of its own beside theirs.
            again = walk.states(first, begin, end - 1, traces=walk.traces - 1)
            kept = [*(state.params for state in again), *kept]
        for step in reversed(range(begin, end)):
            after = kept.pop()
            yield step, kept[-1] if kept else first.params, after
        kept = [first.params]


def _step_back(
    step_by: Step,
    params: Params,
    along: Params,
    learned: Learned,
    seen: Seen,
    hessian: bool,
    total: Learned,
    traced: Trace | None,
) -> Params | None:
    """``H_i c``, or None without ``hessian``; the step's share of images and labels is added to ``total``."""
    images = learned.images[seen.rows].requires_grad_()
    augmented = seen.augmented(images)
    labels = seen.logits(learned.label_logits).softmax(2)
    if traced is not None and step_by.tracing:
        curved = step_by.tracing.curvature(params, along, traced, hessian)
    else:
        curved = step_by.curvature(params, along, augmented.detach(), labels, hessian)
    (by_image,) = torch.autograd.grad(augmented, images, curved.images.reshape(augmented.shape))
    by_logit = labels * (curved.labels - (labels * curved.labels).sum(2, keepdim=True))
    total.images.index_add_(0, seen.rows, by_image)
    total.label_logits.index_add_(0, seen.rows, by_logit.flatten(0, 1))
    return curved.params


def _less(one: Params, other: Params) -> Params:
    return tuple(a - b for a, b in zip(one, other, strict=True))


def _dot(one: Params, other: Params) -> Tensor:
    return torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum()
