"""How many students fit at once."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from meddistill.distill.unroll.stretches import stretches, taken_twice
from meddistill.distill.unroll.types import Rule
from meddistill.nets.convnet import ConvNet

# A student's work must leave room for what the rest of the process does meanwhile.
_SHARE = 0.8
# How often a layer's output is held at the peak, by one step of the adjoint and by each step's graph in ``full``.
# Measured on a CPU with width 128 at 28 pixels: 8 and 6; rounded up.
_MAPS = {"adjoint": 10, "full": 8}
# Of a step's time: what taking its slopes alone costs, 3 of 11 forward passes.
SHARE_OF_SLOPES = 3 / 11
# The adjoint keeps so many states, and as many more as take this share of one step's maps: with 80 steps it then needs
# less than a fifth more than with 10, whatever the batch.
_STATES, _STATES_SHARE = 10, 0.15


@dataclass(frozen=True)
class Room:
    """What one student of an unroll needs.

    ``bytes``: at the peak, beside the synthetic set. ``states``: how many are kept at once. ``taken_twice``: how many
    steps are.
    """

    bytes: int
    states: int
    taken_twice: int


def room_for(network: ConvNet, rule: Rule, batch: int, steps: int, asked: int = 1) -> Room:
    """The room for a student of N ``steps`` of ``batch`` images, by counting maps and states; in float32.

    ``asked``: how many states the score asks for. Each has a cotangent, and stays until the score is differentiated.
    """
    if rule.strategy == "full":
        graphs = batch * _maps(network) * _MAPS["full"] * steps
        return Room(4 * (graphs + network.parameters * (steps + 8)), steps, 0)
    each = 2 if rule.momentum else 1
    parts = stretches(steps, max(rule.states or states_at_once(network, batch), asked), each)
    states = max((each * place + end - begin for place, (begin, end) in enumerate(parts)), default=0)
    beside = asked - 1 + min(asked - 1, parts[-1][0] if parts else 0)  # those of the last stretch are kept anyway
    numbers = batch * _maps(network) * _MAPS["adjoint"] + network.parameters * (states + beside + 8)
    return Room(4 * numbers, states, taken_twice(parts))


def states_at_once(network: ConvNet, batch: int) -> int:
    """How many states the adjoint keeps at once; where N are more, some are computed twice."""
    return _STATES + int(_STATES_SHARE * _MAPS["adjoint"] * batch * _maps(network) / network.parameters)


def _maps(network: ConvNet) -> int:
    """How many numbers all blocks put out for one image, before pooling."""
    return sum(network.width * (network.size >> block) ** 2 for block in range(network.depth))


def students_that_fit(free: int, each: int, wanted: int) -> int:
    """How many of ``wanted`` students of ``each`` bytes go side by side into ``free`` bytes: at least one."""
    return max(1, min(wanted, int(_SHARE * free) // max(1, each)))


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken on that device; of a CPU, what the system says is available."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if sys.platform == "linux":
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 4 << 30


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocator, of a GPU or of a CPU, found no memory."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in text or "not enough memory" in text)
    )


def give_back(device: torch.device) -> None:
    """Hand memory that the allocator holds for later back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
