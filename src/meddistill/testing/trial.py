"""A method with all that it needs to run on a tiny cohort."""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import torch

from meddistill.distill.distance import Remembering, Way
from meddistill.distill.formation import Formation, stored_side
from meddistill.distill.labels import class_of_each, first_logits
from meddistill.distill.loop import Matching, distill, student_batches
from meddistill.distill.loop_plan import LoopPlan
from meddistill.distill.methods import Method
from meddistill.distill.objective import Objective, Scene
from meddistill.distill.segments import Pace
from meddistill.distill.start import first_images
from meddistill.distill.unroll import Batch, Learned
from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet, parse
from meddistill.nets.params import Params
from meddistill.pipeline import plan as plans
from meddistill.pipeline.teach import trajectory_store
from meddistill.runtime.events import EventLog
from meddistill.runtime.streams import stream
from meddistill.teachers.images import LabelledImages, Normalisation
from meddistill.teachers.store import TrajectoryStore
from meddistill.teachers.train import train_teacher

CPU = torch.device("cpu")
SEED = 7
_CLASSES, _IMAGES, _SIDE = 3, 48, 8
_PLAN = plans.Plan(
    images_per_class=2,
    size=_SIDE,
    network="convnet-d1-w4",
    teachers=plans.Teachers(count=2, steps=24, snapshot_every=3, batch=12, learning_rate=0.1),
    matching=plans.Matching(warm_up=1, iterations=6, student_steps=3, segment=2, batch=4),
)
_WINDOW = (1, 5)


@dataclass(frozen=True)
class DoubleNet(ConvNet):
    """Networks at the precision that finite differences need."""

    @classmethod
    def of(cls, network: ConvNet) -> "DoubleNet":
        """The same function."""
        return cls(*(getattr(network, field.name) for field in fields(network)))

    def init(self, generator: torch.Generator) -> Params:
        return doubled(super().init(generator))


class DoubleImages(LabelledImages):
    """Images at that precision."""

    @classmethod
    def of(cls, images: LabelledImages) -> "DoubleImages":
        """The same images."""
        return cls(*(getattr(images, field.name) for field in fields(images)))

    def inputs(self, rows: torch.Tensor) -> torch.Tensor:
        return super().inputs(rows).double()


def doubled(params: Params) -> Params:
    """In float64; never the same tensors."""
    return tuple(param.detach().to(torch.float64, copy=True) for param in params)


@dataclass(frozen=True)
class Trial:
    """A method with all that it needs to run.

    ``first``: the set that runs begin with, images as small as the method's formation has them.
    """

    method: Method
    plan: LoopPlan
    matching: Matching
    first: Learned
    folder: Path

    def run(self, seed: int = SEED, events: EventLog | None = None) -> Learned:
        """What a whole run gives."""
        return distill(self.first, self.matching, self.plan, seed, events=events)

    @property
    def told(self) -> Path:
        """The events of :attr:`whole`."""
        return self.folder / "events.jsonl"

    @cached_property
    def whole(self) -> Learned:
        """A run that others are compared with."""
        return self.run(events=EventLog(self.told))

    @property
    def learned(self) -> Learned:
        """The first set as networks see it, in float64."""
        formation = Formation(self.first.images.shape[-1], self.matching.network.size)
        images, *others = doubled(self.first.tensors())
        return Learned(formation.enlarged(images), *others)

    @property
    def batches(self) -> list[Batch]:
        """Those of a student."""
        return student_batches(len(self.first.images), self.plan, stream(SEED, "batches"))

    @property
    def objective(self) -> Objective:
        """That of a method which has one."""
        assert self.plan.objective is not None
        return self.plan.objective

    def way(self, share: float) -> Way:
        """A segment that the method draws after that share of a run, in float64, and the first memory."""
        matching, distance = self.matching, self.plan.distance
        segment = self.plan.segments.draw(
            matching.teachers, matching.trajectories.snapshots, stream(SEED, "segment"), share, Pace()
        )
        points = (segment.start, segment.middle, segment.end)
        start, middle, end = (doubled(matching.params(segment.teacher, point, CPU)) for point in points)
        memory = distance.first_memory(start) if isinstance(distance, Remembering) else ()
        return Way(start, middle, end, share, memory)

    def scene(self, iteration: int) -> Scene:
        """What an iteration shows an objective, in float64."""
        plan, matching = self.plan, self.matching

        def ends(generator: torch.Generator) -> tuple[Params, Params]:
            first, last = matching.ends(generator, CPU)
            return doubled(first), doubled(last)

        return Scene(
            network=DoubleNet.of(matching.network),
            images=DoubleImages.of(matching.real),
            augmentation=plan.augmentation,
            rule=plan.rule,
            real_images=plan.real_images,
            at_once=plan.segments_at_once,
            together=plan.together,
            seed=SEED,
            iteration=iteration,
            teacher=ends if matching.store else None,
        )


def trial_of(method: Method, folder: Path) -> Trial:
    """Raises whatever parts of the method raise that are asked for something before a run."""
    plan = replace(_PLAN, teachers=plans.as_needed(_PLAN.teachers, method))
    images, network = _images(), parse(_PLAN.network, channels=1, size=_SIDE, classes=_CLASSES)
    store = _taught(plan, images, network, folder / "teachers") if method.needs_teachers else None
    labels = class_of_each(_CLASSES, plan.images_per_class)
    objective = plan.objective(method)
    steps = 1 if objective is None else objective.step_sizes(len(labels), _CLASSES)
    made = first_images("prototypes", images, labels, Augmentation(), SEED)
    first = Learned(
        Formation(stored_side(_SIDE, method.formation), _SIDE).shrunk(made),
        first_logits(labels, _CLASSES, method.labels),
        torch.full((steps,), plan.matching.step_size).log(),
    )
    loop = plan.loop_plan(_WINDOW, method)
    loop = loop if method.warms_up else replace(loop, warm_up=0)
    smoothing = min(method.smoothing, plan.most_smoothing)
    matching = Matching(network, store, plan.teachers.count if store else 0, images, smoothing)
    return Trial(method, loop, matching, first, folder)


def _taught(plan: plans.Plan, images: LabelledImages, network: ConvNet, folder: Path) -> TrajectoryStore:
    store = trajectory_store(folder, plan, network)
    for teacher in range(plan.teachers.count):
        store.save(teacher, train_teacher(network, images, plan.teacher_plan(), SEED, teacher))
    return store


def _images() -> LabelledImages:
    """Noise, brighter in another third of the rows for each class."""
    labels = torch.arange(_IMAGES) % _CLASSES
    bright = (torch.arange(_SIDE) * _CLASSES // _SIDE == labels[:, None]).float()[:, None, :, None]
    noise = torch.rand(_IMAGES, 1, _SIDE, _SIDE, generator=stream(SEED, "images"))
    pixels = (255 * (0.4 * bright + 0.6 * noise)).to(torch.uint8)
    return LabelledImages(pixels, labels, 255, _CLASSES, Normalisation((0.4,), (0.25,)))
