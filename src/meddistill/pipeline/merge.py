"""Several packages in one file, to hand on: a package again, whose card names its parts by digest."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from meddistill import __version__
from meddistill.package.limits import MAX_TEXT
from meddistill.package.types import (
    Card,
    CohortCounts,
    Counts,
    Images,
    LabelKind,
    Normalisation,
    Package,
    Recipe,
    Sizes,
    Software,
    Start,
    Task,
    Terms,
)
from meddistill.package.write import require_ending, write
from meddistill.pipeline.plan import unflipped
from meddistill.pipeline.receive import open_parts
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import require_another, require_writable
from meddistill.runtime.progress import Progress, Silent
from meddistill.train.combine import Combined, Floats, Part, combine
from meddistill.train.renaming import NO_RENAMING, Renaming, read_renaming
from meddistill.train.splits import MIXED

METHOD = "merge"
MAX_PARTS = 30  # each takes four of the card's plan entries
CUT = "(cut; that package has all)"
_LENGTHS = range(MAX_TEXT, 0, -1)  # of a text before it is cut


@dataclass(frozen=True)
class MergeReport:
    """The merged package: its size, classes and images, and of each part the file, its SHA-256 and its images."""

    package: Path
    bytes: int
    classes: tuple[str, ...]
    images: int
    parts: tuple[tuple[Path, str, int], ...]
    reconciled: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        parts = [{"package": str(path), "sha256": digest, "images": images} for path, digest, images in self.parts]
        return {
            "package": str(self.package),
            "bytes": self.bytes,
            "classes": list(self.classes),
            "images": self.images,
            "parts": parts,
            "reconciled": list(self.reconciled),
        }


def merge(
    files: Sequence[Path], out: Path, *, classes: Path | None = None, progress: Progress = Silent()
) -> MergeReport:
    """Write the packages as one to ``out``; ``classes`` is a mapping file of class names.

    Images are stored with 64 levels over the range of all parts together: a value moves by at most half of that step.
    Raises :class:`InputError` listing all conflicts.
    """
    if not 2 <= len(files) <= MAX_PARTS:
        given = "1 package was" if len(files) == 1 else f"{len(files)} packages were"
        raise InputError(f"{given} given: 2 to {MAX_PARTS} are merged at a time")
    require_ending(out)
    require_another(out, (*files, classes))
    renaming = NO_RENAMING if classes is None else read_renaming(classes)
    parts = open_parts(files, progress)
    if planted := [part.name for part in parts if part.package.card.canaries]:
        raise InputError(
            f"{', '.join(planted)}: canaries were planted to audit it, it is not to be shared: merge the package that "
            "was distilled without them"
        )
    combined = combine(parts, renaming)
    each = _images_per_class(parts, renaming)
    require_writable(out)
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    images, stored = _as_stored(parts, combined)
    package = Package(
        images=images,
        labels=combined.labels,
        step_sizes=np.concatenate([part.package.step_sizes for part in parts]),
        card=_card(parts, combined, renaming, each, digests, stored),
    )
    size = write(out, package)
    counted = [part.package.card.images.count for part in parts]
    return MergeReport(
        package=out,
        bytes=size,
        classes=combined.classes,
        images=len(combined.images),
        parts=tuple(zip(files, digests, counted, strict=True)),
        reconciled=(*combined.notes, *_cut_terms(package.card.terms)),
    )


def _images_per_class(parts: Sequence[Part], renaming: Renaming) -> int:
    """How many images each class has; 0 where a part does not count by class, or classes have different numbers."""
    images: Counter[str] = Counter()
    for part in parts:
        for name in renaming.names(part.name, part.package.card.task.classes):
            images[name] += part.package.card.images.per_class
    counted = all(part.package.card.images.per_class for part in parts)
    return next(iter(images.values())) if counted and len(set(images.values())) == 1 else 0


def _as_stored(parts: Sequence[Part], combined: Combined) -> tuple[Floats, int | None]:
    """The images and their stored side: small ones stay so where all parts store them alike, else they are enlarged."""
    images = [part.package.card.images for part in parts]
    if len({(one.size, one.stored_size, one.channels) for one in images}) > 1:
        return combined.images, None
    return np.concatenate([part.package.images for part in parts]), images[0].stored


def _card(
    parts: Sequence[Part],
    combined: Combined,
    renaming: Renaming,
    each: int,
    digests: Sequence[str],
    stored: int | None,
) -> Card:
    cards = [part.package.card for part in parts]
    kind: LabelKind = "hard" if all(card.task.labels == "hard" for card in cards) else "soft"
    return Card(
        software=Software(name="meddistill", version=__version__),
        task=Task(classes=combined.classes, labels=kind),
        images=Images(
            count=len(combined.images),
            per_class=each,
            size=combined.size,
            channels=combined.channels,
            intensity=cards[0].images.intensity,
            stored=stored,
        ),
        normalisation=Normalisation(mean=combined.normalisation.mean, std=combined.normalisation.std),
        recipe=_recipe(cards, combined, digests),
        cohort=CohortCounts(counts=_counts(parts, renaming)),
        contains_real_images=any(card.contains_real_images for card in cards),
        bytes=Sizes(cohort_train=_cohort_bytes(cards)),
        terms=Terms(
            **{name: _terms([getattr(card.terms, name) for card in cards]) for name in Terms.__dataclass_fields__}
        ),
    )


def _cohort_bytes(cards: Sequence[Card]) -> int | None:
    """Of all cohorts together; withheld if one withholds its own."""
    known = [card.bytes.cohort_train for card in cards if card.bytes.cohort_train is not None]
    return sum(known) if len(known) == len(cards) else None


def _recipe(cards: Sequence[Card], combined: Combined, digests: Sequence[str]) -> Recipe:
    plan: dict[str, int | float | str | bool] = {"fit": combined.fit, "leak": combined.leak, "parts": len(cards)}
    plan[MIXED] = combined.mixed_splits
    plan |= unflipped(combined.flip)
    for place, (card, digest) in enumerate(zip(cards, digests, strict=True), 1):
        plan[f"part.{place}.sha256"] = digest
        plan[f"part.{place}.method"] = card.recipe.method
        plan[f"part.{place}.images"] = card.images.count
        plan[f"part.{place}.start"] = card.recipe.start
    return Recipe(
        method=METHOD,
        seed=combined.seed,
        start=_start([card.recipe.start for card in cards]),
        network=combined.network,
        plan=plan,
    )


def _start(starts: Sequence[Start]) -> Start:
    """The one that tells most of patients."""
    closest: tuple[Start, ...] = ("real", "prototypes", "public", "noise")
    return next(start for start in closest if start in starts)


def _counts(parts: Sequence[Part], renaming: Renaming) -> Counts | Literal["withheld"]:
    """Images of all cohorts together, by split and class; withheld if one sender withholds them."""
    total: dict[str, Counter[str]] = {}
    for part in parts:
        counts = part.package.card.cohort.counts
        if not isinstance(counts, Mapping):
            return "withheld"
        for split, by_class in counts.items():
            for name, becomes in zip(by_class, renaming.names(part.name, list(by_class)), strict=True):
                total.setdefault(split, Counter())[becomes] += by_class[name]
    return total


def _terms(texts: Sequence[str]) -> str:
    """What all senders say, or what each says: no part's terms cover another's.

    Where that is more than a card takes, the longest are cut, all alike and between words, and say so.
    """
    if len(set(texts)) == 1:
        return texts[0]
    parts: dict[str, list[str]] = {}
    for place, text in enumerate(texts, 1):
        parts.setdefault(text or "nothing stated", []).append(str(place))
    wholes = {f"part{'s' * (len(places) > 1)} {', '.join(places)}": text for text, places in parts.items()}
    shortened = ("; ".join(f"{who}: {_cut(text, most)}" for who, text in wholes.items()) for most in _LENGTHS)
    return next(text for text in shortened if len(text) <= MAX_TEXT)


def _cut_terms(terms: Terms) -> list[str]:
    """What is told of terms that did not fit."""
    return [
        f"terms.{name}: longer together than the {MAX_TEXT} characters of a card, and cut; each package has its own"
        for name, text in vars(terms).items()
        if CUT in text
    ]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most].rsplit(' ', 1)[0]} {CUT}"
