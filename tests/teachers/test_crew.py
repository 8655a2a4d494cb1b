"""Helper processes: the same bytes however many there are, and none that outlives the process it helps."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from meddistill.runtime import crew
from meddistill.runtime.errors import MeddistillError, OutputError
from meddistill.teachers import train as training
from meddistill.teachers.crew import Job, News, train_all
from meddistill.teachers.store import TrajectoryStore
from meddistill.teachers.train import TeacherPlan, train_teacher

PLAN = TeacherPlan(count=5, steps=100, snapshot_every=10, batch=8, learning_rate=0.1, sampling="balanced")


@pytest.fixture
def make(tmp_path, images, network):
    def make(name="teachers", plan=PLAN, seconds=5.0):
        store = TrajectoryStore(tmp_path / name, plan.snapshots, network.parameters)
        return Job(network, images, plan, 0, store, seconds)

    return make


def train(job, processes, report=lambda news: None):
    tasks = [task for teacher in range(job.plan.count) for task in job.store.waiting((teacher,))]
    train_all(job, tasks, processes, report)


def dawdling(store, news):
    """A report that holds this process up at its second point until a helper has completed a teacher."""

    def report(told):
        news.append(told)
        if len(news) == 3:
            wait_for(lambda: any(store.path(k).exists() for k in range(5)))

    return report


def contents(store):
    return {path.name: path.read_bytes() for path in store.folder.iterdir()}


@pytest.fixture
def at_once(monkeypatch):
    """Helpers are started after the first point, however little is left to do."""
    monkeypatch.setattr(crew, "SECONDS_WORTH_HELP", -1.0)


def test_the_bytes_do_not_depend_on_who_trains(make, at_once, capfd):
    alone, helped, news = make("alone"), make("helped"), []
    train(alone, 1)
    train(helped, 3, dawdling(helped.store, news))
    assert contents(helped.store) == contents(alone.store)
    assert sum(told.points for told in news) == 5 * 10
    assert sorted(k for told in news for k in told.complete) == list(range(5))
    assert torch.equal(helped.store.trajectory(4), train_teacher(helped.network, helped.images, PLAN, 0, 4))
    assert capfd.readouterr().out == ""


def test_threads_do_not_change_the_bytes(make):
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            train(make(str(threads)), 1)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert contents(make("1").store) == contents(make("2").store)


def test_little_work_is_not_worth_a_helper(make, monkeypatch):
    monkeypatch.setattr(crew, "_Helper", None)
    train(make(), 8)


def test_a_lost_helper_is_made_up_for(make, at_once, monkeypatch):
    started, news, begin = [], [], subprocess.Popen

    def remembered(*words, **options):
        started.append(begin(*words, **options))
        return started[-1]

    def report(told):
        """Holds this process up until the helper is lost: it might be done before."""
        news.append(told)
        for process in started:
            process.wait(60)

    monkeypatch.setattr(crew, "_START", "import os; os._exit(7)  # {path!r}")
    monkeypatch.setattr(subprocess, "Popen", remembered)
    job = make()
    train(job, 2, report)
    assert all(job.store.is_complete(k) for k in range(5))
    assert News(lost=7) in news


def test_a_helper_that_is_lost_before_it_was_told_anything_is_missed_too(make, at_once, monkeypatch):
    """Its end of the pipe is closed when the work is sent."""
    news, begin = [], subprocess.Popen

    def gone(*words, **options):
        process = begin(*words, **options)
        process.wait(60)
        return process

    monkeypatch.setattr(crew, "_START", "import os; os._exit(7)  # {path!r}")
    monkeypatch.setattr(subprocess, "Popen", gone)
    train(make(), 2, lambda told: (news.append(told), time.sleep(0.01)))
    assert News(lost=7) in news


def test_a_helper_that_cannot_be_started_is_done_without(make, at_once, monkeypatch):
    def refuse(*_args, **_options):
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    job = make()
    train(job, 2)
    assert all(job.store.is_complete(k) for k in range(5))


def test_what_goes_wrong_in_a_helper_is_raised_here(make, at_once, capfd):
    """This process never comes to the end of its first teacher; a helper cannot begin the second one."""
    job = make(plan=replace(PLAN, count=2, steps=10**7))
    job.store.path(1, "part").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"cannot write .*teacher-0001\.part\.safetensors: .*folder"):
        train(job, 2)
    assert "Traceback" not in capfd.readouterr().err


SCRIPT = """
import sys, torch
from pathlib import Path
from meddistill.nets.convnet import ConvNet
from meddistill.runtime import crew
from meddistill.teachers.crew import Job, train_all
from meddistill.teachers.images import LabelledImages, Normalisation
from meddistill.teachers.store import TrajectoryStore
from meddistill.teachers.train import TeacherPlan
crew.SECONDS_WORTH_HELP = -1.0
images = LabelledImages(torch.zeros(20, 1, 8, 8, dtype=torch.uint8), torch.arange(20) % 2, 255, 2,
                        Normalisation((0.5,), (0.25,)))
network = ConvNet(4, 1, 1, 8, 2)
plan = TeacherPlan(4, 10**7, 10, 8, 0.1, "balanced")
store = TrajectoryStore(Path(sys.argv[1]), plan.snapshots, network.parameters)
told = []
def report(news):
    helpers = [h._process.pid for h in told[0]._helpers] if told else []
    if helpers and store.path(1, "state").exists():
        print(*helpers, flush=True)
whole = crew._Crew.__init__
def init(self, *args):
    whole(self, *args)
    told.append(self)
crew._Crew.__init__ = init
try:
    train_all(Job(network, images, plan, 0, store, -1.0), [((k,), None) for k in range(4)], 2, report)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_helpers_end_with_the_process_they_help(tmp_path, number):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        helpers = [int(word) for word in process.stdout.readline().split()]
        assert helpers
        assert all(is_running(helper) for helper in helpers)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == (-number if number == signal.SIGKILL else 130)
    assert b"Traceback" not in said
    wait_for(lambda: not any(is_running(helper) for helper in helpers))
    if number == signal.SIGINT:
        assert not list(tmp_path.glob(".*.tmp"))


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_file_of_the_working_folder_is_not_taken_for_a_module(make, at_once, tmp_path, monkeypatch, capfd):
    (tmp_path / "pickle.py").write_text("raise SystemExit('a file of the working folder was run')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(Path.cwd()))])
    job, news = make(), []
    train(job, 2, dawdling(job.store, news))
    assert not [told for told in news if told.lost is not None]
    assert "working folder" not in capfd.readouterr().err


FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
SHORT = replace(PLAN, steps=30, momentum=0.5)


def crowded(monkeypatch, most, after=0, error=FULL):
    """There is memory for so many teachers side by side; for all in the first steps."""
    taken, direction = [], training.direction

    def found(optimiser, slope, params, **rest):
        taken.append(len(params))
        if len(params) > most and len(taken) > after:
            raise error
        return direction(optimiser, slope, params, **rest)

    monkeypatch.setattr(training, "direction", found)


def in_one_group(job, report=lambda news: None):
    train_all(job, job.store.waiting(range(5)), 1, report)


@pytest.fixture
def with_momentum(tmp_path, images, network):
    """A job whose states are kept after every point."""
    store = TrajectoryStore(tmp_path / "crowded", SHORT.snapshots, network.parameters, momentum=True)
    return Job(network, images, SHORT, 0, store, -1.0)


@pytest.mark.parametrize("after", [0, 14, 25])
def test_no_memory_is_answered_by_half_as_many_from_the_last_point(with_momentum, monkeypatch, after):
    job, news = with_momentum, []
    crowded(monkeypatch, 2, after)
    in_one_group(job, news.append)
    assert [told.fewer for told in news if told.fewer is not None] == [3, 2]
    assert sum(told.points for told in news) == 5 * (SHORT.snapshots - 1)
    assert [told.complete for told in news if told.complete] == [(0, 1, 2, 3, 4)]
    monkeypatch.undo()
    for teacher in range(5):
        alone = train_teacher(job.network, job.images, SHORT, 0, teacher)
        torch.testing.assert_close(job.store.trajectory(teacher), alone, rtol=1e-4, atol=1e-4)
    assert sorted(contents(job.store)) == [f"teacher-000{teacher}.safetensors" for teacher in range(5)]


def test_halves_that_were_killed_go_on_as_halves(with_momentum, monkeypatch):
    """After a point of the first; the second stands where the whole group did."""
    job, seen = with_momentum, []

    def kill(news):
        seen.append(news)
        if any(told.fewer is not None for told in seen) and news.points:
            raise KeyboardInterrupt

    crowded(monkeypatch, 3, after=14)
    with pytest.raises(KeyboardInterrupt):
        in_one_group(job, kill)
    waiting = job.store.waiting(range(5))
    assert [(group, state.snapshots) for group, state in waiting] == [((0, 1), 3), ((2, 3, 4), 2)]
    in_one_group(job)
    monkeypatch.undo()
    for teacher in range(5):
        alone = train_teacher(job.network, job.images, SHORT, 0, teacher)
        torch.testing.assert_close(job.store.trajectory(teacher), alone, rtol=1e-4, atol=1e-4)


def test_too_little_memory_for_one_teacher_ends_with_advice(with_momentum, monkeypatch):
    crowded(monkeypatch, 0)
    with pytest.raises(MeddistillError, match=r"trains alone, as with teachers\.at_once = 1.*smaller teachers\.batch"):
        in_one_group(with_momentum)


def test_other_errors_are_not_taken_for_missing_memory(with_momentum, monkeypatch):
    crowded(monkeypatch, 2, error=RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        in_one_group(with_momentum)
