"""How long the strongest attack on membership takes, and what it finds: 32 shadows of a package of few patients.

    .venv/bin/python benchmarks/shadows.py --data ../shared/data --out shadows [--cells default copied]

500 training images of PneumoniaMNIST are one hospital's: patients, as far as that set knows any, 300 of them members
and 200 control (22 more are the shadows' validation images, 60 the package's). A cell is a recipe, and one entry of
``benchmarks/records/shadows.json``: ``default`` is the default method; ``copied`` starts from real images and hardly
moves them, so that the attack has something to find. Nothing else should run meanwhile: all cores are used, and the
time is the result. ``--table`` prints the record.
"""

import argparse
import os
import platform
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from shared import AUDITED, answer, completed, interval, markdown, today

from meddistill.runtime.streams import numpy_stream

RECORD = Path(__file__).parent / "records" / "shadows.json"
SHADOWS, SEED = 32, 0
SIZES = {"train": 300, "val": 60, "test": 222}  # of the control patients the attack keeps a tenth as validation images
CELLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "default": ("", ("--images-per-class", "10")),
    "copied": ("[matching]\niterations = 20\n", ("--images-per-class", "50", "--start", "real")),
}


def draw(data: Path, out: Path) -> Path:
    """The hospital's images: as many of the training split, drawn by lot, for no image stands there in two splits."""
    with np.load(data / "pneumoniamnist.npz") as whole:
        images, labels = whole["train_images"], whole["train_labels"]
    _, first = np.unique(images.reshape(len(images), -1), axis=0, return_index=True)
    chosen = numpy_stream(SEED, "benchmark", "shadows").permutation(np.sort(first))
    parts: dict[str, Any] = {}
    for split, size in SIZES.items():
        rows, chosen = chosen[:size], chosen[size:]
        parts |= {f"{split}_images": images[rows], f"{split}_labels": labels[rows]}
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / "pneumoniamnist.npz", **parts)
    return out / "pneumoniamnist.npz"


def measure(cell: str, data: Path, out: Path) -> dict[str, Any]:
    """Distil and audit once; what the record keeps of it."""
    plan, options = CELLS[cell]
    source, package = draw(data, out), out / f"{cell}.mdz"
    if plan:
        (out / f"{cell}.toml").write_text(plan, encoding="utf-8")
        options = (*options, "--plan", str(out / f"{cell}.toml"))
    distil = ["distill", str(source), "--out", str(package), *options]
    audit = ["audit", str(package), "--members", str(source), "--shadows", str(SHADOWS)]
    made, audited = answer(distil, (0,)), answer(audit, AUDITED)
    found = {one["attack"]: one for one in audited["findings"]}
    return {
        "command": "; ".join(shlex.join(["meddistill", *words]).replace(str(out), "OUT") for words in (distil, audit)),
        "date": today(),
        "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "load": os.getloadavg()[2],
        "balanced_accuracy": {row: one["balanced_accuracy"] for row, one in made["results"]["test"].items()},
        "seconds": audited["seconds"],
        "groups": audited["groups"],
        "outcome": audited["outcome"],
        "membership": found["membership"],
        "shadows": found["shadows"],
    }


HEADS = ("recipe", "score", "found at 0.1 % false alarms", "at 1 %", "area", "outcome", "audit")


def table(record: dict[str, Any]) -> str:
    """The record as Markdown, a line for each recipe and score."""
    lines = (line(cell, score, row) for cell, row in record.items() for score in ("online", "offline"))
    return markdown(HEADS, lines)


def line(cell: str, score: str, row: dict[str, Any]) -> tuple[str, ...]:
    """What one score found: percent of the trials of members, area under the curve; how long the whole audit took."""
    found = row["shadows"]["figures"]["scores"][score]
    return (
        cell,
        score,
        interval(found["found_at_0.001"], 100, "{:.2f}"),
        interval(found["found_at_0.01"], 100, "{:.2f}"),
        interval(found["area"], 1, "{:.3f}"),
        found["outcome"],
        f"{row['seconds'] / 60:.0f} min",
    )


def main() -> None:
    """Measure what was asked for and is not in the record yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("shadows"))
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--table", action="store_true", help="print the record as Markdown and stop")
    asked = parser.parse_args()
    wanted = [] if asked.table else asked.cells
    print(table(completed(RECORD, list(CELLS), wanted, lambda cell: measure(cell, asked.data, asked.out))))


if __name__ == "__main__":
    main()
