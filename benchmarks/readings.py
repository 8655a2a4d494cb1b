"""How much it matters how an open detail of a source is read: methods with other values of what this project chose.

    .venv/bin/python benchmarks/readings.py --out readings [--methods pruned iadd]

Sources leave details open (docs/methods.md). Each is distilled from the embedded chest X-rays with the value that was
chosen and with others, one image a class, by the plan of ``recipes/cpu.toml``: three distillations a value, three
networks each. Differences to the chosen value are of the same distillations, on *validation* images. The record is
``benchmarks/records/readings.json``; ``--table`` prints it. Interrupted, the same command continues.
"""

import argparse
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from shared import completed, interval, markdown, today

from meddistill import api
from meddistill.distill.distance import Distance, Pruned, SelfPaced, Weighted
from meddistill.distill.methods import METHODS, Method
from meddistill.distill.segments import ProgressiveSegments, progressive
from meddistill.train.metrics import Repeated, summarise

RECORD = Path(__file__).parent / "records" / "readings.json"
GRID = """[grid]
images_per_class = [1]
methods = [METHODS]
matching = ["convnet-d3-w32"]
seeds = 3
distillations = 3
full = false
robust = false

[cohorts.pneumoniamnist]
source = "pneumoniamnist.npz"
size = 28
leak = "drop"

[plan.teachers]
count = 4

[plan.matching]
warm_up = 300
iterations = 400
"""
Reading = Callable[[Method, float], Method]


def _matched(method: Method, value: float) -> Method:
    def segments(length: int, earliest: int, latest: int) -> ProgressiveSegments:
        rule = progressive(length, earliest, latest)
        assert isinstance(rule, ProgressiveSegments)
        return replace(rule, matched=value)

    return replace(method, segments=segments)


def _distance(kind: Callable[[float], Distance]) -> Reading:
    return lambda method, value: replace(method, distance=kind(value))


def _normalised(weighed: float) -> Distance:
    return Weighted(weighs_normaliser=bool(weighed))


# By method, and by a word more where it has several: what is chosen, how it is set, and the values tried; the first is
# the one that the method has.
READINGS: dict[str, tuple[str, Reading, tuple[float, ...]]] = {
    "pruned": ("σ, the least similarity that stays", _distance(Pruned), (0.1, 0.02, 0.3, 0.6)),
    "iadd": ("rate of the weights", _distance(Weighted), (0.02, 0.005, 0.1)),
    "iadd normaliser": ("the normaliser is weighted (1), or as in the source (0)", _distance(_normalised), (1, 0)),
    "progressive": ("score that ends a part", _matched, (0.5, 0.3, 0.7)),
    "hop-tm": ("first τ, in mean squared differences", _distance(SelfPaced), (0.005, 0.001, 0.025)),
}


def method_of(reading: str) -> str:
    """The method that is read so."""
    return reading.partition(" ")[0]


def name_of(reading: str, place: int) -> str:
    """What the method is called with its value number ``place``; the first is its own."""
    return f"{reading.replace(' ', '-')}-reading-{place}" if place else method_of(reading)


def variants() -> dict[str, Method]:
    """The methods with other values."""
    return {
        name_of(name, place): replace(read(METHODS[method_of(name)], value), name=name_of(name, place))
        for name, (_, read, values) in READINGS.items()
        for place, value in enumerate(values)
        if place
    }


def measure(name: str, out: Path) -> dict[str, Any]:
    """Distil one method with all its values, and compare them."""
    what, _, values = READINGS[name]
    names = [name_of(name, place) for place in range(len(values))]
    out.mkdir(parents=True, exist_ok=True)
    grid = out / f"{name}.toml"
    grid.write_text(GRID.replace("METHODS", ", ".join(f'"{one}"' for one in names)), encoding="utf-8")
    with as_file(files("meddistill") / "data") as data:
        found = api.bench(grid, out / name, data=data, jobs=1)  # other processes do not know these methods
    scores = {line.cell.method: line.scores["val"]["as is"]["balanced_accuracy"] for line in found.lines}
    repeated = {one: score for one, score in scores.items() if isinstance(score, Repeated)}
    means = {one: repeated[one].per_distillation for one in names}
    chosen = means[names[0]]
    rows = [
        {
            "value": value,
            "balanced_accuracy": summarise(means[one]).as_dict(),
            "difference": _difference(means[one], chosen) if place else None,
        }
        for place, (one, value) in enumerate(zip(names, values, strict=True))
    ]
    return {
        "what": what,
        "date": today(),
        "device": platform.machine(),
        "rows": rows,
    }


def _difference(values: Sequence[float], chosen: Sequence[float]) -> dict[str, Any]:
    return summarise([a - b for a, b in zip(values, chosen, strict=True)]).as_dict()


HEADS = ("method", "what was chosen", "value", "balanced accuracy", "difference to the choice")


def table(record: Mapping[str, Any]) -> str:
    """The record as Markdown."""
    lines = (
        (
            f"`{method_of(name)}`",
            kept["what"],
            f"{row['value']:g}",
            shown(row["balanced_accuracy"]),
            shown(row["difference"], "+"),
        )
        for name, kept in record.items()
        for row in kept["rows"]
    )
    return markdown(HEADS, lines)


def shown(figure: Mapping[str, float] | None, sign: str = "") -> str:
    """Percent with the ends of the 95 % interval."""
    if figure is None:
        return "chosen"
    return interval({"value": figure["mean"], **figure}, 100, f"{{:{sign}.1f}}")


def main() -> None:
    """Measure what was asked for and is not in the record yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("readings"))
    parser.add_argument("--methods", nargs="+", choices=READINGS, default=list(READINGS))
    parser.add_argument("--table", action="store_true", help="print the record as Markdown and stop")
    asked = parser.parse_args()
    METHODS.update(variants())
    wanted = [] if asked.table else asked.methods
    print(table(completed(RECORD, list(READINGS), wanted, lambda name: measure(name, asked.out))))


if __name__ == "__main__":
    main()
