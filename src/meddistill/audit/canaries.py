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
ONE_SIDED = "a lower bound: what other scores would find is not in it"


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


@dataclass(frozen=True)
class Shown:
    """What all looks show together: ``epsilon`` is at least this, and ``exactly`` so much if δ were 0.

    ``score``: the strongest, by which the guesses ``told`` were made. ``each``: the least epsilon by each score.
    ``largest``: the epsilon that right guesses alone would show. ``looks``: how many were paid for.
    """

    epsilon: float
    exactly: float
    score: str
    told: Guesses
    each: Mapping[str, float]
    largest: float
    looks: int


def prepare(attacked: Attacked, canaries: Canaries) -> Prepared:
    """Score every canary by the networks that attack membership, none of which has seen one."""
    case, people = attacked.case, people_of(canaries, attacked.case)
    found = scores_of(attacked, people, np.zeros((len(attacked.references), people.count), np.bool_), own=False)
    found["nearest"] = _nearness(case, people)
    return Prepared({name: _comparable(found[name], canaries) for name in SCORES}, canaries)


def people_of(canaries: Canaries, case: Case) -> People:
    """Canaries as the package's images are, each a patient of its own."""
    channels = case.package.card.images.channels
    pixels = np.repeat(canaries.images, channels // canaries.images.shape[1], axis=1)
    return People(pixels, canaries.peak, canaries.labels, np.arange(len(canaries.labels)))


def attack(prepared: Prepared, side: Side) -> Scored:
    """The scores of those that were in the run (``members``), or of those that were not (``control``)."""
    chosen = prepared.canaries.included == (side == "members")
    scores = {name: values[chosen] for name, values in prepared.scores.items()}
    return Scored(scores, prepared.canaries.kinds[chosen])


def judge(members: Scored, control: Scored, case: Case) -> Finding:
    """The largest of the bounds by all scores and numbers of guesses, each at an error that pays for all."""
    count, delta = len(members.kinds) + len(control.kinds), delta_of(case)
    found = show(members, control, delta)
    able = convicts(count, case.gates.epsilon_fails, case.gates.epsilon_passes, delta, len(SCORES), _ERROR)
    broken = too_much(found, case)
    outcome = worst([_outcome(found.epsilon, able, case), "fail" if broken else "pass"])
    few = (f"{count} canaries can never show an epsilon above {found.largest:.2f}: too few for a pass",) * (not able)
    return finding(NAME, ASKS, outcome, found, members, control, case, (*broken, *few, ONE_SIDED))


def delta_of(case: Case) -> float:
    """That of the card, or the usual one."""
    stated = case.package.card.privacy
    return DELTA if stated is None else stated.delta


def show(members: Scored, control: Scored, delta: float) -> Shown:
    """Guess by all scores and at all numbers of guesses, and pay for every look."""
    names, count = tuple(members.scores), len(members.kinds) + len(control.kinds)
    guesses = {
        (name, part): guess(members.scores[name], control.scores[name], part) for name in names for part in SHARES
    }

    def bound(one: Guesses, by: float) -> float:
        return least_epsilon(one.records, one.made, one.right, by, _ERROR / len(guesses))

    bounds = {key: bound(one, delta) for key, one in guesses.items()}
    best = max(guesses, key=lambda key: (bounds[key], guesses[key].right / guesses[key].made))
    return Shown(
        epsilon=bounds[best],
        exactly=max(bound(one, 0.0) for one in guesses.values()),
        score=best[0],
        told=guesses[best],
        each={name: max(bounds[name, part] for part in SHARES) for name in names},
        largest=largest_epsilon(count, delta, len(names), _ERROR),
        looks=len(guesses),
    )


def too_much(found: Shown, case: Case) -> tuple[str, ...]:
    """What to say where more is shown than the card states; nothing where it is not."""
    stated = case.package.card.privacy
    if stated is None or found.epsilon <= stated.epsilon:
        return ()
    return (f"epsilon is at least {found.epsilon:.2f}, more than the card proves: the proof or the program is wrong",)


def finding(
    name: str,
    asks: str,
    outcome: Outcome,
    found: Shown,
    members: Scored,
    control: Scored,
    case: Case,
    warnings: tuple[str, ...],
) -> Finding:
    """What is shown, in the figures of a report."""
    stated, told = case.package.card.privacy, found.told
    main, others, excess = _shares(told, len(members.kinds), len(control.kinds), 1 - _ERROR / found.looks)
    return Finding(
        name,
        asks,
        outcome,
        main=main,
        control=others,
        excess=excess,
        baseline=told.each / told.records,
        warnings=warnings,
        figures={
            "epsilon_at_least": round(found.epsilon, 3),
            "epsilon_at_least_without_delta": round(found.exactly, 3),
            "delta": delta_of(case),
            "epsilon_stated": None if stated is None else stated.epsilon,
            "largest_epsilon_that_can_be_shown": round(found.largest, 3),
            "canaries": told.records,
            "strongest": found.score,
            "guesses": told.made,
            "right_guesses": told.right,
            "looks": found.looks,
            "each_score": {name: round(value, 3) for name, value in found.each.items()},
            "by_kind": _each_kind(members, control, found.score),
        },
    )


def _outcome(epsilon: float, able: bool, case: Case) -> Outcome:
    if epsilon > case.gates.epsilon_fails:
        return "fail"
    if epsilon > case.gates.epsilon_passes:
        return "alarm"
    return "pass" if able else "inconclusive"


def _shares(
    told: Guesses, inside: int, outside: int, sure: float
) -> tuple[Interval | None, Interval | None, Interval | None]:
    """Which share of the canaries that were in is guessed to have been in, which of the others, and the excess."""
    if not inside or not outside:  # all coins fell alike
        return None, None, None
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
