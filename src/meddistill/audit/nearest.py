"""The patients who are nearest to an image, by four measures; and which of them are one patient twice.

- ``pixels``: one less the correlation of the two images' details (smoothed over 3 pixels, less the mean of 7 around, so
  that neither noise nor what all such images have in common counts for much), at no more than 32 pixels a side. The
  best of many views of the image counts: mirrored and turned by right angles (8 ways), turned by up to 10 degrees or
  larger or smaller by up to a fifth, and moved by up to an eighth of the side. The sign of the correlation does not
  count, so that an inverted image is found as well. The view is chosen without colour: for all patients with half the
  side and by fewer views, for those who are most alike by all;
- ``texture``: the same without smoothing, which finds what is left of an original under much distilling, by mirroring
  and shifts of up to two pixels alone;
- ``structure``: one less the structural similarity (Wang et al. 2004, doi:10.1109/TIP.2003.819861) of the images so
  registered, of those that are nearest by pixels;
- ``features``: one less the cosine of the recogniser's directions, of the image turned by right angles and inverted.
"""

import math
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
_COARSE = 14  # so many pixels of a side to one, by which images are moved with half the side
# Degrees and scales; the first few are those by which all patients are looked at.
_FIRST = ((0, 1), (-10, 1), (10, 1), (0, 0.83), (0, 1.2))
_BOTH = ((-7, 0.93), (7, 0.93), (-7, 1.08), (7, 1.08))
_TURNS = (*_FIRST, (-5, 1), (5, 1), (0, 0.91), (0, 1.1), *_BOTH)
_WAYS = 8  # by mirroring and right angles
_ROWS = 8  # images compared at once
_LISTED, _MOST, _OF_EACH = 48, 192, 8  # nearest patients that are kept: at least, at most, of the smaller group
# What makes two images one: details so much alike, and so many times nearer than the last that is kept usually is.
_TWIN, _APART = 0.05, 6


@dataclass(frozen=True)
class Gallery:
    """Images of some patients.

    ``images``: small ones ``(N, C, s, s)``. ``coarse``, ``details``, ``texture``: without the margin, centred, of
    length 1 ``(N, pixels)``. ``directions``: the recogniser's ``(N, 64)``. ``patient``: ``(N,)``, from 0 to ``count``
    less 1.
    """

    images: Tensor
    coarse: Tensor
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
    moved = _moved(images)
    coarse = _unit(_inner(_coarse(_details(images)), moved // 2))
    details, texture = _unit(_inner(_details(images), moved)), _unit(_inner(_texture(images), min(_SHIFT, moved)))
    directions = torch.cat([case.recogniser.of(people, case.device) for people in groups])
    *begins, count = np.cumsum([0, *(people.count for people in groups)])
    numbers = np.concatenate([people.patient + begin for people, begin in zip(groups, begins, strict=True)])
    patient = torch.from_numpy(numbers).to(case.device)
    return Gallery(images, coarse, details, texture, directions, patient, int(count))


def first_of(gallery: Gallery, people: People) -> Gallery:
    """The part of a gallery that is its first group, these ``people``; nothing is copied."""
    kept = slice(len(people.labels))
    return Gallery(
        gallery.images[kept],
        gallery.coarse[kept],
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
    for block, small in zip(images.split(_ROWS), _small(images).split(_ROWS), strict=True):
        found["features"].append(_by_patient(_recognised(case, block, gallery), gallery, keep))
        found["texture"].append(_by_patient(_correlations(_texture(small), gallery.texture), gallery, keep))
        for views in _views(small):
            by_pixels, by_structure = _registered(views, gallery, keep)
            found["pixels"].append(by_pixels)
            found["structure"].append(by_structure)
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
    size = gallery.images.shape[-1] - 2 * _moved(gallery.images)
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


def _moved(images: Tensor) -> int:
    """By how many pixels images of this size are moved."""
    return 2 * (images.shape[-1] // _COARSE)


def _inner(images: Tensor, margin: int) -> Tensor:
    """The images without the margin."""
    kept = slice(margin, images.shape[-1] - margin)
    return images[..., kept, kept]


def _coarse(details: Tensor) -> Tensor:
    """With half the side, and without colour."""
    return F.adaptive_avg_pool2d(details.mean(1, keepdim=True), details.shape[-1] // 2)


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


def _recognised(case: Case, images: Tensor, gallery: Gallery) -> Tensor:
    """The best cosine of each image, however turned or inverted, with each row of the gallery ``(n, N)``."""
    ways = [images.rot90(turns, (2, 3)) for turns in range(4)]  # directions are those of mirror images as well
    directions = case.recogniser.directions(torch.cat([*ways, *(1 - way for way in ways)]))
    return (directions @ gallery.directions.T).view(2 * len(ways), len(images), -1).amax(0)


def _correlations(images: Tensor, gallery: Tensor) -> Tensor:
    """The best correlation of each image, mirrored and moved by a few pixels, with each row ``(n, N)``."""
    margin = min(_SHIFT, _moved(images))
    windows = _windows(torch.stack([images, images.flip(3)], 1).flatten(0, 1), margin)
    found = _correlated(windows, gallery)
    lowest, highest = found.view(len(images), -1, len(gallery)).aminmax(dim=1)
    return torch.maximum(-lowest, highest)


def _views(images: Tensor) -> Tensor:
    """The images, turned and scaled, each of these in eight ways ``(n, views, C, s, s)``."""
    return torch.stack([way for turn in _TURNS for way in _ways(_turned(images, *turn))], 1)


def _turned(images: Tensor, degrees: float, scale: float) -> Tensor:
    if (degrees, scale) == (0, 1):
        return images
    cos, sin = (part(math.radians(degrees)) * scale for part in (math.cos, math.sin))
    moves = images.new_tensor([[cos, -sin, 0], [sin, cos, 0]]).expand(len(images), 2, 3)
    grid = F.affine_grid(moves, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _ways(images: Tensor) -> Iterator[Tensor]:
    for one in (images, images.flip(3)):
        for turns in range(_WAYS // 2):
            yield one.rot90(turns, (2, 3))


def _windows(images: Tensor, margin: int) -> Tensor:
    """The images ``(n, C, s, s)`` moved by up to the margin, without it ``(n, ways, ways, C, inner, inner)``."""
    size = images.shape[-1] - 2 * margin
    return images.unfold(2, size, 1).unfold(3, size, 1).permute(0, 2, 3, 1, 4, 5)


def _correlated(windows: Tensor, rows: Tensor) -> Tensor:
    """Correlations of all windows with rows, which are centred and of length 1 ``(windows, rows)``."""
    flat = windows.flatten(3).flatten(0, 2)
    # The mean of a row being 0, that of a window counts for its length alone.
    length: Tensor = flat.norm(dim=1).square() - flat.shape[1] * flat.mean(1).square()
    found: Tensor = (flat @ rows.T) / length.clamp_min(1e-12).sqrt()[:, None]
    return found


def _registered(views: Tensor, gallery: Gallery, keep: int) -> tuple[Found, Found]:
    """The nearest by pixels of one image, and their distance by structure; ``views`` of it ``(views, C, s, s)``."""
    margin, details = _moved(views), _details(views)
    # Half a coarse pixel is much: the image and its mirror image are moved by one pixel besides.
    between = [details[[0, _WAYS // 2]].roll(step, (2, 3)) for step in ((0, 1), (1, 0), (1, 1))]
    coarse = _windows(_coarse(torch.cat([details[: len(_FIRST) * _WAYS], *between])), margin // 2)
    lowest, highest = _correlated(coarse, gallery.coarse).aminmax(dim=0)
    alike = torch.maximum(-lowest, highest)
    row = _by_patient(alike[None], gallery, keep).row[0]
    theirs = gallery.details[row]
    grey = _unit(theirs.view(len(row), views.shape[1], -1).mean(1))
    shapes = _windows(details.mean(1, keepdim=True), margin)
    way = torch.unravel_index(_correlated(shapes, grey).abs().argmax(0), shapes.shape[:3])
    found = (_unit(_windows(details, margin)[way]) * theirs).sum(1)
    one = _windows(views, margin)[way]
    one = torch.where(found[:, None, None, None] < 0, 1 - one, one)
    by_structure = 1 - similarity(one, _inner(gallery.images[row], margin))
    return _sorted(1 - found.abs(), row), _sorted(by_structure, row)


def _sorted(distance: Tensor, row: Tensor) -> Found:
    order = distance.argsort()
    return Found(distance[order][None], row[order][None])


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
