"""Print the table of transfer in docs/compared.md from a benchmark's record: cohorts by methods, network to network.

python docs/tools/transfer.py benchmarks/records/bench_transfer
"""

import argparse
import json
from pathlib import Path
from typing import Any

METHODS = ("meddistill", "mtt", "random-soft", "random")
TITLES = {
    "pneumoniamnist": "PneumoniaMNIST",
    "covid_cxr3_112": "COVID-19 radiography",
    "pbc_blood_64": "PBC blood cells",
    "ham10000": "HAM10000",
}
MATCHING = "convnet-d3-w32"
OTHERS = {"by itself": "resnet18-w16", "tutored": "resnet18-w16-tutored"}


def table(record: Path) -> str:
    """Markdown: balanced accuracy in per cent on the test split on the ConvNet, on the ResNet, and the change.

    Means; the change has half of its 95 % interval, paired by seed.
    """
    lines = [json.loads(line) for line in (record / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    found = {(line["cohort"], line["method"], line["evaluation"]): line for line in lines}
    heads = ["cohort", "ResNet-18", *(f"`{one}`" + ", real images" * one.startswith("random") for one in METHODS)]
    rows = [
        [title, way, *(_cell(found[cohort, one, MATCHING], found[cohort, one, other]) for one in METHODS)]
        for cohort, title in TITLES.items()
        for way, other in OTHERS.items()
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))


def _cell(matching: dict[str, Any], other: dict[str, Any]) -> str:
    own, elsewhere = (line["scores"]["test"]["as is"]["balanced_accuracy"] for line in (matching, other))
    lost = other["drop"]
    means = f"{100 * own['mean']:.1f}, {100 * elsewhere['mean']:.1f}"
    return means if lost is None else f"{means}: {-100 * lost['mean']:+.1f} ± {50 * (lost['high'] - lost['low']):.1f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    print(table(parser.parse_args().record))


if __name__ == "__main__":
    main()
