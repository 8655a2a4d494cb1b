"""Train the teachers of a plan, continuing what an earlier, interrupted run has left; and see how they learned."""

import json
import time
from statistics import fmean

import torch
from torch import Tensor

from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import unflatten
from meddistill.runtime.errors import InputError
from meddistill.runtime.events import EventLog
from meddistill.runtime.files import write_atomic
from meddistill.runtime.progress import Progress, Stage
from meddistill.runtime.streams import stream
from meddistill.teachers.images import LabelledImages
from meddistill.teachers.store import TrajectoryStore
from meddistill.teachers.train import TeacherPlan, train_teacher
from meddistill.train.metrics import Scores, measure
from meddistill.train.protocol import probabilities

# A part is written when this long has passed since the last one; the result does not depend on it.
SECONDS_BETWEEN_PARTS = 5.0
_CURVE_TEACHERS, _CURVE_POINTS, _CURVE_IMAGES = 3, 9, 400
_AS_GOOD, _MOST = 0.04, 0.8


def teach(
    network: ConvNet,
    train: LabelledImages,
    plan: TeacherPlan,
    seed: int,
    store: TrajectoryStore,
    *,
    events: EventLog,
    progress: Progress,
) -> None:
    """Fill ``store`` with the trajectories of all teachers."""
    with progress.stage("teaching", plan.count * (plan.snapshots - 1)) as stage:
        for teacher in range(plan.count):
            if store.is_complete(teacher):
                store.drop_part(teacher)
                stage.advance(plan.snapshots - 1)
                continue
            done = store.load_part(teacher)
            stage.advance(0 if done is None else len(done) - 1)
            keeper = _Keeper(store, teacher, stage)
            trajectory = train_teacher(network, train, plan, seed, teacher, done=done, keep=keeper)
            store.save(teacher, trajectory)
            events.write("teacher", teacher=teacher, snapshots=len(trajectory))


class _Keeper:
    """Stores the snapshots so far, but not more often than is worth the writing."""

    def __init__(self, store: TrajectoryStore, teacher: int, stage: Stage) -> None:
        self._store, self._teacher, self._stage = store, teacher, stage
        self._saved = time.monotonic()

    def __call__(self, trajectory: Tensor) -> None:
        self._stage.advance(1)
        if time.monotonic() - self._saved > SECONDS_BETWEEN_PARTS:
            self._store.save_part(self._teacher, trajectory)
            self._saved = time.monotonic()


def learning_curve(
    network: ConvNet, store: TrajectoryStore, teachers: int, val: LabelledImages, seed: int, events: EventLog
) -> dict[int, float]:
    """Mean balanced accuracy of the teachers on validation images, by snapshot; kept beside the trajectories.

    At most :data:`_CURVE_TEACHERS` teachers, :data:`_CURVE_POINTS` points and :data:`_CURVE_IMAGES` images are scored.
    """
    kept = store.folder / "curve.json"
    if not kept.exists():
        order = torch.randperm(len(val), generator=stream(seed, "learning curve"))
        sample = val.subset(order[:_CURVE_IMAGES])
        last = store.snapshots - 1
        points = sorted({round(last * part / _CURVE_POINTS) for part in range(1, _CURVE_POINTS + 1)})
        curve = {}
        for point in points:
            scores = [_scores(network, store.snapshot(k, point), sample) for k in range(min(teachers, _CURVE_TEACHERS))]
            curve[point] = fmean(score.balanced_accuracy for score in scores)
            auroc = fmean(score.auroc for score in scores)
            events.write("teachers", snapshot=point, split="val", balanced_accuracy=curve[point], auroc=auroc)
        write_atomic(kept, json.dumps({str(point): value for point, value in curve.items()}).encode())
    try:
        return {int(point): float(value) for point, value in json.loads(kept.read_text()).items()}
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the learning curve {kept} ({error}): delete it to have it made again") from None


def learning_window(curve: dict[int, float]) -> tuple[int, int]:
    """Between which snapshots teachers learn what is worth matching; segments start there.

    It ends at the first point where teachers are as good as they get, but for :data:`_AS_GOOD`: later segments are
    harder to reproduce and teach little more (Guo et al. 2024, arXiv 2310.05773, choose by hand). It begins at the last
    point before teachers first reach :data:`_MOST` of their best: a student of a poor teacher stays poor.
    """
    best = max(curve.values())
    latest = min(point for point, value in curve.items() if value >= best - _AS_GOOD)
    reached = min(point for point, value in curve.items() if value >= _MOST * best)
    return max((point for point in curve if point < reached), default=0), latest


def _scores(network: ConvNet, snapshot: Tensor, images: LabelledImages) -> Scores:
    params = unflatten(snapshot.to(images.device), network.shapes)
    return measure(probabilities(network, params, images), images.labels.cpu().numpy())
