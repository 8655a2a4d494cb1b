"""Whether a GPU's kernels serve the teachers: they are tried on a run's shapes before the first step."""

import torch

from meddistill.nets.convnet import ConvNet
from meddistill.nets.gradient import Kernels, forget_compiled, gradient
from meddistill.nets.trial import Compared, error_of, flat, problem_of, seconds_of, why_not
from meddistill.teachers.train import TeacherPlan


def why_no_kernels(
    network: ConvNet, plan: TeacherPlan, kernels: Kernels, teachers: int, device: torch.device, timed: bool = True
) -> str | None:
    """Why so many teachers side by side do without kernels; None where they gain by them."""
    half = plan.arithmetic == "bfloat16"
    reason = why_not(lambda: compare(network, plan, kernels, teachers, device), device, half=half, timed=timed)
    if reason is not None and kernels.compiled:  # what was captured holds memory of its own
        forget_compiled()
    return reason


def compare(network: ConvNet, plan: TeacherPlan, kernels: Kernels, teachers: int, device: torch.device) -> Compared:
    """The gradients of one step with kernels and without, with noise for images."""
    problem = problem_of(network, teachers, plan.batch, device)
    exact = [flat(gradient(network, *problem.in_float64()))]
    errors, seconds = list[float](), list[float]()
    for way in (kernels, None):

        def step(way: Kernels | None = way) -> torch.Tensor:
            return flat(gradient(network, *problem, autocast=plan.arithmetic == "bfloat16", kernels=way))

        errors.append(error_of([step()], exact))
        seconds.append(seconds_of(step, device))
    return Compared(*errors, *seconds)
