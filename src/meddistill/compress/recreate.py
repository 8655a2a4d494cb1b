"""A model as its recipe: the package, the network, the protocol and the seed from which it is trained again.

Training draws from named random streams, in one thread of a CPU, so the same software on the same kind of processor
gives the same weights to the last bit. Elsewhere sums are taken in another order; a recipe therefore holds some answers
of the original, from which a reader sees how far its own model is from that.
"""

import torch

from meddistill.nets.params import Params
from meddistill.package.types import Package
from meddistill.runtime.device import one_thread
from meddistill.runtime.errors import InputError, VerificationError
from meddistill.train.combine import Part, combine
from meddistill.train.model import Model
from meddistill.train.protocol import PROTOCOL_VERSION, TrainingSet, is_protocol
from meddistill.train.received import received
from meddistill.train.tutored import train_as

Answers = tuple[tuple[float, ...], ...]

_MOST_NUMBERS, _MOST_ROWS, _DIGITS = 64, 16, 4


def recreate(model: Model, package: Package) -> Params:
    """The parameters that training by the model's origin gives, in one thread of a CPU.

    Raises :class:`InputError` for an origin that is not this package, and :class:`VerificationError` for one of another
    protocol than this software's.
    """
    origin = model.origin
    if origin is None or len(origin.packages) != 1:
        raise InputError("the model was not trained from one package by meddistill train: it has no recipe")
    if not is_protocol(origin.protocol):
        raise VerificationError(
            f"the recipe is of protocol {origin.protocol}, this program knows those up to {PROTOCOL_VERSION}: "
            "use the version that wrote it, or ask for the weights themselves"
        )
    with one_thread():
        data, matched = _data(model, package), package.card.recipe.network
        return train_as(origin.protocol, model.network, matched, data, origin.seed, flip=model.flip)


def answers(model: Model, package: Package) -> Answers:
    """The model's class probabilities of some of the package's images, with four digits."""
    data = _data(model, package)
    count = max(1, min(_MOST_ROWS, _MOST_NUMBERS // len(model.classes), len(data)))
    with torch.no_grad():
        found = model.network.apply(model.params, data.inputs(torch.arange(count))).double().softmax(1)
    return tuple(tuple(round(one, _DIGITS) for one in row) for row in found.tolist())


def difference(first: Answers, second: Answers) -> float:
    """The largest difference of two models' answers; infinite where they are not of as many images."""
    if len(first) != len(second):
        return float("inf")
    pairs = [(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)]
    return max(abs(a - b) for a, b in pairs)


def _data(model: Model, package: Package) -> TrainingSet:
    combined = combine([Part("the package", package)])
    if combined.classes != model.classes or combined.size != model.network.size:
        raise InputError("the package's classes or size are not the model's: it was trained with a mapping of classes")
    return received(combined.images, combined.labels, model.normalisation, torch.device("cpu"))
