"""Splits that nobody can draw again: those of sources behind packages that were made with different seeds.

A model keeps one seed and one way of treating leaks, by which a source without splits is split again as it was for
distilling. Packages that differ in them leave no such seed: whichever is kept, it draws other splits for the other
sources, and images that went into a package would stand in their tests.
"""

from pathlib import Path

from meddistill.cohort.types import Leak
from meddistill.package.types import Card
from meddistill.runtime.errors import InputError
from meddistill.train.model import leak_named

MIXED = "mixed_splits"  # the entry of a merged card's plan, whose parts' seeds are not on it


def way_of(card: Card) -> tuple[int, Leak]:
    """The seed and the treatment of leaks by which a package's source was split."""
    return card.recipe.seed, leak_named(card.recipe.plan.get("leak", "stop"))


def is_mixed(card: Card) -> bool:
    """Whether a package's parts were split in different ways; a merged one that does not tell counts as such."""
    return bool(card.recipe.plan.get(MIXED, "parts" in card.recipe.plan))


def require_given(source: Path, split_origin: str, leak: Leak) -> None:
    """Raises :class:`InputError` for splits that are not the source's own; ``split_origin``: of its fingerprint."""
    if split_origin == "given":
        return
    cause = "some set the splits of their sources aside" if leak == "resplit" else f"{source} has not all splits itself"
    own = "" if leak == "resplit" else "give a source with splits of its own, or "
    raise InputError(
        f"{source}: the packages behind this model or package differ in the seed or in the treatment of leaks by which "
        f"their sources were split, and {cause}: images that were distilled might be scored as if they were unseen. "
        f"Instead, {own}ask for all images (SOURCE:all, --split all, --test-split all) of a source that had no part "
        "in a package"
    )
