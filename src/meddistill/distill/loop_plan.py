"""How a synthetic set is optimised: everything that the loop follows, as plain data."""

import math
from dataclasses import dataclass, field
from typing import Literal

from meddistill.distill.distance import Distance, NormalisedL2
from meddistill.distill.matching.distribution import REAL_IMAGES
from meddistill.distill.objective import Objective
from meddistill.distill.overlap import Mitigation
from meddistill.distill.segments import SegmentRule
from meddistill.distill.unroll import Precision, Rule, Strategy
from meddistill.nets.augment import Augmentation

Optimiser = Literal["adam", "sgd"]
# A segment's score starts at 1; beyond this the student ran away and its gradient is worth nothing. A warm-up has no
# student, and its score is large wherever the classes look alike.
_RUNAWAY_SCORE = 10.0
# Batches larger than 128 have not been measured (docs/compared.md, "What larger batches add").
_LEAST_BATCH, _PASSES, _LARGEST_BATCH = 32, 4, 128


@dataclass(frozen=True)
class LoopPlan:
    """How a synthetic set is optimised.

    ``student_steps`` N, with ``batch`` synthetic images a step, 0 for :func:`usual_batch`; ``segments_at_once`` S,
    whose gradients are averaged. Rates are those of the optimiser: ``adam``, whose steps do not depend on the scale of
    the score, or ``sgd`` with momentum 0.5 as in the literature; ``step_rate`` acts on the logarithm of the step size.
    With ``decay`` rates fall to zero along half a cosine. ``warm_up`` iterations of distribution matching come first;
    they move only the images. ``momentum``, ``precision``, ``compiled`` and ``kernels`` are the student's
    :class:`Rule`, the last two only where they serve. ``together``: how many of the S segments are unrolled side by
    side; None follows the memory that is free on a GPU, and is one on a CPU.
    ``distance``: how a student is compared with its segment's end. ``averaging``: how much of the average so far, which
    is the result, each iteration keeps (Du et al. 2023, FTD, arXiv 2211.11004); 0 is no average. ``mitigation``: of
    overlap between images. ``objective``: what an iteration lowers instead of the distance to a segment; ``segments``,
    ``student_steps``, ``batch`` and ``compiled`` then mean nothing. ``real_images``: of each class that warm-up and
    objectives look at. ``taught_labels``: matching begins with what the trained teachers say of the images.
    ``highest_score``: segments above it are left out (Guo et al. 2024, DATM, arXiv 2310.05773), not only runaways.
    """

    iterations: int
    student_steps: int
    batch: int
    segments: SegmentRule
    segments_at_once: int
    optimiser: Optimiser
    image_rate: float
    label_rate: float
    step_rate: float
    decay: bool
    learn_labels: bool
    strategy: Strategy
    augmentation: Augmentation
    warm_up: int = 0
    momentum: float = 0.0
    precision: Precision = "full"
    compiled: bool = False
    kernels: bool = False
    together: int | None = None
    distance: Distance = field(default_factory=NormalisedL2)
    averaging: float = 0.0
    mitigation: Mitigation | None = None
    objective: Objective | None = None
    real_images: int = REAL_IMAGES
    taught_labels: bool = False
    highest_score: float = math.inf

    def batch_of(self, count: int) -> int:
        """How many of ``count`` synthetic images a student's step sees."""
        return min(count, self.batch or usual_batch(count, self.student_steps))

    @property
    def highest(self) -> float:
        """The highest score with which a segment counts."""
        return min(self.highest_score, _RUNAWAY_SCORE)

    @property
    def rule(self) -> Rule:
        """How students step and how their gradient is computed."""
        return Rule(self.strategy, self.momentum, self.precision, self.compiled, kernels=self.kernels)


def usual_batch(count: int, steps: int) -> int:
    """The images of a batch with which ``steps`` hold four times as many as the ``count`` of them: 32 to 128.

    A student that sees an image once or not at all ends where that draw leads it, and the images' gradient is noise.
    """
    return min(max(math.ceil(_PASSES * count / steps), _LEAST_BATCH), _LARGEST_BATCH)
