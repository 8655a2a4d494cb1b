"""Write a package: the same package gives the same members, and what a reader would refuse is not written."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from meddistill.package import container, readme, schema, tensors
from meddistill.package.audit import audit_problems
from meddistill.package.croissant import croissant
from meddistill.package.members import AUDIT, CARD, CROISSANT, MEMBERS, PREVIEW, README, TENSORS
from meddistill.package.quantise import quantise, round_trip
from meddistill.package.thumbnail import thumbnail
from meddistill.package.types import Card, Package, Results, Score
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import write_atomic

ENDING = ".mdz"
SCORE_DIGITS = 5  # behind the point
WITHHELD_DIGITS = 3  # the same where counts are withheld: from five digits the number of test images could be guessed

__all__ = ["encode", "quantise", "require_ending", "round_trip", "write"]


def require_ending(out: Path) -> None:
    """Raise :class:`InputError` for a package's name that does not end in ``.mdz``: other verbs know it by that."""
    if out.suffix != ENDING:
        raise InputError(
            f"--out {out} is no name for a package: compress, report, view and --start-images know one by its ending "
            f"{ENDING}; give a name that ends so"
        )


def write(path: Path, package: Package) -> int:
    """Write ``package`` to ``path``, replacing a file there in one step; returns the file's size in bytes.

    Raises :class:`InputError` listing all that is wrong with the package, and :class:`OutputError`.
    """
    data = encode(package)
    write_atomic(path, data)
    return len(data)


def encode(package: Package) -> bytes:
    """The bytes of the package file. Raises :class:`InputError` listing all that is wrong."""
    card = _checked(package)
    members = {
        TENSORS: tensors.encode(package),
        README: readme.readme(card).encode(),
        CROISSANT: b"",  # keeps its place: it names the digests of its neighbours
        PREVIEW: thumbnail(round_trip(package.images), package.labels),
    }
    members[CROISSANT] = croissant(card, _digests(members))
    if package.audit is not None:
        members[AUDIT] = _json(package.audit)
        _refuse([f"{AUDIT}: {problem}" for problem in audit_problems(members[AUDIT])])
    digests = _digests(members)
    members = {CARD: _json(replace(card, digests=digests).to_dict()), **members}
    _refuse(
        [
            f"{name}: {len(data)} bytes; at most {MEMBERS[name]} are allowed"
            for name, data in members.items()
            if len(data) > MEMBERS[name]
        ]
    )
    return container.pack(members)


def _checked(package: Package) -> Card:
    """The card as a reader will see it, digests apart."""
    problems: list[str] = []
    card = schema.read_card(package.card.to_dict(), problems)
    if card is not None:
        problems += tensors.package_problems(package)
    _refuse(problems)
    assert card is not None  # it is None only where problems say why
    digits = WITHHELD_DIGITS if isinstance(card.cohort.counts, str) else SCORE_DIGITS
    return card if card.results is None else replace(card, results=_rounded(card.results, digits))


def _rounded(results: Results, digits: int) -> Results:
    """The scores with the digits that mean something: a hundred thousandth is less than one image of 50 000."""
    splits = {
        split: {row: {name: _round(score, digits) for name, score in scores.items()} for row, scores in rows.items()}
        for split, rows in results.splits.items()
    }
    return replace(results, splits=splits)


def _round(score: Score, digits: int) -> Score:
    mean, low, high = (round(value, digits) for value in (score.mean, score.low, score.high))
    return Score(mean=mean, low=low, high=high, per_seed=tuple(round(value, digits) for value in score.per_seed))


def _refuse(problems: list[str]) -> None:
    if problems:
        raise InputError("the package cannot be written:\n" + "\n".join(f"- {problem}" for problem in problems))


def _digests(members: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
