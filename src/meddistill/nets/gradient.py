"""The gradient of a network's soft-label loss with respect to its parameters, the fastest way there is here."""

import contextlib
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.compiled import Compiled
from meddistill.nets.convnet import ConvNet
from meddistill.nets.curvature import slopes
from meddistill.nets.network import Network
from meddistill.nets.params import Params, leaves
from meddistill.runtime.device import rounded_convolutions


class Kernels(NamedTuple):
    """That a gradient keeps no maps of the first block (:mod:`~meddistill.nets.first`), and whether it is compiled."""

    compiled: bool = False


def gradient(
    network: ConvNet,
    params: Params,
    images: Tensor,
    labels: Tensor,
    *,
    autocast: bool = False,
    kernels: Kernels | None = None,
) -> Params:
    """The gradient of the mean cross-entropy of S networks, each on its own images, shaped as ``params``.

    ``params``: stacked, every tensor with a leading dimension S. ``images``: ``(S, n, C, H, W)``. ``labels``: soft
    labels ``(S, n, K)``. ``autocast``: convolutions and matrix products in bfloat16. Without, a CPU uses
    :func:`~meddistill.nets.curvature.slopes`: with 64 images of 28×28 it takes 0.66 times as long as automatic
    differentiation at width 32, 0.89 times at width 128 (``benchmarks/engine.py --only variants``).
    ``kernels``: by hand in their way, for instance norm and on a GPU for float32; with ``autocast`` the values are
    rounded to TF32 at most there, and what is differentiated to bfloat16. What is compiled holds until the next call.
    """
    if kernels is not None:
        with rounded_convolutions() if autocast else contextlib.nullcontext():
            return _without_maps(network, autocast, kernels.compiled)(params, images, labels)
    if images.device.type == "cpu" and not autocast and network.norm == "instance":
        with torch.no_grad():
            return slopes(network, params, images, labels, images.dtype)
    return automatic_gradient(network, params, images, labels, autocast=autocast)


def gradient_of_one(network: Network, params: Params, images: Tensor, labels: Tensor) -> Params:
    """The gradient of one network of any kind: images ``(n, C, H, W)``, soft labels ``(n, K)``.

    ``params``: as they are. Measured statistics, which stand last, have no gradient and are left out.
    """
    if isinstance(network, ConvNet) and not network.statistics:
        found = gradient(network, tuple(param[None] for param in params), images[None], labels[None])
        return tuple(slope[0] for slope in found)
    variables = leaves(params)
    loss = F.cross_entropy(network.apply_training(variables, images), labels)
    return torch.autograd.grad(loss, variables[: len(params) - network.statistics])


def automatic_gradient(
    network: ConvNet, params: Params, images: Tensor, labels: Tensor, *, autocast: bool = False
) -> Params:
    """The same by automatic differentiation."""
    params = leaves(params)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
        logits = network.apply_many(params, images)
    # The sum over networks: no loss depends on another network's parameters.
    loss = F.cross_entropy(logits.flatten(0, 1).to(labels.dtype), labels.flatten(0, 1), reduction="sum")
    return torch.autograd.grad(loss / labels.shape[1], params)


def forget_compiled() -> None:
    """Give up what was compiled, and the memory that it holds on a GPU."""
    _without_maps.cache_clear()
    torch.compiler.reset()


@lru_cache(maxsize=8)
def _without_maps(network: ConvNet, half: bool, compiled: bool) -> Callable[[Params, Tensor, Tensor], Params]:
    """The gradient that keeps no maps of the first block; a compiled one is kept for as long as it is needed."""
    by_hand = partial(_by_hand, network, half)
    return Compiled(by_hand) if compiled else by_hand


def _by_hand(network: ConvNet, half: bool, params: Params, images: Tensor, labels: Tensor) -> Params:
    with torch.no_grad():
        work = torch.bfloat16 if half else params[0].dtype
        return slopes(network, params, images, labels, work, gated=True)
