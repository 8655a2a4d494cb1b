"""Can it be told from the package whether a patient was in its making?

The attacker holds the package, its recipe, images of other patients, and a candidate's image and label. Networks are
trained on the package. Four scores, each larger for likelier members:

- ``likelihood``, ``ratio``: how much surer these networks are of the candidate than references that did not see him
  (:mod:`meddistill.audit.references`).
- ``gradients``: how well the candidate's gradient agrees with that of the package, less with that of all patients, in
  networks before and after training on the package.
- ``density``: how much denser the synthetic images lie around the candidate than images of the control patients do,
  among the recogniser's directions (DOMIAS: van Breugel et al. 2023, arXiv:2302.12580).

The references are networks, not whole distillations; those are in :mod:`meddistill.audit.shadows`, stronger and dearer.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.audit.case import SIDES, Case, Side
from meddistill.audit.finding import Finding
from meddistill.audit.people import BLOCK, People
from meddistill.audit.references import Attacked, Scores, judged, scores_beside, train_references, training_set
from meddistill.nets.params import Params, leaves
from meddistill.runtime.streams import derive, stream
from meddistill.train.protocol import TrainingSet, train_network
from meddistill.train.received import received

NAME, ASKS = "membership", "who was among the patients that the package was made from"
SCORES = ("likelihood", "ratio", "gradients", "density")
WEAKER = "whoever repeats the whole making (shadows) may find more, and did where patients were few: this was not tried"

_BANDWIDTH = 0.1  # of the density, in cosines
_GRADIENT_IMAGES = 512


@dataclass(frozen=True)
class Prepared(Attacked):
    """Networks trained on the package, what they are compared with, and the two sets whose gradients are."""

    case: Case
    package: TrainingSet
    others: TrainingSet


def prepare(case: Case) -> Prepared:
    """Train students on the package, references on halves of all patients, and one network on all members."""
    package = case.package
    own = received(package.enlarged, package.labels, case.normalisation, case.device)
    students: list[Params] = []
    with case.progress.stage("training to attack", case.effort.students + case.effort.references + 1) as stage:
        for place in range(case.effort.students):
            students.append(student(case, own, place))
            stage.advance()
        references, direct, seen = train_references(case, stage)
    # Members and control patients are equally likely to be in it: what favours one of them would be taken for a leak.
    others = training_set(case, {side: seen[side][0] for side in SIDES}, 0)
    return Prepared(case, tuple(students), references, direct, seen, own, others)


def student(case: Case, data: TrainingSet, place: int) -> Params:
    """One of the networks trained on the package, or on what is left of it."""
    return train_network(case.network, data, case.protocol, derive(case.seed, "audit student", place))


def attack(prepared: Prepared, side: Side) -> dict[str, Scores]:
    """Each patient's scores by name ``(patients,)``; ``direct`` is the likelihood for a network trained on members."""
    people = prepared.case.people(side)
    return scores_of(prepared, people, prepared.seen[side], own=side == "control")


def scores_of(prepared: Prepared, people: People, seen: npt.NDArray[np.bool_], *, own: bool) -> dict[str, Scores]:
    """The scores of any people. ``seen``: by which references ``(references, patients)``; ``own``: they are control."""
    by_image = scores_beside(prepared, people, seen)
    by_image["gradients"] = _agreement(prepared, people)
    by_image["density"] = _density(prepared.case, people, own=own)
    return {name: people.mean(scores) for name, scores in by_image.items()}


def judge(members: Mapping[str, Scores], control: Mapping[str, Scores], case: Case) -> Finding:
    """The worst outcome of the four scores; without shadows it is told that they were not asked for."""
    found = judged(NAME, ASKS, SCORES, members, control, case, {"students": case.effort.students})
    return found if case.effort.shadows else replace(found, warnings=(*found.warnings, WEAKER))


def _agreement(prepared: Prepared, people: People) -> Scores:
    """The directional derivative of each image's loss along the package's gradient, less along that of all patients.

    Both gradients have length 1; summed over the students, before and after their training.
    """
    case, network = prepared.case, prepared.case.network
    total = np.zeros(len(people.labels))
    for place, trained in enumerate(prepared.students):
        fresh = network.init(stream(derive(case.seed, "audit student", place), "train", "init"))
        for params in (tuple(param.to(case.device) for param in fresh), trained):
            own, other = (_unit_gradient(case, params, data) for data in (prepared.package, prepared.others))
            along = tuple(one - two for one, two in zip(own, other, strict=True))
            total += _slope(case, params, along, people)
    return total


def _unit_gradient(case: Case, params: Params, data: TrainingSet) -> Params:
    variables = leaves(params)
    rows = torch.arange(min(len(data), _GRADIENT_IMAGES))
    loss = F.cross_entropy(case.network.apply(variables, data.inputs(rows)), data.labels[rows])
    gradient = torch.autograd.grad(loss, variables)
    length = torch.sqrt(sum((one.square().sum() for one in gradient), torch.zeros(())))
    return tuple(one / length.clamp_min(1e-12) for one in gradient)


def _slope(case: Case, params: Params, along: Params, people: People) -> Scores:
    """How fast each image's loss changes when parameters move ``along`` a direction ``(N,)``."""
    found, labels = [], torch.from_numpy(people.labels).to(case.device)
    for block, own in zip(people.blocks(case.device), labels.split(BLOCK), strict=True):
        inputs = case.normalisation.apply(block)

        def losses(*moved: Tensor, inputs: Tensor = inputs, own: Tensor = own) -> Tensor:
            return F.cross_entropy(case.network.apply(moved, inputs), own, reduction="none")

        found.append(torch.func.jvp(losses, params, along)[1].detach())
    return torch.cat(found).double().cpu().numpy()


def _density(case: Case, people: People, *, own: bool) -> Scores:
    """The logarithm of the density of synthetic images over that of control patients other than the image's own."""
    asked = case.recogniser.of(people, case.device)
    around = case.recogniser.directions(case.synthetic)
    others = asked if own else case.recogniser.of(case.control, case.device)
    found, patient = [], torch.from_numpy(people.patient).to(case.device)
    for block, whose in zip(asked.split(BLOCK), patient.split(BLOCK), strict=True):
        near = (block @ others.T / _BANDWIDTH).double()
        if own:
            near.masked_fill_(whose[:, None] == patient, -torch.inf)
        of_package = (block @ around.T / _BANDWIDTH).double().logsumexp(1) - math.log(len(around))
        found.append(of_package - near.logsumexp(1) + torch.isfinite(near).sum(1).log())
    return np.asarray(torch.cat(found).cpu().numpy())
