"""What the viewer is asked to show: packages, run folders, or folders in which such are looked for at every reload."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from meddistill.report.runlog import EVENTS
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import is_there

MOST = 12  # subjects on one page
_SCANNED = 2000  # entries of a folder that are looked at


@dataclass(frozen=True)
class Subject:
    """A run folder or a package, and the short name by which the page's addresses call it."""

    path: Path
    is_run: bool

    @property
    def key(self) -> str:
        """Hexadecimal; never a part of the path, for addresses are remembered by browsers."""
        return hashlib.sha256(str(self.path.resolve()).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        return self.path.resolve().name


def require_there(paths: Sequence[Path]) -> None:
    """Raise :class:`InputError` for a path at which there is nothing."""
    for path in paths:
        if not is_there(path):
            raise InputError(
                f"there is nothing at {path}: give the folder of a run (NAME.run), a package (NAME.mdz), or a folder "
                "that holds such"
            )


def subjects(paths: Sequence[Path]) -> tuple[Subject, ...]:
    """The runs and packages that the paths mean now; of a folder that is no run, those in it, newest runs first."""
    found = [one for path in paths for one in _meant(path)]
    distinct = {one.key: one for one in found}
    return tuple(distinct.values())[:MOST]


def _meant(path: Path) -> Iterable[Subject]:
    if not path.is_dir():
        return [Subject(path, is_run=False)]
    if path.suffix == ".run" or (path / EVENTS).exists():
        return [Subject(path, is_run=True)]
    entries = [entry for entry, _ in zip(sorted(path.iterdir()), range(_SCANNED), strict=False)]
    runs = sorted((entry for entry in entries if _is_run(entry)), key=_changed, reverse=True)
    packages = [entry for entry in entries if entry.suffix == ".mdz" and entry.is_file()]
    return [Subject(entry, is_run=True) for entry in runs] + [Subject(entry, is_run=False) for entry in packages]


def _is_run(entry: Path) -> bool:
    return entry.is_dir() and (entry / EVENTS).is_file()


def _changed(run: Path) -> float:
    return (run / EVENTS).stat().st_mtime
