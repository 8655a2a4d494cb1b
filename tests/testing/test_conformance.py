"""The public suite passes what behaves and names what does not; the example of the documentation behaves."""

import math
import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from meddistill import api
from meddistill.distill.distance import NormalisedL2, Way, Weighted
from meddistill.distill.matching.distribution import FeatureMeans
from meddistill.distill.methods import METHODS, Method, find, names
from meddistill.distill.objective import Scene
from meddistill.distill.segments import Segment
from meddistill.distill.unroll import Learned, Outcome, Truncated
from meddistill.pipeline.plan import Plan, override
from meddistill.pipeline.plan_file import from_toml
from meddistill.runtime.errors import InputError
from meddistill.testing import MisbehaviourError, check_method, problems_of
from meddistill.testing.slopes import wrong_slopes
from meddistill.testing.trial import trial_of

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
class Scaled(NormalisedL2):
    """Times what a function of the way says."""

    by: Callable[[Way], float]

    def __call__(self, states, way):
        return self.by(way) * super().__call__(states, way)


@dataclass(frozen=True)
class Turned(NormalisedL2):
    """What a function makes of the score and the way."""

    into: Callable[[Tensor, Way], object]

    def __call__(self, states, way):
        return self.into(super().__call__(states, way), way)


class Crooked(Weighted):
    """Another slope than its own once it remembers something."""

    def __call__(self, states, way):
        score = super().__call__(states, way)
        return 2 * score - score.detach() if any(omega.any() for omega in way.memory) else score


@dataclass(frozen=True)
class Bent(FeatureMeans):
    """An outcome that a function changed."""

    into: Callable[[Outcome, Scene, Learned], Outcome]
    exact: str = "always"

    def outcome(self, scene, learned, carried):
        found = super().outcome(scene, learned, carried)
        return found._replace(outcome=self.into(found.outcome, scene, learned))


def bent(into, **more):
    return bad(objective=Bent(into, **more))


def sloped(outcome, images=1.0, steps=0.0):
    of = outcome.gradient
    return replace(outcome, gradient=Learned(images * of.images, of.label_logits, of.log_steps + steps))


def flipped_later(outcome, scene, learned):
    return sloped(outcome, -1 if scene.iteration else 1)


def half_blind(outcome, scene, learned):
    """A gradient that lacks some images: along itself, it is the slope nevertheless."""
    seen = (torch.arange(len(learned.images)) > 0).view(-1, 1, 1, 1)
    return sloped(outcome, seen)


def changed(outcome, scene, learned):
    learned.images.mul_(1.01)
    return outcome


def stretched(score, way):
    for param in way.end:
        param.mul_(1.01)
    return score


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


LATE = "half-way through a run: "


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (bad(distance=Scaled(lambda way: math.nan)), "6 of 7 iterations were skipped: score or gradient not finite"),
        (
            bad(distance=Scaled(lambda way: math.nan if way.share > 0.3 else 1)),
            "4 of 7 iterations were skipped: score or gradient not finite",
        ),
        (bad(distance=Scaled(lambda way: math.nan if way.share > 0.9 else 1)), "end of a run: score or gradient not"),
        (bad(distance=Scaled(lambda way: 1e6)), "every iteration was skipped: its score was above 10"),
        (
            bad(distance=Turned(lambda score, way: 2 * score - score.detach() if way.share else score)),
            LATE + "along its gradient for the images",
        ),
        (
            bad(distance=Turned(lambda score, way: 2 * score - score.detach() if way.share > 0.9 else score)),
            "at the end of a run: along its gradient for the images",
        ),
        (bad(distance=Crooked()), LATE + "along its gradient for the images"),
        (bent(lambda outcome, *_: sloped(outcome, steps=1.0)), "step sizes moved that it does not learn"),
        (bent(lambda outcome, *_: sloped(outcome, images=-1)), "in iteration 0: along its gradient for the images"),
        (bent(flipped_later), "in iteration 1: along its gradient for the images"),
        (bent(half_blind), "in iteration 0: in a random direction of the images"),
        (bent(lambda outcome, *_: replace(outcome, score=math.nan)), "in iteration 0: score or gradient not finite"),
        (bent(flipped_later, exact="sometimes"), "exact is 'sometimes': expected always, first or never"),
    ],
)
def test_what_goes_wrong_late_or_without_a_word_is_named(method, expected):
    assert expected in "\n".join(problems_of(method))


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (bad(distance=Broken()), "asked whether it gives a score, it raised KeyError: 'no such thing'"),
        (bad(distance=Turned(lambda score, way: [score])), "its score is of type list: expected a scalar tensor"),
        (
            bad(distance=Turned(lambda score, way: score[None])),
            "its score is a tensor of shape (1,): expected a scalar tensor, of shape ()",
        ),
        (bad(distance=Turned(lambda score, way: score.detach())), "its score has no gradient: compute it from the"),
        (bad(distance=Turned(stretched)), "it changes what it was given: way.end"),
        (bent(changed), "it changes what it was given: the set"),
        (
            bent(lambda outcome, *_: replace(outcome, score=torch.ones(()))),
            "its score is of type Tensor: expected a float",
        ),
        (
            bad(segments=lambda length: None),
            "it cannot be tried: setting up a run raised TypeError: <lambda>() takes 1 positional",
        ),
    ],
)
def test_what_cannot_be_run_is_told_once(method, expected):
    (problem,) = problems_of(method)
    assert problem.startswith(expected)


def test_an_error_that_several_checks_run_into_is_told_once():
    later = Turned(lambda score, way: score if way.share in (0.0, 0.5, 0.999) else 1 / 0)
    problems = problems_of(bad(distance=later))
    assert problems == ["asked whether it ends, it raised ZeroDivisionError: division by zero"]


@pytest.mark.parametrize(("exact", "least"), [("first", 0), ("never", 0), ("always", 1)])
def test_an_objective_says_where_its_gradient_is_no_slope(exact, least):
    assert len(problems_of(bent(flipped_later, exact=exact))) == least


def test_a_network_that_bends_between_two_points_accuses_nobody():
    """The slope of the farther points is another one; that of nearer ones is the gradient's."""
    set_ = Learned(torch.zeros(1, dtype=torch.float64), *[torch.zeros(1, dtype=torch.float64)] * 2)
    gradient = replace(set_, images=torch.ones(1, dtype=torch.float64))

    def score(learned):
        return float(learned.images + 9 * (learned.images - 5e-7).clamp_min(0))

    assert list(wrong_slopes(score, set_, gradient, ())) == []
    (problem,) = wrong_slopes(score, set_, replace(gradient, images=-gradient.images), ())
    assert problem.startswith("along its gradient for the images the score should rise by 1, and rises by -")


def test_a_trial_has_images_as_small_as_the_method_stores(tmp_path):
    assert trial_of(METHODS["meddistill"], tmp_path).first.images.shape[-2:] == (2, 2)
    assert trial_of(METHODS["mtt"], tmp_path).first.images.shape[-2:] == (8, 8)
    assert problems_of(bad(formation=8)) == []


@pytest.mark.parametrize(("smoothing", "reach"), [(0, 0), (2, 2), (1000, 4)])
def test_a_trial_smooths_trajectories_as_the_method_says_as_far_as_its_own_go(smoothing, reach, tmp_path):
    method = replace(METHODS["mtt"], smoothing=smoothing)
    assert trial_of(method, tmp_path).matching.smoothing == reach
    assert problems_of(method) == []


@pytest.mark.parametrize(
    ("part", "value", "expected"),
    [
        ("labels", "soft", "expected hard, learned or taught"),
        ("strategy", "fast", "expected None, full, adjoint, two-pass or Truncated"),
        ("averaging", 2.0, "expected a number from 0 to below 1"),
        ("averaging", math.nan, "expected a number from 0 to below 1"),
        ("highest_score", 0, "expected a number above 0"),
        ("highest_score", "1", "expected a number above 0"),
        ("formation", 0, "expected a whole number from 1 to 8"),
        ("formation", 3.5, "expected a whole number from 1 to 8"),
        ("formation", True, "expected a whole number from 1 to 8"),
        ("smoothing", -1, "expected a whole number from 0 to 1000"),
    ],
)
def test_a_part_that_means_nothing_is_refused(part, value, expected):
    with pytest.raises(ValueError, match=f"^{part} of the method bad is .*: {expected}"):
        bad(**{part: value})
    assert bad(strategy=Truncated(2)).strategy == Truncated(2)


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
