"""Tasks in order, here and in several processes, that may be killed."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tests.bench.conftest import GRID, SHORT

from meddistill.bench.benchmark import bench
from meddistill.bench.crowd import Result, carry_out
from meddistill.bench.grid import read_grid
from meddistill.bench.tasks import Layout, tasks
from meddistill.bench.work import Worker
from meddistill.runtime.errors import InputError
from meddistill.runtime.progress import Silent

ONE_SEED = GRID.replace("seeds = 2\ndistillations = 2", "seeds = 1\nfull = false")
TABLES = ("results.jsonl", "results.csv", "results.md", "paired.csv")


class Fake:
    """Hands that do nothing, and the order in which they were asked; ``last_first`` ends what was begun last first."""

    def __init__(self, hands: int, fails: set[Path], last_first: bool) -> None:
        self.free, self._fails, self._place = hands, fails, -1 if last_first else 0
        self.begun, self.running, self.most = [], [], 0

    def begin(self, task):
        assert self.free > 0
        self.free -= 1
        self.begun.append(task)
        self.running.append(task)
        self.most = max(self.most, len(self.running))

    def wait(self):
        self.free += 1
        task = self.running.pop(self._place)
        return Result(task, "failed" if task.outcome in self._fails else None)


@pytest.mark.parametrize("hands", [1, 2, 5, 100])
@pytest.mark.parametrize("last_first", [False, True])
def test_every_task_is_done_once_and_after_what_it_needs(hands, last_first):
    every = tasks(Layout(read_grid(GRID, "grid.toml"), Path("out"), "cpu"))
    fake, done = Fake(hands, set(), last_first), []

    def report(result):
        assert all(need in done for need in result.task.needs)
        done.append(result.task.outcome)

    carry_out(every, fake, report)
    assert sorted(done) == sorted(task.outcome for task in every)
    assert fake.most == min(hands, fake.most)
    assert hands == 1 or fake.most > 1


def test_what_needs_a_failed_task_is_left_and_all_else_is_done():
    every = tasks(Layout(read_grid(GRID, "grid.toml"), Path("out"), "cpu"))
    bad = {task.outcome for task in every if task.kind == "make" and " 1 mtt convnet" in task.outcome.name}
    fake, reported = Fake(3, bad, False), []
    carry_out(every, fake, reported.append)
    left = [task for task in every if task not in fake.begun]
    assert left
    assert all(bad & set(task.needs) for task in left)
    assert {result.task.outcome for result in reported if result.error} == bad


def test_tasks_whose_needs_are_done_already_are_carried_out():
    every = tasks(Layout(read_grid(GRID, "grid.toml"), Path("out"), "cpu"))
    scores = [task for task in every if task.kind == "score"]
    fake = Fake(2, set(), False)
    carry_out(scores, fake, lambda result: None)
    assert fake.begun == scores


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no bytes are left"), ValueError("odd"), InputError("bad")])
@pytest.mark.usefixtures("no_pictures")
def test_whatever_goes_wrong_in_a_task_ends_no_other_in_this_process(tmp_path, data, monkeypatch, error):
    def fail(self, task):
        raise error

    monkeypatch.setattr(Worker, "_make", fail)
    monkeypatch.setattr("meddistill.bench.work.protocol_for", lambda _, flip: SHORT())  # not beyond this test
    (tmp_path / "grid.toml").write_text(ONE_SEED)
    found = bench(tmp_path / "grid.toml", tmp_path / "out", data=data, subset="small", jobs=1)
    [(task, told)] = found.failed
    assert task.startswith("make stripes 1 mtt")
    assert str(error) in told
    assert [line.cell.method for line in found.lines] == ["random"]


def test_who_interrupts_ends_the_benchmark(tmp_path, data, monkeypatch):
    def interrupt(self, task):
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "perform", interrupt)
    (tmp_path / "grid.toml").write_text(ONE_SEED)
    with pytest.raises(KeyboardInterrupt):
        bench(tmp_path / "grid.toml", tmp_path / "out", data=data, subset="small", jobs=1)


def children(parent: int) -> list[int]:
    """Processes that ``parent`` started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def test_several_processes_that_are_killed_and_continued_write_the_same_tables(tmp_path, data):
    (tmp_path / "grid.toml").write_text(ONE_SEED)
    words = ["bench", "grid.toml", "--data", str(data), "--subset", "small", "--quiet", "--out"]
    command = [sys.executable, "-m", "meddistill", *words, "killed"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    process = subprocess.Popen([*command, "--jobs", "2"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
    until = time.monotonic() + 600
    while not list((tmp_path / "killed" / "scores").glob("*.json")):
        assert process.poll() is None, "the benchmark ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.001)
    helpers = children(process.pid)
    assert len(helpers) == 2
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=600)
    while any(Path(f"/proc/{helper}").exists() for helper in helpers):  # none stays behind
        assert time.monotonic() < until
        time.sleep(0.01)
    assert not (tmp_path / "killed" / "results.csv").exists()

    done = subprocess.run([*command, "--jobs", "2"], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    alone = bench(tmp_path / "grid.toml", tmp_path / "alone", data=data, subset="small", jobs=1)
    assert alone.missing == 0
    for name in TABLES:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    scores = [sorted(path.name for path in (tmp_path / out / "scores").iterdir()) for out in ("killed", "alone")]
    assert scores[0] == scores[1]
    assert not list((tmp_path / "killed").rglob("*.tmp"))


class Heard(Silent):
    """Remembers what it was told."""

    def __init__(self):
        self.notes, self.stages = [], []

    @contextmanager
    def stage(self, name, total=None):
        self.stages.append(name)
        with super().stage(name, total) as stage:
            yield stage

    def note(self, text):
        self.notes.append(text)


def test_single_tasks_show_their_stages_and_keep_their_notes_to_themselves(data, tmp_path, short):
    (tmp_path / "grid.toml").write_text(ONE_SEED)
    heard = Heard()
    found = bench(tmp_path / "grid.toml", tmp_path / "out", data=data, subset="small", jobs=1, progress=heard)
    assert (found.failed, found.missing) == ((), 0)
    assert {"benchmark", "teaching", "distilling", "evaluating"} <= set(heard.stages)
    assert [note.split(" tasks are left")[0] for note in heard.notes if "pictures" not in note] == ["4 of 4"]
