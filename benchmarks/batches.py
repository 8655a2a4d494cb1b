"""Audit the packages of ``meddistill bench --subset batches``: do larger batches of a student tell more of patients?

    .venv/bin/python benchmarks/batches.py --bench OUT --data ../shared/data [--only "covid meddistill"]

OUT is the folder of that benchmark, whose rows of ten images a class have batches of 32 and larger ones. A cohort and a
row are one entry of ``benchmarks/records/batches.json``, written as soon as it is measured; what is in it is not
measured again. PneumoniaMNIST is left out: the benchmark has it as it is split, where members and control patients
differ. ``--table`` prints the record.
"""

import argparse
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from audits import SETS, audit_of_package, not_passed
from shared import AUDITED, answer, completed, interval, markdown, today

from meddistill.train.metrics import summarise

RECORD = Path(__file__).parent / "records" / "batches.json"
# As the record of audits calls a cohort, and as the benchmark does.
COHORTS = {"covid": "covid_cxr3_112", "blood": "pbc_blood_64", "skin": "ham10000"}
# A row with batches of 32, and one with larger ones that is alike in all else; thirty images of mtt fit into both.
OURS, MTT = ("meddistill-4", "meddistill"), ("mtt", "mtt-128")
PAIRS = [
    (f"{cohort} {small}", f"{cohort} {large}")
    for cohort, (small, large) in (("covid", OURS), ("blood", OURS), ("skin", OURS), ("blood", MTT), ("skin", MTT))
]
NAMES = [name for pair in PAIRS for name in pair]


def package_of(bench: Path, cohort: str, row: str) -> str:
    """The file of a row's package, as the benchmark's results name it."""
    for line in (bench / "results.jsonl").read_text().splitlines():
        told = json.loads(line)
        if (told["cohort"], told["method"]) == (COHORTS[cohort], row):
            return str(told["sets"][0])
    raise SystemExit(f"{bench}/results.jsonl has no row {row} of {COHORTS[cohort]}: run --subset batches first")


def measure(name: str, bench: Path, data: str) -> dict[str, Any]:
    """Audit one package; what the record keeps of it."""
    cohort, row = name.split(" ")
    package = package_of(bench, cohort, row)
    told = answer(audit_of_package(SETS[cohort], f"{bench}/{package}", data), AUDITED)
    return {
        "command": shlex.join(["meddistill", *audit_of_package(SETS[cohort], f"OUT/{package}", "DATA")]),
        "date": today(),
        **{key: told[key] for key in ("outcome", "groups", "findings", "seconds")},
    }


HEADS = ("set", "row", "nearer to members", "linkage", "membership", "…, at 0.1 % false alarms", "labels", "audit")


def found(row: dict[str, Any]) -> dict[str, Mapping[str, float]]:
    """What the attacks found: of copies and of membership by the measure or the score that found most."""
    figures = {one["attack"]: one["figures"] for one in row["findings"]}
    scores = figures["membership"]["scores"].values()
    return {
        "nearer to members": figures["copies"]["nearer_to_members"],
        "linkage, area": figures["linkage"]["area"],
        "membership, area": max((one["area"] for one in scores), key=_value),
        "membership, found at 0.1 %": max((one["found_at_0.001"] for one in scores), key=_value),
        "labels": next(one["excess"] for one in row["findings"] if one["attack"] == "labels"),
    }


def table(record: dict[str, Any]) -> str:
    """The record as Markdown, a line for each cohort and row, and what pairs of rows differ by."""
    shown = markdown(HEADS, (line(name, row) for name, row in record.items()))
    return f"{shown}\n\n{differences(record)}" if len(record) == len(NAMES) else shown


def line(name: str, row: dict[str, Any]) -> tuple[str, ...]:
    """The cells of one package. Shares in percent; others: areas."""
    cohort, method = name.split(" ")
    nearer, linkage, membership, share, labels = found(row).values()
    return (
        SETS[cohort].title,
        method,
        interval(nearer, 1, "{:.2f}"),
        interval(linkage, 1, "{:.3f}"),
        interval(membership, 1, "{:.3f}"),
        interval(share, 100, "{:.2f}"),
        interval(labels, 100, "{:+.1f}"),
        not_passed(row),
    )


def differences(record: dict[str, Any]) -> str:
    """By how much more the package with the larger batches of each pair tells, and the mean with its 95 % interval."""
    measured = {name: found(row) for name, row in record.items()}
    lines = []
    for figure in measured[NAMES[0]]:
        apart = [measured[large][figure]["value"] - measured[small][figure]["value"] for small, large in PAIRS]
        mean = summarise(apart)
        told = f"{mean.mean:+.4f} ± {mean.high - mean.mean:.4f}"
        lines.append((figure, *(f"{one:+.4f}" for one in apart), told))
    return markdown(("larger batches less small ones", *(large for _, large in PAIRS), "mean"), lines)


def _value(figure: Mapping[str, float]) -> float:
    return figure["value"]


def main() -> None:
    """Measure what was asked for and is not in the record yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, default=Path("bench"))
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--table", action="store_true", help="print the record as Markdown and stop")
    asked = parser.parse_args()
    wanted = [] if asked.table else asked.only
    print(table(completed(RECORD, NAMES, wanted, lambda name: measure(name, asked.bench, asked.data))))


if __name__ == "__main__":
    main()
