"""What an iteration lowers where it is not the distance to a piece of a teacher's trajectory.

An objective looks at the synthetic set and at real images, and gives a score and its gradient. The loop does the rest:
steps of the optimiser, checkpoints, time. What an objective must remember from one iteration to the next, such as a
network that it trains meanwhile, it returns as parameters, and the loop keeps them in the checkpoint.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol

import torch

from meddistill.distill.unroll import Learned, Outcome, Rule
from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import Params
from meddistill.runtime.streams import Name, stream
from meddistill.teachers.images import LabelledImages

Exact = Literal["always", "first", "never"]
Family = Literal["trajectories", "training", "regression", "gradients", "distributions"]


@dataclass(frozen=True)
class Scene:
    """What one iteration sees beside the synthetic set.

    ``real_images``: how many of each class are looked at. ``at_once``: how many networks, whose gradients are averaged,
    and ``together`` how many of them go side by side, None being up to the device. ``rule``: how a student steps.
    ``iteration`` counts from 0. ``teacher``: the first and the last point of a random trajectory; None where there
    are no teachers.
    """

    network: ConvNet
    images: LabelledImages
    augmentation: Augmentation
    rule: Rule
    real_images: int
    at_once: int
    together: int | None
    seed: int
    iteration: int
    teacher: Callable[[torch.Generator], tuple[Params, Params]] | None = None

    def stream(self, *names: Name) -> torch.Generator:
        """The named stream of this iteration."""
        return stream(self.seed, "objective", self.iteration, *names)

    def random_network(self, generator: torch.Generator) -> Params:
        """An untrained network on the images' device."""
        return tuple(param.to(self.images.device) for param in self.network.init(generator))


class Found(NamedTuple):
    """A score with its gradient, and what the next iteration needs of this one."""

    outcome: Outcome
    carried: Params = ()


class Objective(Protocol):
    """What the loop needs of an objective, which is plain data.

    ``needs_teachers``: whether it looks at trajectories. ``warms_up``: whether distribution matching may come first.
    ``cost``: of an iteration, in words. The gradient is the slope of the score, ``carried`` being a constant; where it
    is so in the first iteration only, or in none, a field ``exact`` says ``first`` or ``never``, and
    :mod:`meddistill.testing` does not measure it in the others.
    """

    family: ClassVar[Family]
    needs_teachers: ClassVar[bool]
    warms_up: ClassVar[bool]
    cost: ClassVar[str]

    def step_sizes(self, images: int, classes: int) -> int:
        """How many step sizes a set of so many images has."""

    def outcome(self, scene: Scene, learned: Learned, carried: Params) -> Found:
        """The score of the set and its gradient; ``carried``: what the iteration before returned, at first nothing."""
