"""What several benchmarks have in common: commands as a user types them, figures in a table, real images, records."""

import argparse
import datetime
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from meddistill.cohort.resize import resize
from meddistill.runtime.files import write_atomic
from meddistill.runtime.streams import numpy_stream

FILES = {
    "PneumoniaMNIST": "pneumoniamnist.npz",
    "COVID-19 radiography": "covid_cxr3_112/train/*/*",
    "HAM10000": "ham10000/images/*",
    "PBC blood cells": "pbc_blood_64/train/*/*",
    "Kermany chest X-ray": "kermany_pneumonia_224/train/*/*",
}
# What an audit may end with: that it passes, fails, raises an alarm or is inconclusive.
AUDITED = (0, 6, 7, 8)
_SEED = 0


def answer(words: list[str], codes: tuple[int, ...]) -> dict[str, Any]:
    """The JSON of a command that must end with one of the codes."""
    command = [sys.executable, "-m", "meddistill", *words, "--json"]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode not in codes:
        raise SystemExit(f"meddistill {shlex.join(words)} ended with {done.returncode}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def interval(found: Mapping[str, float] | None, scale: float, form: str) -> str:
    """A figure with its 95 % interval."""
    if found is None:
        return "–"
    value, low, high = (form.format(scale * found[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def markdown(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ("---",) * len(heads), *lines))


def today() -> str:
    """The date that a record has."""
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()


def read_record(kept: Path) -> dict[str, Any]:
    """The record ``kept``; empty where there is none yet."""
    record: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    return record


def write_record(kept: Path, record: Mapping[str, Any]) -> None:
    """Write the record, the whole of it or nothing."""
    write_atomic(kept, (json.dumps(record, indent=1) + "\n").encode())


def completed(
    kept: Path, names: Sequence[str], asked: Sequence[str], measure: Callable[[str], dict[str, Any]]
) -> dict[str, Any]:
    """The record ``kept`` in the order of ``names``, once what was asked for and is not in it has been measured."""
    record = read_record(kept)
    for name in asked:
        if name not in record:
            record[name] = measure(name)
            write_record(kept, {one: record[one] for one in names if one in record})
    return {one: record[one] for one in names if one in record}


def images_of(data: Path, name: str, side: int, count: int, *, once: bool = False) -> Any:
    """Some images ``(n, C, S, S)`` of one of :data:`FILES`, drawn by lot; ``once``: none of an array twice."""
    if FILES[name].endswith(".npz"):
        with np.load(data / FILES[name]) as file:
            images = file["train_images"]
        kept = list(np.unique(images, axis=0) if once else images)
    else:
        kept = sorted(data.glob(FILES[name]))
    chosen = [kept[place] for place in numpy_stream(_SEED, "images", name).permutation(len(kept))[:count]]
    scaled = [resize(one if isinstance(one, np.ndarray) else np.asarray(Image.open(one)), side) for one in chosen]
    return np.stack([np.atleast_3d(one).transpose(2, 0, 1) for one in scaled])


def of_cells(
    summary: str,
    kept: Path,
    cells: Sequence[tuple[str, int]],
    measure: Callable[[str, int, Path], dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
) -> None:
    """A benchmark of sets and sides: measure what was asked for and is not in the record ``kept``; print all of it."""
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    sides = {f"{name} {side}": (name, side) for name, side in cells}
    names = list(sides)
    parser.add_argument("--cells", nargs="+", choices=names, default=names)
    parser.add_argument("--table", action="store_true", help="print the record as Markdown and stop")
    asked = parser.parse_args()
    wanted = [name for name in names if name in asked.cells and not asked.table]
    print(table(completed(kept, names, wanted, lambda name: measure(*sides[name], asked.data))))
