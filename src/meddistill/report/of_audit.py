"""An audit as a page tells it: every attack on members beside control patients, and areas under ROC curves."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from meddistill.report import charts
from meddistill.report.charts import Interval
from meddistill.report.findings import Audit, Finding
from meddistill.report.terms import OTHER, REGULATORS, TERMS, Term

_OTHERS = Term(OTHER, "What attacks say that this version does not know.", ())


@dataclass(frozen=True)
class Asked:
    """The attacks that belong to one term; there may be none of one of the regulators'."""

    term: Term
    findings: tuple[Finding, ...]


def told_of_audit(audit: Audit) -> Mapping[str, Any]:
    """What the template asks of an audit."""
    compared = [(one.attack, _compared(one.main, one.control, one.baseline, one.attack)) for one in audit.findings]
    return {
        "audit": audit,
        "asked": tuple(_asked(audit.findings)),
        "compared": [(name, chart) for name, chart in compared if chart is not None],
        "areas": _areas(audit.areas),
    }


def _asked(findings: Sequence[Finding]) -> Iterator[Asked]:
    """All attacks by term: those of the regulators always, so that it is seen where nothing was asked."""
    for term in (*TERMS, _OTHERS):
        mine = tuple(one for one in findings if one.term == term.name)
        if mine or (findings and term.name in REGULATORS):
            yield Asked(term, mine)


def _compared(main: Interval | None, control: Interval | None, baseline: float | None, attack: str) -> Markup | None:
    rows = [one for one in (main, control) if one is not None]
    if not rows:
        return None
    highest = max([one.high for one in rows] + [baseline or 0.0, 1e-3])
    top = charts.ticks(0.0, highest * 100, 4)[-1] / 100
    low = min(0.0, *(one.low for one in rows))
    return charts.intervals(f"{attack}: success, per cent", rows, (low, top), mark=baseline)


def _areas(areas: Sequence[Interval]) -> Markup | None:
    if not areas:
        return None
    low, high = min(0.4, *(one.low for one in areas)), max(0.6, *(one.high for one in areas))
    span = (math.floor(low * 20) / 20, math.ceil(high * 20) / 20)
    return charts.intervals("Area under the ROC curve, per cent", areas, span, mark=0.5)
