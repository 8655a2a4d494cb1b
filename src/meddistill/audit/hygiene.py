"""Is anything in the package, or in a model's file, that has no place there?

A package that can be opened at all has only the members of the format, no unused byte, no header of an image, and
no text that looks like a path, a date or an identifier: reading refuses all else. What reading cannot know is what
patients and files of *this* source are called: here every such name is looked for in every text of the package, or in
all that a model's file says. Text that is burned into images is another attack's matter: ``marks``.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePath

from meddistill.audit.finding import Finding
from meddistill.cohort.types import Listing
from meddistill.compress.card import Saw
from meddistill.package.members import AUDIT, CARD, CROISSANT, README
from meddistill.package.read import open_sound
from meddistill.package.types import Card

NAME, ASKS = "hygiene", "names of patients or files in the package's texts; what its card declares"
ASKS_OF_MODEL = "names of patients or files in what the model's file says; whose images it says its weights have seen"
_TEXTS = (CARD, README, CROISSANT, AUDIT)
_WORD = re.compile(r"[\w-]+")
# Shorter ones, such as row numbers, are in every text.
_LEAST_LETTERS = 5

# What is to be known of weights whatever the attacks find.
_SEEN: dict[Saw, str] = {
    "patients": (
        "these weights were trained on patients' images, as the file says: a pass of these attacks does not make them "
        "harmless"
    ),
    "unknown": "nobody knows whether these weights were trained on patients' images: treat them as if they were",
    "packages": "these weights were trained on packages alone, as the file says: audit the packages too",
}


@dataclass(frozen=True)
class Prepared:
    """The words of all texts but for those of class names, whether real images are declared, and what is to be said."""

    words: frozenset[str]
    declared_real: bool
    notes: tuple[str, ...] = ()
    asks: str = ASKS


def prepare(package: Path, card: Card) -> Prepared:
    """The words of the package's texts."""
    members, _ = open_sound(package)
    texts = [str(members[name], "utf-8") for name in _TEXTS if name in members]
    return Prepared(_words_of(texts, card.task.classes), card.contains_real_images)


def prepare_model(texts: Collection[str], classes: Collection[str], saw: Saw) -> Prepared:
    """The words of a model's ``texts``, and whose images its weights have seen, as it says."""
    return Prepared(_words_of(texts, classes), declared_real=False, notes=(_SEEN[saw],), asks=ASKS_OF_MODEL)


def attack(prepared: Prepared, names: Collection[str]) -> int:
    """How many of a source's ``names`` of patients and files stand in the texts."""
    return len(prepared.words & set(names))


def judge(members: int, control: int, asked: int, prepared: Prepared) -> Finding:
    """Any name fails; so does a package that says itself that it started from real images."""
    declared = "its card says that it started from real images, or holds some"
    return Finding(
        NAME,
        prepared.asks,
        "fail" if members or control or prepared.declared_real else "pass",
        warnings=(*((declared,) if prepared.declared_real else ()), *prepared.notes),
        figures={"names_looked_for": asked, "names_found": members + control},
    )


def names_of(listing: Listing) -> set[str]:
    """What a source calls its patients, and files whose names hold a digit, in the words that a text would have."""
    patients = {word for record in listing.records if record.patient for word in _words(record.patient)}
    files = {word for record in listing.records for word in _words(PurePath(record.where).stem)}
    numbered = {word for word in files if any(sign.isdigit() for sign in word)}
    return {word for word in patients | numbered if len(word) >= _LEAST_LETTERS}


def _words_of(texts: Collection[str], classes: Collection[str]) -> frozenset[str]:
    own = {word for name in classes for word in _words(name)}
    return frozenset(word for text in texts for word in _words(text)) - own


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}
