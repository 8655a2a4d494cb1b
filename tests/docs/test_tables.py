"""Figures in tables of the documentation are those of the committed records, to the last digit that is shown."""

import csv
import importlib.util
import json
import re
import sys

import pytest
from pages import ROOT

PAGE = (ROOT / "docs/bench.md").read_text(encoding="utf-8")
RECORDS = ROOT / "benchmarks/records"
COHORTS = {"HAM10000": "ham10000", "PBC blood cells": "pbc_blood_64", "COVID-19 radiography": "covid_cxr3_112"}


def table(heading):
    """The first table below a heading: its headers and its rows, without emphasis."""
    text = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0].replace("**", "").replace("−", "-")
    lines = [line.strip().strip("|") for line in text.splitlines() if line.startswith("|")]
    headers, _, *rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    return headers, rows


def recorded(name):
    """Balanced accuracy of a record as a table shows it, by cohort, images a class and method."""
    lines = map(json.loads, (RECORDS / name / "results.jsonl").read_text().splitlines())
    return {
        (one["cohort"], one["images_per_class"], one["method"]): shown(
            one["scores"]["test"]["as is"]["balanced_accuracy"].values()
        )
        for one in lines
    }


def shown(figures, sign=""):
    mean, low, high = (100 * float(value) for value, _ in zip(figures, range(3), strict=False))
    return f"{mean:{sign}.1f} ± {(high - low) / 2:.1f}"


def differences(name):
    """To the reference, over all cells, by method."""
    rows = csv.DictReader((RECORDS / name / "paired.csv").read_text().splitlines())
    names = ("difference", "difference low", "difference high")
    return {row["method"]: shown((row[name] for name in names), "+") for row in rows if row["cohort"] == "all"}


def method(cell):
    return "full" if cell == "all real images" else re.fullmatch(r"`([\w-]+)`(, real images)?", cell)[1]


@pytest.mark.parametrize(("heading", "name"), [("The hour", "bench_hour"), ("Other cohorts", "bench_own")])
def test_a_table_of_the_benchmark_is_its_record(heading, name):
    (_, *headers, last), rows = table(heading)
    found, paired = recorded(name), differences(name)
    assert last == "difference to `mtt`"
    assert len(rows) >= 3
    for first, *cells, difference in rows:
        for header, cell in zip(headers, cells, strict=True):
            cohort = COHORTS.get(header, "pneumoniamnist")
            count = 1 if header in COHORTS else int(header.split()[0])
            place = (cohort, None if method(first) == "full" else count, method(first))
            assert cell == ("" if place[1] is None and header != headers[0] else found[place]), (first, header)
        assert difference == paired.get(method(first), ""), first


def made(script, record):
    """What the function ``table`` of a script of this project makes of a record."""
    spec = importlib.util.spec_from_file_location("script", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look for their module.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "script", module)
        spec.loader.exec_module(module)
        return module.table(record).strip()


def test_the_table_of_real_sets_is_its_record():
    found = made("benchmarks/real_sets.py", json.loads((RECORDS / "real_sets.json").read_text()))
    assert found in (ROOT / "docs/results.md").read_text(encoding="utf-8")


def test_the_table_of_compressed_models_is_its_record():
    found = made("benchmarks/compress.py", json.loads((RECORDS / "compress.json").read_text()))
    assert found in (ROOT / "docs/compress.md").read_text(encoding="utf-8")


def test_the_table_of_learning_rates_is_its_record():
    found = made("benchmarks/rates.py", json.loads((RECORDS / "rates.json").read_text()))
    assert found in (ROOT / "docs/protocol.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["bench_scarce_pneumonia", "bench_scarce_covid"])
def test_a_table_of_scarce_labels_is_its_record(name):
    assert made("docs/tools/scarce.py", RECORDS / name) in (ROOT / "docs/scarce-labels.md").read_text(encoding="utf-8")
