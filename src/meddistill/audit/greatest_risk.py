"""Who is at greatest risk: the members of one class, or a few who stand above every control patient.

Averages over all patients hide both. Within a class scores are compared as they are: what all patients of it have in
common, members or not, does not matter there.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from meddistill.audit.apart import area_of
from meddistill.audit.finding import OUTCOMES, Gates, Outcome, judge, worst
from meddistill.audit.resampled import Whose
from meddistill.audit.statistics import Floats, Interval

LEAST_OF_A_CLASS = 20  # patients of a class in each group; of fewer, nothing is said of the class alone
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class OfClass:
    """How members of a class stand apart from its control patients, by the ``score`` that surely tells most.

    ``outcome``: the worst of all scores. ``undecided``: neither a leak was found nor its absence, for want of patients;
    as with a strict rate of false alarms, that does not keep the others from passing, and is told.
    """

    name: str
    score: str
    area: Interval
    outcome: Outcome
    undecided: bool
    patients: tuple[int, int]

    @property
    def counts_as(self) -> Outcome:
        """What it makes of the whole."""
        return "pass" if self.undecided else self.outcome

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        told = {"outcome": self.outcome, "score": self.score, "area": self.area.as_dict()}
        return {**told, "members": self.patients[0], "control": self.patients[1]}


@dataclass(frozen=True)
class Above:
    """How many members stand above every control patient by the ``score`` where that is least likely by chance.

    ``chance``: of so many or more, were all patients alike.
    """

    score: str
    members: int
    expected: float
    chance: float
    outcome: Outcome

    @property
    def warnings(self) -> tuple[str, ...]:
        """That they are more than chance explains, if they are."""
        if self.outcome == "pass":
            return ()
        said = f"{self.members} members stand above every control patient by {self.score}, {self.expected:.1f} expected"
        return (f"{said}: {self.outcome}",)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        told = {"score": self.score, "members": self.members, "expected_by_chance": round(self.expected, 2)}
        return {**told, "chance_of_so_many": float(f"{self.chance:.3g}"), "outcome": self.outcome}


@dataclass(frozen=True)
class Single:
    """How single patients of whom there are many trials can be told apart, those in from those out.

    ``told_apart``: of so many ``patients``, how many surely, the error shared among all. ``largest_area``: under the
    ROC curve of one patient's trials; ``usual_largest``: what the largest exceeds by chance in every second audit.
    """

    patients: int
    told_apart: int
    largest_area: float
    usual_largest: float

    @property
    def outcome(self) -> Outcome:
        """Whoever surely is told apart is too many."""
        return "alarm" if self.told_apart else "pass"

    def warning_of(self, name: str) -> str:
        """How many they are."""
        who = "a single patient is" if self.told_apart == 1 else f"{self.told_apart} single patients are"
        return f"{who} surely told apart by {name}: area of one up to {self.largest_area:.2f}, {self.outcome}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        told = {"outcome": self.outcome, "patients": self.patients, "surely_told_apart": self.told_apart}
        areas = {"largest_area": self.largest_area, "largest_area_by_chance": self.usual_largest}
        return told | {name: round(value, 5) for name, value in areas.items()}


def enough(members: Labels, control: Labels) -> list[int]:
    """The classes with enough patients in both groups to be asked about; of the class of each patient."""
    return [
        int(label)
        for label in np.intersect1d(members, control)
        if min((members == label).sum(), (control == label).sum()) >= LEAST_OF_A_CLASS
    ]


def of_class(
    name: str,
    scores: Mapping[str, tuple[Floats, Floats]],
    patients: tuple[int, int],
    gates: Gates,
    confidence: float,
    whose: Whose | None = None,
) -> OfClass:
    """Judge one class by its members' and its control patients' ``scores``; ``whose``: as in ``apart.tell_apart``."""
    areas = {key: area_of(*both, confidence, whose) for key, both in scores.items()}
    strongest = max(areas, key=lambda key: areas[key].low)
    outcome = worst(judge(one, 0.5, gates.area_passes, gates.area_fails) for one in areas.values())
    undecided = outcome == "inconclusive" and not _decidable(*patients, gates, confidence)
    return OfClass(name, strongest, areas[strongest], outcome, undecided, patients)


def above_every_control(scores: Mapping[str, tuple[Floats, Floats]], confidence: float) -> Above:
    """Judge the members beyond all control patients by the exact law of their number.

    Where nothing leaks, any order of all patients is as likely as another: the number is negative hypergeometric.
    """
    counts = {key: int((mine > theirs.max()).sum()) for key, (mine, theirs) in scores.items()}
    chances = {key: chance_of_above(counts[key], *map(len, both)) for key, both in scores.items()}
    rarest = min(chances, key=lambda key: chances[key])
    mine, theirs = scores[rarest]
    # One end of an interval of this confidence, as everywhere else.
    outcome: Outcome = "alarm" if chances[rarest] < (1 - confidence) / 2 else "pass"
    return Above(rarest, counts[rarest], len(mine) / (len(theirs) + 1), chances[rarest], outcome)


def chance_of_above(count: int, members: int, control: int) -> float:
    """That the first ``count`` of all patients, put in any order, are members."""
    from scipy.stats import hypergeom

    return float(hypergeom.pmf(count, members + control, members, count)) if count else 1.0


def single_patients(members: Floats, control: Floats, whose: Whose, confidence: float) -> Single:
    """Ask of every patient whether the trials with him score above those without, by the rank test of Mann and Whitney.

    Each patient has as many trials as any other on either side; who was in which was drawn by lot.
    """
    from scipy.stats import mannwhitneyu

    inside, outside = (
        scores[np.argsort(patient, kind="stable")].reshape(len(np.unique(patient)), -1)
        for scores, patient in ((members, whose.members), (control, whose.control))
    )
    count, trials = len(inside), (inside.shape[1], outside.shape[1])
    wins, chances = mannwhitneyu(inside, outside, alternative="greater", axis=1, method="exact")
    pairs = trials[0] * trials[1]
    return Single(
        count,
        int((chances < (1 - confidence) / 2 / count).sum()),
        float(wins.max()) / pairs,
        _largest_by_chance(count, *trials),
    )


def _largest_by_chance(patients: int, inside: int, outside: int) -> float:
    """About the area that the largest of so many patients' exceeds in every second audit where nothing leaks."""
    from scipy.stats import norm

    return min(1.0, 0.5 + float(norm.ppf(0.5 ** (1 / patients))) * _deviation(inside, outside))


def figures_of(found: Sequence[OfClass], few: Sequence[str]) -> dict[str, Any]:
    """What a report tells of every class, and of the one of the worst outcome; among such, the one that stands apart
    most for sure. Besides, of how many too little is known; ``few``: those that were not even asked about.
    """
    most = max(found, key=lambda one: (OUTCOMES.index(one.outcome), one.area.low), default=None)
    return {
        "by_class": {one.name: one.as_dict() for one in found},
        "worst_class": most and {"class": most.name, **most.as_dict()},
        "undecided_classes": len(few) + sum(one.undecided for one in found),
    }


def warnings_of(found: Sequence[OfClass], few: Sequence[str]) -> tuple[str, ...]:
    """The classes whose members stand apart, and those of which too little is known; ``few``: not even asked about."""
    apart = [
        f"members of the class {one.name} stand apart by {one.score}: area {one.area.value:.2f} "
        f"({one.area.low:.2f} to {one.area.high:.2f}), {one.outcome}"
        for one in found
        if one.outcome in ("alarm", "fail")
    ]
    unsaid = [*(one.name for one in found if one.undecided), *few]
    many = "there are too few patients to say that nothing leaks of single classes: "
    return (*apart, *([many + ", ".join(unsaid)] if unsaid else []))


def _decidable(members: int, control: int, gates: Gates, confidence: float) -> bool:
    """Whether a class of so many patients passes almost surely where nothing leaks: even two deviations above 0.5."""
    from scipy.stats import norm

    return 0.5 + (2 + float(norm.ppf((1 + confidence) / 2))) * _deviation(members, control) <= gates.area_passes


def _deviation(members: int, control: int) -> float:
    """Of an area under the ROC curve where nothing leaks."""
    return math.sqrt((members + control + 1) / (12 * members * control))
