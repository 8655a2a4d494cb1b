"""Patient ids from file names, by the user's own pattern; nothing is ever guessed."""

import re
from collections.abc import Callable, Iterable

from meddistill.runtime.errors import InputError

# Ways in which public sets write a patient into a file name; used for a hint, never to take an id.
_FAMILIAR = (r"person\d+", r"(?:[A-Z0-9]+-)?IM-\d+", r"(?:[Pp]atient|[Pp]at|[Ss]ubject|[Ss]ubj|[Ss]ub|[Cc]ase)[-_]?\d+")
_HINT_SHARE = 0.1


def patient_finder(pattern: str | None) -> Callable[[str], str | None]:
    """A function from a file name (without folder) to its patient id, or ``None``.

    Raises :class:`~meddistill.runtime.errors.InputError` if ``pattern`` is not a regular expression.
    """
    if pattern is None:
        return lambda name: None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"the patient pattern {pattern!r} is not a regular expression: {error}. "
            r"Give one whose first group is the patient id, e.g. '(person\d+)_'"
        ) from error
    group = 1 if compiled.groups else 0

    def find(name: str) -> str | None:
        match = compiled.search(name)
        return (match.group(group) or None) if match else None

    return find


def hint(names: Iterable[str]) -> str | None:
    """A pattern that the file names suggest (some id comes back in several names), or ``None``."""
    names = list(names)
    found = [pattern for pattern in _FAMILIAR if _repeats(re.compile(pattern), names)]
    return f"({'|'.join(found)})" if found else None


def _repeats(pattern: re.Pattern[str], names: list[str]) -> bool:
    matches = [match.group() for match in map(pattern.search, names) if match]
    return len(matches) >= _HINT_SHARE * len(names) and len(set(matches)) < len(matches)
