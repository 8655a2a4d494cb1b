"""How much must the run have told at least of records that were planted in it by coins?

A package that was distilled with canaries (:mod:`meddistill.pipeline.canaries`) is asked as its receiver might: every
canary gets the four scores of :mod:`meddistill.audit.membership`, and one for how near the nearest synthetic image lies
(``nearest``), without a look at the coins. Those of the highest scores are guessed to have been in, those of the lowest
to have been out, and no word is said of the others. So many right guesses prove, at 95 %, that the run is not
differentially private with a smaller epsilon than the one found (:mod:`meddistill.privacy.one_run`). The proof rests on
the coins alone, not on the control patients.

It is a lower bound: what these scores miss is not in it, and few canaries can never show much.

Kinds of canaries differ in their scores whether they were in or not, so scores count relative to those of the same
kind. Every score at every number of guesses is a look of its own, and is paid for.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.audit.case import Case, Side
from meddistill.audit.finding import Finding, Outcome, worst
from meddistill.audit.membership import SCORES as OF_MEMBERSHIP
from meddistill.audit.membership import Prepared as Attacked
from meddistill.audit.membership import scores_of
from meddistill.audit.people import People
from meddistill.audit.references import Scores
from meddistill.audit.statistics import CONFIDENCE, Interval, area, difference, share
from meddistill.pipeline.canaries import KINDS, Canaries
from meddistill.privacy.one_run import SHARES, Guesses, convicts, guess, largest_epsilon, least_epsilon

NAME, ASKS = "canaries", "the least epsilon that the run can have, by planted records"
SCORES = (*OF_MEMBERSHIP, "nearest")
DELTA = 1e-5  # where the card states none
_SIDE = 32  # pixels, for the distance to synthetic images
_LEAST_ALIKE = 8  # canaries of one kind and class, to know what is usual among them
_ERROR = 1 - CONFIDENCE
_LOOKS = len(SCORES) * len(SHARES)


@dataclass(frozen=True)
class Prepared:
    """Scores of all canaries by name ``(m,)``, comparable between kinds; and the coins, which only the answer needs."""

    scores: Mapping[str, Scores]
    canaries: Canaries


@dataclass(frozen=True)
class Scored:
    """Scores by name of the canaries of one side, and which kinds they are of."""

    scores: Mapping[str, Scores]
    kinds: np.ndarray[tuple[int], np.dtype[np.uint8]]


def prepare(attacked: Attacked, canaries: Canaries) -> Prepared:
    """Score every canary by the networks that attack membership, none of which has seen one."""
    case, count = attacked.case, len(canaries.labels)
    channels = case.package.card.images.channels
    pixels = np.repeat(canaries.images, channels // canaries.images.shape[1], axis=1)
    people = People(pixels, canaries.peak, canaries.labels, np.arange(count))
    found = scores_of(attacked, people, np.zeros((len(attacked.references), count), np.bool_), own=False)
    found["nearest"] = _nearness(case, people)
    return Prepared({name: _comparable(found[name], canaries) for name in SCORES}, canaries)


def attack(prepared: Prepared, side: Side) -> Scored:
    """The scores of those that were in the run (``members``), or of those that were not (``control``)."""
    chosen = prepared.canaries.included == (side == "members")
    scores = {name: values[chosen] for name, values in prepared.scores.items()}
    return Scored(scores, prepared.canaries.kinds[chosen])


def judge(members: Scored, control: Scored, case: Case) -> Finding:
    """The largest of the bounds by all scores and numbers of guesses, each at an error that pays for all."""
    stated, count = case.package.card.privacy, len(members.kinds) + len(control.kinds)
    delta = DELTA if stated is None else stated.delta
    looks = {
        (name, part): guess(members.scores[name], control.scores[name], part) for name in SCORES for part in SHARES
    }
    bounds = {key: _bound(one, delta) for key, one in looks.items()}
    best = max(looks, key=lambda key: (bounds[key], looks[key].right / looks[key].made))
    epsilon, told = bounds[best], looks[best]
    able = convicts(count, case.gates.epsilon_fails, case.gates.epsilon_passes, delta, len(SCORES), _ERROR)
    largest = largest_epsilon(count, delta, len(SCORES), _ERROR)
    broken = stated is not None and epsilon > stated.epsilon
    main, control_share, excess = _shares(told, len(members.kinds), len(control.kinds))
    return Finding(
        NAME,
        ASKS,
        worst([_outcome(epsilon, able, case), "fail" if broken else "pass"]),
        main=main,
        control=control_share,
        excess=excess,
        baseline=told.each / count,
        warnings=(
            *(
                (f"epsilon is at least {epsilon:.2f}, more than the card proves: the proof or the program is wrong",)
                * broken
            ),
            *((f"{count} canaries can never show an epsilon above {largest:.2f}: too few for a pass",) * (not able)),
            "a lower bound: what other scores would find is not in it",
        ),
        figures={
            "epsilon_at_least": round(epsilon, 3),
            "epsilon_at_least_without_delta": round(max(_bound(one, 0.0) for one in looks.values()), 3),
            "delta": delta,
            "epsilon_stated": None if stated is None else stated.epsilon,
            "largest_epsilon_that_can_be_shown": round(largest, 3),
            "canaries": count,
            "strongest": best[0],
            "guesses": told.made,
            "right_guesses": told.right,
            "looks": _LOOKS,
            "each_score": {name: round(max(bounds[name, part] for part in SHARES), 3) for name in SCORES},
            "by_kind": _each_kind(members, control, best[0]),
        },
    )


def _outcome(epsilon: float, able: bool, case: Case) -> Outcome:
    if epsilon > case.gates.epsilon_fails:
        return "fail"
    if epsilon > case.gates.epsilon_passes:
        return "alarm"
    return "pass" if able else "inconclusive"


def _bound(told: Guesses, delta: float) -> float:
    return least_epsilon(told.records, told.made, told.right, delta, _ERROR / _LOOKS)


def _shares(told: Guesses, inside: int, outside: int) -> tuple[Interval | None, Interval | None, Interval | None]:
    """Which share of the canaries that were in is guessed to have been in, which of the others, and the excess."""
    if not inside or not outside:  # all coins fell alike
        return None, None, None
    sure = 1 - _ERROR / _LOOKS
    hits, others = told.found, told.each - told.found
    return (
        share(hits, inside, sure),
        share(others, outside, sure),
        difference(hits, inside, others, outside, sure),
    )


def _comparable(scores: Scores, canaries: Canaries) -> Scores:
    """Scores less the mean of canaries of the same kind and class, over the spread of the kind; coins do not count."""
    found = np.zeros(len(scores))
    for kind in np.unique(canaries.kinds):
        same = canaries.kinds == kind
        found[same] = scores[same] - scores[same].mean()
        for label in np.unique(canaries.labels[same]):
            alike = same & (canaries.labels == label)
            if alike.sum() >= _LEAST_ALIKE:
                found[alike] = scores[alike] - scores[alike].mean()
        found[same] /= found[same].std() + 1e-12
    return found


def _nearness(case: Case, people: People) -> Scores:
    """Less the logarithm of the mean squared difference to the nearest synthetic image or its mirror image ``(m,)``."""
    synthetic = _small(torch.cat([case.synthetic, case.synthetic.flip(3)])).flatten(1)
    apart = torch.cat([torch.cdist(_small(block).flatten(1), synthetic) for block in people.blocks(case.device)])
    return np.asarray(-(apart.amin(1).double().square() / synthetic.shape[1] + 1e-6).log().cpu().numpy())


def _small(images: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(images, _SIDE) if images.shape[-1] > _SIDE else images


def _each_kind(members: Scored, control: Scored, name: str) -> dict[str, object]:
    """The area under the ROC curve of each kind of which there are a few on both sides."""
    told: dict[str, object] = {}
    for place, kind in enumerate(KINDS):
        mine, theirs = (one.scores[name][one.kinds == place] for one in (members, control))
        if min(len(mine), len(theirs)) >= 2:
            told[kind] = area(mine, theirs).as_dict()
    return told
