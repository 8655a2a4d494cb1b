"""Distil real image sets within a time budget, train from the packages, record the scores beside random real images.

    .venv/bin/python benchmarks/real_sets.py --data ../shared/data --out real-sets [--sets covid blood] [--time 240]

Every set goes through the two verbs that a user would type (the commands are in the record): ``meddistill distill`` and
``meddistill train --test``. The record is written to ``benchmarks/records/real_sets.json`` set by set, and the table of
``docs/results.md`` is made from it with ``--table``.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import read_record, today, write_record

RECORD = Path(__file__).parent / "records" / "real_sets.json"
METRICS = ("balanced_accuracy", "auroc")


@dataclass(frozen=True)
class RealSet:
    """A set: its folder or file below the data folder, how it is read, and the working size that was measured."""

    title: str
    source: str
    size: int
    reading: tuple[str, ...] = ()
    leak: tuple[str, ...] = ()


SETS = {
    "pneumonia": RealSet("PneumoniaMNIST", "pneumoniamnist.npz", 28, leak=("--drop-leak",)),
    "covid": RealSet("COVID-19 radiography, 3 classes", "covid_cxr3_112", 32),
    "skin": RealSet(
        "HAM10000",
        "ham10000/HAM10000_metadata.csv",
        32,
        reading=(
            *("--images", "{data}/ham10000/images", "--path-column", "image_id"),
            *("--label-column", "dx", "--patient-column", "lesion_id"),
        ),
    ),
    "blood": RealSet("PBC blood cells", "pbc_blood_64", 32),
    "kermany": RealSet(
        "Kermany chest X-rays",
        "kermany_pneumonia_224",
        32,
        reading=("--patient-pattern", r"(person\d+|(?:NORMAL2-)?IM-\d+)"),
        leak=("--resplit",),
    ),
}


def commands(name: str, data: str, out: str, seconds: int, size: int | None = None) -> tuple[list[str], list[str]]:
    """The two commands for a set: distil, then train and test."""
    real = SETS[name]
    pixels = real.size if size is None else size
    source, package = f"{data}/{real.source}", f"{out}/{name}-{pixels}.mdz"
    reading = [word.format(data=data) if "{data}" in word else word for word in real.reading]
    distil = ["distill", source, "--out", package, "--size", str(pixels), "--time", f"{seconds}s", *reading, *real.leak]
    train = ["train", package, "--out", f"{out}/{name}-{pixels}.safetensors", "--test", source, *reading]
    return distil, train


def meddistill(words: list[str]) -> dict[str, Any]:
    """Run one verb as a user would, and read its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "meddistill", *words, "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def measure(name: str, data: str, out: str, seconds: int, size: int | None) -> dict[str, Any]:
    """Distil and train; what the record keeps of it."""
    distil, train = commands(name, data, out, seconds, size)
    made, trained = meddistill(distil), meddistill(train)
    plan = made["plan"]
    return {
        "commands": [shlex.join(["meddistill", *words]) for words in commands(name, "DATA", "OUT", seconds, size)[:2]],
        "date": today(),
        "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "size": plan["size"],
        "images_per_class": plan["images_per_class"],
        "plan": plan,
        "seconds": made["seconds"],
        "bytes": made["bytes"],
        "factor": made["factor"],
        "random": {metric: made["results"]["test"]["random"][metric] for metric in METRICS},
        "distilled": {metric: made["results"]["test"]["distilled"][metric] for metric in METRICS},
        "trained": {metric: trained[metric] for metric in METRICS},
    }


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = [
        "| set | pixels | network | time | package | times smaller | random: balanced, AUROC | distilled: same |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key, row in record.items():
        name = SETS[key.partition("-")[0]].title
        scores = [
            " , ".join(percent(row[data][metric]) for metric in METRICS).replace(" ,", ",")
            for data in ("random", "trained")
        ]
        lines.append(
            f"| {name} | {row['size']} | {row['plan']['network']} | {row['seconds']:.0f} s "
            f"| {row['bytes'] / 1000:.1f} kB | {row['factor']:,.0f} | {scores[0]} | {scores[1]} |"
        )
    return "\n".join(lines)


def percent(summary: dict[str, float]) -> str:
    """Mean ± half of the 95 % interval, in percent."""
    return f"{100 * summary['mean']:.1f} ± {50 * (summary['high'] - summary['low']):.1f}"


def main() -> None:
    """Measure the sets that were asked for and keep the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--out", default="real-sets")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--time", type=int, default=240, help="budget of a distillation in seconds")
    parser.add_argument("--size", type=int, help="working size, instead of each set's own")
    parser.add_argument("--table", action="store_true", help="print the record as Markdown and stop")
    asked = parser.parse_args()
    record = read_record(RECORD)
    if not asked.table:
        for name in asked.sets:
            row = measure(name, asked.data, asked.out, asked.time, asked.size)
            record[f"{name}-{row['size']}"] = row
            write_record(RECORD, record)
    print(table(record))


if __name__ == "__main__":
    main()
