"""SimCLR: find an image's other view among all views of the batch (Chen et al. 2020, arXiv 2002.05709)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.network import Network, Part
from meddistill.pretrain.objective import HIDDEN, PROJECTED, Side, each_view, perceptron_parts, width_of


@dataclass(frozen=True)
class SimClr:
    """A projector and the normalised, temperature-scaled cross-entropy."""

    temperature: float = 0.5
    momentum: float | None = None

    def heads(self, network: Network) -> dict[str, list[Part]]:
        """A projector with one hidden layer."""
        return {"projector": perceptron_parts(width_of(network), HIDDEN, PROJECTED)}

    def loss(self, online: Side, target: Side, view: Callable[[], Tensor], generator: torch.Generator) -> Tensor:
        """Their equation 1, over all 2N views."""
        first, second = (online.project(one) for one in each_view(online, (view(), view())))
        return contrast(first, second, self.temperature)


def contrast(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The mean over all 2N views i of −log(exp(s_ij / τ) / Σ_{k≠i} exp(s_ik / τ)), j the other view of i's image.

    s is the cosine; ``first`` and ``second`` are ``(N, D)``, row by row views of the same image (their equation 1).
    """
    count, views = len(first), F.normalize(torch.cat([first, second]), dim=1)
    scores = (views @ views.T / temperature).fill_diagonal_(-torch.inf)
    others = torch.arange(2 * count, device=scores.device).roll(count)
    return F.cross_entropy(scores, others)
