"""What few labelled images make of an encoder, by the protocol of all rows: all of it learns, or a linear layer does.

Nothing is chosen: steps, batches, rate and augmentation are those of any network that is trained on as many images.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.network import Network
from meddistill.nets.params import Params, Shapes
from meddistill.pretrain.look import features_of
from meddistill.teachers.images import LabelledImages
from meddistill.train.protocol import Protocol, TrainingSet, train_network

_LEAST_SPREAD = 1e-6
_MEASURED_ON = 2048


@dataclass(frozen=True)
class Encoder:
    """A pretrained encoder, and mean and standard deviation ``(F,)`` of its features on images without labels."""

    params: Params
    mean: Tensor
    std: Tensor


def measured(network: Network, params: Params, images: LabelledImages) -> Encoder:
    """An encoder with the statistics of its features on up to 2048 images, evenly taken from all."""
    rows = torch.linspace(0, len(images) - 1, min(len(images), _MEASURED_ON), dtype=torch.float64).long()
    features = features_of(network, params, images.subset(rows))
    return Encoder(params, features.mean(0), features.std(0).clamp_min(_LEAST_SPREAD))


def fine_tune(network: Network, encoder: Params, data: TrainingSet, protocol: Protocol, seed: int) -> Params:
    """Train encoder and a fresh linear layer on the labelled images."""
    return train_network(network, data, protocol, seed, start=encoder)


def probe(network: Network, encoder: Encoder, data: TrainingSet, protocol: Protocol, seed: int) -> Params:
    """Train a fresh linear layer on what the encoder sees, which stays as it is; the whole network's parameters.

    Its rate is the usual one, not that of the network which it is a part of.
    """
    frozen = Frozen(network, encoder)
    usual = replace(protocol, learning_rate=Protocol.learning_rate)
    weight, bias = train_network(frozen, data, usual, seed)
    weight = weight / encoder.std
    return (*encoder.params, weight, bias - weight @ encoder.mean)


@dataclass(frozen=True)
class Frozen:
    """The linear layer alone, as a network: it sees the encoder's features, each with mean 0 and variance 1."""

    network: Network
    encoder: Encoder
    statistics: int = 0

    @property
    def name(self) -> str:
        """For messages."""
        return f"the linear layer of {self.network.name}"

    @property
    def channels(self) -> int:
        """Of the images."""
        return self.network.channels

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.network.size

    @property
    def classes(self) -> int:
        """How many logits there are."""
        return self.network.classes

    @property
    def shapes(self) -> Shapes:
        """Weight and bias."""
        return self.network.shapes[-2:]

    @property
    def parameters(self) -> int:
        """How many numbers the layer has."""
        return sum(shape.numel() for shape in self.shapes)

    def init(self, generator: torch.Generator) -> Params:
        """The last layer of a fresh network."""
        return self.network.init(generator)[-2:]

    def features(self, params: Params, images: Tensor) -> Tensor:
        """What the layer sees, ``(N, F)``."""
        with torch.no_grad():
            seen = self.network.features(self.encoder.params, images)
        return (seen - self.encoder.mean) / self.encoder.std

    def apply(self, params: Params, images: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of normalised images."""
        return F.linear(self.features(params, images), *params)

    def apply_training(self, params: Params, images: Tensor) -> Tensor:
        """The same."""
        return self.apply(params, images)

    def settle(self, params: Params, images: Tensor) -> Params:
        """The parameters as they are."""
        return params
