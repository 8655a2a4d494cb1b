"""Train teachers on the cohort, one or several side by side, and hand out a point of their trajectories every so often.

Step i of teacher k draws its batch and its augmentation from the stream named by k and i, whoever trains beside it, so
that training can stop after any point and continue from there as if it had never stopped.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.augment import Augmentation, Draw
from meddistill.nets.convnet import ConvNet
from meddistill.nets.gradient import Kernels, gradient
from meddistill.nets.params import Params, Shapes, flatten, sound
from meddistill.runtime.device import sent
from meddistill.runtime.errors import MeddistillError
from meddistill.runtime.streams import stream
from meddistill.teachers.images import LabelledImages
from meddistill.teachers.optimise import Optimiser, direction

Sampling = Literal["balanced", "natural"]
Arithmetic = Literal["float32", "bfloat16"]
Batch = tuple[Tensor, Tensor]
# What the activations of teachers that are trained side by side may take where the plan leaves their number open.
_ACTIVATION_BYTES = 8 * 2**30
# On a GPU the batches of so many steps are drawn at once.
_STEPS_AHEAD = 8
# Far more than any class has images: what is left of such a number is as good as uniform.
_PLACES = 2**40


@dataclass(frozen=True)
class TeacherPlan:
    """How teachers are trained: plain SGD, as in trajectory matching (Cazenavette et al. 2022), by default.

    ``steps`` steps with ``batch`` images each, a snapshot before the first and after every ``snapshot_every``.
    ``sampling``: ``balanced`` draws every class equally often, ``natural`` every image. ``optimiser``, ``rho``,
    ``alpha``, ``adaptive``: see :mod:`~meddistill.teachers.optimise`. ``decay``: the rate falls to zero along half a
    cosine. ``arithmetic``: of convolutions and matrix products; parameters and sums stay float32. ``at_once``: how many
    are trained side by side on a GPU, 0 for as many as a fixed share of its memory takes; on a CPU it is one.
    """

    count: int
    steps: int
    snapshot_every: int
    batch: int
    learning_rate: float
    sampling: Sampling
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimiser: Optimiser = "sgd"
    rho: float = 0.01
    alpha: float = 0.3
    adaptive: bool = False
    momentum: float = 0.0
    decay: bool = False
    arithmetic: Arithmetic = "float32"
    at_once: int = 0

    @property
    def snapshots(self) -> int:
        """Snapshots a trajectory has."""
        return self.steps // self.snapshot_every + 1

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return self.learning_rate * (0.5 * (1 + math.cos(math.pi * step / self.steps)) if self.decay else 1.0)


@dataclass(frozen=True)
class State:
    """Where K teachers stand, exactly: all that is needed to go on.

    ``snapshots``: points of their trajectories so far, the last of which is ``params``. ``params`` and, where the plan
    has momentum, ``velocity``: ``(K, P)`` float32 on the CPU.
    """

    snapshots: int
    params: Tensor
    velocity: Tensor | None = None


def side_by_side(network: ConvNet, plan: TeacherPlan, device: torch.device) -> int:
    """How many teachers are trained at once: a function of the plan and the kind of device alone.

    On a CPU one: there a process for each is faster. On a GPU the rounding of sums depends on the number, hence it may
    not depend on what memory happens to be free.
    """
    if device.type == "cpu":
        return 1
    # Of every block the outputs of convolution, norm and ReLU are kept for the way back.
    numbers = sum(3 * network.width * (network.size >> block) ** 2 for block in range(network.depth))
    return plan.at_once or max(1, _ACTIVATION_BYTES // (4 * numbers * plan.batch))


def first_state(network: ConvNet, plan: TeacherPlan, seed: int, teachers: Sequence[int]) -> State:
    """The untrained teachers."""
    params = torch.stack([flatten(network.init(stream(seed, "teacher", k, "init"))) for k in teachers])
    return State(1, params, torch.zeros_like(params) if plan.momentum else None)


def train_teachers(
    network: ConvNet,
    images: LabelledImages,
    plan: TeacherPlan,
    seed: int,
    teachers: Sequence[int],
    *,
    keep: Callable[[State], None],
    state: State | None = None,
    kernels: Kernels | None = None,
) -> None:
    """Train K teachers side by side and call ``keep`` with their state at every point, the untrained one included.

    ``state``: where an interrupted training stood; ``keep`` is then called for later points only. ``kernels``: how
    gradients take a GPU's, if they do. Each teacher's
    trajectory is that of the teacher trained alone but for the rounding of sums. The type of the parameters is that of
    ``state``, float32 without one. Raises :class:`MeddistillError` if a teacher diverges.
    """
    if state is None:
        state = first_state(network, plan, seed, teachers)
        keep(state)
    batches = Batches(images, plan, seed, teachers)
    # Copies: the steps below change them in place, and must not change what was handed in.
    params = state.params.to(images.device, copy=True)
    velocity = None if state.velocity is None else state.velocity.to(images.device, copy=True)
    for snapshot in range(state.snapshots, plan.snapshots):
        for step in range((snapshot - 1) * plan.snapshot_every, snapshot * plan.snapshot_every):
            slope = _slope(network, batches.draw(step, params.dtype), plan.arithmetic, kernels)
            move = direction(plan.optimiser, slope, params, rho=plan.rho, alpha=plan.alpha, adaptive=plan.adaptive)
            if velocity is not None:
                move = velocity.mul_(plan.momentum).add_(move)
            params.sub_(move, alpha=plan.rate(step))
        _require_sound(params, plan, teachers, snapshot)
        keep(State(snapshot + 1, _kept(params), None if velocity is None else _kept(velocity)))


def too_large(plan: TeacherPlan, device: torch.device) -> MeddistillError:
    """What to say where memory does not suffice for one teacher."""
    return MeddistillError(
        f"there is not enough memory ({device}) for a teacher that trains alone, as with teachers.at_once = 1: use a "
        f"smaller teachers.batch (it is {plan.batch}), network or image size"
    )


def train_teacher(network: ConvNet, images: LabelledImages, plan: TeacherPlan, seed: int, teacher: int) -> Tensor:
    """The whole trajectory of one teacher, ``(snapshots, P)`` float32 on the CPU."""
    points: list[Tensor] = []
    train_teachers(network, images, plan, seed, [teacher], keep=lambda state: points.append(state.params[0]))
    return torch.stack(points)


class Batches:
    """The batches of K teachers, a step's all at once: ``(K, batch, C, H, W)`` on the device.

    On a GPU rows and augmentations are drawn some steps ahead, and go there together. Nothing waits for that, so that
    the next are drawn while the GPU works on these.
    """

    def __init__(self, images: LabelledImages, plan: TeacherPlan, seed: int, teachers: Sequence[int]) -> None:
        self._images, self._plan, self._seed, self._teachers = images, plan, seed, teachers
        self._sampler = sampler(images, plan.sampling)
        self._ahead = 1 if images.device.type == "cpu" else _STEPS_AHEAD
        self._drawn: dict[int, tuple[Tensor, Draw]] = {}

    def draw(self, step: int, dtype: torch.dtype) -> Batch:
        """Augmented inputs ``(K, batch, C, H, W)`` and labels ``(K, batch)``."""
        if step not in self._drawn:
            last = max(step + 1, min(step + self._ahead, self._plan.steps))
            self._drawn = self._draw(range(step, last))
        (rows, change), images, count = self._drawn[step], self._images, self._plan.batch
        inputs = change.apply(images.inputs(rows).to(dtype))
        return inputs.unflatten(0, (-1, count)), images.labels[rows].unflatten(0, (-1, count))

    def _draw(self, steps: Sequence[int]) -> dict[int, tuple[Tensor, Draw]]:
        """Of each step the rows ``(K·batch,)`` and the augmentation of their images, on the device."""
        count, device = self._plan.batch, self._images.device
        places, numbers = list[list[Tensor]](), list[Tensor]()
        for step, teacher in itertools.product(steps, self._teachers):
            generator = stream(self._seed, "teacher", teacher, "step", step)
            places.append(self._sampler.draw(count, generator))
            numbers.append(torch.rand(7, count, generator=generator))
        sizes = [len(self._teachers) * count] * len(steps)
        rows = sent(self._sampler.rows(*map(torch.cat, zip(*places, strict=True))), device).split(sizes)
        changes = self._plan.augmentation.of(torch.cat(numbers, 1)).on(device).split(sizes)
        return dict(zip(steps, zip(rows, changes, strict=True), strict=True))


def _slope(
    network: ConvNet, batch: Batch, arithmetic: Arithmetic, kernels: Kernels | None
) -> Callable[[Tensor], Tensor]:
    """The gradient of each teacher's mean cross-entropy on its batch, as a function of ``(K, P)`` parameters."""
    inputs, labels = batch
    targets = F.one_hot(labels, network.classes).to(inputs.dtype)

    def slope(params: Tensor) -> Tensor:
        stacked = _stacked(params, network.shapes)
        found = gradient(network, stacked, inputs, targets, autocast=arithmetic == "bfloat16", kernels=kernels)
        return torch.cat([one.flatten(1) for one in found], 1)

    return slope


def _stacked(params: Tensor, shapes: Shapes) -> Params:
    """Views of ``(K, P)`` as the network's parameters, each with a leading dimension K."""
    pieces = params.split([shape.numel() for shape in shapes], dim=1)
    return tuple(piece.unflatten(1, shape) for piece, shape in zip(pieces, shapes, strict=True))


@dataclass(frozen=True)
class Sampler:
    """Draws training rows with replacement, in two parts, so that the second can serve many batches at once.

    ``below``: what is drawn for each row are whole numbers below these. ``rows``: the rows ``(n,)`` that such numbers
    stand for, ``(n,)`` each.
    """

    below: tuple[int, ...]
    rows: Callable[..., Tensor]

    def draw(self, count: int, generator: torch.Generator) -> list[Tensor]:
        """The numbers for ``count`` rows."""
        return [torch.randint(below, (count,), generator=generator) for below in self.below]

    def __call__(self, count: int, generator: torch.Generator) -> Tensor:
        """``count`` rows."""
        return self.rows(*self.draw(count, generator))


def sampler(images: LabelledImages, sampling: Sampling) -> Sampler:
    """``balanced`` draws a class and then one of its images, ``natural`` an image."""
    if sampling == "natural":
        return Sampler((len(images),), lambda places: places)
    by_class = [rows for label in range(images.classes) if len(rows := images.rows_of(label))]
    sizes = torch.tensor([len(rows) for rows in by_class])
    starts, members = sizes.cumsum(0) - sizes, torch.cat(by_class)

    def balanced(chosen: Tensor, places: Tensor) -> Tensor:
        return members[starts[chosen] + places % sizes[chosen]]

    return Sampler((len(by_class), _PLACES), balanced)


def _kept(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _require_sound(params: Tensor, plan: TeacherPlan, teachers: Sequence[int], snapshot: int) -> None:
    lost = (~sound(params).all(1)).nonzero().flatten().tolist()
    if lost:
        raise MeddistillError(
            f"teacher {teachers[lost[0]]} diverged by step {snapshot * plan.snapshot_every}: its parameters have "
            f"exploded. Lower the teachers' learning_rate in the plan (it is {plan.learning_rate:g})"
        )
