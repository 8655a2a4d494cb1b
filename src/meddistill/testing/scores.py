"""What is asked of the score of a distance or an objective, and of the segments that a distance is asked about."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from meddistill.distill.distance import Remembering, Way
from meddistill.distill.objective import Found, Scene
from meddistill.distill.segments import Pace
from meddistill.distill.unroll import Learned, Outcome, unroll
from meddistill.nets.params import Params
from meddistill.runtime.streams import stream
from meddistill.testing.slopes import NAMES, is_finite, wrong_slopes
from meddistill.testing.trial import SEED, Trial

# Scores are asked for after these shares of a run's iterations; the last is that of the last of a thousand.
_SHARES = {0.0: "at the beginning of a run", 0.5: "half-way through a run", 0.999: "at the end of a run"}
# A distance that remembers has seen as many students before it is asked half-way and at the end.
_SEEN = 3
_DRAWS = 200
# Of objectives: the first iteration, and one after it.
_ITERATIONS = (0, 1)


def gives_a_score(trial: Trial) -> Iterator[str]:
    """A scalar with a gradient; and nothing that the distance was given is changed."""
    distance, steps = trial.plan.distance, trial.plan.student_steps
    asked = distance.looks_at(steps)
    if not asked or min(asked) < 0 or max(asked) > steps:
        yield f"it looks at the student after {list(asked)} of {steps} steps: expected some of 0 to {steps}"
        return
    for share in _SHARES:
        way, states = trial.way(share), _half_way(trial, share)
        before = (*_copied(way.start, way.middle, way.end, way.memory), *_copied(*states.values()))
        score = distance(states, way)
        if isinstance(distance, Remembering):
            distance.noted({step: _detached(params) for step, params in states.items()}, way)
        after = (way.start, way.middle, way.end, way.memory, *states.values())
        names = ("way.start", "way.middle", "way.end", "way.memory", *(f"states[{step}]" for step in states))
        problems = [*_changed(names, before, after), *_no_score(score)]
        if problems:
            yield from problems
            return


def _half_way(trial: Trial, share: float) -> dict[int, Params]:
    """Where a student may be, differentiable, and no leaves, which could not be changed in place."""
    way = trial.way(share)
    middle = tuple((0.5 * (a + b)).requires_grad_().clone() for a, b in zip(way.start, way.end, strict=True))
    return {
        step: tuple(param.clone() for param in middle)
        for step in trial.plan.distance.looks_at(trial.plan.student_steps)
    }


def _no_score(score: object) -> Iterator[str]:
    """What is wrong with a distance's answer, which should be a scalar tensor."""
    if not isinstance(score, Tensor):
        yield f"its score is of type {type(score).__name__}: expected a scalar tensor"
    elif score.dim():
        yield f"its score is a tensor of shape {tuple(score.shape)}: expected a scalar tensor, of shape ()"
    elif not score.requires_grad:
        yield "its score has no gradient: compute it from the states, in torch, without detaching them"


def _copied(*groups: Params) -> list[Params]:
    return [tuple(tensor.detach().clone() for tensor in group) for group in groups]


def _detached(params: Params) -> Params:
    return tuple(param.detach() for param in params)


def _changed(names: Sequence[str], before: Sequence[Params], after: Sequence[Params]) -> Iterator[str]:
    for name, old, new in zip(names, before, after, strict=True):
        if not all(torch.equal(a, b) for a, b in zip(old, new, strict=True)):
            yield f"it changes what it was given: {name}"


def gives_an_outcome(trial: Trial) -> Iterator[str]:
    """A number and a gradient of the set's shapes; and nothing that the objective was given is changed."""
    objective, scene, learned = trial.objective, trial.scene(0), trial.learned
    carried: Params = ()
    for iteration in _ITERATIONS:
        names = ("the set", "what it carried on", "the real images")
        given = (learned.tensors(), carried, (scene.images.pixels, scene.images.labels))
        before = _copied(*given)
        found = objective.outcome(replace(scene, iteration=iteration), learned, carried)
        problems = [*_changed(names, before, given), *_no_outcome(found, learned)]
        if problems:
            yield from problems
            return
        carried = found.carried


def _no_outcome(found: Found, learned: Learned) -> Iterator[str]:
    score: object = found.outcome.score
    gradient = found.outcome.gradient
    if not isinstance(score, float):
        yield f"its score is of type {type(score).__name__}: expected a float"
    for name, slope, part in zip(NAMES, gradient.tensors(), learned.tensors(), strict=True):
        if slope.shape != part.shape:
            yield f"its gradient for the {name} has the shape {tuple(slope.shape)}: expected {tuple(part.shape)}"


def arrives(trial: Trial) -> Iterator[str]:
    """A student that has arrived scores less than one that has not moved."""
    distance, steps = trial.plan.distance, trial.plan.student_steps
    for share, when in _SHARES.items():
        way = trial.way(share)
        standing = float(distance(dict.fromkeys(distance.looks_at(steps), way.start), way))
        there = {step: _at(way, step / steps) for step in distance.looks_at(steps)}
        arrived = float(distance(there, way))
        if not (math.isfinite(standing) and math.isfinite(arrived) and arrived < standing):
            told = f"a student that has arrived scores {arrived:g}, one that has not moved {standing:g}: expected less"
            yield f"{when}: {told}"
            return


def _at(way: Way, share: float) -> Params:
    """A point of the teacher's own way: straight to the middle, straight to the end."""
    one, other = (way.start, way.middle) if share < 0.5 else (way.middle, way.end)
    return tuple(torch.lerp(a, b, 2 * share % 1 if share < 1 else 1.0) for a, b in zip(one, other, strict=True))


def has_its_slope(trial: Trial) -> Iterator[str]:
    """By both exact strategies, early and late in a run, with the first memory and a later one."""
    for share, when in _SHARES.items():
        way = trial.way(share)
        for _ in range(_SEEN if share else 0):
            way = _seen(trial, way)
        problems = list(_wrong_at(trial, way))
        yield from (f"{when}: {text}" for text in problems)
        if problems:
            return


def _wrong_at(trial: Trial, way: Way) -> Iterator[str]:
    found, other = (_outcome(trial, way, strategy, trial.learned) for strategy in ("full", "adjoint"))
    if not (is_finite(found) and is_finite(other)):
        yield "score or gradient not finite"
        return
    for name, one, two in zip(NAMES, found.gradient.tensors(), other.gradient.tensors(), strict=True):
        if not torch.allclose(one, two, rtol=1e-6, atol=1e-9):
            yield f"the gradient for the {name} differs between the strategies full and adjoint"
    score = partial(_score, trial, way)
    yield from wrong_slopes(score, trial.learned, found.gradient, _learned_places(trial))


def _score(trial: Trial, way: Way, learned: Learned) -> float:
    return _outcome(trial, way, "full", learned).score


def _outcome(trial: Trial, way: Way, strategy: Literal["full", "adjoint"], learned: Learned) -> Outcome:
    distance, batches = trial.plan.distance, trial.batches
    return unroll(
        trial.matching.network,
        way.start,
        learned,
        batches,
        lambda states: distance(states, way),
        at=distance.looks_at(len(batches)),
        strategy=strategy,
    )


def _seen(trial: Trial, way: Way) -> Way:
    """The way with the memory after one more student."""
    distance, batches, notes = trial.plan.distance, trial.batches, list[Params]()
    if not isinstance(distance, Remembering):
        return way

    def score(states: Mapping[int, Params]) -> Tensor:
        notes.append(distance.noted({step: _detached(params) for step, params in states.items()}, way))
        return distance(states, way)

    unroll(trial.matching.network, way.start, trial.learned, batches, score, at=distance.looks_at(len(batches)))
    return replace(way, memory=distance.remembered(way.memory, notes[:1]))


def _learned_places(trial: Trial) -> tuple[int, ...]:
    learns = trial.method.learns
    return tuple(
        place
        for place, names in enumerate((("images",), ("soft labels",), ("step size", "step sizes")))
        if set(names) & set(learns)
    )


def outcome_has_its_slope(trial: Trial) -> Iterator[str]:
    """Of an objective, in the iterations of which it says so, for what it carries on is a constant there."""
    objective, learned = trial.objective, trial.learned
    carried = objective.outcome(trial.scene(0), learned, ()).carried
    exact = getattr(objective, "exact", "always")
    if exact not in ("always", "first", "never"):
        yield f"its objective's exact is {exact!r}: expected always, first or never"
    for iteration in {"first": _ITERATIONS[:1], "never": ()}.get(exact, _ITERATIONS):
        scene = trial.scene(iteration)
        found = objective.outcome(scene, learned, carried).outcome

        def score(moved: Learned, scene: Scene = scene) -> float:
            return objective.outcome(scene, moved, carried).outcome.score

        if not is_finite(found):
            problems = ["score or gradient not finite"]
        else:
            problems = list(wrong_slopes(score, learned, found.gradient, _learned_places(trial)))
        yield from (f"in iteration {iteration}: {text}" for text in problems)
        if problems:
            return


def stays_on_trajectories(trial: Trial) -> Iterator[str]:
    """Whether every segment of a long run whose scores fall from 1 to 0 does."""
    rule, teachers, last = trial.plan.segments, trial.matching.teachers, trial.matching.trajectories.snapshots - 1
    pace = Pace()
    for number in range(_DRAWS):
        share = number / _DRAWS
        drawn = rule.draw(teachers, last + 1, stream(SEED, "draw", number), share, pace)
        if not (0 <= drawn.teacher < teachers and 0 <= drawn.start < drawn.end <= last and drawn.share_of_steps <= 1):
            yield f"it draws {drawn} of {teachers} teachers whose last snapshot is {last}"
            return
        pace = rule.paced(pace, 1 - share, (number + 1) / _DRAWS)
