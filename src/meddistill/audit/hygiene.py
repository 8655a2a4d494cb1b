"""Is anything in the package, or in a model's file, that has no place there?

A package that can be opened at all has only the members of the format, no unused byte, no header of an image, and
no text that looks like a path, a date or an identifier: reading refuses all else. What reading cannot know is what
patients and files of *this* source are called: here every such name is looked for in every text of the package, or in
all that a model's file says. Text that is burned into images is another attack's matter: ``marks``.

Names are looked for word by word, however short. Not looked for is what would be found in every package: short
numbers, single letters, words that most names of the source have, names of classes, and the words that a package is
written in whatever its source (the README's sentences, the card's settings). How many names are left without a single
word to look for is told.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from meddistill.audit.finding import Finding, Outcome
from meddistill.cohort.types import Listing, Record
from meddistill.compress.card import Saw
from meddistill.package.croissant import croissant
from meddistill.package.members import AUDIT, CARD, CROISSANT, README
from meddistill.package.read import open_sound
from meddistill.package.readme import readme
from meddistill.package.types import Card
from meddistill.pipeline.card import TERMS, make_terms
from meddistill.pipeline.plan import Plan

NAME, ASKS = "hygiene", "names of patients or files in the package's texts; what its card declares"
ASKS_OF_MODEL = "names of patients or files in what the model's file says; whose images it says its weights have seen"
_TEXTS = (CARD, README, CROISSANT, AUDIT)
_WORD = re.compile(r"[\w-]+")
_OF_TABLE = re.compile(r":\d+ \((.+)\)$")  # a row of a table, and the file that it names
_OF_ARRAY = re.compile(r"\[\d+\]$")  # a row of an array, which has no file
_LEAST_DIGITS = 5  # of a bare number; shorter ones, such as those of rows, are in every text
_COMMON = 0.1  # of the people of a source: a word without digits that more of them have tells none of them

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
    """The words of all texts, and those among them that are no sign of anybody; what is declared, and to be said."""

    words: frozenset[str]
    own: frozenset[str]
    declared_real: bool
    notes: tuple[str, ...] = ()
    asks: str = ASKS


@dataclass(frozen=True)
class Names:
    """What patients and files are called, and of every such name the words to look for, which may be none."""

    patients: Mapping[str, frozenset[str]] = field(default_factory=dict)
    files: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def words(self) -> frozenset[str]:
        """All words to look for."""
        return frozenset[str]().union(*self.patients.values(), *self.files.values())

    def __or__(self, other: "Names") -> "Names":
        return Names({**self.patients, **other.patients}, {**self.files, **other.files})


def prepare(package: Path, card: Card) -> Prepared:
    """The words of the package's texts."""
    members, _ = open_sound(package)
    texts = [str(members[name], "utf-8") for name in _TEXTS if name in members]
    return Prepared(_words_of(texts), _words_of([*_own_texts(card), *card.task.classes]), card.contains_real_images)


def prepare_model(texts: Collection[str], classes: Collection[str], saw: Saw, own: Collection[str] = ()) -> Prepared:
    """The words of a model's ``texts``, and whose images its weights have seen, as it says.

    ``own``: what such a model says whoever it was trained on.
    """
    known = _words_of([*own, *classes])
    return Prepared(_words_of(texts), known, declared_real=False, notes=(_SEEN[saw],), asks=ASKS_OF_MODEL)


def attack(prepared: Prepared, names: Collection[str]) -> int:
    """How many words of a source's ``names`` of patients and files stand in the texts."""
    return len((prepared.words - prepared.own) & set(names))


def judge(members: int, control: int, names: Names, prepared: Prepared) -> Finding:
    """Any name fails; so does a package that says itself that it started from real images."""
    declared = "its card says that it started from real images, or holds some"
    heard = {bool(words - prepared.own) for words in names.patients.values()}
    silent = [not words - prepared.own for group in (names.patients, names.files) for words in group.values()]
    unheard = heard == {False}
    return Finding(
        NAME,
        prepared.asks,
        _outcome(members + control > 0 or prepared.declared_real, unheard),
        warnings=(
            *((declared,) if prepared.declared_real else ()),
            *_silence(sum(silent), len(silent), unheard),
            *prepared.notes,
        ),
        figures={
            "names_looked_for": len(names.words - prepared.own),
            "names_found": members + control,
            "names_not_looked_for": sum(silent),
        },
    )


def names_of(listing: Listing) -> Names:
    """What a source calls its patients and the files of their images, in the words that a text would have."""
    patients = {record.patient: _words(record.patient) for record in listing.records if record.patient}
    files = {stem: _words(stem) for stem in map(_file_of, listing.records) if stem}
    common = _common(listing) - {word for words in patients.values() if len(words) == 1 for word in words}
    return Names(_looked_for(patients, common), _looked_for(files, common))


def _file_of(record: Record) -> str:
    """The name of an image's file without its suffix; empty where it has none."""
    row = _OF_TABLE.search(record.where)
    return "" if _OF_ARRAY.search(record.where) else PurePath(row[1] if row else record.where).stem


def _looked_for(names: Mapping[str, set[str]], common: Collection[str]) -> dict[str, frozenset[str]]:
    return {name: frozenset(filter(_tells, words.difference(common))) for name, words in names.items()}


def _tells(word: str) -> bool:
    """Whether a word may be somebody's: not a short number, nor a single letter."""
    signs = word.strip("-_")
    if any(sign.isalpha() for sign in signs):
        return len(signs) > 1
    return len(word) >= _LEAST_DIGITS


def _common(listing: Listing) -> set[str]:
    """Words without digits that more than a few people of a source have in their names: they tell none of them."""
    people: dict[str, set[str]] = {}
    for record in listing.records:
        words = _words(f"{record.patient or ''} {_file_of(record)}")
        people.setdefault(record.patient or record.where, set()).update(words)
    counted = Counter(word for words in people.values() for word in words)
    most = max(2.0, _COMMON * len(people))
    return {word for word, count in counted.items() if count > most and not any(sign.isdigit() for sign in word)}


def _outcome(leaks: bool, unheard: bool) -> Outcome:
    if leaks:
        return "fail"
    return "inconclusive" if unheard else "pass"


def _silence(silent: int, names: int, unheard: bool) -> tuple[str, ...]:
    if not silent:
        return ()
    what = "short numbers, single letters or words that every package or most names of the source have"
    doubt = "; no patient's id is among the others" if unheard else ""
    return (f"{silent} of {names} names of patients and files were not looked for, being {what}{doubt}",)


def _own_texts(card: Card) -> tuple[str, ...]:
    """What a package would say with these settings, had nobody written anything into it."""
    known = {*Plan().flat(), "leak"}
    plan = {
        name: value
        for name, value in card.recipe.plan.items()
        if not isinstance(value, str) or name in known or name.startswith("part.")
    }
    bare = replace(card, recipe=replace(card.recipe, plan=plan), terms=make_terms())
    # Terms of a run with an epsilon or canaries say more than others: they are this project's words as well.
    return json.dumps(bare.to_dict()), *TERMS, readme(bare), croissant(bare, card.digests).decode()


def _words_of(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(word for text in texts for word in _words(text))


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}
