"""What a cohort is like, in numbers; the plan is proposed from it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from meddistill.cohort.scan import Scan
from meddistill.cohort.types import SPLITS

DEFAULT_SIZE = 64


@dataclass(frozen=True)
class Range:
    """Smallest, median and largest, in pixels."""

    smallest: int
    median: float
    largest: int


@dataclass(frozen=True)
class Fingerprint:
    """Counts and sizes of a cohort; holds no file name and no patient id.

    ``counts``: images per class and split. ``split_origin``: ``given`` by the source, ``assigned`` by meddistill, or
    ``completed`` (some given, some taken out of training). ``width``, ``height``: native. ``channels``: 1 or 3.
    ``bit_depth``: 8 or 16. ``imbalance``: largest over smallest class in training, ``None`` if one is empty.
    ``patients``: different ids per split, ``None`` where no image has one. ``without_patient``: images without id, or
    with that of a study or file alone. ``unreadable``: images that could not be decoded. ``ignored``: files left
    aside, by suffix. ``proposed_size``: pixels.
    """

    name: str
    kind: str
    images: int
    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    split_origin: str
    width: Range
    height: Range
    channels: int
    bit_depth: int
    imbalance: float | None
    patients: dict[str, int] | None
    without_patient: int
    unreadable: int
    ignored: dict[str, int]
    proposed_size: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "classes": list(self.classes)}


def fingerprint(scan: Scan, splits: npt.NDArray[np.int8], origin: str) -> Fingerprint:
    """The fingerprint of the images of ``scan`` whose ``splits`` ``(N,)`` entry is an index into ``SPLITS``."""
    kept = np.flatnonzero(splits >= 0)
    facts = [scan.facts[row] for row in kept]
    counts: dict[str, dict[str, int]] = {name: _counts(scan, splits, index) for index, name in enumerate(SPLITS)}
    return Fingerprint(
        name=scan.listing.name,
        kind=scan.listing.kind,
        images=len(kept),
        classes=scan.listing.classes,
        counts=counts,
        split_origin=origin,
        width=_range([fact.width for fact in facts]),
        height=_range([fact.height for fact in facts]),
        channels=3 if any(fact.colour for fact in facts) else 1,
        bit_depth=max((fact.bits for fact in facts), default=8),
        imbalance=_imbalance(counts["train"]),
        patients=_patients(scan, splits),
        without_patient=sum(not scan.records[row].names_patient for row in kept),
        unreadable=len(scan.unreadable),
        ignored=dict(sorted(scan.listing.ignored.items())),
        proposed_size=propose_size([(fact.width, fact.height) for fact in facts]),
    )


def propose_size(native: Sequence[tuple[int, int]]) -> int:
    """Default working size in pixels for images of ``native`` (width, height): the median short side, at most 64."""
    if not native:
        return DEFAULT_SIZE
    short_sides: list[int] = [min(size) for size in native]
    return min(DEFAULT_SIZE, int(np.median(short_sides)))


def _counts(scan: Scan, splits: npt.NDArray[np.int8], index: int) -> dict[str, int]:
    names = scan.listing.classes
    found = np.bincount(scan.labels[splits == index], minlength=len(names))
    return dict(zip(names, map(int, found), strict=True))


def _range(values: Sequence[int]) -> Range:
    if not values:
        return Range(0, 0.0, 0)
    return Range(min(values), float(np.median(values)), max(values))


def _imbalance(counts: dict[str, int]) -> float | None:
    smallest = min(counts.values(), default=0)
    return round(max(counts.values()) / smallest, 2) if smallest else None


def _patients(scan: Scan, splits: npt.NDArray[np.int8]) -> dict[str, int] | None:
    if all(record.patient is None for record in scan.records):
        return None
    found: dict[str, set[str]] = {name: set() for name in SPLITS}
    for record, index in zip(scan.records, splits.tolist(), strict=True):
        if record.patient is not None and index >= 0:
            found[SPLITS[index]].add(record.patient)
    return {name: len(ids) for name, ids in found.items()}
