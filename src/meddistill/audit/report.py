"""What an audit found, as it is told, written and shown."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from meddistill import __version__
from meddistill.audit.case import SIDES, Effort
from meddistill.audit.finding import EXIT_CODES, Finding, Gates, Outcome, worst
from meddistill.audit.people import Groups
from meddistill.audit.statistics import Interval
from meddistill.report.sentence import PROVED, sentence
from meddistill.runtime.files import write_atomic

Kind = Literal["package", "model"]
_DIGESTS: dict[Kind, str] = {"package": "tensors_sha256", "model": "weights_sha256"}


@dataclass(frozen=True)
class Report:
    """What an audit of a package, or of a model, found.

    ``digest``: of the package's tensors, or of the model's weights. ``withheld``: whether the card keeps its counts to
    itself. ``groups``: patients and images of both groups, how many were left out as members, and whether
    members agree with the counts on the card. ``proved``: whether the card states an epsilon.
    """

    kind: Kind
    file: Path
    digest: str
    withheld: bool
    findings: tuple[Finding, ...]
    groups: dict[str, Any]
    gates: Gates
    effort: Effort
    seed: int
    seconds: float
    attached: bool = False
    proved: bool = False

    @property
    def outcome(self) -> Outcome:
        """The worst of all findings."""
        return worst(found.outcome for found in self.findings)

    @property
    def exit_code(self) -> int:
        """What ``meddistill audit`` ends with."""
        return EXIT_CODES[self.outcome]

    @property
    def sentence(self) -> str:
        """What may be said of the package or the model to others, or what may not: in figures that its card tells."""
        if self.proved and self.outcome != "fail" and all(one.attack != "canaries" for one in self.findings):
            return PROVED
        return sentence(self._without_sentence())

    def as_dict(self) -> dict[str, Any]:
        """The whole report, for the owner of the data."""
        place: dict[str, Any] = {self.kind: str(self.file), "seconds": round(self.seconds, 1)}
        if self.kind == "package":
            place["attached"] = self.attached
        return place | self._figures() | {"sentence": self.sentence}

    def _repr_html_(self) -> str:
        from meddistill.report.notebook import table

        rows = [(one.attack, one.asks, _shares(one.main), _shares(one.control), one.outcome) for one in self.findings]
        headers = ("attack", "asks", "members %", "control %", "outcome")
        return table(headers, [*rows, ("all", "the worst of them", "", "", self.outcome)])

    def shared(self) -> dict[str, Any]:
        """What goes into the package: no path; and where counts are withheld, nothing that they follow from."""
        return self._without_sentence() | {"sentence": self.sentence}

    def _without_sentence(self) -> dict[str, Any]:
        if self.withheld:
            told = ("attack", "term", "asks", "outcome")
            return self._said([{name: getattr(found, name) for name in told} for found in self.findings])
        return self._figures()

    def _figures(self) -> dict[str, Any]:
        return self._said([found.as_dict() for found in self.findings]) | {"groups": self.groups}

    def _said(self, findings: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "audit": 1,
            "software": {"name": "meddistill", "version": __version__},
            _DIGESTS[self.kind]: self.digest,
            "outcome": self.outcome,
            "findings": findings,
            "gates": self.gates.as_dict(),
            "effort": asdict(self.effort),
            "seed": self.seed,
        }


def write(report: Report, out: Path | None) -> None:
    """Write the whole report as JSON, if it is wanted."""
    if out is not None:
        write_atomic(out, (json.dumps(report.as_dict(), indent=2, allow_nan=False) + "\n").encode())


def counts(groups: Groups) -> dict[str, Any]:
    """How many patients and images were compared, and by which unit."""
    told: dict[str, Any] = {
        side: {"patients": people.count, "images": len(people.labels)}
        for side, people in zip(SIDES, (groups.members, groups.control), strict=True)
    }
    checked = {"left_out_of_control": groups.overlap, "members_agree_with_card": groups.origin.checked}
    return told | {"unit": groups.unit} | checked


def _shares(found: Interval | None) -> str:
    """For a table: per cent."""
    return "–" if found is None else f"{100 * found.value:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"
