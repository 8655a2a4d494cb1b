"""The outer loop: draw segments, unroll students, update images, labels and step sizes; resumable at any moment.

Methods that match no trajectories give an objective instead, which takes the segments' place.

Iteration i draws everything from the stream named by i, so that a checkpoint is only the learned tensors, the
optimiser's moments and i, and a run that was killed ends with the same bytes as one that was not.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from meddistill.distill.distance import Distance, NormalisedL2, Remembering, Way
from meddistill.distill.formation import Formation
from meddistill.distill.labels import taught_logits
from meddistill.distill.matching.distribution import REAL_IMAGES, match_features
from meddistill.distill.matching.pairs import mean_of
from meddistill.distill.objective import Objective, Scene
from meddistill.distill.overlap import Mitigation, measure_overlap
from meddistill.distill.segments import Pace, SegmentRule
from meddistill.distill.start import first_images
from meddistill.distill.unroll import (
    Batch,
    Learned,
    Outcome,
    Outcomes,
    Precision,
    Rule,
    Strategy,
    Student,
    unroll_many,
)
from meddistill.distill.unroll.compiled import pays
from meddistill.distill.unroll.memory import free_bytes, room_for
from meddistill.distill.unroll.step import operations, why_not_compiled
from meddistill.distill.unroll.together import how_many
from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import Params, unflatten
from meddistill.runtime.errors import InputError, MeddistillError
from meddistill.runtime.events import EventLog
from meddistill.runtime.files import write_atomic
from meddistill.runtime.progress import Progress, Silent, Stage
from meddistill.runtime.streams import derive, stream
from meddistill.runtime.watch import StopRequested
from meddistill.teachers.images import LabelledImages
from meddistill.teachers.store import TrajectoryStore

Optimiser = Literal["adam", "sgd"]
_SGD_MOMENTUM = 0.5
# A checkpoint is written when this long has passed since the last one; the result does not depend on it.
SECONDS_BETWEEN_CHECKPOINTS = 10.0
_WARM_UP_RATE = 0.05
# A segment's score starts at 1; beyond this the student ran away and its gradient is worth nothing. A warm-up has no
# student, and its score is large wherever the classes look alike.
_RUNAWAY_SCORE = 10.0
_MAX_SKIPPED_IN_A_ROW = 25


@dataclass(frozen=True)
class LoopPlan:
    """How a synthetic set is optimised.

    ``student_steps`` N, with ``batch`` synthetic images a step; ``segments_at_once`` S, whose gradients are averaged.
    Rates are those of the optimiser: ``adam``, whose steps do not depend on the scale of the score, or ``sgd`` with
    momentum 0.5 as in the literature; ``step_rate`` acts on the logarithm of the step size. With ``decay`` rates fall
    to zero along half a cosine. ``warm_up`` iterations of distribution matching come first; they move only the images.
    ``momentum``, ``precision`` and ``compiled`` are the student's :class:`Rule`. ``together``: how many of the S
    segments are unrolled side by side; None follows the memory that is free on a GPU, and is one on a CPU.
    ``distance``: how a student is compared with its segment's end. ``averaging``: how much of the average so far, which
    is the result, each iteration keeps (Du et al. 2023, FTD, arXiv 2211.11004); 0 is no average. ``mitigation``: of
    overlap between images. ``objective``: what an iteration lowers instead of the distance to a segment; ``segments``,
    ``student_steps``, ``batch`` and ``compiled`` then mean nothing. ``real_images``: of each class that warm-up and
    objectives look at. ``taught_labels``: matching begins with what the trained teachers say of the images.
    ``highest_score``: segments above it are left out (Guo et al. 2024, DATM, arXiv 2310.05773), not only runaways.
    """

    iterations: int
    student_steps: int
    batch: int
    segments: SegmentRule
    segments_at_once: int
    optimiser: Optimiser
    image_rate: float
    label_rate: float
    step_rate: float
    decay: bool
    learn_labels: bool
    strategy: Strategy
    augmentation: Augmentation
    warm_up: int = 0
    momentum: float = 0.0
    precision: Precision = "full"
    compiled: bool = False
    together: int | None = None
    distance: Distance = field(default_factory=NormalisedL2)
    averaging: float = 0.0
    mitigation: Mitigation | None = None
    objective: Objective | None = None
    real_images: int = REAL_IMAGES
    taught_labels: bool = False
    highest_score: float = math.inf

    @property
    def highest(self) -> float:
        """The highest score with which a segment counts."""
        return min(self.highest_score, _RUNAWAY_SCORE)

    @property
    def rule(self) -> Rule:
        """How students step and how their gradient is computed."""
        return Rule(self.strategy, self.momentum, self.precision, self.compiled)


@dataclass(frozen=True)
class Matching:
    """What the loop matches against: the matching network, its teachers' trajectories, and how many there are.

    ``store`` is None where there are no teachers. ``images``: the training images, which a warm-up, the mitigation of
    overlap and objectives need.
    """

    network: ConvNet
    store: TrajectoryStore | None
    teachers: int
    images: LabelledImages | None = None

    @property
    def trajectories(self) -> TrajectoryStore:
        """The store. Raises ValueError where there are no teachers."""
        if self.store is None:
            raise ValueError("this needs teachers: pass their trajectories in Matching.store")
        return self.store

    @property
    def real(self) -> LabelledImages:
        """The training images. Raises ValueError where there are none."""
        if self.images is None:
            raise ValueError("this looks at real images: pass them in Matching.images")
        return self.images

    def params(self, teacher: int, point: float, device: torch.device) -> Params:
        """A point of a teacher's trajectory, as the network takes it; between two snapshots on the straight way."""
        before = math.floor(point)
        flat = self.trajectories.snapshot(teacher, before)
        if point > before:
            flat = torch.lerp(flat, self.trajectories.snapshot(teacher, before + 1), point - before)
        return unflatten(flat.to(device), self.network.shapes)

    def any_params(self, generator: torch.Generator, device: torch.device) -> Params:
        """A random point of a random trajectory; a random network where there are no teachers."""
        if self.store is None:
            return tuple(param.to(device) for param in self.network.init(generator))
        teacher = int(torch.randint(self.teachers, (), generator=generator))
        return self.params(teacher, int(torch.randint(self.store.snapshots, (), generator=generator)), device)

    def ends(self, generator: torch.Generator, device: torch.device) -> tuple[Params, Params]:
        """The first and the last point of a random trajectory."""
        teacher = int(torch.randint(self.teachers, (), generator=generator))
        first, last = (self.params(teacher, point, device) for point in (0, self.trajectories.snapshots - 1))
        return first, last


def distill(
    first: Learned,
    matching: Matching,
    plan: LoopPlan,
    seed: int,
    *,
    is_enough: Callable[[int], bool] | None = None,
    checkpoint: Path | None = None,
    events: EventLog | None = None,
    progress: Progress = Silent(),
    look: Callable[[int, Learned], None] | None = None,
) -> Learned:
    """Optimise ``first`` and return the result on the same device.

    Images of ``first`` that are smaller than the network's are enlarged for it: :mod:`~meddistill.distill.formation`.

    ``is_enough``: asked after every iteration behind the warm-up, with how many there were, whether to stop.
    ``checkpoint``: a file that holds the state from time to time and is continued from if it exists. An iteration whose
    score or gradient is not finite, or whose student ran away, changes nothing and is reported as ``skipped``.
    ``look``: shown at the start and after every iteration how many there were and the result so far, to look at only.
    Raises :class:`MeddistillError` when nothing but such iterations are left.
    """
    events = events or EventLog()
    formation = Formation(first.images.shape[-1], matching.network.size)
    state = _State(first, plan, _first_memory(matching, plan, first), formation)
    if checkpoint is not None:
        state.load(checkpoint)
    compiled = plan.compiled and plan.objective is None and _compiling_pays(matching.network, plan, first)
    plan = replace(plan, compiled=compiled)
    saved, told = time.monotonic(), not plan.compiled
    last = plan.warm_up + plan.iterations
    if state.iteration < last and plan.objective is None:
        _tell_room(matching.network, plan, first, events)
    with progress.stage("distilling", last) as stage:
        stage.advance(state.iteration)
        if look is not None:
            look(state.iteration, state.result)
        while state.iteration < last:
            _take_labels(state, matching, plan)
            _mitigate(state, matching, plan, seed, events)
            outcome = _iteration(state, matching, plan, seed, events)
            usable = _is_usable(outcome, _highest(plan, state.iteration))
            state.update(outcome, usable)
            _report(state, outcome, usable, events, plan)
            if not told and (reason := why_not_compiled(matching.network, plan.precision)) is not None:
                events.write("not compiled", reason=reason)
                told = True
            if state.skipped == _MAX_SKIPPED_IN_A_ROW:
                raise _diverged(plan)
            if look is not None:
                look(state.iteration, state.result)
            _advance(stage, outcome, state, checkpoint)
            if checkpoint is not None and time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                state.save(checkpoint)
                saved = time.monotonic()
            if is_enough is not None and state.iteration > plan.warm_up and is_enough(state.iteration - plan.warm_up):
                break
    if checkpoint is not None:
        state.save(checkpoint)
    return state.result


def _advance(stage: Stage, outcome: Outcome, state: "_State", checkpoint: Path | None) -> None:
    """Tell that an iteration is done; if somebody asks for a stop at that, lose nothing."""
    try:
        stage.advance(1, loss=outcome.score)
    except StopRequested:
        if checkpoint is not None:
            state.save(checkpoint)
        raise


def _iteration(state: "_State", matching: Matching, plan: LoopPlan, seed: int, events: EventLog) -> Outcome:
    """The mean score and gradient of S segments, of S batches of real images while warming up, or of the objective.

    A segment whose student ran away is left out of the mean, and reported as ``left out``; only when all did is the
    gradient not a number.
    """
    learned, iteration = state.learned, state.iteration
    if iteration >= plan.warm_up and plan.objective is not None:
        scene = _scene(matching, plan, seed, iteration - plan.warm_up)
        outcome, state.carried = plan.objective.outcome(scene, learned, state.carried)
        return outcome
    generators = [stream(seed, "distill", iteration, place) for place in range(plan.segments_at_once)]
    if iteration >= plan.warm_up:
        share = (iteration - plan.warm_up) / plan.iterations
        memory = state.carried
        drawn = [_student(learned, matching, plan, generator, share, state.pace, memory) for generator in generators]
        students = [student for student, _ in drawn]
        found = _unrolled(learned, matching, plan, students, stream(seed, "distill", iteration, "truncated"))
        if any(found.used) and not all(found.used):
            scores = [score if math.isfinite(score) else None for score in found.scores]
            events.write("left out", iteration=iteration + 1, used=list(found.used), scores=scores)
        state.notes = [score.note for (_, score), used in zip(drawn, found.used, strict=True) if used]
        return Outcome(found.score, found.gradient)
    return mean_of([_features(learned, matching, plan, generator) for generator in generators])


def _scene(matching: Matching, plan: LoopPlan, seed: int, iteration: int) -> Scene:
    device = matching.real.device
    return Scene(
        network=matching.network,
        images=matching.real,
        augmentation=plan.augmentation,
        rule=plan.rule,
        real_images=plan.real_images,
        at_once=plan.segments_at_once,
        together=plan.together,
        seed=seed,
        iteration=iteration,
        teacher=None if matching.store is None else lambda generator: matching.ends(generator, device),
    )


def _features(learned: Learned, matching: Matching, plan: LoopPlan, generator: torch.Generator) -> Outcome:
    """Match class means of features under some network."""
    params = matching.any_params(generator, learned.images.device)
    return match_features(
        matching.network, params, learned, matching.real, plan.augmentation, generator, plan.real_images
    )


def _unrolled(
    learned: Learned, matching: Matching, plan: LoopPlan, students: Sequence[Student], truncation: torch.Generator
) -> Outcomes:
    return unroll_many(
        matching.network,
        students,
        learned,
        at=plan.distance.looks_at(len(students[0].batches)),
        rule=plan.rule,
        generator=truncation,
        highest=plan.highest,
        together=plan.together,
    )


@dataclass
class _Score:
    """A student's score: the distance of its states; and what a remembering distance notes of them."""

    distance: Distance
    way: Way
    note: Params = ()

    def __call__(self, states: Mapping[int, Params]) -> Tensor:
        if isinstance(self.distance, Remembering):
            seen = {step: tuple(param.detach() for param in params) for step, params in states.items()}
            self.note = self.distance.noted(seen, self.way)
        return self.distance(states, self.way)


def _student(
    learned: Learned,
    matching: Matching,
    plan: LoopPlan,
    generator: torch.Generator,
    share: float,
    pace: Pace,
    memory: Params,
) -> tuple[Student, _Score]:
    segment = plan.segments.draw(matching.teachers, matching.trajectories.snapshots, generator, share, pace)
    points, device = (segment.start, segment.middle, segment.end), learned.images.device
    start, middle, end = (matching.params(segment.teacher, point, device) for point in points)
    score = _Score(plan.distance, Way(start, middle, end, share, memory))
    batches = student_batches(len(learned.images), plan, generator)[: segment.steps(plan.student_steps)]
    return Student(start, batches, score), score


def student_batches(count: int, plan: LoopPlan, generator: torch.Generator) -> list[Batch]:
    """The batches of N student steps: the ``count`` synthetic images in random order, again and again."""
    rows: list[Tensor] = []
    while len(rows) < plan.student_steps:
        order = torch.randperm(count, generator=generator) if count > plan.batch else torch.arange(count)
        rows += order.split(plan.batch)
    return [Batch(chosen, plan.augmentation.draw(len(chosen), generator)) for chosen in rows[: plan.student_steps]]


def _first_memory(matching: Matching, plan: LoopPlan, first: Learned) -> Params:
    """What a remembering distance begins with; nothing for others."""
    if plan.objective is not None or not isinstance(plan.distance, Remembering):
        return ()
    return plan.distance.first_memory(matching.params(0, 0, first.images.device))


def _take_labels(state: "_State", matching: Matching, plan: LoopPlan) -> None:
    """Where matching begins with the teachers' labels and this is its beginning: ask them."""
    if not plan.taught_labels or state.iteration != plan.warm_up:
        return
    logits, images = state.learned.label_logits, state.learned.images
    last = matching.trajectories.snapshots - 1
    teachers = [matching.params(teacher, last, images.device) for teacher in range(matching.teachers)]
    logits.copy_(taught_logits(matching.network, teachers, images, logits))


def _mitigate(state: "_State", matching: Matching, plan: LoopPlan, seed: int, events: EventLog) -> None:
    """Where it is time to look for overlap: report it, and start the offending images anew."""
    matched, rule = state.iteration - plan.warm_up, plan.mitigation
    if rule is None or matched <= 0 or matched % rule.every:
        return
    learned, generator = state.learned, stream(seed, "overlap", state.iteration)
    teacher = int(torch.randint(matching.teachers, (), generator=generator))
    params = matching.params(teacher, matching.trajectories.snapshots - 1, learned.images.device)
    classes = learned.label_logits.argmax(1)
    found = measure_overlap(matching.network, params, learned.images, classes, matching.real, rule.quantile, generator)
    events.write("overlap", iteration=state.iteration, share=found.share, diversity=found.diversity)
    rows = found.offending.nonzero().flatten()
    if len(rows):
        anew = derive(seed, "overlap", "start", state.iteration)
        labels = classes.cpu()[rows]
        state.restart(rows, first_images("prototypes", matching.real, labels, plan.augmentation, anew), rule)


class _State:
    """What a checkpoint holds: learned tensors and their average, optimiser, iteration, how many were skipped in a row,
    the pace of the segments, which images are being retrained, and what an objective or a distance carries on.

    ``notes``: what the distance noted of the students of the present iteration.
    """

    def __init__(self, first: Learned, plan: LoopPlan, carried: Params, formation: Formation) -> None:
        self.iteration, self.skipped, self.pace = 0, 0, Pace()
        self.carried, self.notes = carried, list[Params]()
        self._retrained = torch.ones(len(first.images), dtype=torch.bool)
        self._retrained_until = 0
        self._plan, self._formation = plan, formation
        self._variables = [tensor.detach().clone() for tensor in first.tensors()]
        self._average = [tensor.clone() for tensor in self._variables] if plan.averaging else []
        self._optimiser = self._new_optimiser()

    def _new_optimiser(self) -> torch.optim.Optimizer:
        """Adam while warming up, on the images alone; then what the plan says, on everything that is learned."""
        plan, warm = self._plan, self.iteration < self._plan.warm_up
        label_rate = plan.label_rate if plan.learn_labels else 0.0
        rates = (_WARM_UP_RATE, 0.0, 0.0) if warm else (plan.image_rate, label_rate, plan.step_rate)
        groups = [{"params": [v], "lr": r, "full": r} for v, r in zip(self._variables, rates, strict=True)]
        if warm or plan.optimiser == "adam":
            return torch.optim.Adam(groups)
        return torch.optim.SGD(groups, momentum=_SGD_MOMENTUM)

    @property
    def learned(self) -> Learned:
        """The set as networks see it: images enlarged."""
        images, logits, steps = self._variables
        return Learned(self._formation.enlarged(images), logits, steps)

    @property
    def result(self) -> Learned:
        """What a run gives: the average where one is kept."""
        return Learned(*(self._average or self._variables))

    def restart(self, rows: Tensor, images: Tensor, rule: Mitigation) -> None:
        """Give the images of ``rows`` ``(k,)`` new pixels, and for a while train only them."""
        variable = self._variables[0]
        variable[rows.to(variable.device)] = self._formation.shrunk(images.to(variable))
        for moment in self._optimiser.state[variable].values():
            if isinstance(moment, Tensor) and moment.shape == variable.shape:
                moment[rows.to(variable.device)] = 0
        self._retrained = torch.zeros(len(variable), dtype=torch.bool).index_fill(0, rows, True)
        self._retrained_until = self.iteration + rule.retrained

    def update(self, outcome: Outcome, usable: bool) -> None:
        """Take one optimiser step, or none, and go on to the next iteration."""
        self.skipped = 0 if usable else self.skipped + 1
        if self.iteration == self._plan.warm_up:
            self._optimiser = self._new_optimiser()
        if usable:
            for group in self._optimiser.param_groups:
                group["lr"] = group["full"] * self._share_of_rate()
            images, *others = outcome.gradient.tensors()
            slopes = (self._formation.pulled_back(images), *others)
            for variable, slope in zip(self._variables, slopes, strict=True):
                variable.grad = slope
            self._step()
        self.iteration += 1
        matched = self.iteration - self._plan.warm_up
        if matched > 0 and usable:
            self.pace = self._plan.segments.paced(self.pace, outcome.score, matched / self._plan.iterations)
            self._add_to_average(matched)
            if self._plan.objective is None and isinstance(self._plan.distance, Remembering):
                self.carried = self._plan.distance.remembered(self.carried, self.notes)

    def _step(self) -> None:
        """The optimiser's step, after which everything but the images being retrained is put back."""
        if self.iteration >= self._retrained_until:
            self._optimiser.step()
            return
        frozen = (~self._retrained).nonzero().flatten().to(self._variables[0].device)
        before = [variable.clone() for variable in self._variables]
        self._optimiser.step()
        images, logits, steps = self._variables
        images[frozen], logits[frozen] = before[0][frozen], before[1][frozen]
        steps.copy_(before[2])

    def _add_to_average(self, matched: int) -> None:
        # The first iterations weigh more than they would for ever, so that the start is forgotten (as Adam's moments).
        kept = min(self._plan.averaging, (matched - 1) / matched)
        for mean, variable in zip(self._average, self._variables, strict=bool(self._average)):
            mean.lerp_(variable, 1 - kept)

    def _share_of_rate(self) -> float:
        matched = self.iteration - self._plan.warm_up
        if matched < 0 or not self._plan.decay:
            return 1.0
        return math.cos(math.pi / 2 * matched / self._plan.iterations) ** 2

    def save(self, path: Path) -> None:
        tensors = {f"learned.{place}": variable for place, variable in enumerate(self._variables)}
        for place, variable in enumerate(self._variables):
            for name, moment in self._optimiser.state[variable].items():
                if isinstance(moment, Tensor):
                    tensors[f"moment.{place}.{name}"] = moment
        tensors |= {f"average.{place}": mean for place, mean in enumerate(self._average)}
        tensors |= {f"carried.{place}": tensor for place, tensor in enumerate(self.carried)}
        tensors["retrained"] = self._retrained
        numbers = {
            "iteration": self.iteration,
            "skipped": self.skipped,
            "retrained_until": self._retrained_until,
            "pace": asdict(self.pace),
        }
        metadata = {name: json.dumps(value) for name, value in numbers.items()}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_atomic(path, safetensors.torch.save(tensors, metadata))

    def load(self, path: Path) -> None:
        if not path.exists():
            return
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                numbers = {name: json.loads(text) for name, text in file.metadata().items()}
                self.iteration, self.skipped = int(numbers["iteration"]), int(numbers["skipped"])
                self.pace, self._retrained_until = Pace(**numbers["pace"]), int(numbers["retrained_until"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            for place, variable in enumerate(self._variables):
                if tensors[f"learned.{place}"].shape != variable.shape:
                    raise ValueError("it holds a synthetic set of another shape")
            self._retrained = tensors.pop("retrained")
            count = sum(name.startswith("carried.") for name in tensors)
            carried = [tensors.pop(f"carried.{place}") for place in range(count)]
            if count < len(self.carried):
                raise ValueError("it holds nothing that the distance remembers")
            self.carried = tuple(tensor.to(self._variables[0].device) for tensor in carried)
        except (OSError, AttributeError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
            raise InputError(
                f"cannot read the checkpoint {path} ({error}): delete it to start this stage anew"
            ) from None
        self._optimiser = self._new_optimiser()
        for name, tensor in tensors.items():
            kind, place, *rest = name.split(".")
            variable = self._variables[int(place)]
            if kind == "learned":
                variable.copy_(tensor)
            elif kind == "average":
                self._average[int(place)].copy_(tensor)
            else:
                # Adam counts its steps in a tensor that stays on the CPU.
                self._optimiser.state[variable][rest[0]] = tensor if rest[0] == "step" else tensor.to(variable.device)


def _highest(plan: LoopPlan, iteration: int) -> float:
    """The score beyond which a student ran away."""
    return math.inf if iteration < plan.warm_up or plan.objective is not None else plan.highest


def _is_usable(outcome: Outcome, highest: float) -> bool:
    if not math.isfinite(outcome.score) or outcome.score > highest:
        return False
    return all(bool(torch.isfinite(slope).all()) for slope in outcome.gradient.tensors())


def _compiling_pays(network: ConvNet, plan: LoopPlan, first: Learned) -> bool:
    steps = plan.iterations * plan.segments_at_once * plan.student_steps
    return pays(steps, operations(network, min(plan.batch, len(first.images))), first.images.device)


def _tell_room(network: ConvNet, plan: LoopPlan, first: Learned, events: EventLog) -> None:
    """How segments are unrolled, and the memory that is counted for it."""
    batch, rule, device = min(plan.batch, len(first.images)), plan.rule, first.images.device
    room = room_for(network, rule, batch, plan.student_steps)
    together = plan.together or how_many(network, rule, batch, plan.student_steps, plan.segments_at_once, device)
    events.write(
        "memory",
        strategy=str(rule.strategy),
        segments=plan.segments_at_once,
        together=min(together, plan.segments_at_once),
        bytes_each=room.bytes,
        states=room.states,
        taken_twice=room.taken_twice,
        bytes_free=free_bytes(device),
        precision=rule.precision,
        compiled=rule.compiled,
    )


def _report(state: _State, outcome: Outcome, usable: bool, events: EventLog, plan: LoopPlan) -> None:
    if not usable:
        score = outcome.score if math.isfinite(outcome.score) else None
        events.write("skipped", iteration=state.iteration, score=score)
    elif state.iteration % max(1, (plan.warm_up + plan.iterations) // 100) == 0:
        matched = "trajectories" if plan.objective is None else plan.objective.family
        phase = "features" if state.iteration <= plan.warm_up else matched
        size = float(state.learned.step_size(0))
        events.write("distilled", iteration=state.iteration, phase=phase, score=outcome.score, step_size=size)


def _diverged(plan: LoopPlan) -> MeddistillError:
    return MeddistillError(
        f"distillation diverged: {_MAX_SKIPPED_IN_A_ROW} iterations in a row had a score that is not finite or above "
        f"{plan.highest:g}. The last good state is kept. Lower image_rate (now {plan.image_rate:g}) or step_size "
        "in the plan and use a new run folder"
    )
