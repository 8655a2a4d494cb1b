"""The public suite passes what behaves and names what does not; the example of the documentation behaves."""

import random
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from meddistill import api
from meddistill.distill.distance import NormalisedL2
from meddistill.distill.methods import METHODS, Method, find, names
from meddistill.distill.segments import Segment
from meddistill.pipeline.plan import Plan, override
from meddistill.pipeline.plan_file import from_toml
from meddistill.runtime.errors import InputError
from meddistill.testing import MisbehaviourError, check_method, problems_of

DOCS = (Path(__file__).parents[2] / "docs" / "new-method.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
TOML = re.search(r"```toml\n(.*?)```", DOCS, re.DOTALL)[1]


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_behaves(method):
    check_method(method)


def bad(**parts):
    return Method(name="bad", summary="does not behave", source="none", **parts)


class Noisy(NormalisedL2):
    """Adds noise from all global generators."""

    def __call__(self, states, way):
        return super().__call__(states, way) * (1 + torch.rand(()) + np.random.rand() + random.random())


class Constant(NormalisedL2):
    """Cut off from the student."""

    def __call__(self, states, way):
        return (
            super().__call__({1: tuple(p.detach() for p in states[max(states)])}, way)
            + 0 * states[max(states)][0].sum()
        )


class Wrong(NormalisedL2):
    """Another slope than its own."""

    def __call__(self, states, way):
        score = super().__call__(states, way)
        return 2 * score - score.detach()


class Backwards(NormalisedL2):
    """Grows as the student comes nearer."""

    def __call__(self, states, way):
        return 2 - super().__call__(states, way)


class Broken(NormalisedL2):
    """Fails."""

    def __call__(self, states, way):
        raise KeyError("no such thing")


SEEN = []


class Forgetful(NormalisedL2):
    """Remembers in itself, which no checkpoint holds."""

    def __call__(self, states, way):
        SEEN.append(1)
        return super().__call__(states, way) * (1 + 0.1 * len(SEEN))


@dataclass(frozen=True)
class Moving:
    """A segment that moves along the trajectory, and in the end beyond it where ``far``."""

    far: bool

    def draw(self, teachers, snapshots, generator, share, pace):
        start = round(share * (snapshots - 2 + self.far))
        return Segment(0, start, start + 1)

    def paced(self, pace, score, share):
        return pace


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (bad(distance=Noisy()), "draws from the global generator of torch"),
        (bad(distance=Noisy()), "draws from the global generator of numpy"),
        (bad(distance=Noisy()), "draws from the global generator of random"),
        (bad(distance=Noisy()), "the same seed gives different bytes"),
        (bad(distance=Constant()), "the score does not depend on the images"),
        (bad(distance=Wrong()), "along its gradient for the images"),
        (bad(distance=Backwards()), "a student that has arrived scores 2, one that has not moved 1"),
        (bad(distance=Broken()), "asked whether it ends, it raised KeyError: 'no such thing'"),
        (bad(distance=Forgetful()), "interrupted after 1 iterations and continued ends with other bytes"),
        (replace(METHODS["mtt"], source=" "), "its source is empty"),
    ],
)
def test_what_does_not_behave_is_named(method, expected):
    assert expected in "\n".join(cached_problems(method))


FOUND = {}


def cached_problems(method):
    """Parametrised by what is found, tried once."""
    key = (type(method.distance), method.source)
    if key not in FOUND:
        FOUND[key] = problems_of(method)
    return FOUND[key]


def test_all_problems_are_raised_at_once():
    with pytest.raises(MisbehaviourError, match=r"(?s)^bad does not behave:\n- its source is empty\n- asked whether"):
        check_method(replace(bad(distance=Broken()), source=""))


def test_segments_of_ones_own():
    assert problems_of(bad(segments=lambda length, earliest, latest: Moving(far=False))) == []
    (problem,) = problems_of(bad(segments=lambda length, earliest, latest: Moving(far=True)))
    assert "start=8, end=9, share_of_steps=1.0) of 2 teachers whose last snapshot is 8" in problem


@pytest.mark.parametrize("name", ["", "Upper", "two words", "a/b", "-a", "a--b", "1a", "a" * 41, "a.b"])
def test_a_name_that_a_card_cannot_hold_is_refused(name):
    with pytest.raises(ValueError, match="lower-case letters"):
        Method(name=name, summary="s", source="s")


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a package of one module and one entry point where Python finds it, as an installer does."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(package, module, code, entry):
        (tmp_path / f"{module}.py").write_text(code)
        facts = tmp_path / f"{package.replace('-', '_')}-1.0.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (facts / "entry_points.txt").write_text(f"[meddistill.methods]\n{entry}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)

    return put


def test_the_example_of_the_documentation_is_found_and_behaves(install):
    code, check = PYTHON
    assert len(code.splitlines()) < 40
    entry = TOML.split('"meddistill.methods"]\n')[1].replace('"', "").strip()
    install("absolute-matching", "absolute_matching", code, entry)
    exec(compile(check, "docs/new-method.md", "exec"), {})
    assert names() == (*METHODS, "absolute")
    assert find("absolute").labels == "learned"
    assert "absolute" in [method["name"] for method in api.methods().as_dict()["methods"]]
    plan = override(Plan(), method="absolute")
    assert type(plan.loop_plan((2, 8)).distance).__name__ == "Absolute"
    assert from_toml('method = "absolute"', "here") == plan


GOOD = "from meddistill.distill.methods import Method\nMETHOD = Method(name='{}', summary='s', source='s')\n"


@pytest.mark.parametrize(
    ("code", "entry", "expected"),
    [
        (
            "import nothing_of_that_name",
            "mine = module_a:METHOD",
            "package one cannot be loaded .ModuleNotFound",
        ),
        (
            "METHOD = 5",
            "mine = module_a:METHOD",
            "is 5: expected a Method of that name",
        ),
        (GOOD.format("other"), "mine = module_a:METHOD", "'mine'.*expected a Method of that name"),
        (GOOD.format("mine"), "mine = module_a:WRONG", "cannot be loaded .AttributeError"),
    ],
)
def test_an_installed_method_that_cannot_be_used_says_why(install, code, entry, expected):
    install("one", "module_a", code, entry)
    with pytest.raises(InputError, match=f"(?s){expected}"):
        find("mine")
    assert find("mtt") is METHODS["mtt"]


def test_two_packages_with_one_name_are_refused_and_none_replaces_a_method(install):
    install("one", "module_a", GOOD.format("mine"), "mine = module_a:METHOD")
    assert find("mine").name == "mine"
    install("two", "module_b", GOOD.format("mine"), "mine = module_b:METHOD\nmtt = module_b:METHOD")
    with pytest.raises(InputError, match="'mine' is offered by one and two: keep one of them"):
        find("mine")
    assert names().count("mtt") == 1
    assert find("mtt") is METHODS["mtt"]
