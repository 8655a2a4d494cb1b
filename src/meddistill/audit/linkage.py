"""Can a patient be linked to a synthetic image: is some synthetic image closer to him than chance would have it?

Every image of a patient is compared with every synthetic image among the recogniser's directions. Some synthetic images
resemble everybody, so a likeness counts in units of its spread over all people; a patient's score is the largest.
Besides, each synthetic image retrieves the patient most like it from all people. Were members no closer than others,
that would be a member as often as members are among all. Of few images that says little: where it could not pass for
want of them, and finds no more than chance does, linkage may pass without it.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from meddistill.audit.apart import confidence_of_each, tell_apart, warnings
from meddistill.audit.case import SIDES, Case, Side
from meddistill.audit.finding import Finding, Look, look, worst
from meddistill.audit.statistics import Interval, share

NAME, ASKS = "linkage", "which patients a synthetic image points to"
RETRIEVED_PASSES = 0.10  # by how much more often than by chance members may be retrieved
_RETRIEVAL = 1  # look besides those at the patients' scores


@dataclass(frozen=True)
class Prepared:
    """Likeness of images to synthetic images ``(N, n)`` of each side, and its mean and spread over all people."""

    case: Case
    alike: dict[Side, Tensor]
    mean: Tensor
    spread: Tensor


@dataclass(frozen=True)
class Linked:
    """``scores``: of patients. ``nearest``: each synthetic image's greatest likeness to any of them ``(n,)``."""

    scores: npt.NDArray[np.float64]
    nearest: npt.NDArray[np.float64]


def prepare(case: Case) -> Prepared:
    """Compare all people with all synthetic images."""
    synthetic = case.recogniser.directions(case.synthetic)
    alike = {side: (case.recogniser.of(case.people(side), case.device) @ synthetic.T).double() for side in SIDES}
    together = torch.cat([alike[side] for side in SIDES])
    return Prepared(case, alike, together.mean(0), together.std(0).clamp_min(1e-9))


def attack(prepared: Prepared, side: Side) -> Linked:
    """Scores of the patients of one side."""
    alike = (prepared.alike[side] - prepared.mean) / prepared.spread
    people = prepared.case.people(side)
    return Linked(people.best(alike.amax(1).cpu().numpy()), np.asarray(alike.amax(0).cpu().numpy()))


def judge(members: Linked, control: Linked, case: Case) -> Finding:
    """Patients who stand out, and what the synthetic images retrieve."""
    found = tell_apart(members.scores, control.scores, case.gates, besides=_RETRIEVAL)
    confidence = confidence_of_each(case.gates, besides=_RETRIEVAL)
    retrieved = share(int((members.nearest > control.nearest).sum()), len(members.nearest), confidence)
    chance = case.members.count / (case.members.count + case.control.count)
    by_rank = _by_rank(retrieved, len(members.nearest), chance, confidence)
    loosest = found.rates[-1]
    return Finding(
        NAME,
        ASKS,
        worst([found.outcome, by_rank.outcome]),
        main=loosest.members,
        control=loosest.control,
        baseline=loosest.rate,
        excess=loosest.excess,
        warnings=(*warnings([found], case.gates), *_undecided(by_rank, len(members.nearest))),
        figures={
            **found.as_dict(),
            "retrieved_is_member": retrieved.as_dict(),
            "retrieved_is_member_by_chance": round(chance, 5),
            "undecided": ["retrieved"] if by_rank.wanting else [],
        },
    )


def _by_rank(retrieved: Interval, images: int, chance: float, confidence: float) -> Look:
    """What comes of the share of so many images that retrieve a member; however small, what is surely found alarms."""
    if retrieved.low > chance:
        return Look("alarm")
    most = chance + RETRIEVED_PASSES
    usual = chance + 2 * math.sqrt(chance * (1 - chance) / images)
    at_most = share(min(images, round(usual * images)), images, confidence)
    return look("pass" if retrieved.high <= most else "inconclusive", retrieved.value <= usual, at_most.high <= most)


def _undecided(by_rank: Look, images: int) -> tuple[str, ...]:
    if by_rank.wanting:
        return (f"{images} synthetic images are too few to bound how often they retrieve members",)
    if by_rank.outcome == "inconclusive":
        return ("whether synthetic images retrieve members more often than by chance is undecided",)
    return ()
