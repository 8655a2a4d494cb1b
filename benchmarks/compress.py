"""Train networks on all of a real set, compress them to several sizes, record what each loses on the test split.

    .venv/bin/python benchmarks/compress.py --data ../shared/data --out compressed [--sets pneumonia] [--goals 50 200]

A goal is a factor, as of ``meddistill compress --size 1/200``, ``drop`` for the search of ``--drop 1``, or
``small-200`` for the second route. The record is ``benchmarks/records/compress.json``; ``--table`` prints it. A goal of
a set (and of a network other than the usual one) is one entry, so that several runs can fill one record.
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

RECORD = Path(__file__).parent / "records" / "compress.json"


@dataclass(frozen=True)
class RealSet:
    """A set: its title, where it is below the data folder, and the working size."""

    title: str
    source: str
    size: int


USUAL = "convnet-d3-w128"
SETS = {
    "pneumonia": RealSet("PneumoniaMNIST", "pneumoniamnist.npz", 28),
    "blood": RealSet("PBC blood cells", "pbc_blood_64", 64),
    "covid": RealSet("COVID-19 radiography, 3 classes", "covid_cxr3_112", 64),
}


def trained(real: RealSet, data: str, network: str, out: Path) -> Path:
    """A model of all training images by the one protocol, seed 0; trained once."""
    import torch

    from meddistill.cohort.prepare import prepare
    from meddistill.nets.find import find
    from meddistill.teachers.images import measure_normalisation, split_images
    from meddistill.train.model import Model, save_model
    from meddistill.train.protocol import protocol_for, real_set, train_network

    path = out / f"{Path(real.source).stem}-{real.size}-{network}.safetensors"
    if not path.exists():
        cohort = prepare(Path(data) / real.source, size=real.size, leak="drop").cohort
        norm = measure_normalisation(cohort)
        net = find(network, channels=cohort.channels, size=cohort.size, classes=len(cohort.classes))
        images = split_images(cohort, "train", norm, torch.device("cpu"))
        params = train_network(net, real_set(images), protocol_for(net), 0)
        save_model(path, Model(net, params, cohort.classes, norm, "crop", "drop", 0))
    return path


def words(model: str, source: str, out: str, goal: str) -> list[str]:
    """The command for a goal."""
    factor = goal.removeprefix("small-")
    asked = ["--drop", "1"] if goal == "drop" else ["--size", f"1/{factor}"]
    route = ["--route", "small" if goal.startswith("small") else "essential"]
    return ["compress", model, "--data", source, "--out", out, *asked, *route]


def measure(name: str, data: str, network: str, out: Path, goal: str) -> dict[str, Any]:
    """Compress once; what the record keeps of it."""
    real = SETS[name]
    model = trained(real, data, network, out)
    command = words(str(model), f"{data}/{real.source}", str(out / f"{name}-{goal}.mdw"), goal)
    done = subprocess.run(
        [sys.executable, "-m", "meddistill", *command, "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    document = json.loads(done.stdout)
    shown = words(f"OUT/{model.name}", f"DATA/{real.source}", f"OUT/{name}-{goal}.mdw", goal)
    return {
        "command": shlex.join(["meddistill", *shown]),
        "date": today(),
        "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "original": network,
        **{key: value for key, value in document.items() if key not in ("model", "warning")},
    }


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = [
        "| set | goal | network | bytes | times smaller | balanced accuracy: before, after, change | AUROC: change |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, row in record.items():
        name, *_, goal = key.split(" ")
        scores = row["scores"]
        balanced = scores["balanced_accuracy"]
        lines.append(
            f"| {SETS[name].title}, {SETS[name].size} px | {goal} | {row['original']} → {row['network']} "
            f"| {row['bytes_after']} | {row['factor']:.0f} | {100 * balanced['before']:.1f}, "
            f"{100 * balanced['after']:.1f}, {change(balanced)} | {change(scores['auroc'])} |"
        )
    return "\n".join(lines)


def change(score: dict[str, float]) -> str:
    """Points, with the paired 95 % interval over test images."""
    return f"{100 * score['change']:+.1f} ({100 * score['low']:+.1f} to {100 * score['high']:+.1f})"


def main() -> None:
    """Measure the goals that were asked for and keep the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--out", default="compressed")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--net", default=USUAL)
    parser.add_argument("--goals", nargs="+", default=["50", "200", "drop", "small-200"])
    parser.add_argument("--table", action="store_true", help="print the record as Markdown and stop")
    asked = parser.parse_args()
    out = Path(asked.out)
    out.mkdir(parents=True, exist_ok=True)
    for name in [] if asked.table else asked.sets:
        for goal in asked.goals:
            row = measure(name, asked.data, asked.net, out, goal)
            key = f"{name} {goal}" if asked.net == USUAL else f"{name} {asked.net} {goal}"
            write_record(RECORD, {**read_record(RECORD), key: row})
    print(table(read_record(RECORD)))


if __name__ == "__main__":
    main()
