"""A package that is sound, and ways to break one."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meddistill.package import container
from meddistill.package.types import (
    Card,
    CohortCounts,
    Images,
    Normalisation,
    Package,
    Recipe,
    Results,
    Score,
    Sizes,
    Software,
    Task,
    Terms,
)
from meddistill.package.write import encode

NAMES = ("normal", "pneumonia", "effusion", "a class with a rather long name, as doctors write", "e", "f", "g", "h")

Make = Callable[..., Package]
Members = dict[str, bytes]


def _card(classes: int, per_class: int, size: int, channels: int, labels: str, stored: int | None) -> Card:
    names = NAMES[:classes]
    score = Score(mean=0.85, low=0.8, high=0.9, per_seed=(0.8, 0.85, 0.9))
    rows = {"distilled": {"balanced_accuracy": score, "auroc": score}, "random": {"accuracy": score}}
    return Card(
        software=Software(name="meddistill", version="0.1.0"),
        task=Task(classes=names, labels=labels),  # type: ignore[arg-type]
        images=Images(count=classes * per_class, per_class=per_class, size=size, channels=channels, stored=stored),
        normalisation=Normalisation(mean=(0.5,) * channels, std=(0.25,) * channels),
        recipe=Recipe(method="mtt", seed=3, start="noise", network="convnet-d3-w32", plan={"steps": 20, "rate": 0.1}),
        cohort=CohortCounts(counts={"train": dict.fromkeys(names, 100), "test": dict.fromkeys(names, 0)}),
        contains_real_images=False,
        results=Results(protocol="1", network="convnet-d3-w32", seeds=3, splits={"val": rows, "test": rows}),
        bytes=Sizes(cohort_train=1_000_000),
        terms=Terms(licence="CC BY 4.0, https://creativecommons.org/licenses/by/4.0/legal.txt"),
    )


@pytest.fixture(scope="session")
def make() -> Make:
    def package(
        classes: int = 2,
        per_class: int = 1,
        size: int = 8,
        channels: int = 1,
        labels: str = "soft",
        stored: int | None = None,
    ) -> Package:
        rng, count = np.random.default_rng(5), classes * per_class
        one_hot = np.eye(classes)[np.repeat(np.arange(classes), per_class)]
        soft = 0.8 * one_hot + 0.2 * rng.dirichlet(np.ones(classes), count)
        side = stored or size
        return Package(
            images=rng.normal(0.5, 0.4, (count, channels, side, side)).astype(np.float32),
            labels=(one_hot if labels == "hard" else soft).astype(np.float32),
            step_sizes=np.linspace(0.01, 0.02, 5).astype(np.float32),
            card=_card(classes, per_class, size, channels, labels, stored),
        )

    return package


@pytest.fixture(scope="session")
def sound(make: Make) -> bytes:
    """The bytes of a small sound package file."""
    return encode(make())


@pytest.fixture(scope="session")
def members(sound: bytes) -> Members:
    """Its members."""
    problems: list[str] = []
    found = {name: bytes(data) for name, data in container.unpack(sound, problems).items()}
    assert not problems
    return found


@pytest.fixture(scope="session")
def repack(members: Members) -> Callable[..., bytes]:
    """A file with some members or card fields replaced and, unless told otherwise, digests that agree with that."""

    def packed(
        replaced: Members | None = None, card: Callable[[dict[str, Any]], object] = bool, *, digests: bool = True
    ) -> bytes:
        changed = members | (replaced or {})
        fields = json.loads(changed["card.json"])
        if digests:
            names = fields["digests"]
            fields["digests"] = {name: hashlib.sha256(changed[name]).hexdigest() for name in names}
        card(fields)
        if not replaced or "card.json" not in replaced:
            changed["card.json"] = json.dumps(fields).encode()
        return container.pack(changed)

    return packed


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[bytes], Path]:
    def save(data: bytes) -> Path:
        path = tmp_path / "package.mdz"
        path.write_bytes(data)
        return path

    return save
