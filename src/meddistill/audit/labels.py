"""Do the package's labels give away what was recorded of a patient, where everybody else would be wrong?

An attacker has a patient's image and wants to know the diagnosis. For most patients any good network knows it, which is
what the package is for and no leak. So only patients are asked of whom networks that never saw them are wrong: whose
recorded class is unusual for their image, or a mistake. A network that was trained on the package can be right of these
more often among members than among control patients only by what the package carries of single members. Soft labels can
carry such facts although the images do not show them (Behrens & Zdeborová 2025, arXiv 2506.14457); to know what comes
from them, all is done a second time with each synthetic image's likeliest class alone.

A model is asked the same itself, without students.

What the recipe is need not be inferred: method, network, seed and settings stand on the card, and every attack of an
audit knows them.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from meddistill.audit.case import Case, Side, Trial
from meddistill.audit.finding import Finding
from meddistill.audit.finding import judge as judge_excess
from meddistill.audit.membership import Prepared as OfPackage
from meddistill.audit.membership import student
from meddistill.audit.people import People
from meddistill.audit.references import Attacked
from meddistill.audit.statistics import difference, share
from meddistill.nets.params import Params

NAME, ASKS = "labels", "recorded classes of patients, where networks that never saw them are wrong"


@dataclass(frozen=True)
class Prepared:
    """The networks that attack membership; ``hardened``: trained on likeliest classes, none where labels are hard."""

    attacked: Attacked
    hardened: tuple[Params, ...]


@dataclass(frozen=True)
class Recovered:
    """``asked``: patients of one side of whom references are wrong; ``right``: of so many of them students are right.

    ``hardened``: the same of students that know likeliest classes alone; None where labels are hard anyway.
    """

    asked: int
    right: int
    hardened: int | None


def prepare(attacked: OfPackage) -> Prepared:
    """Train as many networks on likeliest classes as there are on the labels as they are, where the two differ."""
    case, data = attacked.case, attacked.package
    if case.package.card.task.labels == "hard":
        return Prepared(attacked, ())
    data = replace(data, labels=F.one_hot(data.labels.argmax(1), data.labels.shape[1]).to(data.labels))
    trained = []
    with case.progress.stage("training on likeliest classes", case.effort.students) as stage:
        for place in range(case.effort.students):
            trained.append(student(case, data, place))
            stage.advance()
    return Prepared(attacked, tuple(trained))


def attack(prepared: Prepared, side: Side) -> Recovered:
    """Ask of the first image of each patient of one side."""
    case = prepared.attacked.case
    people, seen = _first_images(case.people(side)), prepared.attacked.seen[side]
    told = np.stack([_answers(case, params, people) for params in prepared.attacked.references])
    wrong = np.where(seen[..., None], 0.0, told).sum(0).argmax(1) != people.labels

    def right(students: tuple[Params, ...]) -> int:
        mean = np.mean([_answers(case, params, people) for params in students], axis=0)
        return int((mean.argmax(1) == people.labels)[wrong].sum())

    soft = right(prepared.attacked.students)
    return Recovered(int(wrong.sum()), soft, right(prepared.hardened) if prepared.hardened else None)


def judge(members: Recovered, control: Recovered, case: Trial) -> Finding:
    """How many more such classes of members are recovered."""
    figures: dict[str, object] = {"asked": {"members": members.asked, "control": control.asked}}
    if isinstance(case, Case):
        figures["labels"] = case.package.card.task.labels
    if not min(members.asked, control.asked):
        return Finding(NAME, ASKS, "inconclusive", warnings=("the references are wrong of nobody",), figures=figures)
    excess = difference(members.right, members.asked, control.right, control.asked)
    if members.hardened is not None and control.hardened is not None:
        bare = difference(members.hardened, members.asked, control.hardened, control.asked)
        figures["excess_with_likeliest_classes_alone"] = bare.as_dict()
    outcome = judge_excess(excess, 0.0, case.gates.recovered_passes, case.gates.recovered_fails)
    few = (
        f"the references are wrong of {members.asked} members and {control.asked} control patients: too few to say more"
    )
    return Finding(
        NAME,
        ASKS,
        outcome,
        main=share(members.right, members.asked),
        control=share(control.right, control.asked),
        baseline=1 / len(case.classes),
        excess=excess,
        warnings=(few,) if outcome == "inconclusive" else (),
        figures=figures,
    )


def _answers(case: Trial, params: Params, people: People) -> npt.NDArray[np.float64]:
    """The probability of each class ``(N, K)``, the mean over an image's views."""
    found = []
    with torch.no_grad():
        for block in people.blocks(case.device):
            inputs = case.normalisation.apply(block)
            views = [case.network.apply(params, view).double().softmax(1) for view in case.views(inputs)]
            found.append(torch.stack(views).mean(0))
    return np.asarray(torch.cat(found).cpu().numpy())


def _first_images(people: People) -> People:
    """Each patient with one image."""
    rows = np.unique(people.patient, return_index=True)[1]
    return replace(people, pixels=people.pixels[rows], labels=people.labels[rows], patient=np.arange(len(rows)))
