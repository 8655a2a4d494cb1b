"""A cohort on the device, split by split, and what its shape determines."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from meddistill.cohort.types import SPLITS, Cohort, SplitName
from meddistill.nets.convnet import ConvNet, parse
from meddistill.pipeline.estimate import Shape
from meddistill.pipeline.plan import Plan
from meddistill.privacy.statistics import fixed_normalisation
from meddistill.teachers.images import LabelledImages, Normalisation, measure_normalisation, split_images

SCORED: tuple[SplitName, ...] = ("val", "test")


@dataclass(frozen=True)
class SplitImages:
    """The cohort on the device, split by split."""

    cohort: Cohort
    normalisation: Normalisation
    splits: Mapping[SplitName, LabelledImages]


def load_splits(plan: Plan, cohort: Cohort, device: torch.device) -> SplitImages:
    """All splits, normalised by the training images, or by fixed numbers where the plan has an epsilon."""
    fixed = plan.privacy.epsilon > 0
    normalisation = fixed_normalisation(cohort.channels) if fixed else measure_normalisation(cohort)
    splits = {split: split_images(cohort, split, normalisation, device) for split in SPLITS}
    return SplitImages(cohort, normalisation, splits)


def network_of(name: str, cohort: Cohort) -> ConvNet:
    """The network of that name for the cohort's images."""
    return parse(name, channels=cohort.channels, size=cohort.size, classes=len(cohort.classes))


def shape_of(cohort: Cohort) -> Shape:
    """What of a cohort determines a plan's cost."""
    scored = sum(len(cohort.indices(split)) for split in SCORED)
    return Shape(cohort.channels, len(cohort.classes), len(cohort.indices("train")), scored)
