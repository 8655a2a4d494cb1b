"""Print how much better a method is than another one on the same seeds, by the records of benchmarks.

python docs/tools/pairs.py benchmarks/records/bench_ablation pruned-small mtt-small
python docs/tools/pairs.py benchmarks/records/bench_progressive progressive mtt --in benchmarks/records/bench_hour

A benchmark compares all methods with one, of its own. This compares any two, also of two records: balanced accuracy on
the test split in per cent, difference ± half of its 95 % interval, by cell and over the cells of both. Seeds of two
records are the same networks only where both name the same cohort, seed and number of networks.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

from meddistill.train.metrics import summarise


def pairs(record: Path, method: str, other: str, elsewhere: Path | None = None) -> dict[str, str]:
    """The differences as texts, by cell and over ``all``; ``elsewhere``: the record of the ``other`` method."""
    mine, theirs = _figures(record, method), _figures(elsewhere or record, other)
    apart = {
        place: [a - b for a, b in zip(mine[place], theirs[place], strict=True)] for place in mine if place in theirs
    }
    if not apart:
        raise SystemExit(f"{method} and {other} have no cell in common")
    over_all = [fmean(differences) for differences in zip(*apart.values(), strict=True)]
    return {place: _shown(found) for place, found in {**apart, "all": over_all}.items()}


def _figures(record: Path, method: str) -> dict[str, list[float]]:
    """By cell the values that its interval is over: of distillations where there are several, else of networks."""
    lines = map(json.loads, (record / "results.jsonl").read_text(encoding="utf-8").splitlines())
    mine = [line for line in lines if line["method"] == method]
    found = {_place(line): _values(line) for line in mine}
    if len(found) < len(mine):
        raise SystemExit(f"{method} was made with several networks: which of its sets to compare is not clear")
    return found


def _place(line: dict[str, Any]) -> str:
    total = line.get("total_images")
    size = f"{total} in all" if total else f"{line['images_per_class']} a class"
    return f"{line['cohort']}, {size}, {line['evaluation']}"


def _values(line: dict[str, Any]) -> list[float]:
    found = line["scores"]["test"]["as is"]["balanced_accuracy"]
    values: list[float] = found.get("per_distillation", found["per_seed"])
    return values


def _shown(differences: list[float]) -> str:
    found = summarise(differences)
    return f"{100 * found.mean:+.1f} ± {50 * (found.high - found.low):.1f}"


def main() -> None:
    """Print the differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("method")
    parser.add_argument("other")
    parser.add_argument("--in", type=Path, dest="elsewhere", help="the other method's record, if it is another one")
    asked = parser.parse_args()
    for name, difference in pairs(asked.record, asked.method, asked.other, asked.elsewhere).items():
        print(f"{name}: {difference}")


if __name__ == "__main__":
    main()
