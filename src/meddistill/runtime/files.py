"""Atomic writes: a file is either the old one or the whole new one, whatever happens in between."""

import contextlib
import errno
import glob
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from meddistill.runtime.errors import InputError, OutputError

_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space or write elsewhere",
    errno.EDQUOT: "the disk quota is used up: free some space or write elsewhere",
    errno.EACCES: "no permission to write there: choose a folder that you may write to",
    errno.EPERM: "no permission to write there: choose a folder that you may write to",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EEXIST: "a part of the path is a file, not a folder: choose another path",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another path",
    errno.EISDIR: "the path is a folder: give the name of a file",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
}

# What verbs write. Any other file in a folder that is read may be one of its images.
_WRITTEN = frozenset({".html", ".json", ".mdw", ".mdz", ".onnx", ".safetensors", ".toml"})
_LENGTH = 8  # bytes of the number that a safetensors file begins with, before its JSON


def write_error(path: Path, error: OSError) -> OutputError:
    """The message for a failed write of ``path``: what failed and how to mend it."""
    remedy = _REMEDIES.get(error.errno or 0, error.strerror or str(error))
    return OutputError(f"cannot write {path}: {remedy}")


def write_atomic(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old file or the whole new one.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and are moved into place.
    Missing parent folders are made. ``private``: nobody but the owner may read the file, at no moment.
    Raises :class:`OutputError`; on failure nothing is left behind.
    """
    require_named(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        with open(temporary, "xb", opener=_for_the_owner if private else None) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _for_the_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Make the folder ``path`` with the files (by relative path, parts joined by ``/``), all of them or none.

    The folder must not exist, or be empty. Raises :class:`OutputError`; on failure nothing is left behind.
    """
    require_named(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise OutputError(f"cannot write {path}: something is there already; give a folder that does not exist")
        for name, data in files.items():
            target = temporary.joinpath(*name.split("/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_writable(path: Path) -> None:
    """Raise :class:`OutputError` now, before hours of work, if a file could not be written at ``path``."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        probe = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.probe")
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise write_error(path, error) from error


def require_named(path: Path) -> None:
    """Raise :class:`OutputError` for ``.`` and ``/``, which are folders whatever is there and have no name."""
    if not path.name:
        raise OutputError(f"cannot write {path}: it is a folder that is there; give another name")


def is_there(path: Path) -> bool:
    """Whether something stands at ``path``; of what the disk cannot hold at all (a name too long) nothing does."""
    try:
        path.stat()
    except OSError:
        return False
    return True


def is_folder(path: Path) -> bool:
    """Whether a folder stands at ``path``; of a name that the disk cannot hold none does."""
    return is_there(path) and path.is_dir()


def require_another(out: Path, used: Iterable[Path | None], option: str = "--out") -> None:
    """Raise :class:`InputError` now, before any work, if a file at ``out`` would replace what a verb needs.

    ``used``: the files and folders that it reads or works in, None for what was not given. Links are followed. Of files
    that stand in such a folder already only those are replaced whose names say that a verb wrote them.
    """
    for path in used:
        if path is not None and (what := _replaced(out, path)):
            raise InputError(f"{option} {out} would replace {what}: name another file")


def _replaced(out: Path, path: Path) -> str:
    """What of ``path`` a file at ``out`` would replace, in words; nothing is the empty text."""
    target, place = out.resolve(), path.resolve()
    if target == place or target in place.parents or _is_one_file(target, place):
        return f"what this command reads or works in ({path})"
    if place in target.parents and is_there(target) and target.is_file() and not _says_that_a_verb_wrote_it(target):
        return f"a file of {path}, which this command reads"
    return ""


def _says_that_a_verb_wrote_it(path: Path) -> bool:
    """By its ending; or, where it has none, as models often have not, by beginning like a safetensors file."""
    if path.suffix:
        return path.suffix.lower() in _WRITTEN
    try:
        with path.open("rb") as file:
            return file.read(_LENGTH + 1)[_LENGTH:] == b"{"
    except OSError:
        return False


def _is_one_file(first: Path, second: Path) -> bool:
    """Whether two names lead to one file, as on a disk that does not tell ``X`` from ``x``."""
    try:
        return first.samefile(second)
    except OSError:  # one of them is not there
        return False


def remove_leftovers(folder: Path, of: str = "") -> None:
    """Delete temporary files that a killed process left in ``folder``, all or those of one file name.

    Only one process may own the folder, or write the file of that name.
    """
    for leftover in _leftovers(folder, of):
        with contextlib.suppress(OSError):
            leftover.unlink()


def _leftovers(folder: Path, of: str) -> Iterator[Path]:
    pattern = f".{glob.escape(of)}.*.tmp" if of else ".*.tmp"
    return folder.glob(pattern) if folder.is_dir() else iter(())


def sync_folder(folder: Path) -> None:
    """Have the disk know the names of the files that were moved in a folder."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
