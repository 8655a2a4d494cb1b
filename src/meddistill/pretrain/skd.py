"""SKD: BYOL that also learns what similar images of the batch have in common (Li et al. 2022, arXiv 2206.03009).

The source distils the knowledge that the images of a batch have of each other, weighted by how similar they look.
Where it leaves the computation open we take that of batch knowledge ensembling (Ge et al. 2021, arXiv 2104.13298).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.network import Network, Part
from meddistill.pretrain.byol import regression, siamese_heads
from meddistill.pretrain.objective import Side, each_view


@dataclass(frozen=True)
class Skd:
    """The cross-view loss of BYOL and the self-distillation loss, added.

    ``share``: how much of an image's knowledge is its neighbours' (ω of batch knowledge ensembling). ``temperature``:
    of the distributions over the units of the projection, whose rows have length 1.
    """

    share: float = 0.5
    temperature: float = 0.1
    momentum: float | None = 0.97

    def heads(self, network: Network) -> dict[str, list[Part]]:
        """Projector and predictor, as BYOL's."""
        return siamese_heads(network)

    def loss(self, online: Side, target: Side, view: Callable[[], Tensor], generator: torch.Generator) -> Tensor:
        """Each view's prediction against the slow average's projection of the other one, and against its knowledge."""
        views = view(), view()
        predicted = [online.predict(online.project(one)) for one in each_view(online, views)]
        with torch.no_grad():
            seen = each_view(target, views)
            aims = [target.project(one) for one in seen]
            known = [self._knowledge(*pair) for pair in zip(seen, aims, strict=True)]
        crossed = list(zip(predicted, reversed(aims), reversed(known), strict=True))
        across = torch.stack([regression(mine, aim) for mine, aim, _ in crossed]).sum()
        within = torch.stack([divergence(knows, mine, self.temperature) for mine, _, knows in crossed]).sum()
        return across + within

    def _knowledge(self, features: Tensor, projections: Tensor) -> Tensor:
        own = (F.normalize(projections, dim=1) / self.temperature).softmax(1)
        return ensemble(affinities(features), own, self.share)


def affinities(features: Tensor) -> Tensor:
    """How much image i listens to image j: exp(cos(f_i, f_j)), 0 for itself, rows of sum 1 (Ge et al., eq. 3 and 4)."""
    directions = F.normalize(features, dim=1)
    return (directions @ directions.T).fill_diagonal_(-torch.inf).softmax(1)


def ensemble(affinity: Tensor, own: Tensor, share: float) -> Tensor:
    """What is left when knowledge has been passed on for ever: (1 − ω)·(I − ω·A)⁻¹·P (Ge et al., equation 7).

    ``affinity``: A, ``(N, N)``, rows of sum 1. ``own``: P, ``(N, D)``, what each image's own distribution is.
    """
    identity = torch.eye(len(own), dtype=own.dtype, device=own.device)
    passed_on: Tensor = torch.linalg.solve(identity - share * affinity, own)
    return (1 - share) * passed_on


def divergence(known: Tensor, predicted: Tensor, temperature: float) -> Tensor:
    """The mean of KL(Q ‖ softmax(p/‖p‖ / τ)) over the rows."""
    said = (F.normalize(predicted, dim=1) / temperature).log_softmax(1)
    return F.kl_div(said, known, reduction="batchmean")
