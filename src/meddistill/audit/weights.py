"""Can it be told from a model whether a patient was among those that its weights were trained on?

The attacker holds the model, images of other patients, and a candidate's image and label. Three scores, each larger for
likelier members:

- ``sureness``: how sure the model is of the candidate's recorded class, against others of the class (as Yeom et al.
  2018, arXiv:1709.01604, do by the loss).
- ``likelihood``, ``ratio``: how much surer than references of the same network that did not see him
  (:mod:`meddistill.audit.references`).

The references are trained by this project's protocol, whatever way the model was trained or compressed: an attacker who
repeats that way is stronger.
"""

from collections.abc import Mapping

from meddistill.audit.case import ModelCase, Side
from meddistill.audit.finding import Finding
from meddistill.audit.references import Attacked, Scores, judged, scores_beside, train_references

NAME, ASKS = "membership", "who was among the patients that the weights were trained on"
SCORES = ("sureness", "likelihood", "ratio")


def prepare(case: ModelCase) -> Attacked:
    """Train references on halves of all patients, and one network on all members; the model is asked as it is."""
    with case.progress.stage("training to attack", case.effort.references + 1) as stage:
        return Attacked(case, (case.params,), *train_references(case, stage))


def attack(attacked: Attacked, side: Side) -> dict[str, Scores]:
    """Each patient's scores by name ``(patients,)``; ``direct`` is the likelihood for a network trained on members."""
    people = attacked.case.people(side)
    return {name: people.mean(scores) for name, scores in scores_beside(attacked, people, attacked.seen[side]).items()}


def judge(members: Mapping[str, Scores], control: Mapping[str, Scores], case: ModelCase) -> Finding:
    """The worst outcome of the three scores, and what the model says of itself."""
    return judged(NAME, ASKS, SCORES, members, control, case, {"saw": case.saw})
