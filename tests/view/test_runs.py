"""What a run folder is taken to say, whole, half-written or hostile."""

import json
import os
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pytest

from meddistill.view import control, page, pictures, runs
from meddistill.view.subjects import Subject

ATTACK = "<script>alert(1)</script>\"' onload=alert(1) <img src=x onerror=alert(1)>"


class Elements(HTMLParser):
    """The elements of a page and the names of their attributes, to somebody who knows HTML."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, sorted(name for name, _ in attrs)))


def whole(*paths):
    shown = [Subject(path, path.is_dir()) for path in paths]
    return page.whole(shown, "/token")


def test_a_run_that_distils_is_told_as_it_stands(new_run):
    run = runs.read(new_run().path)
    assert (run.state, run.stage, run.share, run.seconds_left, run.loss) == ("running", "distilling", 0.5, 95.0, 0.8)
    assert run.iterations == (20.0, 40.0)
    assert run.moments == (0, 5, 10, 15, 20)
    assert run.memory == {"resident": 321_000_000}
    shown = page.live(Subject(run.folder, True), "/token")
    for told in ("running", "95 s", "0.8", "87.5 %", "321 MB", 'aria-current="step">distilling', "Stop"):
        assert told in shown


@pytest.mark.parametrize(
    ("memory", "told"),
    [
        ({"resident": 5e8, "processes": 3}, "of 3 processes"),
        ({"resident": 5e8, "processes": 1}, "of 1 process"),
        ({"resident": 5e8}, "of the main process"),
        ({"resident": 5e8, "processes": "x"}, "of the main process"),
    ],
)
def test_memory_says_whose_it_is(new_run, memory, told):
    folder = new_run()
    folder.tell(state="running", memory=memory)
    shown = page.live(Subject(folder.path, True), "/token")
    assert "500 MB" in shown
    assert f">{told}<" in shown


@pytest.mark.parametrize(
    ("status", "state", "button"),
    [
        ({"state": "running"}, "running", "Stop"),
        ({"state": "running", "pid": 2**22 + 7}, "lost", "Continue"),
        ({"state": "running", "began": 1}, "lost", "Continue"),  # another process has the number now
        ({"state": "running", "host": "elsewhere"}, "running", "Stop"),
        ({"state": "running", "host": "elsewhere", "time": 1.0}, "lost", "Continue"),
        ({"state": "stopped"}, "stopped", "Continue"),
        ({"state": "failed", "error": "the disk is full"}, "failed", "Continue"),
        ({"state": "done"}, "done", None),
    ],
)
def test_every_state_has_its_word_and_its_button(new_run, status, state, button):
    folder = new_run()
    folder.tell(**status)
    folder.command("distill", "source", "--out", "lungs.mdz")
    assert runs.read(folder.path).state == state
    shown = page.live(Subject(folder.path, True), "/token")
    assert status.get("error", "") in shown
    assert [word for word in ("Stop", "Continue") if f">{word}</button>" in shown] == ([button] if button else [])


def test_folders_of_older_runs_and_of_none_are_shown_without_a_status(new_run, tmp_path):
    folder = new_run()
    (folder.path / "status.json").unlink()
    assert runs.read(folder.path).state == "lost"
    folder.log({"time": 300.0, "event": "written", "bytes": 5000})
    assert runs.read(folder.path).state == "done"
    (tmp_path / "empty.run").mkdir()
    assert runs.read(tmp_path / "empty.run").state == "waiting"
    assert "has not begun" in whole(tmp_path / "empty.run")


@pytest.mark.parametrize(
    "garbage",
    [b"", b"{", b"[]", b"null", b'{"state": [1], "done": "x", "total": {}, "memory": 5, "figures": 3, "time": "t"}',
     b'{"done": 1e400, "total": -1, "pid": true, "state": "running"}', b"[" * 100_000, b"\xff\xfe", b" " * 70_000],
)  # fmt: skip
def test_a_broken_status_or_command_breaks_nothing(new_run, garbage):
    folder = new_run()
    for name in ("status.json", "command.json"):
        (folder.path / name).write_bytes(garbage)
    assert "lungs.run" in whole(folder.path)
    assert runs.command_of(folder.path) == ()


def test_no_text_of_a_run_becomes_markup(new_run):
    harmless, hostile = new_run("one.run"), new_run("two.run")
    for folder, text in ((harmless, "plain"), (hostile, ATTACK)):
        plan = {"method": text, "network": text, "start": text, "matching": {"iterations": text}}
        folder.log(
            {
                "time": 1.0,
                "event": "evaluated",
                "row": text,
                "seed": text,
                "scores": {"val": {"balanced_accuracy": 0.5}},
            }
        )
        lines = (folder.path / "events.jsonl").read_text().split("\n")
        (folder.path / "events.jsonl").write_text(
            "\n".join([json.dumps({"time": 1, "event": "begun", "plan": plan}), *lines[1:]])
        )
        folder.tell(state="failed", stage=text, error=text, figures={text: 1.0})
        folder.command("distill", text, "--run", folder.path.name)
        (folder.path / "snapshots" / "classes.json").write_text(json.dumps([text, text]))
    assert Elements(whole(hostile.path)).found == Elements(whole(harmless.path)).found
    assert ATTACK not in whole(hostile.path)


def test_no_text_of_a_package_becomes_markup(new_package):
    harmless = new_package("a.mdz")
    # The format refuses tags in a card: what it lets pass is shown as text.
    hostile = new_package("b.mdz", classes=('" onload=alert(1) x="', "' & {{ 7919 * 7907 }} &lt;b>"))
    assert Elements(whole(hostile)).found == Elements(whole(harmless)).found
    assert "62615533" not in whole(hostile).split("<main")[1].split("data:image")[0]
    assert "{{ 7919 * 7907 }}" in whole(hostile)


def test_a_broken_package_is_refused_beside_the_others(new_package, new_run):
    broken = new_package("broken.mdz")
    broken.write_bytes(broken.read_bytes()[:-40])
    sound, run = new_package("sound.mdz"), new_run()
    shown = whole(broken, sound, run.path)
    assert "This package is not shown." in shown
    assert "Do not use it; ask the sender" in shown
    assert shown.count("<article") == 3
    assert "clear lung" in shown


@pytest.mark.parametrize(
    "changes",
    [
        {"images": np.zeros((4, 1, 8, 8), np.float32)},
        {"images": np.zeros((4, 2, 8, 8), np.uint8)},
        {"images": np.zeros((4, 1, 8, 9), np.uint8)},
        {"images": np.zeros((4, 1, 2000, 2000), np.uint8)},
        {"images": np.zeros((5, 1, 8, 8), np.uint8)},
        {"labels": np.full((4, 2), np.nan, np.float32)},
        {"labels": np.zeros((4, 0), np.float32)},
        {"rows": np.full(4, -1, np.int32)},
        {"rows": np.zeros(4, np.int64)},
    ],
)
def test_only_sound_arrays_become_pictures(new_run, changes):
    folder = new_run()
    assert len(pictures.shelves(folder.path, 5)) == 2
    folder.picture(5, **changes)
    assert pictures.shelves(folder.path, 5) == ()


def test_pictures_are_those_of_the_arrays(new_run):
    import base64
    import io

    from PIL import Image

    folder = new_run()
    first = pictures.shelves(folder.path, 10)[0].pictures[0]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(first.source.split(",")[1]))))
    assert np.array_equal(shown, np.random.default_rng(10).integers(0, 256, (4, 1, 8, 8)).astype(np.uint8)[0, 0])
    assert first.spoken == "clear 1.00, ill 0.00"


@pytest.mark.parametrize("garbage", [b"", b"PK\x03\x04", b"\xff" * 64, b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_file_that_holds_no_arrays_is_no_picture(new_run, garbage):
    folder = new_run()
    (folder.path / "snapshots" / f"{5:08}.safetensors").write_bytes(garbage)
    assert pictures.shelves(folder.path, 5) == ()
    assert "No pictures yet" in page.images(Subject(folder.path, True), 1)


@pytest.mark.parametrize(
    ("words", "leads_here"),
    [
        (("distill", "source", "--out", "lungs.mdz"), True),
        (("distill", "source", "--out=lungs.mdz"), True),
        (("distill", "source", "--out", "x.mdz", "--run", "lungs.run"), True),
        (("demo", "--out", "."), True),
        (("distill", "source", "--out", "other.mdz"), False),
        (("distill", "source", "--out"), False),
        (("distill", "source", "--out", ""), False),
        (("distill", "source", "--out", "."), False),
        (("distill", "source", "--out", "\0"), False),
        (("demo", "--out", "\0"), False),
        (("distill", "source"), False),
        (("demo",), False),
        (("merge", "a.mdz", "--out", "lungs.mdz"), False),
        ((), False),
    ],
)
def test_only_the_command_of_this_run_is_given_again(new_run, words, leads_here):
    folder = new_run()
    folder.command(*words)
    folder.tell(state="stopped")
    assert runs.command_of(folder.path) == (words if leads_here else ())
    if not leads_here:
        assert control.resume(folder.path) is None


def test_a_run_that_goes_on_or_is_done_is_not_started_again(new_run):
    folder = new_run()
    folder.command("distill", "source", "--out", "lungs.mdz")
    assert control.resume(folder.path) is None
    assert control.stop(folder.path)
    folder.tell(state="done")
    assert control.resume(folder.path) is None
    assert not control.stop(folder.path)


def test_a_continued_run_that_fails_says_why(new_run):
    folder = new_run()
    folder.command("distill", "no-such-source.npz", "--out", "lungs.mdz")
    folder.tell(state="stopped")
    process = control.resume(folder.path)
    assert process is not None
    assert process.wait(120) == 2
    assert "no-such-source.npz" in control.last_words(folder.path)


def test_the_viewer_ends_with_ctrl_c_and_says_what_it_was(new_run):
    folder = new_run()
    process = subprocess.Popen(
        [sys.executable, "-m", "meddistill", "view", folder.path, "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder.path.parent,
    )  # fmt: skip
    assert process.stderr is not None
    address = process.stderr.readline().split()[-1]
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out) == {"address": address, "subjects": [str(folder.path)]}
