"""What is usual of a network that never saw a patient: by references, each trained on a random half of all patients.

Whatever is attacked, a package by networks trained on it or a model itself, some networks are asked how sure they are
of a patient's class. An easy patient makes every network sure. So it counts how much surer they are than the references
that did not see him:

- ``likelihood``: in units of these references' spread (LiRA without members' models: Carlini et al. 2022,
  arXiv:2112.03570);
- ``ratio``: as a ratio of probabilities (RMIA: Zarifzadeh et al. 2024, arXiv:2312.03262, offline with a = 0.3). Its
  last step, comparing with other people's ratios, does not change their order and is left out.

How well such an attack can do on these patients is told by ``direct``, the likelihood of one more network, which is
trained on the images of all members.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.audit.apart import confidence_of_each, finding_of, tell_apart, warnings
from meddistill.audit.case import SIDES, Side, Trial
from meddistill.audit.finding import Finding
from meddistill.audit.greatest_risk import (
    LEAST_OF_A_CLASS,
    OfClass,
    above_every_control,
    enough,
    figures_of,
    of_class,
    warnings_of,
)
from meddistill.audit.people import BLOCK, People
from meddistill.audit.statistics import area
from meddistill.nets.params import Params
from meddistill.runtime.progress import Stage
from meddistill.runtime.streams import derive, numpy_stream
from meddistill.train.protocol import TrainingSet, synthetic_set, train_network

Scores = npt.NDArray[np.float64]
Seen = Mapping[Side, npt.NDArray[np.bool_]]
_OFFLINE = 0.3  # RMIA's a: how much of the probability under a reference counts
_MOST_IMAGES = 8192  # that a reference is trained on


@dataclass(frozen=True)
class Attacked:
    """The networks that are asked, trained on the package or the model itself, and all that they are compared with.

    ``direct``: trained on all members. ``seen``: which patients a reference saw, by side ``(references, patients)``.
    """

    case: Trial
    students: tuple[Params, ...]
    references: tuple[Params, ...]
    direct: Params
    seen: Seen


def train_references(case: Trial, stage: Stage) -> tuple[tuple[Params, ...], Params, Seen]:
    """References, the network that is trained on all members, and whom each reference saw; as in :class:`Attacked`."""
    seen = {side: halves(case, side, case.effort.references) for side in SIDES}
    everyone = {side: np.full(case.people(side).count, side == "members") for side in SIDES}
    picked = [{side: seen[side][place] for side in SIDES} for place in range(case.effort.references)]
    found: list[Params] = []
    for place, chosen in enumerate([*picked, everyone]):
        data = training_set(case, chosen, place)
        found.append(train_network(case.network, data, case.protocol, derive(case.seed, "audit reference", place)))
        stage.advance()
    return tuple(found[:-1]), found[-1], seen


def scores_beside(attacked: Attacked, people: People, seen: npt.NDArray[np.bool_]) -> dict[str, Scores]:
    """``sureness``, ``likelihood``, ``ratio`` and ``direct`` of each image ``(N,)``.

    ``seen``: which references saw a patient ``(references, patients)``.
    """
    case, seen = attacked.case, seen[:, people.patient]
    asked = [*attacked.students, *attacked.references, attacked.direct]
    sure = np.stack([sureness_of(case, params, people) for params in asked])
    count = len(attacked.students)
    students, references, direct = sure[:count], sure[count:-1], sure[-1]
    expected, spread = unseen(references, seen)
    chance, usual = _chance(students).mean(0), unseen(_chance(references), seen)[0]
    return {
        "sureness": students.mean(0),
        "likelihood": (students.mean(0) - expected) / spread,
        "ratio": np.log(chance / (0.5 * ((1 + _OFFLINE) * usual + 1 - _OFFLINE))),
        "direct": (direct - expected) / spread,
    }


def judged(
    name: str,
    asks: str,
    which: Sequence[str],
    members: Mapping[str, Scores],
    control: Mapping[str, Scores],
    case: Trial,
    more: Mapping[str, object],
) -> Finding:
    """The worst outcome of ``which`` scores, over all patients, class by class, and of those who stand out most.

    Intervals are widened for all looks at them. ``members``, ``control``: these scores and ``direct``, of each patient.
    ``more``: figures to be told besides.
    """
    scores = {key: standardised(case, members[key], control[key]) for key in members}
    asked, gates = enough(case.members.classes, case.control.classes), case.gates
    besides = len(which) * (len(asked) + 1)
    confidence = confidence_of_each(gates, len(which), besides)
    found = {key: tell_apart(*scores[key], gates, len(which), besides) for key in which}
    classes = [
        _of_class(case, label, {key: (members[key], control[key]) for key in which}, confidence) for label in asked
    ]
    above = above_every_control({key: scores[key] for key in which}, confidence)
    few = [case.classes[label] for label in np.unique(case.members.classes) if label not in asked]
    figures = {
        **figures_of(classes, few),
        "above_every_control_patient": above.as_dict(),
        "network_trained_on_members": area(*scores["direct"]).as_dict(),
        "references": case.effort.references,
        **more,
    }
    warned = (*warnings(found.values(), gates), *warnings_of(classes, few), *above.warnings)
    return finding_of(name, asks, found, warned, figures, [*(one.counts_as for one in classes), above.outcome])


def halves(case: Trial, side: Side, times: int) -> npt.NDArray[np.bool_]:
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


def training_set(case: Trial, chosen: Mapping[Side, npt.NDArray[np.bool_]], place: int) -> TrainingSet:
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
    classes = F.one_hot(torch.from_numpy(labels[order]), len(case.classes)).float()
    return synthetic_set(inputs, classes.to(case.device))


def sureness_of(case: Trial, params: Params, people: People) -> Scores:
    """log(p / (1 − p)) of each image's own class ``(N,)``, the mean over its views, float64."""
    found, labels = [], torch.from_numpy(people.labels).to(case.device)
    with torch.no_grad():
        for block, own in zip(people.blocks(case.device), labels.split(BLOCK), strict=True):
            inputs = case.normalisation.apply(block)
            views = [_margin(case.network.apply(params, view).double(), own) for view in case.views(inputs)]
            found.append(torch.stack(views).mean(0))
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


def standardised(case: Trial, members: Scores, control: Scores) -> tuple[Scores, Scores]:
    """Scores in units of the spread among control patients of the same class, other than the patient himself.

    Networks that were trained on other shares of the classes, or of other sharpness, differ by class for all patients.
    A control patient who counted in his own spread would stand out less than a member of a rare class does by chance.
    """
    mine, theirs = members.copy(), control.copy()
    for label in range(len(case.classes)):
        same, own = case.control.classes == label, case.members.classes == label
        usual = same if same.sum() >= LEAST_OF_A_CLASS else np.full(len(control), True)
        mine[own] = (members[own] - control[usual].mean()) / (control[usual].std(ddof=1) + 1e-12)
        centre, spread = _of_others(control[usual])
        theirs[same] = ((control[usual] - centre) / spread)[same[usual]]
    return mine, theirs


def _of_others(values: Scores) -> tuple[Scores, Scores]:
    """For each of the values, mean and spread of all the others."""
    count, away = len(values), values - values.mean()
    centre = -away / (count - 1)
    squares = (away**2).sum() - away**2 - (count - 1) * centre**2
    return values.mean() + centre, np.sqrt(np.maximum(squares, 0) / (count - 2)) + 1e-12


def _of_class(case: Trial, label: int, scores: Mapping[str, tuple[Scores, Scores]], confidence: float) -> OfClass:
    own, same = case.members.classes == label, case.control.classes == label
    of_it = {key: (members[own], control[same]) for key, (members, control) in scores.items()}
    return of_class(case.classes[label], of_it, (int(own.sum()), int(same.sum())), case.gates, confidence)
