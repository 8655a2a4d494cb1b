"""Published methods, each a short named combination of parts."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args

from meddistill.distill.distance import Adaptive, Distance, NormalisedL2, Pruned, SelfPaced, Weighted
from meddistill.distill.labels import Labels
from meddistill.distill.matching.characteristic import CharacteristicFunctions
from meddistill.distill.matching.distribution import FeatureMeans
from meddistill.distill.matching.gradients import ClassGradients
from meddistill.distill.objective import Family, Objective
from meddistill.distill.regression import Regression
from meddistill.distill.segments import Segments, continuous, progressive, random, widening
from meddistill.distill.training import ThroughTraining
from meddistill.distill.unroll import STRATEGIES, Strategy, Truncated
from meddistill.runtime import plugins
from meddistill.runtime.errors import InputError

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST_NAME = 40
_LARGEST_FORMATION = 8
LARGEST_SMOOTHING = 1000
# Of parts that are plain values: whether one is right, and what is.
_PARTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "labels": (lambda value: value in get_args(Labels), "hard, learned or taught"),
    "strategy": (
        lambda value: value is None or value in STRATEGIES or isinstance(value, Truncated),
        f"None, {', '.join(STRATEGIES)} or Truncated(steps)",
    ),
    "averaging": (lambda value: _is_number(value) and 0 <= value < 1, "a number from 0 to below 1"),
    "highest_score": (lambda value: _is_number(value) and value > 0, "a number above 0"),
    "formation": (
        lambda value: type(value) is int and 1 <= value <= _LARGEST_FORMATION,
        f"a whole number from 1 to {_LARGEST_FORMATION}",
    ),
    "smoothing": (
        lambda value: type(value) is int and 0 <= value <= LARGEST_SMOOTHING,
        f"a whole number from 0 to {LARGEST_SMOOTHING}",
    ),
}


@dataclass(frozen=True)
class Method:
    """A named combination of parts, and where it comes from.

    Raises ValueError for a name that a card cannot hold, and for a part that means nothing.

    ``segments``: from the plan's length, earliest and latest start to a rule. ``strategy``: how the gradient is
    computed, where the method says so; else the plan does. ``averaging``, ``highest_score``: see
    :class:`~meddistill.distill.loop_plan.LoopPlan`. ``flat_teachers``: they must be trained with SAM or GSAM;
    ``convex_teachers``: they must be kept as ``convex2`` to ``convex4``. ``mitigates_overlap``: images of a class that
    become too similar start anew. ``objective``: what a method of another family than trajectory matching lowers;
    labels, formation and smoothing apart, nothing else here concerns it. ``formation``: f, where f² images of 1/f of
    the side take the place of each (:mod:`~meddistill.distill.formation`), unless the plan says otherwise; a plan
    halves it where they would be too small, too many or of large images. ``smoothing``: how many snapshots on
    each side of one are averaged with it (:class:`~meddistill.distill.loop.Matching`), likewise.
    """

    name: str
    summary: str
    source: str
    labels: Labels = "hard"
    segments: Segments = random
    distance: Distance = field(default_factory=NormalisedL2)
    strategy: Strategy | None = None
    averaging: float = 0.0
    flat_teachers: bool = False
    mitigates_overlap: bool = False
    convex_teachers: bool = False
    highest_score: float = math.inf
    objective: Objective | None = None
    formation: int = 1
    smoothing: int = 0

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.name) > _LONGEST_NAME:
            raise ValueError(
                f"the method's name is {self.name!r}: expected at most {_LONGEST_NAME} lower-case letters, digits and "
                "single hyphens, a letter first"
            )
        for part, (is_right, expected) in _PARTS.items():
            if not is_right(value := getattr(self, part)):
                raise ValueError(f"{part} of the method {self.name} is {value!r}: expected {expected}")

    @property
    def family(self) -> Family:
        """What synthetic images are compared by."""
        return "trajectories" if self.objective is None else self.objective.family

    @property
    def needs_teachers(self) -> bool:
        """Whether networks are trained on the cohort first."""
        return self.objective is None or self.objective.needs_teachers

    @property
    def warms_up(self) -> bool:
        """Whether distribution matching may come first."""
        return self.objective is None or self.objective.warms_up

    @property
    def learns(self) -> tuple[str, ...]:
        """What the method learns."""
        steps = {"trajectories": ["step size"], "training": ["step sizes"]}.get(self.family, [])
        return ("images", *(["soft labels"] if self.labels != "hard" else []), *steps)

    @property
    def cost(self) -> str:
        """What it takes, in words; a forward pass is that of a batch."""
        if self.objective is not None:
            return self.objective.cost
        passes = "7 to 9" if self.strategy == "two-pass" else "9 to 11"
        return f"teachers; an iteration: {passes} forward passes a student step"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="meddistill",
            summary="this project's own: mtt-soft with four small images in the place of each, of few sixteen",
            source="mtt-soft, with the multi-formation of Kim et al. 2022, arXiv 2205.14959",
            labels="learned",
            formation=4,
        ),
        Method(
            name="mtt",
            summary="matching training trajectories: random segments, normalised L2 distance, hard labels",
            source="Cazenavette et al. 2022, arXiv 2203.11932",
        ),
        Method(
            name="mtt-soft",
            summary="mtt with soft labels that are learned together with the images",
            source="Cazenavette et al. 2022, arXiv 2203.11932; soft labels after Sucholutsky & Schonlau 2019, "
            "arXiv 1910.02551",
            labels="learned",
        ),
        Method(
            name="pruned",
            summary="mtt whose distance leaves out parameters that are hard to match (similarity below 0.1)",
            source="Li et al. 2022, arXiv 2209.14603 and 2209.14609",
            distance=Pruned(threshold=0.1),
        ),
        Method(
            name="progressive",
            summary="segments from the start of the trajectory that grow in stages; images that overlap start anew",
            source="Yu et al. 2024, arXiv 2403.13469",
            segments=progressive,
            mitigates_overlap=True,
        ),
        Method(
            name="tesla",
            summary="mtt with the gradient that leaves out how one student step changes the slopes of the next",
            source="Cui et al. 2023, arXiv 2211.10586",
            strategy="two-pass",
        ),
        Method(
            name="ftd",
            summary="mtt with flat teachers (SAM or GSAM) and averaged images",
            source="Du et al. 2023, arXiv 2211.11004",
            averaging=0.999,
            flat_teachers=True,
        ),
        Method(
            name="att",
            summary="mtt that matches at the student step that came closest to the teacher; averaged images",
            source="Liu et al. 2024, arXiv 2407.14245",
            distance=Adaptive(),
            averaging=0.999,
        ),
        Method(
            name="datm",
            summary="mtt with soft labels that begin as the teachers', a widening window of starts, flat teachers",
            source="Guo et al. 2024, arXiv 2310.05773",
            labels="taught",
            segments=widening,
            flat_teachers=True,
            highest_score=1.1,
        ),
        Method(
            name="iadd",
            summary="pruned with a learned weight for every parameter in the place of pruning",
            source="Li et al. 2024, arXiv 2401.15863",
            distance=Weighted(),
        ),
        Method(
            name="hop-tm",
            summary="mtt of parameters that are easy so far, with the shape of the way; flat teachers",
            source="Dong et al. 2025, arXiv 2509.24177",
            distance=SelfPaced(),
            flat_teachers=True,
        ),
        Method(
            name="mct",
            summary="mtt on convexified trajectories, with segments that start anywhere on them",
            source="Zhong et al. 2025, arXiv 2406.19827",
            segments=continuous,
            convex_teachers=True,
        ),
        Method(
            name="soft-label",
            summary="the loss on real images after training; learned soft labels, and a step size for each step",
            source="Li et al. 2020 and 2022, arXiv 2104.02857 and 2209.14635; after Wang et al. 2018, arXiv 1811.10959 "
            "and Sucholutsky & Schonlau 2019, arXiv 1910.02551",
            labels="learned",
            objective=ThroughTraining(),
        ),
        Method(
            name="dc",
            summary="gradients of the loss on real and synthetic images of a class, compared by cosine layer by layer",
            source="Zhao et al. 2021, arXiv 2006.05929",
            objective=ClassGradients(),
        ),
        Method(
            name="dsa",
            summary="dc with real and synthetic images augmented alike",
            source="Zhao & Bilen 2021, arXiv 2102.08259",
            objective=ClassGradients(siamese=True),
        ),
        Method(
            name="dm",
            summary="mean features of real and synthetic images of a class under random networks",
            source="Zhao & Bilen 2023, arXiv 2110.04181",
            objective=FeatureMeans(),
        ),
        Method(
            name="ncfm",
            summary="characteristic functions of features of real and synthetic images of a class under teachers",
            source="Wang et al. 2025, arXiv 2502.20653",
            objective=CharacteristicFunctions(),
        ),
        Method(
            name="frepo",
            summary="the loss on real images of a regression on features of networks trained on the synthetic ones",
            source="Zhou, Nezhadarya & Ba 2022, arXiv 2206.00719",
            labels="learned",
            objective=Regression(),
        ),
    )
}
DEFAULT_METHOD = "meddistill"


# Installed packages add methods under this group of entry points (docs/new-method.md).
ENTRY_POINTS = "meddistill.methods"


def names() -> tuple[str, ...]:
    """The names of all methods, built in first, then those that installed packages offer."""
    return (*METHODS, *(name for name in plugins.names(ENTRY_POINTS) if name not in METHODS))


def find(name: str) -> Method:
    """The method of that name. Raises :class:`InputError` naming all methods, or what is wrong with an installed one.

    No package can replace a built-in method.
    """
    if name in METHODS:
        return METHODS[name]
    if name not in names():
        raise InputError(f"unknown method '{name}': expected one of {', '.join(names())} (see: meddistill methods)")
    method = plugins.load(ENTRY_POINTS, name)
    if not isinstance(method, Method) or method.name != name:
        raise InputError(f"the entry point '{name}' of {ENTRY_POINTS} is {method!r}: expected a Method of that name")
    return method
