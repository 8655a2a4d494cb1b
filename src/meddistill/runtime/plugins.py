"""What other installed packages add under an entry-point group; looked up when asked for, never while importing."""

import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from meddistill.runtime.errors import InputError


def names(group: str) -> tuple[str, ...]:
    """Names that installed packages offer, sorted; nothing of theirs is imported."""
    return _names(group, tuple((entry, _changed(entry)) for entry in sys.path))


# Every package's files are read for it, which takes a tenth of a second; a plan asks several times. A folder where a
# package was installed or removed since has another time.
@lru_cache(maxsize=8)
def _names(group: str, looked_at: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    return tuple(sorted({entry.name for entry in entry_points(group=group)}))


def _changed(folder: str) -> int:
    try:
        return Path(folder).stat().st_mtime_ns
    except OSError:
        return 0


def load(group: str, name: str) -> Any:
    """The object of that name. Raises :class:`InputError` where there is none, more than one, or importing it fails."""
    found = {_of(entry): entry for entry in entry_points(group=group, name=name)}
    if len(found) != 1:
        offered = f"by {' and '.join(sorted(found))}: keep one of them" if found else "by no installed package"
        raise InputError(f"'{name}' is offered {offered}")
    ((package, entry),) = found.items()
    try:
        return entry.load()
    except Exception as error:
        raise InputError(
            f"'{name}' of the installed package {package} cannot be loaded ({type(error).__name__}: {error}): "
            "mend or uninstall that package"
        ) from error


def _of(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.module
