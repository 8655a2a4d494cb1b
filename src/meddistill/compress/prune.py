"""Which weights a network can do without: single ones by magnitude, and whole channels.

Single weights are ranked over all layers at once by layer-adaptive magnitude (Lee et al. 2021, arXiv:2010.07611,
equation 2): a weight's square over the sum of all squares in its tensor that are not smaller. Plain magnitude would
empty the layers whose weights happen to be small.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

import torch
from torch import Tensor

from meddistill.nets.convnet import ConvNet
from meddistill.nets.network import Network
from meddistill.nets.params import Params


@dataclass(frozen=True)
class Ranking:
    """How much each weight matters, found once for whatever share is to stay.

    ``ranks``: of each tensor, None where it is not prunable. ``ordered``: all ranks together, ascending.
    """

    params: tuple[Tensor, ...]
    ranks: tuple[Tensor | None, ...]
    ordered: Tensor

    def masks(self, kept: float) -> list[Tensor]:
        """For every tensor a mask, 1 where a weight stays: the share ``kept`` of prunable weights that rank highest.

        Weights that are zero already have no rank and stay zero; all others of tensors that are not prunable stay.
        """
        count = max(1, round(kept * len(self.ordered)))
        threshold = self.ordered[len(self.ordered) - count]
        return [
            (param != 0 if rank is None else (rank >= threshold) & (rank > 0)).to(param)
            for param, rank in zip(self.params, self.ranks, strict=True)
        ]


def ranked(params: Sequence[Tensor], prunable: Sequence[bool]) -> Ranking:
    """Rank the weights of all prunable tensors, of which there is at least one."""
    ranks = tuple(_layer_adaptive(param) if may else None for param, may in zip(params, prunable, strict=True))
    flat = torch.cat([rank.reshape(-1) for rank in ranks if rank is not None])
    return Ranking(tuple(params), ranks, flat.sort().values)


def _layer_adaptive(param: Tensor) -> Tensor:
    squares = param.detach().reshape(-1).double() ** 2
    ordered, order = squares.sort()
    not_smaller = ordered.flip(0).cumsum(0).flip(0)
    ranks = torch.zeros_like(squares)
    ranks[order] = torch.where(ordered > 0, ordered / not_smaller.clamp_min(torch.finfo(torch.float64).tiny), 0)
    return ranks.reshape(param.shape)


def may_narrow(network: Network) -> TypeGuard[ConvNet]:
    """Whether whole channels can go: in a ConvNet with instance norm; of others only single weights are pruned."""
    return isinstance(network, ConvNet) and network.norm == "instance"


def narrowed(network: ConvNet, params: Params, width: int) -> tuple[ConvNet, Params]:
    """The same network with ``width`` channels in every block: those that matter most to the block behind.

    A channel's importance is the size of its norm scale times that of the weights that read it (the instance norm in
    between makes the size of the weights that write it meaningless).
    """
    area = (network.size >> network.depth) ** 2
    found: list[Tensor] = []
    before = torch.arange(network.channels)
    for block in range(network.depth):
        weight, bias, scale, shift = params[4 * block : 4 * block + 4]
        last = block == network.depth - 1
        reader = params[-2].view(network.classes, network.width, area) if last else params[4 * block + 4]
        importance = (scale.abs() + shift.abs()) * reader.transpose(0, 1).flatten(1).norm(dim=1)
        kept = importance.argsort(descending=True, stable=True)[:width].sort().values
        found += [weight[kept][:, before], bias[kept], scale[kept], shift[kept]]
        before = kept
    linear = params[-2].view(network.classes, network.width, area)[:, before].flatten(1)
    return replace(network, width=width), tuple(param.clone() for param in (*found, linear, params[-1]))


def without_idle_biases(network: Network, params: Params) -> Params:
    """The parameters with a ConvNet's biases zero where the instance norm behind takes any constant away again."""
    if not may_narrow(network):
        return params
    idle = {4 * block + 1 for block in range(network.depth)}
    return tuple(torch.zeros_like(param) if place in idle else param for place, param in enumerate(params))
