"""S students side by side: every tensor of theirs gets a leading dimension S."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meddistill.distill.unroll.types import Batch, Learned, Score, Student
from meddistill.nets.augment import Draw
from meddistill.nets.params import Params, leaves
from meddistill.runtime.device import sent


@dataclass(frozen=True)
class Seen:
    """What S students see in one step: rows ``(S·n,)`` student by student, and one draw for all of them."""

    students: int
    rows: Tensor
    draw: Draw | None

    def images(self, learned: Tensor) -> Tensor:
        """The augmented images ``(S, n, C, H, W)``, differentiable."""
        return self.augmented(learned[self.rows])

    def augmented(self, images: Tensor) -> Tensor:
        """Images ``(S·n, C, H, W)`` as the students see them, ``(S, n, C, H, W)``."""
        changed = images if self.draw is None else self.draw.apply(images)
        return changed.view(self.students, -1, *changed.shape[1:])

    def logits(self, learned: Tensor) -> Tensor:
        """The label logits ``(S, n, K)``, differentiable."""
        return learned[self.rows].view(self.students, -1, learned.shape[1])


@dataclass(frozen=True)
class Class:
    """S students of N steps: the stacked start, what they see in each step, and each one's score."""

    start: Params
    steps: tuple[Seen, ...]
    scores: tuple[Score, ...]


def stack(students: Sequence[Student], count: int, device: torch.device) -> Class:
    """The first ``count`` steps of students side by side.

    Raises ValueError unless their batches have the same sizes step by step.
    """
    start = tuple(torch.stack(parts).detach() for parts in zip(*(student.start for student in students), strict=True))
    steps = [_side_by_side(batches) for batches in zip(*(student.batches[:count] for student in students), strict=True)]
    return Class(start, tuple(_on(steps, device)), tuple(student.score for student in students))


def _side_by_side(batches: Sequence[Batch]) -> Seen:
    sizes = {len(batch.rows) for batch in batches}
    if len(sizes) > 1:
        raise ValueError(f"students side by side need batches of one size in a step, not of {sorted(sizes)}")
    rows = torch.cat([batch.rows for batch in batches])
    draws = [batch.draw for batch in batches if batch.draw is not None]
    if len(draws) not in (0, len(batches)):
        raise ValueError("students side by side are augmented all or none")
    return Seen(len(batches), rows, Draw.joined(draws) if draws else None)


def _on(steps: Sequence[Seen], device: torch.device) -> Sequence[Seen]:
    """All steps on the device: rows go there in one copy, and each part of the draws does.

    A copy a step would take longer than the step, and everybody would wait for each.
    """
    if not steps or device.type == "cpu":  # where batches are drawn
        return steps
    rows = sent(torch.cat([seen.rows for seen in steps]), device).split([len(seen.rows) for seen in steps])
    draws = [seen.draw for seen in steps if seen.draw is not None]
    there = iter(Draw.joined(draws).on(device).split([len(draw.affine) for draw in draws]) if draws else ())
    return [
        Seen(seen.students, of_step, None if seen.draw is None else next(there))
        for seen, of_step in zip(steps, rows, strict=True)
    ]


def score_each(scores: Sequence[Score], states: Mapping[int, Params]) -> Tensor:
    """Every student's score of its own states, ``(S,)``."""
    return torch.stack(
        [
            score({step: tuple(param[place] for param in params) for step, params in states.items()})
            for place, score in enumerate(scores)
        ]
    )


def differentiate(scores: Sequence[Score], states: Mapping[int, Params]) -> tuple[Tensor, dict[int, Params]]:
    """The scores ``(S,)``, and the gradient of their sum with respect to every state that they asked for."""
    variables = {step: leaves(params) for step, params in states.items()}
    values = score_each(scores, variables)
    flat = [param for params in variables.values() for param in params]
    gradients = iter(torch.autograd.grad(values.sum(), flat, materialize_grads=True))
    return values.detach(), {step: tuple(next(gradients) for _ in params) for step, params in variables.items()}


def add_to(total: Learned, gradient: Learned) -> None:
    """Add a gradient to the sum, in place."""
    for sum_, slope in zip(total.tensors(), gradient.tensors(), strict=True):
        sum_.add_(slope)


def zeros_of(learned: Learned) -> Learned:
    """A gradient of zero."""
    return Learned(*(torch.zeros_like(tensor) for tensor in learned.tensors()))
