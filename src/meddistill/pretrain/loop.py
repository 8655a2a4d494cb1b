"""Pretrain an encoder: the one loop of all methods.

Images stay on the device as integers; a batch is drawn, augmented and lost again there. Step i draws from the stream
that i names. AdamW with a warm-up and a cosine decay of the rate is for all methods, in the place of the large batches,
and of the optimisers made for them, that most sources have.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from meddistill.nets.network import Network
from meddistill.nets.params import Params, leaves, sound
from meddistill.pretrain.objective import Objective, Side
from meddistill.pretrain.views import Views
from meddistill.runtime.errors import InputError, MeddistillError
from meddistill.runtime.streams import stream
from meddistill.teachers.images import LabelledImages

_PARTS = 10  # that the curve of the loss is told in


@dataclass(frozen=True)
class Schedule:
    """``steps`` steps with ``batch`` images each, all different.

    The rate rises over the first tenth and falls to zero along half a cosine; ``weight_decay`` is of matrices and
    convolutions.
    """

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    views: Views = field(default_factory=Views)

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        rising = max(1, self.steps // 10)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, self.steps - rising)))


@dataclass(frozen=True)
class Pretrained:
    """The encoder's parameters (the network's without the last linear layer), and its mean loss in ten equal parts."""

    encoder: Params
    losses: tuple[float, ...]


def pretrain(
    objective: Objective, network: Network, images: LabelledImages, schedule: Schedule, seed: int
) -> Pretrained:
    """Train an encoder on the images, whose labels are not looked at.

    Raises :class:`InputError` for a network with batch norm, or one that the method cannot pretrain, and
    :class:`MeddistillError` if the parameters explode.
    """
    online = _first_side(objective, network, images.device, seed)
    learned = _tensors(online)
    target = online if objective.momentum is None else _copy(online)
    optimiser = torch.optim.AdamW(_groups(learned, schedule.weight_decay), lr=schedule.learning_rate)
    losses: list[Tensor] = []
    for step in range(schedule.steps):
        generator = stream(seed, "pretrain", step)
        view = _views(images, schedule, generator)
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(step)
        optimiser.zero_grad()
        loss = objective.loss(online, target, view, generator)
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())  # no waiting for the device within the loop
        if objective.momentum is not None:
            follow(_tensors(target), learned, keep(objective.momentum, step / schedule.steps))
    encoder = tuple(param.detach() for param in online.encoder)
    if not all(bool(sound(param).all()) for param in encoder):
        raise MeddistillError("pretraining diverged: the parameters have exploded. Lower its learning_rate")
    return Pretrained(encoder, _in_parts(torch.stack(losses).tolist()))


def encoder_of(network: Network, params: Params) -> Params:
    """The parameters without the last linear layer. Raises :class:`InputError` for a network with batch norm."""
    if network.statistics:
        raise InputError(
            f"{network.name} has batch norm, whose statistics are of one set of images: choose a network without -bn "
            "for pretrained encoders"
        )
    return params[:-2]


def keep(momentum: float, progress: float) -> float:
    """How much the slow average keeps: 1 − (1 − τ)·(cos(π·k/K) + 1)/2 (Grill et al. 2020, section 3.2)."""
    return 1 - (1 - momentum) * (math.cos(math.pi * progress) + 1) / 2


def follow(target: list[Tensor], online: list[Tensor], kept: float) -> None:
    """Move the slow average, in place: τ·ξ + (1 − τ)·θ."""
    with torch.no_grad():
        for slow, fast in zip(target, online, strict=True):
            slow.mul_(kept).add_(fast, alpha=1 - kept)


def _first_side(objective: Objective, network: Network, device: torch.device, seed: int) -> Side:
    generator = stream(seed, "pretrain", "heads")
    heads = {name: tuple(part.draw(generator) for part in parts) for name, parts in objective.heads(network).items()}
    encoder = encoder_of(network, network.init(stream(seed, "pretrain", "init")))
    return _on(device, Side(network, encoder, heads))


def _on(device: torch.device, side: Side) -> Side:
    def moved(params: Params) -> Params:
        return leaves(tuple(param.to(device) for param in params))

    return Side(side.network, moved(side.encoder), {name: moved(params) for name, params in side.heads.items()})


def _copy(side: Side) -> Side:
    def copied(params: Params) -> Params:
        return tuple(param.detach().clone() for param in params)

    return Side(side.network, copied(side.encoder), {name: copied(params) for name, params in side.heads.items()})


def _tensors(side: Side) -> list[Tensor]:
    return [*side.encoder, *(param for params in side.heads.values() for param in params)]


def _groups(learned: list[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """Norms and biases do not decay."""
    return [
        {"params": [param for param in learned if param.ndim > 1], "weight_decay": weight_decay},
        {"params": [param for param in learned if param.ndim == 1], "weight_decay": 0.0},
    ]


def _views(images: LabelledImages, schedule: Schedule, generator: torch.Generator) -> Callable[[], Tensor]:
    rows = torch.randperm(len(images), generator=generator)[: schedule.batch]
    inputs = images.inputs(rows)
    return lambda: schedule.views.draw(len(inputs), generator).apply(inputs)


def _in_parts(losses: list[float]) -> tuple[float, ...]:
    """The mean of each tenth, or each loss where there are fewer."""
    parts = min(_PARTS, len(losses))
    edges = [round(place * len(losses) / parts) for place in range(parts + 1)]
    return tuple(fmean(losses[start:end]) for start, end in pairwise(edges))
