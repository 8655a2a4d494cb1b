"""Whether a GPU's kernels serve the teachers: tried on a CPU, where the same operators are plain functions."""

import pytest
import torch

from meddistill.nets.convnet import ConvNet
from meddistill.nets.gradient import Kernels, gradient
from meddistill.teachers import trial
from meddistill.teachers.train import TeacherPlan

NETWORK = ConvNet(4, 2, 3, 9, 3)


def tried(arithmetic="float32", timed=False, compiled=False):
    plan = TeacherPlan(5, 10, 5, 4, 0.1, "balanced", arithmetic=arithmetic)
    return trial.why_no_kernels(NETWORK, plan, Kernels(compiled), 2, torch.device("cpu"), timed)


@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_kernels_that_are_right_serve(arithmetic):
    assert tried(arithmetic) is None


@pytest.mark.parametrize(("arithmetic", "wrong"), [("float32", 1.01), ("bfloat16", 2.0), ("float32", float("nan"))])
def test_kernels_that_are_wrong_do_not(monkeypatch, arithmetic, wrong):
    def changed(*some, kernels=None, **named):
        found = gradient(*some, kernels=kernels, **named)
        return tuple(wrong * one for one in found) if kernels else found

    monkeypatch.setattr(trial, "gradient", changed)
    assert tried(arithmetic).startswith("they are wrong: their error is ")


@pytest.mark.parametrize(("plain", "kernels", "reason"), [(2.0, 1.0, None), (1.0, 2.0, "they are slower: 2e+03 ms")])
def test_kernels_serve_where_they_are_faster(monkeypatch, plain, kernels, reason):
    seconds = iter([kernels, plain])
    monkeypatch.setattr(trial, "seconds_of", lambda step, device: next(seconds))
    found = tried(timed=True)
    assert found is reason if reason is None else found.startswith(reason)


@pytest.mark.parametrize("compiled", [False, True])
def test_whatever_fails_is_a_reason_and_nothing_compiled_stays(monkeypatch, compiled):
    def failing(*some, kernels=None, **named):
        if kernels:
            raise RuntimeError("line 1\nline 2")
        return gradient(*some, **named)

    forgotten = []
    monkeypatch.setattr(trial, "gradient", failing)
    monkeypatch.setattr(trial, "forget_compiled", lambda: forgotten.append(True))
    assert tried(compiled=compiled) == "line 1"
    assert forgotten == [True] * compiled
