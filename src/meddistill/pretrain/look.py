"""Whether pretraining did something: how many directions an encoder's features use, and what a linear layer reads."""

import torch
from torch import Tensor

from meddistill.nets.network import Network
from meddistill.nets.params import Params
from meddistill.teachers.images import LabelledImages

_BATCH = 256
_RIDGE = 1e-2
_COLLAPSED_RANK, _COLLAPSED_SPREAD = 2.0, 1e-3


def features_of(network: Network, encoder: Params, images: LabelledImages) -> Tensor:
    """Features ``(N, F)`` of all images as they are."""
    with torch.no_grad():
        blocks = torch.arange(len(images)).split(_BATCH)
        return torch.cat([network.features(encoder, images.inputs(block)) for block in blocks])


def effective_rank(features: Tensor) -> float:
    """exp(−Σ p·log p) of the singular values' shares p: RankMe (Garrido et al. 2023, arXiv 2210.02885, equation 2).

    The mean feature is taken away first, so that what all images have in common is no rank. From 1 to the number of
    features; 1 for features that are all the same.
    """
    values = torch.linalg.svdvals(_centred(features))
    if not values.sum() > 0:
        return 1.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def spread(features: Tensor) -> float:
    """How much of the features differs between images: √(Σ var / Σ mean square), 0 where they are all the same."""
    whole = features.double().square().sum()
    return float((_centred(features).square().sum() / whole).sqrt()) if whole > 0 else 0.0


def is_collapsed(features: Tensor) -> bool:
    """Whether all images look alike to the encoder, or differ along one direction only."""
    return effective_rank(features) < _COLLAPSED_RANK or spread(features) < _COLLAPSED_SPREAD


def read_by_line(features: Tensor, labels: Tensor, seen: Tensor, classes: int) -> Tensor:
    """Class scores ``(M, K)`` of the features ``seen``, by the linear layer that fits labelled ``features`` best.

    Ridge regression on one-hot labels with every class counting alike, in closed form: quick, and nothing to choose.
    """
    mean, std = features.double().mean(0), features.double().std(0).clamp_min(1e-6)
    inputs = _with_one((features.double() - mean) / std)
    weights = 1 / torch.bincount(labels, minlength=classes)[labels].double()
    targets = torch.nn.functional.one_hot(labels, classes).double()
    system = inputs.T @ (weights[:, None] * inputs)
    system.diagonal().add_(_RIDGE)
    solved = torch.linalg.solve(system, inputs.T @ (weights[:, None] * targets))
    scores: Tensor = _with_one((seen.double() - mean) / std) @ solved
    return scores


def _centred(features: Tensor) -> Tensor:
    return features.double() - features.double().mean(0)


def _with_one(rows: Tensor) -> Tensor:
    return torch.cat([rows, torch.ones_like(rows[:, :1])], 1)
