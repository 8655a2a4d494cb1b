"""Whether a GPU's kernels serve a run: what the trials of them have in common."""

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import Params
from meddistill.runtime.device import give_back
from meddistill.runtime.streams import stream

# The kernels' error may be so many times that of the plain form, and a little more, in float32 and in bfloat16: units
# near their kink switch with any rounding.
_TIMES, _SWITCHES, _SWITCHES_OF_HALF = 2.0, 1e-3, 1e-2
_WARM_UP, _ROUNDS = 3, 5


class Compared(NamedTuple):
    """Steps with kernels and without: their largest error relative to float64, and what a run waits for one step."""

    error: float
    error_without: float
    seconds: float
    seconds_without: float


class Problem(NamedTuple):
    """Parameters, images and soft labels of networks side by side."""

    params: Params
    images: Tensor
    labels: Tensor

    def in_float64(self) -> "Problem":
        """The last network's, whom a kernel that counts networks wrongly misses."""
        params = tuple(part[-1:].double() for part in self.params)
        return Problem(params, self.images[-1:].double(), self.labels[-1:].double())


def are_there_kernels(network: object, device: torch.device) -> bool:
    """They are for a GPU, and for the first block of the ConvNet with instance norm."""
    return device.type == "cuda" and isinstance(network, ConvNet) and network.norm == "instance"


def why_not(compare: Callable[[], Compared], device: torch.device, *, half: bool, timed: bool) -> str | None:
    """Why a run does without kernels, by what ``compare`` finds; None where it gains by them.

    They must be right, and unless ``timed`` is false faster. Whatever fails is a reason.
    """
    try:
        found = compare()
        return why_wrong(found, half) or (why_slow(found) if timed else None)
    except Exception as error:  # whatever a compiler or a driver may raise: without kernels it is as good, only slower
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    finally:
        give_back(device)


def why_wrong(found: Compared, half: bool) -> str | None:
    """How far they are off, where that is more than rounding does; ``half``: in bfloat16."""
    if found.error <= _TIMES * found.error_without + (_SWITCHES_OF_HALF if half else _SWITCHES):
        return None
    return f"they are wrong: their error is {found.error:.2g}, and {found.error_without:.2g} without them"


def why_slow(found: Compared) -> str | None:
    """How much longer they take, where they do."""
    if found.seconds < found.seconds_without:
        return None
    with_them, without = 1e3 * found.seconds, 1e3 * found.seconds_without
    return f"they are slower: {with_them:.3g} ms a step, and {without:.3g} ms without them"


def problem_of(network: ConvNet, networks: int, batch: int, device: torch.device) -> Problem:
    """Networks at their start, each with images of its own, all of noise."""
    starts = [network.init(stream(0, "trial", place)) for place in range(networks)]
    params = tuple(torch.stack(parts).to(device) for parts in zip(*starts, strict=True))
    images = noise("images", (networks, batch, network.channels, network.size, network.size), device)
    return Problem(params, images, noise("labels", (networks, batch, network.classes), device).softmax(2))


def noise(name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """The same for every trial."""
    return torch.randn(shape, generator=stream(0, "trial", name)).to(device)


def flat(parts: Params) -> Tensor:
    """The last network's, in float64."""
    return torch.cat([part[-1].flatten().double() for part in parts])


def error_of(found: list[Tensor], exact: list[Tensor]) -> float:
    """The largest of all parts, relative; not a number where one of them is not."""
    every = [(one - other).norm() / other.norm() for one, other in zip(found, exact, strict=True)]
    return float(torch.stack(every).max())  # Python's max passes over what is not a number


def seconds_of(step: Callable[[], object], device: torch.device) -> float:
    """What a run waits for one."""
    times = list[float]()
    for _ in range(_WARM_UP + _ROUNDS):
        begun = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    return median(times[_WARM_UP:])
