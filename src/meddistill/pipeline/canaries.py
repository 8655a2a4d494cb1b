"""Canaries: records that are planted among the training images, each by a coin of its own, to measure what leaks.

There are as many of each kind: patients' images as they are (``natural``), with the label of another class
(``flipped``), empty images of one grey (``blank``), and images like no other (``outlier``: random black and white
fields). Each is a patient of its own with one image. Natural and flipped canaries are taken from the training split,
with all other images of their patients: whoever loses the coin had no part in the run at all.

What the canaries are follows from the seed and may be known to anybody. The coins may not: they come from the
operating system, never from the seed, which stands on the card, and they are kept, with the images, in one file of the
run folder that its owner alone may read. So such a run cannot be repeated; continued, it gives the same bytes.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meddistill.cohort.prepare import Prepared
from meddistill.cohort.types import SPLITS, Cohort
from meddistill.privacy.noise import SYSTEM, Source
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import write_atomic
from meddistill.runtime.streams import numpy_stream

KINDS = ("natural", "flipped", "blank", "outlier")
OF_PATIENTS = ("natural", "flipped")
LEAST = len(KINDS)
_MARK = "canaries of meddistill: images of patients and secret coins; keep this file in the house"
_TENSORS = ("images", "labels", "kinds", "included")
_FIELDS = 7  # of an outlier, along each side

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Design:
    """Canaries before the coins fall.

    ``images``: (m, C, S, S) as the cohort has them. ``labels``: (m,) int64. ``kinds``: (m,) uint8, places in
    :data:`KINDS`. ``held``: rows of the cohort that are training images no more.
    """

    images: Pixels
    labels: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.uint8]
    held: npt.NDArray[np.intp]


@dataclass(frozen=True)
class Canaries:
    """Canaries and their coins: ``included`` (m,). ``package``: SHA-256 of the package's tensors, once it is made."""

    images: Pixels
    labels: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.uint8]
    included: npt.NDArray[np.bool_]
    package: str = ""

    @property
    def peak(self) -> int:
        """The largest value that the images' dtype holds."""
        return int(np.iinfo(self.images.dtype).max)

    def save(self, path: Path) -> None:
        """Write the file that its owner alone may read."""
        import safetensors.numpy

        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in _TENSORS}
        write_atomic(path, safetensors.numpy.save(tensors, {"what": _MARK, "package": self.package}), private=True)


def load(path: Path) -> Canaries:
    """The canaries in a file. Raises :class:`InputError` for any other file."""
    from safetensors import SafetensorError, safe_open

    problem = f"{path} does not hold canaries: give canaries.safetensors of the run folder of `distill --canaries`"
    try:
        with safe_open(str(path), "np") as file:
            told, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in _TENSORS}
        if told.get("what") != _MARK:
            raise InputError(problem)
        found = Canaries(**tensors, package=told["package"])
        _require_sound(found)
        return found
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{problem} ({error})") from None


def _require_sound(found: Canaries) -> None:
    """Raises :class:`ValueError` unless the arrays are as :class:`Canaries` has them."""
    images, count = found.images, len(found.images)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"its images are {images.dtype} of shape {images.shape}")
    for name, dtype in (("labels", np.int64), ("kinds", np.uint8), ("included", np.bool_)):
        array = getattr(found, name)
        if array.shape != (count,) or array.dtype != dtype:
            raise ValueError(f"its {name} are {array.dtype} of shape {array.shape}, its images {count}")
    if (found.labels < 0).any() or (found.kinds >= len(KINDS)).any():
        raise ValueError("it has labels or kinds that there are not")


def design(prepared: Prepared, count: int, seed: int, least: int) -> Design:
    """Choose ``count`` canaries; ``least``: training images of each class that must be left.

    Raises :class:`InputError` where there are too few training patients.
    """
    if count < LEAST:
        raise InputError(f"{count} canaries were asked for: expected {LEAST} or more, about a hundred to say anything")
    draws, cohort = numpy_stream(seed, "canaries"), prepared.cohort
    kinds = (np.arange(count) % len(KINDS)).astype(np.uint8)
    train = cohort.indices("train")
    people = np.unique(prepared.people[train])
    taken = [place for place, kind in enumerate(kinds) if KINDS[kind] in OF_PATIENTS]
    if 2 * len(taken) > len(people):
        raise InputError(
            f"{count} canaries take {len(taken)} of {len(people)} training patients: no more than half of them may be "
            "taken; ask for fewer canaries"
        )
    persons = draws.choice(people, len(taken), replace=False)
    held = train[np.isin(prepared.people[train], persons)]
    _require_left(cohort, np.setdiff1d(train, held), count, least)
    images, labels = _made_up(cohort, kinds, draws)
    for place, person in zip(taken, persons, strict=True):
        row = draws.choice(train[prepared.people[train] == person])
        images[place], labels[place] = cohort.images[row], cohort.labels[row]
        if KINDS[kinds[place]] == "flipped":
            labels[place] = (labels[place] + draws.integers(1, len(cohort.classes))) % len(cohort.classes)
    return Design(images, labels, kinds, held)


def coins(count: int, source: Source = SYSTEM) -> npt.NDArray[np.bool_]:
    """``(count,)`` fair coins from the operating system."""
    return np.asarray(np.frombuffer(source(count), np.uint8) & 1, np.bool_)


def tossed(chosen: Design, included: npt.NDArray[np.bool_]) -> Canaries:
    """The canaries of a design, with their coins."""
    return Canaries(chosen.images, chosen.labels, chosen.kinds, included)


def plant(prepared: Prepared, chosen: Design, included: npt.NDArray[np.bool_]) -> Prepared:
    """The source without the patients that canaries are made of, and with the canaries whose coins say so."""
    cohort = prepared.cohort
    kept = np.setdiff1d(np.arange(len(cohort.labels)), chosen.held)
    count = int(included.sum())
    images: Any = np.concatenate([cohort.images[kept], chosen.images[included]])
    planted = Cohort(
        images=images,
        labels=np.concatenate([cohort.labels[kept], chosen.labels[included]]),
        splits=np.concatenate([cohort.splits[kept], np.full(count, SPLITS.index("train"), np.uint8)]),
        classes=cohort.classes,
    )
    return replace(
        prepared, cohort=planted, people=np.concatenate([prepared.people[kept], _strangers(prepared, count)])
    )


def _require_left(cohort: Cohort, left: npt.NDArray[np.intp], count: int, least: int) -> None:
    each = np.bincount(cohort.labels[left], minlength=len(cohort.classes))
    few = [f"{name} {found}" for name, found in zip(cohort.classes, each, strict=True) if found < least]
    if few:
        raise InputError(
            f"{count} canaries leave too few training images ({', '.join(few)}; needed: {least} of each class): ask "
            "for fewer canaries"
        )


def _made_up(cohort: Cohort, kinds: npt.NDArray[np.uint8], draws: np.random.Generator) -> tuple[Any, Any]:
    """Images and labels of the canaries that are of nobody; the others' places are empty."""
    images = np.zeros((len(kinds), *cohort.images.shape[1:]), cohort.images.dtype)
    labels = draws.integers(0, len(cohort.classes), len(kinds))
    blank = np.flatnonzero(kinds == KINDS.index("blank"))
    for place, row in enumerate(blank):  # each of a grey of its own: two alike could not be told apart
        images[row] = round(cohort.peak * (place + 0.5) / len(blank))
    field = -(-cohort.size // _FIELDS)
    for row in np.flatnonzero(kinds == KINDS.index("outlier")):
        fields = draws.integers(0, 2, (cohort.channels, _FIELDS, _FIELDS)) * cohort.peak
        images[row] = fields.repeat(field, 1).repeat(field, 2)[:, : cohort.size, : cohort.size]
    return images, labels


def _strangers(prepared: Prepared, count: int) -> npt.NDArray[np.int64]:
    """Numbers of patients that nobody has yet."""
    free = np.setdiff1d(np.arange(count + len(prepared.people)), prepared.people)
    return np.asarray(free[:count], np.int64)
