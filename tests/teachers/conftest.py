"""A tiny cohort with an imbalanced training split, and a network that fits it."""

import numpy as np
import pytest
import torch

from meddistill.cohort.types import Cohort
from meddistill.nets.convnet import ConvNet
from meddistill.runtime.streams import numpy_stream
from meddistill.teachers.images import measure_normalisation, split_images


def cohort_of(dtype, channels=1, count=60):
    """``count`` images of 8×8 over the whole range of the dtype: 3 of 4 in class 0, which is bright on the left."""
    peak = np.iinfo(dtype).max
    labels = (np.arange(count) % 4 == 3).astype(np.int64)
    bright = np.where(labels[:, None] == 0, np.arange(8) < 4, np.arange(8) >= 4)
    spread = numpy_stream(0, "pixels").uniform(0, 0.7, (count, channels, 8, 8))
    intensities = spread + 0.3 * bright[:, None, None, :]
    images = np.round(intensities * peak).astype(dtype)
    splits = (np.arange(count) % 6 == 5).astype(np.uint8)
    return Cohort(images, labels, splits, ("one", "other"))


@pytest.fixture
def images():
    """The training split: 50 images, of which 10 are of class 1."""
    cohort = cohort_of(np.uint8)
    return split_images(cohort, "train", measure_normalisation(cohort), torch.device("cpu"))


@pytest.fixture
def network():
    return ConvNet(width=4, depth=1, channels=1, size=8, classes=2)


@pytest.fixture
def make_cohort():
    return cohort_of
