"""The student's N gradient steps on the synthetic images, and the exact gradient of a score of where they lead.

A student starts at parameters θ_0 and takes the steps ``θ_{i+1} = θ_i − β_i ∇ℓ_i(θ_i)``, where ``ℓ_i`` is the
soft-label cross-entropy of step i's batch of synthetic images. A *score* maps the parameters after the steps that it
asked for to a scalar. Its gradient with respect to images, label logits and step sizes is computed by a strategy:

``full``      keeps the graph of all steps, as public trajectory-matching code does; memory is linear in N.
``adjoint``   keeps only θ_0 … θ_N, then carries the cotangent ``v_i = v_{i+1} − β_i H_i v_{i+1}`` backwards, one step's
              graph at a time. The gradient of step i's inputs is ``−β_i ∂(g_i · v_{i+1})`` and that of its step size
              ``−g_i · v_{i+1}``. It is the same gradient to rounding, in memory independent of N but for N·|θ| numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.augment import Draw
from meddistill.nets.params import Params, leaves

Strategy = Literal["full", "adjoint"]
STRATEGIES: tuple[Strategy, ...] = ("full", "adjoint")
Score = Callable[[Mapping[int, Params]], Tensor]


class Network(Protocol):
    """What an unroll needs of a network."""

    def apply(self, params: Params, images: Tensor) -> Tensor:
        """Logits ``(n, K)`` of images ``(n, C, H, W)``."""


@dataclass(frozen=True)
class Batch:
    """What one student step sees: rows of the synthetic set, ``(n,)`` int64, and how their images are augmented."""

    rows: Tensor
    draw: Draw | None = None


@dataclass(frozen=True)
class Learned:
    """The learned quantities, or their gradient.

    ``images``: ``(n, C, H, W)``, normalised. ``label_logits``: ``(n, K)``; the soft label is their softmax.
    ``log_steps``: ``(1,)`` or ``(N,)``, the logarithm of the step sizes, which therefore cannot turn negative.
    """

    images: Tensor
    label_logits: Tensor
    log_steps: Tensor

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three in a fixed order."""
        return self.images, self.label_logits, self.log_steps

    def step_size(self, step: int) -> Tensor:
        """β of the given student step, a scalar tensor."""
        return self.log_steps[step if len(self.log_steps) > 1 else 0].exp()


@dataclass(frozen=True)
class Outcome:
    """A score's value and its gradient with respect to the learned quantities."""

    score: float
    gradient: Learned


def unroll(
    network: Network,
    start: Params,
    learned: Learned,
    batches: Sequence[Batch],
    score: Score,
    *,
    at: Sequence[int] | None = None,
    strategy: Strategy = "adjoint",
) -> Outcome:
    """Take ``len(batches)`` student steps from ``start`` and differentiate ``score`` of the states on the way.

    ``at``: the steps whose parameters the score asks for, from 0 (the start) to N (the end, the default). ``score`` is
    called once, with a mapping from those steps to parameters, and must return a scalar tensor.
    """
    steps = len(batches)
    wanted = frozenset((steps,) if at is None else at)
    if not wanted or min(wanted) < 0 or max(wanted) > steps:
        raise ValueError(f"a score may ask for the steps 0 to {steps}, not {sorted(wanted)}")
    if len(learned.log_steps) not in (1, steps):
        raise ValueError(f"{len(learned.log_steps)} step sizes for {steps} steps: expected one, or one per step")
    compute = {"full": _full, "adjoint": _adjoint}[strategy]
    return compute(network, start, learned, batches, score, wanted)


def student_loss(network: Network, params: Params, images: Tensor, label_logits: Tensor) -> Tensor:
    """Mean soft-label cross-entropy, a scalar; hard labels are logits far apart."""
    return F.cross_entropy(network.apply(params, images), label_logits.softmax(1))


def _batch_loss(network: Network, params: Params, learned: Learned, batch: Batch) -> Tensor:
    images = learned.images[batch.rows]
    if batch.draw is not None:
        images = batch.draw.apply(images)
    return student_loss(network, params, images, learned.label_logits[batch.rows])


def _full(
    network: Network,
    start: Params,
    learned: Learned,
    batches: Sequence[Batch],
    score: Score,
    wanted: frozenset[int],
) -> Outcome:
    variables = Learned(*leaves(learned.tensors()))
    params = leaves(start)
    states = {0: params}
    for step, batch in enumerate(batches):
        gradient = torch.autograd.grad(_batch_loss(network, params, variables, batch), params, create_graph=True)
        size = variables.step_size(step)
        params = tuple(param - size * slope for param, slope in zip(params, gradient, strict=True))
        states[step + 1] = params
    value = score({step: states[step] for step in wanted})
    gradients = torch.autograd.grad(value, variables.tensors(), materialize_grads=True)
    return Outcome(float(value.detach()), Learned(*gradients))


def _adjoint(
    network: Network,
    start: Params,
    learned: Learned,
    batches: Sequence[Batch],
    score: Score,
    wanted: frozenset[int],
) -> Outcome:
    states = _sweep(network, start, learned, batches)
    value, cotangents = _differentiate(score, {step: states[step] for step in wanted})
    total = Learned(*(torch.zeros_like(tensor) for tensor in learned.tensors()))
    carried = cotangents.get(len(batches)) or tuple(torch.zeros_like(param) for param in start)
    for step in reversed(range(len(batches))):
        carried = _step_back(network, states[step], learned, batches[step], step, carried, total)
        if step in cotangents:
            carried = tuple(v + extra for v, extra in zip(carried, cotangents[step], strict=True))
        states.pop()
    return Outcome(float(value), total)


def _sweep(network: Network, start: Params, learned: Learned, batches: Sequence[Batch]) -> list[Params]:
    """θ_0 … θ_N without a graph."""
    states = [tuple(param.detach() for param in start)]
    for step, batch in enumerate(batches):
        params = leaves(states[-1])
        gradient = torch.autograd.grad(_batch_loss(network, params, learned, batch), params)
        size = learned.step_size(step)
        with torch.no_grad():
            states.append(tuple(p.detach() - size * g for p, g in zip(params, gradient, strict=True)))
    return states


def _differentiate(score: Score, states: Mapping[int, Params]) -> tuple[Tensor, dict[int, Params]]:
    """The score and its gradient with respect to every state that it asked for."""
    variables = {step: leaves(params) for step, params in states.items()}
    value = score(variables)
    flat = [param for params in variables.values() for param in params]
    gradients = iter(torch.autograd.grad(value, flat, materialize_grads=True))
    return value.detach(), {step: tuple(next(gradients) for _ in params) for step, params in variables.items()}


def _step_back(
    network: Network,
    params: Params,
    learned: Learned,
    batch: Batch,
    step: int,
    carried: Params,
    total: Learned,
) -> Params:
    """Carry the cotangent over one step and add the step's share to the gradient in ``total`` (in place)."""
    images = learned.images[batch.rows].requires_grad_()
    logits = learned.label_logits[batch.rows].requires_grad_()
    params = leaves(params)
    seen = images if batch.draw is None else batch.draw.apply(images)
    gradient = torch.autograd.grad(student_loss(network, params, seen, logits), params, create_graph=True)
    along = sum((g * v).sum() for g, v in zip(gradient, carried, strict=True))
    assert isinstance(along, Tensor)
    *hessian, by_image, by_logit = torch.autograd.grad(along, (*params, images, logits), materialize_grads=True)
    size = learned.step_size(step)
    total.images.index_add_(0, batch.rows, by_image, alpha=-float(size))
    total.label_logits.index_add_(0, batch.rows, by_logit, alpha=-float(size))
    total.log_steps[step if len(total.log_steps) > 1 else 0] -= size * along.detach()
    return tuple(v - size * h for v, h in zip(carried, hessian, strict=True))
