"""Train one teacher on the cohort, a snapshot of its parameters every so many steps.

Step i of teacher k draws its batch and its augmentation from the stream named by k and i, so that training can stop
after any snapshot and continue from there as if it had never stopped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import flatten, leaves, unflatten
from meddistill.runtime.errors import MeddistillError
from meddistill.runtime.streams import stream
from meddistill.teachers.images import LabelledImages

Sampling = Literal["balanced", "natural"]


@dataclass(frozen=True)
class TeacherPlan:
    """How teachers are trained: plain SGD, as in trajectory matching (Cazenavette et al. 2022).

    ``steps`` SGD steps with ``batch`` images each, a snapshot before the first and after every ``snapshot_every``.
    ``sampling``: ``balanced`` draws every class equally often, ``natural`` every image.
    """

    count: int
    steps: int
    snapshot_every: int
    batch: int
    learning_rate: float
    sampling: Sampling
    augmentation: Augmentation

    @property
    def snapshots(self) -> int:
        """Snapshots a trajectory has."""
        return self.steps // self.snapshot_every + 1


def train_teacher(
    network: ConvNet,
    images: LabelledImages,
    plan: TeacherPlan,
    seed: int,
    teacher: int,
    *,
    done: Tensor | None = None,
    keep: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """The trajectory of one teacher, ``(snapshots, P)`` float32 on the CPU.

    ``done``: the first snapshots of an earlier, interrupted training, ``(n, P)``. ``keep`` is called with all snapshots
    so far after each new one. Snapshots are copies. Raises :class:`MeddistillError` if the training diverges.
    """
    draw_rows = sampler(images, plan.sampling)
    start = flatten(network.init(stream(seed, "teacher", teacher, "init")))
    snapshots = [start] if done is None else list(done)
    # A copy: the steps below change the parameters in place, and must not change the snapshot that they start from.
    params = leaves(unflatten(snapshots[-1].to(images.device, copy=True), network.shapes))
    for step in range((len(snapshots) - 1) * plan.snapshot_every, plan.snapshots * plan.snapshot_every):
        if len(snapshots) == plan.snapshots:
            break
        generator = stream(seed, "teacher", teacher, "step", step)
        rows = draw_rows(plan.batch, generator)
        inputs = plan.augmentation.draw(len(rows), generator).apply(images.inputs(rows))
        loss = F.cross_entropy(network.apply(params, inputs), images.labels[rows.to(images.device)])
        gradient = torch.autograd.grad(loss, params)
        with torch.no_grad():
            for param, slope in zip(params, gradient, strict=True):
                param.sub_(slope, alpha=plan.learning_rate)
        if (step + 1) % plan.snapshot_every == 0:
            snapshots.append(_checked(flatten(params).cpu(), plan, teacher, step))
            if keep is not None:
                keep(torch.stack(snapshots))
    return torch.stack(snapshots)


def sampler(images: LabelledImages, sampling: Sampling) -> Callable[[int, torch.Generator], Tensor]:
    """A function ``(count, generator) → rows (count,)`` that draws training rows with replacement."""
    if sampling == "natural":
        return lambda count, generator: torch.randint(len(images), (count,), generator=generator)
    by_class = [rows for label in range(images.classes) if len(rows := images.rows_of(label))]

    def balanced(count: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(by_class), (count,), generator=generator)
        # Far more places than any class has images: the remainder is as good as uniform.
        places = torch.randint(2**40, (count,), generator=generator).tolist()
        drawn = zip((by_class[label] for label in chosen.tolist()), places, strict=True)
        return torch.stack([rows[place % len(rows)] for rows, place in drawn])

    return balanced


def _checked(snapshot: Tensor, plan: TeacherPlan, teacher: int, step: int) -> Tensor:
    if not bool(torch.isfinite(snapshot).all()):
        raise MeddistillError(
            f"teacher {teacher} diverged at step {step + 1}: its parameters are no longer finite. "
            f"Lower the teachers' learning_rate in the plan (it is {plan.learning_rate:g})"
        )
    return snapshot
