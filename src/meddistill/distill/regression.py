"""Distilling through regression: the score is the loss on real images of a regression fitted to the synthetic ones.

Zhou, Nezhadarya & Ba 2022 (FRePo, arXiv 2206.00719): of a network's training only the last layer is looked at, and that
is solved exactly. With features f, synthetic images s and real ones t, equation 2:

    ŷ_t = K_ts (K_ss + λ I)⁻¹ y_s,   K_ab = f(a) f(b)ᵀ,   score = ½ ‖y_t − ŷ_t‖²  (mean over real images)

An iteration costs a forward and a backward pass of the features, where unrolling N steps costs eleven of them a step.
The networks that give features come from a pool that is trained on the synthetic set itself.

The source learns targets y_s without bounds; a package holds probabilities, so that here they are a label's
probabilities, less 1/K. λ is a share of the mean of K_ss's diagonal.
"""

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.distill.matching.pairs import drawn_of_each, mean_of
from meddistill.distill.objective import Family, Found, Scene
from meddistill.distill.pool import Pool, Upbringing
from meddistill.distill.unroll import Learned, Outcome
from meddistill.nets.params import Params


@dataclass(frozen=True)
class Regression:
    """Ridge regression on features of networks from a pool; real and synthetic images are augmented, each in its way.

    ``real_batch``: real images that the loss is measured on, of all classes alike. ``ridge``: λ's share.
    """

    family: ClassVar[Family] = "regression"
    needs_teachers: ClassVar[bool] = False
    warms_up: ClassVar[bool] = True
    cost: ClassVar[str] = (
        "no teachers; an iteration: 3 forward passes of the synthetic images, 1 of a real batch, and a step of a "
        "network on the synthetic ones"
    )

    real_batch: int = 256
    ridge: float = 1e-3
    upbringing: Upbringing = field(default_factory=Upbringing)

    def step_sizes(self, images: int, classes: int) -> int:
        return 1

    def outcome(self, scene: Scene, learned: Learned, carried: Params) -> Found:
        pool = Pool.of(carried) if carried else self.upbringing.first(scene, learned)
        outcomes = list[Outcome]()
        for number in range(scene.at_once):
            generator = scene.stream("regression", number)
            place = int(torch.randint(self.upbringing.size, (), generator=generator))
            outcomes.append(self._under_one(scene, learned, pool.network(place), generator))
            pool = self.upbringing.older(pool, place, scene, learned, number=number)
        return Found(mean_of(outcomes), pool.carried)

    def _under_one(self, scene: Scene, learned: Learned, params: Params, generator: torch.Generator) -> Outcome:
        images, logits = (part.detach().requires_grad_() for part in (learned.images, learned.label_logits))
        real, labels = self._real(scene, generator)
        with torch.no_grad():
            seen = scene.network.features(params, real)
        made = scene.network.features(params, scene.augmentation.draw(len(images), generator).apply(images))
        score = regression_loss(made, logits.softmax(1), seen, labels, self.ridge)
        of_images, of_logits = torch.autograd.grad(score, (images, logits))
        slope = Learned(of_images, of_logits, torch.zeros_like(learned.log_steps))
        return Outcome(float(score.detach()), slope)

    def _real(self, scene: Scene, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augmented images and their one-hot labels."""
        images = scene.images
        each = math.ceil(self.real_batch / images.classes)
        rows = drawn_of_each(images, range(images.classes), each, generator)
        inputs = scene.augmentation.draw(len(rows), generator).apply(images.inputs(rows))
        return inputs, F.one_hot(images.labels[rows.to(images.device)], images.classes).to(inputs)


def regression_loss(made: Tensor, labels: Tensor, real: Tensor, truth: Tensor, ridge: float) -> Tensor:
    """½ of the mean squared distance of predictions and ``truth`` ``(m, K)`` of real features ``(m, D)``, a scalar.

    The regression is fitted to synthetic features ``made`` ``(n, D)`` with ``labels`` ``(n, K)``; both kinds of labels
    are centred on 1/K, so that features which tell nothing predict all classes alike.
    """
    among, across, classes = made @ made.T, real @ made.T, labels.shape[1]
    strength = ridge * among.diagonal().mean()
    fitted = torch.linalg.solve(among + strength * torch.eye(len(made)).to(made), labels - 1 / classes)
    missed: Tensor = across @ fitted - (truth - 1 / classes)
    return 0.5 * missed.square().sum(1).mean()
