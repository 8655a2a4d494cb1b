import io
import re

import pytest
from rich.console import Console

from meddistill.cli import display
from meddistill.cli.display import Bars, Lines, Quiet


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(display, "time", clock)
    return clock


def test_lines_are_few_and_say_how_long_it_takes(clock):
    stream = io.StringIO()
    with Lines(stream).stage("teaching", 100) as stage:
        for _ in range(100):
            clock.now += 1
            stage.advance(1, loss=0.25)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "teaching: 2 of 100 (2%), about 98 s left, loss 0.25"
    assert lines[1] == "teaching: 12 of 100 (12%), about 88 s left, loss 0.25"
    assert lines[-1] == "teaching: done in 100 s"
    assert len(lines) == 11


def test_a_stage_of_a_day_does_not_flood_a_log(clock):
    stream = io.StringIO()
    with Lines(stream).stage("distilling", 86_400) as stage:
        for _ in range(8640):
            clock.now += 10
            stage.advance(10)
    lines = stream.getvalue().splitlines()
    assert 250 < len(lines) < 400
    assert sum("(0%)" in line for line in lines) > 5  # it is soon seen to go on


def test_a_short_stage_is_one_line(clock):
    stream = io.StringIO()
    with Lines(stream).stage("reading", 5) as stage:
        stage.advance(5)
    assert stream.getvalue() == "reading: done in 0.0 s\n"


def test_the_jump_of_a_resumed_run_does_not_spoil_the_time_left(clock):
    stream = io.StringIO()
    with Lines(stream).stage("teaching", 100) as stage:
        stage.advance(80)
        clock.now += 10
        stage.advance(1)
    assert "81 of 100 (81%), about 3 min left" in stream.getvalue()


def test_inner_stages_do_not_announce_their_end(clock):
    stream = io.StringIO()
    lines = Lines(stream)
    with lines.stage("outer", 2) as outer:
        for _ in range(2):
            with lines.stage("inner", 3) as inner:
                inner.advance(3)
            outer.advance()
    assert stream.getvalue() == "outer: done in 0.0 s\n"


def test_a_stage_without_total_or_advances(clock):
    stream = io.StringIO()
    with Lines(stream).stage("searching") as stage:
        clock.now += 3
        stage.advance()
    assert stream.getvalue().splitlines() == ["searching: 1 done", "searching: done in 3.0 s"]


def test_a_failed_stage_is_not_called_done(clock):
    stream = io.StringIO()
    with pytest.raises(RuntimeError), Lines(stream).stage("reading", 5):
        raise RuntimeError
    assert stream.getvalue() == ""


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=80, _environ={"TERM": "xterm"})


def test_bars_show_the_stage_its_share_and_its_figures():
    console = terminal()
    bars = Bars(console)
    with bars.stage("teaching [bold]", 4) as stage:
        stage.advance(2, loss=0.125)
        bars.note("a note [red]")
        with bars.stage("inner") as inner:
            inner.advance(1)
        bars.warn("look out")
        stage.advance(2, loss=0.0625)
    text = console.file.getvalue()
    for expected in ("teaching [bold]", "100%", "loss 0.0625", "a note [red]", "look out"):
        assert expected in text


def test_notes_are_folded_between_words_and_paths_are_not_broken():
    console, path = terminal(), "/data/" + "x" * 90
    bars = Bars(console)
    bars.note("word " * 30)
    bars.warn(f"look at {path} and mend it\n- first")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue()).split("\n")
    assert [len(line) <= 80 for line in lines] == [path not in line for line in lines]
    assert set(" ".join(lines[:2]).split()) == {"word"}
    assert lines[2].startswith("warning: look at")
    assert "- first" in lines


def test_bars_of_stages_stand_below_each_other():
    console = terminal()
    bars = Bars(console)
    for name in ("reading images", "teaching"):
        with bars.stage(name, 1) as stage:
            stage.advance()
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()).replace("\r", "\n").split("\n")
    assert {line.index("━") for line in lines if "100%" in line} == {15}


def test_bars_can_be_used_again_after_an_error():
    console = terminal()
    bars = Bars(console)
    with pytest.raises(RuntimeError), bars.stage("first"):
        raise RuntimeError
    with bars.stage("second", 1) as stage:
        stage.advance()
    text = console.file.getvalue()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 2  # the cursor comes back both times


def test_quiet_still_warns(capsys):
    quiet = Quiet()
    with quiet.stage("x", 1) as stage:
        stage.advance(1, loss=1)
    quiet.note("hidden")
    quiet.warn("shown")
    assert capsys.readouterr() == ("", "warning: shown\n")
