"""What a page is made of: tables, figures, and the words for rows, metrics and splits."""

from dataclasses import dataclass

from markupsafe import Markup

ORDER = ("random", "distilled", "own", "full")
ROW_NAMES = {
    "random": "as many random real images",
    "distilled": "this package",
    "own": "this package, by its own recipe",
    "full": "all real images",
}
METRIC_NAMES = {"balanced_accuracy": "balanced accuracy", "auroc": "AUROC", "accuracy": "accuracy"}
SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}
# Of the rows in charts: classes of the style sheet.
KINDS = {"random": "s1", "distilled": "s0", "own": "s0", "full": "s2"}


@dataclass(frozen=True)
class Table:
    """Headers and rows of plain text; the first column names the row."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Figure:
    """A chart, what stands below it, and the numbers it shows where no other table has them."""

    title: str
    chart: Markup
    note: str = ""
    table: Table | None = None
