"""A package at a glance: its first facts, and how a notebook shows it. Texts from the sender are escaped."""

import base64
from html import escape

from meddistill.package.preview import grid
from meddistill.package.types import Package, Privacy, Score


def facts(package: Package) -> list[tuple[str, str]]:
    """What a package is, in a few lines of name and value; plain text that whoever shows it escapes."""
    card = package.card
    images, colour = card.images, "grey" if card.images.channels == 1 else "colour"
    labels = "probabilities of the classes" if card.task.labels == "soft" else "one class each"
    each = f", {images.per_class} a class" if images.per_class else ""
    found = [
        ("classes", ", ".join(card.task.classes)),
        ("images", f"{images.count} synthetic {colour} images{each}"),
        ("size of an image", images.pixels.replace(" x ", " × ")),
        ("labels", labels),
        ("method", f"{card.recipe.method}, started from {card.recipe.start}"),
        ("real images inside", "YES" if card.contains_real_images else "none was put in as such"),
    ]
    if card.canaries:
        found.append(("canaries", f"{card.canaries} offered: made to be audited, not to be shared or used"))
    if card.privacy is not None:
        found.append(("differential privacy", guarantee(card.privacy)))
    score = headline(package)
    return found if score is None else [*found, score]


def guarantee(privacy: Privacy) -> str:
    """What is proved, in one line."""
    return f"epsilon {privacy.epsilon:g}, delta {privacy.delta:g}, to add or remove one {privacy.unit}"


def headline(package: Package) -> tuple[str, str] | None:
    """The balanced accuracy of networks trained on the package, where it was measured."""
    splits = package.card.results.splits if package.card.results else {}
    for split in ("test", "val"):
        found = splits.get(split, {}).get("distilled", {}).get("balanced_accuracy")
        if found is not None:
            return f"balanced accuracy, {split} split", told(found)
    return None


def told(score: Score) -> str:
    """A score in per cent with its interval, if it has one."""
    ends = f" ({100 * score.low:.1f} to {100 * score.high:.1f})" if score.has_interval else ""
    return f"{100 * score.mean:.1f} %{ends}"


def notebook(package: Package) -> str:
    """HTML for a notebook: the facts beside the preview picture."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(value)}</td></tr>'
        for name, value in facts(package)
    )
    picture = base64.b64encode(grid(package.images, package.labels, package.card.task.classes)).decode("ascii")
    shown = f'<img alt="synthetic images, by class" style="max-width:100%" src="data:image/png;base64,{picture}">'
    return f"<div><table>{rows}</table>{shown}</div>"
