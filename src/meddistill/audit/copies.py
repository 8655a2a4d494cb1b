"""Is a synthetic image a copy, or nearly one, of one patient's image?

Of every synthetic image the nearest patient is looked for, and the second nearest, by the four measures of
``audit.nearest``. An image that shows nobody in particular is about as far from both; a copy is much nearer to its
original than to anybody else. So what counts is the ratio of the two distances, for which no scale has to be known. Who
has nearly the same image as the nearest is not the second: he may be the same patient under another id, and of images
of one patient a copy is about as far from one as from the other.

What ratios mean is learned from the control patients, who are other people than the members: theirs to the members
show how near two different patients may come (those that nearly are a member's image, who is in both groups then, are
left out). A synthetic image is *close* if its ratio is below that of all but one in a hundred of them. If it is below a
third as well, the usual bound for memorised images of generative models, it is a *copy*, unless strangers come so near
too: from the lower tail of their ratios (Hill 1975, doi:10.1214/aos/1176343247) follows how many such images a set of
this size has by accident, and where that is not next to none the image is a *likeness*, of which a person has to judge.
One copy fails the package, and so do far more images close to members than to control patients (each beside what is
usual among so many patients), and ratios that are smaller to members than to control patients on the whole
(``audit.lots``), which is how a set shows that started from real images and was then distilled for long. With a
likeness it does not pass. Few images say little of shares and orders: where they could not pass for want of images, and
find no more than chance does, the set may pass without them. That nothing is found is no evidence of safety: what was
learned of patients need not look like them.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from meddistill.audit.case import Case, Side
from meddistill.audit.finding import Finding, Look, Outcome, look, numbered, worst
from meddistill.audit.finding import judge as judge_excess
from meddistill.audit.lots import areas, beside_lots, by_lot, drawn
from meddistill.audit.lots import usual as usual_area
from meddistill.audit.nearest import (
    MEASURES,
    Near,
    first_of,
    gallery_of,
    listed,
    near,
    nearest,
    share_of_twins,
    twin_distance,
)
from meddistill.audit.statistics import CONFIDENCE, Interval, difference, share
from meddistill.runtime.streams import numpy_stream

NAME, ASKS = "copies", "synthetic images that are nearly one patient's image"
COPY = 1 / 3
CLOSE_RATE = 0.01  # of control patients
LOOKS = 3 * len(MEASURES)  # the share of close images, their order, and single ones that are copies
ACCIDENTS = (1 - CONFIDENCE) / LOOKS  # images that may be expected to come so near by accident, if one is to be a copy
CLOSE_PASSES, CLOSE_FAILS = 0.05, 0.10  # by how much more synthetic images may be close to members than to control
NEARER = 0.55  # area under the ROC curve of ratios to members against ratios to control, below a pass, above a failure
ORDERED = 8  # images, below which nothing is said of the whole set
TWINS_TOLD = 0.05  # of images that are nearly another patient's, from which on it is said
MIXED = 0.5  # of control images that nearly are a member's, above which nothing passes
LIMIT = "an alarm for copies alone: that there are none is no evidence of safety"

Ratios = Mapping[str, npt.NDArray[np.float64]]
_QUERIES = 300  # control images, whose ratios are the usual ones
_GALLERIES = 50  # draws of as many members as there are control patients, for what is usual among so many
_TAIL, _LEAST_TAIL = 0.1, 10  # the share of the usual ratios that the tail is learned from, and how many at least
_SHOWN = 8  # numbers of images


@dataclass(frozen=True)
class Twins:
    """The shares of images that nearly are an image of another patient: of members, and of control patients to members.

    ``below``: the distance by pixels.
    """

    below: float
    members: float
    control: float

    def as_dict(self) -> dict[str, float]:
        """JSON-able."""
        return {name: round(value, 4) for name, value in vars(self).items()}


@dataclass(frozen=True)
class Prepared:
    """``usual``: the ratios of control images to as many members as each side has patients, by side and measure.

    ``found``: whom synthetic images are near. ``lots``: areas where lots decide who is a member, by measure.
    """

    case: Case
    usual: Mapping[Side, Ratios]
    found: Mapping[str, Near]
    lots: Ratios
    twins: Twins


@dataclass(frozen=True)
class Compared:
    """Ratios of the synthetic images to the patients of one side, those that are usual, and areas by lot."""

    ratios: Ratios
    usual: Ratios
    lots: Ratios
    twins: Twins


def prepare(case: Case) -> Prepared:
    """Learn what is usual from up to 300 control images, and find the nearest patients of every synthetic image."""
    members, control = case.members, case.control
    rows = numpy_stream(case.seed, "copies").permutation(len(control.labels))[:_QUERIES]
    everybody = gallery_of(case, members, control)
    inside = first_of(everybody, members)
    keep = listed(min(members.count, control.count), everybody.count)
    of_control = nearest(case, control.images(rows).to(case.device), inside, keep)
    below = twin_distance(of_control["pixels"])
    # A control image that nearly is a member's shows that people are in both groups, not what is usual.
    strange = (of_control["pixels"].distance[:, 0] >= below).cpu().numpy()
    usual = _usual(near(of_control, inside, below), strange if strange.any() else ~strange, case)
    looked = torch.from_numpy(numpy_stream(case.seed, "copies", "twins").permutation(len(members.labels))[:_QUERIES])
    found = near(nearest(case, case.synthetic, everybody, keep), everybody, below)
    chosen = drawn(everybody.count, members.count, numpy_stream(case.seed, "copies", "lots"))
    return Prepared(
        case,
        usual,
        found,
        {name: by_lot(one, chosen) for name, one in found.items()},
        Twins(below, share_of_twins(inside, looked.to(case.device), below), 1 - float(strange.mean())),
    )


def _usual(of_control: Mapping[str, Near], strange: npt.NDArray[np.bool_], case: Case) -> dict[Side, Ratios]:
    """Ratios of control images to all members, and to draws of as many members as there are control patients."""
    count = case.members.count
    fewer = min(count, case.control.count)
    chosen = drawn(count, fewer, numpy_stream(case.seed, "copies", "galleries"), _GALLERIES)
    everybody = np.ones(count, bool)
    return {
        "members": {name: one.ratios(everybody)[strange] for name, one in of_control.items()},
        "control": {
            name: np.concatenate([one.ratios(some)[:, strange].ravel() for some in chosen])
            for name, one in of_control.items()
        },
    }


def attack(prepared: Prepared, side: Side) -> Compared:
    """Ratios of every synthetic image to the patients of one side."""
    case = prepared.case
    among = (np.arange(case.members.count + case.control.count) < case.members.count) == (side == "members")
    ratios = {name: one.ratios(among) for name, one in prepared.found.items()}
    return Compared(ratios, prepared.usual[side], prepared.lots, prepared.twins)


def judge(members: Compared, control: Compared, case: Case) -> Finding:
    """Count copies and close images, and compare ratios, by every measure; intervals are widened for all looks."""
    limits, other_limits = (
        {name: float(np.quantile(found.usual[name], CLOSE_RATE)) for name in MEASURES} for found in (members, control)
    )
    close, others = (
        {name: int((found.ratios[name] < below[name]).sum()) for name in MEASURES}
        for found, below in ((members, limits), (control, other_limits))
    )
    most = max(MEASURES, key=lambda name: close[name] - others[name])
    confidence = 1 - (1 - CONFIDENCE) / LOOKS
    count = len(members.ratios[most])
    excess = {name: difference(close[name], count, others[name], count, confidence) for name in MEASURES}
    copied, alike = found_near(members, limits)
    shares = {name: _by_share(excess[name], count, confidence) for name in MEASURES}
    nearer = {
        name: beside_lots(float(areas(members.ratios[name], control.ratios[name])), members.lots[name], confidence)
        for name in MEASURES
    }
    surest = max(nearer.values(), key=lambda one: one.low)
    orders = {} if count < ORDERED else {name: _by_order(nearer[name], members.lots[name]) for name in MEASURES}
    looks = (*shares.values(), *orders.values())
    return Finding(
        NAME,
        ASKS,
        # A handful of images is too few for a share; whether one of them is a copy can still be said.
        worst(
            [
                _by_nearness(copied, alike),
                *(one.outcome for one in looks),
                "inconclusive" if members.twins.control > MIXED else "pass",
            ]
        ),
        main=share(close[most], count, confidence),
        control=share(others[most], count, confidence),
        baseline=CLOSE_RATE,
        excess=excess[most],
        warnings=(
            *_to_be_seen(alike),
            *_doubled(members.twins),
            *_undecided(count, shares.values(), orders.values()),
            LIMIT,
        ),
        anyway=_by_nearness(copied, alike),
        figures={
            "copies": len(copied),
            "likenesses": len(alike),
            "synthetic_images": count,
            "strongest": most,
            "near_duplicates": members.twins.as_dict(),
            "nearer_to_members": surest.as_dict(),
            "undecided": _wanting(shares.values(), orders.values()),
            **{
                name: _told(members, control, name, limits[name], other_limits[name])
                | {"excess": excess[name].as_dict(), "nearer": nearer[name].as_dict()}
                for name in MEASURES
            },
        },
    )


def _by_share(excess: Interval, count: int, confidence: float) -> Look:
    """What comes of the excess of close images by one measure."""
    usual = CLOSE_RATE * count
    more = round(2 * math.sqrt(2 * usual))  # that chance may bring of the usual share in both
    at_most = difference(min(count, round(usual) + more), count, round(usual), count, confidence)
    outcome = judge_excess(excess, 0.0, CLOSE_PASSES, CLOSE_FAILS)
    return look(outcome, round(excess.value * count) <= more, at_most.high <= CLOSE_PASSES)


def _by_order(nearer: Interval, lots: npt.NDArray[np.float64]) -> Look:
    """What comes of the area by one measure; a set that surely leans to members is an alarm however little it does."""
    if nearer.low > 0.5:
        return Look("fail" if nearer.low > NEARER else "alarm")
    outcome: Outcome = "pass" if nearer.high <= NEARER else "inconclusive"
    usual = usual_area(lots)
    return look(outcome, nearer.value <= usual, usual + nearer.high - nearer.value <= NEARER)


def _wanting(shares: Collection[Look], orders: Collection[Look]) -> list[str]:
    """What passes though there are too few images to decide it: ``share`` of close ones, ``order``."""
    order = not orders or any(one.wanting for one in orders)
    return [*(["share"] if any(one.wanting for one in shares) else []), *(["order"] if order else [])]


def _undecided(count: int, shares: Collection[Look], orders: Collection[Look]) -> Iterator[str]:
    """What so many synthetic images do not tell."""
    few = f"{count} synthetic images are too few to"
    if any(one.outcome == "inconclusive" for one in shares):
        yield "whether more images are close to members than to control patients is undecided"
    if any(one.outcome == "inconclusive" for one in orders):
        yield "whether images are nearer to members than to control patients on the whole is undecided"
    if any(one.wanting for one in shares):
        yield f"{few} bound the share of close ones"
    if not orders:
        yield f"{few} be judged by their order as well"
    if any(one.wanting for one in orders):
        yield f"{few} bound by how much they are nearer to members"


def _told(members: Compared, control: Compared, name: str, limit: float, other: float) -> dict[str, Any]:
    """The figures of one measure, with the limits to members and to control patients."""
    mine, theirs = members.ratios[name], control.ratios[name]
    return {
        "close_below": round(limit, 4),
        "close_below_to_control": round(other, 4),
        "close_to_members": int((mine < limit).sum()),
        "close_to_control": int((theirs < other).sum()),
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
    copied = (near & (each <= ACCIDENTS)).any(0)
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


def _doubled(twins: Twins) -> tuple[str, ...]:
    """What to say of patients who seem to stand under several ids, or in both groups."""
    told = []
    if twins.members > TWINS_TOLD:
        told.append(
            f"{100 * twins.members:.0f} % of members' images are nearly another member's, by accident or because ids "
            "tell one patient several times: such members were taken for one"
        )
    if twins.control > TWINS_TOLD:
        told.append(
            f"{100 * twins.control:.0f} % of control images are nearly a member's, so the same patients may be in both "
            "groups, which hides leaks: others alone tell what is usual"
        )
    return tuple(told)
