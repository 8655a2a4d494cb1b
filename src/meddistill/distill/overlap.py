"""Overlap of synthetic images: how much those of a class look alike to a network, and which are one too many.

Yu et al. 2024 (arXiv 2403.13469) found that matching made images of a class too similar, eliminate the overlap and
retrain the images concerned. How they measure it is left open; our reading is the cosine of the angle between the
features of two images of a class, centred on the class's real images, under a teacher; too much is more than nearly all
pairs of real images of the class have.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import Params
from meddistill.teachers.images import LabelledImages

# What images may start anew from: never from real ones.
Fresh = Literal["prototypes", "noise"]
# Real images of a class whose pairs say what is usual.
REAL_IMAGES = 64


@dataclass(frozen=True)
class Mitigation:
    """When overlap is looked for and what is done about it.

    Every ``every`` iterations, images that overlap with an earlier one of their class more than the ``quantile`` of
    real pairs start anew, and for ``retrained`` iterations only they are trained; ``retrained`` is less than ``every``.
    ``start``: what from.
    """

    every: int
    retrained: int
    quantile: float = 0.99
    start: Fresh = "prototypes"


@dataclass(frozen=True)
class Overlap:
    """What was measured: for every synthetic image its largest similarity to an earlier one of its class, ``(n,)``, -1
    where there is none; the class's threshold, ``(n,)``; and the diversity, the mean distance (1 - similarity) of all
    pairs of a class, averaged over classes.
    """

    similarity: Tensor
    threshold: Tensor
    diversity: float

    @property
    def offending(self) -> Tensor:
        """Which images overlap too much, ``(n,)`` bool."""
        return self.similarity > self.threshold

    @property
    def share(self) -> float:
        """The share of images that overlap too much."""
        return float(self.offending.double().mean())


def measure_overlap(
    network: ConvNet,
    params: Params,
    synthetic: Tensor,
    classes: Tensor,
    images: LabelledImages,
    quantile: float,
    generator: torch.Generator,
) -> Overlap:
    """Overlap of normalised ``synthetic`` images ``(n, C, H, W)`` of the ``classes`` ``(n,)`` under ``params``."""
    similarity, threshold = torch.full((len(classes),), -1.0), torch.full((len(classes),), 1.0)
    diversity = []
    for label in classes.unique().tolist():
        rows = images.rows_of(label)
        chosen = rows[torch.randperm(len(rows), generator=generator)[:REAL_IMAGES]]
        mine = (classes == label).cpu()
        with torch.no_grad():
            real = network.features(params, images.inputs(chosen))
            made = network.features(params, synthetic[mine.to(synthetic.device)])
        centre = real.mean(0)
        pairs = _cosines(made - centre)
        usual = _cosines(real - centre)
        off_diagonal = ~torch.eye(len(usual), dtype=torch.bool)
        if len(usual) > 1:
            threshold[mine] = torch.quantile(usual[off_diagonal], quantile)
        earlier = pairs.tril(-1) - torch.ones_like(pairs).triu() * 2
        similarity[mine] = earlier.max(1).values.clamp_min(-1)
        if len(pairs) > 1:
            diversity.append(1 - pairs[~torch.eye(len(pairs), dtype=torch.bool)].mean())
    return Overlap(similarity, threshold, float(torch.stack(diversity).mean()) if diversity else 1.0)


def _cosines(features: Tensor) -> Tensor:
    """``(n, n)`` on the CPU."""
    directions = F.normalize(features.flatten(1).double(), dim=1)
    return (directions @ directions.T).float().cpu()
