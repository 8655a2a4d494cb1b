"""The patients who are nearest to an image, by four measures; and which of them are one patient twice.

- ``pixels``: one less the correlation of the two images' details (smoothed over 3 pixels, less the mean of 7 around, so
  that neither noise nor what all such images have in common counts for much), the best of both mirror images and of
  shifts by up to two pixels, at no more than 32 pixels a side;
- ``texture``: the same without smoothing, which finds what is left of an original under much distilling;
- ``structure``: one less the structural similarity (Wang et al. 2004, doi:10.1109/TIP.2003.819861) of the images so
  registered, of those that are nearest by pixels;
- ``features``: one less the cosine of the recogniser's directions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.audit.case import Case
from meddistill.audit.people import People

MEASURES = ("pixels", "texture", "structure", "features")
Floats = npt.NDArray[np.float64]
_SIDE, _SHIFT, _WINDOW = 32, 2, 7
_ROWS = 8  # images compared at once
_LISTED, _MOST, _OF_EACH = 48, 192, 8  # nearest patients that are kept: at least, at most, of the smaller group
# What makes two images one: details so much alike, and so many times nearer than the last that is kept usually is.
_TWIN, _APART = 0.05, 6


@dataclass(frozen=True)
class Gallery:
    """Images of some patients.

    ``images``: small ones ``(N, C, s, s)``. ``details``, ``texture``: without the margin, centred, of length 1
    ``(N, pixels)``. ``directions``: the recogniser's ``(N, 64)``. ``patient``: ``(N,)`` from 0 to ``count`` - 1.
    """

    images: Tensor
    details: Tensor
    texture: Tensor
    directions: Tensor
    patient: Tensor
    count: int


class Found(NamedTuple):
    """Of each image the nearest patients, nearest first: the distance and the row of the image ``(n, k)``."""

    distance: Tensor
    row: Tensor


@dataclass(frozen=True)
class Near:
    """Of each image the nearest patients ``(n, k)``, nearest first.

    ``twins`` ``(n, k, k)``: which of them are to be taken for one patient; ``whole``: there are no others.
    """

    distance: Floats
    patient: npt.NDArray[np.int64]
    twins: npt.NDArray[np.bool_]
    whole: bool

    def ratios(self, among: npt.NDArray[np.bool_]) -> Floats:
        """The distance to the nearest patient over that to the second nearest ``(..., n)``, ``among`` these
        ``(..., count)`` alone.

        Who is one with the nearest does not count as second. 1 where there is no other; where the list ends before
        one, its last distance stands for him, who is no nearer.
        """
        inside = among[..., self.patient]
        first = inside.argmax(-1)
        rows = np.arange(len(self.distance))
        others = inside & ~self.twins[rows, first]
        nearest, second = self.distance[rows, first], self.distance[rows, others.argmax(-1)]
        second = np.where(others.any(-1), second, nearest if self.whole else self.distance[:, -1])
        found = np.where(second > 0, nearest / np.maximum(second, 1e-9), 1.0)
        return np.where(inside.any(-1), found, 1.0)


def gallery_of(case: Case, *groups: People) -> Gallery:
    """All images of these people, the numbers of the patients of each group following on those of the one before."""
    images = torch.cat([_small(block) for people in groups for block in people.blocks(case.device)])
    details, texture = (_unit(_inner(part(images))) for part in (_details, _texture))
    directions = torch.cat([case.recogniser.of(people, case.device) for people in groups])
    begins = np.cumsum([0, *(people.count for people in groups)])
    patient = np.concatenate([people.patient + begin for people, begin in zip(groups, begins, strict=False)])
    return Gallery(images, details, texture, directions, torch.from_numpy(patient).to(case.device), int(begins[-1]))


def first_of(gallery: Gallery, people: People) -> Gallery:
    """The part of a gallery that is its first group, these ``people``; nothing is copied."""
    kept = slice(len(people.labels))
    return Gallery(
        gallery.images[kept],
        gallery.details[kept],
        gallery.texture[kept],
        gallery.directions[kept],
        gallery.patient[kept],
        people.count,
    )


def listed(fewer: int, people: int) -> int:
    """How many nearest patients of ``people`` to keep, so that some are left among ``fewer`` of them drawn by lot."""
    return min(people, max(_LISTED, min(_MOST, -(-_OF_EACH * people // fewer))))


def nearest(case: Case, images: Tensor, gallery: Gallery, keep: int) -> dict[str, Found]:
    """The nearest ``keep`` patients of each image by each measure. ``images``: intensities ``(n, C, S, S)``.

    A patient is as near as his nearest image; by structure only those who are among the nearest by pixels count.
    """
    found: dict[str, list[Found]] = {name: [] for name in MEASURES}
    directions = case.recogniser.directions(images)
    for block, direction in zip(_small(images).split(_ROWS), directions.split(_ROWS), strict=True):
        found["features"].append(_by_patient(direction @ gallery.directions.T, gallery, keep))
        found["texture"].append(_by_patient(_correlations(_texture(block), gallery.texture)[0], gallery, keep))
        alike, view = _correlations(_details(block), gallery.details)
        by_pixels = _by_patient(alike, gallery, keep)
        found["pixels"].append(by_pixels)
        distance = 1 - _structure(block, gallery.images[by_pixels.row], view.gather(1, by_pixels.row))
        order = distance.argsort(1)
        found["structure"].append(Found(distance.gather(1, order), by_pixels.row.gather(1, order)))
    return {name: Found(*map(torch.cat, zip(*parts, strict=True))) for name, parts in found.items()}


def twin_distance(usual: Found) -> float:
    """How near, by pixels, two images are that are one; ``usual``: what is near to control images by pixels."""
    return min(_TWIN, float(usual.distance[:, -1].median()) / _APART)


def near(found: Mapping[str, Found], gallery: Gallery, below: float) -> dict[str, Near]:
    """The nearest patients, and which of them are one, by a distance ``below`` that of twins."""
    return {name: _near(one, gallery, below) for name, one in found.items()}


def _near(found: Found, gallery: Gallery, below: float) -> Near:
    twins = torch.stack([_twins(rows, gallery, below) for rows in found.row])
    return Near(
        found.distance.double().clamp_min(0).cpu().numpy(),
        gallery.patient[found.row].cpu().numpy(),
        twins.cpu().numpy(),
        found.row.shape[1] == gallery.count,
    )


def _twins(rows: Tensor, gallery: Gallery, below: float) -> Tensor:
    """Which of these images are one; each is with itself."""
    return _one(rows, gallery.details[rows], gallery, below) | torch.eye(
        len(rows), dtype=torch.bool, device=rows.device
    )


def share_of_twins(gallery: Gallery, rows: Tensor, below: float) -> float:
    """The share of these images of the gallery that nearly are an image of another patient in it."""
    other = gallery.patient[rows, None] != gallery.patient
    return float((_one(rows, gallery.details, gallery, below) & other).any(1).double().mean())


def _one(rows: Tensor, details: Tensor, gallery: Gallery, below: float) -> Tensor:
    """Whether images of the gallery, as they are or mirrored, are one with others, whose ``details`` are given."""
    theirs = gallery.details[rows]
    size = gallery.images.shape[-1] - 2 * _SHIFT
    mirrored = theirs.view(len(rows), -1, size, size).flip(3).flatten(1)
    return 1 - torch.maximum(theirs @ details.T, mirrored @ details.T) < below


def _by_patient(alike: Tensor, gallery: Gallery, keep: int) -> Found:
    """The ``keep`` patients who are most alike, each by his most alike image; ``alike``: of all images ``(n, N)``."""
    whose = gallery.patient.expand_as(alike)
    best = alike.new_full((len(alike), gallery.count), -torch.inf).scatter_reduce(1, whose, alike, "amax")
    numbers = torch.arange(alike.shape[1], device=alike.device).expand_as(alike)
    theirs = numbers.masked_fill(alike < best.gather(1, whose), -1)
    row = numbers.new_full(best.shape, -1).scatter_reduce(1, whose, theirs, "amax")
    values, patients = best.topk(min(keep, gallery.count), dim=1)
    return Found(1 - values, row.gather(1, patients))


def _small(images: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(images, _SIDE) if images.shape[-1] > _SIDE else images


def _inner(images: Tensor) -> Tensor:
    """The images without the margin."""
    kept = slice(_SHIFT, images.shape[-1] - _SHIFT)
    return images[..., kept, kept]


def _details(images: Tensor) -> Tensor:
    """What is larger than noise and smaller than a seventh of the field."""
    smooth = _blurred(images, 3)
    return smooth - _blurred(smooth, _WINDOW)


def _texture(images: Tensor) -> Tensor:
    """What is smaller than a seventh of the field."""
    return images - _blurred(images, _WINDOW)


def _blurred(images: Tensor, width: int) -> Tensor:
    return F.avg_pool2d(F.pad(images, (width // 2,) * 4, mode="replicate"), width, 1)


def _unit(images: Tensor) -> Tensor:
    flat = images.flatten(1)
    return F.normalize(flat - flat.mean(1, keepdim=True), dim=1, eps=1e-6)


def _views(images: Tensor) -> Iterator[Tensor]:
    """The images ``(n, C, s, s)`` and their mirror images, moved by up to two pixels, without the margin."""
    inner = images.shape[-1] - 2 * _SHIFT
    for turned in (images, images.flip(3)):
        for down in range(2 * _SHIFT + 1):
            for right in range(2 * _SHIFT + 1):
                yield turned[..., down : down + inner, right : right + inner]


def _correlations(images: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """The best correlation of each image with each row of the gallery ``(n, N)``, and by which view."""
    views = torch.stack([_unit(view) for view in _views(images)], 1)
    found = (views.flatten(0, 1) @ gallery.T).view(len(images), -1, len(gallery))
    best = found.max(1)
    return best.values, best.indices


def _structure(images: Tensor, candidates: Tensor, view: Tensor) -> Tensor:
    """Structural similarity of each image to its candidates ``(n, k, C, s, s)``, by the ``view`` ``(n, k)`` of it."""
    views = torch.stack(list(_views(images)), 1)
    one = views[torch.arange(len(images), device=view.device)[:, None], view].flatten(0, 1)
    return similarity(one, _inner(candidates).flatten(0, 1)).view(view.shape)


def similarity(one: Tensor, other: Tensor) -> Tensor:
    """Structural similarity ``(n,)`` of pairs of images ``(n, C, s, s)``: windows of 7 pixels, a range of 1."""

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, min(_WINDOW, values.shape[-1]), 1)

    first, second = mean(one), mean(other)
    spread = mean(one * one) - first**2, mean(other * other) - second**2
    shared = mean(one * other) - first * second
    brightness, contrast = 0.01**2, 0.03**2
    above = (2 * first * second + brightness) * (2 * shared + contrast)
    return (above / ((first**2 + second**2 + brightness) * (spread[0] + spread[1] + contrast))).mean((1, 2, 3))
