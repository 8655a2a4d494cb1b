"""How answers show themselves in a notebook: one table of HTML, every cell escaped."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from meddistill.report.elements import METRIC_NAMES

_LEFT = Markup(' style="text-align:left"')


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table; the first column names the row."""
    head = Markup("").join(Markup("<th{}>{}</th>").format(_LEFT, header) for header in headers)
    body = Markup("").join(_row(row) for row in rows)
    return str(Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, body))


def scores(rows: Mapping[str, Mapping[str, Any]], headers: Sequence[str] = ()) -> str:
    """Rows of summaries (mean, low, high) or plain figures by metric, in per cent; ``headers``: of more columns.

    A column of ``headers`` shows what a row has under that name.
    """
    cells = [
        (name, *(str(row.get(one, "")) for one in headers), *map(_score, _metrics(row))) for name, row in rows.items()
    ]
    return table(("", *headers, *(f"{name} %" for name in METRIC_NAMES.values())), cells)


def _metrics(row: Mapping[str, Any]) -> list[Any]:
    return [row.get(metric) for metric in METRIC_NAMES]


def _score(value: Any) -> str:
    if isinstance(value, Mapping):
        mean, low, high = (100 * value[key] for key in ("mean", "low", "high"))
        return f"{mean:.1f}" + ("" if len(value.get("per_seed", ())) == 1 else f" ({low:.1f} to {high:.1f})")
    return "–" if value is None else f"{100 * value:.1f}"


def _row(cells: Sequence[str]) -> Markup:
    name, *figures = cells
    said = Markup("").join(Markup("<td>{}</td>").format(one) for one in figures)
    return Markup("<tr><th{}>{}</th>{}</tr>").format(_LEFT, name, said)
