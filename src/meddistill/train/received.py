"""From what a package holds to what a network is trained on."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from meddistill.teachers.images import Normalisation
from meddistill.train.protocol import TrainingSet, synthetic_set

Floats = npt.NDArray[np.floating[Any]]


def received(images: Floats, labels: Floats, normalisation: Normalisation, device: torch.device) -> TrainingSet:
    """A training set of a package's intensities ``(n, C, H, W)`` and label probabilities ``(n, K)``."""
    pixels = torch.from_numpy(np.asarray(images, dtype=np.float32)).to(device)
    probabilities = torch.from_numpy(np.asarray(labels, dtype=np.float32)).to(device)
    return synthetic_set(normalisation.apply(pixels), probabilities)
