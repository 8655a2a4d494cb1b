"""Wrong words on the command line: exit code 2, two short lines, no traceback, a document with --json."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meddistill.cli.common import parse_duration

WRONG = {
    "unknown verb": (["distil"], "distil"),
    "unknown option": (["show", "x.mdz", "--colour"], "--colour"),
    "missing source": (["distill", "--out", "x.mdz"], "SOURCE"),
    "missing out": (["distill", "folder"], "--out"),
    "not a number": (["distill", "folder", "--out", "x.mdz", "--size", "big"], "--size"),
    "zero": (["distill", "folder", "--out", "x.mdz", "--images-per-class", "0"], "--images-per-class"),
    "not a duration": (["distill", "folder", "--out", "x.mdz", "--time", "5 minutes"], "write 90s, 5m"),
    "no such split": (["evaluate", "model", "folder", "--split", "tests"], "--split"),
    "no such test split": (["train", "x.mdz", "--out", "m", "--test", "y", "--test-split", "tests"], "--test-split"),
    "no such fit": (["distill", "folder", "--out", "x.mdz", "--fit", "squash"], "--fit"),
    "two ways with a leak": (["distill", "folder", "--out", "x.mdz", "--resplit", "--allow-leak"], "--resplit"),
    "three ways with a leak": (["distill", "f", "--out", "x", "--resplit", "--allow-leak", "--drop-leak"], "exclusive"),
    "one word too many": (["show", "x.mdz", "y.mdz"], "y.mdz"),
}


@pytest.mark.parametrize(("words", "named"), WRONG.values(), ids=WRONG)
def test_usage_errors(run, words, named):
    done = run(*words)
    assert done.returncode == 2
    assert not done.stdout
    assert named in done.stderr
    assert "--help" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_a_usage_error_is_a_document_too(run, document):
    done = run("distill", "folder", "--json")
    error = document(done.stdout)["error"]
    assert done.returncode == error["exit_code"] == 2
    assert error["kind"] == "usage"
    assert "--out" in error["message"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("1h", 3600), ("1h30m", 5400), ("1.5h", 5400), ("2M", 120), ("45", 45), ("1m30", 90)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-5m", "5x", "5 m", "m", "1m1h", "1..5h", "inf", "nan", "1e3"])
def test_what_is_not_a_duration_is_refused(text):
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@given(st.text(max_size=12))
def test_a_duration_is_positive_or_refused(text):
    try:
        assert parse_duration(text) > 0
    except ValueError as error:
        assert "is not a duration" in str(error)
