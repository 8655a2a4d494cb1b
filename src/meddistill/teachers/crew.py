"""Train all groups of teachers; on a CPU in several processes, which write into the store themselves.

Which process trains a teacher changes nothing in its bytes: each draws from its own streams and takes one thread.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from meddistill.nets.convnet import ConvNet
from meddistill.nets.gradient import Kernels
from meddistill.runtime import crew
from meddistill.runtime.device import give_back, is_out_of_memory
from meddistill.teachers.images import LabelledImages
from meddistill.teachers.store import Group, Task, TrajectoryStore
from meddistill.teachers.train import State, TeacherPlan, too_large, train_teachers


@dataclass(frozen=True)
class Job:
    """All that training a group takes but the group; the :class:`~meddistill.runtime.crew.Work` of helpers.

    ``seconds_between_states``: how often the state of a training is kept; the result does not depend on it.
    ``kernels``: a GPU's, where they are taken.
    """

    network: ConvNet
    images: LabelledImages
    plan: TeacherPlan
    seed: int
    store: TrajectoryStore
    seconds_between_states: float
    kernels: Kernels | None = None

    def do(self, task: Sequence[int], tell: crew.Tell) -> None:
        """Train the group ``task`` from where the store says it stands; tell how many points are new."""
        for waiting in self.store.waiting(tuple(task)):
            train_group(self, waiting, tell)


@dataclass(frozen=True)
class News:
    """What happened: new points, of single teachers; teachers that are complete; a helper that ended with a code.

    ``fewer``: so many go on side by side, half of those for whom memory did not suffice.
    """

    points: int = 0
    complete: Group = ()
    lost: int | None = None
    fewer: int | None = None


Report = Callable[[News], None]
_FEWER = "fewer"


def train_group(job: Job, task: Task, tell: crew.Tell) -> None:
    """Train a group from where it stands until it is in the store, and tell the number of new points at each.

    Where memory runs out its halves go on from the last point, one after the other; told are then :data:`_FEWER` and
    how many teachers are left side by side. Raises :class:`~meddistill.runtime.errors.MeddistillError` when memory does
    not suffice for one.
    """
    group, state = task
    writer = job.store.writer(group, state)
    saved = time.monotonic()

    def keep(state: State) -> None:
        nonlocal saved
        writer.add(state)
        if time.monotonic() - saved > job.seconds_between_states:
            writer.checkpoint()
            saved = time.monotonic()
        if state.snapshots > 1:
            tell(len(group))

    try:
        train_teachers(job.network, job.images, job.plan, job.seed, group, state=state, keep=keep, kernels=job.kernels)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        writer.finish()
        return
    # Out here the error no longer holds on to the tensors of its frames.
    give_back(job.images.device)
    if len(group) == 1:
        raise too_large(job.plan, job.images.device)
    halves = writer.halves()
    tell((_FEWER, len(halves[1][0])))
    for half in halves:
        train_group(job, half, tell)


def train_all(job: Job, tasks: Sequence[Task], processes: int | None, report: Report) -> None:
    """Train all groups; ``processes``: see :func:`~meddistill.runtime.crew.do_all`. ``report`` is called here.

    Raises what a training raises, wherever it ran, after all helpers have ended and what they were writing is gone.
    """
    left = {group: job.plan.snapshots - (1 if state is None else state.snapshots) for group, state in tasks}
    begun, points = time.monotonic(), 0

    def pass_on(news: crew.News) -> None:
        nonlocal points
        told = news.told or 0
        if not isinstance(told, int):
            report(News(fewer=told[1]))
            return
        points += told
        report(News(points=told, complete=tuple(news.done or ()), lost=news.lost))

    def seconds_left(waiting: Sequence[Group]) -> float:
        passed = time.monotonic() - begun
        return sum(left[group] * len(group) for group in waiting) * passed / points if points else 0.0

    try:
        crew.do_all(job, list(left), job.images.device, pass_on, processes=processes, seconds_left=seconds_left)
    finally:
        job.store.tidy()
