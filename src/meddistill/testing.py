"""Does a method behave? A public suite for whoever writes one: ``check_method(METHOD)`` tries it on a tiny cohort.

Teachers of a network with a few hundred parameters are trained on 48 images of 8×8, and the method distils three
classes from them, again and again: what is checked is what a user relies on with every method, not how good it is.

- it ends, with finite numbers, and moves what it says that it learns;
- the same seed gives the same bytes, another seed others;
- a run that was interrupted and continued ends with the bytes of one that was not;
- no global random generator is used;
- of methods that match trajectories: a student that has arrived scores less than one that has not moved, the score's
  gradient is its slope, and the segments lie on the trajectories, however far matching has come.
"""

import math
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from operator import le
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from meddistill.distill.distance import Remembering, Way
from meddistill.distill.labels import class_of_each, first_logits
from meddistill.distill.loop import Matching, distill, student_batches
from meddistill.distill.loop_plan import LoopPlan
from meddistill.distill.methods import Method
from meddistill.distill.segments import Pace
from meddistill.distill.start import first_images
from meddistill.distill.unroll import Learned, Outcome, unroll
from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet, parse
from meddistill.nets.params import Params
from meddistill.pipeline import plan as plans
from meddistill.pipeline.teach import trajectory_store
from meddistill.runtime.device import one_thread
from meddistill.runtime.streams import stream
from meddistill.teachers.images import LabelledImages, Normalisation
from meddistill.teachers.store import TrajectoryStore
from meddistill.teachers.train import train_teacher

__all__ = ["MisbehaviourError", "check_method", "problems_of"]

_CLASSES, _IMAGES, _SIDE, _SEED = 3, 48, 8, 7
_PLAN = plans.Plan(
    images_per_class=2,
    size=_SIDE,
    network="convnet-d1-w4",
    teachers=plans.Teachers(count=2, steps=24, snapshot_every=3, batch=12, learning_rate=0.1),
    matching=plans.Matching(warm_up=1, iterations=6, student_steps=3, segment=2, batch=4),
)
_WINDOW = (1, 5)
# After so many iterations of matching runs are interrupted.
_STOPS = (1, 4)
_STEP, _TOLERANCE = 1e-6, 1e-4
_DRAWS = 200
_NAMES = ("images", "labels", "step size")


class MisbehaviourError(AssertionError):
    """A method does not do what users rely on; the text lists all that was found."""


def check_method(method: Method) -> None:
    """Try a method, in some seconds. Raises :class:`MisbehaviourError` listing every problem."""
    if problems := problems_of(method):
        raise MisbehaviourError(f"{method.name} does not behave:\n" + "\n".join(f"- {text}" for text in problems))


def problems_of(method: Method) -> list[str]:
    """What is wrong with a method, one sentence each; empty where it behaves."""
    problems = [f"its {name} is empty" for name in ("summary", "source") if not getattr(method, name).strip()]
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        trial = _trial(method, Path(folder))
        problems += [
            text for check in (_CHECKS if method.objective else _CHECKS + _OF_SEGMENTS) for text in _found(check, trial)
        ]
    return problems


@dataclass(frozen=True)
class _Trial:
    """A method with all that it needs to run."""

    method: Method
    plan: LoopPlan
    matching: Matching
    first: Learned
    folder: Path

    def run(self, seed: int = _SEED) -> Learned:
        return distill(self.first, self.matching, self.plan, seed)

    @cached_property
    def whole(self) -> Learned:
        return self.run()


def _found(check: Callable[[_Trial], Iterator[str]], trial: _Trial) -> list[str]:
    try:
        return list(check(trial))
    except Exception as error:  # whatever a stranger's code raises is a finding
        asked = check.__name__.strip("_").replace("_", " ")
        return [f"asked whether it {asked}, it raised {type(error).__name__}: {error}"]


def _ends(trial: _Trial) -> Iterator[str]:
    found = trial.whole
    for name, before, after in zip(_NAMES, trial.first.tensors(), found.tensors(), strict=True):
        if before.shape != after.shape or not torch.isfinite(after).all():
            yield f"the {name} it ends with are not finite or of another shape"
    if torch.equal(found.images, _warmed_up(trial)):
        yield "no iteration moved the images"
    moved = not torch.equal(found.label_logits, trial.first.label_logits)
    if moved != ("soft labels" in trial.method.learns):
        yield "labels moved that it does not learn" if moved else "the labels that it learns did not move"


def _warmed_up(trial: _Trial) -> Tensor:
    """The images when matching begins: those of a run that learns nothing from then on."""
    still = replace(trial.plan, iterations=1, image_rate=0.0, averaging=0.0)
    return distill(trial.first, trial.matching, still, _SEED).images


def _repeats(trial: _Trial) -> Iterator[str]:
    if not _same(trial.whole, trial.run()):
        yield "the same seed gives different bytes"
    if _same(trial.whole, trial.run(_SEED + 1)):
        yield "another seed gives the same bytes"


def _resumes(trial: _Trial) -> Iterator[str]:
    for stop in _STOPS:
        kept = trial.folder / f"stopped-{stop}"
        distill(trial.first, trial.matching, trial.plan, _SEED, is_enough=partial(le, stop), checkpoint=kept)
        if not _same(distill(trial.first, trial.matching, trial.plan, _SEED, checkpoint=kept), trial.whole):
            yield f"a run that is interrupted after {stop} iterations and continued ends with other bytes"


def _leaves_global_generators(trial: _Trial) -> Iterator[str]:
    before = _global_states()
    distill(trial.first, trial.matching, replace(trial.plan, iterations=2), _SEED)
    for name, state in _global_states().items():
        if state != before[name]:
            yield f"it draws from the global generator of {name}: draw from meddistill.runtime.streams"


def _global_states() -> dict[str, object]:
    return {  # numpy's text is abridged, but ends with how far the generator has come
        "torch": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),
        "random": random.getstate(),
    }


def _arrives(trial: _Trial) -> Iterator[str]:
    way, distance = _way(trial), trial.plan.distance
    steps = trial.plan.student_steps
    standing = float(distance(dict.fromkeys(distance.looks_at(steps), way.start), way))
    there = {step: _at(way, step / steps) for step in distance.looks_at(steps)}
    arrived = float(distance(there, way))
    if not (math.isfinite(standing) and math.isfinite(arrived) and arrived < standing):
        yield f"a student that has arrived scores {arrived:g}, one that has not moved {standing:g}: expected less"


def _at(way: Way, share: float) -> Params:
    """A point of the teacher's own way: straight to the middle, straight to the end."""
    one, other = (way.start, way.middle) if share < 0.5 else (way.middle, way.end)
    return tuple(torch.lerp(a, b, 2 * share % 1 if share < 1 else 1.0) for a, b in zip(one, other, strict=True))


def _has_its_slope(trial: _Trial) -> Iterator[str]:
    """The gradient against central differences along itself, in float64; and one exact strategy against the other."""
    way, rows = _way(trial), len(trial.first.images)
    batches = student_batches(rows, trial.plan, stream(_SEED, "batches"))
    learned = Learned(*(tensor.double() for tensor in trial.first.tensors()))

    def outcome(learned: Learned, strategy: Literal["full", "adjoint"]) -> Outcome:
        return unroll(
            trial.matching.network,
            way.start,
            learned,
            batches,
            lambda states: trial.plan.distance(states, way),
            at=trial.plan.distance.looks_at(len(batches)),
            strategy=strategy,
        )

    slopes, others = outcome(learned, "full").gradient, outcome(learned, "adjoint").gradient
    for place, (name, slope) in enumerate(zip(_NAMES, slopes.tensors(), strict=True)):
        if not torch.allclose(slope, others.tensors()[place], rtol=1e-6, atol=1e-9):
            yield f"the gradient for the {name} differs between the strategies full and adjoint"
        length = float(slope.norm())
        if length == 0:
            continue
        ahead, behind = (_moved(learned, place, sign * _STEP / length * slope) for sign in (1, -1))
        rise = (outcome(ahead, "full").score - outcome(behind, "full").score) / (2 * _STEP)
        if abs(rise - length) > _TOLERANCE * max(length, _TOLERANCE):
            yield f"along its gradient for the {name}, of length {length:g}, the score rises by {rise:g}"
    if float(slopes.images.norm()) == 0:
        yield "the score does not depend on the images"


def _moved(learned: Learned, place: int, by: Tensor) -> Learned:
    return Learned(*(t + by if k == place else t for k, t in enumerate(learned.tensors())))


def _stays_on_trajectories(trial: _Trial) -> Iterator[str]:
    """Whether every segment of a long run whose scores fall from 1 to 0 does."""
    rule, teachers, last = trial.plan.segments, trial.matching.teachers, trial.matching.trajectories.snapshots - 1
    pace = Pace()
    for number in range(_DRAWS):
        share = number / _DRAWS
        drawn = rule.draw(teachers, last + 1, stream(_SEED, "draw", number), share, pace)
        if not (0 <= drawn.teacher < teachers and 0 <= drawn.start < drawn.end <= last and drawn.share_of_steps <= 1):
            yield f"it draws {drawn} of {teachers} teachers whose last snapshot is {last}"
            return
        pace = rule.paced(pace, 1 - share, (number + 1) / _DRAWS)


def _way(trial: _Trial) -> Way:
    """A segment that the method draws, in float64."""
    matching, distance = trial.matching, trial.plan.distance
    segment = trial.plan.segments.draw(
        matching.teachers, matching.trajectories.snapshots, stream(_SEED, "segment"), 0.0, Pace()
    )
    start, middle, end = (
        tuple(param.double() for param in matching.params(segment.teacher, point, torch.device("cpu")))
        for point in (segment.start, segment.middle, segment.end)
    )
    return Way(start, middle, end, 0.0, distance.first_memory(start) if isinstance(distance, Remembering) else ())


def _trial(method: Method, folder: Path) -> _Trial:
    plan = replace(_PLAN, teachers=plans.as_needed(_PLAN.teachers, method))
    images, network = _images(), _network()
    store = _taught(plan, images, network, folder / "teachers") if method.needs_teachers else None
    labels = class_of_each(_CLASSES, plan.images_per_class)
    objective = plan.objective(method)
    steps = 1 if objective is None else objective.step_sizes(len(labels), _CLASSES)
    first = Learned(
        first_images("prototypes", images, labels, Augmentation(), _SEED),
        first_logits(labels, _CLASSES, method.labels),
        torch.full((steps,), plan.matching.step_size).log(),
    )
    loop = plan.loop_plan(_WINDOW, method)
    loop = loop if method.warms_up else replace(loop, warm_up=0)
    matching = Matching(network, store, plan.teachers.count if store else 0, images)
    return _Trial(method, loop, matching, first, folder)


def _taught(plan: plans.Plan, images: LabelledImages, network: ConvNet, folder: Path) -> TrajectoryStore:
    store = trajectory_store(folder, plan, network)
    for teacher in range(plan.teachers.count):
        store.save(teacher, train_teacher(network, images, plan.teacher_plan(), _SEED, teacher))
    return store


def _network() -> ConvNet:
    return parse(_PLAN.network, channels=1, size=_SIDE, classes=_CLASSES)


def _images() -> LabelledImages:
    """Noise, brighter in another third of the rows for each class."""
    labels = torch.arange(_IMAGES) % _CLASSES
    bright = (torch.arange(_SIDE) * _CLASSES // _SIDE == labels[:, None]).float()[:, None, :, None]
    noise = torch.rand(_IMAGES, 1, _SIDE, _SIDE, generator=stream(_SEED, "images"))
    pixels = (255 * (0.4 * bright + 0.6 * noise)).to(torch.uint8)
    return LabelledImages(pixels, labels, 255, _CLASSES, Normalisation((0.4,), (0.25,)))


def _same(one: Learned, other: Learned) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.tensors(), other.tensors(), strict=True))


_CHECKS = (_ends, _repeats, _resumes, _leaves_global_generators)
_OF_SEGMENTS = (_arrives, _has_its_slope, _stays_on_trajectories)
