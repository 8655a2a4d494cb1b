"""Can it be told from the package whether a patient was in its making?

The attacker holds the package, its recipe, images of other patients, and a candidate's image and label. Four scores,
each larger for likelier members:

- ``likelihood``: networks are trained on the package, and references on random halves of all patients. How much surer
  of the candidate are the former than the references that did not see him, in units of their spread (LiRA without
  members' models: Carlini et al. 2022, arXiv:2112.03570).
- ``ratio``: the same as a ratio of probabilities (RMIA: Zarifzadeh et al. 2024, arXiv:2312.03262, offline with
  a = 0.3). Its last step, comparing with other people's ratios, does not change their order and is left out.
- ``gradients``: how well the candidate's gradient agrees with that of the package, less with that of all patients, in
  networks before and after training on the package.
- ``density``: how much denser the synthetic images lie around the candidate than images of the control patients do,
  among the recogniser's directions (DOMIAS: van Breugel et al. 2023, arXiv:2302.12580).

The references are networks, not whole distillations; those are in :mod:`meddistill.audit.shadows`, stronger and dearer.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.audit.apart import finding_of, strongest_of, tell_apart, warnings
from meddistill.audit.case import SIDES, Case, Side
from meddistill.audit.finding import Finding
from meddistill.audit.people import BLOCK, People
from meddistill.audit.statistics import CONFIDENCE, area
from meddistill.nets.params import Params, leaves
from meddistill.runtime.streams import derive, numpy_stream, stream
from meddistill.train.protocol import Protocol, TrainingSet, synthetic_set, train_network
from meddistill.train.received import received

NAME, ASKS = "membership", "who was among the patients that the package was made from"
SCORES = ("likelihood", "ratio", "gradients", "density")

Scores = npt.NDArray[np.float64]
_OFFLINE = 0.3  # RMIA's a: how much of the probability under a reference counts
_BANDWIDTH = 0.1  # of the density, in cosines
_MOST_IMAGES = 8192  # that a reference is trained on
_GRADIENT_IMAGES = 512
_LEAST_OF_A_CLASS = 20  # control patients, to measure the spread of a class's scores on


@dataclass(frozen=True)
class Prepared:
    """Trained networks, and which patients a reference saw: ``seen`` of each side ``(references, patients)``."""

    case: Case
    students: tuple[Params, ...]
    references: tuple[Params, ...]
    direct: Params
    seen: Mapping[Side, npt.NDArray[np.bool_]]
    package: TrainingSet
    others: TrainingSet


def prepare(case: Case) -> Prepared:
    """Train students on the package, references on halves of all patients, and one network on all members."""
    package = case.package
    own = received(package.enlarged, package.labels, case.normalisation, case.device)
    protocol = Protocol(steps=case.effort.steps, epochs=0)
    seen = {side: halves(case, side, case.effort.references) for side in SIDES}
    everyone = {side: np.full(case.people(side).count, side == "members") for side in SIDES}
    picked = [{side: seen[side][place] for side in SIDES} for place in range(case.effort.references)]
    trained: list[Params] = []
    with case.progress.stage("training to attack", case.effort.students + len(picked) + 1) as stage:
        for place in range(case.effort.students):
            trained.append(student(case, own, place))
            stage.advance()
        for place, chosen in enumerate([*picked, everyone]):
            data = _training_set(case, chosen, place)
            trained.append(train_network(case.network, data, protocol, derive(case.seed, "audit reference", place)))
            stage.advance()
    count = case.effort.students
    # Members and control patients are equally likely to be in it: what favours one of them would be taken for a leak.
    others = _training_set(case, picked[0], 0)
    return Prepared(case, tuple(trained[:count]), tuple(trained[count:-1]), trained[-1], seen, own, others)


def student(case: Case, data: TrainingSet, place: int) -> Params:
    """One of the networks trained on the package, or on what is left of it."""
    protocol = Protocol(steps=case.effort.steps, epochs=0)
    return train_network(case.network, data, protocol, derive(case.seed, "audit student", place))


def attack(prepared: Prepared, side: Side) -> dict[str, Scores]:
    """Each patient's scores by name ``(patients,)``; ``direct`` is the likelihood for a network trained on members."""
    people = prepared.case.people(side)
    return scores_of(prepared, people, prepared.seen[side], own=side == "control")


def scores_of(prepared: Prepared, people: People, seen: npt.NDArray[np.bool_], *, own: bool) -> dict[str, Scores]:
    """The scores of any people. ``seen``: by which references ``(references, patients)``; ``own``: they are control."""
    case, seen = prepared.case, seen[:, people.patient]
    asked = [*prepared.students, *prepared.references, prepared.direct]
    sure = np.stack([sureness_of(case, params, people) for params in asked])
    count = len(prepared.students)
    students, references, direct = sure[:count], sure[count:-1], sure[-1]
    expected, spread = unseen(references, seen)
    chance, usual = _chance(students).mean(0), unseen(_chance(references), seen)[0]
    by_image = {
        "likelihood": (students.mean(0) - expected) / spread,
        "ratio": np.log(chance / (0.5 * ((1 + _OFFLINE) * usual + 1 - _OFFLINE))),
        "gradients": _agreement(prepared, people),
        "density": _density(case, people, own=own),
        "direct": (direct - expected) / spread,
    }
    return {name: people.mean(scores) for name, scores in by_image.items()}


def judge(members: Mapping[str, Scores], control: Mapping[str, Scores], case: Case) -> Finding:
    """The worst outcome of the four scores; their intervals are widened for being four (Bonferroni)."""
    scores = {name: standardised(case, members[name], control[name]) for name in members}
    confidence = 1 - (1 - CONFIDENCE) / len(SCORES)
    found = {name: tell_apart(*scores[name], case.gates, confidence) for name in SCORES}
    mine, theirs = scores[strongest_of(found)]
    figures = {
        "by_class": _each_class(case, mine, theirs),
        "above_every_control_patient": {
            "members": int((mine > theirs.max()).sum()),
            "expected_by_chance": round(len(mine) / (len(theirs) + 1), 2),
        },
        "network_trained_on_members": area(*scores["direct"]).as_dict(),
        "references": case.effort.references,
        "students": case.effort.students,
    }
    return finding_of(NAME, ASKS, found, warnings(len(mine), len(theirs), case.gates, confidence), figures)


def halves(case: Case, side: Side, times: int) -> npt.NDArray[np.bool_]:
    """Which patients each of so many trainings sees ``(times, patients)``: a random half, the next the others."""
    count = case.people(side).count
    found: list[npt.NDArray[np.bool_]] = []
    for place in range(times):
        if place % 2:
            found.append(~found[-1])
            continue
        order = numpy_stream(case.seed, "audit halves", side, place).permutation(count)
        found.append(np.isin(np.arange(count), order[: count // 2]))
    return np.stack(found)


def _training_set(case: Case, chosen: Mapping[Side, npt.NDArray[np.bool_]], place: int) -> TrainingSet:
    """Images of the chosen patients, of every class equally many, as synthetic sets have them."""
    draws = numpy_stream(case.seed, "audit images", place)
    rows = {side: np.flatnonzero(chosen[side][case.people(side).patient]) for side in SIDES}
    labels = np.concatenate([case.people(side).labels[rows[side]] for side in SIDES])
    counts = np.bincount(labels)
    each = min(int(counts.max()), _MOST_IMAGES // max(1, int((counts > 0).sum())))
    taken = [draws.choice(np.flatnonzero(labels == one), each, replace=counts[one] < each) for one in np.unique(labels)]
    images = [case.people(side).images(rows[side]) for side in SIDES]
    order = np.concatenate(taken)
    inputs = case.normalisation.apply(torch.cat(images)[order]).to(case.device)
    classes = F.one_hot(torch.from_numpy(labels[order]), len(case.package.card.task.classes)).float()
    return synthetic_set(inputs, classes.to(case.device))


def sureness_of(case: Case, params: Params, people: People) -> Scores:
    """log(p / (1 − p)) of each image's own class ``(N,)``, the mean of the image and its mirror image, float64."""
    found, labels = [], torch.from_numpy(people.labels).to(case.device)
    with torch.no_grad():
        for block, own in zip(people.blocks(case.device), labels.split(BLOCK), strict=True):
            inputs = case.normalisation.apply(block)
            views = [_margin(case.network.apply(params, view).double(), own) for view in (inputs, inputs.flip(3))]
            found.append((views[0] + views[1]) / 2)
    return np.asarray(torch.cat(found).cpu().numpy())


def _margin(logits: Tensor, own: Tensor) -> Tensor:
    """The logit of the own class over all the others together."""
    mine = logits.gather(1, own[:, None])[:, 0]
    return mine - logits.scatter(1, own[:, None], -torch.inf).logsumexp(1)


def _chance(sureness: Scores) -> Scores:
    return 1 / (1 + np.exp(-sureness))


def unseen(values: Scores, seen: npt.NDArray[np.bool_]) -> tuple[Scores, Scores]:
    """Mean and spread ``(N,)`` over the references that did not see the image, of values ``(references, N)``.

    A spread of few references is uncertain: half of its square is that of all images together.
    """
    counted = ~seen
    count = counted.sum(0)
    mean = np.where(counted, values, 0).sum(0) / count
    squares = np.where(counted, (values - mean) ** 2, 0).sum(0) / np.maximum(count - 1, 1)
    return mean, np.sqrt((squares + squares.mean()) / 2 + 1e-12)


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


def standardised(case: Case, members: Scores, control: Scores) -> tuple[Scores, Scores]:
    """Scores in units of the spread among control patients of the same class.

    Networks that were trained on other shares of the classes, or of other sharpness, differ by class for all patients.
    """
    mine, theirs = members.copy(), control.copy()
    for label in range(len(case.package.card.task.classes)):
        same = case.control.classes == label
        usual = control[same] if same.sum() >= _LEAST_OF_A_CLASS else control
        centre, spread = usual.mean(), usual.std() + 1e-12
        theirs[same] = (control[same] - centre) / spread
        mine[case.members.classes == label] = (members[case.members.classes == label] - centre) / spread
    return mine, theirs


def _each_class(case: Case, members: Scores, control: Scores) -> dict[str, object]:
    """The area under the ROC curve of each class that has enough control patients; the worst class is what counts."""
    told: dict[str, object] = {}
    for label, name in enumerate(case.package.card.task.classes):
        mine, theirs = members[case.members.classes == label], control[case.control.classes == label]
        if min(len(mine), len(theirs)) >= _LEAST_OF_A_CLASS:
            told[name] = area(mine, theirs).as_dict()
    return told
