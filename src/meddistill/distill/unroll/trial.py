"""Whether a GPU's kernels serve a run: they are tried on its shapes before it begins."""

import contextlib
import time
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from meddistill.distill.unroll.step import Step, step_of
from meddistill.distill.unroll.types import Network, Precision
from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import Params
from meddistill.runtime.device import give_back, rounded_convolutions
from meddistill.runtime.streams import stream

# The kernels' error may be so many times that of the plain form, and a little more: units near their kink switch with
# any rounding.
_TIMES, _SWITCHES = 2.0, {"full": 1e-3, "bfloat16": 1e-2}
_WARM_UP, _ROUNDS = 3, 5

# Parameters, direction, images and soft labels of students side by side.
_Problem = tuple[Params, Params, Tensor, Tensor]


class Compared(NamedTuple):
    """Steps with kernels and without: their largest error relative to float64, and what a run waits for one step."""

    error: float
    error_without: float
    seconds: float
    seconds_without: float


def are_there_kernels(network: Network, device: torch.device) -> bool:
    """They are for a GPU, and for the first block of the ConvNet with instance norm."""
    return device.type == "cuda" and isinstance(network, ConvNet) and network.norm == "instance"


def why_no_kernels(
    network: ConvNet,
    precision: Precision,
    compiled: bool,
    students: int,
    batch: int,
    device: torch.device,
    timed: bool = True,
) -> str | None:
    """Why steps of so many students on ``batch`` images each do without kernels; None where they gain by them.

    They must be right, and unless ``timed`` is false faster. Whatever fails is a reason.
    """
    try:
        found = compare(network, precision, compiled, students, batch, device)
        wrong = why_wrong(found, precision)
        return wrong or (why_slow(found) if timed else None)
    except Exception as error:  # whatever a compiler or a driver may raise: without kernels it is as good, only slower
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    finally:
        give_back(device)


def compare(
    network: ConvNet, precision: Precision, compiled: bool, students: int, batch: int, device: torch.device
) -> Compared:
    """Slopes and curvature of one step, with noise for images."""
    problem = _problem(network, students, batch, device)
    exact, errors, seconds = _found(step_of(network), _in_float64(problem)), list[float](), list[float]()
    with rounded_convolutions() if precision == "bfloat16" else contextlib.nullcontext():
        for kernels in (True, False):
            step = step_of(network, precision, compiled, kernels)
            errors.append(_error(_found(step, problem), exact))
            seconds.append(_seconds(step, problem))
            if compiled:  # captured steps hold memory of their own
                step_of.cache_clear()
                torch.compiler.reset()
    return Compared(*errors, *seconds)


def why_wrong(found: Compared, precision: Precision) -> str | None:
    """How far they are off, where that is more than rounding does."""
    if found.error <= _TIMES * found.error_without + _SWITCHES[precision]:
        return None
    return f"they are wrong: their error is {found.error:.2g}, and {found.error_without:.2g} without them"


def why_slow(found: Compared) -> str | None:
    """How much longer they take, where they do."""
    if found.seconds < found.seconds_without:
        return None
    with_them, without = 1e3 * found.seconds, 1e3 * found.seconds_without
    return f"they are slower: {with_them:.3g} ms a step, and {without:.3g} ms without them"


def _problem(network: ConvNet, students: int, batch: int, device: torch.device) -> _Problem:
    """Students at their start, each with a direction and images of its own, all of noise."""

    def noise(name: str, *shape: int) -> Tensor:
        return torch.randn(students, *shape, generator=stream(0, "trial", name)).to(device)

    starts = [network.init(stream(0, "trial", place)) for place in range(students)]
    params = tuple(torch.stack(parts).to(device) for parts in zip(*starts, strict=True))
    along = tuple(noise(f"along {place}", *param.shape[1:]) for place, param in enumerate(params))
    images = noise("images", batch, network.channels, network.size, network.size)
    return params, along, images, noise("labels", batch, network.classes).softmax(2)


def _in_float64(problem: _Problem) -> _Problem:
    """The last student's, whom a kernel that counts students wrongly misses."""
    params, along, images, labels = problem
    last, direction = (tuple(part[-1:].double() for part in parts) for parts in (params, along))
    return last, direction, images[-1:].double(), labels[-1:].double()


def _found(step: Step, problem: _Problem) -> list[Tensor]:
    """The last student's slopes, its Hv, and its slopes' derivatives by images and labels, one tensor each."""
    params, along, images, labels = problem
    slopes = step.slopes(params, images, labels)
    found = [_flat(slopes)]  # a captured step's results last until the next call
    curved = step.curvature(params, along, images, labels, True)
    return [*found, _flat(curved.params or ()), _flat((curved.images,)), _flat((curved.labels,))]


def _flat(parts: Params) -> Tensor:
    return torch.cat([part[-1].flatten().double() for part in parts])


def _error(found: list[Tensor], exact: list[Tensor]) -> float:
    """The largest of all parts, relative; not a number where one of them is not."""
    every = [(one - other).norm() / other.norm() for one, other in zip(found, exact, strict=True)]
    return float(torch.stack(every).max())  # Python's max passes over what is not a number


def _seconds(step: Step, problem: _Problem) -> float:
    """What a run waits for slopes and curvature."""
    params, along, images, labels = problem
    device, times = images.device, list[float]()
    for _ in range(_WARM_UP + _ROUNDS):
        begun = time.perf_counter()
        step.slopes(params, images, labels)
        step.curvature(params, along, images, labels, True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    return median(times[_WARM_UP:])
