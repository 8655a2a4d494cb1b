"""How many students fit at once."""

from dataclasses import dataclass

import torch

from meddistill.distill.unroll.stretches import stretches, taken_twice, untraced
from meddistill.distill.unroll.types import Rule
from meddistill.nets.convnet import ConvNet
from meddistill.runtime.memory import available

# A student's work must leave room for what the rest of the process does meanwhile.
_SHARE = 0.8
# How often a layer's output is held at the peak, by one step of the adjoint and by each step's graph in ``full``.
# Measured on a CPU with width 128 at 28 pixels: 8 and 6; rounded up.
_MAPS = {"adjoint": 10, "full": 8}
# Of the time of a step that left its trace, 9 forward passes: what taking its slopes alone costs, and what it costs
# more where it left none.
SHARE_OF_SLOPES, SHARE_OF_TRACE = 3 / 9, 2 / 9
# The adjoint keeps so many states, and as many more as take this share of one step's maps: with 80 steps it then needs
# less than a fifth more than with 10, whatever the batch.
_STATES, _STATES_SHARE = 10, 0.15
# A trace holds a layer's output so often. On a CPU so many are kept, if a share of the memory that is free, and no more
# than so many bytes, hold them. A GPU's memory holds students instead.
_MAPS_OF_TRACE = 5
_TRACES, _TRACES_SHARE, _TRACES_BYTES = 10, 1 / 8, 2**30
# A map of more numbers has places that many of a GPU's kernels cannot count to.
_MOST_NUMBERS = 2**31 - 1


@dataclass(frozen=True)
class Room:
    """What one student of an unroll needs.

    ``bytes``: at the peak, beside the synthetic set. ``states``, ``traces``: how many are kept at once.
    ``taken_twice``, ``untraced``: how many steps are.
    """

    bytes: int
    states: int
    taken_twice: int
    traces: int
    untraced: int


def room_for(network: ConvNet, rule: Rule, batch: int, steps: int, asked: int = 1, traces: int = 0) -> Room:
    """The room for a student of N ``steps`` of ``batch`` images, by counting maps and states; in float32.

    ``asked``: how many states the score asks for. Each has a cotangent, and stays until the score is differentiated.
    ``traces``: how many are kept at once (:func:`traces_at_once`).
    """
    if rule.strategy == "full":
        graphs = batch * _maps(network) * _MAPS["full"] * steps
        return Room(4 * (graphs + network.parameters * (steps + 8)), steps, 0, 0, 0)
    each = 2 if rule.momentum else 1
    parts = stretches(steps, max(rule.states or states_at_once(network, batch), asked), each)
    states = max((each * place + end - begin for place, (begin, end) in enumerate(parts)), default=0)
    beside = asked - 1 + min(asked - 1, parts[-1][0] if parts else 0)  # those of the last stretch are kept anyway
    traces = min(traces, steps)
    maps = _MAPS["adjoint"] + _MAPS_OF_TRACE * traces
    numbers = batch * _maps(network) * maps + network.parameters * (states + beside + 8)
    return Room(4 * numbers, states, taken_twice(parts), traces, untraced(parts, traces))


def traces_at_once(network: ConvNet, rule: Rule, images: int, device: torch.device) -> int:
    """Of how many steps on so many images the adjoint keeps the traces at once, where it can trace them.

    Free memory decides, which changes how long a run takes and nothing else. None where a GPU captures the step: what
    it leaves holds until the next one.
    """
    captured = rule.compiled and device.type == "cuda"
    if rule.strategy == "full" or network.norm != "instance" or captured:
        return 0
    if rule.traces is not None:
        return rule.traces
    if device.type != "cpu":
        return 0
    each = 4 * images * _maps(network) * _MAPS_OF_TRACE
    return min(_TRACES, int(min(_TRACES_BYTES, _TRACES_SHARE * free_bytes(device)) // max(1, each)))


def states_at_once(network: ConvNet, batch: int) -> int:
    """How many states the adjoint keeps at once; where N are more, some are computed twice."""
    return _STATES + int(_STATES_SHARE * _MAPS["adjoint"] * batch * _maps(network) / network.parameters)


def _maps(network: ConvNet) -> int:
    """How many numbers all blocks put out for one image, before pooling."""
    return sum(network.width * (network.size >> block) ** 2 for block in range(network.depth))


def countable_students(network: ConvNet, batch: int) -> int:
    """How many students side by side have no map of more numbers than a GPU's kernels count."""
    return _MOST_NUMBERS // max(1, batch * network.size**2 * max(network.width, network.channels))


def students_that_fit(free: int, each: int, wanted: int) -> int:
    """How many of ``wanted`` students of ``each`` bytes go side by side into ``free`` bytes: at least one."""
    return max(1, min(wanted, int(_SHARE * free) // max(1, each)))


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken on that device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    return available()
