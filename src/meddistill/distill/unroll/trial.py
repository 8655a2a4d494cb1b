"""Whether a GPU's kernels serve the steps of students: they are tried on a run's shapes before it begins."""

import contextlib
from functools import partial

import torch
from torch import Tensor

from meddistill.distill.unroll.step import Step, step_of
from meddistill.distill.unroll.types import Precision
from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import Params
from meddistill.nets.trial import Compared, Problem, error_of, flat, noise, problem_of, seconds_of, why_not
from meddistill.runtime.device import rounded_convolutions


def why_no_kernels(
    network: ConvNet,
    precision: Precision,
    compiled: bool,
    students: int,
    batch: int,
    device: torch.device,
    timed: bool = True,
) -> str | None:
    """Why steps of so many students on ``batch`` images each do without kernels; None where they gain by them."""
    trial = partial(compare, network, precision, compiled, students, batch, device)
    return why_not(trial, device, half=precision == "bfloat16", timed=timed)


def compare(
    network: ConvNet, precision: Precision, compiled: bool, students: int, batch: int, device: torch.device
) -> Compared:
    """Slopes and curvature of one step, with noise for images."""
    problem = problem_of(network, students, batch, device)
    along = tuple(noise(f"along {place}", tuple(one.shape), device) for place, one in enumerate(problem.params))
    exactly = tuple(part[-1:].double() for part in along)
    exact, errors, seconds = _found(step_of(network), problem.in_float64(), exactly), list[float](), list[float]()
    with rounded_convolutions() if precision == "bfloat16" else contextlib.nullcontext():
        for kernels in (True, False):
            step = step_of(network, precision, compiled, kernels)
            errors.append(error_of(_found(step, problem, along), exact))
            seconds.append(_seconds(step, problem, along))
            if compiled:  # captured steps hold memory of their own
                step_of.cache_clear()
                torch.compiler.reset()
    return Compared(*errors, *seconds)


def _found(step: Step, problem: Problem, along: Params) -> list[Tensor]:
    """The last student's slopes, its Hv, and its slopes' derivatives by images and labels, one tensor each."""
    params, images, labels = problem
    slopes = step.slopes(params, images, labels)
    found = [flat(slopes)]  # a captured step's results last until the next call
    curved = step.curvature(params, along, images, labels, True)
    return [*found, flat(curved.params or ()), flat((curved.images,)), flat((curved.labels,))]


def _seconds(step: Step, problem: Problem, along: Params) -> float:
    """What a run waits for slopes and curvature."""
    params, images, labels = problem

    def both() -> None:
        step.slopes(params, images, labels)
        step.curvature(params, along, images, labels, True)

    return seconds_of(both, images.device)
