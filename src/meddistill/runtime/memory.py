"""How much memory this process may still take: what the system has, and what a container or a batch system allows."""

import sys
from collections.abc import Iterator
from pathlib import Path

_ELSEWHERE = 4 << 30
# What a control group allows and has taken, by the names of its version 2, then 1. Not counted as taken: copies of
# files that nobody is using, which the kernel gives up when it needs the memory.
_NAMES = ("memory.max", "memory.current", "inactive_file")
_OLD_NAMES = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def available(system: Path = Path("/")) -> int:
    """Bytes on the CPU. ``system``: where ``proc`` and ``sys`` are. Other systems than Linux are not asked: 4 GiB."""
    if sys.platform != "linux":
        return _ELSEWHERE
    return min([_of_the_system(system / "proc/meminfo"), *_of_groups(system)])


def _of_the_system(told: Path) -> int:
    for line in told.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return _ELSEWHERE


def _of_groups(system: Path) -> Iterator[int]:
    """What is left in every control group that this process is in and that has a limit."""
    root = system / "sys/fs/cgroup"
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds not in ("", "memory"):
            continue
        base, names = (root / "memory", _OLD_NAMES) if kinds else (root, _NAMES)
        # Inside a container the path may be that of the host, and the limit stands at the root.
        place = base / path.lstrip("/")
        for folder in (place, *place.parents):
            if not folder.is_relative_to(base):
                break
            yield from _left(folder, *names)


def _left(folder: Path, limit: str, taken: str, unused: str) -> Iterator[int]:
    try:
        allowed, used = (int((folder / name).read_text()) for name in (limit, taken))
        rows = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        spare = sum(int(row[1]) for row in rows if row[0] == unused)
    except (OSError, ValueError):  # no such group, or no limit: "max"
        return
    yield max(0, allowed - used + spare)
