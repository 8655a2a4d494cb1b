"""How many students fit at once."""

import math
import sys
from pathlib import Path

import torch

from meddistill.nets.convnet import ConvNet

# A student's work must leave room for what the rest of the process does meanwhile.
_SHARE = 0.8
# How often a layer's output is held at the peak, by one step of the adjoint and by each step's graph in ``full``.
# Measured on a CPU with width 128 at 28 pixels: 8 and 6; rounded up.
_MAPS = {"adjoint": 10, "full": 8}
# The adjoint keeps so many states, and as many more as take this share of one step's maps: with 80 steps it then needs
# less than a fifth more than with 10, whatever the batch.
_STATES, _STATES_SHARE = 10, 0.15


def bytes_of_student(network: ConvNet, batch: int, steps: int, *, full: bool, bytes_each: int = 4) -> int:
    """The most memory that one student needs beside the synthetic set, in bytes, by counting maps and states."""
    if full:
        return bytes_each * (batch * _maps(network) * _MAPS["full"] * steps + network.parameters * (steps + 8))
    states = min(steps, max(states_at_once(network, batch), math.isqrt(2 * steps) + 1))
    return bytes_each * (batch * _maps(network) * _MAPS["adjoint"] + network.parameters * (states + 8))


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
