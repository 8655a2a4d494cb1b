"""Do a list of tasks; on a CPU with helper processes, each of one thread, beside this one.

Every process takes the next waiting task when it is done with the last. Helpers are started once what waits is worth
them, say on a pipe what they have done, and end when their standard input does, hence with this process, however that
ends; what a lost helper was doing is done again by the others. A task that takes one thread and draws from its own
streams comes out the same whoever does it.
"""

import contextlib
import json
import pickle
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from meddistill.runtime import errors, processes
from meddistill.runtime.device import as_one_process

if TYPE_CHECKING:
    import torch

# A helper takes seconds to start and memory for its copy of the work: it has to save more than that.
SECONDS_WORTH_HELP = 10.0
_COPIES_BYTES = 4 * 2**30
_PATIENCE = 0.2
# The path is set before anything is imported: a file of the working folder must not be taken for a module.
_START = "import sys; sys.path[:] = {path!r}; from meddistill.runtime.crew_worker import serve; serve()"

# What a task is, and what is told of it, goes through JSON.
Task = Any
Tell = Callable[[Any], None]


class Work(Protocol):
    """All that the tasks have in common; picklable, for helpers are sent a copy."""

    def do(self, task: Task, tell: Tell) -> None:
        """Do one task, and tell on the way what whoever ordered it wants to know."""


@dataclass(frozen=True)
class News:
    """One of three: what was ``told`` of a task, a task that is ``done``, a helper that was ``lost`` with a code."""

    told: Any = None
    done: Task = None
    lost: int | None = None


Report = Callable[[News], None]


def do_all(
    work: Work,
    tasks: Sequence[Task],
    device: "torch.device",
    report: Report,
    *,
    processes: int | None = None,
    seconds_left: Callable[[Sequence[Task]], float] | None = None,
) -> None:
    """Do all tasks, on a CPU in several processes, this one among them. ``report`` is called in this thread.

    ``processes``: at most so many; None for as many as PyTorch would take threads. On a CPU each takes one thread; on a
    GPU there is no other process. ``seconds_left``: how long the waiting tasks would take this process alone, as far as
    is known by now; by default each as long as the mean of those that are done. Raises what a task raises, wherever it
    ran, after all helpers have ended.
    """
    most = processes if processes is not None and device.type == "cpu" else processes_for(device)
    begun = time.monotonic()

    def at_the_pace_so_far(waiting: Sequence[Task]) -> float:
        return len(waiting) * (time.monotonic() - begun) / (len(tasks) - len(waiting))

    crew = _Crew(work, deque(tasks), most, report, seconds_left or at_the_pace_so_far)
    with as_one_process(device), crew.ended():
        while (task := crew.next()) is not None:
            work.do(task, lambda told: crew.on_news(News(told=told)))
            crew.on_news(News(done=task))


def processes_for(device: "torch.device") -> int:
    """As many processes as PyTorch would take threads (``OMP_NUM_THREADS`` limits both); one on a GPU."""
    import torch

    return torch.get_num_threads() if device.type == "cpu" and sys.executable else 1


class _Crew:
    """The waiting tasks, the helpers once they are worth it, and what they have told."""

    def __init__(
        self,
        work: Work,
        waiting: deque[Task],
        processes: int,
        report: Report,
        seconds_left: Callable[[Sequence[Task]], float],
    ) -> None:
        self._work, self._waiting, self._report, self._seconds_left = work, waiting, report, seconds_left
        self._wanted = min(processes, len(waiting)) - 1
        self._helpers: list[_Helper] = []
        self._told: queue.SimpleQueue[News | BaseException] = queue.SimpleQueue()

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
        self._listen()
        if self._wanted > 0 and self._seconds_left(list(self._waiting)) > SECONDS_WORTH_HELP:
            wanted, self._wanted = self._wanted, 0
            payload = pickle.dumps(self._work)
            with contextlib.suppress(OSError):  # no more processes allowed: those that are there do all the work
                for _ in range(min(wanted, _COPIES_BYTES // len(payload))):
                    self._helpers.append(_Helper(payload, self._waiting, self._told.put))

    @contextlib.contextmanager
    def ended(self) -> Iterator[None]:
        """Whatever happens inside, no helper is left after it."""
        try:
            yield
        finally:
            for helper in self._helpers:
                helper.end()

    def _listen(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                told = self._told.get_nowait()
                if isinstance(told, BaseException):
                    raise told
                self._report(told)


class _Helper:
    """One helper process, and the thread here that hands it tasks and listens to it."""

    def __init__(self, payload: bytes, waiting: deque[Task], tell: Callable[[News | BaseException], None]) -> None:
        self._waiting, self._tell = waiting, tell
        self._process = processes.start(_START)
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
            # Only what this program sends to itself is ever unpickled; nothing that comes from elsewhere.
            with contextlib.suppress(OSError):  # of a process that is gone already: its first task shows it
                self._send(len(payload).to_bytes(8, "little") + payload)
            while (task := self._next()) is not None:
                if not self._have_done(task):
                    self._waiting.appendleft(task)
                    self._tell(News(lost=self._process.wait()))
                    return
        except Exception as error:  # it would end with this thread, and nobody would know of the task
            self._tell(error)

    def _next(self) -> Task | None:
        with contextlib.suppress(IndexError):
            return self._waiting.popleft()
        return None

    def _have_done(self, task: Task) -> bool:
        """Hand over a task and pass on the news until it is done; False if the process is lost on the way."""
        with contextlib.suppress(OSError):
            self._send(json.dumps(task).encode() + b"\n")
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.endswith(b"\n"):
                break
            said = json.loads(line)
            if "error" in said:
                self._tell(getattr(errors, said["error"])(said["text"]))
                return True
            if "told" not in said:
                self._tell(News(done=task))
                return True
            self._tell(News(told=said["told"]))
        return False

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()
