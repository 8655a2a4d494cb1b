"""The rows beside a distilled set: as many real images, drawn at random or chosen by their features.

They hold patients' images: they are for comparison, and nothing here writes them to a file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from meddistill.runtime.streams import stream
from meddistill.teachers.images import LabelledImages

RANDOM = "random"


@dataclass(frozen=True)
class Coreset:
    """A way to choose real images of each class, and where it comes from."""

    name: str
    summary: str
    source: str
    cost: str = "teachers; one forward pass of all training images"
    family: ClassVar[str] = "coresets"
    learns: ClassVar[tuple[str, ...]] = ()
    contains_patients: ClassVar[bool] = True


CORESETS: dict[str, Coreset] = {
    one.name: one
    for one in (
        Coreset(RANDOM, "drawn at random, anew for every seed", "the reference of the others", "none"),
        Coreset(
            "herding",
            "one after the other the image that brings the mean feature of those chosen nearest to the class's",
            "Welling 2009; Rebuffi et al. 2017, arXiv 1611.07725",
        ),
        Coreset(
            "k-center",
            "the image nearest to the class's mean feature, then always the one farthest from all chosen",
            "Sener & Savarese 2018, arXiv 1708.00489",
        ),
    )
}


def random_real(images: LabelledImages, images_per_class: int, seed: int, more: int = 0) -> LabelledImages:
    """``images_per_class`` training images of every class, drawn without replacement from the stream of ``seed``.

    ``more`` classes, drawn too, give one image more.
    """
    favoured = torch.randperm(images.classes, generator=stream(seed, "random real", "classes"))[:more].tolist()
    chosen = []
    for label in range(images.classes):
        rows = images.rows_of(label)
        order = torch.randperm(len(rows), generator=stream(seed, "random real", label))
        chosen.append(rows[order[: images_per_class + (label in favoured)]])
    return images.subset(torch.cat(chosen))


def herding(images: LabelledImages, features: Tensor, images_per_class: int) -> LabelledImages:
    """Of every class the images whose mean feature stays closest to the class's: Welling 2009, as Rebuffi et al. 2017.

    ``features``: ``(N, F)`` of the images. One image after the other is added, always the one that brings the mean of
    those chosen so far (arXiv 1611.07725, algorithm 4) nearest to the mean of the class.
    """

    def of_class(mine: Tensor) -> list[int]:
        mean, total, chosen = mine.mean(0), torch.zeros_like(mine[0]), list[int]()
        for count in range(1, images_per_class + 1):
            distances = ((total + mine) / count - mean).norm(dim=1)
            distances[chosen] = torch.inf
            chosen.append(int(distances.argmin()))
            total = total + mine[chosen[-1]]
        return chosen

    return _chosen(images, features, of_class)


def k_center(images: LabelledImages, features: Tensor, images_per_class: int) -> LabelledImages:
    """Of every class images that leave no other far from all of them: greedy k-center, Sener & Savarese 2018.

    ``features``: ``(N, F)`` of the images. The first is the one nearest to the mean of the class, each next the one
    farthest from all before (arXiv 1708.00489, algorithm 1).
    """

    def of_class(mine: Tensor) -> list[int]:
        chosen = [int((mine - mine.mean(0)).norm(dim=1).argmin())]
        nearest = (mine - mine[chosen[0]]).norm(dim=1)
        while len(chosen) < images_per_class:
            nearest[chosen] = -1.0
            chosen.append(int(nearest.argmax()))
            nearest = torch.minimum(nearest, (mine - mine[chosen[-1]]).norm(dim=1))
        return chosen

    return _chosen(images, features, of_class)


def _chosen(images: LabelledImages, features: Tensor, of_class: Callable[[Tensor], list[int]]) -> LabelledImages:
    """The images whose places among those of their class ``of_class`` tells, class by class."""
    rows = [images.rows_of(label) for label in range(images.classes)]
    return images.subset(torch.cat([mine[of_class(features[mine].double())] for mine in rows]))
