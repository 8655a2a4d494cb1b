"""BYOL: predict what a slow average of the network sees in another view (Grill et al. 2020, arXiv 2006.07733)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.network import Network, Part
from meddistill.pretrain.objective import HIDDEN, PROJECTED, Side, each_view, perceptron_parts, width_of


@dataclass(frozen=True)
class Byol:
    """Encoder and projector with a slow average of both, and a predictor on the side that learns (their figure 2)."""

    momentum: float | None = 0.97

    def heads(self, network: Network) -> dict[str, list[Part]]:
        """Projector and predictor, each with one hidden layer."""
        return siamese_heads(network)

    def loss(self, online: Side, target: Side, view: Callable[[], Tensor], generator: torch.Generator) -> Tensor:
        """Their equation 2, with the views exchanged and added."""
        views = view(), view()
        predicted = [online.predict(online.project(one)) for one in each_view(online, views)]
        with torch.no_grad():
            first, second = (target.project(one) for one in each_view(target, views))
        return regression(predicted[0], second) + regression(predicted[1], first)


def siamese_heads(network: Network) -> dict[str, list[Part]]:
    """Projector and predictor, each with one hidden layer."""
    return {
        "projector": perceptron_parts(width_of(network), HIDDEN, PROJECTED),
        "predictor": perceptron_parts(PROJECTED, HIDDEN, PROJECTED),
    }


def regression(predicted: Tensor, aim: Tensor) -> Tensor:
    """The mean of ‖p/‖p‖ − z/‖z‖‖² = 2 − 2·cos(p, z) over the rows (their equation 2)."""
    return 2 - 2 * F.cosine_similarity(predicted, aim, dim=1).mean()
