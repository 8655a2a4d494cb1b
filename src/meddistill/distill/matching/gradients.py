"""Gradient matching: the synthetic images of a class pull a network in the direction in which its real images do.

Zhao, Mopuri & Bilen 2021 (DC, arXiv 2006.05929), algorithm 1: a random network lives for T iterations; in each the
gradients of the loss on real and on synthetic images of every class are compared, layer by layer, and the network is
trained on the synthetic images before the next. Zhao & Bilen 2021 (DSA, arXiv 2102.08259) augment both alike.

The distance of two gradients is the sum over layers and output nodes of 1 − cosine (equation 10); biases and the
parameters of norms are left out, as in the authors' code. T is the number of images a class,
at most 50, and between two iterations the network passes over them 500 / T times, at most 50: that is what the source
gives for 1, 10, 20 and 50 images a class, and our reading in between.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.distill.matching.pairs import Pair, of_images, pairs
from meddistill.distill.objective import Exact, Family, Found, Scene
from meddistill.distill.unroll import Learned
from meddistill.nets.convnet import ConvNet
from meddistill.nets.gradient import gradient_of_one
from meddistill.nets.params import Params, leaves

_LONGEST_LIFE, _STEPS_OF_A_LIFE, _MOST_STEPS_BETWEEN = 50, 500, 50
# Of the network that lives on: plain SGD on batches of so many synthetic images.
_RATE, _BATCH = 0.01, 256
_TINY = 1e-6


@dataclass(frozen=True)
class ClassGradients:
    """Gradients of the loss on the images of each class; ``siamese``: augmented, real and synthetic ones alike."""

    family: ClassVar[Family] = "gradients"
    needs_teachers: ClassVar[bool] = False
    warms_up: ClassVar[bool] = False
    cost: ClassVar[str] = (
        "no teachers; an iteration: 9 forward passes of the synthetic images, 3 of real ones, and up to 50 steps of a "
        "network on the synthetic ones"
    )
    # Later on the network has been trained on the images, which counts for nothing in the gradient, as in the source.
    exact: ClassVar[Exact] = "first"

    siamese: bool = False

    def step_sizes(self, images: int, classes: int) -> int:
        return 1

    def outcome(self, scene: Scene, learned: Learned, carried: Params) -> Found:
        life, between = life_of(learned.label_logits.shape)
        if scene.iteration % life == 0:
            params = scene.random_network(scene.stream("network"))
        else:
            params = self._trained(scene, learned, carried, between)
        variable = learned.images.detach().requires_grad_()
        labels = learned.label_logits.softmax(1)
        distance = torch.zeros((), device=variable.device)
        for pair in pairs(scene, learned, variable, scene.stream("real"), augmented=self.siamese):
            mine = labels[learned.label_logits.argmax(1) == pair.label]
            distance = distance + _of_class(scene.network, params, pair, mine)
        return Found(of_images(distance, variable, learned), params)

    def _trained(self, scene: Scene, learned: Learned, params: Params, steps: int) -> Params:
        """The network after so many passes over the synthetic images, which are augmented if the method does."""
        generator, labels = scene.stream("training"), learned.label_logits.softmax(1)
        for _ in range(steps):
            for rows in torch.randperm(len(labels), generator=generator).split(_BATCH):
                seen = learned.images[rows.to(labels.device)]
                if self.siamese:
                    seen = scene.augmentation.draw(len(rows), generator).apply(seen)
                slopes = gradient_of_one(scene.network, params, seen, labels[rows.to(labels.device)])
                params = tuple(param - _RATE * slope for param, slope in zip(params, slopes, strict=True))
        return params


def life_of(shape: torch.Size) -> tuple[int, int]:
    """For labels ``(n, K)``: iterations that a network lives, and passes over the images between two of them."""
    each = max(1, shape[0] // shape[1])
    life = min(each, _LONGEST_LIFE)
    return life, min(_MOST_STEPS_BETWEEN, _STEPS_OF_A_LIFE // life)


def _of_class(network: ConvNet, params: Params, pair: Pair, labels: Tensor) -> Tensor:
    variables = leaves(params)
    truth = torch.full((len(pair.real),), pair.label, device=pair.real.device)
    real = torch.autograd.grad(F.cross_entropy(network.apply(variables, pair.real), truth), variables)
    loss = F.cross_entropy(network.apply(variables, pair.made), labels)
    made = torch.autograd.grad(loss, variables, create_graph=True)
    return gradient_distance(made, real)


def gradient_distance(made: Params, real: Params) -> Tensor:
    """The sum over output nodes of 1 − cosine of the weights' gradients, a scalar."""
    layers = [(a.flatten(1), b.flatten(1)) for a, b in zip(made, real, strict=True) if a.dim() > 1]
    return torch.stack([(1 - _cosines(a, b)).sum() for a, b in layers]).sum()


def _cosines(one: Tensor, other: Tensor) -> Tensor:
    lengths: Tensor = one.norm(dim=1) * other.norm(dim=1)
    return (one * other).sum(1) / (lengths + _TINY)
