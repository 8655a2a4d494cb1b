"""A cohort on the device, split by split, and what its shape determines."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

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
    """All splits, normalised by the training images, or by fixed numbers as the plan says or has an epsilon."""
    fixed = plan.fixed_normalisation or plan.privacy.epsilon > 0
    normalisation = fixed_normalisation(cohort.channels) if fixed else measure_normalisation(cohort)
    splits = {split: split_images(cohort, split, normalisation, device) for split in SPLITS}
    return SplitImages(cohort, normalisation, splits)


def told_coarsely(data: SplitImages) -> SplitImages:
    """The same, normalised by three digits: from all of them follows of how many images they are mean and deviation."""
    measured = data.normalisation
    normalisation = Normalisation(
        *(tuple(float(f"{one:.3g}") for one in part) for part in (measured.mean, measured.std))
    )
    splits = {split: replace(images, normalisation=normalisation) for split, images in data.splits.items()}
    return replace(data, normalisation=normalisation, splits=splits)


def network_of(name: str, cohort: Cohort) -> ConvNet:
    """The network of that name for the cohort's images."""
    return parse(name, channels=cohort.channels, size=cohort.size, classes=len(cohort.classes))


def shape_of(cohort: Cohort) -> Shape:
    """What of a cohort determines a plan's cost."""
    scored = sum(len(cohort.indices(split)) for split in SCORED)
    return Shape(cohort.channels, len(cohort.classes), len(cohort.indices("train")), scored)
