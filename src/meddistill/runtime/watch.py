"""What a run tells those who watch its folder, and the one thing they may ask of it: to stop.

``status.json`` says every few seconds which stage the run is in, how far it is and what memory it takes;
``command.json`` which command continues it. A file ``stop`` asks the run to end at the next point from which it can be
continued. What a run computes does not depend on any of them, and a status that cannot be written ends no run.
"""

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meddistill.runtime import processes
from meddistill.runtime.progress import Progress, Stage

STATUS, STOP, COMMAND = "status.json", "stop", "command.json"
SECONDS_BETWEEN = 1.0
# A run on another machine, whose processes cannot be seen from here, is taken for lost after such a silence.
_SILENCE = 300.0


class StopRequested(KeyboardInterrupt):
    """Somebody who watches the run asked it to stop; it ends as after Ctrl-C, and can be continued."""


@contextmanager
def watched(folder: Path, progress: Progress) -> Iterator["Watched"]:
    """The same progress display, which besides tells in ``folder`` how the run is going and how it ended."""
    watch = Watched(folder, progress)
    with contextlib.suppress(OSError):
        (folder / STOP).unlink(missing_ok=True)
    command = own_command(sys.argv)
    if command is not None:
        _replace(folder / COMMAND, {"arguments": command, "folder": str(Path.cwd())})
    watch.tell(state="running")
    try:
        yield watch
    except KeyboardInterrupt:
        watch.tell(state="stopped")
        raise
    except BaseException as error:
        watch.tell(state="failed", error=f"{error}")
        raise
    watch.tell(state="done", seconds_left=None)


class Watched:
    """A progress display that passes everything on, and tells in a folder where the stages stand."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self._folder, self._progress = folder, progress
        self._due = 0.0
        self._status: dict[str, Any] = {"pid": os.getpid(), "host": platform.node(), "began": _began(os.getpid())}

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Stage]:
        """Open the display's stage; whoever asks for a stop gets it when the stage advances."""
        with self._progress.stage(name, total) as stage:
            self.tell(stage=name, done=0.0, total=total, seconds_left=None, figures={})
            yield _WatchedStage(self, stage, total)

    def note(self, text: str) -> None:
        """Pass it on."""
        self._progress.note(text)

    def warn(self, text: str) -> None:
        """Pass it on."""
        self._progress.warn(text)

    def is_due(self) -> bool:
        """Whether something may be told again; the next time then has to wait."""
        now = time.monotonic()
        if now < self._due:
            return False
        self._due = now + SECONDS_BETWEEN
        return True

    def tell(self, **news: Any) -> None:
        """Put the news beside what was told before."""
        self._status |= news
        _replace(self._folder / STATUS, self._status | {"time": round(time.time(), 3), "memory": memory()})

    def heed(self) -> None:
        """Raise :class:`StopRequested` if somebody asked for it."""
        if (self._folder / STOP).exists():
            raise StopRequested


class _WatchedStage:
    def __init__(self, watch: Watched, stage: Stage, total: float | None) -> None:
        self._watch, self._stage, self._total = watch, stage, total
        self._done = 0.0
        self._first: tuple[float, float] | None = None  # when the first advance came, and what was done by then

    def advance(self, amount: float = 1, **figures: float) -> None:
        """Pass it on; from time to time, tell it and look for a request to stop."""
        self._stage.advance(amount, **figures)
        self._done += amount
        self._first = self._first or (time.monotonic(), self._done)
        if self._watch.is_due():
            self._watch.tell(done=self._done, seconds_left=self._left(), figures=figures)
            self._watch.heed()

    def _left(self) -> float | None:
        if self._total is None or self._first is None or self._done <= self._first[1]:
            return None
        pace = (time.monotonic() - self._first[0]) / (self._done - self._first[1])
        return max(self._total - self._done, 0) * pace


def memory() -> dict[str, int]:
    """Bytes in use: ``resident`` in main memory by ``processes``, ``gpu`` if PyTorch has allocated any there.

    The processes are this one and those that work for it. Pages that they share with others, of libraries and files,
    count in this one alone.
    """
    found = {}
    own, helpers = _pages("self"), [pages for pid in processes.running() if (pages := _pages(str(pid)))]
    if own is not None:
        count = own[0] + sum(resident - shared for resident, shared in helpers)
        found = {"resident": count * os.sysconf("SC_PAGE_SIZE"), "processes": 1 + len(helpers)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        found["gpu"] = int(torch.cuda.memory_reserved())
    return found


def _pages(process: str) -> tuple[int, int] | None:
    """The pages that a process holds, and how many of them it shares; None where the system does not tell."""
    try:
        words = Path(f"/proc/{process}/statm").read_text().split()
        return int(words[1]), int(words[2])
    except (OSError, ValueError, IndexError):
        return None


def own_command(words: Sequence[str]) -> list[str] | None:
    """The arguments of the command line that ``words`` are, if it is one of meddistill."""
    program = Path(words[0]) if words else Path()
    is_own = program.stem == "meddistill" or (program.name, program.parent.name) == ("__main__.py", "meddistill")
    return list(words[1:]) if is_own and len(words) > 1 else None


def is_alive(status: Mapping[str, Any], now: float) -> bool:
    """Whether the process that wrote a status still runs; ``now`` in Unix seconds, for one on another machine."""
    pid, began = status.get("pid"), status.get("began")
    if status.get("state") != "running" or not isinstance(pid, int) or pid < 1:
        return False
    if status.get("host") != platform.node():
        told = status.get("time")
        return isinstance(told, float) and now - told < _SILENCE
    return _exists(pid) and (began is None or _began(pid) == began)


def _exists(pid: int) -> bool:
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _began(pid: int) -> int | None:
    """When a process began, in the kernel's ticks: another process of the same number began at another time."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _replace(path: Path, document: Mapping[str, Any]) -> None:
    """Write a small file in one move. Not to the disk at once, as results are: the next second brings another."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(document, default=str))
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):  # of a full disk, what fitted on it
            temporary.unlink(missing_ok=True)
