"""SimSiam: BYOL without the slow average (Chen & He 2021, arXiv 2011.10566)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.network import Network, Part
from meddistill.pretrain.objective import HIDDEN, PROJECTED, Side, each_view, perceptron_parts, width_of


@dataclass(frozen=True)
class SimSiam:
    """A projector that ends with a batch norm, and a predictor with a bottleneck (their section 3, algorithm 1)."""

    momentum: float | None = None

    def heads(self, network: Network) -> dict[str, list[Part]]:
        """Projector and predictor, each with one hidden layer, the latter's narrow."""
        return {
            "projector": perceptron_parts(width_of(network), HIDDEN, PROJECTED, normed=True),
            "predictor": perceptron_parts(PROJECTED, PROJECTED // 4, PROJECTED),
        }

    def loss(self, online: Side, target: Side, view: Callable[[], Tensor], generator: torch.Generator) -> Tensor:
        """Their equation 4."""
        first, second = (online.project(one) for one in each_view(online, (view(), view())))
        return 0.5 * (distance(online.predict(first), second) + distance(online.predict(second), first))


def distance(predicted: Tensor, aim: Tensor) -> Tensor:
    """The mean of −cos(p, z) over the rows, with z held fixed (their equations 1 and 3)."""
    return -F.cosine_similarity(predicted, aim.detach(), dim=1).mean()
