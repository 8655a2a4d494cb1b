"""Packages of several hospitals as one training set.

What differs is reconciled where that is safe, and told; where it is not, all conflicts are listed at once:

- classes are matched by name, after a mapping if one is given; the union of all classes is learned;
- images get the largest of the sizes (enlarged by the resize rule of cohorts: nothing is lost), unless that would take
  more room than so many packages can hold;
- grey images among colour ones are repeated in three channels;
- no image is mirrored in training where one of the packages says that its classes differ by side;
- one normalisation for all: mean and spread of the hospitals' training images taken together, each package weighing
  as many images as its card says it was made from (all alike if one withholds that). An image of any hospital then goes
  through the same preprocessing as the synthetic images that stand for it.

A single package comes out exactly as it went in.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from meddistill.cohort.resize import resize_intensities
from meddistill.cohort.types import Fit, Leak
from meddistill.package.limits import MAX_PIXELS
from meddistill.package.members import TENSORS
from meddistill.package.text import class_problems
from meddistill.package.types import Card, Package
from meddistill.runtime.errors import InputError
from meddistill.runtime.words import spelling
from meddistill.teachers.images import Normalisation
from meddistill.train.model import fit_named
from meddistill.train.renaming import NO_RENAMING, Renaming
from meddistill.train.splits import is_mixed, way_of

Floats = npt.NDArray[np.float32]
_MIXED = "the sources were split by different seeds or treatments of leaks: what is scored must have splits of its own"


@dataclass(frozen=True)
class Part:
    """A package, and what to call it: the name of its file."""

    name: str
    package: Package


@dataclass(frozen=True)
class Share:
    """What one package gives to the whole, after reconciling.

    ``images``: (n, C, S, S) float32 intensities; ``labels``: (n, K) over all classes; ``made_from``: training images
    that it was distilled from, 0 if that is withheld. ``digest``: SHA-256 of its tensors.
    """

    name: str
    images: Floats
    labels: Floats
    normalisation: Normalisation
    made_from: int
    digest: str


@dataclass(frozen=True)
class Combined:
    """One training set of several packages, and how a model of it takes its images.

    ``network``: the first package's; so are ``fit``, ``leak`` and ``seed``. ``mixed_splits``: the packages differ in
    seed or leak, so that neither draws the splits of all sources again (:mod:`~meddistill.train.splits`); ``leak`` is
    then ``resplit`` if any package's is. ``flip``: whether images are mirrored in training: not if any package says no.
    ``notes``: what was reconciled.
    """

    shares: tuple[Share, ...]
    classes: tuple[str, ...]
    network: str
    fit: Fit
    leak: Leak
    seed: int
    notes: tuple[str, ...]
    mixed_splits: bool = False
    flip: bool = True

    @cached_property
    def images(self) -> Floats:
        """Intensities ``(n, C, S, S)`` of all packages, in their order."""
        return _joined([share.images for share in self.shares])

    @cached_property
    def labels(self) -> Floats:
        """Probabilities ``(n, K)``."""
        return _joined([share.labels for share in self.shares])

    @property
    def normalisation(self) -> Normalisation:
        """That of all the packages together."""
        return pooled([share.normalisation for share in self.shares], [share.made_from for share in self.shares])

    @property
    def channels(self) -> int:
        return int(self.shares[0].images.shape[1])

    @property
    def size(self) -> int:
        return int(self.shares[0].images.shape[-1])

    def without(self, place: int) -> "Combined":
        """The same lacking one package; classes, size and network stay."""
        return replace(self, shares=self.shares[:place] + self.shares[place + 1 :])


def combine(parts: Sequence[Part], renaming: Renaming = NO_RENAMING) -> Combined:
    """The parts as one. Raises :class:`InputError` listing all conflicts, each with its remedy."""
    called = {part.name: renaming.names(part.name, part.package.card.task.classes) for part in parts}
    problems = _conflicts(parts, called, renaming)
    if problems:
        listed = "\n".join(f"- {text}" for text in problems)
        raise InputError(f"the packages cannot be used together:\n{listed}")
    cards = [part.package.card for part in parts]
    classes = _union(called)
    size = max(card.images.size for card in cards)
    channels = max(card.images.channels for card in cards)
    ways = [way_of(card) for card in cards]
    mixed = len(set(ways)) > 1 or any(map(is_mixed, cards))
    return Combined(
        shares=tuple(_share(part, called[part.name], classes, size, channels) for part in parts),
        classes=classes,
        network=cards[0].recipe.network,
        fit=_fit(cards[0]),
        leak="resplit" if any(leak == "resplit" for _, leak in ways) else ways[0][1],
        seed=ways[0][0],
        notes=(*_notes(parts, called, classes, size, channels), *([_MIXED] if mixed else [])),
        mixed_splits=mixed,
        flip=all(card.flip for card in cards),
    )


def pooled(each: Sequence[Normalisation], made_from: Sequence[int]) -> Normalisation:
    """Mean and standard deviation of images of several cohorts taken together, from those of each.

    ``made_from``: images of each; all weigh alike if one of them is 0. Equal ones come back unchanged.
    """
    if all(one == each[0] for one in each):
        return each[0]
    weights = np.array(made_from if all(made_from) else [1] * len(each), np.float64)
    weights = (weights / weights.sum())[:, None]
    means, stds = np.array([one.mean for one in each]), np.array([one.std for one in each])
    mean = (weights * means).sum(0)
    std = np.sqrt((weights * (stds**2 + (means - mean) ** 2)).sum(0))
    return Normalisation(tuple(map(float, mean)), tuple(map(float, std)))


def _joined(arrays: Sequence[Floats]) -> Floats:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _share(part: Part, called: Sequence[str], classes: Sequence[str], size: int, channels: int) -> Share:
    package, card = part.package, part.package.card
    images = resize_intensities(package.enlarged, size)
    repeat = channels // images.shape[1]
    norm = Normalisation(card.normalisation.mean * repeat, card.normalisation.std * repeat)
    counts = card.cohort.counts
    return Share(
        name=part.name,
        images=images if repeat == 1 else np.repeat(images, repeat, axis=1),
        labels=_relabelled(package.labels, called, classes),
        normalisation=norm,
        made_from=sum(counts.get("train", {}).values()) if isinstance(counts, Mapping) else 0,
        digest=card.digests.get(TENSORS, ""),
    )


def _relabelled(labels: Floats, called: Sequence[str], classes: Sequence[str]) -> Floats:
    if tuple(called) == tuple(classes):
        return labels
    found = np.zeros((len(labels), len(classes)), np.float32)
    for column, name in enumerate(called):
        found[:, classes.index(name)] += labels[:, column]
    np.minimum(found, 1, out=found)  # added probabilities may exceed 1 by a rounding
    return found


def _fit(card: Card) -> Fit:
    return fit_named(card.recipe.plan.get("fit", "crop"))


def _conflicts(parts: Sequence[Part], called: Mapping[str, Sequence[str]], renaming: Renaming) -> list[str]:
    return [
        *_same_twice(parts),
        *renaming.unused([(part.name, part.package.card.task.classes) for part in parts]),
        *_intensities(parts),
        *_too_large(parts),
        *_similar(called),
        *class_problems(_union(called)),
        *([] if renaming.rules else _strangers(called)),
    ]


def _same_twice(parts: Sequence[Part]) -> list[str]:
    names = Counter(part.name for part in parts)
    problems = [f"{name} is the name of {count} files: rename them" for name, count in names.items() if count > 1]
    same: defaultdict[str, list[str]] = defaultdict(list)
    for part in parts:
        same[part.package.card.digests.get(TENSORS, part.name)].append(part.name)
    return problems + [
        f"{' and '.join(names)} hold the same images: give one of them"
        for names in same.values()
        if len(set(names)) > 1
    ]


def _intensities(parts: Sequence[Part]) -> list[str]:
    meanings = {part.name: part.package.card.images.intensity for part in parts}
    if len(set(meanings.values())) == 1:
        return []
    listed = "; ".join(f"{name}: {meaning}" for name, meaning in meanings.items())
    return [f"intensities mean different things ({listed}): ask for packages whose intensities mean the same"]


def _too_large(parts: Sequence[Part]) -> list[str]:
    """Many small images beside one large: enlarged they would take more room than so many packages ever hold."""
    images = [part.package.card.images for part in parts]
    size, channels = max(one.size for one in images), max(one.channels for one in images)
    values = sum(one.count for one in images) * channels * size**2
    if values <= MAX_PIXELS * len(parts):
        return []
    listed = "; ".join(f"{part.name}: {one.count} of {one.pixels}" for part, one in zip(parts, images, strict=True))
    return [
        f"enlarged to {size} pixels all images together have {values} values ({listed}), at most "
        f"{MAX_PIXELS * len(parts)} are allowed: leave out the package of the largest images"
    ]


def _union(called: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The classes of all packages, in the order of the packages."""
    return tuple(dict.fromkeys(name for names in called.values() for name in names))


def _similar(called: Mapping[str, Sequence[str]]) -> list[str]:
    """Names of several packages that differ in case, spaces or hyphens alone: most likely one class, never guessed.

    Those that one package has beside each other are classes of their own.
    """
    spellings: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for names in called.values():
        for name in names:
            spellings[spelling(name)][name] = None
    return [
        f"the classes {' and '.join(map(repr, alike))} differ in spelling alone: say with --classes what they become"
        for alike in spellings.values()
        if not any(alike.keys() <= set(names) for names in called.values())
    ]


def _strangers(called: Mapping[str, Sequence[str]]) -> list[str]:
    problems = []
    for package, names in called.items():
        others = {name for other, theirs in called.items() if other != package for name in theirs}
        if others and not others & set(names):
            own, known = ", ".join(names), ", ".join(sorted(others))
            problems.append(
                f"{package} has no class in common with the others (it has {own}; they have {known}): "
                "say with --classes what its classes are called there"
            )
    return problems


def _notes(
    parts: Sequence[Part], called: Mapping[str, Sequence[str]], classes: Sequence[str], size: int, channels: int
) -> list[str]:
    cards = {part.name: part.package.card for part in parts}
    first = next(iter(cards.values()))
    notes = [
        f"{name}: images enlarged from {card.images.size} to {size} pixels"
        for name, card in cards.items()
        if card.images.size != size
    ]
    notes += [
        f"{name}: grey images used as colour ones" for name, card in cards.items() if card.images.channels != channels
    ]
    for name, names in called.items():
        missing = [known for known in classes if known not in names]
        if missing:
            notes.append(f"{name} has no class {', '.join(missing)}: what is learned of it comes from the others")
    if len({(card.normalisation.mean, card.normalisation.std) for card in cards.values()}) > 1:
        notes.append("normalised by the mean and spread of all cohorts taken together")
    if len({card.recipe.network for card in cards.values()}) > 1:
        notes.append(f"the packages name different networks; {first.recipe.network} is the first one's")
    if len({_fit(card) for card in cards.values()}) > 1:
        notes.append(f"images were made square in different ways; '{_fit(first)}' is the first one's")
    if len({card.flip for card in cards.values()}) > 1:
        sided = ", ".join(name for name, card in cards.items() if not card.flip)
        notes.append(f"no image is mirrored in training: left and right tell classes of {sided} apart")
    return notes
