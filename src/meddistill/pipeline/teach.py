"""Train the teachers of a plan, continuing what an earlier, interrupted run has left; and see how they learned."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import torch
from torch import Tensor

from meddistill.cohort.types import Cohort
from meddistill.nets.compiled import pays
from meddistill.nets.convnet import ConvNet, parse
from meddistill.nets.gradient import Kernels
from meddistill.nets.params import unflatten
from meddistill.nets.trial import are_there_kernels
from meddistill.pipeline.folder import filling, identify
from meddistill.pipeline.plan import Plan, normalised, unflipped
from meddistill.runtime.errors import InputError
from meddistill.runtime.events import EventLog
from meddistill.runtime.files import write_atomic
from meddistill.runtime.progress import Progress
from meddistill.runtime.streams import stream
from meddistill.teachers.crew import Job, News, train_all
from meddistill.teachers.images import LabelledImages
from meddistill.teachers.storage import Storage, is_convex
from meddistill.teachers.store import Task, TrajectoryStore
from meddistill.teachers.train import TeacherPlan, side_by_side
from meddistill.teachers.trial import why_no_kernels
from meddistill.train.metrics import Scores, measure
from meddistill.train.protocol import probabilities

# The state of a training is kept when this long has passed since the last time; the result does not depend on it.
SECONDS_BETWEEN_PARTS = 5.0
_CURVE_TEACHERS, _CURVE_POINTS, _CURVE_IMAGES = 3, 9, 400
_AS_GOOD, _MOST = 0.04, 0.8


@dataclass(frozen=True)
class Taught:
    """Teachers that are all there: their network and trajectories, how they learned, and how long teaching took now."""

    network: ConvNet
    store: TrajectoryStore
    curve: dict[int, float]
    seconds: float


def taught(
    plan: Plan,
    cohort: Cohort,
    train: LabelledImages,
    val: LabelledImages,
    folder: Path,
    *,
    events: EventLog,
    progress: Progress,
) -> Taught:
    """The teachers of a plan in a folder that several runs may share; those that are missing are trained.

    Raises :class:`InputError` if the folder holds other teachers, or some that another kind of device has to train to
    the end, or if another process is training there.
    """
    network = parse(plan.network, channels=cohort.channels, size=cohort.size, classes=len(cohort.classes))
    store = trajectory_store(folder, plan, network)
    identity = {"plan": teacher_identity(plan), "network": plan.network, "seed": plan.seed, "fit": plan.fit}
    with filling(folder, identify(identity, cohort), train.device.type) as began_on:
        if began_on != train.device.type and not all(map(store.is_complete, range(plan.teachers.count))):
            raise InputError(
                f"the teachers in {folder} were trained on another kind of device ({began_on}), and not all that this "
                f"plan asks for are there: sums are rounded differently here. Train them with --device {began_on}, "
                "which any device may then use, or choose another folder with --teachers"
            )
        begun = time.monotonic()
        teach(
            network,
            train,
            plan.teacher_plan(),
            plan.seed,
            store,
            events=events,
            progress=progress,
            kernels=plan.matching.kernels,
        )
        seconds = time.monotonic() - begun
        curve = learning_curve(network, store, plan.teachers.count, val, plan.seed, events)
    return Taught(network, store, curve, seconds)


def teach(
    network: ConvNet,
    train: LabelledImages,
    plan: TeacherPlan,
    seed: int,
    store: TrajectoryStore,
    *,
    events: EventLog,
    progress: Progress,
    processes: int | None = None,
    kernels: bool = False,
) -> None:
    """Fill ``store`` with the trajectories of all teachers; the store is this process's alone.

    ``processes``: how many may train on a CPU, by default as many as PyTorch would take threads; the bytes do not
    depend on it. ``kernels``: a GPU's may be taken.
    """
    store.tidy()
    step = side_by_side(network, plan, train.device)
    groups = [tuple(range(first, min(first + step, plan.count))) for first in range(0, plan.count, step)]
    tasks = [task for group in groups for task in store.waiting(group)]
    taken = _kernels(network, plan, train.device, store, events) if kernels and tasks else None
    with progress.stage("teaching", plan.count * (plan.snapshots - 1)) as stage:
        stage.advance(_points_there(plan, tasks))

        def report(news: News) -> None:
            stage.advance(news.points)
            for teacher in news.complete:
                events.write("teacher", teacher=teacher, snapshots=plan.snapshots)
            if news.fewer is not None:
                events.write("fewer teachers", together=news.fewer)
            if news.lost is not None:
                events.write("helper lost", code=news.lost)

        job = Job(network, train, plan, seed, store, SECONDS_BETWEEN_PARTS, taken)
        train_all(job, tasks, processes, report)


def _kernels(
    network: ConvNet, plan: TeacherPlan, device: torch.device, store: TrajectoryStore, events: EventLog
) -> Kernels | None:
    """How these teachers take a GPU's kernels, if they do.

    Of what was decided before only that they are right is tried. Teachers that were begun without go on without.
    """
    if not are_there_kernels(network, device) or (decided := store.kernels) is False:
        return None
    together = min(plan.count, side_by_side(network, plan, device))
    kernels = Kernels(compiled=pays(plan.steps * math.ceil(plan.count / together), 0, device))
    reason = why_no_kernels(network, plan, kernels, together, device, timed=decided is None)
    if reason is not None:
        events.write("teachers without kernels", reason=reason)
    store.decide(reason is None)
    return kernels if reason is None else None


def trajectory_store(folder: Path, plan: Plan, network: ConvNet) -> TrajectoryStore:
    """Where and how the plan keeps its trajectories."""
    storage = cast(Storage, plan.teachers.storage)
    sizes = tuple(shape.numel() for shape in network.shapes)
    snapshots, momentum = plan.teacher_plan().snapshots, plan.teachers.momentum > 0
    return TrajectoryStore(folder, snapshots, network.parameters, storage, momentum, sizes)


def teacher_identity(plan: Plan) -> dict[str, Any]:
    """The settings that make two plans' teachers the same.

    A plan with more teachers, or with longer trajectories, adds to what is there, unless the early steps or the stored
    points of a trajectory depend on its length.
    """
    settings = asdict(plan.teachers)
    del settings["count"]
    if not plan.teachers.decay and not is_convex(cast(Storage, plan.teachers.storage)):
        del settings["steps"]
    return settings | unflipped(plan.flip) | normalised(plan.fixed_normalisation)


def _points_there(plan: TeacherPlan, tasks: Sequence[Task]) -> int:
    """Points after the first of each trajectory that need not be trained any more."""
    left = sum(len(group) * (plan.snapshots - (1 if state is None else state.snapshots)) for group, state in tasks)
    return plan.count * (plan.snapshots - 1) - left


def learning_curve(
    network: ConvNet, store: TrajectoryStore, teachers: int, val: LabelledImages, seed: int, events: EventLog
) -> dict[int, float]:
    """Mean balanced accuracy of the teachers on validation images, by snapshot; kept beside the trajectories.

    At most :data:`_CURVE_TEACHERS` teachers, :data:`_CURVE_POINTS` points after the untrained one and
    :data:`_CURVE_IMAGES` images are scored.
    """
    scored, last = min(teachers, _CURVE_TEACHERS), store.snapshots - 1
    kept = store.folder / f"curve-{scored}x{store.snapshots}.json"
    if not kept.exists():
        order = torch.randperm(len(val), generator=stream(seed, "learning curve"))
        sample = val.subset(order[:_CURVE_IMAGES])
        curve = {}
        for point in sorted({round(last * part / _CURVE_POINTS) for part in range(_CURVE_POINTS + 1)}):
            scores = [_scores(network, store.snapshot(k, point), sample) for k in range(scored)]
            curve[point] = fmean(score.balanced_accuracy for score in scores)
            auroc = fmean(score.auroc for score in scores)
            events.write("teachers", snapshot=point, split="val", balanced_accuracy=curve[point], auroc=auroc)
        write_atomic(kept, json.dumps({str(point): value for point, value in curve.items()}).encode())
    try:
        return {int(point): float(value) for point, value in json.loads(kept.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"cannot read the learning curve {kept} ({error}): delete it to have it made again") from None


def describe(curve: dict[int, float]) -> str:
    """The curve in one line: at the start, at the points next to each quarter, at the end."""
    last = max(curve)
    nearest = (min(curve, key=lambda point: abs(point - last * quarter / 4)) for quarter in range(5))
    values = [f"{curve[point]:.3f}" for point in sorted(set(nearest))]
    return f"teachers' balanced accuracy on validation images, untrained to trained: {' → '.join(values)}"


def learning_window(curve: dict[int, float]) -> tuple[int, int]:
    """Between which snapshots teachers learn what is worth matching; segments start there.

    It ends at the first point where teachers are as good as they get, but for :data:`_AS_GOOD`: later segments are
    harder to reproduce and teach little more (Guo et al. 2024, arXiv 2310.05773, choose by hand). It begins at the last
    point before teachers first reach :data:`_MOST` of their best: a student of a poor teacher stays poor.
    """
    # What an untrained network scores is chance.
    curve = {point: value for point, value in curve.items() if point > 0}
    best = max(curve.values())
    latest = min(point for point, value in curve.items() if value >= best - _AS_GOOD)
    reached = min(point for point, value in curve.items() if value >= _MOST * best)
    return max((point for point in curve if point < reached), default=0), latest


def _scores(network: ConvNet, snapshot: Tensor, images: LabelledImages) -> Scores:
    params = unflatten(snapshot.to(images.device), network.shapes)
    return measure(probabilities(network, params, images), images.labels.cpu().numpy())
