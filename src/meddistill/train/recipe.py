"""A package's own recipe: with the start, order and step sizes that its images were distilled for, training gives back
one certain network.

Only packages of a method that distils through training from one fixed start have such a recipe (``soft-label``). It is
on the card already: the seed names the start, the plan the order, and the step sizes stand beside the images. Seed and
package together therefore *are* a trained network, in a fraction of its bytes.

The arithmetic is float64 on one thread of the CPU, rounded to float32 at the end, so that machines that sum in another
order agree as well unless a number lies within rounding of the middle between two float32. The card tells whether they
do: it carries a fingerprint of the parameters.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from meddistill.distill.methods import METHODS
from meddistill.distill.training import ThroughTraining, fixed_start, schedule, steps_of
from meddistill.nets.convnet import ConvNet, parse
from meddistill.nets.params import Params, flatten, leaves, sound
from meddistill.package.types import Card, Package
from meddistill.runtime.device import one_thread
from meddistill.runtime.errors import InputError, VerificationError
from meddistill.teachers.images import Normalisation

FINGERPRINT = "own.fingerprint"
_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")


@dataclass(frozen=True)
class Recipe:
    """What a card says of how to train: the network, the seed of its start, and the order of the images.

    ``rows``: the images of every step. ``momentum``: of the steps.
    """

    network: ConvNet
    seed: int
    rows: tuple[Tensor, ...]
    momentum: float


def has_recipe(card: Card) -> bool:
    """Whether the package was distilled through training from one fixed start."""
    method = METHODS.get(card.recipe.method)
    through_training = method is not None and isinstance(method.objective, ThroughTraining)
    return through_training and card.recipe.plan.get("soft_label.starts") == "fixed"


def recipe_of(card: Card, steps: int) -> Recipe:
    """The recipe on a card, for a package of so many step sizes.

    Raises :class:`InputError` where the package has none, :class:`VerificationError` where it makes no sense.
    """
    if not has_recipe(card):
        raise InputError(
            f"the package has no recipe of its own: its method is {card.recipe.method}; only soft-label with "
            'soft_label.starts = "fixed" gives one. Train by the protocol instead'
        )
    count, classes, plan = card.images.count, len(card.task.classes), card.recipe.plan
    asked, epochs = (_whole(plan.get(f"soft_label.{name}")) for name in ("distilled_steps", "epochs"))
    momentum = plan.get("matching.momentum")
    fits = asked >= 0 and epochs > 0 and steps_of(asked, count, classes) * epochs == steps
    if not fits or not isinstance(momentum, int | float) or not 0 <= momentum < 1:
        raise VerificationError(
            f"the card's recipe does not fit its {steps} step sizes: distilled_steps {asked}, epochs {epochs}, "
            f"momentum {momentum!r}. Ask the sender for the file anew"
        )
    network = parse(card.recipe.network, channels=card.images.channels, size=card.images.size, classes=classes)
    if network.statistics:  # no gradient reaches them, and nothing is distilled through such a network
        raise VerificationError(
            f"the card's recipe is for {network.name}: batch norm cannot be distilled through, so no such recipe is "
            "real. Ask the sender for the file anew"
        )
    return Recipe(network, card.recipe.seed, tuple(schedule(count, classes, asked, epochs)), momentum)


def rebuild(package: Package) -> Params:
    """The network that seed and package are: its parameters, float32 on the CPU, in the order of ``network.shapes``.

    The same package gives the same bytes with the same version of PyTorch; see the module for other machines. The
    network is the one that the card names. Plain gradient descent from the start that the card's seed names, one step a
    group of images, without augmentation: equations of :mod:`meddistill.distill.unroll`. Raises as :func:`recipe_of`.
    """
    recipe = recipe_of(package.card, len(package.step_sizes))
    norm = package.card.normalisation
    arrays = (package.enlarged, package.labels, package.step_sizes)
    pixels, labels, sizes = (torch.from_numpy(array).double() for array in arrays)
    images = Normalisation(norm.mean, norm.std).apply(pixels)
    with one_thread():
        params = tuple(param.double() for param in fixed_start(recipe.network, recipe.seed))
        buffer = tuple(torch.zeros_like(param) for param in params)
        for rows, size in zip(recipe.rows, sizes, strict=True):
            slopes = _slopes(recipe.network, params, images[rows], labels[rows])
            buffer = tuple(recipe.momentum * u + g for u, g in zip(buffer, slopes, strict=True))
            params = tuple(param - size * u for param, u in zip(params, buffer, strict=True))
    found = tuple(param.float() for param in params)
    if not all(bool(sound(param).all()) for param in found):
        raise VerificationError("the package's own recipe gives a network that has exploded. Train by the protocol")
    return found


def fingerprint(params: Params) -> str:
    """Sixteen letters that parameters of other bytes do not have, but for one chance in 2^64."""
    data = flatten(params).numpy().astype("<f4").tobytes()
    return hashlib.sha256(data).hexdigest()[:16].translate(_LETTERS)


def with_fingerprint(card: Card, params: Params) -> Card:
    """The card, telling what network its own recipe gave."""
    told = {**card.recipe.plan, FINGERPRINT: fingerprint(params)}
    return replace(card, recipe=replace(card.recipe, plan=told))


def is_the_senders(card: Card, params: Params) -> bool:
    """Whether the recipe gave the sender the very same network, to the last bit."""
    return card.recipe.plan.get(FINGERPRINT) == fingerprint(params)


def _slopes(network: ConvNet, params: Params, images: Tensor, labels: Tensor) -> Params:
    variables = leaves(params)
    loss = -(labels * network.apply(variables, images).log_softmax(1)).sum(1).mean()
    return torch.autograd.grad(loss, variables)


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2**16 else -1
