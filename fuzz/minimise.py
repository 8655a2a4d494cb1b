"""Keep of a folder of inputs, the smallest first, those that reach a step from line to line that no other did.

PYTHONPATH=src python fuzz/minimise.py FROM INTO
"""

import shutil
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import read_package

Step = tuple[str, int, int]


def reached(data: bytes) -> set[Step]:
    """The steps from line to line inside the reader."""
    found: set[Step] = set()

    def enter(frame: FrameType, _event: str, _argument: Any) -> Any:
        if "meddistill/package" not in frame.f_code.co_filename:
            return None
        before = 0

        def step(inner: FrameType, _event: str, _argument: Any) -> Any:
            nonlocal before
            found.add((inner.f_code.co_filename, before, inner.f_lineno))
            before = inner.f_lineno
            return step

        return step

    sys.settrace(enter)
    try:
        read_package.examine(data)
    finally:
        sys.settrace(None)
    return found


def main() -> None:
    """Copy what is kept."""
    read_package.known_card()  # made once, not by the first input
    source, target = (Path(word) for word in sys.argv[1:])
    seen: set[tuple[int, Step]] = set()
    for path in sorted(source.iterdir(), key=lambda path: (path.stat().st_size, path.name)):
        data = path.read_bytes()
        new = {(data[0] % 15 if data else 0, step) for step in reached(data)} - seen
        if new:
            seen |= new
            shutil.copy(path, target)


if __name__ == "__main__":
    main()
