"""Runs the command line as a user does: in a process of its own."""

import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """``run("show", "x.mdz")`` in an empty folder; ``env`` adds to the environment."""

    def call(*words: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "meddistill", *map(str, words)]
        environment = {**os.environ, **(env or {})}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
        )

    return call


@pytest.fixture
def fake_api(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """An empty ``meddistill.api`` to which a test adds the functions whose endings it wants to provoke."""
    import meddistill

    fake = types.ModuleType("meddistill.api")
    monkeypatch.setitem(sys.modules, "meddistill.api", fake)
    monkeypatch.setattr(meddistill, "api", fake, raising=False)
    return fake


class Result:
    """What a function of the api returns, as far as the command line is concerned."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document

    def as_dict(self) -> dict[str, Any]:
        return self._document


@pytest.fixture
def result() -> type[Result]:
    return Result


@pytest.fixture
def document() -> Callable[[str], Any]:
    """The one JSON document that a text holds; fails if there is anything else."""
    return json.loads
