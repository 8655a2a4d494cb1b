"""The table of docs/exchange.md: one hospital alone, the other alone, and both, on the joint test images.

python examples/exchange_table.py FOLDER      (the folder of examples/exchange.sh)
"""

import json
import sys
from pathlib import Path

METRICS = ("balanced_accuracy", "auroc", "accuracy")


def line(name: str, scores: dict) -> str:
    """Mean and half of the 95 % interval, in percent."""
    cells = [
        f"{100 * scores[key]['mean']:5.1f} ± {50 * (scores[key]['high'] - scores[key]['low']):3.1f}" for key in METRICS
    ]
    return f"{name:<18}" + "   ".join(cells)


def main() -> None:
    """Print the table."""
    folder = Path(sys.argv[1])
    trained, merged = (json.loads((folder / name).read_text()) for name in ("train.json", "merged.json"))
    north, south = trained["packages"]
    print(f"{'trained on':<18}" + "   ".join(f"{key.replace('_', ' '):<12}" for key in METRICS))
    print(line("north alone", south["without"]))  # training without the south is training on the north
    print(line("south alone", north["without"]))
    print(line("both files", trained))
    print(line("the merged file", merged))
    print(f"{trained['test_images']} test images, {trained['seeds']} seeds")


if __name__ == "__main__":
    main()
