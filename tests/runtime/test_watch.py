"""A run tells how it is going and heeds a request to stop; neither can break it."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meddistill.runtime import processes, watch
from meddistill.runtime.progress import Silent
from meddistill.runtime.watch import StopRequested, is_alive, own_command, watched


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(watch, "SECONDS_BETWEEN", -1.0)


def status(folder):
    return json.loads((folder / "status.json").read_text())


def test_the_status_says_where_the_stage_stands_and_how_the_run_ended(tmp_path):
    with watched(tmp_path, Silent()) as progress, progress.stage("distilling", 8) as stage:
        stage.advance(2)
        stage.advance(2, loss=0.5)
        told = status(tmp_path)
        assert (told["state"], told["stage"], told["done"], told["total"]) == ("running", "distilling", 4.0, 8)
        assert told["figures"] == {"loss": 0.5}
        assert told["seconds_left"] >= 0
        assert told["pid"] == os.getpid()
        assert told["memory"].get("resident", 1) > 0
        assert is_alive(told, time.time())
    assert status(tmp_path)["state"] == "done"
    assert not is_alive(status(tmp_path), time.time())


@pytest.mark.parametrize(
    ("error", "state"), [(KeyboardInterrupt, "stopped"), (StopRequested, "stopped"), (ValueError, "failed")]
)
def test_whatever_ends_a_run_is_told_and_passed_on(tmp_path, error, state):
    with pytest.raises(error), watched(tmp_path, Silent()):
        raise error("the disk is full")
    told = status(tmp_path)
    assert told["state"] == state
    assert told.get("error") == ("the disk is full" if state == "failed" else None)


def test_a_stop_is_heeded_at_the_next_advance_and_an_old_request_is_forgotten(tmp_path):
    (tmp_path / "stop").touch()
    with (
        pytest.raises(StopRequested),
        watched(tmp_path, Silent()) as progress,
        progress.stage("distilling", 8) as stage,
    ):
        stage.advance()
        (tmp_path / "stop").touch()
        stage.advance()
    assert status(tmp_path)["state"] == "stopped"


def test_a_folder_that_cannot_be_written_ends_no_run(tmp_path):
    with watched(tmp_path / "gone", Silent()) as progress, progress.stage("distilling", 2) as stage:
        stage.advance()
    assert not (tmp_path / "gone").exists()


def test_a_process_that_has_gone_is_not_alive(tmp_path):
    code = """
import sys
from pathlib import Path
from meddistill.runtime.progress import Silent
from meddistill.runtime.watch import Watched
Watched(Path(sys.argv[1]), Silent()).tell(state="running")
"""
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
    told = status(tmp_path)
    assert told["state"] == "running"
    assert not is_alive(told, time.time())


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["/usr/bin/meddistill", "distill", "x"], ["distill", "x"]),
        (["C:/Scripts/meddistill.exe", "demo"], ["demo"]),
        (["/lib/meddistill/__main__.py", "distill", "x"], ["distill", "x"]),
        (["/lib/meddistill/__main__.py"], None),
        (["/lib/pytest/__main__.py", "distill"], None),
        (["-c", "distill"], None),
        ([], None),
    ],
)
def test_only_a_command_line_of_meddistill_is_remembered(words, command):
    assert own_command(words) == command


HELPER = """
import sys
sys.path[:] = {path!r}
held = b"x" * 100_000_000
sys.stdout.write("held\\n")
sys.stdout.flush()
sys.stdin.read()
"""


def test_memory_counts_the_processes_that_work_for_this_one_and_only_while_they_do():
    alone = watch.memory()
    helper = processes.start(HELPER)
    assert helper.stdout is not None
    assert helper.stdout.readline() == b"held\n"
    together = watch.memory()
    helper.communicate()
    after = watch.memory()
    assert (together["processes"] - alone["processes"], after["processes"] - alone["processes"]) == (1, 0)
    # What it holds, and little else: the interpreter's own pages and what this process took meanwhile.
    assert 95_000_000 < together["resident"] - alone["resident"] < 150_000_000
    assert after["resident"] < together["resident"] - 90_000_000


def test_a_system_that_tells_nothing_of_processes_breaks_nothing(monkeypatch):
    monkeypatch.setattr(watch, "_pages", lambda process: None)
    assert "resident" not in watch.memory()


def test_what_fits_of_a_status_on_a_full_disk_is_not_left_behind(tmp_path, monkeypatch):
    whole = Path.write_text

    def full(path, text):
        whole(path, text[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with watched(tmp_path, Silent()):
        pass
    assert list(tmp_path.iterdir()) == []
