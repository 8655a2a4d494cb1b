"""Are the members that were given those that the package was made from, as far as the counts on its card can tell?

An audit against other patients finds nothing, whatever the package shows of its own. Nothing in a package names its
patients, but unless counts are withheld its card tells how many training images each class had. Counts that agree
prove nothing; counts that differ are no accident, since the audit reads a source as distilling did.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from meddistill.package.types import Card, Counts

Checked = Literal["agree", "differ", "part", "no"]
_NEAR = 0.02  # of the images on the card: as many may have been added or lost since
_MOST = 3  # classes that a message names


@dataclass(frozen=True)
class Told:
    """What is known of those that something was made from: images by split and class, None where that is not told.

    ``merged``: of several sources together, of which members may be one. ``why``: it is not told.
    """

    counts: Counts | None = None
    merged: bool = False
    why: str = "nothing tells how many images of each class it was made from"


UNTOLD = Told()


@dataclass(frozen=True)
class Origin:
    """Whether members agree with what is known; ``said``: what has to be told of that, empty where they do.

    ``part``: they may be some of the patients of a merged package. ``no``: it could not be checked.
    """

    checked: Checked = "no"
    said: str = ""


UNCHECKED = Origin()


def told_by(card: Card) -> Told:
    """What a card tells."""
    counts = card.cohort.counts
    if isinstance(counts, Mapping):
        return Told(counts, merged="parts" in card.recipe.plan)
    return Told(why="the card withholds its counts")


def origin_of(found: Sequence[int], classes: Sequence[str], told: Told) -> Origin:
    """Compare the members' images of each class, ``found``, with those of the training splits that are told."""
    if told.counts is None:
        return Origin("no", f"{told.why}: whether these members are those that it was made from was not checked")
    known = _by_class(told.counts.get("train", {}), classes)
    if _near(found, known):
        return Origin("agree")
    total, size = sum(found), sum(known)
    if told.merged and all(one <= most + _NEAR * size for one, most in zip(found, known, strict=True)):
        said = (
            f"a merged package, made from {size} images of several sources: whether the {total} of the members are "
            "among them was not checked"
        )
        return Origin("part", said)
    return Origin("differ", f"{_difference(found, known, classes)}. {_remedy(found, classes, told.counts)}")


def _near(found: Sequence[int], known: Sequence[int]) -> bool:
    return sum(abs(one - other) for one, other in zip(found, known, strict=True)) <= _NEAR * sum(known)


def _difference(found: Sequence[int], known: Sequence[int], classes: Sequence[str]) -> str:
    rows = sorted(zip(classes, found, known, strict=True), key=lambda row: -abs(row[1] - row[2]))
    named = ", ".join(f"{one} of {name} for {other}" for name, one, other in rows[:_MOST])
    return (
        f"the members have {sum(found)} images, and the card tells of {sum(known)} training images ({named}): these "
        "are not the patients that the package was made from, or not they alone"
    )


def _remedy(found: Sequence[int], classes: Sequence[str], counts: Counts) -> str:
    whole = [sum(row) for row in zip(*(_by_class(split, classes) for split in counts.values()), strict=True)]
    if _near(found, whole):
        return "They are as many as all splits together: give the training images (SOURCE:train)"
    return "Give the source that it was made from, with the same options for reading"


def _by_class(counts: Mapping[str, int], classes: Sequence[str]) -> list[int]:
    return [counts.get(name, 0) for name in classes]
