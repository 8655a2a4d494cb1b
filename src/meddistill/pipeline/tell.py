"""Tell what was found in a source: problems are warnings, what was done because it was asked for is a note."""

from collections.abc import Collection

from meddistill.cohort.prepare import Prepared
from meddistill.cohort.problems import Problem
from meddistill.runtime.progress import Progress

_DONE_AS_ASKED = ("leak-dropped", "resplit")
_LEAKS = ("patient-across-splits", "duplicate-across-splits")


def tell(prepared: Prepared, progress: Progress, untold: Collection[str] = ()) -> None:
    """Show the problems of a source, but for those whose codes are in ``untold``."""
    for found in prepared.problems:
        if found.code not in untold:
            show = progress.note if _settled(found) else progress.warn
            show(found.message)


def _settled(found: Problem) -> bool:
    """A leak that stopped being one because the user asked for that has sunk to a warning."""
    return found.code in _DONE_AS_ASKED or (found.code in _LEAKS and found.level == "warning")
