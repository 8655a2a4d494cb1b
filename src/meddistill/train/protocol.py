"""How a network is trained on a few images, the same for synthetic and for real ones, and how it is scored.

Nothing here looks at validation or test data: the number of steps, the rate and its decay are fixed beforehand.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.augment import Augmentation, usual
from meddistill.nets.gradient import gradient_of_one
from meddistill.nets.network import Network
from meddistill.nets.params import Params, sound
from meddistill.runtime.errors import MeddistillError, VerificationError
from meddistill.runtime.streams import stream
from meddistill.teachers.images import LabelledImages

# Named on every card; docs/protocol.md says what it is. It changes with what changes a trained network by more than
# rounding.
PROTOCOL_VERSION = "2"
# Behind the version's name where networks learn by way of another one (meddistill.train.tutored).
TUTORED = "-tutored"
# Learning rates that differ from the usual one, by version and kind of network (docs/protocol.md).
_RATES: dict[str, dict[str, float]] = {
    "1": {},
    "2": {"resnet18": 0.01, "vgg11": 0.01},
    "2" + TUTORED: {"vgg11": 0.01},
}
# Images, and pixels of them, that are scored at once. A CPU is no faster with more, and every process needs their room.
_SCORED = {"cpu": (64, 64 * 64**2)}
_SCORED_ELSEWHERE = (256, 256 * 128**2)
# Training images, as they are augmented, on which a network with batch norm measures its statistics at the end.
_SETTLED_ON = 512
# What a step learns from, made of a batch's augmented inputs and labels with draws from a generator.
Lesson = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Protocol:
    """SGD with momentum, weight decay and a cosine decay of the rate to zero; augmentation on.

    At least ``steps`` steps of up to ``batch`` images, more if that is what ``epochs`` passes over the images take. An
    epoch sees the images in random order; a last, smaller batch is dropped where there is a full one.
    """

    steps: int = 300
    epochs: int = 8
    batch: int = 64
    learning_rate: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augmentation: Augmentation = field(default_factory=Augmentation)

    def steps_for(self, count: int) -> int:
        """Steps taken on ``count`` images."""
        return max(self.steps, math.ceil(self.epochs * count / self.batch))


def protocol_for(network: Network, version: str = PROTOCOL_VERSION, *, flip: bool = True) -> Protocol:
    """How a network of this kind is trained by that version of the protocol. Raises KeyError for an unknown one.

    ``flip``: whether images are mirrored; what is trained on says so (:attr:`meddistill.package.types.Card.flip`).
    """
    kind = network.name.split("-")[0]
    return Protocol(learning_rate=_RATES[version].get(kind, Protocol.learning_rate), augmentation=usual(flip))


def is_protocol(version: str) -> bool:
    """Whether there is a protocol of that version."""
    return version in _RATES


@dataclass(frozen=True)
class TrainingSet:
    """What a network is trained on: either soft-labelled normalised images, or rows of a cohort."""

    images: Tensor | LabelledImages
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, rows: Tensor) -> Tensor:
        """Normalised images of the rows."""
        return self.images.inputs(rows) if isinstance(self.images, LabelledImages) else self.images[rows]


def synthetic_set(images: Tensor, probabilities: Tensor) -> TrainingSet:
    """A training set of normalised images ``(n, C, H, W)`` with soft labels ``(n, K)``."""
    return TrainingSet(images, probabilities)


def real_set(images: LabelledImages) -> TrainingSet:
    """A training set of real images with their labels."""
    return TrainingSet(images, F.one_hot(images.labels, images.classes).float())


def train_network(
    network: Network,
    data: TrainingSet,
    protocol: Protocol,
    seed: int,
    *,
    start: Params = (),
    lesson: Lesson | None = None,
) -> Params:
    """Train a fresh network, initialised and fed from streams of ``seed``; the parameters, detached.

    ``start``: what its first parameters are in the place of fresh ones. ``lesson``: what it is shown in the place of
    each batch (:mod:`~meddistill.train.tutored`). Raises :class:`MeddistillError` if the parameters explode.
    """
    device = data.labels.device
    fresh = network.init(stream(seed, "train", "init"))
    # Copies: the steps below change them in place, and must not change what was handed in.
    params = tuple(param.to(device, copy=True) for param in (*start, *fresh[len(start) :]))
    learned = params[: len(params) - network.statistics]
    buffers = [torch.zeros_like(param) for param in learned]
    steps, generator = protocol.steps_for(len(data)), stream(seed, "train", "batches")
    rows = _rows(len(data), protocol.batch, generator)
    for step in range(steps):
        chosen = next(rows)
        inputs = protocol.augmentation.draw(len(chosen), generator).apply(data.inputs(chosen.to(device)))
        labels = data.labels[chosen.to(device)]
        if lesson is not None:
            inputs, labels = lesson(inputs, labels, generator)
        slopes = gradient_of_one(network, params, inputs, labels)
        rate = protocol.learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        for param, buffer, slope in zip(learned, buffers, slopes, strict=True):
            buffer.mul_(protocol.momentum).add_(slope).add_(param, alpha=protocol.weight_decay)
            param.sub_(buffer, alpha=rate)
    if network.statistics:
        chosen = torch.randperm(len(data), generator=generator)[:_SETTLED_ON]
        inputs = protocol.augmentation.draw(len(chosen), generator).apply(data.inputs(chosen.to(device)))
        params = network.settle(params, inputs)
    if not all(bool(sound(param).all()) for param in params):
        raise MeddistillError(
            f"training {network.name} diverged: its parameters have exploded. The images or their normalisation "
            "have extreme values; use other images, or another network"
        )
    return params


def _rows(count: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        order = torch.randperm(count, generator=generator)
        yield from order[: max(count - count % batch, min(count, batch))].split(batch)


def probabilities(network: Network, params: Params, images: LabelledImages) -> npt.NDArray[np.float64]:
    """Class probabilities ``(N, K)`` of all images, in order."""
    blocks = torch.arange(len(images)).split(scored_at_once(network.size, images.device))
    return np.concatenate([answers(network, params, images.inputs(block)) for block in blocks])


def scored_at_once(size: int, device: torch.device) -> int:
    """How many images of ``size`` pixels a side are scored at once: the fewer, the larger they are."""
    images, pixels = _SCORED.get(device.type, _SCORED_ELSEWHERE)
    return max(1, min(images, pixels // size**2))


def answers(network: Network, params: Params, inputs: Tensor) -> npt.NDArray[np.float64]:
    """Class probabilities ``(n, K)`` of normalised images, all at once.

    Raises :class:`VerificationError` where they are no numbers: no bound on parameters keeps every sum of them finite.
    """
    with torch.no_grad():
        logits = network.apply(params, inputs).cpu().double()
    if not bool(torch.isfinite(logits).all()):
        raise VerificationError(
            f"{network.name} answers with numbers that are not finite: its parameters are too large, or do not belong "
            "together. Train it again, or ask for the file anew"
        )
    return np.asarray(logits.softmax(1).numpy())
