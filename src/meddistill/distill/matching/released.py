"""Distribution matching against a release: to untrained networks, images are to look as the noised class means say.

It is ``dm`` (Zhao & Bilen 2023, arXiv 2110.04181) without real images: the networks and augmentations are those of the
release (:mod:`meddistill.privacy.statistics`), and all that is known of patients is the release itself.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from meddistill.distill.matching.pairs import mean_of, of_images
from meddistill.distill.objective import Family, Found, Scene
from meddistill.distill.unroll import Learned, Outcome
from meddistill.privacy.statistics import Looks, Release


@dataclass(frozen=True)
class ReleasedMeans:
    """Class means of features under the looks of a release, seen from its centre."""

    family: ClassVar[Family] = "distributions"
    needs_teachers: ClassVar[bool] = False
    warms_up: ClassVar[bool] = False
    cost: ClassVar[str] = "no teachers; an iteration: 3 forward passes of the synthetic images"

    looks: Looks
    release: Release

    def step_sizes(self, images: int, classes: int) -> int:
        return 1

    def outcome(self, scene: Scene, learned: Learned, carried: tuple[Tensor, ...]) -> Found:
        order = torch.randperm(self.looks.count, generator=scene.stream("looks"))
        return Found(mean_of([self._under_one(int(place), scene, learned) for place in order[: scene.at_once]]))

    def _under_one(self, place: int, scene: Scene, learned: Learned) -> Outcome:
        variable, classes = learned.images.detach().requires_grad_(), learned.label_logits.argmax(1)
        features = self.looks.features(place, variable)
        present = classes.unique()
        means = torch.stack([features[classes == label].mean(0) for label in present])
        targets = self.release.means[place].to(variable.device)[present]
        return of_images((means - targets).square().sum(1).mean(), variable, learned)
