"""Patient ids: from file names by the user's own pattern, or what a file tells; nothing is ever guessed."""

import re
from collections.abc import Callable, Iterable, Sequence

from meddistill.cohort.problems import Problem, problem
from meddistill.cohort.types import Frame, Record
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


def whose(frame: Frame, named: str | None, *, asked: bool) -> tuple[str | None, bool]:
    """The ``patient`` and ``stands_in`` of a record: ``named`` by a column or a pattern if one was ``asked`` for.

    Where that names nobody, what the file tells still holds its pictures together, but names no person: one who has an
    id in the column may be here by another, of the header. Equal ids are one patient's, wherever they come from:
    joining two people costs the split some freedom, parting one is a leak.
    """
    if not asked:
        return frame.patient, frame.stands_in
    return (named, False) if named else (frame.patient, True)


def nobody_named(records: Sequence[Record], asked: str | None) -> list[Problem]:
    """A warning where the column or pattern that was ``asked`` for names the patient of no image at all."""
    if asked is None or not records or any(record.names_patient for record in records):
        return []
    remedy = "Correct or fill it, or leave it out: then a PatientID names the patient of a DICOM file."
    return [problem("patient-unknown", "warning", f"{asked} gives no image a patient", (), remedy)]


def hint(names: Iterable[str]) -> str | None:
    """A pattern that the file names suggest (some id comes back in several names), or ``None``."""
    names = list(names)
    found = [pattern for pattern in _FAMILIAR if _repeats(re.compile(pattern), names)]
    return f"({'|'.join(found)})" if found else None


def _repeats(pattern: re.Pattern[str], names: list[str]) -> bool:
    matches = [match.group() for match in map(pattern.search, names) if match]
    return len(matches) >= _HINT_SHARE * len(names) and len(set(matches)) < len(matches)
