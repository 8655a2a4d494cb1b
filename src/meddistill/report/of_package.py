"""A package as a page tells it: first figures, images, results, bytes, members, terms, recipe, and what to do next."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meddistill.package.glance import facts
from meddistill.package.read import Verification
from meddistill.package.types import Card, Package
from meddistill.report.elements import SPLIT_NAMES, Table
from meddistill.report.of_results import score_of, told_of_results
from meddistill.report.pictures import FEW, gallery
from meddistill.runtime.words import size

_MOST_CLASSES = 40  # that the table of the cohort has rows for


@dataclass(frozen=True)
class Shared:
    """A package file that is reported on: its name, bytes, what is in it, and what its verification found."""

    name: str
    bytes: int
    package: Package
    found: Verification


def told_of_package(shared: Shared) -> Mapping[str, Any]:
    """What the template asks of a package."""
    card, steps = shared.package.card, shared.package.step_sizes
    cohort = card.bytes.cohort_train
    return {
        "name": shared.name,
        "card": card,
        "facts": facts(shared.package),
        "tiles": _tiles(shared),
        "counts": _counts(card),
        "gallery": gallery(shared.package),
        "few": card.images.count <= FEW,
        "measured": told_of_results(card.results),
        "sizes": _sizes(shared, cohort),
        "members": _members(shared.found),
        "answer": shared.found.answer,
        "signer": shared.found.signer,
        "signer_name": shared.found.signer_name,
        "terms": _terms(card),
        "recipe": _recipe(card),
        "steps": f"{len(steps)}, from {steps.min():.4g} to {steps.max():.4g}",
        "commands": _commands(shared.name),
    }


def _tiles(shared: Shared) -> list[tuple[str, str, str]]:
    """The first figures: name, value, and a word on it."""
    card, cohort = shared.package.card, shared.package.card.bytes.cohort_train
    images = card.images
    classes = len(card.task.classes)
    each = f"{images.per_class} for each of {classes} classes" if images.per_class else f"for {classes} classes in all"
    found = [
        ("synthetic images", f"{images.count}", each),
        ("size of the file", size(shared.bytes), f"{size(shared.bytes / classes)} a class"),
    ]
    if cohort is not None:
        found.append(("smaller", f"{cohort / shared.bytes:,.0f} ×", f"than {size(cohort)} of training images"))
    test = score_of(card.results, "test", "distilled", "balanced_accuracy")
    if test is not None:
        spread = (
            f"95 % interval {100 * test.low:.1f} to {100 * test.high:.1f}, " if test.has_interval else "one network, "
        )
        found.append(("balanced accuracy", f"{100 * test.value:.1f} %", f"{spread}test images"))
    return found


def _counts(card: Card) -> Table | None:
    """Images of the cohort by class and split; None if the sender withholds them."""
    counts = card.cohort.counts
    if isinstance(counts, str) or not counts:
        return None
    splits, names = list(counts), card.task.classes
    rows = [(name, *(f"{counts[split].get(name, 0):,}" for split in splits)) for name in names[:_MOST_CLASSES]]
    if len(names) > _MOST_CLASSES:
        rows.append((f"{len(names) - _MOST_CLASSES} more classes", *("…" for _ in splits)))
    total = ("all", *(f"{sum(counts[split].values()):,}" for split in splits))
    return Table(("class", *(SPLIT_NAMES[split] for split in splits)), (*rows, total))


def _sizes(shared: Shared, cohort: int | None) -> list[tuple[str, str]]:
    withheld = "withheld by the sender"
    return [
        ("the file", f"{size(shared.bytes)} ({shared.bytes:,} bytes)"),
        ("the cohort's training images at the same size", withheld if cohort is None else f"{size(cohort)}"),
        ("times smaller", withheld if cohort is None else f"{cohort / shared.bytes:,.1f}"),
    ]


def _members(found: Verification) -> Table:
    rows = tuple((name, f"{count:,}", found.digests[name]) for name, count in found.members.items())
    return Table(("member", "bytes, unpacked", "SHA-256"), rows)


def _terms(card: Card) -> list[tuple[str, str]]:
    said = card.terms
    listed = (
        ("Licence", said.licence),
        ("Terms of use", said.terms_of_use),
        ("Intended use", said.intended_use),
        ("Limits", said.limits),
    )
    return [(name, text if text.strip() else "not stated by the sender") for name, text in listed]


def _recipe(card: Card) -> Table:
    recipe = card.recipe
    first = [(name, str(getattr(recipe, name))) for name in ("method", "network", "start", "seed")]
    rest = [(name, _plain(value)) for name, value in sorted(recipe.plan.items())]
    return Table(("setting", "value"), tuple(first + rest))


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _commands(name: str) -> list[tuple[str, str]]:
    """What to do next, and the command that does it; ``name`` is safe to paste whatever the file is called."""
    file = shlex.quote(name if not name.startswith("-") else f"./{name}")
    return [
        ("Is it whole, and signed by somebody you trust?", f"meddistill verify {file}"),
        ("Train a classifier from it.", f"meddistill train {file} --out model.safetensors"),
        (
            "The same, measured on images of your own.",
            f"meddistill train {file} --out model.safetensors --test YOUR_IMAGES",
        ),
        ("Classify images.", "meddistill predict model.safetensors IMAGE"),
    ]
