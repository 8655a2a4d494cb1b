"""The strategies that keep states instead of graphs and carry cotangents backwards, one step at a time.

With p the cotangent of θ_{i+1} and w that of the momentum buffer u_{i+1}, step i gives

    ∂/∂log β_i = p · (θ_{i+1} − θ_i)           because θ_{i+1} − θ_i = −β_i u_{i+1}
    c = w − β_i p                              the cotangent of u_{i+1}, and so of the slope g_i
    ∂/∂X = ∂(g_i · c)/∂X, labels alike         read off the step's curvature along c
    p ← p + H_i c,   w ← μ c                   cotangents of θ_i and u_i

and what the score asked of θ_i enters p there. Memory is one step's and N + 1 states. ``two-pass`` leaves
``H_i c`` out: the states at which slopes are taken are then constants, and with one state asked for, p is the same in
all steps. A step whose slope is a constant contributes nothing but its step size.
"""

import torch
from torch import Tensor

from meddistill.distill.unroll.stacked import Class, Seen, differentiate, zeros_of
from meddistill.distill.unroll.step import Slopes, Step, step_of
from meddistill.distill.unroll.types import Learned, Network, Rule
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
) -> tuple[Tensor, Learned]:
    """The scores ``(S,)`` and the gradient of their sum; the students stop where the score asks for the last time.

    ``through``: the steps whose slopes are not constants. ``hessian``: whether slopes depend on where they are taken.
    """
    step_by = step_of(network, rule.precision, rule.compiled)
    states = _sweep(step_by.slopes, students, learned, rule.momentum)
    values, cotangents = differentiate(students.scores, {step: states[step] for step in sorted(wanted)})
    total, nothing = zeros_of(learned), tuple(torch.zeros_like(param) for param in students.start)
    of_state, of_buffer = cotangents[len(students.steps)], nothing
    for step in reversed(range(len(students.steps))):
        after, before = states.pop(), states[step]
        total.log_steps[total.place_of(step)] += _dot(of_state, _less(after, before))
        size = learned.step_size(step)
        of_slope = tuple(w - size * p for w, p in zip(of_buffer, of_state, strict=True))
        if step in through:
            curved = _step_back(step_by, before, of_slope, learned, students.steps[step], hessian, total)
            if curved is not None:
                of_state = tuple(p + h for p, h in zip(of_state, curved, strict=True))
        of_buffer = tuple(rule.momentum * c for c in of_slope) if rule.momentum else nothing
        if step in cotangents:
            of_state = tuple(p + extra for p, extra in zip(of_state, cotangents[step], strict=True))
    return values, total


def _sweep(slopes_of: Slopes, students: Class, learned: Learned, momentum: float) -> list[Params]:
    """θ_0 … θ_N without a graph."""
    states = [students.start]
    buffer: Params | None = None
    for step, seen in enumerate(students.steps):
        with torch.no_grad():
            labels = seen.logits(learned.label_logits).softmax(2)
            slopes = slopes_of(states[-1], seen.images(learned.images), labels)
            if momentum and buffer is not None:
                slopes = tuple(g + momentum * u for g, u in zip(slopes, buffer, strict=True))
            buffer, size = slopes, learned.step_size(step)
            states.append(tuple(p - size * u for p, u in zip(states[-1], buffer, strict=True)))
    return states


def _step_back(
    step_by: Step,
    params: Params,
    along: Params,
    learned: Learned,
    seen: Seen,
    hessian: bool,
    total: Learned,
) -> Params | None:
    """``H_i c``, or None without ``hessian``; the step's share of images and labels is added to ``total``."""
    images = learned.images[seen.rows].requires_grad_()
    augmented = seen.augmented(images)
    labels = seen.logits(learned.label_logits).softmax(2)
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
