"""Tables fit a plain terminal and say the same as the documents."""

import io

import pytest
from rich.console import Console

from meddistill.cli import text


def rendered(render, document):
    console = Console(file=io.StringIO(), width=80, highlight=False, emoji=False, markup=False)
    render(document, console)
    return console.file.getvalue()


def summary(mean, half=0.0123):
    return {"mean": mean, "low": mean - half, "high": mean + half, "per_seed": [mean] * 5}


def measured(mean, **more):
    return {"balanced_accuracy": summary(mean), "auroc": summary(mean + 0.05), "accuracy": summary(mean), **more}


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (812, "812 B"), (12345, "12.3 kB"), (4.2e6, "4.2 MB"), (7.1e12, "7100.0 GB")]
)
def test_size(count, shown):
    assert text.size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.04, "0.0 s"), (4.24, "4.2 s"), (75, "75 s"), (720, "12 min"), (8000, "2 h 13 min")]
)
def test_duration(seconds, shown):
    assert text.duration(seconds) == shown


def test_percent_without_interval_or_value():
    assert text.percent(summary(0.834)) == "83.4 ± 1.2"
    assert text.percent({"mean": 0.5, "low": None, "high": None}) == "50.0"
    assert text.percent({"mean": None, "low": None, "high": None}) == "–"
    assert text.percent(None) == "–"


def test_the_demo_table_fits_80_columns():
    rows = [
        {"images_per_class": count, "data": data, **measured(mean), "bytes": 123456, "factor": 1870.2, "seconds": 75.2}
        for count in (1, 10)
        for data, mean in (("random", 0.62), ("distilled", 0.83), ("full", 0.9))
    ]
    shown = rendered(text.demonstration, {"rows": rows, "packages": ["d/ipc1.mdz"], "previews": ["d/ipc1.png"]})
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[:2] for line in lines[3:8]] == [
        ["1", "random"],
        ["1", "distilled"],
        ["10", "random"],
        ["10", "distilled"],
        ["all", "all"],
    ]
    assert lines[6].split()[2:] == [
        "83.0",
        "±",
        "1.2",
        "88.0",
        "±",
        "1.2",
        "83.0",
        "±",
        "1.2",
        "123.5",
        "kB",
        "1,870",
        "75",
        "s",
    ]
    assert lines[-2:] == ["package  d/ipc1.mdz", "preview  d/ipc1.png"]


def test_names_from_files_are_literal_and_long_paths_stay_whole():
    path = "/very/long/" + "folder/" * 20 + "[red]x.mdz"
    shown = rendered(text.distillation, {"package": path, "bytes": 2000, "factor": 99.5, "seconds": 1.0, "results": {}})
    assert path in shown
    assert "2.0 kB, 100 times smaller" in shown


def test_what_a_terminal_would_act_upon_is_shown_as_escapes():
    hostile = {"a\x1b[2J": ["\u202etxt.exe", {"b": "\x9b31m"}], "plain": "ü × – \n ok", "number": 1.5}
    assert text.printable(hostile) == {
        "a\\x1b[2J": ["\\u202etxt.exe", {"b": "\\x9b31m"}],
        "plain": "ü × – \n ok",
        "number": 1.5,
    }


def test_distillation_results_are_tables():
    results = {"val": {"distilled": measured(0.8), "random": measured(0.7)}, "test": {"distilled": measured(0.81)}}
    shown = rendered(text.distillation, {"package": "x", "bytes": 10, "factor": None, "results": results})
    assert "measured on the val split" in shown
    assert "81.0 ± 1.2" in shown


def test_training_with_and_without_a_test_source():
    bare = {"model": "m.safetensors", "network": "convnet-d3-w64", "seeds": 5, "seconds": 3.0}
    assert "AUROC" not in rendered(text.training, bare)
    shown = rendered(text.training, {**bare, **measured(0.8), "test_images": 624})
    assert "624 test images" in shown
    assert "85.0 ± 1.2" in shown


def test_evaluation_lists_classes():
    classes = {"normal": {"recall": 0.5, "images": 10}, "[b]": {"recall": None, "images": 0}}
    shown = rendered(
        text.evaluation, {"balanced_accuracy": 0.5, "auroc": None, "accuracy": 0.75, "images": 10, "per_class": classes}
    )
    assert "normal" in shown
    assert "[b]" in shown


def test_inspection_shows_errors_before_warnings():
    problems = [
        {"code": "few", "level": "warning", "message": "few images"},
        {"code": "unreadable", "level": "error", "message": "3 files cannot be read"},
    ]
    document = {
        "fingerprint": {"name": "x", "classes": ["a", "b"], "counts": {"train": {"a": 3, "b": 4}, "test": {"a": 1}}},
        "problems": problems,
        "plan": {"size": 28, "network": {"width": 32}},
        "plan_file": "plan.toml",
        "estimate": {"seconds": 130, "memory_mb": 900, "stages": {"teaching": 100}},
    }
    shown = rendered(text.inspection, document)
    assert shown.index("error: 3 files") < shown.index("warning: few")
    assert "about 900.0 MB" in shown
    assert "network.width" in shown
