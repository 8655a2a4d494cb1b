"""From a source to a cohort: read, decode, check everything, settle the splits, assemble."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meddistill.cohort.check import check
from meddistill.cohort.fingerprint import Fingerprint, fingerprint, propose_size
from meddistill.cohort.options import ReadOptions
from meddistill.cohort.problems import CohortError, Problem, in_order, number, problem
from meddistill.cohort.read import read
from meddistill.cohort.scan import UNSPLIT, Scan, native_sizes, scan
from meddistill.cohort.split import complete, groups, split
from meddistill.cohort.types import SPLITS, Cohort, Fit, Leak, in_bits
from meddistill.runtime.errors import InputError
from meddistill.runtime.progress import Progress, Silent

__all__ = ["CohortError", "Fingerprint", "Leak", "Prepared", "Survey", "prepare", "propose_size", "survey"]

MIN_SIZE, MAX_SIZE = 4, 1024
_DROPPED = -2
_TRAIN, _VAL, _TEST = range(len(SPLITS))
_SKIPPABLE = ("unreadable", "missing-file", "closed-folder")


@dataclass(frozen=True)
class Prepared:
    """A cohort that is ready to be learned from, what was found on the way, and its fingerprint.

    ``people``: ``(N,)`` numbers, equal for images of one patient, in whatever source they are; where a source names no
    patient, equal for identical images. For the audit, which counts patients: they leave the process in no form.
    ``digests``: of the files and the pixels of every image that could be read, those left out as leaks among them.
    """

    cohort: Cohort
    problems: tuple[Problem, ...]
    fingerprint: Fingerprint
    people: npt.NDArray[np.int64]
    digests: frozenset[bytes]


@dataclass(frozen=True)
class Survey:
    """What ``inspect`` shows of a source: the fingerprint as it would be used, and every problem."""

    fingerprint: Fingerprint
    problems: tuple[Problem, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"fingerprint": self.fingerprint.as_dict(), "problems": [found.as_dict() for found in self.problems]}


@dataclass(frozen=True)
class _Settled:
    """Splits to be used, ``(N,)``: an index into ``SPLITS``, or ``_DROPPED``; where they come from; all problems."""

    splits: npt.NDArray[np.int8]
    origin: str
    problems: tuple[Problem, ...]


def prepare(
    source: Path,
    *,
    size: int | None,
    fit: Fit = "crop",
    options: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
    leak: Leak = "stop",
    images_per_class: int | None = None,
    seed: int = 0,
    evaluation: bool = False,
    leak_remedy: str | None = None,
    progress: Progress = Silent(),
) -> Prepared:
    """Read ``source`` into a cohort of square images.

    ``size``: working size in pixels, ``None`` for the proposed one. ``leak``: what to do about patients or identical
    images in more than one split: ``stop``; ``allow`` them; ``drop`` them (test is kept whole, training and validation
    lose what test has, validation loses what training has); or ``resplit`` everything. ``images_per_class``: how many
    will be asked for, so that a class with fewer training images is an error. ``seed``: of splits that are assigned.
    ``evaluation``: the source is only evaluated on: it may have no training images and need not have every class, and
    its leaks do not stop. ``leak_remedy``: what to advise about leaks in the place of the options of ``distill``.

    Raises :class:`~meddistill.cohort.problems.CohortError` with all errors, and with leaks under ``stop``, at once.
    """
    _require_size(size)
    listing = read(source, options)
    working = propose_size(native_sizes(listing)) if size is None else size
    scanned = scan(listing, working, fit, progress)
    settled = _settle(scanned, options, leak, images_per_class, seed, evaluation=evaluation, leak_remedy=leak_remedy)
    stopping = {"error", "leak"} if leak == "stop" and not evaluation else {"error"}
    if not scanned.records or any(found.level in stopping for found in settled.problems):
        raise CohortError(str(source), settled.problems)
    cohort = _assemble(scanned, settled.splits)
    return Prepared(
        cohort,
        settled.problems,
        fingerprint(scanned, settled.splits, settled.origin),
        _people(scanned)[settled.splits >= 0],
        frozenset(digest for facts in scanned.facts for digest in facts.digests),
    )


def survey(
    source: Path,
    *,
    options: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
    images_per_class: int | None = None,
    seed: int = 0,
    progress: Progress = Silent(),
) -> Survey:
    """The fingerprint of ``source`` and all its problems. Raises only if there is not one image that can be read."""
    scanned = scan(read(source, options), None, progress=progress)
    settled = _settle(scanned, options, "allow", images_per_class, seed)
    if not scanned.records:
        raise CohortError(str(source), settled.problems)
    return Survey(fingerprint(scanned, settled.splits, settled.origin), settled.problems)


def _require_size(size: int | None) -> None:
    if size is not None and not MIN_SIZE <= size <= MAX_SIZE:
        raise InputError(f"a working size of {size} pixels was asked for: expected {MIN_SIZE} to {MAX_SIZE}")


def _settle(
    scanned: Scan,
    options: ReadOptions,
    leak: Leak,
    images_per_class: int | None,
    seed: int,
    *,
    evaluation: bool = False,
    leak_remedy: str | None = None,
) -> _Settled:
    given = scanned.given_splits
    kept = _without_leaks(scanned) if leak == "drop" else given
    splits = split(scanned, seed) if leak == "resplit" else complete(scanned, kept, seed)
    problems = check(scanned, images_per_class, splits, evaluation=evaluation, leak_remedy=leak_remedy)
    if options.skip_unreadable:
        problems = in_order(map(_skipped, problems))
    if leak in ("drop", "resplit"):
        problems = in_order((*map(_resolved, problems), *_remedied(leak, given, kept)))
    origin = "assigned" if leak == "resplit" or (given == UNSPLIT).all() else "given"
    if origin == "given" and (splits != kept).any():
        origin = "completed"
    return _Settled(splits, origin, problems)


def _without_leaks(scanned: Scan) -> npt.NDArray[np.int8]:
    """The given splits ``(N,)``, with ``_DROPPED`` for every image of a group that a more protected split holds too."""
    splits: npt.NDArray[np.int8] = scanned.given_splits.copy()
    group = groups(scanned)
    in_test = np.isin(group, group[splits == _TEST])
    splits[in_test & (splits != _TEST) & (splits != UNSPLIT)] = _DROPPED
    in_train = np.isin(group, group[splits == _TRAIN])
    splits[in_train & (splits == _VAL)] = _DROPPED
    return splits


def _resolved(found: Problem) -> Problem:
    """A leak that does no harm any more: its message is one short line, its places stay at hand."""
    if found.level != "leak":
        return found
    told = found.message.partition(f": {', '.join(found.places)}")[0]
    return replace(found, level="warning", message=f"{told}: resolved as asked", remedy="")


def _remedied(leak: Leak, given: npt.NDArray[np.int8], kept: npt.NDArray[np.int8]) -> list[Problem]:
    if leak == "resplit" and (given != UNSPLIT).any():
        return [problem("resplit", "warning", "the splits of the source were set aside and assigned anew")]
    dropped = given[kept == _DROPPED]
    places = [f"{(dropped == index).sum()} from {name}" for index, name in enumerate(SPLITS) if index in dropped]
    if not places:
        return []
    what = f"{number(len(dropped), 'image')} whose patient or copy another split holds were left out"
    return [problem("leak-dropped", "warning", what, places)]


def _skipped(found: Problem) -> Problem:
    if found.code not in _SKIPPABLE:
        return found
    told = found.message.removesuffix(found.remedy).strip()
    return replace(found, level="warning", message=f"{told} Left out as asked.", remedy="")


def _people(scanned: Scan) -> npt.NDArray[np.int64]:
    keys = [
        record.patient.encode() if record.patient else facts.pixel_digest
        for record, facts in zip(scanned.records, scanned.facts, strict=True)
    ]
    digests = b"".join(hashlib.blake2b(key, digest_size=8).digest() for key in keys)
    return np.frombuffer(digests, np.int64)


def _assemble(scanned: Scan, splits: npt.NDArray[np.int8]) -> Cohort:
    rows = np.flatnonzero(splits >= 0)
    size = scanned.size or 0
    wide = any(scanned.facts[row].bits == 16 for row in rows)
    channels = 3 if any(scanned.facts[row].colour for row in rows) else 1
    images = np.empty((len(rows), channels, size, size), np.uint16 if wide else np.uint8)
    for place, row in enumerate(rows):
        images[place] = _planes(scanned.pixels[row], wide)
    return Cohort(images, scanned.labels[rows], splits[rows].astype(np.uint8), scanned.listing.classes)


def _planes(pixels: npt.NDArray[np.generic], wide: bool) -> npt.NDArray[np.generic]:
    """``(1 or 3, S, S)``, with 16 bits if ``wide``."""
    return in_bits(pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0), wide)
