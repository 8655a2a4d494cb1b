"""Progress on standard error: bars with the time left in a terminal, a few plain lines elsewhere.

A log gets a line every ten seconds at first, and fewer as a stage takes longer: a minute's stage leaves six lines, one
of an hour about fifty, one of a day about three hundred.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from meddistill.cli import interrupts
from meddistill.cli.layout import folded, printable
from meddistill.runtime.progress import Progress, Silent, Stage
from meddistill.runtime.words import duration

FIRST_LINE_SECONDS = 2.0
LINE_SECONDS = 10.0
# A line comes once a stage has gone on for so much of its time so far, and at the latest after so many seconds.
LINE_SHARE, MOST_LINE_SECONDS = 0.1, 300.0
_NAME_WIDTH = len("reading images")


def display(quiet: bool) -> Progress:
    """The display that suits standard error as it is now."""
    if quiet:
        return Quiet()
    console = Console(stderr=True, highlight=False, emoji=False)
    bars = console.is_terminal and not console.is_dumb_terminal
    return Bars(console) if bars else Lines(sys.stderr)


class Quiet(Silent):
    """No progress, no notes; a warning is about something the user should act on, and is shown."""

    def warn(self, text: str) -> None:
        """Show a warning."""
        print(f"warning: {printable(text)}", file=sys.stderr, flush=True)  # noqa: T201


class Bars:
    """Bars in a terminal. A stage inside another disappears when it is done; the outer one stays as a record."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: RichProgress | None = None

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Stage]:
        """Open a bar; the time left is learned from the advances, the first of which may be a resumed run's jump."""
        if self._bars is not None:
            task = self._bars.add_task(name, total=total, figures="")
            try:
                yield _BarStage(self._bars, task)
            finally:
                self._bars.remove_task(task)
            return
        self._bars = _bars(self._console)
        try:
            with self._bars:
                yield _BarStage(self._bars, self._bars.add_task(name, total=total, figures=""))
        finally:
            self._bars = None

    def note(self, text: str) -> None:
        """Show a line above the bars."""
        self._above(Text(), text)

    def warn(self, text: str) -> None:
        """Show a warning above the bars."""
        self._above(Text("warning: ", style="bold yellow"), text)

    def _above(self, begin: Text, text: str) -> None:
        lines = folded(begin.plain + printable(text), self._console.width)
        self._console.print(begin.append(lines[len(begin.plain) :], style="default"), soft_wrap=True)


def _bars(console: Console) -> RichProgress:
    # As wide as most names are: the bars of stages that follow each other stand below each other.
    column = Column(no_wrap=True, min_width=_NAME_WIDTH, max_width=28)
    name = TextColumn("{task.description}", markup=False, table_column=column)
    figures = TextColumn("{task.fields[figures]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    percent, left = TaskProgressColumn(), TimeRemainingColumn(elapsed_when_finished=True)
    return RichProgress(name, BarColumn(20), percent, left, figures, console=console, redirect_stdout=False)


class _BarStage:
    def __init__(self, bars: RichProgress, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def advance(self, amount: float = 1, **figures: float) -> None:
        interrupts.again()
        self._bars.update(self._task, advance=amount)
        if figures:
            self._bars.update(self._task, figures=_figures(figures))


class Lines:
    """Plain lines for logs: at most one every few seconds, and one at the end of every outer stage."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._depth = 0
        self._begun = self._next = 0.0

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Stage]:
        """Open a stage whose lines are written when they are due."""
        if self._depth == 0:
            self._begun = time.monotonic()
            self._next = self._begun + FIRST_LINE_SECONDS
        self._depth += 1
        stage = _LineStage(self, name, total)
        try:
            yield stage
            if self._depth == 1:
                self.note(stage.closing())
        finally:
            self._depth -= 1

    def due(self) -> bool:
        """Whether a line may be written now; the next one then has to wait."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + min(max(LINE_SECONDS, LINE_SHARE * (now - self._begun)), MOST_LINE_SECONDS)
        return True

    def note(self, text: str) -> None:
        """Write one line; a log that nobody reads any more (`2>&1 | head`) must not end hours of work."""
        with suppress(BrokenPipeError):
            print(printable(text), file=self._stream, flush=True)

    def warn(self, text: str) -> None:
        """Write one warning."""
        self.note(f"warning: {text}")


class _LineStage:
    def __init__(self, lines: Lines, name: str, total: float | None) -> None:
        self._lines, self._name, self._total = lines, name, total
        self._done = 0.0
        self._opened = time.monotonic()
        self._first: tuple[float, float] | None = None  # when the first advance came and what was done by then

    def advance(self, amount: float = 1, **figures: float) -> None:
        interrupts.again()
        self._done += amount
        self._first = self._first or (time.monotonic(), self._done)
        if self._lines.due():
            self._lines.note(
                ", ".join(filter(None, (f"{self._name}: {self._share()}", self._left(), _figures(figures))))
            )

    def closing(self) -> str:
        return f"{self._name}: done in {duration(time.monotonic() - self._opened)}"

    def _share(self) -> str:
        if not self._total:
            return f"{self._done:.6g} done"
        return f"{self._done:.6g} of {self._total:.6g} ({min(self._done / self._total, 1):.0%})"

    def _left(self) -> str:
        if self._total is None or self._first is None or self._done <= self._first[1]:
            return ""
        pace = (time.monotonic() - self._first[0]) / (self._done - self._first[1])
        return f"about {duration(max(self._total - self._done, 0) * pace)} left"


def _figures(figures: dict[str, float]) -> str:
    return " ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())
