"""The figures of an audit: attack by attack as ``meddistill audit`` writes them, or any JSON object as plain rows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meddistill.package import strict_json
from meddistill.package.limits import MAX_AUDIT_BYTES
from meddistill.report.charts import Interval
from meddistill.report.runlog import number
from meddistill.report.sentence import sentence
from meddistill.report.terms import term_of
from meddistill.runtime.errors import InputError

MOST_BYTES = 4 * MAX_AUDIT_BYTES
_OF_ITS_OWNER = ("package", "model", "attached")  # a path on the auditor's machine: of no use to others
# What is said of a package whose counts are withheld: nothing that they follow from, as in the package itself.
_WITHOUT_FIGURES = ("audit", "software", "tensors_sha256", "outcome", "gates", "effort", "seed")
_MOST_ROWS = 400  # of the figures of one attack
# What is compared, where it is not success on members with success on control patients.
_COMPARED = {"marks": ("synthetic images", "control patients' images")}


@dataclass(frozen=True)
class Finding:
    """One attack: what it asks, how it ended, its success on members beside control patients, and all else it says.

    ``term``: the one of :mod:`meddistill.report.terms` that it belongs to. ``main`` and ``control`` are named by what
    they are about.
    """

    attack: str
    term: str
    asks: str
    outcome: str
    main: Interval | None
    control: Interval | None
    excess: Interval | None
    baseline: float | None
    warnings: tuple[str, ...]
    figures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Audit:
    """All attacks, the worst outcome, areas under ROC curves by attack and score, and what else is said.

    ``sentence``: what may be said of the package, or what may not.
    """

    outcome: str | None
    sentence: str
    findings: tuple[Finding, ...]
    areas: tuple[Interval, ...]
    rest: tuple[tuple[str, str], ...]
    by: str


def read_audit(path: Path, digest: str | None) -> Mapping[str, Any]:
    """The audit in a file; ``digest``: of the tensors of the package it must be about, if there is one.

    Raises :class:`InputError` for a file that is no audit, or one of another package or of a model.
    """
    try:
        with open(path, "rb") as file:
            document = strict_json.parse(file.read(MOST_BYTES + 1), MOST_BYTES)
    except OSError as error:
        raise InputError(f"cannot read the audit {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise InputError(f"the audit {path} is not what `meddistill audit` writes: {error}") from None
    if not isinstance(document, dict):
        raise InputError(f"the audit {path} is not what `meddistill audit` writes: expected a JSON object")
    if "weights_sha256" in document:
        raise InputError(f"the audit {path} is of a model, not of a package: give the one of the package")
    about = document.get("tensors_sha256")
    if digest is not None and about is not None and about != digest:
        raise InputError(f"the audit {path} is of another package: audit this one, or give the package it belongs to")
    return document


def without_figures(document: Mapping[str, Any]) -> dict[str, Any]:
    """An audit as ``meddistill audit --attach`` puts it into a package that withholds its counts: outcomes alone."""
    listed = document.get("findings")
    findings = [
        {name: one[name] for name in ("attack", "asks", "outcome") if name in one}
        for one in (listed if isinstance(listed, list) else [])
        if isinstance(one, dict)
    ]
    return {name: document[name] for name in _WITHOUT_FIGURES if name in document} | {"findings": findings}


def audit_of(document: Mapping[str, Any], by: str) -> Audit:
    """What an audit tells; ``by``: where it comes from. Fields of other types than expected are shown as plain rows."""
    listed = document.get("findings")
    listed = listed if isinstance(listed, list) else []
    known = [one for one in listed if isinstance(one, dict) and isinstance(one.get("attack"), str)]
    findings = tuple(_finding(one) for one in known)
    shown = (*_OF_ITS_OWNER, "sentence", *(("findings", "outcome") if known else ()))
    rest = {name: value for name, value in document.items() if name not in shown}
    outcome = document.get("outcome")
    return Audit(
        outcome=outcome if isinstance(outcome, str) else None,
        sentence=sentence(document),  # never the one that a stranger wrote there
        findings=findings,
        areas=tuple(area for one in known for area in _areas(one["attack"], one.get("figures"))),
        rest=tuple(_rows(rest))[:_MOST_ROWS],
        by=by,
    )


def _finding(told: Mapping[str, Any]) -> Finding:
    warnings = told.get("warnings")
    main, control = _COMPARED.get(str(told["attack"]), ("members", "control patients"))
    return Finding(
        attack=str(told["attack"]),
        term=term_of(str(told["attack"])),
        asks=_text(told.get("asks")),
        outcome=_text(told.get("outcome")),
        main=_interval(main, told.get("main"), "s0"),
        control=_interval(control, told.get("control"), "s1"),
        excess=_interval("excess", told.get("excess"), "s0"),
        baseline=number(told.get("baseline")),
        warnings=tuple(map(_text, warnings)) if isinstance(warnings, list) else (),
        figures=tuple(_rows(told.get("figures") or {}))[:_MOST_ROWS],
    )


def _interval(name: str, told: object, kind: str) -> Interval | None:
    if not isinstance(told, dict):
        return None
    value, low, high = (number(told.get(key)) for key in ("value", "low", "high"))
    return None if value is None or low is None or high is None else Interval(name, value, low, high, kind=kind)


def _areas(attack: str, figures: object) -> Iterator[Interval]:
    """Areas under ROC curves, of the attack itself and of each of its scores."""
    if not isinstance(figures, dict):
        return
    scores = figures.get("scores")
    parts = scores if isinstance(scores, dict) else {}
    worst = {f"{attack}: worst class": figures.get("worst_class")}
    for name, part in {attack: figures, **{f"{attack}: {name}": part for name, part in parts.items()}, **worst}.items():
        if isinstance(part, dict) and (found := _interval(name, part.get("area"), "s0")) is not None:
            yield found


def _rows(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of a JSON value, nested names joined by a dot."""
    interval = _interval(name, value, "s0")
    if interval is not None:
        yield name, f"{interval.value:.4g} ({interval.low:.4g} to {interval.high:.4g})"
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _rows(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for place, item in enumerate(value):
            yield from _rows(item, f"{name}[{place + 1}]")
    else:
        yield name.replace("_", " "), _text(value)


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)
