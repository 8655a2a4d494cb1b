"""How the student's end is compared with the segment's end."""

import torch
from torch import Tensor

from meddistill.nets.params import Params


def normalised_l2(end: Params, target: Params, start: Params) -> Tensor:
    """‖θ̂_N − θ*_end‖² / ‖θ*_start − θ*_end‖², a scalar: 1 is no progress, 0 is arrival.

    Cazenavette et al. 2022 (arXiv 2203.11932), equation 2. Differentiable with respect to ``end``.
    """
    return _squared(end, target) / _squared(start, target)


def _squared(one: Params, other: Params) -> Tensor:
    return torch.stack([((a - b) ** 2).sum() for a, b in zip(one, other, strict=True)]).sum()
