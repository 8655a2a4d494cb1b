"""Atomic writes: a file is either the old one or the whole new one, whatever happens in between."""

import contextlib
import errno
import glob
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from meddistill.runtime.errors import OutputError

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
