"""Distribution matching: the mean features of a class's synthetic images follow those of its real images.

Zhao & Bilen 2023 (arXiv 2110.04181), equation 4, with the distance divided by the spread of the class means, so that
its scale does not depend on the network. No student is unrolled: an iteration costs about a tenth of one of trajectory
matching. As a method of its own it looks at random networks, as the source does; as a warm-up it looks at points on the
teachers' trajectories, or at random networks where there are no teachers.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from meddistill.distill.matching.pairs import drawn_of_each, mean_of, of_images, pairs
from meddistill.distill.objective import Family, Found, Scene
from meddistill.distill.unroll import Learned, Outcome
from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import Params
from meddistill.teachers.images import LabelledImages

# Real images of each class that an iteration compares the synthetic ones with, where a plan does not say.
REAL_IMAGES = 32


@dataclass(frozen=True)
class FeatureMeans:
    """Class means of features under networks that are random in every iteration (Zhao & Bilen 2023, algorithm 1)."""

    family: ClassVar[Family] = "distributions"
    needs_teachers: ClassVar[bool] = False
    warms_up: ClassVar[bool] = False
    cost: ClassVar[str] = "no teachers; an iteration: 3 forward passes of the synthetic images, 1 of real ones"

    def step_sizes(self, images: int, classes: int) -> int:
        return 1

    def outcome(self, scene: Scene, learned: Learned, carried: Params) -> Found:
        return Found(mean_of([self._under_one(scene, learned, place) for place in range(scene.at_once)]))

    def _under_one(self, scene: Scene, learned: Learned, place: int) -> Outcome:
        generator, variable = scene.stream(place), learned.images.detach().requires_grad_()
        params, means, targets = scene.random_network(generator), list[Tensor](), list[Tensor]()
        for pair in pairs(scene, learned, variable, generator):
            means.append(scene.network.features(params, pair.made).mean(0))
            with torch.no_grad():
                targets.append(scene.network.features(params, pair.real).mean(0))
        return of_images(_distance(torch.stack(means), torch.stack(targets)), variable, learned)


def match_features(
    network: ConvNet,
    params: Params,
    learned: Learned,
    images: LabelledImages,
    augmentation: Augmentation,
    generator: torch.Generator,
    real_images: int = REAL_IMAGES,
) -> Outcome:
    """The distance of class means of features and its gradient; labels and step sizes get a gradient of zero.

    A synthetic image belongs to the class that its label finds most probable; where there are fewer images than classes
    it stands for several, which are equally probable, and follows the mean of theirs. ``real_images`` of every class
    are drawn with replacement. Every image is augmented in its own way.
    """
    belongs = learned.label_logits == learned.label_logits.amax(1, keepdim=True)
    groups = belongs.unique(dim=0).flip(0)  # of one class each in ascending order
    present = groups.any(0).nonzero().flatten()
    rows = drawn_of_each(images, present.tolist(), real_images, generator)
    with torch.no_grad():
        real = network.features(params, augmentation.draw(len(rows), generator).apply(images.inputs(rows)))
        of_classes = real.view(len(present), real_images, -1).mean(1)
        target = torch.stack([of_classes[group].mean(0) for group in groups[:, present]])
    variable = learned.images.detach().requires_grad_()
    made = network.features(params, augmentation.draw(len(variable), generator).apply(variable))
    means = torch.stack([made[(belongs == group).all(1)].mean(0) for group in groups])
    return of_images(_distance(means, target), variable, learned)


def _distance(means: Tensor, targets: Tensor) -> Tensor:
    """Of class means ``(K, D)``, over the spread of the real ones."""
    spread = _squared(targets - targets.mean(0)) if len(targets) > 1 else _squared(targets)
    return _squared(means - targets) / spread.clamp_min(1e-12)


def _squared(rows: Tensor) -> Tensor:
    return (rows**2).sum(1).mean()
