"""How well a score tells members from control patients: at few false alarms, and over all."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from meddistill.audit.finding import Finding, Gates, Outcome, judge, worst
from meddistill.audit.resampled import Whose, deviations, reaching
from meddistill.audit.statistics import CONFIDENCE, Floats, Interval, area, difference, share, threshold


@dataclass(frozen=True)
class AtRate:
    """Shares of ``members`` and of ``control`` patients whose score exceeds the one that ``rate`` of control may."""

    rate: float
    members: Interval
    control: Interval
    excess: Interval


@dataclass(frozen=True)
class Apart:
    """``area``: under the ROC curve. ``rates``: at each of the gates' rates, strictest first.

    ``undecided``: the rates at which neither a leak was found nor its absence, for want of patients.
    """

    area: Interval
    rates: tuple[AtRate, ...]
    outcome: Outcome
    undecided: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        found = {f"found_at_{one.rate:g}": one.members.as_dict() for one in self.rates}
        excess = {f"excess_at_{one.rate:g}": one.excess.as_dict() for one in self.rates}
        return {"outcome": self.outcome, "area": self.area.as_dict(), **found, **excess}


def confidence_of_each(gates: Gates, scores: int = 1, besides: int = 0) -> float:
    """That of one look of an attack, so that all of them together err as seldom as one of 95 % (Bonferroni).

    Looks are the area and every rate, of each of so many ``scores``, and those that are judged ``besides``.
    """
    return 1 - (1 - CONFIDENCE) / (scores * (1 + len(gates.rates)) + besides)


def tell_apart(
    members: Floats, control: Floats, gates: Gates, scores: int = 1, besides: int = 0, whose: Whose | None = None
) -> Apart:
    """Measure scores ``(patients,)`` that an attacker takes for signs of membership the larger they are.

    Intervals are widened for all looks of the attack, as :func:`confidence_of_each` counts them. ``whose``: the patient
    of each score, where one has several; intervals then reach as far as those over patients do.

    A rate for which there are too few patients to pass almost surely can pass, raise an alarm or fail; if it does none
    of these, it does not keep the others from passing, unless it is the loosest.
    """
    confidence = confidence_of_each(gates, scores, besides)
    found, at_rates = _measured(members, control, gates.rates, confidence, whose)
    outcomes = [judge(found, 0.5, gates.area_passes, gates.area_fails)]
    undecided = []
    for one, passes, fails in zip(at_rates, gates.passes, gates.fails, strict=True):
        outcome = judge(one.excess, 0.0, passes, fails)
        if outcome == "inconclusive" and not _decidable(len(members), len(control), one.rate, passes, confidence):
            undecided.append(one.rate)
            outcome = "inconclusive" if one.rate == gates.rates[-1] else "pass"
        outcomes.append(outcome)
    return Apart(found, at_rates, worst(outcomes), tuple(undecided))


def area_of(members: Floats, control: Floats, confidence: float, whose: Whose | None = None) -> Interval:
    """The area under the ROC curve; ``whose``: as in :func:`tell_apart`."""
    return _measured(members, control, (), confidence, whose)[0]


def strongest_of(found: Mapping[str, Apart]) -> str:
    """The score that surely tells most."""
    return max(found, key=lambda name: found[name].area.low)


def finding_of(
    name: str,
    asks: str,
    found: Mapping[str, Apart],
    warned: tuple[str, ...],
    figures: Mapping[str, object],
    besides: Iterable[Outcome] = (),
) -> Finding:
    """The worst outcome of several scores and ``besides``, with the shares of the strongest at the loosest rate."""
    strongest = strongest_of(found)
    loosest = found[strongest].rates[-1]
    return Finding(
        name,
        asks,
        worst([*(one.outcome for one in found.values()), *besides]),
        main=loosest.members,
        control=loosest.control,
        baseline=loosest.rate,
        excess=loosest.excess,
        warnings=warned,
        figures={"strongest": strongest, "scores": {key: one.as_dict() for key, one in found.items()}, **figures},
    )


def warnings(found: Iterable[Apart], gates: Gates) -> tuple[str, ...]:
    """At which rates the numbers of patients allowed no answer, by one score or more."""
    undecided = {rate for one in found for rate in one.undecided}
    return tuple(
        f"there are too few patients to say that nothing leaks at {100 * rate:g} % false alarms"
        for rate in gates.rates
        if rate in undecided
    )


def _decidable(members: int, control: int, rate: float, passes: float, confidence: float) -> bool:
    """Whether so many patients pass almost surely where nothing leaks: even with two deviations more hits.

    Hits vary as the members do, and as the threshold does, which the few highest control patients decide.
    """
    usual = rate * members
    deviation = math.sqrt(usual * (1 + members / control))
    hits = min(members, round(usual + 2 * deviation))
    found = difference(hits, members, math.floor(rate * control), control, confidence)
    return rate * control >= 1 and found.high <= passes


def _measured(
    members: Floats, control: Floats, rates: Sequence[float], confidence: float, whose: Whose | None
) -> tuple[Interval, tuple[AtRate, ...]]:
    """The area, and the shares at each rate."""
    found, shares = area(members, control, confidence), [_at(members, control, rate, confidence) for rate in rates]
    if whose is None:
        return found, tuple(shares)
    spread = deviations(members, control, whose, rates)
    return reaching(found, spread.area, confidence), tuple(
        replace(
            one, members=reaching(one.members, found, confidence), excess=reaching(one.excess, excess, confidence, -1)
        )
        for one, found, excess in zip(shares, spread.found, spread.excess, strict=True)
    )


def _at(members: Floats, control: Floats, rate: float, confidence: float) -> AtRate:
    limit = threshold(control, rate)
    hits, others = (int((scores > limit).sum()) for scores in (members, control))
    counts = hits, len(members), others, len(control)
    return AtRate(rate, share(*counts[:2], confidence), share(*counts[2:], confidence), difference(*counts, confidence))
