"""The plan: every choice of a run, as plain data, and what is wrong with one."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, cast

from meddistill.cohort.types import Fit
from meddistill.distill.formation import stored_side
from meddistill.distill.loop_plan import LoopPlan, usual_batch
from meddistill.distill.methods import DEFAULT_METHOD, LARGEST_SMOOTHING, Method, find, names
from meddistill.distill.objective import Objective
from meddistill.distill.overlap import Fresh, Mitigation
from meddistill.distill.segments import STAGES
from meddistill.distill.start import STARTS, Start
from meddistill.distill.training import STARTS_OF_STUDENTS, Starts, ThroughTraining
from meddistill.distill.unroll import PRECISIONS, STRATEGIES
from meddistill.nets.augment import Augmentation, usual
from meddistill.nets.convnet import parse
from meddistill.package.limits import MAX_CLASSES, MAX_EPSILON, MAX_STEP_SIZES
from meddistill.runtime.errors import InputError
from meddistill.teachers.optimise import OPTIMISERS
from meddistill.teachers.storage import STORAGES, Storage, is_convex
from meddistill.teachers.train import TeacherPlan

ROUTES = ("statistics", "teachers")


def _setting(default: Any, doc: str, *, low: float | None = None, high: float | None = None, of: Any = None) -> Any:
    """A field with its comment in the file and what values it takes: a range, or one ``of`` some, which a function may
    list.
    """
    return field(default=default, metadata={"doc": doc, "low": low, "high": high, "of": of})


@dataclass(frozen=True)
class Teachers:
    """The networks trained on the cohort."""

    count: int = _setting(4, "networks trained on the cohort; 0 where the method needs none", low=0, high=10_000)
    steps: int = _setting(360, "SGD steps of each", low=1, high=10_000_000)
    snapshot_every: int = _setting(10, "steps between two stored points of a trajectory", low=1, high=1_000_000)
    batch: int = _setting(64, "images a step", low=1, high=65_536)
    learning_rate: float = _setting(0.05, "", low=1e-8, high=100)
    sampling: str = _setting("balanced", "balanced: every class equally often; natural", of=("balanced", "natural"))
    optimiser: str = _setting("sgd", "sgd; sam or gsam: flat teachers, at twice the cost", of=OPTIMISERS)
    rho: float = _setting(0.01, "length of the climb of sam and gsam", low=0, high=100)
    alpha: float = _setting(0.3, "gsam: how much the gap between the climbed loss and the loss counts", low=0, high=100)
    adaptive: bool = _setting(False, "sam and gsam: climb in proportion to the parameters")
    momentum: float = _setting(0.0, "", low=0, high=0.9999)
    decay: bool = _setting(False, "let the rate fall to zero along half a cosine")
    arithmetic: str = _setting("float32", "of convolutions; bfloat16: faster, less exact", of=("float32", "bfloat16"))
    at_once: int = _setting(0, "on a GPU: teachers trained side by side; 0: as many as 8 GB take", low=0, high=10_000)
    storage: str = _setting("float32", "int16: half the bytes; convex2 to convex4: only so many points", of=STORAGES)


@dataclass(frozen=True)
class Matching:
    """How the synthetic images are optimised."""

    warm_up: int = _setting(300, "iterations of distribution matching before trajectories", low=0, high=10_000_000)
    iterations: int = _setting(400, "of trajectory matching", low=1, high=10_000_000)
    student_steps: int = _setting(10, "steps of the student on the synthetic images (N)", low=1, high=1000)
    segment: int = _setting(4, "length of the matched piece of a trajectory, in snapshots", low=1, high=100_000)
    smoothing: int = _setting(
        -1,
        "snapshots on each side that a point of a trajectory is averaged with; -1: the method's own",
        low=-1,
        high=LARGEST_SMOOTHING,
    )
    earliest_start: int = _setting(
        -1, "first snapshot a segment may start at; -1: once teachers have learned most", low=-1, high=100_000
    )
    latest_start: int = _setting(
        -1,
        "last snapshot a segment may start at; -1: where teachers stop improving (validation)",
        low=-1,
        high=100_000,
    )
    batch: int = _setting(0, "synthetic images a student step; 0: more where there are more", low=0, high=65_536)
    segments_at_once: int = _setting(1, "segments whose gradients are averaged (S)", low=1, high=10_000)
    optimiser: str = _setting("adam", "adam, or sgd as in the literature", of=("adam", "sgd"))
    image_rate: float = _setting(0.03, "learning rate of the images", low=0, high=1e6)
    label_rate: float = _setting(0.02, "of the soft labels' logits", low=0, high=1e6)
    step_rate: float = _setting(0.02, "of the logarithm of the step size", low=0, high=1e6)
    step_size: float = _setting(0.03, "the student's first step size", low=1e-8, high=100)
    decay: bool = _setting(False, "let the rates fall to zero along half a cosine")
    strategy: str = _setting("adjoint", "how the gradient is computed", of=STRATEGIES)
    momentum: float = _setting(0.0, "of the student's SGD", low=0, high=0.9999)
    precision: str = _setting(
        "full", "bfloat16: most convolutions of a step, faster where hardware has it", of=PRECISIONS
    )
    compiled: bool = _setting(False, "compile the student's step where the run is long enough to earn it back")
    kernels: bool = _setting(True, "on a GPU: the project's own kernels, where a trial at the start finds them faster")
    real_images: int = _setting(32, "of each class: warm-up, dm, dc, dsa, ncfm", low=1, high=65_536)
    together: int = _setting(0, "segments unrolled side by side; 0: from the memory that is free", low=0, high=10_000)


@dataclass(frozen=True)
class SoftLabel:
    """The training that the method soft-label unrolls."""

    starts: Starts = _setting("fixed", "fixed: one, the package is a trained network; random", of=STARTS_OF_STUDENTS)
    distilled_steps: int = _setting(0, "each with images of its own; 0: one for each image a class", low=0, high=4096)
    epochs: int = _setting(3, "times that the steps are gone through", low=1, high=4096)
    real_batch: int = _setting(256, "real images that the loss is measured on", low=1, high=1_000_000)


@dataclass(frozen=True)
class Evaluation:
    """What is measured at the end."""

    seeds: int = _setting(5, "networks trained for each row; 0: nothing is measured", low=0, high=1000)
    random_sets: int = _setting(1, "sets of as many random real images for each seed, scores averaged", low=0, high=100)
    full_data: bool = _setting(False, "a row for all training images (may take longer than the distillation)")


# Of smaller images nobody sees what they show.
_LEAST_STORED = 8
# A method's own formation is above 2 only where a class has at most so many small images: of more of them larger ones
# teach more (docs/compared.md, "How small the images should be"). And only for images of at most this side: each small
# one costs a network as much time as one of full size, and nothing has been measured of larger ones.
_MOST_OF_A_CLASS, _LARGEST_SIDE = 64, 128


@dataclass(frozen=True)
class Privacy:
    """What of the patients is looked at, and under how much noise, where an epsilon is given."""

    epsilon: float = _setting(
        0.0, "differential privacy for every patient (image, where ids are missing); 0: none", low=0, high=MAX_EPSILON
    )
    delta: float = _setting(1e-5, "below 1 / number of patients, and better far below", low=1e-15, high=0.1)
    route: str = _setting("statistics", "of untrained networks' features; or noised teachers", of=ROUTES)
    looks: int = _setting(32, "statistics: untrained networks that look at the images", low=1, high=10_000)
    sampling_rate: float = _setting(0.05, "teachers: share of the patients in a step", low=1e-6, high=1)
    learning_rate: float = _setting(0.5, "teachers: of their steps", low=1e-8, high=100)
    clip: float = _setting(1.0, "teachers: the longest gradient of a patient", low=1e-6, high=1e6)
    views: int = _setting(2, "teachers: augmented images of a patient in a step", low=1, high=64)
    shards: bool = _setting(False, "teachers: every one has patients of its own")


@dataclass(frozen=True)
class Plan:
    """Every choice of a run."""

    method: str = _setting(DEFAULT_METHOD, "see: meddistill methods", of=names)
    images_per_class: int = _setting(10, "", low=1, high=10_000)
    total_images: int = _setting(0, "in all, instead; with soft labels fewer than classes", low=0, high=65_536)
    size: int = _setting(28, "side of the images in pixels", low=4, high=1024)
    formation: int = _setting(
        0, "2: four images of half the side for each, 3: nine; 0: the method's own", low=0, high=8
    )
    fit: Fit = _setting("crop", "how images that are not square become so", of=("crop", "pad", "stretch"))
    flip: bool = _setting(True, "mirror half of the images in training; false where left and right tell classes apart")
    fixed_normalisation: bool = _setting(False, "by 0.5 and 0.25, not the training images' mean and deviation")
    network: str = _setting("convnet-d3-w32", "the matching and evaluation network: depth and width")
    start: Start = _setting(
        "prototypes", "first images; public ones are given with --start-images, real ones mark the package", of=STARTS
    )
    seed: int = _setting(0, "of every random draw", low=0, high=2**53 - 1)
    teachers: Teachers = field(default_factory=Teachers, metadata={"doc": "The networks trained on the cohort"})
    matching: Matching = field(default_factory=Matching, metadata={"doc": "How the synthetic images are optimised"})
    soft_label: SoftLabel = field(default_factory=SoftLabel, metadata={"doc": "What the method soft-label unrolls"})
    evaluation: Evaluation = field(default_factory=Evaluation, metadata={"doc": "What is measured at the end"})
    privacy: Privacy = field(default_factory=Privacy, metadata={"doc": "Differential privacy"})

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, nested."""
        return asdict(self)

    def in_force(self, classes: int = 0) -> dict[str, Any]:
        """The same with the formation, the smoothing and, of so many classes, the batch that a run has.

        What is usual, or a method's own, may be something else one day. Without ``classes`` a usual batch is told as 0.
        """
        told = self.as_dict() | {"formation": self.formed}
        told["matching"]["smoothing"] = self.smoothed
        if classes and not self.matching.batch and self.objective() is None:
            told["matching"]["batch"] = usual_batch(self.count(classes), self.matching.student_steps)
        return told

    def identity(self, classes: int = 0) -> dict[str, Any]:
        """What is in force as cards and digests have it: they know of no ``flip`` where images are mirrored, of no
        ``fixed_normalisation`` or ``smoothing`` where there is none, and of no ``kernels`` where they may be used, as
        it always was.
        """
        told = self.in_force(classes)
        if self.matching.kernels:
            del told["matching"]["kernels"]
        if not self.smoothed:
            del told["matching"]["smoothing"]
        del told["flip"], told["fixed_normalisation"]
        return told | unflipped(self.flip) | normalised(self.fixed_normalisation)

    def flat(self, classes: int = 0) -> dict[str, int | float | str | bool]:
        """Every value of :meth:`identity` under one name, sections with a dot: what a card holds."""
        pairs: dict[str, int | float | str | bool] = {}
        for name, value in self.identity(classes).items():
            pairs |= {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
        return pairs

    @property
    def augmentation(self) -> Augmentation:
        """How images are changed in every training of the run."""
        return usual(self.flip)

    def asked(self, classes: int) -> int:
        """How many images of full size were asked for, of so many classes together."""
        return self.total_images or self.images_per_class * classes

    @property
    def formed(self) -> int:
        """The formation f: f² images of 1/f of the side take the place of each that was asked for."""
        return self.formation or self._own_formation()

    def _own_formation(self) -> int:
        """The method's, halved until images are not too small; above 2 also where they are too many, or of large ones.

        Images asked for in all count as those of two classes, since a plan knows of no more.
        """
        own, each = find(self.method).formation, self.total_images / 2 or self.images_per_class
        while own > 1 and stored_side(self.size, own) < _LEAST_STORED:
            own //= 2
        while own > 2 and (each * own**2 > _MOST_OF_A_CLASS or self.size > _LARGEST_SIDE):
            own = max(2, own // 2)
        return own

    @property
    def smoothed(self) -> int:
        """How many snapshots on each side a point of a trajectory is averaged with; 0 where there are no teachers."""
        if not self.teachers.count:
            return 0
        own = min(find(self.method).smoothing, self.most_smoothing)
        return own if self.matching.smoothing < 0 else self.matching.smoothing

    @property
    def most_smoothing(self) -> int:
        """Half of the snapshots behind the untrained network: no two points are then the mean of the same ones."""
        return (self.teacher_plan().snapshots - 1) // 2

    @property
    def stored_size(self) -> int:
        """The side of the images as they are stored."""
        return stored_side(self.size, self.formed)

    def count(self, classes: int) -> int:
        """How many synthetic images there are of so many classes."""
        return self.asked(classes) * self.formed**2

    def objective(self, method: Method | None = None) -> Objective | None:
        """What an iteration lowers, with the plan's method or another; None for trajectory matching."""
        objective = (method or find(self.method)).objective
        return replace(objective, **asdict(self.soft_label)) if isinstance(objective, ThroughTraining) else objective

    def step_sizes(self, classes: int) -> int:
        """How many step sizes are learned."""
        objective = self.objective()
        return 1 if objective is None else objective.step_sizes(self.count(classes), classes)

    def teacher_plan(self) -> TeacherPlan:
        """The teachers' part, as ``teachers/`` takes it."""
        part = asdict(self.teachers)
        del part["storage"]
        return TeacherPlan(**part, augmentation=self.augmentation)

    def loop_plan(self, window: tuple[int, int], method: Method | None = None) -> LoopPlan:
        """The matching part, as ``distill/`` takes it; ``window``: where teachers learn, for the starts left open.

        ``method``: another than the plan's, which need not have been installed.
        """
        part, method = asdict(self.matching), method or find(self.method)
        for name in ("step_size", "segment", "smoothing", "earliest_start", "latest_start"):
            del part[name]
        return LoopPlan(
            **part
            | {"strategy": method.strategy or self.matching.strategy, "together": self.matching.together or None},
            segments=method.segments(self.matching.segment, *self.window(window)),
            learn_labels=method.labels != "hard",
            taught_labels=method.labels == "taught",
            augmentation=self.augmentation,
            distance=method.distance,
            averaging=method.averaging,
            highest_score=method.highest_score,
            mitigation=self._mitigation(method),
            objective=self.objective(method),
        )

    @property
    def last_start(self) -> int:
        """The last snapshot that a segment fits behind."""
        return max(0, self.teacher_plan().snapshots - 1 - self.matching.segment)

    def window(self, found: tuple[int, int]) -> tuple[int, int]:
        """First and last snapshot that a segment may start at: the plan's own, or what was ``found``.

        Where one of them is the plan's own, the other gives way to it; no segment reaches beyond its trajectory.
        """
        asked = (self.matching.earliest_start, self.matching.latest_start)
        earliest, latest = (mine if mine >= 0 else other for mine, other in zip(asked, found, strict=True))
        if asked[1] < 0:
            latest = max(earliest, latest)
        latest = min(latest, self.last_start)
        return min(earliest, latest), latest

    def _mitigation(self, method: Method) -> Mitigation | None:
        if not method.mitigates_overlap:
            return None
        every = max(2, self.matching.iterations // (STAGES + 1))  # about once between two parts that segments grow in
        # What the card says of the start holds of images that start anew, too.
        shown: Fresh = "noise" if self.start in ("noise", "public") else "prototypes"
        return Mitigation(every=every, retrained=every // 2, start=shown)


def unflipped(flip: bool) -> dict[str, Any]:
    """What a digest has besides where images are not mirrored; without it those of before would not be found again."""
    return {} if flip else {"flip": False}


def normalised(fixed: bool) -> dict[str, Any]:
    """What a digest has besides where images are normalised by ``fixed`` numbers."""
    return {"fixed_normalisation": True} if fixed else {}


def setting_names() -> frozenset[str]:
    """Every setting of a plan, by the name that a card has it under."""
    told = Matching(kernels=False, smoothing=1)
    return frozenset(replace(Plan(), flip=False, fixed_normalisation=True, matching=told).flat())


def protected(plan: Plan, teachers: int) -> Plan:
    """The plan with what its epsilon asks for: nothing looks at patients but the route.

    ``teachers``: how many, where the route has any; those that see the same patients share the budget.
    """
    teaches = plan.privacy.route == "teachers"
    return replace(
        plan,
        method=plan.method if teaches else "dm",
        start="noise",
        teachers=replace(plan.teachers, count=teachers if teaches else 0),
        matching=replace(plan.matching, warm_up=0),
        evaluation=replace(plan.evaluation, random_sets=0, full_data=False),
    )


def default_depth(size: int) -> int:
    """Blocks that leave 3 to 5 pixels of the side: 3 at 28, 4 at 64, 5 at 112, 6 at 224."""
    return max(1, min(8, int(math.log2(max(size, 6) / 3))))


def override(plan: Plan, where: str = "the plan", **values: Any) -> Plan:
    """The plan with the given top-level values, ``None`` meaning unchanged; ``where``: what a problem calls it.

    A new size brings its network's depth, a method that needs no teachers or no warm-up has none, one that needs flat
    teachers has them trained with adaptive GSAM, one that needs convexified trajectories has two points of each kept.
    """
    given = {name: value for name, value in values.items() if value is not None}
    if "images_per_class" in given and "total_images" not in given:
        given["total_images"] = 0
    changed = replace(plan, **given)
    if "size" in given and default_depth(plan.size) != default_depth(changed.size) and "network" not in given:
        width = plan.network.rpartition("-w")[2]
        changed = replace(changed, network=f"convnet-d{default_depth(changed.size)}-w{width}")
    return checked(_with_what_it_needs(changed, chosen="method" in given), where)


def _with_what_it_needs(plan: Plan, chosen: bool) -> Plan:
    """Nothing is planned that the method does without; the teachers that it needs where it was ``chosen`` now."""
    if plan.method not in names():  # which is told with all other problems
        return plan
    method = find(plan.method)
    if not method.needs_teachers:
        plan = replace(plan, teachers=replace(plan.teachers, count=0))
    if not method.warms_up:
        plan = replace(plan, matching=replace(plan.matching, warm_up=0))
    return replace(plan, teachers=as_needed(plan.teachers, method)) if chosen else plan


def as_needed(teachers: Teachers, method: Method) -> Teachers:
    """The teachers with what the method needs of them, where they lack it.

    Flat ones are adaptive, as in the code of FTD, DATM and HoP-TM.
    """
    if method.flat_teachers and teachers.optimiser == "sgd":
        teachers = replace(teachers, optimiser="gsam", adaptive=True)
    if method.convex_teachers and not is_convex(cast(Storage, teachers.storage)):
        teachers = replace(teachers, storage="convex2")
    return teachers


def checked(plan: Plan, where: str = "the plan", found: Sequence[str] = ()) -> Plan:
    """The same plan. Raises :class:`InputError` listing every value that is out of range or does not fit another.

    ``found``: problems that are known already, listed first.
    """
    problems = [*found, *(text for section, part in sections(plan) for text in _range_problems(section, part))]
    problems = problems or _misfits(plan)
    if problems:
        raise InputError(f"{where} cannot be used:\n" + "\n".join(f"- {text}" for text in problems))
    return plan


def _misfits(plan: Plan) -> list[str]:
    """What is wrong between values that are each within their range."""
    problems, method = [], find(plan.method)
    if method.needs_teachers and plan.teachers.count == 0:
        problems.append(f"method {plan.method} needs teachers, but teachers.count is 0: set it to 4, for example")
    if plan.formation > 1 and plan.stored_size < _LEAST_STORED:
        problems.append(
            f"formation is {plan.formation}, which leaves {plan.stored_size} of {plan.size} pixels a side: use a lower "
            f"one, so that at least {_LEAST_STORED} are left"
        )
    if plan.smoothed > plan.most_smoothing:
        problems.append(
            f"matching.smoothing is {plan.smoothed}, by which both ends of a segment may be the mean of the same "
            f"snapshots: use at most {plan.most_smoothing}, half of the {plan.teacher_plan().snapshots - 1} snapshots "
            "behind the untrained network"
        )
    problems += _unprotected(plan) if plan.privacy.epsilon else []
    steps = max(plan.step_sizes(classes) for classes in (1, MAX_CLASSES))
    if steps > MAX_STEP_SIZES:
        problems.append(
            f"soft_label.distilled_steps and soft_label.epochs make up to {steps} step sizes, of which a package holds "
            f"at most {MAX_STEP_SIZES}: use fewer"
        )
    longest = plan.teachers.steps // plan.teachers.snapshot_every
    if method.objective is None and plan.matching.segment > longest:
        problems.append(
            f"matching.segment is {plan.matching.segment} snapshots, but a trajectory of teachers.steps = "
            f"{plan.teachers.steps} has {longest} after its start: shorten the segment or train longer"
        )
    elif method.objective is None:
        problems += _impossible_window(plan)
    if method.flat_teachers and plan.teachers.optimiser not in ("sam", "gsam"):
        problems.append(
            f"method {plan.method} needs flat teachers, but teachers.optimiser is {plan.teachers.optimiser}: "
            'set it to "gsam" or "sam"'
        )
    if find(plan.method).convex_teachers and not is_convex(cast(Storage, plan.teachers.storage)):
        problems.append(
            f"method {plan.method} needs convexified trajectories, but teachers.storage is {plan.teachers.storage}: "
            'set it to "convex2", "convex3" or "convex4"'
        )
    try:
        if parse(plan.network, channels=1, size=plan.size, classes=2).norm == "batch":
            problems.append(f"network {plan.network}: batch norm cannot be matched, only evaluated: leave -bn away")
    except InputError as error:
        problems.append(str(error))
    return problems


def _impossible_window(plan: Plan) -> list[str]:
    """What leaves segments no place to start at."""
    earliest, latest = plan.matching.earliest_start, plan.matching.latest_start
    if earliest > latest >= 0:
        return [
            f"matching.earliest_start is {earliest}, after matching.latest_start, which is {latest}: exchange them, or "
            "set one to -1"
        ]
    if earliest > plan.last_start:
        return [
            f"matching.earliest_start is {earliest}, but a segment of {plan.matching.segment} snapshots can start at "
            f"{plan.last_start} at the latest: start earlier or train longer"
        ]
    return []


def _unprotected(plan: Plan) -> list[str]:
    """What would look at patients past the accountant."""
    route, method = plan.privacy.route, find(plan.method)
    wrong = (
        (
            plan.start not in ("noise", "public"),
            f'start is {plan.start}, which shows patients: set it to "noise" or to "public"',
        ),
        (plan.matching.warm_up > 0, "matching.warm_up looks at real images: set it to 0"),
        (plan.evaluation.random_sets > 0, "evaluation.random_sets trains on real images: set it to 0"),
        (plan.evaluation.full_data, "evaluation.full_data trains on real images: set it to false"),
        (route == "statistics" and plan.method != "dm", f"method is {plan.method}: the statistics are those of dm"),
        (
            route == "teachers" and (method.objective is not None or method.flat_teachers or method.mitigates_overlap),
            f"method {plan.method} looks at real images or needs flat teachers: take mtt-soft, mtt, pruned, tesla, att "
            "or iadd",
        ),
        (
            route == "teachers" and plan.teachers.momentum > 0,
            "teachers.momentum has no effect on noised teachers: set it to 0",
        ),
    )
    return [f"with an epsilon, {problem}" for found, problem in wrong if found]


def sections(plan: Plan) -> list[tuple[str, Any]]:
    """The plan itself under the name "", and its parts under theirs."""
    return [("", plan), *((f.name, getattr(plan, f.name)) for f in fields(plan) if is_dataclass(getattr(plan, f.name)))]


def _range_problems(section: str, part: Any) -> list[str]:
    problems = []
    for setting in fields(part):
        value, rule = getattr(part, setting.name), setting.metadata
        name = f"{section}.{setting.name}" if section else setting.name
        allowed = rule["of"]() if callable(rule.get("of")) else rule.get("of")
        if allowed and value not in allowed:
            problems.append(f"{name} is {value!r}: expected one of {', '.join(allowed)}")
        elif rule.get("low") is not None and not rule["low"] <= value <= rule["high"]:
            problems.append(f"{name} is {value}: expected {rule['low']:g} to {rule['high']:g}")
    return problems
