"""The strategy that keeps the graph of all steps: memory is linear in N."""

import torch
from torch import Tensor

from meddistill.distill.unroll.stacked import Class, score_each
from meddistill.distill.unroll.step import soft_loss
from meddistill.distill.unroll.types import Learned, Network, Rule
from meddistill.nets.params import Params, leaves


def full(
    network: Network, students: Class, learned: Learned, wanted: frozenset[int], rule: Rule
) -> tuple[Tensor, Learned]:
    """The scores ``(S,)`` and the gradient of their sum."""
    variables = Learned(*leaves(learned.tensors()))
    params = leaves(students.start)
    buffer: Params = tuple(torch.zeros_like(param) for param in params)
    states = {0: params}
    for step, seen in enumerate(students.steps):
        labels = seen.logits(variables.label_logits).softmax(2)
        loss = soft_loss(network, rule.precision, params, seen.images(variables.images), labels)
        slopes = torch.autograd.grad(loss, params, create_graph=True)
        buffer = tuple(rule.momentum * u + g for u, g in zip(buffer, slopes, strict=True)) if rule.momentum else slopes
        size = variables.step_size(step)
        params = tuple(param - size * u for param, u in zip(params, buffer, strict=True))
        states[step + 1] = params
    values = score_each(students.scores, {step: states[step] for step in sorted(wanted)})
    gradients = torch.autograd.grad(values.sum(), variables.tensors(), materialize_grads=True)
    return values.detach(), Learned(*gradients)
