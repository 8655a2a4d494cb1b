"""The outer loop: draw segments, unroll students, update images, labels and step sizes; resumable at any moment.

Methods that match no trajectories give an objective instead, which takes the segments' place.

Iteration i draws everything from the stream named by i, so that a checkpoint is only the learned tensors, the
optimiser's moments and i, and a run that was killed ends with the same bytes as one that was not.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from meddistill.distill.distance import Distance, Remembering, Way
from meddistill.distill.formation import Formation
from meddistill.distill.labels import taught_logits
from meddistill.distill.loop_plan import LoopPlan
from meddistill.distill.matching.distribution import match_features
from meddistill.distill.matching.pairs import mean_of
from meddistill.distill.objective import Scene
from meddistill.distill.overlap import Mitigation, judge_of, least_alike, measure_overlap
from meddistill.distill.segments import Pace
from meddistill.distill.start import MIN_PROTOTYPE_IMAGES, first_images
from meddistill.distill.state import State
from meddistill.distill.unroll import (
    Batch,
    Learned,
    Outcome,
    Outcomes,
    Student,
    unroll_many,
)
from meddistill.distill.unroll.memory import free_bytes, room_for, traces_at_once
from meddistill.distill.unroll.step import operations, why_not_compiled
from meddistill.distill.unroll.together import how_many
from meddistill.distill.unroll.trial import why_no_kernels
from meddistill.nets.compiled import pays
from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import Params, unflatten
from meddistill.nets.trial import are_there_kernels
from meddistill.runtime.device import sent
from meddistill.runtime.errors import MeddistillError
from meddistill.runtime.events import EventLog
from meddistill.runtime.progress import Progress, Silent, Stage
from meddistill.runtime.streams import derive, stream
from meddistill.runtime.watch import StopRequested
from meddistill.teachers.images import LabelledImages
from meddistill.teachers.store import TrajectoryStore

# A checkpoint is written when this long has passed since the last one; the result does not depend on it.
SECONDS_BETWEEN_CHECKPOINTS = 10.0
_MAX_SKIPPED_IN_A_ROW = 25


@dataclass(frozen=True)
class Matching:
    """What the loop matches against: the matching network, its teachers' trajectories, and how many there are.

    ``store`` is None where there are no teachers. ``images``: the training images, which a warm-up, the mitigation of
    overlap and objectives need. ``smoothing``: how many snapshots on each side of one are averaged with it.
    """

    network: ConvNet
    store: TrajectoryStore | None
    teachers: int
    images: LabelledImages | None = None
    smoothing: int = 0

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
        """A smooth point of a teacher's trajectory, as the network takes it; between two on the straight way."""
        before = math.floor(point)
        flat = self._smooth(teacher, before)
        if point > before:
            flat = torch.lerp(flat, self._smooth(teacher, before + 1), point - before)
        return unflatten(sent(flat, device), self.network.shapes)

    def _smooth(self, teacher: int, index: int) -> Tensor:
        """The mean of a snapshot and those around it: as many before as after, but for the last ones.

        What the small batches of a teacher's steps add to its way by accident no synthetic image can teach a student;
        the mean of several points holds less of it (stochastic weight averaging: Izmailov et al. 2018, arXiv
        1803.05407). The untrained network stays as it is, for students start there.
        """
        store, reach = self.trajectories, min(self.smoothing, index)
        if not reach:
            return store.snapshot(teacher, index)
        return store.mean(teacher, index - reach, min(index + reach, store.snapshots - 1))

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
    state = State(first, plan, _first_memory(matching, plan, first), formation)
    if checkpoint is not None:
        state.load(checkpoint)
    compiled = plan.compiled and plan.objective is None and _compiling_pays(matching.network, plan, first)
    wanted, plan = plan.kernels, replace(plan, compiled=compiled, kernels=False)
    saved, told = time.monotonic(), not plan.compiled
    last = plan.warm_up + plan.iterations
    if state.iteration < last and plan.objective is None:
        state.together = _together(matching.network, plan, first)
        if wanted:
            plan = replace(plan, kernels=_are_kernels_taken(state, matching.network, plan, first, events))
        _tell_room(matching.network, plan, first, state.together, events)
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
            if not told and (reason := why_not_compiled(matching.network, plan.precision, plan.kernels)) is not None:
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


def _advance(stage: Stage, outcome: Outcome, state: State, checkpoint: Path | None) -> None:
    """Tell that an iteration is done; if somebody asks for a stop at that, lose nothing."""
    try:
        stage.advance(1, loss=outcome.score)
    except StopRequested:
        if checkpoint is not None:
            state.save(checkpoint)
        raise


def _iteration(state: State, matching: Matching, plan: LoopPlan, seed: int, events: EventLog) -> Outcome:
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
        truncation = stream(seed, "distill", iteration, "truncated")
        found = _unrolled(learned, matching, plan, students, state.together, truncation)
        if any(found.used) and not all(found.used):
            scores = [score if math.isfinite(score) else None for score in found.scores]
            events.write("left out", iteration=iteration + 1, used=list(found.used), scores=scores)
        state.notes = [score.note for (_, score), used in zip(drawn, found.used, strict=True) if used]
        if found.together < state.together:
            events.write("memory ran out", iteration=iteration + 1, together=found.together)
            state.together = found.together
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
    learned: Learned,
    matching: Matching,
    plan: LoopPlan,
    students: Sequence[Student],
    together: int,
    truncation: torch.Generator,
) -> Outcomes:
    return unroll_many(
        matching.network,
        students,
        learned,
        at=plan.distance.looks_at(len(students[0].batches)),
        rule=plan.rule,
        generator=truncation,
        highest=plan.highest,
        together=together,
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
    batch = plan.batch_of(count)
    while len(rows) < plan.student_steps:
        order = torch.randperm(count, generator=generator) if count > batch else torch.arange(count)
        rows += order.split(batch)
    rows = rows[: plan.student_steps]
    draws = plan.augmentation.draws([len(chosen) for chosen in rows], generator)
    return [Batch(chosen, draw) for chosen, draw in zip(rows, draws, strict=True)]


def _first_memory(matching: Matching, plan: LoopPlan, first: Learned) -> Params:
    """What a remembering distance begins with; nothing for others."""
    if plan.objective is not None or not isinstance(plan.distance, Remembering):
        return ()
    return plan.distance.first_memory(matching.params(0, 0, first.images.device))


def _take_labels(state: State, matching: Matching, plan: LoopPlan) -> None:
    """Where matching begins with the teachers' labels and this is its beginning: ask them."""
    if not plan.taught_labels or state.iteration != plan.warm_up:
        return
    logits, images = state.learned.label_logits, state.learned.images
    last = matching.trajectories.snapshots - 1
    teachers = [matching.params(teacher, last, images.device) for teacher in range(matching.teachers)]
    logits.copy_(taught_logits(matching.network, teachers, images, logits))


def _mitigate(state: State, matching: Matching, plan: LoopPlan, seed: int, events: EventLog) -> None:
    """Where it is time to look for overlap: report it, and start one of every two overlapping images anew."""
    rule = plan.mitigation
    if rule is None or not rule.is_due(state.iteration - plan.warm_up, plan.iterations):
        return
    learned, generator = state.learned, stream(seed, "overlap", state.iteration)
    images, classes = learned.images, learned.label_logits.argmax(1)
    teacher = int(torch.randint(matching.teachers, (), generator=generator))
    params = matching.params(teacher, matching.trajectories.snapshots - 1, images.device)
    judge = judge_of(matching.network, params, matching.real, classes, rule.quantile, generator)
    found = measure_overlap(judge, images, classes)
    rows = found.worse.nonzero().flatten()
    events.write(
        "overlap", iteration=state.iteration, share=found.share, diversity=found.diversity, restarted=len(rows)
    )
    if len(rows):

        def draw(row: int) -> Tensor:
            anew = derive(seed, "overlap", "start", state.iteration, row)
            return state.formation.shrunk(_anew(rule, matching.real, classes[row], plan, anew).to(images))

        state.restart(rows, least_alike(judge, images, classes, found.worse, state.formation, draw), rule)


def _anew(rule: Mitigation, real: LabelledImages, label: Tensor, plan: LoopPlan, seed: int) -> Tensor:
    """What an image of a class may start anew from, ``(d, C, H, W)`` on the CPU."""
    labels = label.cpu().expand(rule.draws)
    return first_images(rule.start, real, labels, plan.augmentation, seed, averaged=MIN_PROTOTYPE_IMAGES)


def _highest(plan: LoopPlan, iteration: int) -> float:
    """The score beyond which a student ran away."""
    return math.inf if iteration < plan.warm_up or plan.objective is not None else plan.highest


def _is_usable(outcome: Outcome, highest: float) -> bool:
    if not math.isfinite(outcome.score) or outcome.score > highest:
        return False
    return all(bool(torch.isfinite(slope).all()) for slope in outcome.gradient.tensors())


def _compiling_pays(network: ConvNet, plan: LoopPlan, first: Learned) -> bool:
    """Counted by the work on a CPU; on a GPU by the launches, of which segments side by side share one."""
    device, launches = first.images.device, plan.segments_at_once
    if device.type != "cpu":
        launches = math.ceil(launches / _together(network, plan, first))
    steps = plan.iterations * launches * plan.student_steps
    return pays(steps, operations(network, plan.batch_of(len(first.images))), device)


def _together(network: ConvNet, plan: LoopPlan, first: Learned) -> int:
    """How many segments go side by side: settled once for a run, so that its steps have one shape."""
    batch, steps, device = plan.batch_of(len(first.images)), plan.student_steps, first.images.device
    asked = len(plan.distance.looks_at(steps))
    together = plan.together or how_many(network, plan.rule, batch, steps, plan.segments_at_once, device, asked)
    return min(together, plan.segments_at_once)


def _are_kernels_taken(state: State, network: ConvNet, plan: LoopPlan, first: Learned, events: EventLog) -> bool:
    """Whether kernels serve here. A run that is continued keeps to its choice, and only tries that they are right."""
    device, batch = first.images.device, plan.batch_of(len(first.images))
    if plan.strategy == "full" or not are_there_kernels(network, device) or state.kernels is False:
        return False
    timed = state.kernels is None
    reason = why_no_kernels(network, plan.precision, plan.compiled, state.together, batch, device, timed)
    if reason is not None:
        events.write("no kernels", reason=reason)
    state.kernels = reason is None
    return state.kernels


def _tell_room(network: ConvNet, plan: LoopPlan, first: Learned, together: int, events: EventLog) -> None:
    """How segments are unrolled, and the memory that is counted for it."""
    batch, rule, device = plan.batch_of(len(first.images)), plan.rule, first.images.device
    steps, asked = plan.student_steps, len(plan.distance.looks_at(plan.student_steps))
    room = room_for(network, rule, batch, steps, asked, traces_at_once(network, rule, batch, device))
    events.write(
        "memory",
        strategy=str(rule.strategy),
        segments=plan.segments_at_once,
        together=together,
        bytes_each=room.bytes,
        states=room.states,
        taken_twice=room.taken_twice,
        traces=room.traces,
        bytes_free=free_bytes(device),
        precision=rule.precision,
        compiled=rule.compiled,
    )


def _report(state: State, outcome: Outcome, usable: bool, events: EventLog, plan: LoopPlan) -> None:
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
