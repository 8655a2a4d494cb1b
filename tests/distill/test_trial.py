"""Whether a GPU's kernels serve: tried on a CPU, where the same operators are plain functions."""

from dataclasses import replace

import pytest
import torch

from meddistill.distill.unroll import trial
from meddistill.distill.unroll.step import step_of
from meddistill.nets.convnet import ConvNet
from meddistill.nets.trial import are_there_kernels, problem_of

CPU, NETWORK = torch.device("cpu"), ConvNet(4, 2, 3, 9, 3)


def tried(precision="full", timed=False, students=2):
    return trial.why_no_kernels(NETWORK, precision, False, students, 4, CPU, timed)


@pytest.mark.parametrize("precision", ["full", "bfloat16"])
def test_kernels_that_are_right_serve(precision):
    assert tried(precision) is None


@pytest.mark.parametrize(("precision", "wrong"), [("full", 1.01), ("bfloat16", 1.1), ("full", float("nan"))])
@pytest.mark.parametrize("part", ["slopes", "params", "images", "labels"])
def test_kernels_that_are_wrong_do_not(monkeypatch, precision, wrong, part):
    def steps(network, precision="full", compiled=False, kernels=False):
        step = step_of(network, precision, compiled, kernels)

        def curvature(*arguments):
            found = step.curvature(*arguments)
            if not kernels or part == "slopes":
                return found
            changed = getattr(found, part)
            several = isinstance(changed, tuple)
            return found._replace(**{part: tuple(wrong * one for one in changed) if several else wrong * changed})

        def slopes(*arguments):
            found = step.slopes(*arguments)
            return tuple(wrong * one for one in found) if kernels and part == "slopes" else found

        return replace(step, slopes=slopes, curvature=curvature)

    monkeypatch.setattr(trial, "step_of", steps)
    assert tried(precision).startswith("they are wrong: their error is ")


def test_kernels_that_give_no_numbers_do_not(monkeypatch):
    errors = iter([float("nan"), 0.0])
    monkeypatch.setattr(trial, "error_of", lambda found, exact: next(errors))
    assert tried().startswith("they are wrong: their error is nan")


def test_kernels_that_are_right_for_the_first_student_alone_do_not(monkeypatch):
    def steps(network, precision="full", compiled=False, kernels=False):
        step = step_of(network, precision, compiled, kernels)

        def slopes(params, images, labels):
            found = step.slopes(params, images, labels)
            return tuple(one[:1].expand_as(one) for one in found) if kernels else found

        return replace(step, slopes=slopes)

    monkeypatch.setattr(trial, "step_of", steps)
    assert tried(students=1) is None
    assert tried(students=3).startswith("they are wrong: their error is ")


@pytest.mark.parametrize(("plain", "kernels", "reason"), [(2.0, 1.0, None), (1.0, 2.0, "they are slower: 2e+03 ms")])
def test_kernels_serve_where_they_are_faster(monkeypatch, plain, kernels, reason):
    seconds = iter([kernels, plain])
    monkeypatch.setattr(trial, "_seconds", lambda step, problem, along: next(seconds))
    found = tried(timed=True)
    assert found is reason if reason is None else found.startswith(reason)


def test_steps_are_timed():
    problem = problem_of(NETWORK, 2, 3, CPU)
    assert 0 < trial._seconds(step_of(NETWORK), problem, problem.params) < 60


@pytest.mark.parametrize("error", [ModuleNotFoundError("No module named 'triton'"), RuntimeError("line 1\nline 2")])
def test_whatever_fails_is_a_reason(monkeypatch, error):
    def failing(network, precision="full", compiled=False, kernels=False):
        if kernels:
            raise error
        return step_of(network, precision)

    monkeypatch.setattr(trial, "step_of", failing)
    assert tried() == str(error).splitlines()[0]


def test_kernels_are_for_a_gpu_and_the_network_that_they_were_written_for():
    cuda = torch.device("cuda")
    assert are_there_kernels(NETWORK, cuda)
    assert not are_there_kernels(NETWORK, CPU)
    assert not are_there_kernels(ConvNet(4, 2, 3, 9, 3, "group"), cuda)
    assert not are_there_kernels(object(), cuda)
