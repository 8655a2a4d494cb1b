"""Stop a run and continue it: a file that the run heeds, and its own command once more, in a process of its own."""

import subprocess
import sys
from pathlib import Path

from meddistill.runtime.watch import STOP
from meddistill.view import runs

LOG = "continued.log"
# The path is set before anything is imported: a file of the run's working folder must not be taken for a module.
_START = "import sys; sys.path[:] = {path!r}; from meddistill.cli.main import main; sys.exit(main())"


def stop(folder: Path) -> bool:
    """Ask the run in ``folder`` to end at the next point from which it can be continued; False if none runs there."""
    if runs.read(folder).state != "running":
        return False
    (folder / STOP).touch()
    return True


def resume(folder: Path) -> "subprocess.Popen[bytes] | None":
    """Give the command of the run in ``folder`` again, if it has ended early and its command is known.

    The process outlives the viewer; what it says goes to ``continued.log`` in the run folder.
    """
    run = runs.read(folder)
    if run.state not in runs.RESUMABLE or not run.command:
        return None
    with open(folder / LOG, "wb") as said:
        return subprocess.Popen(
            [sys.executable, "-c", _START.format(path=sys.path), *run.command],
            cwd=runs.starting_folder(folder),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )


def last_words(folder: Path) -> str:
    """The last line that the continued run said."""
    try:
        with open(folder / LOG, "rb") as file:
            file.seek(max(0, (folder / LOG).stat().st_size - 4000))
            lines = file.read().decode("utf-8", "replace").strip().split("\n")
    except OSError:
        return ""
    return lines[-1][:500]
