"""``README.md`` inside the package: a short data set card for people, written from the card alone.

Texts from the sender are escaped, so that a program that shows Markdown shows them as they are.
"""

from meddistill.package.text import escape
from meddistill.package.types import Card, Privacy, Results, Score

_ROWS = {
    "random": "as many random real images",
    "distilled": "this package",
    "own": "this package, by its own recipe",
    "full": "all real images",
}
_METRICS = {"balanced_accuracy": "balanced accuracy", "auroc": "AUROC", "accuracy": "accuracy"}
_STARTS = {
    "noise": "They started as noise.",
    "prototypes": "They started as class prototypes: means over eight and more augmented real images.",
    "public": "They started as images that their maker calls public, none of the cohort, and may still show them.",
    "real": "**They started as real images of the cohort and may still show them.**",
}


def readme(card: Card) -> str:
    """The Markdown text, ending in a newline."""
    parts = [_head(card), _origin(card)]
    parts += [_privacy(card.privacy)] if card.privacy else []
    parts += [_results(card.results)] if card.results and card.results.splits else []
    parts += [_terms(card), _use()]
    return "\n\n".join(parts) + "\n"


def _head(card: Card) -> str:
    images, names = card.images, ", ".join(escape(name) for name in card.task.classes)
    colour = "grey" if images.channels == 1 else "colour"
    labels = "probabilities of the classes" if card.task.labels == "soft" else "one class each"
    each = f"{images.per_class} per class, " if images.per_class else ""
    order = "the classes from left to right" if images.per_class == 1 else "one row per class"
    warning = "\n\n**Warning: this package contains real images.**" if card.contains_real_images else ""
    warning += "\n\n**Made to be audited: canaries were planted. Not to be shared or used.**" if card.canaries else ""
    return (
        "# A distilled image set\n\n"
        f"{images.count} synthetic {colour} images of {images.pixels}, "
        f"{each}to train a classifier of {len(card.task.classes)} classes: {names}. "
        f"Labels are {labels}.{warning}\n\n![Some of the images, {order}](preview.png)"
    )


def _origin(card: Card) -> str:
    recipe, software = card.recipe, card.software
    lines = [
        "## How it was made\n",
        f"Written by {escape(software.name)} {escape(software.version)} with the method {escape(recipe.method)} on the "
        f"network {escape(recipe.network)}, seed {recipe.seed}. {_STARTS[recipe.start]}",
    ]
    if not card.flip:
        lines.append("Left and right tell classes apart: do not mirror images when you train from it.")
    if isinstance(card.cohort.counts, str):
        return "\n".join([*lines, "The sender withholds how many images the cohort had."])
    rows = [
        [escape(split), *(str(counts.get(name, 0)) for name in card.task.classes)]
        for split, counts in card.cohort.counts.items()
    ]
    header = ["cohort", *map(escape, card.task.classes)]
    return "\n".join([*lines, "", *_table(header, rows)] if rows and len(header) <= 21 else lines)


def _privacy(privacy: Privacy) -> str:
    """What is proved, how it follows, and what it leaves out."""
    looks = [
        f"- {escape(look.mechanism)}: {look.steps} times, noise multiplier {look.noise_multiplier:.4g}, sampling rate "
        f"{look.sampling_rate:g}" + (f", in each of {look.groups} groups of patients" if look.groups > 1 else "")
        for look in privacy.history
    ]
    return "\n".join(
        [
            "## Differential privacy\n",
            f"Images and labels are ({privacy.epsilon:g}, {privacy.delta:g})-differentially private: whether one "
            f"{privacy.unit} of the training split took part changes the probability of any outcome by no more than a "
            f"factor e^{privacy.epsilon:g}, but for {privacy.delta:g}. Accountant: {escape(privacy.accountant)}. "
            "Accounted for:\n",
            *looks,
            "\nNot accounted for:\n",
            *(f"- {escape(text)}" for text in privacy.outside),
        ]
    )


def _results(results: Results) -> str:
    """The scores on the test split, or on the validation split if they are all there is; the card has both."""
    split = "test" if "test" in results.splits else next(iter(results.splits))
    rows = [
        [_ROWS[row], *(_score(scores.get(metric)) for metric in _METRICS)]
        for row in _ROWS
        if (scores := results.splits[split].get(row)) is not None
    ]
    table = "\n".join(_table([f"{escape(results.network)} trained on", *_METRICS.values()], rows))
    shown = f"mean and 95 % interval over {results.seeds} seeds" if results.seeds > 1 else "of one network"
    own = " Its own recipe makes one network, which has no interval." if "own" in results.splits[split] else ""
    return (
        f"## What a network trained from it scores\n\n{table}\n\nOn the {split} split, in per cent: {shown}, "
        f"protocol {escape(results.protocol)}.{own}"
    )


def _score(score: Score | None) -> str:
    """Mean and interval; of a single network, which has none, its score."""
    if score is None:
        return ""
    ends = f" ({100 * score.low:.1f} to {100 * score.high:.1f})" if score.has_interval else ""
    return f"{100 * score.mean:.1f}{ends}"


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def _terms(card: Card) -> str:
    terms = card.terms
    said = (
        ("Licence", terms.licence),
        ("Terms of use", terms.terms_of_use),
        ("Intended use", terms.intended_use),
        ("Limits", terms.limits),
    )
    lines = [f"- {name}: {escape(text) if text.strip() else 'not stated by the sender'}" for name, text in said]
    return "\n".join(
        [
            "## Terms\n",
            *lines,
            "- Not for diagnosis. Synthetic does not mean anonymous: this file alone proves nothing about what can be "
            "learned of single patients.",
        ]
    )


def _use() -> str:
    return (
        "## Use\n\n"
        "`meddistill verify FILE.mdz` checks it, `meddistill train FILE.mdz --out MODEL` trains from it. For programs: "
        "`card.json` and `tensors.safetensors` (image = number * scale + offset, per channel)."
    )
