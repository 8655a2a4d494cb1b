"""Packages and cohorts as ordinary ``torch.utils.data.Dataset``s, for training loops of one's own.

Images are intensities ``(C, S, S)`` float32, 0 black to 1 white; those of a package may lie outside. They are not
normalised: apply ``dataset.normalisation`` to a batch.
"""

from collections.abc import Callable, Sequence, Sized
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from meddistill.cohort.prepare import prepare
from meddistill.cohort.read import ReadOptions
from meddistill.cohort.types import SPLITS, Fit, Leak
from meddistill.package.read import read
from meddistill.runtime.errors import InputError
from meddistill.runtime.progress import Progress, Silent
from meddistill.teachers.images import Normalisation, measure_normalisation

Transform = Callable[[Tensor], Tensor]


class PackageDataset(Dataset[tuple[Tensor, Tensor]]):
    """The images of a package and their label probabilities ``(K,)`` float32.

    ``card``: what the package says of itself. ``classes``: names of the columns.
    """

    def __init__(self, file: Path, transform: Transform | None = None) -> None:
        """``transform`` gets and gives one image. Raises as :func:`meddistill.package.read.read` does."""
        package = read(file)
        self.card = package.card
        self.classes = package.card.task.classes
        self.normalisation = Normalisation(package.card.normalisation.mean, package.card.normalisation.std)
        self._images, self._labels = torch.from_numpy(package.enlarged), torch.from_numpy(package.labels)
        self._transform = transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        image = self._images[row].clone()  # a transform may write into what it is given
        return image if self._transform is None else self._transform(image), self._labels[row]

    def _repr_html_(self) -> str:
        return _shown(self.classes, self._labels.sum(0).tolist(), "probability in all", self._images)


class CohortDataset(Dataset[tuple[Tensor, int]]):
    """The real images of one split of a source and their class numbers; ``all`` is every image.

    ``normalisation`` is measured on the source's training split.
    """

    def __init__(
        self,
        source: Path,
        split: str = "train",
        *,
        size: int | None = None,
        fit: Fit = "crop",
        leak: Leak = "stop",
        seed: int = 0,
        transform: Transform | None = None,
        options: ReadOptions = ReadOptions(),
        progress: Progress = Silent(),
    ) -> None:
        """Read the source (:func:`meddistill.cohort.prepare.prepare` says how and what it raises)."""
        cohort = prepare(source, size=size, fit=fit, leak=leak, seed=seed, options=options, progress=progress).cohort
        rows = {name: cohort.indices(name) for name in SPLITS} | {"all": np.arange(len(cohort.labels))}
        if split not in rows:
            raise InputError(f"there is no split '{split}': expected {', '.join(rows)}")
        self.classes = cohort.classes
        self.normalisation = measure_normalisation(cohort)
        self._images, self._labels = cohort.images[rows[split]], cohort.labels[rows[split]]
        self._peak, self._transform = cohort.peak, transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        image = torch.from_numpy(self._images[row].astype(np.float32) / np.float32(self._peak))
        return image if self._transform is None else self._transform(image), int(self._labels[row])

    def _repr_html_(self) -> str:
        counts = np.bincount(self._labels, minlength=len(self.classes)).tolist()
        return _shown(self.classes, counts, "images", self._images)


def _shown(classes: Sequence[str], counts: Sequence[float], counted: str, images: Sized) -> str:
    """A table of the classes; no image, for notebooks are sent around."""
    from meddistill.report.notebook import table

    rows = [(name, f"{count:,.6g}") for name, count in zip(classes, counts, strict=True)]
    return table(("class", counted), [*rows, ("images in all", f"{len(images):,}")])
