"""What an attack found: figures with intervals, and the outcome that gates make of them.

``fail``: more leaks than is allowed, beyond what chance explains. ``alarm``: something leaks, beyond what chance
explains, and not so much. ``inconclusive``: the interval reaches beyond what may pass, or the figure cannot be trusted;
more patients may decide. ``pass``: the whole interval lies within what may pass. An attack that looks at several things
may pass without one for which there is too little to see, and says so (``Look``). An outcome speaks of the attacks
that were made, with the strength they had; none of them proves that nothing can be learned of a patient.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from meddistill.audit.statistics import Interval
from meddistill.report.terms import term_of

Outcome = Literal["pass", "inconclusive", "alarm", "fail"]
# From the best to the worst: an audit is as good as its worst attack.
OUTCOMES: tuple[Outcome, ...] = ("pass", "inconclusive", "alarm", "fail")
EXIT_CODES: dict[Outcome, int] = {"pass": 0, "fail": 6, "alarm": 7, "inconclusive": 8}


@dataclass(frozen=True)
class Gates:
    """Where an attack's success begins to count; they are written into the result.

    ``rates``: the shares of control patients that may be taken for members by mistake, strictest first; for each, how
    far the share of members found may exceed that of control patients: wholly below ``passes`` is a pass, wholly above
    ``fails`` a failure. ``area_passes``, ``area_fails``: the same for the area under the ROC curve. ``shift``: an area
    wholly above which members and control patients are too different to be compared, and wholly below which they are
    alike enough for a pass. ``patients``: least number in each group.
    ``epsilon_passes``, ``epsilon_fails``: for the least epsilon that canaries prove; at the latter, 1 % false alarms
    find up to 5 % of the members, and up to 1.6 % at the former. ``recovered_passes``, ``recovered_fails``: how far the
    share of members whose unusual class is recovered may exceed that of control patients.
    """

    rates: tuple[float, ...] = (0.001, 0.01)
    passes: tuple[float, ...] = (0.004, 0.02)
    fails: tuple[float, ...] = (0.019, 0.04)
    area_passes: float = 0.55
    area_fails: float = 0.60
    shift: float = 0.55
    patients: int = 100
    epsilon_passes: float = 0.5
    epsilon_fails: float = 1.6
    recovered_passes: float = 0.10
    recovered_fails: float = 0.20

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class Finding:
    """The answer of one attack.

    ``main``: its success on members; ``control``: on patients who had no part in the package; ``baseline``: what
    guessing gives; ``excess``: main less control. None where an attack has no such figure. ``anyway``: the part of the
    outcome that rests on no comparison of members with control patients.
    """

    attack: str
    asks: str
    outcome: Outcome
    main: Interval | None = None
    control: Interval | None = None
    baseline: float | None = None
    excess: Interval | None = None
    warnings: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    anyway: Outcome = "pass"

    @property
    def term(self) -> str:
        """What regulators call that which the attack asks, see :mod:`meddistill.report.terms`."""
        return term_of(self.attack)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        told = {name: getattr(self, name) for name in ("main", "control", "excess")}
        return {
            "attack": self.attack,
            "term": self.term,
            "asks": self.asks,
            "outcome": self.outcome,
            **{name: None if value is None else value.as_dict() for name, value in told.items()},
            "baseline": self.baseline,
            "warnings": list(self.warnings),
            "figures": dict(self.figures),
        }


@dataclass(frozen=True)
class Look:
    """One of several things that an attack looks at. ``wanting``: too little was there to decide, so that it passes."""

    outcome: Outcome
    wanting: bool = False


def numbered(places: Sequence[int], most: int) -> str:
    """Images to look at, by their numbers from 1 on as reports have them; no more than ``most`` are named."""
    told = ", ".join(str(place + 1) for place in places[:most])
    return f"image {told}" + (", …" if len(places) > most else "")


def judge(found: Interval, chance: float, passes: float, fails: float) -> Outcome:
    """The outcome of a figure that is ``chance`` where nothing leaks and grows with what does."""
    if found.low > fails:
        return "fail"
    if found.high <= passes:
        return "pass"
    return "alarm" if found.low > chance else "inconclusive"


def look(outcome: Outcome, by_chance: bool, decidable: bool) -> Look:
    """A look with this outcome, which does not count if it was left undecided for want of numbers alone.

    ``by_chance``: no more was found than two deviations above what is found where nothing leaks. ``decidable``: there
    are enough to pass even with so much.
    """
    wanting = outcome == "inconclusive" and by_chance and not decidable
    return Look("pass" if wanting else outcome, wanting)


def worst(outcomes: Iterable[Outcome]) -> Outcome:
    """The worst of them; ``pass`` if there is none."""
    return max(outcomes, key=OUTCOMES.index, default="pass")
