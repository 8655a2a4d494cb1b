"""One student step of S students at once: its slopes, and the derivative of them along a direction.

``reverse``   differentiates the slopes' product with the direction once more: the plain definition.
``forward``   pushes the direction through the slopes as a tangent; needs a network that supports it.
``written``   the ConvNet's with instance norm, worked out by hand in :mod:`meddistill.nets.curvature`; with kernels
              its first block keeps no maps (:mod:`meddistill.nets.first`).

Measured on a CPU (benchmarks/records/engine.json), the written one is the fastest and ``forward`` the slowest;
``reverse`` serves other networks. Slopes alone are written too, or taken by automatic differentiation. Written slopes
can leave a trace behind, which the curvature at the same state need not work out again: 6 forward passes, not 8.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from meddistill.distill.unroll.types import Network, Precision
from meddistill.nets.compiled import Compiled
from meddistill.nets.convnet import ConvNet
from meddistill.nets.curvature import Curved, Trace, curvature, curvature_of, slopes, slopes_of, trace
from meddistill.nets.params import Params, leaves

Slopes = Callable[[Params, Tensor, Tensor], Params]
# Parameters, direction, images, soft labels, and whether the parameters' own part is asked for.
Curvature = Callable[[Params, Params, Tensor, Tensor, bool], Curved]


class Tracing(NamedTuple):
    """Slopes that leave a trace, and the curvature at the same parameters that begins with it.

    ``slopes``: of parameters, images and soft labels. ``curvature``: of parameters, direction, trace, and whether the
    parameters' own part is asked for. What they find has the same bytes as without.
    """

    slopes: Callable[[Params, Tensor, Tensor], tuple[Params, Trace]]
    curvature: Callable[[Params, Params, Trace, bool], Curved]


@dataclass(frozen=True)
class Step:
    """How the slopes and the curvature of one step are computed; ``tracing``: where they can share work."""

    slopes: Slopes
    curvature: Curvature
    tracing: Tracing | None = None


@lru_cache(maxsize=8)
def step_of(network: Network, precision: Precision = "full", compiled: bool = False, kernels: bool = False) -> Step:
    """The fastest step for that network; a compiled one is kept for as long as the process needs it."""
    if not isinstance(network, ConvNet) or network.norm != "instance":
        return Step(partial(automatic, network, precision), partial(reverse, network, precision))
    tracing = Tracing(partial(traced_slopes, network, precision, kernels=kernels), traced_curvature)
    direct = partial(written_slopes, network, precision, kernels=kernels)
    by_hand = Step(direct, partial(written, network, precision, kernels=kernels), tracing)
    if not compiled:
        return by_hand
    tracing = Tracing(Compiled(tracing.slopes), Compiled(tracing.curvature))
    return Step(Compiled(by_hand.slopes), Compiled(by_hand.curvature), tracing)


def why_not_compiled(network: Network, precision: Precision, kernels: bool = False) -> str | None:
    """The reason, where compiling this step was tried and failed."""
    step = step_of(network, precision, True, kernels)
    parts = (part for part in (step.slopes, step.curvature, *(step.tracing or ())) if isinstance(part, Compiled))
    return next((part.failed for part in parts if part.failed), None)


def operations(network: ConvNet, images: int) -> float:
    """Of the adjoint's step on so many images: 11 forward passes, two operations a multiplication and addition.

    9 where its trace was kept, which those who plan a run do not count on.
    """
    inputs = (network.channels, *(network.width for _ in range(network.depth - 1)))
    sides = (network.size >> block for block in range(network.depth))
    return 11 * images * sum(18 * c * network.width * side * side for c, side in zip(inputs, sides, strict=True))


def soft_loss(network: Network, precision: Precision, params: Params, images: Tensor, labels: Tensor) -> Tensor:
    """The sum over S students of the mean cross-entropy with soft labels ``(S, n, K)``, a scalar."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logits = network.apply_many(params, images)
    losses = -(labels * logits.to(labels.dtype).log_softmax(2)).sum(2)
    return losses.mean(1).sum()


def automatic(network: Network, precision: Precision, params: Params, images: Tensor, labels: Tensor) -> Params:
    """The slopes by automatic differentiation."""
    variables = leaves(params)
    with torch.enable_grad():
        return torch.autograd.grad(soft_loss(network, precision, variables, images, labels), variables)


def reverse(
    network: Network,
    precision: Precision,
    params: Params,
    along: Params,
    images: Tensor,
    labels: Tensor,
    hessian: bool = True,
) -> Curved:
    """The curvature by differentiating the slopes' product with ``along``."""
    variables, (images, labels) = leaves(params), leaves((images, labels))
    with torch.enable_grad():
        loss = soft_loss(network, precision, variables, images, labels)
        found = torch.autograd.grad(loss, variables, create_graph=True)
        product = torch.stack([(one * other).sum() for one, other in zip(found, along, strict=True)]).sum()
    wanted = (images, labels, *(variables if hessian else ()))
    by_image, by_label, *rest = torch.autograd.grad(product, wanted, materialize_grads=True)
    return Curved(tuple(rest) if hessian else None, by_image, by_label)


def forward(
    network: Network,
    precision: Precision,
    params: Params,
    along: Params,
    images: Tensor,
    labels: Tensor,
    hessian: bool = True,
) -> Curved:
    """The curvature by the tangent of the slopes."""

    def every_slope(*moved: Tensor) -> tuple[Params, Tensor, Tensor]:
        def loss(some: Params, seen: Tensor, soft: Tensor) -> Tensor:
            return soft_loss(network, precision, some, seen, soft)

        slopes_of: tuple[Params, Tensor, Tensor] = torch.func.grad(loss, (0, 1, 2))(moved, images, labels)
        return slopes_of

    moved = torch.func.jvp(every_slope, tuple(params), tuple(along))[1]
    curved, by_image, by_label = moved
    return Curved(curved if hessian else None, by_image, by_label)


def written_slopes(
    network: ConvNet, precision: Precision, params: Params, images: Tensor, labels: Tensor, kernels: bool = False
) -> Params:
    """The slopes by hand."""
    with torch.no_grad():
        return slopes(network, params, images, labels, _work(precision, params), _gated(kernels, params))


def written(
    network: ConvNet,
    precision: Precision,
    params: Params,
    along: Params,
    images: Tensor,
    labels: Tensor,
    hessian: bool = True,
    kernels: bool = False,
) -> Curved:
    """The curvature by hand."""
    work, gated = _work(precision, params), _gated(kernels, params)
    with torch.no_grad():
        return curvature(network, params, along, images, labels, work, hessian, gated)


def traced_slopes(
    network: ConvNet, precision: Precision, params: Params, images: Tensor, labels: Tensor, kernels: bool = False
) -> tuple[Params, Trace]:
    """The slopes by hand, and their trace."""
    with torch.no_grad():
        traced = trace(network, params, images, labels, _work(precision, params), _gated(kernels, params))
        return slopes_of(params, traced), traced


def traced_curvature(params: Params, along: Params, traced: Trace, hessian: bool = True) -> Curved:
    """The curvature by hand, of slopes that left their trace."""
    with torch.no_grad():
        return curvature_of(params, along, traced, hessian)


def _work(precision: Precision, params: Params) -> torch.dtype:
    return torch.bfloat16 if precision == "bfloat16" else params[0].dtype


def _gated(kernels: bool, params: Params) -> bool:
    """A GPU's kernels compute in float32 alone."""
    return kernels and (params[0].dtype == torch.float32 or params[0].device.type != "cuda")
