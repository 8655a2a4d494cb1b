"""Labelled images as tensors on a device: integers at rest, normalised floats a batch at a time."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from meddistill.cohort.types import Cohort, SplitName


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation of intensities in [0, 1]; ``(x − mean) / std`` is what networks see."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, intensities: Tensor) -> Tensor:
        """Normalise ``(N, C, H, W)`` intensities."""
        return (intensities - _column(self.mean, intensities)) / _column(self.std, intensities)

    def undo(self, normalised: Tensor) -> Tensor:
        """Back to intensities."""
        return normalised * _column(self.std, normalised) + _column(self.mean, normalised)


@dataclass(frozen=True)
class LabelledImages:
    """Images ``(N, C, H, W)`` as stored integers, labels ``(N,)`` int64, and how to turn them into network inputs."""

    pixels: Tensor
    labels: Tensor
    peak: int
    classes: int
    normalisation: Normalisation

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def inputs(self, rows: Tensor) -> Tensor:
        """Normalised float32 images of the given rows ``(n,)``."""
        return self.normalisation.apply(self.pixels[rows.to(self.device)].float() / self.peak)

    def rows_of(self, label: int) -> Tensor:
        """Rows of one class, ascending, on the CPU."""
        return (self.labels == label).nonzero().flatten().cpu()

    def subset(self, rows: Tensor) -> "LabelledImages":
        """The same with only these rows."""
        rows = rows.to(self.device)
        return LabelledImages(self.pixels[rows], self.labels[rows], self.peak, self.classes, self.normalisation)


def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
    """The values of all channels, ``(1, C, 1, 1)``, as ``like`` is."""
    return _kept_column(values, like.dtype, like.device)


@lru_cache(maxsize=64)
def _kept_column(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Made once: every batch asks for it, and to send it to a GPU is to wait for all that the GPU has to do."""
    return torch.tensor(values, dtype=dtype, device=device).view(1, -1, 1, 1)


def measure_normalisation(cohort: Cohort) -> Normalisation:
    """Mean and standard deviation of each channel over the training split, in float64, a block of images at a time."""
    rows = cohort.indices("train")
    total, squares = np.zeros(cohort.channels), np.zeros(cohort.channels)
    for block in np.array_split(rows, max(1, len(rows) // 256)):
        values = cohort.images[block].astype(np.float64) / cohort.peak
        total += values.sum(axis=(0, 2, 3))
        squares += (values**2).sum(axis=(0, 2, 3))
    count = len(rows) * cohort.size**2
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    # A constant channel has no spread to divide by; leave it centred.
    return Normalisation(tuple(map(float, mean)), tuple(float(s) if s > 1e-6 else 1.0 for s in std))


def pixels_of(images: npt.NDArray[Any]) -> Tensor:
    """Images as :class:`LabelledImages` holds them; those of 16 bits as int32, which torch can index and convert."""
    return torch.from_numpy(images if images.dtype == np.uint8 else images.astype(np.int32))


def split_images(
    cohort: Cohort, split: SplitName, normalisation: Normalisation, device: torch.device
) -> LabelledImages:
    """One split of the cohort on the device."""
    rows = cohort.indices(split)
    pixels = pixels_of(cohort.images[rows])
    labels = torch.from_numpy(cohort.labels[rows])
    return LabelledImages(pixels.to(device), labels.to(device), cohort.peak, len(cohort.classes), normalisation)
