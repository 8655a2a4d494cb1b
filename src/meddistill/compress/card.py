"""What a compressed model says of itself, and its schema: every field's type and range, nothing unknown let through."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from meddistill.compress import limits
from meddistill.compress.coding import MAX_LEVELS
from meddistill.package import text
from meddistill.package.limits import MAX_INTENSITY, MAX_SHORT
from meddistill.package.schema import Fields
from meddistill.package.types import Software

Kind = Literal["network", "module", "recipe"]
Saw = Literal["patients", "packages", "unknown"]
KINDS: tuple[Kind, ...] = ("network", "module", "recipe")
SAW: tuple[Saw, ...] = ("patients", "packages", "unknown")
DTYPES = ("float32", "float16", "bfloat16", "float64", "int64")
# What to tell, loudly, whoever makes or shares such a file.
WARNINGS: dict[Saw, str | None] = {
    "patients": (
        "THESE WEIGHTS WERE TRAINED ON PATIENTS' IMAGES and may tell about single patients: give the file only to "
        "those who may see the images"
    ),
    "unknown": (
        "NOBODY KNOWS WHETHER THESE WEIGHTS WERE TRAINED ON PATIENTS' IMAGES: the original does not say. Give the file "
        "only to those who may see the images"
    ),
    "packages": None,
}

_MODEL = ("format", "network", "channels", "size", "classes", "normalisation", "fit", "leak", "seed")
_ORIGIN = ("packages", "protocol", "seed", "weights")
_DIGEST = re.compile("[0-9a-f]{64}")
_TENSOR_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor of a module's ``state_dict``: its name, shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """All that a compressed model says of itself.

    ``kind``: a ``network`` of this project, a ``module`` that a user brought, or the ``recipe`` of a network. ``saw``:
    whether the weights were trained on ``patients`` or only on ``packages``. ``model``: as in a model file's header,
    None for a module. ``levels``: how many each tensor has. ``tensors``: those of a module. ``answers``: of a recipe,
    class probabilities of the package's first images. ``weights``: SHA-256 of the restored float32 parameters.
    ``original``: bytes that they took before. ``digests``: SHA-256 of ``weights.bin``.
    """

    format: int = limits.FORMAT_VERSION
    software: Software
    kind: Kind
    route: str
    saw: Saw
    model: Mapping[str, Any] | None = None
    levels: tuple[int, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    answers: tuple[tuple[float, ...], ...] = ()
    weights: str
    original: int
    digests: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The card as JSON has it."""
        return vars(self) | {
            "software": vars(self.software),
            "levels": list(self.levels),
            "answers": [list(row) for row in self.answers],
            "tensors": [vars(tensor) | {"shape": list(tensor.shape)} for tensor in self.tensors],
        }


def read_card(value: object, problems: list[str]) -> ModelCard | None:
    """The card in parsed JSON, or ``None``; every problem found is appended to ``problems``."""
    before = len(problems)
    fields = Fields(value, "", problems, ModelCard.__dataclass_fields__)
    software = fields.child("software", Software.__dataclass_fields__)
    card = ModelCard(
        format=fields.whole("format", limits.FORMAT_VERSION, limits.FORMAT_VERSION),
        software=Software(name=software.text("name", MAX_SHORT), version=software.text("version", MAX_SHORT)),
        kind=cast(Kind, fields.choice("kind", KINDS)),
        route=fields.text("route", MAX_SHORT),
        saw=cast(Saw, fields.choice("saw", SAW)),
        model=_model(fields) if fields.value.get("model") is not None else None,
        levels=_levels(fields),
        tensors=_tensors(fields),
        answers=_answers(fields),
        weights=_digest(fields, "weights"),
        original=fields.whole("original", 1),
        digests=_digests(fields),
    )
    if len(problems) == before:
        problems += _contradictions(card)
    return card if len(problems) == before else None


def _model(parent: Fields) -> dict[str, Any]:
    """The description of a model file's header; what it means together, :mod:`meddistill.train.model` checks."""
    described = parent.value["model"]
    optional = [
        name for name in ("origin", "mixed_splits", "flip") if isinstance(described, dict) and name in described
    ]
    fields = parent.child("model", (*_MODEL, *optional))
    norm = fields.child("normalisation", ("mean", "std"))
    for key in ("format", "network", "fit", "leak"):
        fields.text(key, MAX_SHORT)
    fields.whole("channels", 1, 3)
    fields.whole("size", 1, limits.MAX_SIDE)
    fields.whole("seed", 0)
    norm.numbers("mean", (1, 3), -MAX_INTENSITY, MAX_INTENSITY)
    norm.numbers("std", (1, 3), 1e-6, MAX_INTENSITY)
    classes = fields.value.get("classes", [""])
    for problem in text.class_problems(classes) if isinstance(classes, list) else ["expected a list of names"]:
        fields.note("classes", problem)
    for key in ("mixed_splits", "flip"):
        if key in optional and not isinstance(fields.value[key], bool):
            fields.note(key, "expected true or false")
    if "origin" in optional:
        _origin(fields.child("origin", _ORIGIN))
    return fields.value


def _origin(fields: Fields) -> None:
    fields.text("protocol", MAX_SHORT)
    fields.whole("seed", 0)
    _digest(fields, "weights")
    packages = fields.value.get("packages", [])
    if not isinstance(packages, list) or not 1 <= len(packages) <= limits.MAX_PACKAGES:
        fields.note("packages", f"expected a list of 1 to {limits.MAX_PACKAGES} digests")
    elif not all(isinstance(one, str) and _DIGEST.fullmatch(one) for one in packages):
        fields.note("packages", "expected 64 hexadecimal digits each")


def _levels(fields: Fields) -> tuple[int, ...]:
    found = fields.value.get("levels", [])
    sound = isinstance(found, list) and len(found) <= limits.MAX_TENSORS
    if not sound or not all(type(one) is int and 0 <= one <= MAX_LEVELS for one in found):
        fields.note("levels", f"expected at most {limits.MAX_TENSORS} whole numbers from 0 to {MAX_LEVELS}")
        return ()
    return tuple(found)


def _tensors(fields: Fields) -> tuple[Tensor, ...]:
    found = fields.value.get("tensors", [])
    if not isinstance(found, list) or len(found) > limits.MAX_TENSORS:
        fields.note("tensors", f"expected a list of at most {limits.MAX_TENSORS}")
        return ()
    tensors = [_tensor(one, f"tensors[{place}]", fields.problems) for place, one in enumerate(found)]
    if len({tensor.name for tensor in tensors}) < len(tensors):
        fields.note("tensors", "a name is there twice")
    return tuple(tensors)


def _tensor(value: object, where: str, problems: list[str]) -> Tensor:
    fields = Fields(value, where, problems, Tensor.__dataclass_fields__)
    name, shape = fields.value.get("name", "-"), fields.value.get("shape", [])
    if not isinstance(name, str) or len(name) > limits.MAX_NAME or not _TENSOR_NAME.fullmatch(name):
        fields.note("name", f"found {text.quote(name)}, expected 1 to {limits.MAX_NAME} of A-Z a-z 0-9 _ . -")
        name = "-"
    sides = isinstance(shape, list) and len(shape) <= limits.MAX_DIMENSIONS
    if not sides or not all(type(side) is int and 1 <= side <= limits.MAX_WEIGHTS for side in shape):
        fields.note("shape", f"found {text.quote(shape)}, expected at most {limits.MAX_DIMENSIONS} sides of 1 or more")
        shape = []
    return Tensor(name=name, shape=tuple(shape), dtype=fields.choice("dtype", DTYPES))


def _answers(fields: Fields) -> tuple[tuple[float, ...], ...]:
    found = fields.value.get("answers", [])
    rows = isinstance(found, list) and len(found) <= limits.MAX_ANSWERS and all(isinstance(row, list) for row in found)
    if not rows or not all(isinstance(one, float | int) and 0 <= one <= 1 for row in found for one in row):
        fields.note("answers", f"expected at most {limits.MAX_ANSWERS} lists of numbers from 0 to 1")
        return ()
    return tuple(tuple(map(float, row)) for row in found)


def _digest(fields: Fields, key: str) -> str:
    value = fields.value.get(key, "0" * 64)
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        fields.note(key, f"found {text.quote(value)}, expected 64 hexadecimal digits")
        return ""
    return value


def _digests(parent: Fields) -> dict[str, str]:
    found = parent.value.get("digests", {})
    fields = parent.child("digests", found if isinstance(found, dict) and len(found) <= 1 else ())
    return {name: _digest(fields, name) for name in fields.value}


def _contradictions(card: ModelCard) -> list[str]:
    """Fields that are each well formed and cannot be true together."""
    found = []
    if (card.model is None) != (card.kind == "module"):
        found.append(f"model: a {card.kind} {'has none' if card.kind == 'module' else 'has one'}")
    if len(card.tensors) != (len(card.levels) if card.kind == "module" else 0):
        found.append("tensors: expected as many as levels for a module, and none else")
    if card.kind == "recipe" and (card.levels or card.model is None or "origin" not in card.model):
        found.append("levels, model: a recipe has no levels and tells its origin")
    if card.kind != "recipe" and not card.levels:
        found.append("levels: there are none, and so no weights")
    classes = len(card.model["classes"]) if card.kind == "recipe" and card.model is not None else 0
    if bool(card.answers) != (card.kind == "recipe") or any(len(row) != classes for row in card.answers):
        found.append("answers: expected some for a recipe, each of all classes, and none else")
    return found
