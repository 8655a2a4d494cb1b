"""The work of a benchmark as tasks, each with one outcome in the folder of results, and what it needs before.

A file's name tells people what it is; its end is a digest of everything that determines it. So a grid that was changed
finds again what it has in common with the old one, and never takes anything else for its own.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from meddistill import __version__
from meddistill.bench.grid import FULL, SELECTIONS, SOFT, Grid, Source
from meddistill.distill.methods import find
from meddistill.pipeline.evaluate import evaluation_seeds
from meddistill.pipeline.plan import Plan, unflipped
from meddistill.pipeline.teach import teacher_identity
from meddistill.pretrain.ways import IMAGENET, PROBE, ROWS, SCRATCH, PretrainPlan, way_of
from meddistill.runtime.files import write_atomic
from meddistill.runtime.streams import derive
from meddistill.train.baselines import RANDOM
from meddistill.train.protocol import PROTOCOL_VERSION, TUTORED

# It changes with anything that changes a figure and is not in the protocol of training.
BENCH_VERSION = "1"
Kind = Literal["teach", "label", "make", "pretrain", "score"]
# What somebody has to hand out so that others can have what a row of the table has.
Shared = Literal[
    "patients' images", "weights trained on patients", "a package", "nothing but public weights", "nothing"
]


@dataclass(frozen=True)
class Cell:
    """One line of a table: a set of a kind, and the network that is trained on it.

    ``images_per_class``: 0 where ``total_images`` says how many there are in all, and where both are 0 all there are.
    ``method``: a method, or a variant, which is ``variant_of`` with other settings; a way to choose real images,
    ``full`` for all of them, or what few of them make of an encoder (:mod:`~meddistill.pretrain.ways`). ``matching``:
    the network that the set was distilled with, or whose teachers looked at it; empty where there is none.
    ``evaluation``: as the grid names it, with ``-tutored`` behind where the matching network tutors it.
    """

    source: Source
    method: str
    images_per_class: int
    matching: str
    evaluation: str
    total_images: int = 0
    variant_of: str = ""

    @property
    def made_by(self) -> str:
        """The method itself."""
        return self.variant_of or self.method

    @property
    def network(self) -> str:
        """The network that is trained."""
        return self.evaluation.removesuffix(TUTORED)

    @property
    def is_tutored(self) -> bool:
        """Whether the matching network tutors it."""
        return self.evaluation.endswith(TUTORED)

    @property
    def amount(self) -> str:
        """How many images, for people: of each class, or in all; empty where it is all there are."""
        return _amount(self.images_per_class, self.total_images)

    def asked(self, classes: int) -> int:
        """How many images of so many classes together; 0 where it is all there are."""
        return self.total_images or self.images_per_class * classes

    @property
    def has_soft_labels(self) -> bool:
        """Whether an image's label is more than its class."""
        return self.method.endswith(SOFT) if not self.is_distilled else find(self.made_by).labels != "hard"

    @property
    def is_distilled(self) -> bool:
        """Whether the images are synthetic; else they are patients'."""
        return self.method not in (*SELECTIONS, FULL, *ROWS)

    @property
    def has_few_labels(self) -> bool:
        """Whether it is of the family "scarce real labels": random real images, and an encoder or none."""
        return self.method in ROWS

    @property
    def has_encoder(self) -> bool:
        """Whether its encoder is not a fresh one."""
        return self.has_few_labels and way_of(self.method).name != SCRATCH

    @property
    def shared(self) -> Shared:
        """What somebody has to hand out; those who get it have the few labelled images of that family themselves."""
        if not self.has_few_labels:
            return "a package" if self.is_distilled else "patients' images"
        if not self.has_encoder:
            return "nothing"
        is_public = way_of(self.method).name == IMAGENET
        return "nothing but public weights" if is_public else "weights trained on patients"

    @property
    def has_plan(self) -> bool:
        """Whether the set has a plan: networks were, as a rule, trained on the cohort for it."""
        return self.is_distilled or (self.method in SELECTIONS and self.method != RANDOM)

    @property
    def rows(self) -> tuple[str, ...]:
        """What is trained on: the set as it is, with one class for each image, and without augmentation."""
        if self.method == FULL or (self.has_few_labels and self.method != SCRATCH):
            return ("as is",)
        return ("as is", "hard", "plain") if self.is_distilled and self.has_soft_labels else ("as is", "plain")


@dataclass(frozen=True)
class EncoderId:
    """Which encoder: number ``number`` of those that ``row`` has of this network, on the images of a distillation."""

    source: Source
    row: str
    network: str
    plan: PretrainPlan
    distillation: int
    number: int
    flip: bool = True


@dataclass(frozen=True)
class Task:
    """A piece of work: its outcome's file, and the files that have to be there before.

    ``made``: a file that is made beside the outcome and counts with it. ``cell``: of a score, with the ``seeds`` whose
    networks each of the files is for. ``plan``: of teachers, labels or a distillation, number ``distillation`` of the
    source. ``encoder``: of pretraining.
    """

    kind: Kind
    outcome: Path
    source: Source
    needs: tuple[Path, ...] = ()
    distillation: int = 0
    made: Path | None = None
    plan: Plan | None = None
    cell: Cell | None = None
    seeds: Mapping[Path, Sequence[int]] = field(default_factory=dict)
    encoder: EncoderId | None = None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.kind} {self.outcome.stem.rpartition('.')[0]}"


@dataclass(frozen=True)
class Layout:
    """Where the outcomes of a grid are in the folder ``out``; ``device``: the kind of it, which rounding depends on."""

    grid: Grid
    out: Path
    device: str

    def rows(self, cell: Cell) -> tuple[str, ...]:
        """What the cell's networks are trained on."""
        return cell.rows if self.grid.robust else cell.rows[:1]

    @property
    def distillations(self) -> range:
        """Their numbers."""
        return range(self.grid.distillations)

    @property
    def seeds(self) -> list[int]:
        """Of the trained networks, distillation by distillation: the same in every cell."""
        return [seed for distillation in self.distillations for seed in self.seeds_of(distillation)]

    def seeds_of(self, distillation: int) -> list[int]:
        """Those that train on this distillation; on the first one, those of a grid that has no other."""
        grid = self.grid
        seed = derive(grid.seed, "distillation", distillation) if distillation else grid.seed
        return evaluation_seeds(seed, grid.seeds)

    def plan(self, cell: Cell, distillation: int) -> Plan:
        """The plan of the cell's set, or of the teachers that look at it."""
        count, total = cell.images_per_class, cell.total_images
        return self.grid.plan_for(cell.source, cell.method, count, cell.matching, distillation, total)

    def tutor(self, cell: Cell) -> str:
        """The network that tutors the cell's; of sets without a matching network, the first one of the cohort."""
        return cell.matching or self.grid.matched_with(cell.source)[0]

    def flip(self, cell: Cell) -> bool:
        """Whether the cell's networks see mirrored images."""
        return self.plan(cell, 0).flip if cell.has_plan else self.grid.flip_for(cell.source, cell.method)

    def encoder(self, cell: Cell, seed: int) -> EncoderId:
        """The encoder that a seed takes: probe and fine-tuning, and all numbers of images, have the same."""
        plan, row = self.grid.pretrain_plan(cell.source, cell.method), cell.method.removesuffix(PROBE)
        distillation, place = divmod(self.seeds.index(seed), self.grid.seeds)
        number = 0 if row == IMAGENET else place % (plan.encoders or self.grid.seeds)
        return EncoderId(cell.source, row, cell.evaluation, plan, distillation, number, self.flip(cell))

    def pretrained(self, encoder: EncoderId) -> Path:
        """What is known of an encoder; its weights are beside, as ``.safetensors``."""
        told = asdict(encoder.plan) | {"row": encoder.row, "network": encoder.network, "seed": self.grid.seed}
        del told["encoders"]
        told |= {"distillation": encoder.distillation, "number": encoder.number} | unflipped(encoder.flip)
        name = f"{encoder.source.name} {encoder.row} {encoder.network} {encoder.distillation} {encoder.number}"
        return self.out / "encoders" / f"{name}.{self._digest(encoder.source, told)}.json"

    def facts(self, source: Source, distillation: int) -> Path:
        """What is known of a cohort as it was split for a distillation."""
        seed = self.grid.seed + distillation  # which splits are drawn with
        return self.out / "cohorts" / f"{source.name}.{seed}.{_digest(source.identity)}.json"

    def teachers(self, source: Source, plan: Plan) -> Path:
        """The folder of the trajectories."""
        settings = teacher_identity(plan) | {"count": plan.teachers.count, "steps": plan.teachers.steps}
        digest = self._digest(source, settings | {"network": plan.network, "seed": plan.seed})
        return self.out / "teachers" / f"{source.name} {plan.network} {plan.seed}.{digest}"

    def taught(self, source: Source, plan: Plan) -> Path:
        """What says that all teachers are there."""
        folder = self.teachers(source, plan)
        return folder.with_name(f"{folder.name}.json")

    def labels(self, source: Source, plan: Plan) -> Path:
        """Which point of the teachers labels real images, chosen on validation images."""
        name = f"{source.name} {_planned(plan)} {plan.network} {plan.seed}"
        return self.out / "labels" / f"{name}.{self._digest(source, self._looking(plan))}.json"

    def package(self, source: Source, plan: Plan) -> Path:
        """A distilled set."""
        name = f"{source.name} {_planned(plan)} {plan.method} {plan.network} {plan.seed}"
        return self.out / "sets" / f"{name}.{self._digest(source, plan.identity())}.mdz"

    def made(self, source: Source, plan: Plan) -> Path:
        """What making a distilled set took."""
        return self.package(source, plan).with_suffix(".json")

    def scores(self, cell: Cell) -> Path:
        """The scores of a cell's networks."""
        # Without pretraining it is the row of random real images: the same networks, trained once.
        method = RANDOM if cell.method == SCRATCH else cell.made_by
        told: dict[str, Any] = {"method": method, "images": cell.images_per_class, "network": cell.evaluation}
        # However many distillations there are: the networks of further ones are added to the file, like those of
        # further seeds. The number has stood here since version 1.
        told |= {"seed": self.grid.seed, "distillations": 1, "protocol": PROTOCOL_VERSION}
        if cell.total_images:
            told["total_images"] = cell.total_images
        if cell.is_tutored:
            told["tutor"] = self.tutor(cell)
        if cell.has_plan:
            plan = self.plan(cell, 0)
            told["plan"] = plan.identity() if cell.is_distilled else self._looking(plan)
        else:
            told |= unflipped(self.flip(cell))
        if cell.has_encoder:
            told["pretraining"] = asdict(self.grid.pretrain_plan(cell.source, cell.method))
        words = (cell.source.name, cell.amount, method, cell.matching, cell.evaluation)
        name = " ".join(word for word in words if word)
        return self.out / "scores" / f"{name}.{self._digest(cell.source, told)}.json"

    def _looking(self, plan: Plan) -> dict[str, Any]:
        """Of a plan what determines the teachers that look at real images, and how many images there are."""
        own = {"network": plan.network, "seed": plan.seed, "images": plan.images_per_class}
        own |= {"total_images": plan.total_images} if plan.total_images else {}
        return asdict(plan.teachers) | own | unflipped(plan.flip)

    def _digest(self, source: Source, settings: Any) -> str:
        versions = {"version": __version__, "bench": BENCH_VERSION, "device": self.device}
        return _digest({"source": source.identity, "settings": settings, **versions})


def _amount(images_per_class: int, total_images: int) -> str:
    return f"{total_images} in all" if total_images else str(images_per_class or "")


def _planned(plan: Plan) -> str:
    return _amount(plan.images_per_class, plan.total_images)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:10]


def cells(grid: Grid) -> list[Cell]:
    """All lines of the tables, with those that every method is compared with: random real images and all of them."""
    found: list[Cell] = []
    for place in places(grid):
        methods = [method for method in grid.methods if not place.total_images or grid.takes_total(method)]
        asked = [place.cell(method) for method in methods]
        if grid.full:
            found.append(full(place.cell(RANDOM)))
        found += [one for cell in asked for one in (counterpart(cell), cell)]
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Place:
    """Where methods are compared; ``own``: the networks of rows that do not take the evaluation network.

    ``variants``: the methods of rows that are variants. Either ``images_per_class`` or ``total_images`` is 0.
    """

    source: Source
    matching: str
    evaluation: str
    images_per_class: int
    own: Mapping[str, str] = field(default_factory=dict)
    total_images: int = 0
    variants: Mapping[str, str] = field(default_factory=dict)

    def cell(self, method: str) -> Cell:
        """A method's cell; random real images with hard labels have no matching network."""
        matching = "" if method in (RANDOM, *ROWS) else self.matching
        evaluation, variant_of = self.own.get(method, self.evaluation), self.variants.get(method, "")
        return Cell(self.source, method, self.images_per_class, matching, evaluation, self.total_images, variant_of)


def places(grid: Grid) -> list[Place]:
    """All places of the grid."""
    amounts = [*((count, 0) for count in grid.images_per_class), *((0, total) for total in grid.total_images)]
    return [
        Place(source, matching, evaluation, count, grid.own_networks(source), total, grid.variants)
        for source in grid.cohorts
        for matching in grid.matched_with(source)
        for evaluation in grid.evaluated_with(matching)
        for count, total in amounts
    ]


def counterpart(cell: Cell) -> Cell:
    """As many random real images with labels of the same kind; of pretrained encoders, the same without pretraining."""
    if cell.has_few_labels:
        return replace(cell, method=SCRATCH + PROBE) if cell.method.endswith(PROBE) else _from_scratch(cell)
    place = Place(cell.source, cell.matching, cell.evaluation, cell.images_per_class, {}, cell.total_images)
    return place.cell("random" + SOFT * cell.has_soft_labels)


def _from_scratch(cell: Cell) -> Cell:
    """Fixed norms are for weights from elsewhere: the same network from scratch has norms that measure."""
    return replace(cell, method=SCRATCH, evaluation=cell.evaluation.removesuffix("-affine"))


def full(cell: Cell) -> Cell:
    """All training images."""
    return Cell(cell.source, FULL, 0, "", cell.evaluation)


def tasks(layout: Layout) -> list[Task]:
    """All tasks in an order in which each comes after those that it needs."""
    found: dict[Path, Task] = {}
    for cell in cells(layout.grid):
        for task in _tasks_of(layout, cell):
            found.setdefault(task.outcome, task)
    return list(found.values())


def _tasks_of(layout: Layout, cell: Cell) -> Iterator[Task]:
    seeds: dict[Path, list[int]] = {}
    for distillation in layout.distillations if cell.has_plan else ():
        plan = layout.plan(cell, distillation)
        taught = (layout.taught(cell.source, plan),) if is_taught(plan) else ()
        if taught:
            yield Task("teach", *taught, cell.source, (), distillation, plan=plan)
        needs = taught
        if cell.is_distilled:
            needs = (layout.made(cell.source, plan),)
            package = layout.package(cell.source, plan)
            yield Task("make", *needs, cell.source, taught, distillation, package, plan)
        elif cell.has_soft_labels:
            needs = (layout.labels(cell.source, plan),)
            yield Task("label", *needs, cell.source, taught, distillation, plan=plan)
        seeds |= dict.fromkeys(needs, layout.seeds_of(distillation))
    for seed in layout.seeds if cell.has_encoder else ():
        encoder = layout.encoder(cell, seed)
        path = layout.pretrained(encoder)
        if path not in seeds:
            yield Task("pretrain", path, cell.source, (), encoder.distillation, weights_of(path), encoder=encoder)
        seeds.setdefault(path, []).append(seed)
    yield Task("score", layout.scores(cell), cell.source, tuple(seeds), cell=cell, seeds=seeds)


def is_taught(plan: Plan) -> bool:
    """Whether the plan has teachers that are shared; those under noise are a release, which a run makes for itself."""
    return plan.teachers.count > 0 and not plan.privacy.epsilon


def weights_of(pretrained: Path) -> Path:
    """The file of an encoder's weights beside what is known of it."""
    return pretrained.with_suffix(".safetensors")


def is_done(layout: Layout, task: Task) -> bool:
    """Whether the outcome is there with what was made, of a score that of every seed."""
    if not task.outcome.exists() or (task.made is not None and not task.made.exists()):
        return False
    if task.cell is None:
        return True
    done = read_outcome(task.outcome)
    return all(f"{row} {seed}" in done for row in layout.rows(task.cell) for seed in layout.seeds)


def forget_scores_of_the_lost(layout: Layout, every: Sequence[Task]) -> None:
    """Take away the scores of sets, labels and encoders that are not there any more: those made anew may be others.

    Of a score only the seeds go whose networks had what is lost. Teachers do not count: whoever deletes networks of
    patients that are not needed any more shall not lose figures. ``every``: all tasks. It is done before anything is
    made, so that a start that is killed leaves nothing old.
    """
    lost = {task.outcome for task in every if task.kind not in ("teach", "score") and not is_done(layout, task)}
    for task in every:
        seeds = {seed for path in lost.intersection(task.seeds) for seed in task.seeds[path]}
        gone = {f"{row} {seed}" for row in (task.cell.rows if task.cell else ()) for seed in seeds}
        known = read_outcome(task.outcome) if gone else {}
        kept = {name: one for name, one in known.items() if name not in gone}
        if len(kept) < len(known):
            write_atomic(task.outcome, json.dumps(kept).encode())


def read_outcome(path: Path) -> dict[str, Any]:
    """An outcome; nothing, where the file cannot be read: it is then made again."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}
