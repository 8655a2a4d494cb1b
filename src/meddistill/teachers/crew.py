"""Train all groups of teachers; on a CPU with helper processes, each of one thread, beside this one.

Every process takes the next waiting group when it is done with the last. Which process trains a teacher changes nothing
in its bytes: each draws from its own streams and takes one thread. Helpers write trajectories into the store
themselves and say on a pipe how far they are. A helper ends when its standard input does, hence with this process,
however that ends; what a lost helper was doing is done again by the others.
"""

import contextlib
import json
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from meddistill.nets.convnet import ConvNet
from meddistill.runtime import errors
from meddistill.teachers.images import LabelledImages
from meddistill.teachers.store import Group, TrajectoryStore
from meddistill.teachers.train import State, TeacherPlan, one_thread, train_teachers

# A helper takes seconds to start and memory for its copy of the images: it has to save more than that.
SECONDS_WORTH_HELP = 10.0
_IMAGE_BYTES = 4 * 2**30
_PATIENCE = 0.2
# The path is set before anything is imported: a file of the working folder must not be taken for a module.
_START = "import sys; sys.path[:] = {path!r}; from meddistill.teachers.worker import serve; serve()"


@dataclass(frozen=True)
class Job:
    """All that training a group takes but the group; what a helper is sent.

    ``seconds_between_states``: how often the state of a training is kept; the result does not depend on it.
    """

    network: ConvNet
    images: LabelledImages
    plan: TeacherPlan
    seed: int
    store: TrajectoryStore
    seconds_between_states: float


@dataclass(frozen=True)
class News:
    """What happened: new points, of single teachers; teachers that are complete; a helper that ended with a code."""

    points: int = 0
    complete: Group = ()
    lost: int | None = None


Report = Callable[[News], None]
Task = tuple[Group, State | None]


def train_group(job: Job, task: Task, report: Report) -> None:
    """Train a group from where it stands until it is in the store, and report every point."""
    group, state = task
    writer = job.store.writer(group, state)
    saved = time.monotonic()

    def keep(state: State) -> None:
        nonlocal saved
        writer.add(state)
        if time.monotonic() - saved > job.seconds_between_states:
            writer.checkpoint()
            saved = time.monotonic()
        report(News(points=len(group) if state.snapshots > 1 else 0))

    train_teachers(job.network, job.images, job.plan, job.seed, group, state=state, keep=keep)
    writer.finish()
    report(News(complete=group))


def train_all(job: Job, tasks: list[Task], processes: int, report: Report) -> None:
    """Train all groups in up to ``processes`` processes, this one among them. ``report`` is called in this thread.

    Raises what a training raises, wherever it ran, after all helpers have ended.
    """
    on_cpu = job.images.device.type == "cpu"
    crew = _Crew(job, deque(tasks), min(processes, _affordable(job.images)) if on_cpu else 1, report)
    with one_thread() if on_cpu else contextlib.nullcontext(), crew.ended():
        while (task := crew.next()) is not None:
            train_group(job, task, crew.on_news)


def _affordable(images: LabelledImages) -> int:
    """Each helper has a copy of the images."""
    return 1 + int(_IMAGE_BYTES // max(1, images.pixels.nbytes))


class _Crew:
    """The waiting tasks, the helpers once they are worth it, and what they have told."""

    def __init__(self, job: Job, waiting: deque[Task], processes: int, report: Report) -> None:
        self._job, self._waiting, self._report = job, waiting, report
        self._wanted = min(processes, len(waiting)) - 1
        self._helpers: list[_Helper] = []
        self._told: queue.SimpleQueue[News | BaseException] = queue.SimpleQueue()
        self._begun, self._points = time.monotonic(), 0

    def next(self) -> Task | None:
        """The next waiting task; waits for helpers that might lose theirs. None once all is done."""
        while True:
            self._listen()
            with contextlib.suppress(IndexError):
                return self._waiting.popleft()
            if not any(helper.is_working() for helper in self._helpers):
                self._listen()
                if not self._waiting:
                    return None
            time.sleep(_PATIENCE)

    def on_news(self, news: News) -> None:
        """Pass on what this process did, then what the helpers told; start them when their time has come."""
        self._report(news)
        self._points += news.points
        self._listen()
        if self._wanted > 0 and self._is_worth_help():
            payload, wanted, self._wanted = _payload(self._job), self._wanted, 0
            with contextlib.suppress(OSError):  # no more processes allowed: those that are there do all the work
                for _ in range(wanted):
                    self._helpers.append(_Helper(payload, self._waiting, self._told.put))

    @contextlib.contextmanager
    def ended(self) -> Iterator[None]:
        """Whatever happens inside, no helper is left after it, nor what one was writing."""
        try:
            yield
        finally:
            for helper in self._helpers:
                helper.end()
            if self._helpers:
                self._job.store.tidy()

    def _listen(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                told = self._told.get_nowait()
                if isinstance(told, BaseException):
                    raise told
                self._report(told)

    def _is_worth_help(self) -> bool:
        """Whether what still waits takes longer, at the pace so far, than helpers take to come."""
        plan, passed = self._job.plan, time.monotonic() - self._begun
        left = sum(plan.snapshots - (1 if state is None else state.snapshots) for _, state in list(self._waiting))
        return self._points > 0 and left * passed / self._points > SECONDS_WORTH_HELP


class _Helper:
    """One helper process, and the thread here that hands it tasks and listens to it."""

    def __init__(self, payload: bytes, waiting: deque[Task], tell: Callable[[News | BaseException], None]) -> None:
        self._waiting, self._tell = waiting, tell
        # A session of its own: Ctrl-C in a terminal is for this process, which ends the helper in its own time.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self._thread = threading.Thread(target=self._serve, args=(payload,), daemon=True)
        self._thread.start()

    def is_working(self) -> bool:
        """Whether it may still tell something, or give back its task."""
        return self._thread.is_alive()

    def end(self) -> None:
        """End the process now and wait for it."""
        self._process.kill()
        self._process.wait()
        self._thread.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _serve(self, payload: bytes) -> None:
        try:
            self._send(payload)
            while True:
                task = self._waiting.popleft()
                if not self._train(task):
                    self._waiting.appendleft(task)
                    self._tell(News(lost=self._process.wait()))
                    return
        except (IndexError, OSError):  # nothing waits any more; or the process is gone
            return

    def _train(self, task: Task) -> bool:
        """Hand over a task and pass on the news until it is done; False if the process is lost on the way."""
        with contextlib.suppress(OSError):
            self._send(json.dumps(task[0]).encode() + b"\n")
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.endswith(b"\n"):
                break
            told = json.loads(line)
            if "error" in told:
                self._tell(getattr(errors, told["error"])(told["text"]))
            else:
                self._tell(News(told["points"], tuple(told["complete"])))
            if "error" in told or told["complete"]:
                return True
        return False

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()


def _payload(job: Job) -> bytes:
    """The job as this program sends it to itself; nothing that comes from elsewhere is ever unpickled."""
    data = pickle.dumps(job)
    return len(data).to_bytes(8, "little") + data


def processes_for(device: torch.device) -> int:
    """As many processes as PyTorch would take threads (``OMP_NUM_THREADS`` limits both); one on a GPU."""
    return torch.get_num_threads() if device.type == "cpu" and sys.executable else 1
