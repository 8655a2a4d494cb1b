"""Carry out the tasks of a benchmark, each once those that it needs are done, here or in several processes.

A task that fails takes those with it that need it, and no other; it is tried again by the next start. A process ends
when its standard input does, hence with this one, however that ends.
"""

import contextlib
import json
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from meddistill.bench.grid import read_grid
from meddistill.bench.tasks import Layout, Task, tasks
from meddistill.bench.work import Worker
from meddistill.runtime import processes
from meddistill.runtime.device import as_one_process, choose, is_out_of_memory, keep_freed_memory
from meddistill.runtime.errors import MeddistillError
from meddistill.runtime.progress import Progress

# The path is set before anything is imported: a file of the working folder must not be taken for a module.
_START = "import sys; sys.path[:] = {path!r}; from meddistill.bench.crowd import serve; serve()"


@dataclass(frozen=True)
class Setting:
    """What a process has to be told to know the tasks: the grid's text, which subset of it, where data are and go."""

    text: str
    where: str
    subset: str | None
    data: Path
    out: Path
    device: str

    def layout(self) -> Layout:
        """The grid and where its outcomes are."""
        return Layout(read_grid(self.text, self.where, self.subset), self.out, choose(self.device).type)

    def worker(self, progress: Progress) -> Worker:
        """Who carries out its tasks in this process."""
        return Worker(self.layout(), self.data, choose(self.device), progress)


@dataclass(frozen=True)
class Result:
    """A task that came to its end, and what went wrong, if anything did."""

    task: Task
    error: str | None


class Hands(Protocol):
    """Whoever carries out tasks."""

    @property
    def free(self) -> int:
        """How many more tasks can be begun."""

    def begin(self, task: Task) -> None:
        """Begin a task."""

    def wait(self) -> Result:
        """The next task that comes to its end."""


def carry_out(tasks_left: Sequence[Task], hands: Hands, report: Callable[[Result], None]) -> None:
    """Do all the tasks; those that they need and that are not among them are done already."""
    waiting, open_ones = list(tasks_left), {task.outcome for task in tasks_left}
    running = 0
    while waiting or running:
        ready = [task for task in waiting if not any(path in open_ones for path in task.needs)]
        for task in ready[: hands.free]:
            waiting.remove(task)
            hands.begin(task)
            running += 1
        if not running:  # what is left needs something that failed
            return
        result = hands.wait()
        running -= 1
        if result.error is None:
            open_ones.discard(result.task.outcome)
        report(result)


class Alone:
    """This process, one task at a time; on a CPU in one thread, as the others do it, for the same rounding."""

    def __init__(self, setting: Setting, progress: Progress) -> None:
        self._worker, self._device = setting.worker(_WithoutNotes(progress)), choose(setting.device)
        self._task: Task | None = None

    @property
    def free(self) -> int:
        """One, unless a task was begun."""
        return int(self._task is None)

    def begin(self, task: Task) -> None:
        """Remember the task."""
        self._task = task

    def wait(self) -> Result:
        """Do it."""
        assert self._task is not None
        task, self._task = self._task, None
        with as_one_process(self._device):
            return Result(task, _perform(self._worker, task))


class Crowd:
    """Several processes, each with one task at a time."""

    def __init__(self, setting: Setting, count: int) -> None:
        self._ended: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._processes = [_Process(setting) for _ in range(count)]
        for process in self._processes:
            self._idle.put(process)

    @property
    def free(self) -> int:
        """How many processes have nothing to do."""
        return self._idle.qsize()

    def begin(self, task: Task) -> None:
        """Give the task to a process that has nothing to do."""
        threading.Thread(target=self._serve, args=(self._idle.get(), task), daemon=True).start()

    def wait(self) -> Result:
        """The next task that comes to its end in any of them."""
        return self._ended.get()

    def end(self) -> None:
        """End all processes now."""
        for process in self._processes:
            process.end()

    def _serve(self, process: "_Process", task: Task) -> None:
        error = process.perform(task)
        self._idle.put(process)
        self._ended.put(Result(task, error))


@contextlib.contextmanager
def hands_for(setting: Setting, count: int, progress: Progress) -> Iterator[Hands]:
    """This process alone, or several, of which none is left at the end."""
    if count == 1:
        yield Alone(setting, progress)
        return
    crowd = Crowd(setting, count)
    try:
        yield crowd
    finally:
        crowd.end()


class _Process:
    """A process that is told the setting, then one task after the other; one that is lost is started again."""

    def __init__(self, setting: Setting) -> None:
        told = vars(setting) | {"data": str(setting.data), "out": str(setting.out)}
        self._told = json.dumps(told).encode() + b"\n"
        self._process: subprocess.Popen[bytes] | None = None

    def perform(self, task: Task) -> str | None:
        """Have the task done; what went wrong, if anything did."""
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(str(task.outcome).encode() + b"\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if line.endswith(b"\n"):
            error: str | None = json.loads(line)["error"]
            return error
        return f"its process ended with code {self._process.wait()}; it may have had too little memory"

    def end(self) -> None:
        """End it now and wait for it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _start(self) -> "subprocess.Popen[bytes]":
        process = processes.start(_START)
        assert process.stdin is not None
        process.stdin.write(self._told)
        process.stdin.flush()
        return process


class _WithoutNotes:
    """A display that is spared what single tasks note: among hundreds, nobody knew which one it is of."""

    def __init__(self, progress: Progress) -> None:
        self.stage, self.warn = progress.stage, progress.warn

    def note(self, text: str) -> None:
        """No note is shown."""


class _Mute:
    """Of a process without a terminal only warnings are heard."""

    @contextlib.contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator["_Mute"]:
        """No stage is shown."""
        yield self

    def advance(self, amount: float = 1, **figures: float) -> None:
        """Nothing is shown."""

    def note(self, text: str) -> None:
        """No note is shown."""

    def warn(self, text: str) -> None:
        """Show a warning."""
        sys.stderr.write(f"warning: {text}\n")


def serve() -> None:
    """Carry out the tasks that standard input names, one a line after the setting; end at once when it ends."""
    said = processes.answers()
    keep_freed_memory()
    told = json.loads(sys.stdin.buffer.readline())
    setting = Setting(**told | {"data": Path(told["data"]), "out": Path(told["out"])})
    if choose(setting.device).type == "cpu":
        torch.set_num_threads(1)
    worker, known = setting.worker(_Mute()), {str(task.outcome): task for task in tasks(setting.layout())}
    names = processes.lines()
    while True:
        error = _perform(worker, known[names.get()])
        with contextlib.suppress(OSError):
            said.write(json.dumps({"error": error}).encode() + b"\n")


def _perform(worker: Worker, task: Task) -> str | None:
    """Do the task; what went wrong, if anything did, be it a bug or memory that ran out. Interruptions are raised."""
    try:
        worker.perform(task)
    except MeddistillError as error:
        return str(error)
    except Exception as error:
        if is_out_of_memory(error):
            return f"memory ran out: {error}"
        traceback.print_exc()
        return f"{type(error).__name__}: {error} (a bug: the traceback is above)"
    return None
