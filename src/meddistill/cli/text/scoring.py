"""Scores, counts and sizes as several commands tell them."""

from collections.abc import Sequence

from rich.console import Console

from meddistill.cli.layout import Document, percent, table, title
from meddistill.runtime.words import size

METRICS = {"balanced_accuracy": "balanced\naccuracy %", "auroc": "\nAUROC %", "accuracy": "\naccuracy %"}
ROWS = {"random": "random", "distilled": "distilled", "own": "own recipe", "full": "all real"}


def print_counts(classes: Sequence[str], counts: Document, console: Console) -> None:
    """Images of every class, by split."""
    rows = [[name, *(split.get(name, 0) for split in counts.values())] for name in classes]
    table(console, ["class", *counts], [*rows, ["total", *(sum(split.values()) for split in counts.values())]])


def print_results(splits: Document | None, console: Console) -> None:
    """A table of scores for each split, a row for each kind of training set."""
    for split, rows in (splits or {}).items():
        title(console, f"Trained on each, measured on the {split} split (mean ± half of the 95 % interval)")
        table(
            console,
            ["trained on", *METRICS.values()],
            [[row_name(name), *metric_cells(row)] for name, row in rows.items()],
        )


def size_words(document: Document) -> str:
    """A package's bytes, and how many times smaller than the cohort it is."""
    factor = document.get("factor")
    each = "" if document.get("bytes_per_class") is None else f", {size(document['bytes_per_class'])} a class"
    smaller = "" if factor is None else f", {factor:,.0f} times smaller than the training images"
    return f"{size(document['bytes'])}{each}{smaller}"


def metric_cells(row: Document) -> list[str]:
    """The scores of a row, in the order of the headers."""
    return [percent(row.get(metric)) for metric in METRICS]


def metric_name(key: str) -> str:
    """A metric on one line."""
    return METRICS[key].replace("\n", " ").strip()


def row_name(name: str) -> str:
    """What a network was trained on, in words."""
    return ROWS.get(name, name)
