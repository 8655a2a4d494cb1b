"""What every attack is given: a package or a model, as its receiver holds it, and the people it is tried on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from meddistill.audit.finding import Gates
from meddistill.audit.people import People
from meddistill.audit.recognise import Recogniser
from meddistill.compress.card import Saw
from meddistill.nets.network import Network
from meddistill.nets.params import Params
from meddistill.package.types import Package
from meddistill.runtime.progress import Progress
from meddistill.teachers.images import Normalisation
from meddistill.train.protocol import Protocol, protocol_for

Side = Literal["members", "control"]
SIDES: tuple[Side, ...] = ("members", "control")


@dataclass(frozen=True)
class Effort:
    """How much an audit computes.

    ``references``: networks trained on random halves of all patients. ``students``: networks trained on the package.
    ``steps``: SGD steps of each. ``recogniser_steps``: of the recogniser. ``shadows``: whole distillations on random
    halves of all patients. ``shadow_iterations``: of matching in each of them; None for as many as the package had.
    """

    references: int = 16
    students: int = 4
    steps: int = 300
    recogniser_steps: int = 200
    shadows: int = 0
    shadow_iterations: int | None = None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Two groups of people, and what attacks on a package or a model have in common.

    ``network``, ``normalisation``: those that the package names, or of the model. ``classes``: their names, in order.
    ``flip``: whether networks of it are trained on mirrored images as well.
    """

    file: Path
    members: People
    control: People
    classes: tuple[str, ...]
    network: Network
    normalisation: Normalisation
    recogniser: Recogniser
    gates: Gates
    effort: Effort
    seed: int
    device: torch.device
    progress: Progress
    flip: bool = True

    @property
    def protocol(self) -> Protocol:
        """How every network of the audit is trained."""
        return replace(protocol_for(self.network, flip=self.flip), steps=self.effort.steps, epochs=0)

    def views(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """What a network is asked about images: they, and where it has learned from such, their mirror images."""
        return (inputs, inputs.flip(3)) if self.flip else (inputs,)

    def people(self, side: Side) -> People:
        """The members, or the control patients."""
        return self.members if side == "members" else self.control


@dataclass(frozen=True, kw_only=True)
class Case(Trial):
    """A package that is attacked."""

    package: Package

    @property
    def synthetic(self) -> Tensor:
        """The package's images: intensities ``(n, C, S, S)``."""
        return torch.from_numpy(self.package.enlarged).to(self.device)


@dataclass(frozen=True, kw_only=True)
class ModelCase(Trial):
    """A model that is attacked: its parameters, and whose images they have seen as its file says."""

    params: Params
    saw: Saw
