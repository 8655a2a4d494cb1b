"""Distil real sets from several starts and audit each package: what the start costs, and what it tells of patients.

    .venv/bin/python benchmarks/audits.py --data ../shared/data --out audits [--sets pneumonia] [--starts noise real]

A set and a start are one entry of ``benchmarks/records/audits.json``, written as soon as it is measured; what is in it
is not measured again. Sets that come with leaking splits, or without any, are split anew at random by patient: only
then are members and control patients drawn alike, and the attacks can say something. ``--again`` audits the packages in
OUT anew, ``--table`` prints the record.
"""

import argparse
import os
import platform
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import AUDITED, answer, interval, markdown, read_record, today, write_record

RECORD = Path(__file__).parent / "records" / "audits.json"
STARTS = ("prototypes", "noise", "public", "real")
PER_CLASS = 10


@dataclass(frozen=True)
class RealSet:
    """A set: its title, where it is below the data folder, the working size, options of ``distill`` and of reading.

    ``images``: the folder of the images that a table names, below the data folder as well. ``public``: where images of
    nobody in the set are, of the same kind where there are any.
    """

    title: str
    source: str
    size: int
    options: tuple[str, ...] = ()
    reading: tuple[str, ...] = ()
    images: str = ""
    public: str = "covid_cxr3_112"


SETS = {
    "pneumonia": RealSet("PneumoniaMNIST", "pneumoniamnist.npz", 28, ("--resplit",)),
    "kermany": RealSet("Kermany chest X-ray", "kermany_pneumonia_224", 32, ("--resplit",)),
    "covid": RealSet("COVID-19 radiography, 3 classes", "covid_cxr3_112", 32, public="kermany_pneumonia_224"),
    "blood": RealSet("PBC blood cells", "pbc_blood_64", 32),
    "skin": RealSet(
        "HAM10000, patients are lesions",
        "ham10000/HAM10000_metadata.csv",
        32,
        reading=("--path-column", "image_id", "--label-column", "dx", "--patient-column", "lesion_id"),
        images="ham10000/images",
    ),
}


def commands(name: str, start: str, data: str, out: str) -> tuple[list[str], list[str]]:
    """Distilling with default settings, and the audit of the package, as a user types them."""
    real, package = SETS[name], f"{out}/{name}-{start}.mdz"
    distil = [
        "distill",
        f"{data}/{real.source}",
        "--out",
        package,
        "--size",
        str(real.size),
        "--images-per-class",
        str(PER_CLASS),
    ]
    begin = ["--start-images", f"{data}/{real.public}"] if start == "public" else ["--start", start]
    return [*distil, *begin, *real.options, *_reading(real, data)], audit_of_package(real, package, data)


def audit_of_package(real: RealSet, package: str, data: str) -> list[str]:
    """The audit of a package of the set, as a user types it."""
    return ["audit", package, "--members", f"{data}/{real.source}", *_reading(real, data)]


def _reading(real: RealSet, data: str) -> list[str]:
    """The options that tell how the set is read."""
    return [*real.reading, *(("--images", f"{data}/{real.images}") if real.images else ())]


def measure(name: str, start: str, data: str, out: Path) -> dict[str, Any]:
    """Distil and audit once; what the record keeps of it."""
    made = answer(commands(name, start, data, str(out))[0], (0,))
    scores = made["results"]["test"]
    return {
        "command": "; ".join(shlex.join(["meddistill", *words]) for words in commands(name, start, "DATA", "OUT")),
        "date": today(),
        "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "bytes": made["bytes"],
        "balanced_accuracy": {row: found["balanced_accuracy"] for row, found in scores.items()},
        **audit_of(name, start, data, out),
    }


def audit_of(name: str, start: str, data: str, out: Path) -> dict[str, Any]:
    """Audit the package that was distilled; what the record keeps of it."""
    audited = answer(commands(name, start, data, str(out))[1], AUDITED)
    return {
        "audited": today(),
        "outcome": audited["outcome"],
        "groups": audited["groups"],
        "findings": audited["findings"],
        "audit_seconds": audited["seconds"],
    }


HEADS = (
    "set: members and control",
    "start",
    "balanced accuracy",
    "copies",
    "nearer to members",
    "linkage",
    "membership",
    "…, worst class",
    "…, by a network of members",
    "labels",
    "audit",
)


def table(record: dict[str, Any]) -> str:
    """The record as Markdown, a line for each set and start. Linkage and labels: points of excess; others: areas."""
    return markdown(HEADS, (line(key, row) for key, row in record.items()))


def line(key: str, row: dict[str, Any]) -> tuple[str, ...]:
    """The cells of one package."""
    name, start = key.split(" ")
    groups = row["groups"]
    found = {one["attack"]: one for one in row["findings"]}
    accuracy = {name: row["balanced_accuracy"]["distilled"][name] for name in ("low", "high")}
    mean, half = ((accuracy["high"] + sign * accuracy["low"]) / 2 for sign in (1, -1))
    copies, membership = found["copies"]["figures"], found["membership"]["figures"]
    return (
        f"{SETS[name].title}: {groups['members']['patients']} and {groups['control']['patients']} by {groups['unit']}",
        start,
        f"{100 * mean:.1f} ± {100 * half:.1f}",
        f"{copies['copies']} of {copies['synthetic_images']}",
        interval(copies["nearer_to_members"], 1, "{:.2f}"),
        interval(found["linkage"]["excess"], 100, "{:+.1f}"),
        f"{membership['strongest']} {interval(membership['scores'][membership['strongest']]['area'], 1, '{:.3f}')}",
        f"{membership['worst_class']['class']} {interval(membership['worst_class']['area'], 1, '{:.3f}')}",
        interval(membership["network_trained_on_members"], 1, "{:.3f}"),
        interval(found["labels"]["excess"], 100, "{:+.1f}"),
        not_passed(row),
    )


def not_passed(row: dict[str, Any]) -> str:
    """The attacks that an audit did not pass and how they ended, or that it passed."""
    ended = (f"{one['attack']}: {one['outcome']}" for one in row["findings"] if one["outcome"] != "pass")
    return ", ".join(ended) or "pass"


def main() -> None:
    """Measure what was asked for and is not in the record yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--out", default="audits")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--again", action="store_true", help="audit the packages of the record that are in OUT anew")
    parser.add_argument("--table", action="store_true", help="print the record as Markdown and stop")
    asked = parser.parse_args()
    record = read_record(RECORD)
    for name in [] if asked.table else asked.sets:
        for start in asked.starts:
            key = f"{name} {start}"
            if key not in record:
                record[key] = measure(name, start, asked.data, Path(asked.out))
            elif asked.again:
                record[key] |= audit_of(name, start, asked.data, Path(asked.out))
            else:
                continue
            write_record(RECORD, record)
    print(table(record))


if __name__ == "__main__":
    main()
