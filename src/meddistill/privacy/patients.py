"""Patients and their images, and how much of a patient may count."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from meddistill.teachers.images import LabelledImages

_BLOCK = 256


@dataclass(frozen=True)
class Patients:
    """Training images and whose they are: ``patient`` ``(N,)`` int64 on the CPU, 0 to ``count`` − 1."""

    images: LabelledImages
    patient: Tensor

    @property
    def count(self) -> int:
        """How many patients; a secret, like all else here."""
        return int(self.patient.max()) + 1 if len(self.patient) else 0

    def subset(self, chosen: Tensor) -> "Patients":
        """Only the patients that ``chosen`` ``(count,)`` says."""
        rows = chosen[self.patient].nonzero().flatten()
        return patients_of(self.images.subset(rows), self.patient[rows].numpy())

    def blocks(self, limit: int = _BLOCK) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows, every patient's together, and whose in the block each is.

        ``limit`` rows at most at a time, but for a patient who has more.
        """
        order = torch.argsort(self.patient, stable=True)
        owners = self.patient[order]
        begins = (torch.diff(owners, prepend=torch.tensor([-1])) > 0).nonzero().flatten().tolist()
        begin = 0
        for own, following in pairwise([*begins, len(owners)]):
            if following - begin > limit and own > begin:
                yield order[begin:own], owners[begin:own] - owners[begin]
                begin = own
        if begin < len(owners):
            yield order[begin:], owners[begin:] - owners[begin]


def patients_of(images: LabelledImages, ids: npt.NDArray[np.int64]) -> Patients:
    """Patients of images that have these ``ids`` ``(N,)``, equal for images of one patient."""
    _, patient = np.unique(ids, return_inverse=True)
    return Patients(images, torch.from_numpy(patient.astype(np.int64)))


def clipped(rows: Tensor, bound: float) -> Tensor:
    """Rows ``(P, D)``, those longer than ``bound`` shortened to it."""
    lengths = rows.norm(dim=1, keepdim=True)
    shares: Tensor = (bound / lengths.clamp_min(1e-300)).clamp_max(1.0)
    return rows * shares
