"""Put what commands really print below them: ``python docs/tools/console.py PAGE [--folder FOLDER]``.

Every ``console`` block of a page is carried out, from the first to the last, in one folder that knows ``examples/``; a
line that begins with ``$`` is a command, and the lines below it, which are replaced, are what it printed on standard
output (what it says of its progress goes to standard error, and is left out). The page is written anew. The tests carry
out the same blocks, with the quicker settings that the page names in a comment.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_LINES = 40  # of what one command prints; of more the first are shown, and how many there are
BLOCK = re.compile(r"(?<=^```console\n)(.*?)(?=^```$)", re.DOTALL | re.MULTILINE)


def commands(block: str) -> Iterator[str]:
    """The commands of a block; one that ends with a backslash goes on in the next line."""
    lines = iter(block.splitlines())
    for line in lines:
        if line.startswith("$ "):
            told = [line[2:]]
            while told[-1].endswith("\\"):
                told.append(next(lines))
            yield "\n".join(told)


def output(command: str, folder: Path) -> str:
    """What a command prints in a window of 80 columns; its exit code and its messages go to this program's errors."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "80", "MEDDISTILL_CONFIG": str(folder / "trusted")}
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    print(f"{done.returncode}  {command}\n{done.stderr}", file=sys.stderr, flush=True)
    return done.stdout.replace(f"{folder.resolve()}/", "")


def carried_out(block: str, folder: Path) -> str:
    """The block with what its commands print now."""
    return "\n".join(f"$ {command}\n{shortened(output(command, folder))}" for command in commands(block))


def shortened(printed: str) -> str:
    """At most forty lines, without blank ones at the ends and spaces that nobody sees."""
    lines = [line.rstrip() for line in printed.strip("\n").splitlines()]
    more = len(lines) - MOST_LINES
    return "\n".join([*lines[:MOST_LINES], f"… ({more} more lines)"] if more > 5 else lines) + "\n"


def main() -> None:
    """Carry out the blocks of one page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument(
        "--folder", type=Path, help="an empty folder to work in, which is kept [default: a temporary one]"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "examples").symlink_to(ROOT / "examples")
        page = asked.page.read_text(encoding="utf-8")
        asked.page.write_text(BLOCK.sub(lambda found: carried_out(found[0], folder), page), encoding="utf-8")


if __name__ == "__main__":
    main()
