"""Does a method behave? A public suite for whoever writes one: ``check_method(METHOD)`` tries it on a tiny cohort.

Teachers of a network with a few hundred parameters are trained on 48 images of 8×8, and the method distils three
classes from them, again and again: what is checked is what a user relies on with every method, not how good it is.

- its score is a finite scalar with a gradient, and nothing that it is given is changed;
- it ends, with finite numbers and no iteration skipped for want of them, and moves what it says that it learns and
  nothing else;
- the same seed gives the same bytes, another seed others;
- a run that was interrupted and continued ends with the bytes of one that was not;
- no global random generator is used;
- the score's gradient is its slope;
- of methods that match trajectories: a student that has arrived scores less than one that has not moved, and the
  segments lie on the trajectories, however far matching has come.

- :mod:`~meddistill.testing.trial`: the tiny cohort, its teachers, and the method with all that it needs to run, in
  float64 where slopes are measured;
- :mod:`~meddistill.testing.runs`: what is asked of whole runs;
- :mod:`~meddistill.testing.scores`: what is asked of the score of a distance or an objective;
- :mod:`~meddistill.testing.slopes`: gradients against central differences.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from meddistill.distill.methods import Method
from meddistill.runtime.device import one_thread
from meddistill.testing import runs, scores
from meddistill.testing.trial import Trial, trial_of

__all__ = ["MisbehaviourError", "check_method", "problems_of"]

_Check = Callable[[Trial], Iterator[str]]
_OF_RUNS: tuple[_Check, ...] = (runs.ends, runs.repeats, runs.resumes, runs.leaves_global_generators)


class MisbehaviourError(AssertionError):
    """A method does not do what users rely on; the text lists all that was found."""


def check_method(method: Method) -> None:
    """Try a method, in some seconds. Raises :class:`MisbehaviourError` listing every problem."""
    if problems := problems_of(method):
        raise MisbehaviourError(f"{method.name} does not behave:\n" + "\n".join(f"- {text}" for text in problems))


def problems_of(method: Method) -> list[str]:
    """What is wrong with a method, one sentence each; empty where it behaves."""
    problems = [f"its {name} is empty" for name in ("summary", "source") if not getattr(method, name).strip()]
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        try:
            trial = trial_of(method, Path(folder))
        except Exception as error:  # whatever a stranger's code raises is a finding
            return [*problems, f"it cannot be tried: setting up a run raised {_told(error)}"]
        return problems + _checked(trial)


def _checked(trial: Trial) -> list[str]:
    """What is wrong. Segments that lie nowhere are asked no score, and a score that is none is not run."""
    if trial.method.objective is None:
        stages: tuple[tuple[_Check, ...], ...] = (
            (scores.stays_on_trajectories,),
            (scores.gives_a_score,),
            (*_OF_RUNS, scores.arrives, scores.has_its_slope),
        )
    else:
        stages = ((scores.gives_an_outcome,), (*_OF_RUNS, scores.outcome_has_its_slope))
    return next((problems for stage in stages if (problems := _found(stage, trial))), [])


def _found(checks: Sequence[_Check], trial: Trial) -> list[str]:
    """What the checks find; an error that several of them run into is told once."""
    problems, raised = list[str](), set[str]()
    for check in checks:
        found, error = _asked(check, trial)
        problems += found
        if error is not None and error not in raised:
            problems.append(f"asked whether it {check.__name__.replace('_', ' ')}, it raised {error}")
            raised.add(error)
    return problems


def _asked(check: _Check, trial: Trial) -> tuple[list[str], str | None]:
    """What a check finds, and what it raised."""
    found = list[str]()
    try:
        found.extend(check(trial))
    except Exception as error:  # whatever a stranger's code raises is a finding
        return found, _told(error)
    return found, None


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
