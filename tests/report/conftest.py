"""Packages and run folders to report on, and a page taken apart by the standard library's parser."""

import json
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
from meddistill.package.write import write

VOID = {"meta", "img", "br", "link", "input", "hr", "source", "base", "embed", "area", "col", "track", "wbr"}
OWN, OTHER = "convnet-d2-w8", "resnet18-w16"  # networks: a set was made with the first
PLAN = {"method": "mtt", "seed": 3, "network": "convnet-d2-w8", "images_per_class": 3, "total_images": 0}


def score(mean: float, half: float = 0.01) -> Score:
    return Score(mean=mean, low=mean - half, high=mean + half, per_seed=(mean - half, mean, mean + half))


def summary(mean: float, half: float = 0.01) -> dict[str, Any]:
    """A score over three seeds, as a benchmark writes it."""
    return {"mean": mean, "low": mean - half, "high": mean + half, "per_seed": [mean - half, mean, mean + half]}


def cell(
    method: str,
    matching: str | None,
    evaluation: str,
    mean: float,
    drop: float | None = None,
    count: int | None = 3,
    sets: tuple[str, ...] = (),
    **changes: Any,
) -> dict[str, Any]:
    """A line of a benchmark's results."""
    scores = {metric: summary(mean) for metric in ("balanced_accuracy", "auroc", "accuracy")}
    return {
        "cohort": "lungs",
        "images_per_class": count,
        "method": method,
        "matching": matching,
        "evaluation": evaluation,
        "contains_patients": matching is None,
        "bytes": 5000.0,
        "sets": list(sets),
        "gain": None,
        "drop": drop and summary(drop, 0.02),
        "scores": {"test": {"as is": scores}},
        **changes,
    }


def make_package(
    per_class: int = 3,
    names: tuple[str, str] = ("clear lung", "shadowed lung"),
    rows: tuple[str, ...] = ("random", "distilled", "full"),
    **changes: Any,
) -> Package:
    """Some images of each of two classes, with scores of every kind; ``changes`` are of the card."""
    rng = np.random.default_rng(1)
    scores = {
        row: {metric: score(mean) for metric in ("balanced_accuracy", "auroc", "accuracy")}
        for row, mean in (("random", 0.7), ("distilled", 0.8), ("full", 0.9))
        if row in rows
    }
    count = 2 * per_class
    card = Card(
        software=Software(name="meddistill", version="0.1.0"),
        task=Task(classes=names, labels="soft"),
        images=Images(count=count, per_class=per_class, size=8, channels=1),
        normalisation=Normalisation(mean=(0.5,), std=(0.25,)),
        recipe=Recipe(
            method="mtt",
            seed=3,
            start="noise",
            network="convnet-d2-w8",
            plan={"rate": 0.125, "fit": "crop", "images_per_class": 3, "total_images": 0},
        ),
        cohort=CohortCounts(counts={"train": dict.fromkeys(names, 1234), "test": dict.fromkeys(names, 77)}),
        contains_real_images=False,
        results=Results(protocol="1", network="convnet-d2-w8", seeds=3, splits={"val": scores, "test": scores}),
        bytes=Sizes(cohort_train=1_000_000),
        terms=Terms(licence="CC BY 4.0", intended_use="research alone", limits="not for babies"),
    )
    labels = np.eye(2, dtype=np.float32).repeat(per_class, 0) * np.float32(0.75) + np.float32(0.125)
    return Package(
        images=rng.normal(0.5, 0.3, (count, 1, 8, 8)).astype(np.float32),
        labels=labels,
        step_sizes=np.array([0.02], np.float32),
        card=replace(card, **changes),
    )


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """``saved(**changes of the card)`` writes a package and gives its path."""

    def save(name: str = "lungs.mdz", audit: dict[str, Any] | None = None, **changes: Any) -> Path:
        write(tmp_path / name, replace(make_package(**changes), audit=audit))
        return tmp_path / name

    return save


@pytest.fixture
def logged(tmp_path: Path) -> Callable[..., Path]:
    """``logged(*lines)`` makes a run folder with this log; a text stands there as it is."""

    def write_log(*lines: dict[str, Any] | str, name: str = "lungs.run") -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        written = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (folder / "events.jsonl").write_text("\n".join(written) + "\n")
        return folder

    return write_log


@pytest.fixture
def log() -> tuple[dict[str, Any], ...]:
    """The events of a whole run."""
    return LOG


@pytest.fixture
def package() -> Callable[..., Package]:
    """``package(**changes of the card)``."""
    return make_package


@pytest.fixture
def parse() -> type["Page"]:
    """The page that an HTML text is, to somebody who knows HTML."""
    return Page


LOG: tuple[dict[str, Any], ...] = (
    {"time": 100.0, "event": "begun", "version": "0.1.0", "torch": "2", "device": "cpu", "plan": PLAN},
    {"time": 110.0, "event": "teacher", "teacher": 0, "snapshots": 3},
    {"time": 111.0, "event": "teachers", "snapshot": 0, "split": "val", "balanced_accuracy": 0.5, "auroc": 0.51},
    {"time": 112.0, "event": "teachers", "snapshot": 2, "split": "val", "balanced_accuracy": 0.8, "auroc": 0.9},
    {"time": 112.0, "event": "window", "earliest_start": 0, "latest_start": 1},
    {"time": 113.0, "event": "memory", "strategy": "adjoint", "bytes_each": 4_000_000, "together": 1},
    {"time": 120.0, "event": "distilled", "iteration": 1, "phase": "features", "score": 9.0, "step_size": 0.03},
    {"time": 130.0, "event": "distilled", "iteration": 2, "phase": "trajectories", "score": 0.9, "step_size": 0.03},
    {"time": 140.0, "event": "overlap", "iteration": 2, "share": 0.25, "diversity": 0.6},
    {"time": 142.0, "event": "distilled", "iteration": 3, "phase": "trajectories", "score": 0.7, "step_size": 0.04},
    {
        "time": 150.0,
        "event": "evaluated",
        "row": "distilled",
        "seed": 1,
        "seconds": 2.5,
        "scores": {"test": {"expected_calibration_error": 0.125}},
    },
    {"time": 151.0, "event": "written", "bytes": 5000},
)


class Page(HTMLParser):
    """Elements with their attributes, and the text of each element; the parser of the standard library decides."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.comments: list[str] = []
        self.unclosed: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.unclosed.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.unclosed, f"</{tag}> closes nothing"
        assert self.unclosed.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.unclosed[-1] if self.unclosed else "", data.strip()))

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(text for tag, text in self.texts if tag != "style")
