"""Attacks under the terms that regulators use for what data may tell of a person.

Singling out, linkability and inference are those of the Article 29 Working Party (opinion 05/2014). Two more parts of
an audit stand beside them: what is written in the package, and whether its figures can be believed at all.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """``asks``: what it means of a package. ``attacks``: which ask it. ``beyond``: what of it none of them asks."""

    name: str
    asks: str
    attacks: tuple[str, ...]
    beyond: str = ""


TERMS = (
    Term(
        "singling out",
        "Can one patient be picked out: is an image nearly a patient's, or can one tell who was in the making?",
        ("copies", "membership", "shadows", "canaries", "release"),
        "other attacks on membership, and reconstruction of images by optimisation",
    ),
    Term(
        "linkability",
        "Do synthetic images point to patients of whom one has another record: here, the very image?",
        ("linkage",),
        "other images of the same patients, and records of another kind",
    ),
    Term(
        "inference",
        "Can something be learned of a patient that is not known otherwise: here, the recorded class?",
        ("labels",),
        "all attributes but the recorded class",
    ),
    Term(
        "direct identifiers",
        "Is somebody named, in texts or in images? And what does the card say that was put in?",
        ("hygiene", "marks"),
        "text that is too small or too faint to be found, and marks that are no text",
    ),
    Term(
        "comparison",
        "Are members and control patients so alike that figures of both can be compared?",
        ("population",),
    ),
)
_BY_ATTACK = {attack: term.name for term in TERMS for attack in term.attacks}
REGULATORS = tuple(term.name for term in TERMS[:3])
OTHER = "other"


def term_of(attack: str) -> str:
    """The name of the term that an attack belongs to."""
    return _BY_ATTACK.get(attack, OTHER)
