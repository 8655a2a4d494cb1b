"""Another network than the one that a set was matched with learns from it by way of that one.

A set is made for the network that it was matched with. A network of another kind fits the same few images, and takes
other things from them than were put in. So the matching network, trained on the set, tutors it: it says what it sees
in mixtures of the images, of which there are as many as anybody wants. Labels by a network: Hinton et al. 2015 (arXiv
1503.02531); mixtures: Zhang et al. 2018 (arXiv 1710.09412); teaching with mixtures until two networks answer alike,
across kinds of network: Beyer et al. 2022 (arXiv 2106.05237).
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from meddistill.nets.find import find
from meddistill.nets.network import Network
from meddistill.nets.params import Params
from meddistill.runtime.streams import derive
from meddistill.teachers.images import LabelledImages
from meddistill.train.protocol import (
    PROTOCOL_VERSION,
    TUTORED,
    Protocol,
    TrainingSet,
    protocol_for,
    train_network,
)

TUTORED_VERSION = PROTOCOL_VERSION + TUTORED
# Mixtures that a step shows at least: of two images alone it would show two, and learn as unsteadily as from two.
_LEAST = 16


@dataclass(frozen=True)
class Tutor:
    """A trained network that labels what another one learns from."""

    network: Network
    params: Params

    def lesson(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A batch ``(n, C, H, W)`` mixed with itself, and the tutor's probabilities ``(n, K)`` of the mixtures.

        Every image has a partner and a share between 0 and 1, drawn evenly. The ``labels`` of the batch are not used.
        """
        partners = torch.randperm(len(inputs), generator=generator).to(inputs.device)
        shares = torch.rand((len(inputs), 1, 1, 1), generator=generator).to(inputs)
        mixed = torch.lerp(inputs, inputs[partners], shares)
        with torch.no_grad():
            return mixed, self.network.apply(self.params, mixed).softmax(1)


def train_tutored(network: Network, tutor: Network, data: TrainingSet, protocol: Protocol, seed: int) -> Params:
    """Train a fresh ``tutor`` on the set, and with it a fresh ``network``; the parameters of ``network``, detached.

    Both by the protocol, at the rates of :data:`TUTORED_VERSION`. Of fewer than 16 images each is there as often as
    makes 16 or more mixtures a step. The tutor's own stream is derived from ``seed``. Raises as :func:`train_network`.
    """
    own, pupils = (
        replace(protocol, learning_rate=protocol_for(one, TUTORED_VERSION).learning_rate) for one in (tutor, network)
    )
    found = Tutor(tutor, train_network(tutor, data, own, derive(seed, "tutor")))
    return train_network(network, _repeated(data), pupils, seed, lesson=found.lesson)


def _repeated(data: TrainingSet) -> TrainingSet:
    if len(data) >= _LEAST:
        return data
    rows = torch.arange(len(data)).repeat(math.ceil(_LEAST / len(data))).to(data.labels.device)
    images = data.images.subset(rows) if isinstance(data.images, LabelledImages) else data.images[rows]
    return TrainingSet(images, data.labels[rows])


def train_as(
    version: str, network: Network, matched: str, data: TrainingSet, seed: int, *, flip: bool = True
) -> Params:
    """Train ``network`` as a model's origin says: by that version of the protocol, :data:`TUTORED` behind it or not.

    ``matched``: the network that the set was matched with; nothing but a tutor has to be known here. Raises
    :class:`InputError` for an unknown one, KeyError for an unknown version, and as :func:`train_network`.
    """
    protocol = protocol_for(network, version, flip=flip)
    if not version.endswith(TUTORED):
        return train_network(network, data, protocol, seed)
    tutor = find(matched, channels=network.channels, size=network.size, classes=network.classes)
    return train_tutored(network, tutor, data, protocol, seed)
