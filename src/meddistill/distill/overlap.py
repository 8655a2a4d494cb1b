"""Overlap of synthetic images: how much those of a class look alike to a network, which are one too many, and what
takes their place.

Yu et al. 2024 (arXiv 2403.13469) found that matching made images of a class too similar, eliminate the overlap and
retrain the images concerned. How they measure it, which they take and what these begin with is left open. Our reading:

* Overlap is the cosine of the angle between the features of two images of a class, centred on the class's real images,
  under a teacher; too much is more than nearly all pairs of real images of the class have, each pair centred on the
  others. Of a class with too few images nothing is known to be too much.
* Of two images that overlap one is started anew, so that at least half of a class stays as it is.
* What it starts from is, of several draws, the one that overlaps least with the others of its class; of prototypes of
  as few images as may be. Those of many are blurred alike: each overlaps with every other, however they are drawn.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.distill.formation import Formation
from meddistill.distill.start import MIN_PROTOTYPE_IMAGES
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

    Every ``every`` iterations of matching, one of two images of a class that overlap more than the ``quantile`` of real
    pairs starts anew, and for ``retrained`` iterations only such images are trained; ``retrained`` is less than
    ``every``. ``start``: what from. ``draws``: of so many the least alike is taken.
    """

    every: int
    retrained: int
    quantile: float = 0.99
    start: Fresh = "prototypes"
    draws: int = 8

    def is_due(self, matched: int, iterations: int) -> bool:
        """Whether to look after ``matched`` of all ``iterations``.

        Not where fewer than ``every`` are left: what starts anew is retrained to the end, and then all are trained.
        """
        return matched > 0 and matched % self.every == 0 and matched + self.every <= iterations


@dataclass(frozen=True)
class Judge:
    """How a teacher sees images of each class: in which direction from the mean of real ones.

    ``centres``: by class, the mean features of real images. ``thresholds``: by class, the similarity beyond which two
    images overlap; 1, which no two have, where the class has fewer than :data:`MIN_PROTOTYPE_IMAGES` real images.
    """

    network: ConvNet
    params: Params
    centres: Mapping[int, Tensor]
    thresholds: Mapping[int, float]

    def directions(self, images: Tensor, label: int) -> Tensor:
        """Of normalised ``images`` ``(n, C, H, W)`` of a class, ``(n, D)`` float64 of length 1, on the CPU."""
        with torch.no_grad():
            features = self.network.features(self.params, images)
        return _directions(features - self.centres[label])


def judge_of(
    network: ConvNet,
    params: Params,
    images: LabelledImages,
    classes: Tensor,
    quantile: float,
    generator: torch.Generator,
) -> Judge:
    """A teacher's eye for each of the ``classes``; up to :data:`REAL_IMAGES` images of each say what is usual."""
    centres, thresholds = dict[int, Tensor](), dict[int, float]()
    for label in classes.unique().tolist():
        rows = images.rows_of(label)
        chosen = rows[torch.randperm(len(rows), generator=generator)[:REAL_IMAGES]]
        with torch.no_grad():
            real = network.features(params, images.inputs(chosen))
        centres[label] = real.mean(0)
        thresholds[label] = 1.0
        if len(chosen) >= MIN_PROTOTYPE_IMAGES:
            thresholds[label] = float(torch.quantile(_pairs(_cosines_beside_others(real)), quantile))
    return Judge(network, params, centres, thresholds)


@dataclass(frozen=True)
class Overlap:
    """What was measured of n synthetic images.

    ``similarity``: for every image the largest to another of its class, ``(n,)``, -1 where there is none.
    ``threshold``: its class's, ``(n,)``. ``worse``: which images start anew, ``(n,)`` bool. ``diversity``: the mean
    distance (1 - similarity) of all pairs of a class, averaged over classes.
    """

    similarity: Tensor
    threshold: Tensor
    worse: Tensor
    diversity: float

    @property
    def share(self) -> float:
        """The share of images that overlap too much with another."""
        return float((self.similarity > self.threshold).double().mean())


def measure_overlap(judge: Judge, synthetic: Tensor, classes: Tensor) -> Overlap:
    """Overlap of normalised ``synthetic`` images ``(n, C, H, W)`` of the ``classes`` ``(n,)``."""
    similarity, threshold = torch.full((len(classes),), -1.0), torch.full((len(classes),), 1.0)
    worse, diversity = torch.zeros(len(classes), dtype=torch.bool), []
    for label in classes.unique().tolist():
        mine = classes == label
        cosines = _cosines(judge.directions(synthetic[mine], label))
        others = cosines - 3 * torch.eye(len(cosines))  # an image does not overlap with itself
        rows = mine.nonzero().flatten().cpu()
        similarity[rows] = others.max(1).values.clamp_min(-1)
        threshold[rows] = judge.thresholds[label]
        worse[rows] = worse_of_pairs(others, judge.thresholds[label])
        if len(rows) > 1:
            diversity.append(1 - _pairs(cosines).mean())
    return Overlap(similarity, threshold, worse, float(torch.stack(diversity).mean()) if diversity else 1.0)


def worse_of_pairs(similarity: Tensor, threshold: float) -> Tensor:
    """Which of n images to start anew, ``(n,)`` bool: of every pair beyond the threshold, the most alike first, the one
    that overlaps with more images, or else the later one.

    Every image is in one pair at most, so that at least as many stay as are started anew.

    ``similarity``: ``(n, n)``, below the threshold between an image and itself.
    """
    overlaps = similarity > threshold
    partners = overlaps.sum(1).tolist()
    pairs = overlaps.triu(1).nonzero()
    order = similarity[pairs[:, 0], pairs[:, 1]].argsort(descending=True, stable=True)
    paired, worse = set[int](), torch.zeros(len(similarity), dtype=torch.bool)
    for first, second in pairs[order].tolist():
        if paired.isdisjoint((first, second)):
            paired |= {first, second}
            worse[first if partners[first] > partners[second] else second] = True
    return worse


def least_alike(
    judge: Judge,
    synthetic: Tensor,
    classes: Tensor,
    worse: Tensor,
    formation: Formation,
    draw: Callable[[int], Tensor],
) -> Tensor:
    """For every image that starts anew the one of its draws that is the least alike to any image of its class that
    stays, or that was chosen before, ``(k, C, s, s)``.

    ``synthetic``: normalised ``(n, C, H, W)``, of the ``classes`` ``(n,)``. ``worse``: ``(n,)`` bool, not all of a
    class. ``draw``: gives the draws for a row, ``(d, C, s, s)``, as images are stored; they are seen enlarged.
    """
    stays, chosen = ~worse.to(classes.device), list[Tensor]()
    labels = classes[~stays].unique().tolist()
    beside = {label: judge.directions(synthetic[stays & (classes == label)], label) for label in labels}
    for row in worse.nonzero().flatten().tolist():
        label, drawn = int(classes[row]), draw(row)
        seen = judge.directions(formation.enlarged(drawn), label)
        best = (seen @ beside[label].T).amax(1).argmin()
        beside[label] = torch.cat([beside[label], seen[best][None]])
        chosen.append(drawn[best])
    return torch.stack(chosen)


def _directions(features: Tensor) -> Tensor:
    return F.normalize(features.flatten(1).cpu().double(), dim=1)


def _cosines(directions: Tensor) -> Tensor:
    """``(n, n)`` float32."""
    return (directions @ directions.T).float()


def _cosines_beside_others(features: Tensor) -> Tensor:
    """``(n, n)`` float32 of n ≥ 3 features: of each pair the cosine, centred on the mean of the n - 2 others.

    Centred on the mean of all, which they are part of, a pair would point apart: by -1 / (n - 1) in the mean. With x
    centred so, the direction of i beside j is (n - 1) x_i + x_j.
    """
    centred = features.flatten(1).cpu().double()
    centred = centred - centred.mean(0)
    products, rest = centred @ centred.T, len(centred) - 1
    mine, other = products.diagonal()[:, None], products.diagonal()
    lengths = rest**2 * mine + 2 * rest * products + other
    along = rest * (mine + other) + (rest**2 + 1) * products
    return (along / (lengths * lengths.T).clamp_min(1e-24).sqrt()).float()


def _pairs(cosines: Tensor) -> Tensor:
    """All but the diagonal, ``(n * (n - 1),)``."""
    return cosines[~torch.eye(len(cosines), dtype=torch.bool)]
