"""What an audit found, attack by attack."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from meddistill.cli.layout import Document, paragraph, table

_AUDITED = {
    "pass": "these attacks, at their strength here, found no more than the gates allow: a measurement, no proof",
    "inconclusive": "too little can be said: see what qualifies the figures",
    "alarm": "the package tells something about its patients, beyond chance; have it judged before it leaves",
    "fail": "the package tells too much about its patients; it should not leave",
}
_AUDITED_MODEL = _AUDITED | {
    "alarm": "these weights tell something about single patients, beyond chance; have it judged before they leave",
    "fail": "these weights tell too much about single patients; they should not leave",
}


def audit(document: Document, console: Console) -> None:
    """One row an attack, what qualifies it, the scores of membership one by one, and the outcome."""
    groups = document["groups"]
    counted = " and ".join(
        f"{groups[side]['patients']} {told} ({groups[side]['images']} images)"
        for side, told in (("members", "members"), ("control", "control patients"))
    )
    console.print(f"\n{counted}; counted by {groups['unit']}\n", soft_wrap=True)
    rows = [_row(one) for one in document["findings"]]
    headers = ["attack", "members\n%", "control\n%", "guessing\n%", "excess %\n(95 % interval)", "outcome"]
    table(console, headers, rows, whole=True)
    console.print()
    for one in document["findings"]:
        _finding(one, console)
    console.print()
    words = _AUDITED_MODEL if "model" in document else _AUDITED
    paragraph(console, f"{document['outcome']}: {words[document['outcome']]}")
    if document["outcome"] == "pass":
        console.print()
        paragraph(console, f"what may be said: {document['sentence']}")


def _row(found: Document) -> tuple[str | None, ...]:
    """The attack's success on members beside control patients; marks have none: their shares are of images."""
    if "marked" in found["figures"]:
        return (found["attack"], None, None, None, None, found["outcome"])
    rates = (_rate(found[name]) for name in ("main", "control", "baseline"))
    return (found["attack"], *rates, _excess(found), found["outcome"])


def _finding(found: Document, console: Console) -> None:
    """What an attack's row leaves out."""
    figures = found["figures"]
    if "copies" in figures:
        nearer = _area(figures["nearer_to_members"])
        paragraph(console, f"copies: {figures['copies']} of {figures['synthetic_images']} synthetic images")
        paragraph(console, f"copies: nearer to one member than to one control patient, {nearer}")
    if "marked" in figures:
        shares = f"{_rate(found['control'])} % of control images, {_rate(figures['members'])} % of members' images"
        told = f"{figures['marked']} of {figures['synthetic_images']} synthetic images, {shares}"
        paragraph(console, f"marks: what may be characters stands in {told}")
    if "epsilon_at_least" in figures:
        told = (
            "{right_guesses} of {guesses} guesses right; epsilon is at least {epsilon_at_least:.2f} at delta {delta:g}"
        )
        paragraph(console, f"{found['attack']}: {told.format(**figures)} (95 %)")
    for name, one in figures.get("scores", {}).items():
        paragraph(console, f"{found['attack']} by {name}: {_area(one['area'])}, {one['outcome']}")
    if figures.get("worst_class"):
        one = figures["worst_class"]
        told = f"{one['class']} by {one['score']}, {_area(one['area'])}, {one['outcome']}"
        paragraph(console, f"{found['attack']}, worst class: {told}")
    for warning in found["warnings"]:
        paragraph(console, f"{found['attack']}: {warning}")


def _area(found: Document) -> str:
    """An area under the ROC curve with its interval."""
    return f"area under the curve {found['value']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _rate(value: Any) -> str | None:
    """A share in per cent, of a figure with or without an interval."""
    share = value["value"] if isinstance(value, Mapping) else value
    return None if share is None else f"{100 * share:.1f}"


def _excess(found: Document) -> str | None:
    """The excess in per cent, with its interval."""
    one = found["excess"]
    return one and f"{_rate(one)} ({100 * one['low']:.1f} to {100 * one['high']:.1f})"
