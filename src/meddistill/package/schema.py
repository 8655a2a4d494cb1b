"""The card's schema: every field's type and range, all problems found, nothing unknown let through."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar, cast

from meddistill.package import limits, text
from meddistill.package.types import (
    Card,
    CohortCounts,
    Images,
    LabelKind,
    Look,
    Normalisation,
    Privacy,
    Recipe,
    Results,
    Score,
    Sizes,
    Software,
    Start,
    Task,
    Terms,
)

SPLITS = ("train", "val", "test")
SCORED_SPLITS = ("val", "test")
ROWS = ("distilled", "own", "random", "full")
METRICS = ("balanced_accuracy", "auroc", "accuracy")
_KEY_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")

_T = TypeVar("_T")
Unit = Literal["patient", "image"]
Route = Literal["statistics", "teachers"]


class Fields:
    """One JSON object under inspection: each reader returns a value of its type and notes what is wrong.

    A missing or unknown key is a problem. After any problem the values returned are placeholders, and the card is
    not used.
    """

    def __init__(self, value: object, where: str, problems: list[str], keys: Iterable[str]) -> None:
        self.value: dict[str, Any] = value if isinstance(value, dict) else {}
        self.where, self.problems = where, problems
        if not isinstance(value, dict):
            self.note("", f"expected an object, found {text.quote(value)}")
            return
        expected = set(keys)
        for key in sorted(map(str, value.keys() - expected), key=text.quote)[:10]:
            self.note("", f"unknown field {text.quote(key)}")
        for key in sorted(expected - value.keys()):
            self.note(key, "missing")

    def note(self, key: str, problem: str) -> None:
        if len(self.problems) < limits.MAX_PROBLEMS:
            self.problems.append(f"{self.under(key)}: {problem}" if key or self.where else problem)

    def has(self, key: str) -> bool:
        return key in self.value

    def under(self, key: str) -> str:
        """The dotted name of a field here, safe to print whatever a stranger called it."""
        name = key if set(key) <= _KEY_CHARACTERS | set("[]") else text.quote(key)
        return ".".join(part for part in (self.where, name) if part)

    def child(self, key: str, keys: Iterable[str]) -> "Fields":
        # A missing child was noted already: its own fields need not be listed as missing too.
        noted = self.problems if self.has(key) else []
        return Fields(self.value.get(key), self.under(key), noted, keys)

    def children(self, key: str, keys: Iterable[str]) -> "list[Fields]":
        """The objects of a list, of which there must be one at least."""
        value = self.value.get(key)
        if not isinstance(value, list) or not 1 <= len(value) <= limits.MAX_LOOKS:
            self.note(key, f"expected a list of 1 to {limits.MAX_LOOKS} objects, found {text.quote(value)}")
            return []
        return [Fields(one, self.under(f"{key}[{place}]"), self.problems, keys) for place, one in enumerate(value)]

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, which may be empty."""
        value = self.value.get(key)
        if not isinstance(value, list) or len(value) > limits.MAX_LOOKS:
            self.note(key, f"expected a list of at most {limits.MAX_LOOKS} texts, found {text.quote(value)}")
            return ()
        for place, one in enumerate(value):
            if problem := text.problem(one, limits.MAX_TEXT):
                self.note(f"{key}[{place}]", problem)
        return tuple(one for one in value if isinstance(one, str))

    def text(self, key: str, limit: int, *, blank: bool = False, urls: bool = False) -> str:
        value = self.value.get(key, "")
        problem = text.problem(value, limit, blank=blank, urls=urls) if self.has(key) else None
        if problem:
            self.note(key, problem)
        return value if isinstance(value, str) else ""

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self.value.get(key)
        if self.has(key) and not (isinstance(value, str) and value in allowed):
            self.note(key, f"found {text.quote(value)}, expected one of {', '.join(allowed)}")
        return value if isinstance(value, str) else ""

    def whole(self, key: str, low: int, high: int = limits.MAX_INTEGER) -> int:
        value = self.value.get(key, low)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.note(key, f"found {text.quote(value)}, expected a whole number from {low} to {high}")
            return low
        return value

    def number(self, key: str, low: float, high: float) -> float:
        return self._number(key, self.value.get(key, low), low, high)

    def numbers(self, key: str, counts: tuple[int, int], low: float, high: float) -> tuple[float, ...]:
        value = self.value.get(key, [low] * counts[0])
        if not isinstance(value, list) or not counts[0] <= len(value) <= counts[1]:
            wanted = " to ".join(map(str, sorted(set(counts))))
            self.note(key, f"expected a list of {wanted} numbers, found {text.quote(value)}")
            return ()
        return tuple(self._number(f"{key}[{index}]", entry, low, high) for index, entry in enumerate(value))

    def truth(self, key: str) -> bool:
        value = self.value.get(key, False)
        if not isinstance(value, bool):
            self.note(key, f"found {text.quote(value)}, expected true or false")
        return value is True

    def mapping(self, key: str, allowed: Iterable[str], read: Callable[[str, "Fields"], _T]) -> dict[str, _T]:
        """A dictionary with some of the ``allowed`` keys; ``read(key, fields of this dictionary)`` reads an entry."""
        found = [name for name in allowed if name in self.value.get(key, ())] if self._is_object(key) else []
        fields = self.child(key, found)
        return {name: read(name, fields) for name in found}

    def _is_object(self, key: str) -> bool:
        return isinstance(self.value.get(key), dict)

    def _number(self, key: str, value: object, low: float, high: float) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.note(key, f"found {text.quote(value)}, expected a number from {low:g} to {high:g}")
            return low
        return float(value)


def read_card(value: object, problems: list[str]) -> Card | None:
    """The card in parsed JSON, or ``None``; every problem found is appended to ``problems``."""
    if isinstance(value, dict) and _other_version(value.get("format")):
        problems.append(
            f"format: the package is in version {text.quote(value['format'])} of the format; this program reads "
            f"version {limits.FORMAT_VERSION}: update it, or ask the sender for that version"
        )
        return None
    before = len(problems)
    fields = Fields(value, "", problems, _keys(value))
    card = _card(fields) if fields.value else None
    if card is not None and len(problems) == before:
        problems.extend(_contradictions(card))
    return card if len(problems) == before else None


def _keys(value: object) -> list[str]:
    """The fields that a card must have: ``privacy`` only where it is there."""
    there = isinstance(value, dict) and "privacy" in value
    return [name for name in Card.__dataclass_fields__ if there or name != "privacy"]


def _other_version(version: object) -> bool:
    return isinstance(version, int) and not isinstance(version, bool) and version != limits.FORMAT_VERSION


def _card(fields: Fields) -> Card:
    task = _task(fields.child("task", Task.__dataclass_fields__))
    images = _images(fields.child("images", Images.__dataclass_fields__))
    return Card(
        format=fields.whole("format", limits.FORMAT_VERSION, limits.FORMAT_VERSION),
        software=_software(fields.child("software", Software.__dataclass_fields__)),
        task=task,
        images=images,
        normalisation=_normalisation(fields.child("normalisation", Normalisation.__dataclass_fields__), images),
        recipe=_recipe(fields.child("recipe", Recipe.__dataclass_fields__)),
        cohort=_cohort(fields.child("cohort", CohortCounts.__dataclass_fields__), task),
        contains_real_images=fields.truth("contains_real_images"),
        results=_results(fields) if fields.value.get("results") is not None else None,
        privacy=_privacy(fields.child("privacy", Privacy.__dataclass_fields__)) if fields.has("privacy") else None,
        bytes=_sizes(fields.child("bytes", Sizes.__dataclass_fields__)),
        terms=_terms(fields.child("terms", Terms.__dataclass_fields__)),
        digests=_digests(fields),
    )


def _software(fields: Fields) -> Software:
    return Software(name=fields.text("name", limits.MAX_SHORT), version=fields.text("version", limits.MAX_SHORT))


def _task(fields: Fields) -> Task:
    classes = fields.value.get("classes", [""])
    if not isinstance(classes, list):
        fields.note("classes", f"expected a list of names, found {text.quote(classes)}")
        classes = []
    elif fields.has("classes"):
        for problem in text.class_problems(classes)[: limits.MAX_PROBLEMS]:
            fields.note("classes", problem)
    names = tuple(name for name in classes if isinstance(name, str))
    return Task(classes=names, labels=cast(LabelKind, fields.choice("labels", ("soft", "hard"))))


def _images(fields: Fields) -> Images:
    if fields.value.get("channels") == 2:
        fields.note("channels", "found 2, expected 1 (grey) or 3 (red, green, blue)")
    return Images(
        count=fields.whole("count", 1, limits.MAX_IMAGES),
        per_class=fields.whole("per_class", 0, limits.MAX_IMAGES),
        size=fields.whole("size", 1, limits.MAX_SIZE),
        channels=fields.whole("channels", 1, 3),
        intensity=fields.text("intensity", limits.MAX_SHORT),
        stored=None if fields.value.get("stored") is None else fields.whole("stored", 1, limits.MAX_SIZE),
    )


def _normalisation(fields: Fields, images: Images) -> Normalisation:
    count = (images.channels, images.channels)
    bound = limits.MAX_INTENSITY
    return Normalisation(
        mean=fields.numbers("mean", count, -bound, bound), std=fields.numbers("std", count, limits.MIN_STD, bound)
    )


def _recipe(fields: Fields) -> Recipe:
    return Recipe(
        method=fields.text("method", limits.MAX_SHORT),
        seed=fields.whole("seed", 0),
        start=cast(Start, fields.choice("start", ("noise", "prototypes", "public", "real"))),
        network=fields.text("network", limits.MAX_SHORT),
        plan=_plan(fields),
    )


def _plan(fields: Fields) -> dict[str, int | float | str | bool]:
    plan = fields.value.get("plan", {})
    if not isinstance(plan, dict) or len(plan) > limits.MAX_PLAN_ENTRIES:
        fields.note("plan", f"expected an object of at most {limits.MAX_PLAN_ENTRIES} entries")
        return {}
    for key, value in plan.items():
        if not 1 <= len(key) <= limits.MAX_SHORT or not set(key) <= _KEY_CHARACTERS:
            fields.note("plan", f"the name {text.quote(key)} is not 1 to {limits.MAX_SHORT} of A-Z a-z 0-9 _ . -")
        elif problem := _plan_problem(value):
            fields.note(f"plan.{key}", problem)
    if not isinstance(plan.get("flip", True), bool):  # which every training from the package obeys
        fields.note("plan.flip", "expected true or false")
    return plan


def _plan_problem(value: object) -> str | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if abs(value) <= limits.MAX_INTEGER else "the number is too large"
    if isinstance(value, float):
        return None if math.isfinite(value) else "the number is not finite"
    return text.problem(value, limits.MAX_SHORT, blank=True)


def _cohort(fields: Fields, task: Task) -> CohortCounts:
    if fields.value.get("counts") == "withheld":
        return CohortCounts(counts="withheld")

    def per_class(split: str, splits: Fields) -> dict[str, int]:
        return splits.mapping(split, task.classes, lambda name, classes: classes.whole(name, 0))

    return CohortCounts(counts=fields.mapping("counts", SPLITS, per_class))


def _results(parent: Fields) -> Results:
    fields = parent.child("results", Results.__dataclass_fields__)

    def metrics(row: str, rows: Fields) -> dict[str, Score]:
        return rows.mapping(row, METRICS, _score)

    def rows(split: str, splits: Fields) -> dict[str, dict[str, Score]]:
        return splits.mapping(split, ROWS, metrics)

    return Results(
        protocol=fields.text("protocol", limits.MAX_SHORT),
        network=fields.text("network", limits.MAX_SHORT),
        seeds=fields.whole("seeds", 1, limits.MAX_SEEDS),
        splits=fields.mapping("splits", SCORED_SPLITS, rows),
    )


def _score(metric: str, metrics: Fields) -> Score:
    fields = metrics.child(metric, Score.__dataclass_fields__)
    low, high = -limits.MAX_SCORE_SPAN, 1 + limits.MAX_SCORE_SPAN
    score = Score(
        mean=fields.number("mean", 0, 1),
        low=fields.number("low", low, high),
        high=fields.number("high", low, high),
        per_seed=fields.numbers("per_seed", (1, limits.MAX_SEEDS), 0, 1),
    )
    average = sum(score.per_seed) / max(len(score.per_seed), 1)
    if not score.low - 1e-9 <= score.mean <= score.high + 1e-9:
        fields.note("mean", f"{score.mean:g} lies outside its own interval {score.low:g} to {score.high:g}")
    if abs(average - score.mean) > limits.SCORE_TOLERANCE:
        fields.note("mean", f"{score.mean:g} is not the mean of per_seed, which is {average:g}")
    return score


def _privacy(fields: Fields) -> Privacy:
    return Privacy(
        epsilon=fields.number("epsilon", limits.MIN_EPSILON, limits.MAX_EPSILON),
        delta=fields.number("delta", 0, 1),
        unit=cast(Unit, fields.choice("unit", ("patient", "image"))),
        route=cast(Route, fields.choice("route", ("statistics", "teachers"))),
        accountant=fields.text("accountant", limits.MAX_TEXT),
        history=tuple(_look(one) for one in fields.children("history", Look.__dataclass_fields__)),
        outside=fields.texts("outside"),
    )


def _look(fields: Fields) -> Look:
    return Look(
        mechanism=fields.text("mechanism", limits.MAX_TEXT),
        noise_multiplier=fields.number("noise_multiplier", 1e-6, 1e9),
        sampling_rate=fields.number("sampling_rate", 1e-9, 1),
        steps=fields.whole("steps", 1),
        groups=fields.whole("groups", 1),
    )


def _sizes(fields: Fields) -> Sizes:
    withheld = fields.has("cohort_train") and fields.value["cohort_train"] is None
    return Sizes(cohort_train=None if withheld else fields.whole("cohort_train", 1))


def _terms(fields: Fields) -> Terms:
    said = {key: fields.text(key, limits.MAX_TEXT, blank=True, urls=True) for key in Terms.__dataclass_fields__}
    return Terms(**said)


def _digests(parent: Fields) -> dict[str, str]:
    digests = parent.value.get("digests", {})
    if not isinstance(digests, dict) or len(digests) > limits.MAX_MEMBERS:
        parent.note("digests", "expected an object with the SHA-256 of each other member")
        return {}
    for name, value in digests.items():
        if not isinstance(value, str) or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
            parent.note("digests", f"{text.quote(name)} has {text.quote(value)}, expected 64 hexadecimal digits")
    return digests


def _contradictions(card: Card) -> list[str]:
    """Fields that are each well formed and cannot be true together."""
    images, found = card.images, []
    expected = images.per_class * len(card.task.classes)
    if images.per_class and images.count != expected:
        found.append(
            f"images.count: found {images.count}, expected {expected} ({images.per_class} for each of "
            f"{len(card.task.classes)} classes)"
        )
    if images.stored is not None and images.stored >= images.size:
        found.append(f"images.stored: found {images.stored}, expected null or less than the size {images.size}")
    if images.count * images.channels * images.size**2 > limits.MAX_PIXELS:
        found.append(f"images: more than {limits.MAX_PIXELS} values in all images together")
    if card.recipe.start == "real" and not card.contains_real_images:
        found.append("contains_real_images: found false, but recipe.start says that the images started as real ones")
    if isinstance(card.cohort.counts, str) and card.bytes.cohort_train is not None:
        found.append("bytes.cohort_train: found a number, from which the withheld counts follow; expected null")
    if card.privacy is not None:
        found += _unprotected(card)
    if card.results is not None:
        found += _seed_contradictions(card.results)
    return found


def _unprotected(card: Card) -> list[str]:
    """What no accountant covers, on a card that states an epsilon."""
    found = []
    if not isinstance(card.cohort.counts, str):
        found.append("cohort.counts: found numbers of images, which the epsilon under privacy does not cover")
    if card.recipe.start not in ("noise", "public") or card.contains_real_images:
        found.append("recipe.start: the images began as patients' or as means over them, which no epsilon covers")
    rows = {row for rows in (card.results.splits.values() if card.results else ()) for row in rows}
    if rows - {"distilled"}:
        found.append("results: rows of networks trained on real images, which no epsilon covers")
    return found


def _seed_contradictions(results: Results) -> list[str]:
    return [
        f"results.splits.{split}.{row}.{metric}: {len(score.per_seed)} values for at most {results.seeds} seeds"
        for split, rows in results.splits.items()
        for row, scores in rows.items()
        for metric, score in scores.items()
        if len(score.per_seed) > results.seeds
    ]
