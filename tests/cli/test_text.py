"""Tables fit a plain terminal and say the same as the documents."""

import io

import pytest
from rich.console import Console

from meddistill.cli.layout import percent, printable
from meddistill.cli.text import auditing, making, receiving
from meddistill.runtime.words import duration, size


def rendered(render, document, width=80):
    console = Console(file=io.StringIO(), width=width, highlight=False, emoji=False, markup=False)
    render(document, console)
    return console.file.getvalue()


def summary(mean, half=0.0123):
    return {"mean": mean, "low": mean - half, "high": mean + half, "per_seed": [mean] * 5}


def measured(mean, half=0.0123):
    """``half``: of the interval; of balanced accuracy and of AUROC if there are two."""
    first, second = half if isinstance(half, tuple) else (half, half)
    figures = {"balanced_accuracy": (mean, first), "auroc": (mean + 0.05, second), "accuracy": (mean, first)}
    return {name: summary(*figure) for name, figure in figures.items()}


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (812, "812 B"),
        (12345, "12.3 kB"),
        (4.2e6, "4.2 MB"),
        (123456, "123 kB"),
        (99.96e3, "100 kB"),
        (999.7e3, "1.0 MB"),
        (7.1e12, "7100.0 GB"),
    ],
)
def test_size(count, shown):
    assert size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.04, "0.0 s"), (4.24, "4.2 s"), (75, "75 s"), (720, "12 min"), (8000, "2 h 13 min")]
)
def test_duration(seconds, shown):
    assert duration(seconds) == shown


def test_percent_without_interval_or_value():
    assert percent(summary(0.834)) == "83.4 ± 1.2"
    assert percent({"mean": 0.5, "low": None, "high": None}) == "50.0"
    assert percent({"mean": 0.5, "low": 0.5, "high": 0.5, "per_seed": [0.5]}) == "50.0"
    assert percent({"mean": None, "low": None, "high": None}) == "–"
    assert percent(None) == "–"


def test_an_interval_wider_than_all_scores_takes_no_more_room():
    assert percent(summary(0.5, 0.9994)) == "50.0 ± 99.9"
    assert percent(summary(0.5, 0.9996)) == "50.0 ± >99"
    assert percent(summary(0.5, 2.381)) == "50.0 ± >99"


def demo_rows(random=0.64, distilled=0.83, half=0.1234):
    """Rows with the widest cells there can be, but for those that distilling costs."""
    return [
        {"images_per_class": count, "data": data, **measured(mean, half), "bytes": size, "factor": 2353.7, **times}
        for count in (1, 10)
        for data, mean, size, times in (
            ("random", random, 784, {"seconds": 0.8, "making_seconds": None}),
            ("distilled", distilled, 22_687, {"seconds": 0.8, "making_seconds": 106.4}),
            ("full", 0.9, 3_691_072, {"seconds": 20.4, "making_seconds": None}),
        )
        if data != "full" or count == 1
    ]


@pytest.mark.parametrize("width", [80, 50])
def test_the_demo_table_fits_80_columns_and_is_never_broken(width):
    document = {"rows": demo_rows(), "packages": ["d/ipc1.mdz"], "previews": ["d/ipc1.png"]}
    lines = rendered(making.demonstration, document, width).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split("±")[0].split()[:-1] for line in lines[5:12]] == [
        ["1", "random"],
        ["1", "distilled"],
        [],
        ["10", "random"],
        ["10", "distilled"],
        [],
        ["all", "all", "real"],
    ]
    assert " ".join(lines[9].split()) == ("10 distilled 83.0 ± 12.3 88.0 ± 12.3 83.0 ± 12.3 22.7 kB 2,354 106 s 0.8 s")
    assert " ".join(lines[8].split()).endswith("784 B 2,354 – 0.8 s")
    assert " ".join(lines[11].split()).endswith("3.7 MB – – 20 s")
    assert lines[-2:] == ["package  d/ipc1.mdz", "preview  d/ipc1.png"]


@pytest.mark.parametrize(
    ("random", "distilled", "half", "said"),
    [
        (0.6, 0.8, 0.05, "lies wholly above the random one in balanced accuracy and AUROC."),
        (0.6, 0.8, 0.15, "does not lie wholly above the random one in balanced accuracy or AUROC."),
        (0.8, 0.6, 0.01, "does not lie wholly above the random one in balanced accuracy or AUROC."),
        (0.6, 0.8, (0.15, 0.05), "lies wholly above the random one in AUROC, but not in balanced accuracy."),
        (0.6, 0.8, (0.05, 0.15), "lies wholly above the random one in balanced accuracy, but not in AUROC."),
    ],
)
def test_the_verdict_is_computed_from_the_intervals(random, distilled, half, said):
    shown = " ".join(rendered(making.demonstration, {"rows": demo_rows(random, distilled, half)}).split())
    assert f"1 image a class: the distilled interval {said}" in shown
    assert f"10 images a class: the distilled interval {said}" in shown


def test_one_seed_has_no_interval_and_no_verdict():
    rows = demo_rows()
    for row in rows:
        row["auroc"]["per_seed"] = [0.5]
    assert "interval lies" not in rendered(making.demonstration, {"rows": rows})
    assert "does not lie" not in rendered(making.demonstration, {"rows": rows})


def test_names_from_files_are_literal_and_long_paths_stay_whole():
    path = "/very/long/" + "folder/" * 20 + "[red]x.mdz"
    shown = rendered(
        making.distillation, {"package": path, "bytes": 2000, "factor": 99.5, "seconds": 1.0, "results": {}}
    )
    assert path in shown
    assert "2.0 kB, 100 times smaller" in shown


def test_what_a_terminal_would_act_upon_is_shown_as_escapes():
    hostile = {"a\x1b[2J": ["\u202etxt.exe", {"b": "\x9b31m"}], "plain": "ü × – \n ok", "number": 1.5}
    assert printable(hostile) == {
        "a\\x1b[2J": ["\\u202etxt.exe", {"b": "\\x9b31m"}],
        "plain": "ü × – \n ok",
        "number": 1.5,
    }


def test_distillation_results_are_tables():
    results = {"val": {"distilled": measured(0.8), "random": measured(0.7)}, "test": {"distilled": measured(0.81)}}
    shown = rendered(making.distillation, {"package": "x", "bytes": 10, "factor": None, "results": results})
    assert "measured on the val split" in shown
    assert "81.0 ± 1.2" in shown


def test_training_with_and_without_a_test_source():
    bare = {"model": "m.safetensors", "network": "convnet-d3-w64", "seeds": 5, "seconds": 3.0}
    assert "AUROC" not in rendered(receiving.training, bare)
    shown = rendered(receiving.training, {**bare, "recipe": "tutored", **measured(0.8), "test_images": 624})
    assert "recipe" in shown and "tutored" in shown
    assert "624 real images" in shown
    assert "85.0 ± 1.2" in shown


def test_evaluation_lists_classes():
    classes = {"normal": {"recall": 0.5, "images": 10}, "[b]": {"recall": None, "images": 0}}
    shown = rendered(
        receiving.evaluation,
        {"balanced_accuracy": 0.5, "auroc": None, "accuracy": 0.75, "images": 10, "per_class": classes},
    )
    assert "normal" in shown
    assert "[b]" in shown


def test_inspection_shows_problems_plan_and_costs():
    problems = [
        {"code": "unreadable", "level": "error", "message": "3 files cannot be read"},
        {"code": "few", "level": "warning", "message": "few images"},
    ]
    document = {
        "fingerprint": {"name": "x", "classes": ["a", "b"], "counts": {"train": {"a": 3, "b": 4}, "test": {"a": 1}}},
        "problems": problems,
        "plan": {"size": 28, "network": {"width": 32}},
        "plan_file": "plan.toml",
        "estimate": {"seconds": 130, "memory_mb": 900, "stages": {"teaching": 100}},
    }
    shown = rendered(making.inspection, document)
    assert shown.index("error: 3 files") < shown.index("warning: few")
    assert "about 900 MB" in shown
    assert "network.width" in shown


def test_an_audit_is_a_table_that_fits_and_what_qualifies_it():
    rate = {"value": 0.0123, "low": 0.001, "high": 0.0345}
    row = {"attack": "membership", "outcome": "alarm", "main": rate, "control": rate, "baseline": 0.01, "excess": rate}
    scores = {"likelihood": {"area": {"value": 0.512, "low": 0.48, "high": 0.54}, "outcome": "pass"}}
    worst = {"class": "mel", "score": "ratio", "outcome": "alarm", "area": {"value": 0.61, "low": 0.52, "high": 0.7}}
    bare = {"attack": "hygiene", "outcome": "pass", "main": None, "control": None, "baseline": None, "excess": None}
    document = {
        "groups": {"unit": "patient", **{side: {"patients": 5, "images": 9} for side in ("members", "control")}},
        "outcome": "alarm",
        "findings": [
            {**bare, "warnings": [], "figures": {}},
            {**row, "warnings": ["too few"], "figures": {"scores": scores, "worst_class": worst}},
            {
                **(row | {"attack": "marks", "baseline": None}),
                "warnings": ["look at image 4"],
                "figures": {"marked": 1, "synthetic_images": 80, "members": rate},
            },
        ],
    }
    shown = rendered(auditing.audit, document)
    assert max(map(len, shown.splitlines())) <= 80
    told = " ".join(shown.split())
    assert "membership 1.2 1.2 1.0 1.2 (0.1 to 3.5) alarm" in told
    assert "membership by likelihood: area under the curve 0.512 (0.480 to 0.540), pass" in told
    assert "membership, worst class: mel by ratio, area under the curve 0.610 (0.520 to 0.700), alarm" in told
    assert "membership: too few" in told
    assert "marks – – – – alarm" in told
    assert "marks: what may be characters stands in 1 of 80 synthetic images, 1.2 % of control images" in told
    assert "marks: look at image 4" in told
    assert "alarm: the package tells something about its patients, beyond chance" in told
    assert "may be said" not in told
    passed = " ".join(rendered(auditing.audit, document | {"outcome": "pass", "sentence": "No more."}).split())
    assert passed.endswith("what may be said: No more.")


def bench_line(cohort, count, method, network, contains_patients=False):
    found = {"cohort": cohort, "images_per_class": count, "method": method, "evaluation": network}
    found |= {"labelled_by_receiver": 0, "contains_patients": contains_patients, "gain": summary(0.208, 0.1771)}
    return found | {"scores": {"test": {"as is": measured(0.8, (0.1234, 0.1532))}}}


def test_a_benchmark_has_a_table_for_each_cohort_that_fits():
    lines = [
        bench_line("pneumoniamnist", None, "full", "convnet-d3-w32-gn", True),
        bench_line("pneumoniamnist", 10, "random-soft", "convnet-d3-w32-gn", True),
        bench_line("pneumoniamnist", 10, "progressive", "convnet-d3-w32-gn"),
        bench_line("covid_cxr3_112", 10, "progressive", "convnet-d3-w32-gn"),
    ]
    ranking = [{"method": name, "mean": 0.8, "cells": 1, "best": 1, "not_worse": 1} for name in ("mtt", "dm")]
    document = {"results": lines, "ranking": ranking, "files": ["out/results.md"], "missing": 2}
    shown = rendered(making.benchmark, document)
    assert max(map(len, shown.splitlines())) <= 80
    assert [line for line in shown.splitlines() if line in ("pneumoniamnist", "covid_cxr3_112")] == [
        "pneumoniamnist",
        "covid_cxr3_112",
    ]
    rows = [line.split() for line in shown.splitlines()]
    assert ["all", "full*", "convnet-d3-w32-gn", "80.0", "±", "12.3", "85.0", "±", "15.3", "20.8", "±", "17.7"] in rows
    place = next(at for at, row in enumerate(rows) if row[:1] == ["all"])
    assert [row[:2] for row in rows[place : place + 4]] == [
        ["all", "full*"],
        [],
        ["10", "random-soft*"],
        ["10", "progressive"],
    ]
    assert "file  out/results.md" in shown
    assert "2 tasks are not done" in shown
    assert "interval over the seeds" in " ".join(shown.split())
    repeated = rendered(making.benchmark, document | {"results": [line | {"distillations": 3} for line in lines]})
    assert "interval over the 3 distillations" in " ".join(repeated.split())
