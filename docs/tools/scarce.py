"""Print a table of docs/scarce-labels.md from the record of a benchmark: methods by images a class, and what is shared.

python docs/tools/scarce.py benchmarks/records/bench_scarce_pneumonia [--metric auroc]
"""

import argparse
import json
from pathlib import Path
from typing import Any

USUAL = "convnet-d3-w32"
BYTES_AT = 10  # images a class


def table(record: Path, metric: str = "balanced_accuracy") -> str:
    """Markdown: per cent on the test split, mean ± half of the 95 % interval; bytes are those at 10 images a class."""
    lines = [json.loads(line) for line in (record / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    # ``random`` is ``scratch``, figure by figure; ``random-soft`` is what sets with soft labels are compared with.
    wanted = [line for line in lines if line["method"] != "random"]
    counts = sorted({line["images_per_class"] for line in wanted if line["images_per_class"]})
    rows: dict[tuple[str, str], dict[int | None, dict[str, Any]]] = {}
    for line in wanted:
        rows.setdefault((line["method"], line["evaluation"]), {})[line["images_per_class"]] = line
    heads = ["method", *(f"{count} a class" for count in counts), "what is shared"]
    body = [_row(*key, found, counts, metric) for key, found in rows.items() if key[0] != "full"]
    body += [_whole(found[None], len(counts), metric) for key, found in rows.items() if key[0] == "full"]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *body))


def _row(
    method: str, network: str, found: dict[int | None, dict[str, Any]], counts: list[int], metric: str
) -> list[str]:
    named = f"`{method}`" + ("†" if found[counts[0]]["labelled_by_receiver"] else "")
    other = "" if network == USUAL else ", transformer"
    return [named + other, *(_shown(found[count], metric) for count in counts), _shared(found[BYTES_AT])]


def _whole(line: dict[str, Any], count: int, metric: str) -> list[str]:
    return ["all real images", _shown(line, metric), *[""] * (count - 1), _shared(line)]


def _shared(line: dict[str, Any]) -> str:
    size = f", {line['bytes'] / 1000:,.1f} kB" if line["bytes"] else ""
    return f"{line['shared']}{size}"


def _shown(line: dict[str, Any], metric: str) -> str:
    found = line["scores"]["test"]["as is"][metric]
    return f"{100 * found['mean']:.1f} ± {50 * (found['high'] - found['low']):.1f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--metric", default="balanced_accuracy")
    asked = parser.parse_args()
    print(table(asked.record, asked.metric))


if __name__ == "__main__":
    main()
