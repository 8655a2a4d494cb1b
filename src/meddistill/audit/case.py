"""What every attack is given: the package, as its receiver holds it, and the people it is tried on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from meddistill.audit.finding import Gates
from meddistill.audit.people import People
from meddistill.audit.recognise import Recogniser
from meddistill.nets.convnet import ConvNet
from meddistill.package.types import Package
from meddistill.runtime.progress import Progress
from meddistill.teachers.images import Normalisation

Side = Literal["members", "control"]
SIDES: tuple[Side, ...] = ("members", "control")


@dataclass(frozen=True)
class Effort:
    """How much an audit computes.

    ``references``: networks trained on random halves of all patients. ``students``: networks trained on the package.
    ``steps``: SGD steps of each. ``recogniser_steps``: of the recogniser. ``shadows``: whole distillations on random
    halves of all patients.
    """

    references: int = 16
    students: int = 4
    steps: int = 300
    recogniser_steps: int = 200
    shadows: int = 0


@dataclass(frozen=True)
class Case:
    """One package and two groups of people. ``network``: the one that the package names."""

    file: Path
    package: Package
    members: People
    control: People
    network: ConvNet
    normalisation: Normalisation
    recogniser: Recogniser
    gates: Gates
    effort: Effort
    seed: int
    device: torch.device
    progress: Progress

    def people(self, side: Side) -> People:
        """The members, or the control patients."""
        return self.members if side == "members" else self.control

    @property
    def synthetic(self) -> Tensor:
        """The package's images: intensities ``(n, C, S, S)``."""
        return torch.from_numpy(self.package.enlarged).to(self.device)
