"""Is a synthetic image a copy, or nearly one, of one patient's image?

Of every synthetic image the nearest patient is looked for, and the second nearest. An image that shows nobody in
particular is about as far from both; a copy is much nearer to its original than to anybody else. So what counts is the
ratio of the two distances, for which no scale has to be known, by four measures:

- ``pixels``: one less the correlation of the two images' details (smoothed over 3 pixels, less the mean of 7 around, so
  that neither noise nor what all such images have in common counts for much), the best of both mirror images and of
  shifts by up to two pixels, at no more than 32 pixels a side;
- ``texture``: the same without smoothing, which finds what is left of an original under much distilling;
- ``structure``: one less the structural similarity (Wang et al. 2004, doi:10.1109/TIP.2003.819861) of the images so
  registered, of those that are nearest by pixels;
- ``features``: one less the cosine of the recogniser's directions.

What ratios mean is learned from the control patients, who are other people than the members: theirs to the members
show how near two different patients may come. A synthetic image is *close* if its ratio is below that of all but one
in a hundred of them. If it is below a third as well, the usual bound for memorised images of generative models, it is
a *copy*, unless strangers come so near too: from the lower tail of their ratios (Hill 1975,
doi:10.1214/aos/1176343247) follows how many such images a set of this size has by accident, and where that is not
next to none the image is a *likeness*, of which a person has to judge. One copy fails the package, and so do far more
images close to members than to control patients, and ratios that are smaller to members than to control patients on
the whole, which is how a set shows that started from real images and was then distilled for long. With a likeness it
does not pass. That nothing is found is no evidence of safety: what was learned of patients need not look like them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.audit.case import Case, Side
from meddistill.audit.finding import Finding, Outcome, numbered, worst
from meddistill.audit.finding import judge as judge_excess
from meddistill.audit.people import People
from meddistill.audit.statistics import CONFIDENCE, area, difference, share
from meddistill.runtime.streams import numpy_stream

NAME, ASKS = "copies", "synthetic images that are nearly one patient's image"
MEASURES = ("pixels", "texture", "structure", "features")
COPY = 1 / 3
CLOSE_RATE = 0.01  # of control patients
ACCIDENTS = 0.05  # images that may be expected to come so near by accident, in all, for one that did to be a copy
CLOSE_PASSES, CLOSE_FAILS = 0.05, 0.10  # by how much more synthetic images may be close to members than to control
NEARER_FAILS = 0.55  # area under the ROC curve of ratios to members against ratios to control patients
LIMIT = "an alarm for copies alone: that there are none is no evidence of safety"

Ratios = Mapping[str, npt.NDArray[np.float64]]
_SIDE, _SHIFT, _WINDOW = 32, 2, 7
_QUERIES = 300  # control images, whose ratios are the usual ones
_TAIL, _LEAST_TAIL = 0.1, 10  # the share of the usual ratios that the tail is learned from, and how many at least
_CANDIDATES = 16
_ROWS = 8  # images compared at once
_SHOWN = 8  # numbers of images


@dataclass(frozen=True)
class Prepared:
    """``usual``: the ratios of control images to the members, by measure."""

    case: Case
    usual: Ratios


@dataclass(frozen=True)
class Compared:
    """Ratios of the synthetic images to the patients of one side, and those that are usual."""

    ratios: Ratios
    usual: Ratios


def prepare(case: Case) -> Prepared:
    """Learn what is usual from up to 300 control images."""
    rows = numpy_stream(case.seed, "copies").permutation(len(case.control.labels))[:_QUERIES]
    return Prepared(case, ratios(case, case.control.images(rows).to(case.device), case.members))


def attack(prepared: Prepared, side: Side) -> Compared:
    """Compare every synthetic image with the patients of one side."""
    case = prepared.case
    return Compared(ratios(case, case.synthetic, case.people(side)), prepared.usual)


def judge(members: Compared, control: Compared, case: Case) -> Finding:
    """Count copies, and close images by the measure that shows most; intervals are widened for there being four."""
    limits = {name: float(np.quantile(members.usual[name], CLOSE_RATE)) for name in MEASURES}
    close, others = (
        {name: int((found.ratios[name] < limits[name]).sum()) for name in MEASURES} for found in (members, control)
    )
    most = max(MEASURES, key=lambda name: close[name] - others[name])
    confidence = 1 - (1 - CONFIDENCE) / len(MEASURES)
    count = len(members.ratios[most])
    excess = difference(close[most], count, others[most], count, confidence)
    copied, alike = found_near(members, limits)
    by_share = judge_excess(excess, 0.0, CLOSE_PASSES, CLOSE_FAILS)
    nearer = {name: area(-members.ratios[name], -control.ratios[name], confidence) for name in MEASURES}
    surest = max(nearer.values(), key=lambda one: one.low)
    by_order: Outcome = "fail" if surest.low > NEARER_FAILS else "alarm" if surest.low > 0.5 else "pass"
    few = by_share == "inconclusive"
    return Finding(
        NAME,
        ASKS,
        # A handful of images is too few for a share; whether one of them is a copy can still be said.
        worst([_by_nearness(copied, alike), "pass" if few else by_share, by_order]),
        main=share(close[most], count, confidence),
        control=share(others[most], count, confidence),
        baseline=CLOSE_RATE,
        excess=excess,
        warnings=(
            *_to_be_seen(alike),
            *((f"{count} synthetic images are too few to bound the share of close ones",) if few else ()),
            LIMIT,
        ),
        figures={
            "copies": len(copied),
            "likenesses": len(alike),
            "synthetic_images": count,
            "strongest": most,
            "nearer_to_members": surest.as_dict(),
            **{
                name: _told(members, control, name, limits[name]) | {"nearer": nearer[name].as_dict()}
                for name in MEASURES
            },
        },
    )


def _told(members: Compared, control: Compared, name: str, limit: float) -> dict[str, Any]:
    """The figures of one measure."""
    mine, theirs = members.ratios[name], control.ratios[name]
    return {
        "close_below": round(limit, 4),
        "close_to_members": int((mine < limit).sum()),
        "close_to_control": int((theirs < limit).sum()),
        "smallest_to_members": round(float(mine.min()), 4),
        "smallest_to_control": round(float(theirs.min()), 4),
        "below_a_third_by_accident": round(float(accidents(np.full(len(mine), COPY), members.usual[name])[0]), 3),
    }


def found_near(members: Compared, limits: Mapping[str, float]) -> tuple[list[int], list[int]]:
    """Which synthetic images, counted from 0, are copies by any measure, and which others are likenesses.

    ``limits``: below which an image is close, by measure.
    """
    each = np.stack([accidents(members.ratios[name], members.usual[name]) for name in MEASURES])
    near = np.stack([members.ratios[name] < min(COPY, limits[name]) for name in MEASURES])
    copied = (near & (each * len(MEASURES) <= ACCIDENTS)).any(0)
    return np.flatnonzero(copied).tolist(), np.flatnonzero(near.any(0) & ~copied).tolist()


def accidents(found: npt.NDArray[np.float64], usual: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """How many of so many images would have a ratio as small as each of ``found`` ``(n,)`` if they were strangers.

    Below the tenth part of the ``usual`` ratios ``(m,)`` their distribution is taken for a power of the ratio, with
    Hill's estimate of the exponent.
    """
    count = min(len(usual), max(_LEAST_TAIL, round(_TAIL * len(usual))))
    tail = np.sort(usual)[:count].clip(1e-12)
    begin = tail[-1]
    exponent = 1 / max(float(np.log(begin / tail).mean()), 1e-12)
    chance = count / len(usual) * (found.clip(1e-12) / begin).clip(max=1.0) ** exponent
    return np.asarray(len(found) * chance)


def _by_nearness(copied: list[int], alike: list[int]) -> Outcome:
    return "fail" if copied else "inconclusive" if alike else "pass"


def _to_be_seen(alike: list[int]) -> tuple[str, ...]:
    if not alike:
        return ()
    return (f"as near to one patient as strangers come in a set of this size: look at {numbered(alike, _SHOWN)}",)


def ratios(case: Case, images: Tensor, people: People) -> Ratios:
    """By measure, each image's distance to the nearest patient over that to the second nearest ``(n,)``.

    ``images``: intensities ``(n, C, S, S)``. A patient is as near as his nearest image.
    """
    directions, gallery = case.recogniser.directions(images), _gallery(people, case.device)
    alike = directions @ case.recogniser.of(people, case.device).T
    patient = torch.from_numpy(people.patient).to(case.device)
    found: dict[str, list[Tensor]] = {name: [] for name in MEASURES}
    found["features"].append(_ratio(alike, patient.expand_as(alike)))
    for block in _small(images).split(_ROWS):
        by_texture, _ = _correlations(_texture(block), gallery.texture)
        found["texture"].append(_ratio(by_texture, patient.expand_as(by_texture)))
        by_pixels, view = _correlations(_details(block), gallery.details)
        found["pixels"].append(_ratio(by_pixels, patient.expand_as(by_pixels)))
        nearest = by_pixels.topk(min(_CANDIDATES, by_pixels.shape[1]), dim=1).indices
        by_structure = _structure(block, gallery.images[nearest], view.gather(1, nearest))
        found["structure"].append(_ratio(by_structure, patient[nearest]))
    return {name: torch.cat(parts).double().cpu().numpy() for name, parts in found.items()}


class _Gallery(NamedTuple):
    """Small images ``(N, C, s, s)``; details and texture without the margin, centred, of length 1 ``(N, pixels)``."""

    images: Tensor
    details: Tensor
    texture: Tensor


def _gallery(people: People, device: torch.device) -> _Gallery:
    images = torch.cat([_small(block) for block in people.blocks(device)])
    margin = slice(_SHIFT, images.shape[-1] - _SHIFT)
    details, texture = (_unit(part(images)[..., margin, margin]) for part in (_details, _texture))
    return _Gallery(images, details, texture)


def _small(images: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(images, _SIDE) if images.shape[-1] > _SIDE else images


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
    margin = slice(_SHIFT, images.shape[-1] - _SHIFT)
    return similarity(one, candidates[..., margin, margin].flatten(0, 1)).view(view.shape)


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


def _ratio(alike: Tensor, patient: Tensor) -> Tensor:
    """Distance to the nearest patient over that to the nearest other, of likenesses ``(n, k)`` to images of patients.

    1 where there is no other.
    """
    nearest = alike.max(1)
    own = patient.gather(1, nearest.indices[:, None])
    second = alike.masked_fill(patient == own, -torch.inf).amax(1)
    ratio = (1 - nearest.values).clamp_min(0) / (1 - second).clamp_min(1e-9)
    return torch.where(torch.isfinite(second), ratio, torch.ones_like(ratio))
