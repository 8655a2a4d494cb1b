"""Are members and control patients alike? If they differ without what is audited, no difference is its doing.

A logistic regression is asked, five-fold by patient, who is a member, from the recogniser's directions, the image at
8 × 8 pixels and the class. It knows nothing of the package, or of the model. What it can tell comes from how the groups
were chosen: another scanner, another year, another share of a class. Attacks are then partly, or wholly, attacks on
that difference (Das, Zhang and Tramèr 2024, arXiv:2406.16201). Among few patients even large differences may be chance,
and chance may hide them: whether the groups are alike is then not known.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F

from meddistill.audit.case import SIDES, Side, Trial
from meddistill.audit.finding import Finding
from meddistill.audit.people import People
from meddistill.audit.statistics import area
from meddistill.runtime.streams import derive

NAME, ASKS = "population", "whether the two groups differ without any package (they should not)"
_FOLDS, _SIDE = 5, 8


@dataclass(frozen=True)
class Prepared:
    """Each patient's score out of fold, by side ``(patients,)``."""

    scores: Mapping[Side, npt.NDArray[np.float64]]


def prepare(case: Trial) -> Prepared:
    """Predict every patient's side from the others'."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    facts = np.concatenate([_facts(case, case.people(side)) for side in SIDES])
    member = np.concatenate([np.full(len(case.people(side).labels), side == "members") for side in SIDES])
    patient = np.concatenate([case.members.patient, case.members.count + case.control.patient])
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=derive(case.seed, "population") % 2**32)
    found = np.zeros(len(member))
    for learned, asked in folds.split(facts, member, patient):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=500))
        found[asked] = model.fit(facts[learned], member[learned]).decision_function(facts[asked])
    inside = len(case.members.labels)
    return Prepared({"members": case.members.mean(found[:inside]), "control": case.control.mean(found[inside:])})


def attack(prepared: Prepared, side: Side) -> npt.NDArray[np.float64]:
    """The scores of one side's patients."""
    return prepared.scores[side]


def judge(members: npt.NDArray[np.float64], control: npt.NDArray[np.float64], case: Trial) -> Finding:
    """Inconclusive unless the groups are surely alike; that they surely differ is said in the figures."""
    found = area(members, control)
    groups = "differ" if found.low > case.gates.shift else "alike" if found.high <= case.gates.shift else "undecided"
    warned = {
        "differ": f"members and control patients differ without the package (area {found.value:.2f}): use a control "
        "group from the same scanners, years and classes",
        "undecided": "too few patients to say that members and control patients are alike without the package (area "
        f"{found.value:.2f}, which may be {found.high:.2f})",
    }
    return Finding(
        NAME,
        ASKS,
        "pass" if groups == "alike" else "inconclusive",
        warnings=(warned[groups],) if groups in warned else (),
        figures={"area": found.as_dict(), "groups": groups},
    )


def _facts(case: Trial, people: People) -> npt.NDArray[np.float64]:
    """What the regression sees of each image ``(N, features)``."""
    directions = case.recogniser.of(people, case.device).cpu().numpy()
    small = [F.adaptive_avg_pool2d(block, _SIDE).flatten(1).cpu().numpy() for block in people.blocks(case.device)]
    classes = np.eye(len(case.classes))[people.labels]
    return np.concatenate([directions, np.concatenate(small), classes], axis=1)
