"""Train the teachers of a plan, continuing what an earlier, interrupted run has left."""

import time

import torch
from torch import Tensor

from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import unflatten
from meddistill.runtime.events import EventLog
from meddistill.runtime.progress import Progress, Stage
from meddistill.teachers.images import LabelledImages
from meddistill.teachers.store import TrajectoryStore
from meddistill.teachers.train import TeacherPlan, train_teacher
from meddistill.train.metrics import Scores, measure
from meddistill.train.protocol import probabilities

_SECONDS_BETWEEN_PARTS = 5.0
# Points of a trajectory that are scored on validation images for the learning curve.
_CURVE_POINTS = 4


def teach(
    network: ConvNet,
    train: LabelledImages,
    val: LabelledImages,
    plan: TeacherPlan,
    seed: int,
    store: TrajectoryStore,
    *,
    events: EventLog,
    progress: Progress,
) -> None:
    """Fill ``store`` with the trajectories of all teachers and log their learning curve on validation images."""
    with progress.stage("teaching", plan.count * (plan.snapshots - 1)) as stage:
        for teacher in range(plan.count):
            if store.is_complete(teacher):
                stage.advance(plan.snapshots - 1)
                continue
            done = store.load_part(teacher)
            stage.advance(0 if done is None else len(done) - 1)
            keeper = _Keeper(store, teacher, stage)
            trajectory = train_teacher(network, train, plan, seed, teacher, done=done, keep=keeper)
            store.save(teacher, trajectory)
            _log_curve(network, trajectory, val, teacher, events)


class _Keeper:
    """Stores the snapshots so far, but not more often than is worth the writing."""

    def __init__(self, store: TrajectoryStore, teacher: int, stage: Stage) -> None:
        self._store, self._teacher, self._stage = store, teacher, stage
        self._saved = time.monotonic()

    def __call__(self, trajectory: Tensor) -> None:
        self._stage.advance(1)
        if time.monotonic() - self._saved > _SECONDS_BETWEEN_PARTS:
            self._store.save_part(self._teacher, trajectory)
            self._saved = time.monotonic()


def _log_curve(network: ConvNet, trajectory: Tensor, val: LabelledImages, teacher: int, events: EventLog) -> None:
    last = len(trajectory) - 1
    for point in sorted({round(last * part / _CURVE_POINTS) for part in range(1, _CURVE_POINTS + 1)}):
        scores = _scores(network, trajectory[point], val)
        events.write("teacher", teacher=teacher, snapshot=point, split="val", **vars(scores))


def _scores(network: ConvNet, snapshot: Tensor, val: LabelledImages) -> Scores:
    params = unflatten(snapshot.to(val.device), network.shapes)
    with torch.no_grad():
        return measure(probabilities(network, params, val), val.labels.cpu().numpy())
