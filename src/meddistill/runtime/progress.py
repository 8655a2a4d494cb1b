"""How a long stage says where it stands. The library is silent unless the caller hands in a progress display."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Stage(Protocol):
    """One running stage."""

    def advance(self, amount: float = 1, **figures: float) -> None:
        """``amount`` more units are done; ``figures`` are shown beside the bar (loss, seconds, …)."""


class Progress(Protocol):
    """A display of stages, notes and warnings (the command line has one on standard error)."""

    def stage(self, name: str, total: float | None = None) -> AbstractContextManager[Stage]:
        """Open a stage of ``total`` units (``None`` where it is not known)."""

    def note(self, text: str) -> None:
        """Show one line of information."""

    def warn(self, text: str) -> None:
        """Show something the user should act on."""


class _SilentStage:
    def advance(self, amount: float = 1, **figures: float) -> None:
        pass


class Silent:
    """The default display: nothing."""

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Stage]:
        yield _SilentStage()

    def note(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass
