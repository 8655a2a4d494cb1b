"""What is wrong with a source: one record per kind of problem, and the error that lists them all."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from meddistill.runtime.errors import InputError

Level = Literal["error", "leak", "warning"]
LEVELS: tuple[Level, ...] = ("error", "leak", "warning")
SHOWN = 5


@dataclass(frozen=True)
class Problem:
    """One kind of problem and all its places.

    ``code`` never changes its meaning; ``message`` is the whole text for people: what, where, and the remedy.
    ``count`` is the number of places (files, rows, patients or classes), ``places`` names the first few.
    """

    code: str
    level: Level
    message: str
    count: int = 0
    places: tuple[str, ...] = ()
    remedy: str = ""

    def as_dict(self) -> dict[str, object]:
        """JSON-able; ``places`` and ``message`` hold file names and patient ids: for the owner of the data only."""
        return {
            "code": self.code,
            "level": self.level,
            "message": self.message,
            "count": self.count,
            "places": list(self.places),
            "remedy": self.remedy,
        }


class CohortError(InputError):
    """A source that cannot be used as it is; ``problems`` are all that were found, the message lists them."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.problems = in_order(problems)
        super().__init__(describe(source, self.problems))

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (str(self), self.problems)


def _restore(message: str, problems: tuple[Problem, ...]) -> CohortError:
    error = CohortError("", problems)
    error.args = (message,)
    return error


def problem(code: str, level: Level, what: str, places: Sequence[str] = (), remedy: str = "") -> Problem:
    """A problem whose message is ``what``, the first few ``places``, how many more there are, and the ``remedy``."""
    text = what
    if places:
        shown = ", ".join(places[:SHOWN])
        more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
        text = f"{what}: {shown}{more}"
    message = f"{text}. {remedy}".strip() if remedy else text
    return Problem(code, level, message, len(places), tuple(places[:SHOWN]), remedy)


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Errors first, then leaks, then warnings; the order of finding is kept within a level."""
    return tuple(sorted(problems, key=lambda found: LEVELS.index(found.level)))


def describe(source: str, problems: Sequence[Problem]) -> str:
    """The problems as text, one a line, under a heading that counts them."""
    lines = [f"  {found.level} {found.code}: {found.message}" for found in problems]
    return "\n".join([f"{source} cannot be used as it is: {_count(problems)}", *lines])


def _count(problems: Sequence[Problem]) -> str:
    counts = [(level, sum(found.level == level for found in problems)) for level in LEVELS]
    return ", ".join(f"{count} {level}{'s' * (count != 1)}" for level, count in counts if count)


def number(count: int, noun: str, plural: str | None = None) -> str:
    """``1 image``, ``2 images``."""
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"
