"""Who was in the making, by packages that are made anew, each from a random half of all patients?

The strongest attack on membership repeats all that the sender did (LiRA: Carlini et al. 2022, arXiv:2112.03570).
Every shadow is a run by the package's own recipe on half of all members and half of all control patients; each patient
is in half of the shadows. Students are trained on each shadow's package, and are surer or less sure of a patient. From
the shadows with the patient and those without, each patient has two normal distributions of the logit of the own class;
the score of a package is the logarithm of the ratio of their densities (``online``), or how far it lies above the
second alone, in its deviations (``offline``, for which an attacker needs no shadow with the patient).

Each shadow in turn is the package that is attacked, and the others, but for that of the other half of the patients, are
what the attacker has. Patients of a shadow are a random half of all, so it does not matter here whether members and
control patients are alike. This measures the recipe on these patients; what the same scores find in the package itself
stands beside it, and does rest on the control group.

On a CPU shadows are made side by side, each in one thread, and come out the same whoever makes them. Shadows of fewer
iterations than the package had are of another recipe: what they find is told, and nothing passes or fails by it.
"""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meddistill.audit.apart import confidence_of_each, finding_of, tell_apart, warnings
from meddistill.audit.case import SIDES, Case, Effort, Side
from meddistill.audit.finding import Finding
from meddistill.audit.greatest_risk import (
    LEAST_OF_A_CLASS,
    OfClass,
    figures_of,
    of_class,
    single_patients,
    warnings_of,
)
from meddistill.audit.people import People
from meddistill.audit.references import Scores, halves, standardised, sureness_of, unseen
from meddistill.audit.resampled import Whose
from meddistill.cohort.fingerprint import Fingerprint, Range
from meddistill.cohort.prepare import Prepared as Source
from meddistill.cohort.types import SPLITS, Cohort, in_bits
from meddistill.package.read import read
from meddistill.package.types import Card, Package
from meddistill.pipeline.estimate import Shape, estimate, measure_costs, together
from meddistill.pipeline.plan import Plan, setting_names
from meddistill.pipeline.plan_file import from_mapping, to_toml
from meddistill.pipeline.request import Request
from meddistill.pipeline.run import run
from meddistill.runtime import crew
from meddistill.runtime.device import as_one_process
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import write_atomic
from meddistill.runtime.progress import Silent
from meddistill.runtime.streams import derive, numpy_stream
from meddistill.runtime.words import duration
from meddistill.teachers.images import Normalisation
from meddistill.train.protocol import Protocol, train_network
from meddistill.train.received import received

NAME, ASKS = "shadows", "who was in the making, by packages made anew from random halves of all patients"
SCORES = ("online", "offline")
LEAST = 6  # so that two that had a patient, and two that had not, are left when one is attacked
_KEPT = 0.1  # of the control patients: the validation images of every shadow


@dataclass(frozen=True)
class Prepared:
    """How sure students are of each patient's class, by side: of every shadow ``(shadows, patients)``, of the package.

    ``seen``: which shadow was made with which patient ``(shadows, patients)``. ``classes``: of the patients.
    """

    case: Case
    shadows: Mapping[Side, Scores]
    package: Mapping[Side, Scores]
    seen: Mapping[Side, npt.NDArray[np.bool_]]
    classes: Mapping[Side, npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Scored:
    """Scores by name: of all pairs of a shadow and a patient of one side of it ``(trials,)``; of the package's.

    ``patient``, ``classes``: who each trial is of, members first, and the patient's class ``(trials,)``.
    """

    shadows: Mapping[str, Scores]
    package: Mapping[str, Scores]
    patient: npt.NDArray[np.intp]
    classes: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Making:
    """All that making a shadow takes but its number; the :class:`~meddistill.runtime.crew.Work` of helpers.

    ``folder``: where everything is written meanwhile; whoever made it deletes it, however the helpers end.
    """

    case: Case
    plan: Plan
    validation: npt.NDArray[np.bool_]
    seen: Mapping[Side, npt.NDArray[np.bool_]]
    folder: str

    def do(self, task: int, tell: crew.Tell) -> None:
        """Make the shadow of this number, and tell how sure students of it are of all patients."""
        tell(None)  # so that others are started now rather than after the first shadow
        made = _shadow(self, {side: self.seen[side][task] for side in SIDES}, task)
        sure = _sure(self.case, made, task)
        tell([task, *(sure[side].tolist() for side in SIDES)])


def prepare(case: Case, processes: int | None = None) -> Prepared:
    """Make all shadows, at most so many at once. Raises :class:`InputError` where the recipe cannot be repeated."""
    plan, count, validation = plan_for(case.package.card, case.effort), case.effort.shadows, _validation(case)
    seen = {side: halves(case, side, count) for side in SIDES}
    seen["control"] &= ~validation
    one = _seconds_of_one(case, plan)
    at_once = min(count, processes or crew.processes_for(case.device))
    case.progress.note(
        f"{count} shadows, each about {duration(one)} by the recipe on the card and {at_once} at once: about "
        f"{duration(math.ceil(count / at_once) * at_once * one / together(at_once))}"
    )
    found: dict[int, dict[Side, Scores]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="meddistill-") as folder,
        case.progress.stage("making shadows", count) as stage,
    ):

        def report(news: crew.News) -> None:
            if news.lost is not None:
                case.progress.warn(f"a helper process ended with code {news.lost}: its shadow is made by another")
            if news.told is not None:
                place, *sure = news.told
                found[place] = dict(zip(SIDES, map(np.array, sure), strict=True))
            if news.done is not None:
                stage.advance()

        def seconds_left(waiting: Sequence[int]) -> float:
            return one * len(waiting)

        making = Making(replace(case, progress=Silent()), plan, validation, seen, folder)
        tasks = range(count)
        crew.do_all(making, tasks, case.device, report, processes=processes, seconds_left=seconds_left)
    with as_one_process(case.device):
        own = _sure(case, case.package, count)
    asked = {"members": np.full(case.members.count, True), "control": ~validation}
    return Prepared(
        case,
        {side: np.stack([found[place][side] for place in tasks])[:, asked[side]] for side in SIDES},
        {side: own[side][asked[side]] for side in SIDES},
        {side: seen[side][:, asked[side]] for side in SIDES},
        {side: case.people(side).classes[asked[side]] for side in SIDES},
    )


def attack(prepared: Prepared, side: Side) -> Scored:
    """The scores of those who were in a shadow (``members``) or were not, and of the package's own of this side."""
    trials: dict[str, list[Scores]] = {name: [] for name in SCORES}
    patient: list[npt.NDArray[np.intp]] = []
    for group, first in zip(SIDES, (0, len(prepared.classes["members"])), strict=True):
        values, seen = prepared.shadows[group], prepared.seen[group]
        for place in range(len(values)):
            # Without its other half, too: of each patient as many shadows are left that had him as had not.
            rest = np.arange(len(values)) // 2 != place // 2
            scores = ratios(values[rest], seen[rest], values[place])
            asked = seen[place] == (side == "members")
            patient.append(first + np.flatnonzero(asked))
            for name in SCORES:
                trials[name].append(scores[name][asked])
    own = ratios(prepared.shadows[side], prepared.seen[side], prepared.package[side])
    whose, classes = np.concatenate(patient), np.concatenate([prepared.classes[group] for group in SIDES])
    return Scored({name: np.concatenate(parts) for name, parts in trials.items()}, own, whose, classes[whose])


def judge(members: Scored, control: Scored, case: Case) -> Finding:
    """The worse of the two scores over all shadows, class by class, and of the patient at greatest risk.

    Intervals are widened for all looks, and reach as far as those over patients do: one patient's trials are alike.
    """
    looks, gates, whose = len(SCORES), case.gates, Whose(members.patient, control.patient)
    scores = {name: (members.shadows[name], control.shadows[name]) for name in SCORES}
    asked = _classes_of(members)
    besides = looks * (len(asked) + 1)
    confidence = confidence_of_each(gates, looks, besides)
    found = {name: tell_apart(*both, gates, looks, besides, whose) for name, both in scores.items()}
    own = {name: tell_apart(members.package[name], control.package[name], gates, looks, besides) for name in SCORES}
    classes = [_of_class(case, label, count, members, control, confidence) for label, count in asked.items()]
    single = {name: single_patients(*both, whose, confidence) for name, both in scores.items()}
    few = [case.classes[label] for label in np.unique(members.classes) if label not in asked]
    figures = {
        "of_the_package": {name: one.as_dict() for name, one in own.items()},
        **figures_of(classes, few),
        "single_patients": {name: one.as_dict() for name, one in single.items()},
        "shadows": case.effort.shadows,
        "trials": sum(map(len, (members.patient, control.patient))),
    }
    warned = (
        *warnings(found.values(), gates),
        *warnings_of(classes, few),
        *(one.warning_of(name) for name, one in single.items() if one.told_apart),
    )
    outcomes = [*(one.counts_as for one in classes), *(one.outcome for one in single.values())]
    return _unless_shorter(case, finding_of(NAME, ASKS, found, warned, figures, outcomes))


def _classes_of(scored: Scored) -> dict[int, int]:
    """How many patients each class has that has enough of them; every one is in some shadows and out of others."""
    first = np.unique(scored.patient, return_index=True)[1]
    labels, counts = np.unique(scored.classes[first], return_counts=True)
    return {int(label): int(count) for label, count in zip(labels, counts, strict=True) if count >= LEAST_OF_A_CLASS}


def _of_class(case: Case, label: int, count: int, members: Scored, control: Scored, confidence: float) -> OfClass:
    own, same = members.classes == label, control.classes == label
    whose = Whose(members.patient[own], control.patient[same])
    of_it = {name: (members.shadows[name][own], control.shadows[name][same]) for name in SCORES}
    return of_class(case.classes[label], of_it, (count, count), case.gates, confidence, whose)


def ratios(values: Scores, seen: npt.NDArray[np.bool_], asked: Scores) -> dict[str, Scores]:
    """The two scores of values that are ``asked`` about ``(patients,)``, by all others' ``(shadows, patients)``."""
    (known, wide), (unknown, spread) = unseen(values, ~seen), unseen(values, seen)
    above, within = (asked - unknown) / spread, (asked - known) / wide
    return {"online": (above**2 - within**2) / 2 + np.log(spread / wide), "offline": above}


def plan_of(card: Card) -> Plan:
    """The plan that a card tells. Raises :class:`InputError` for merged packages, unknown methods and public starts."""
    recipe, known = card.recipe, setting_names()
    if recipe.start == "public":
        raise InputError(
            "the package started from public images, which are not on its card: its making cannot be repeated. Audit "
            "it without shadows"
        )
    told = {"method": recipe.method, "seed": recipe.seed, "start": recipe.start, "network": recipe.network}
    nested: dict[str, Any] = {}
    for name, value in {**recipe.plan, **told}.items():
        if name in known:
            section, dot, key = name.partition(".")
            place = nested.setdefault(section, {}) if dot else nested
            place[key or name] = value
    # An older card tells 0 for what its method had then.
    nested["formation"] = nested.get("formation") or card.images.size // (card.images.stored or card.images.size)
    nested.setdefault("evaluation", {})["seeds"] = 0
    nested.setdefault("matching", {}).setdefault("smoothing", 0)  # cards tell of it where there is some
    return from_mapping(nested, "the recipe on the card")


def _unless_shorter(case: Case, finding: Finding) -> Finding:
    """What shadows of fewer iterations found says nothing sure of the package."""
    wanted, whole = case.effort.shadow_iterations, plan_of(case.package.card).matching.iterations
    if wanted is None:
        return finding
    doubt = (
        f"shadows had {wanted} iterations of matching and the package {whole}: another recipe, by which nothing passes "
        "or fails"
    )
    figures = {**finding.figures, "iterations": {"shadows": wanted, "package": whole}}
    return replace(finding, outcome="inconclusive", warnings=(*finding.warnings, doubt), figures=figures)


def _seconds_of_one(case: Case, plan: Plan) -> float:
    """What one shadow and its students will take in one thread, from a few real steps."""
    images = len(case.members.labels) + len(case.control.labels)
    shape = Shape(case.network.channels, len(case.classes), train=images // 2, scored=2 * images)
    with as_one_process(case.device):
        costs = measure_costs(plan, shape, case.device)
    whole = Protocol().steps_for(plan.count(len(case.classes)))
    return estimate(plan, costs, shape).seconds + case.effort.students * costs.evaluation * case.effort.steps / whole


def plan_for(card: Card, effort: Effort) -> Plan:
    """The plan of every shadow. Raises :class:`InputError` as :func:`plan_of`, and for what cannot be asked."""
    if effort.shadows % 2 or effort.shadows < LEAST:
        raise InputError(f"{effort.shadows} shadows were asked for: expected an even number from {LEAST}, or 0")
    plan, wanted = plan_of(card), effort.shadow_iterations
    if wanted is None:
        return plan
    if not 1 <= wanted < plan.matching.iterations:
        raise InputError(
            f"shadows of {wanted} iterations were asked for, and the package had {plan.matching.iterations}: expected "
            "1 or more and fewer than that; without a number shadows are as long as the package"
        )
    return replace(plan, matching=replace(plan.matching, iterations=wanted))


def _validation(case: Case) -> npt.NDArray[np.bool_]:
    """Which control patients are validation images of every shadow ``(patients,)``, and of no use besides."""
    count = case.control.count
    order = numpy_stream(case.seed, "shadows", "validation").permutation(count)
    return np.isin(np.arange(count), order[: max(1, round(_KEPT * count))])


def _shadow(making: Making, chosen: Mapping[Side, npt.NDArray[np.bool_]], place: int) -> Package:
    """The package that the recipe makes of the chosen patients."""
    case = making.case
    # A folder of its own every time: what a lost process was making is not continued.
    with tempfile.TemporaryDirectory(dir=making.folder) as name:
        folder = Path(name)
        write_atomic(folder / "plan.toml", to_toml(making.plan).encode())
        out = folder / "shadow.mdz"
        request = Request(
            source=folder,
            out=out,
            plan=folder / "plan.toml",
            seed=derive(case.seed, "shadow", place) % 2**31,
            device=str(case.device),
        )
        run(request, prepared=_source(case, chosen, making.validation))
        return read(out)


def _source(case: Case, chosen: Mapping[Side, npt.NDArray[np.bool_]], validation: npt.NDArray[np.bool_]) -> Source:
    """The chosen patients as a training split, and the validation images; all with 16 bits if some have them."""
    parts = list(_parts(case, chosen, validation))
    wide = any(part.pixels.dtype == np.uint16 for part, _, _ in parts)
    pixels: Any = np.concatenate([in_bits(part.pixels, wide) for part, _, _ in parts])
    splits = np.concatenate([np.full(len(part.labels), SPLITS.index(split), np.uint8) for part, split, _ in parts])
    cohort = Cohort(pixels, np.concatenate([part.labels for part, _, _ in parts]), splits, case.classes)
    people = np.concatenate([part.patient + first for part, _, first in parts])
    return Source(cohort, (), _fingerprint(cohort), people, frozenset())


def _parts(
    case: Case, chosen: Mapping[Side, npt.NDArray[np.bool_]], validation: npt.NDArray[np.bool_]
) -> Iterator[tuple[People, Any, int]]:
    """Some people, their split, and the number that their patients begin with."""
    for side, first in zip(SIDES, (0, case.members.count), strict=True):
        yield _those(case.people(side), chosen[side]), "train", first
    yield _those(case.control, validation), "val", case.members.count


def _those(people: People, chosen: npt.NDArray[np.bool_]) -> People:
    rows = np.flatnonzero(chosen[people.patient])
    return People(people.pixels[rows], people.peak, people.labels[rows], people.patient[rows])


def _fingerprint(cohort: Cohort) -> Fingerprint:
    """What a run is told of a source that is none: each image stands for a patient who has a number."""
    side = Range(cohort.size, cohort.size, cohort.size)
    return Fingerprint(
        name="shadow",
        kind="shadow",
        images=len(cohort.labels),
        classes=cohort.classes,
        counts={split: cohort.counts(split) for split in SPLITS},
        split_origin="given",
        width=side,
        height=side,
        channels=cohort.channels,
        bit_depth=8 * cohort.images.itemsize,
        imbalance=None,
        patients=None,
        without_patient=0,
        unreadable=0,
        ignored={},
        proposed_size=cohort.size,
    )


def _sure(case: Case, package: Package, place: int) -> dict[Side, Scores]:
    """How sure students of a package are of all patients, in units of control patients of the same class."""
    # As its receiver would: every package brings its own.
    case = replace(case, normalisation=Normalisation(package.card.normalisation.mean, package.card.normalisation.std))
    own = received(package.enlarged, package.labels, case.normalisation, case.device)
    students = [
        train_network(case.network, own, case.protocol, derive(case.seed, "shadow student", place, number))
        for number in range(case.effort.students)
    ]
    members, control = (
        people.mean(np.mean([sureness_of(case, params, people) for params in students], axis=0))
        for people in (case.members, case.control)
    )
    return dict(zip(SIDES, standardised(case, members, control), strict=True))
