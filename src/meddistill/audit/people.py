"""Whom the audit asks about: the patients that a package or a model was made from, and others who had no part in it.

Both are read as the images that went into it were: same size, same fit to a square, same splits. The unit is the
patient. Images without an id count each for itself, identical ones once; where there are any, the unit is the image.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from meddistill.audit.origin import UNCHECKED, UNTOLD, Origin, Told, origin_of, told_by
from meddistill.cohort.prepare import Prepared, prepare
from meddistill.cohort.read import ReadOptions
from meddistill.cohort.types import SPLITS, Cohort, Fit, Leak, in_bits
from meddistill.package.types import Card
from meddistill.pipeline.tell import tell
from meddistill.runtime.errors import InputError
from meddistill.runtime.progress import Progress, Silent, Stage
from meddistill.train.model import Model, fit_named
from meddistill.train.splits import is_mixed, require_given, way_of

Part = Literal["train", "val", "test", "all"]
PARTS = (*SPLITS, "all")
BLOCK = 512


@dataclass(frozen=True)
class Sample:
    """Which images of which source: one split of it, or all."""

    source: Path
    part: Part


@dataclass(frozen=True)
class Making:
    """How images were read for what is audited, ``of`` the package or the model, and the classes that they have.

    ``told``: what is known of those that it was made from.
    """

    of: str
    size: int
    channels: int
    classes: tuple[str, ...]
    fit: Fit
    leak: Leak
    seed: int
    mixed_splits: bool = False
    told: Told = UNTOLD


def making_of_package(card: Card) -> Making:
    """As the card tells."""
    plan = card.recipe.plan
    fit, (seed, leak), images = fit_named(plan.get("fit", "crop")), way_of(card), card.images
    classes, told = card.task.classes, told_by(card)
    return Making("the package", images.size, images.channels, classes, fit, leak, seed, is_mixed(card), told)


def making_of_model(model: Model) -> Making:
    """As the model's description tells."""
    network, split = model.network, (model.leak, model.seed, model.mixed_splits)
    return Making("the model", network.size, network.channels, model.classes, model.fit, *split)


@dataclass(frozen=True)
class People:
    """Images of some patients.

    ``pixels``: (N, C, S, S) whole numbers up to ``peak``. ``labels``: (N,) int64 in the classes of what is audited.
    ``patient``: (N,) int64 from 0 to the number of patients − 1, in the order of their first images.
    """

    pixels: npt.NDArray[Any]
    peak: int
    labels: npt.NDArray[np.int64]
    patient: npt.NDArray[np.int64]

    @property
    def count(self) -> int:
        """How many patients."""
        return int(self.patient.max()) + 1 if len(self.patient) else 0

    @property
    def classes(self) -> npt.NDArray[np.int64]:
        """The class of each patient's first image ``(count,)``."""
        return self.labels[np.unique(self.patient, return_index=True)[1]]

    def images(self, rows: npt.NDArray[np.intp] | slice) -> Tensor:
        """Intensities in [0, 1] of these rows, float32 on the CPU."""
        return torch.from_numpy(self.pixels[rows].astype(np.float32)) / self.peak

    def blocks(self, device: torch.device) -> Iterator[Tensor]:
        """Intensities of all images, a few hundred at a time."""
        for begin in range(0, len(self.pixels), BLOCK):
            yield self.images(slice(begin, begin + BLOCK)).to(device)

    def best(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Each patient's largest score ``(count,)``, of scores an image ``(N,)``."""
        found = np.full(self.count, -np.inf)
        np.maximum.at(found, self.patient, scores)
        return found

    def mean(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Each patient's mean score ``(count,)``, of scores an image ``(N,)``."""
        return np.bincount(self.patient, scores, self.count) / np.bincount(self.patient, minlength=self.count)


@dataclass(frozen=True)
class Groups:
    """Members, control patients, and what had to be done to keep them apart.

    ``unit``: ``patient`` where every image of both sources has an id, else ``image``, as on a card with an ε.
    ``overlap``: control patients who are members as well, and were left out. ``origin``: whether members agree with
    what is known of those it was made from.
    """

    members: People
    control: People
    unit: Literal["patient", "image"]
    overlap: int
    origin: Origin = UNCHECKED


def sample(text: str, default: Part) -> Sample:
    """``SOURCE`` or ``SOURCE:SPLIT``; without a split, ``default``."""
    source, colon, part = text.rpartition(":")
    if colon and part in PARTS:
        return Sample(Path(source), cast(Part, part))
    return Sample(Path(text), default)


def read_groups(
    members: Sample,
    control: Sample,
    making: Making,
    options: ReadOptions = ReadOptions(),
    progress: Progress = Silent(),
) -> Groups:
    """Read both samples as the images of what is audited were. A source that both name is read once.

    A control patient is a member as well who has a member's name, or one of a member's images: two sources may call
    him differently, or one of them not at all.

    Raises :class:`InputError` for a sample without images, with other classes or more channels than these had, and
    where nobody is left in the control group once the members are taken out of it.
    """
    asked = {members.source: "reading members", control.source: "reading control"}
    shown = {source: progress if len(asked) == 1 else _Called(progress, name) for source, name in asked.items()}
    sources = {source: _read(source, making, options, display) for source, display in shown.items()}
    (inside, ids), (outside, other_ids) = (_taken(one, sources[one.source], making) for one in (members, control))
    shared = np.isin(other_ids, ids) | _same_images(outside.pixels, _telling(inside.pixels))
    kept = ~np.isin(other_ids, other_ids[shared])
    if not kept.any():
        raise InputError(
            f"every patient of the control group {_told(control)} is among the members {_told(members)} too: give "
            "patients whose images had no part in the package, for example SOURCE:test"
        )
    overlap = len(np.unique(other_ids[~kept]))
    outside, other_ids = _rows(outside, kept), other_ids[kept]
    named = not any(one.fingerprint.without_patient for one in sources.values())
    return Groups(
        replace(inside, patient=_numbered(ids)),
        replace(outside, patient=_numbered(other_ids)),
        "patient" if named else "image",
        overlap,
        origin_of(np.bincount(inside.labels, minlength=len(making.classes)).tolist(), making.classes, making.told),
    )


@dataclass(frozen=True)
class _Called:
    """A display that calls every stage by one name: of two sources one wants to know which is read."""

    shown: Progress
    name: str

    def stage(self, _: str, total: float | None = None) -> AbstractContextManager[Stage]:
        return self.shown.stage(self.name, total)

    def note(self, text: str) -> None:
        self.shown.note(text)

    def warn(self, text: str) -> None:
        self.shown.warn(text)


def _read(source: Path, making: Making, options: ReadOptions, progress: Progress) -> Prepared:
    prepared = prepare(
        source,
        size=making.size,
        fit=making.fit,
        options=options,
        leak=making.leak,
        seed=making.seed,
        evaluation=True,
        progress=progress,
    )
    tell(prepared, progress)
    return prepared


def _taken(wanted: Sample, prepared: Prepared, making: Making) -> tuple[People, npt.NDArray[np.int64]]:
    """The images of the sample, and the numbers of their patients across sources."""
    cohort = prepared.cohort
    if making.mixed_splits and wanted.part != "all":
        require_given(wanted.source, prepared.fingerprint.split_origin, making.leak)
    rows = np.arange(len(cohort.labels)) if wanted.part == "all" else cohort.indices(wanted.part)
    if not len(rows):
        found = ", ".join(f"{name} {len(cohort.indices(name))}" for name in SPLITS)
        raise InputError(f"{_told(wanted)} has no images (the source has {found}): name another split, or all")
    images: npt.NDArray[Any] = cohort.images[rows]
    if cohort.channels > making.channels:
        raise InputError(f"{_told(wanted)} has colour images, those of {making.of} are grey: is it the right source?")
    if cohort.channels < making.channels:
        images = np.repeat(images, making.channels, axis=1)
    labels = _in_classes(cohort, wanted, making)[rows]
    ids = prepared.people[rows]
    return People(images, cohort.peak, labels, np.zeros(len(rows), np.int64)), ids


def _in_classes(cohort: Cohort, wanted: Sample, making: Making) -> npt.NDArray[np.int64]:
    unknown = sorted(set(cohort.classes) - set(making.classes))
    if unknown:
        raise InputError(
            f"{_told(wanted)} has the classes {', '.join(unknown)}, which {making.of} does not have: its classes are "
            f"{', '.join(making.classes)}. Is it the right source?"
        )
    places = np.array([making.classes.index(name) for name in cohort.classes], np.int64)
    return places[cohort.labels]


def without(people: People, images: npt.NDArray[Any]) -> People:
    """Those who have none of these ``images`` (m, C, S, S), pixel by pixel."""
    kept = ~np.isin(people.patient, people.patient[_same_images(people.pixels, images)])
    rest = _rows(people, kept)
    return replace(rest, patient=_numbered(rest.patient))


def _telling(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Without images of a single value, which show nobody: empty slices of two people are alike."""
    flat = pixels.reshape(len(pixels), -1)
    found: npt.NDArray[Any] = pixels[flat.min(1) < flat.max(1)]
    return found


def _same_images(pixels: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which images are among ``others``, pixel by pixel, whichever of them have 16 bits ``(N,)``."""
    wide = pixels.dtype != others.dtype
    known = {in_bits(image, wide).tobytes() for image in others}
    return np.array([in_bits(image, wide).tobytes() in known for image in pixels], bool)


def _rows(people: People, kept: npt.NDArray[np.bool_]) -> People:
    return replace(people, pixels=people.pixels[kept], labels=people.labels[kept], patient=people.patient[kept])


def _numbered(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Numbers from 0 on, in the order of first appearance."""
    _, first, place = np.unique(ids, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[place]


def _told(wanted: Sample) -> str:
    return f"{wanted.source}:{wanted.part}"
