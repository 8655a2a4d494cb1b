"""What the families that unroll no student have in common: each class's real images beside its synthetic ones."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meddistill.distill.objective import Scene
from meddistill.distill.unroll import Learned, Outcome
from meddistill.teachers.images import LabelledImages


@dataclass(frozen=True)
class Pair:
    """Real images ``(m, C, H, W)`` of the class ``label``, and its synthetic ones ``(n, C, H, W)``, differentiable."""

    label: int
    real: Tensor
    made: Tensor


def pairs(
    scene: Scene, learned: Learned, variable: Tensor, generator: torch.Generator, *, augmented: bool = True
) -> Iterator[Pair]:
    """Every class that the set has images of, ``variable`` being the images; real ones are drawn with replacement.

    A synthetic image belongs to the class that its label finds most probable. All images of a class are augmented in
    one way, real and synthetic alike (Zhao & Bilen 2021, arXiv 2102.08259), or none.
    """
    classes, images = learned.label_logits.argmax(1), scene.images
    for label in classes.unique().tolist():
        real = images.inputs(drawn(images.rows_of(label), scene.real_images, generator))
        made = variable[classes == label]
        if augmented:
            one = scene.augmentation.draw(1, generator)
            real, made = (one.repeated(len(some)).apply(some) for some in (real, made))
        yield Pair(label, real, made)


def of_images(score: Tensor, variable: Tensor, learned: Learned) -> Outcome:
    """A score of the images ``variable`` and its gradient; labels and step sizes get one of zero."""
    (slope,) = torch.autograd.grad(score, variable)
    nothing = (torch.zeros_like(learned.label_logits), torch.zeros_like(learned.log_steps))
    return Outcome(float(score.detach()), Learned(slope, *nothing))


def mean_of(outcomes: Sequence[Outcome]) -> Outcome:
    """The mean of scores and of gradients."""
    gradients = (torch.stack(parts).mean(0) for parts in zip(*(o.gradient.tensors() for o in outcomes), strict=True))
    return Outcome(sum(o.score for o in outcomes) / len(outcomes), Learned(*gradients))


def drawn_of_each(images: LabelledImages, classes: Iterable[int], each: int, generator: torch.Generator) -> Tensor:
    """Rows of ``each`` images of every one of the ``classes``, with replacement, class after class."""
    return torch.cat([drawn(images.rows_of(label), each, generator) for label in classes])


def drawn(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of the rows, with replacement."""
    return rows[torch.randint(len(rows), (count,), generator=generator)]
