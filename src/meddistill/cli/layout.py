"""How values, tables and paragraphs look in an 80-column terminal."""

from collections.abc import Iterable, Mapping, Sequence
from textwrap import TextWrapper
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from meddistill.runtime.words import duration, visible

Document = Mapping[str, Any]
_UNBOUNDED = 1000  # columns, more than any table has


def printable(value: Any) -> Any:
    """The same text, or document, with characters that a terminal would act upon shown as escapes.

    Packages and file names come from others: nothing in them may move the cursor or turn the direction of writing.
    """
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {printable(key): printable(item) for key, item in value.items()}
    return [printable(item) for item in value] if isinstance(value, (list, tuple)) else value


def percent(summary: Document | None) -> str:
    """``83.4 ± 1.2`` of a summary with mean, low and high between 0 and 1: the mean and half of the 95 % interval.

    A single network has no interval; one of two or three networks may be wider than all scores there are.
    """
    if not summary or summary.get("mean") is None:
        return "–"
    low, high = summary.get("low"), summary.get("high")
    if len(summary.get("per_seed", ())) == 1 or low is None or high is None:
        return f"{100 * summary['mean']:.1f}"
    half = f"{50 * (high - low):.1f}"
    return f"{100 * summary['mean']:.1f} ± {half if len(half) < len('100.0') else '>99'}"


def table(
    console: Console, headers: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1, *, whole: bool = False
) -> None:
    """Print a plain table: the first ``left`` columns to the left, figures to the right; cells are literal text.

    A row without cells is a blank line. ``whole``: columns stand close, and in a window that is too narrow lines run
    on instead of cells being broken.
    """
    padding = (0, 0 if whole else 1, 0, 0)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=padding, show_edge=False, header_style="bold")
    for index, header in enumerate(headers):
        grid.add_column(Text(header), justify="left" if index < left else "right", vertical="bottom")
    for row in rows:
        grid.add_row(*(Text("–" if cell is None else str(cell)) for cell in row))
    if whole:
        grid.width = console.measure(grid, options=console.options.update(width=_UNBOUNDED)).maximum
    console.print(grid, crop=not whole)


def fields(console: Console, pairs: Iterable[tuple[str, Any]]) -> None:
    """Print names and values below each other; values of None are left out."""
    shown = [(name, value) for name, value in pairs if value is not None]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        console.print(f"{name:<{width}}  {plain(value)}", soft_wrap=True)


def paragraph(console: Console, text: str) -> None:
    """Print text with a hanging indent; a path is never broken."""
    console.print(folded(text, console.width), soft_wrap=True)


def folded(text: str, width: int) -> str:
    """Lines of at most ``width`` columns with a hanging indent, unless a word, such as a path, is longer."""
    fold = TextWrapper(width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(fold.fill(line) for line in text.split("\n"))


def flat(document: Document, prefix: str = "") -> list[tuple[str, Any]]:
    """Names and values of a document with documents in it, for :func:`fields`."""
    pairs: list[tuple[str, Any]] = []
    for key, value in document.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping) and set(value) >= {"mean", "low", "high"}:
            pairs.append((name, f"{percent(value)} %"))
        elif isinstance(value, Mapping) and set(value) == {"smallest", "median", "largest"}:
            pairs.append((name, "{smallest} to {largest}, median {median:.6g}".format(**value)))
        elif isinstance(value, Mapping):
            pairs.extend(flat(value, f"{prefix}{key}."))
        else:
            pairs.append((name, value))
    return pairs


def plain(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(plain(item) for item in value) if isinstance(value, (list, tuple)) else str(value)


def share(value: float | None) -> str | None:
    """A share in per cent, without the sign."""
    return None if value is None else f"{100 * value:.1f}"


def took(document: Document, key: str = "seconds") -> str | None:
    """How long something took, by the seconds in a document."""
    seconds = document.get(key)
    return None if seconds is None else duration(seconds)


def title(console: Console, text: str) -> None:
    """Print a heading, after a blank line."""
    console.print(Text(f"\n{text}", style="bold"), soft_wrap=True)


def listed(console: Console, name: str, paths: Iterable[Any]) -> None:
    """Print a line for each path."""
    for path in paths:
        console.print(f"{name}  {path}", soft_wrap=True)
