"""What an unroll takes and gives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from meddistill.nets.augment import Draw
from meddistill.nets.params import Params

Precision = Literal["full", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("full", "bfloat16")
Score = Callable[[Mapping[int, Params]], Tensor]


class Network(Protocol):
    """What an unroll needs of a network, which must be hashable."""

    def __hash__(self) -> int:
        """Equal networks are the same function of parameters and images."""

    def apply_many(self, params: Params, images: Tensor) -> Tensor:
        """Logits ``(S, n, K)`` of S stacked networks, each on its own images ``(S, n, C, H, W)``."""


@dataclass(frozen=True)
class Truncated:
    """The gradient flows through the slopes of ``steps`` steps; those of all other steps are constants.

    ``last``: the last steps, which is truncated back-propagation through time. ``random``: drawn anew each time,
    without replacement. A step size keeps its whole first-order gradient in every step, which costs nothing.
    """

    steps: int
    which: Literal["last", "random"] = "last"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"a gradient through {self.steps} steps is none: expected at least 1")

    def chosen(self, total: int, generator: torch.Generator | None) -> frozenset[int]:
        """The steps of ``total`` whose slopes are not constants."""
        if self.which == "last":
            return frozenset(range(max(0, total - self.steps), total))
        if generator is None:
            raise ValueError("random steps are drawn from a generator: pass one")
        return frozenset(torch.randperm(total, generator=generator)[: self.steps].tolist())


Strategy = Literal["full", "adjoint", "two-pass"] | Truncated
STRATEGIES: tuple[Literal["full", "adjoint", "two-pass"], ...] = ("full", "adjoint", "two-pass")


@dataclass(frozen=True)
class Rule:
    """How students step and how their gradient is computed.

    ``momentum``: μ of the student's SGD, whose buffer starts at zero (not dampened, as ``torch.optim.SGD``).
    ``precision``: of convolutions, matrix products and the maps between them; everything else, and all sums, have the
    parameters' dtype. With bfloat16 a GPU may round to TF32 what float32 convolutions multiply. ``compiled``: let the
    compiler fuse a step where there is one, for long runs. ``states``: how many of the N states are kept at once,
    others being computed twice; by default what a share of one step's memory holds. More are kept where fewer do not
    suffice. ``traces``: of how many steps at once what slopes and curvature have in common is kept, others' being
    worked out twice; by default at most ten on a CPU, and none on a GPU. The gradient depends on neither.
    ``kernels``: keep no maps of a ConvNet's first block, which a GPU's own kernels work out again where they are needed
    (:mod:`~meddistill.nets.first`); on a CPU they only take longer.
    """

    strategy: Strategy = "adjoint"
    momentum: float = 0.0
    precision: Precision = "full"
    compiled: bool = False
    states: int | None = None
    traces: int | None = None
    kernels: bool = False


@dataclass(frozen=True)
class Batch:
    """What one student step sees: rows of the synthetic set, ``(n,)`` int64, and how their images are augmented."""

    rows: Tensor
    draw: Draw | None = None


@dataclass(frozen=True)
class Learned:
    """The learned quantities, or their gradient.

    ``images``: ``(n, C, H, W)``, normalised. ``label_logits``: ``(n, K)``; the soft label is their softmax.
    ``log_steps``: ``(1,)`` or ``(N,)``, the logarithm of the step sizes, which therefore cannot turn negative.
    """

    images: Tensor
    label_logits: Tensor
    log_steps: Tensor

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three in a fixed order."""
        return self.images, self.label_logits, self.log_steps

    def step_size(self, step: int) -> Tensor:
        """β of the given student step, a scalar tensor."""
        return self.log_steps[self.place_of(step)].exp()

    def place_of(self, step: int) -> int:
        """Where in ``log_steps`` the given student step's size stands."""
        return step if len(self.log_steps) > 1 else 0


@dataclass(frozen=True)
class Student:
    """One student: its start, the batches of its N steps, and the score of its states."""

    start: Params
    batches: Sequence[Batch]
    score: Score


@dataclass(frozen=True)
class Outcome:
    """A score's value and its gradient with respect to the learned quantities."""

    score: float
    gradient: Learned


@dataclass(frozen=True)
class Outcomes:
    """The scores of S students, which of them were used, and the gradient of the mean score of those.

    A student is not used when its score is not finite or above the limit that was given, or when its gradient is not
    finite. Where none is used the gradient is not a number. ``together``: how many went side by side at last, which is
    less than at first where memory ran out.
    """

    scores: tuple[float, ...]
    used: tuple[bool, ...]
    gradient: Learned
    together: int

    @property
    def score(self) -> float:
        """The mean score of the students that were used, or of all when none was."""
        chosen = [score for score, used in zip(self.scores, self.used, strict=True) if used] or list(self.scores)
        return sum(chosen) / len(chosen)
