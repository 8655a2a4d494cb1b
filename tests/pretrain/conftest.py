"""Tiny images with something to learn, and encoders for them."""

import numpy as np
import pytest
import torch

from meddistill.cohort.types import Cohort
from meddistill.nets.find import find
from meddistill.runtime.streams import numpy_stream
from meddistill.teachers.images import measure_normalisation, split_images


def images_of(count=96, channels=1, side=16):
    """Blobs at places and of sizes of their own, on noise; class 1 has stripes besides."""
    rng, grid = numpy_stream(0, "blobs"), np.mgrid[0:side, 0:side]
    labels = (np.arange(count) % 2).astype(np.int64)
    pictures = np.empty((count, channels, side, side), np.uint8)
    for index, label in enumerate(labels):
        middle, width = rng.uniform(4, side - 4, 2), rng.uniform(2, 5)
        blob = np.exp(-((grid - middle[:, None, None]) ** 2).sum(0) / width**2)
        stripes = label * 0.4 * (grid[1] // 2 % 2)
        noise = rng.uniform(0, 0.3, (channels, side, side))
        pictures[index] = np.clip(255 * (0.5 * blob + stripes + noise), 0, 255)
    cohort = Cohort(pictures, labels, (np.arange(count) % 4 == 3).astype(np.uint8), ("plain", "striped"))
    return split_images(cohort, "train", measure_normalisation(cohort), torch.device("cpu"))


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def images():
    return images_of()


@pytest.fixture(scope="session")
def named():
    return lambda name, channels=1, size=16: find(name, channels=channels, size=size, classes=2)
