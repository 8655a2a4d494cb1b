"""Distilling through training: the score is the loss on real images of a network trained on the synthetic ones.

Wang et al. 2018 (arXiv 1811.10959) unroll a network's whole training on a few distilled steps, each with images and a
step size of its own, and differentiate the loss on real images at the end. Sucholutsky & Schonlau 2019 (arXiv
1910.02551) learn soft labels as well, so that there may be fewer images than classes. Li et al. (arXiv 2104.02857 and
2209.14635) do so with gastric X-rays. No teacher is needed.

The network starts where a seed says, always the same or anew in every iteration. With one start, seed, images, labels
and step sizes together *are* a trained network: :mod:`meddistill.train.recipe` makes it again.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.distill.labels import classes_of
from meddistill.distill.matching.pairs import drawn_of_each
from meddistill.distill.objective import Family, Found, Scene
from meddistill.distill.unroll import Batch, Learned, Outcome, Score, Student, unroll_many
from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import Params
from meddistill.runtime.streams import stream

Starts = Literal["fixed", "random"]
STARTS_OF_STUDENTS: tuple[Starts, ...] = ("fixed", "random")
# Where nobody says how many distilled steps there are.
_MOST_STEPS = 10


@dataclass(frozen=True)
class ThroughTraining:
    """How the network of an iteration is trained, and what it is scored on.

    ``starts``: ``fixed``, one start that the run's seed names, or ``random``, another one in every iteration, as many
    as :attr:`Scene.at_once`. ``distilled_steps``: into how many steps the images are divided, each image in one of
    them; 0 is one for each image of a class, at most ten. ``epochs``: how often these steps are gone through, each time
    with step sizes of their own. ``real_batch``: real images that the loss is measured on, of all classes alike.
    Neither they nor the synthetic images are augmented.
    """

    family: ClassVar[Family] = "training"
    needs_teachers: ClassVar[bool] = False
    warms_up: ClassVar[bool] = True
    cost: ClassVar[str] = (
        "no teachers; an iteration: 9 to 11 forward passes a distilled step and epoch, 3 of a real batch"
    )

    starts: Starts = "fixed"
    distilled_steps: int = 0
    epochs: int = 3
    real_batch: int = 256

    def step_sizes(self, images: int, classes: int) -> int:
        return self.epochs * steps_of(self.distilled_steps, images, classes)

    def outcome(self, scene: Scene, learned: Learned, carried: Params) -> Found:
        count, classes = learned.label_logits.shape
        batches = [Batch(rows) for rows in schedule(count, classes, self.distilled_steps, self.epochs)]
        starts = enumerate(self._starts(scene))
        students = [Student(start, batches, self._score(scene, place)) for place, start in starts]
        found = unroll_many(
            scene.network,
            students,
            learned,
            rule=scene.rule,
            generator=scene.stream("truncated"),
            together=scene.together,
        )
        return Found(Outcome(found.score, found.gradient))

    def _starts(self, scene: Scene) -> list[Params]:
        if self.starts == "fixed":
            device = scene.images.device
            return [tuple(param.to(device) for param in fixed_start(scene.network, scene.seed))]
        return [scene.random_network(scene.stream("start", place)) for place in range(scene.at_once)]

    def _score(self, scene: Scene, place: int) -> Score:
        images, generator = scene.images, scene.stream("real", place)
        each = math.ceil(self.real_batch / images.classes)
        rows = drawn_of_each(images, range(images.classes), each, generator)
        inputs, labels = images.inputs(rows), images.labels[rows.to(images.device)]
        return lambda states: F.cross_entropy(scene.network.apply(states[max(states)], inputs), labels)


def fixed_start(network: ConvNet, seed: int) -> Params:
    """The one start, float32 on the CPU, of students whose start is fixed."""
    return network.init(stream(seed, "own recipe", "start"))


def steps_of(asked: int, images: int, classes: int) -> int:
    """Into how many distilled steps so many images are divided."""
    return min(images, asked or min(_MOST_STEPS, max(1, images // classes)))


def schedule(images: int, classes: int, distilled_steps: int, epochs: int) -> list[Tensor]:
    """The rows that every step of the training sees, in order; all epochs are alike.

    One image of every class in turn goes to the first step until it is full, then to the next, so that a step has as
    many of one class as of another, or one more. Together with :func:`meddistill.distill.labels.classes_of` it follows
    from the numbers alone.
    """
    labels = classes_of(images, classes)
    rank = torch.arange(images) - torch.searchsorted(labels, labels)
    order = (rank * classes + labels).argsort()
    return list(order.tensor_split(steps_of(distilled_steps, images, classes))) * epochs
