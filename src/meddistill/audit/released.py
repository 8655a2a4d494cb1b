"""Does a differentially private run keep its epsilon where an attacker sees all that the proof lets him see?

A proof covers more than the package: the noised sum of the route ``statistics`` and every point of the noised teachers'
trajectories are counted as known to everybody, though they stay in the run folder. So a run with canaries
(:mod:`meddistill.pipeline.canaries`) is asked here by somebody who reads that folder, and knows every patient but for
the canaries' coins. Guesses are paid for as in :mod:`meddistill.audit.canaries`. What they show is set against the
epsilon on the card, and against nothing else: whatever comes out below it is as it should be.

- ``statistics``: what the known patients contribute is taken off both noised sums. What is left is noise and the
  contributions of those canaries that were in; how much of each there is follows as the linear estimate of least mean
  squared error.
- ``teachers``: between two points of its trajectory a teacher moves by a noised sum of the gradients of those who were
  drawn. What the known patients are expected to add is taken off; that others were drawn than expected is noise with
  the covariance of their gradients. A canary's score is the logarithm of the likelihood ratio of all movements, with
  and without it, if all this were normal and every step saw the parameters of the first point.

Each is made twice, for the noise that is claimed and for a tenth of it (``…, a tenth``): the first is the stronger one
where the claim holds, the second finds out a program that puts on too little.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from meddistill.audit.canaries import (
    ONE_SIDED,
    Prepared,
    Scored,
    attack,
    delta_of,
    finding,
    people_of,
    show,
    too_much,
)
from meddistill.audit.case import Case
from meddistill.audit.finding import Finding, Outcome
from meddistill.audit.people import People
from meddistill.audit.references import Scores
from meddistill.nets.convnet import ConvNet, parse
from meddistill.package.types import Privacy
from meddistill.pipeline.canaries import Canaries
from meddistill.pipeline.dp import COUNTS, looks_of, noisy_plan
from meddistill.pipeline.folder import RunFolder
from meddistill.pipeline.plan import Plan
from meddistill.pipeline.plan_file import from_toml
from meddistill.pipeline.teach import trajectory_store
from meddistill.privacy.noise import Source
from meddistill.privacy.patients import Patients, patients_of
from meddistill.privacy.sgd import TRAINING, NoisyPlan, load_counts, patient_slopes, sampling_rates
from meddistill.privacy.statistics import clean_sum, contributions, load_release, over_classes
from meddistill.runtime.errors import InputError
from meddistill.runtime.streams import numpy_stream
from meddistill.teachers.images import LabelledImages, pixels_of

__all__ = ["ASKS", "NAME", "attack", "judge", "prepare"]

NAME, ASKS = "release", "the least epsilon that the noised release can have, by planted records and all else known"
_KNOWN = 512  # known patients whose gradients are computed, and stand for all of them


def prepare(case: Case, canaries: Canaries, folder: RunFolder) -> Prepared:
    """Score every canary by what the run ``folder`` holds. Raises :class:`InputError` where it does not hold it."""
    plan = _plan(folder)
    network = parse(plan.network, channels=case.network.channels, size=case.network.size, classes=len(case.classes))
    planted = _patients(case, people_of(canaries, case), alone=True)
    if plan.privacy.route == "statistics":
        return Prepared(_in_sum(plan, network, planted, case, folder), canaries)
    return Prepared(_in_teachers(plan, network, planted, case, folder), canaries)


def judge(members: Scored, control: Scored, case: Case) -> Finding:
    """It fails if more is shown than the card states, and passes if so much could have been shown and was not."""
    stated, found = _stated(case).epsilon, show(members, control, delta_of(case))
    broken, able = too_much(found, case), found.largest > stated
    outcome: Outcome = "fail" if broken else "pass" if able else "inconclusive"
    few = f"{found.told.records} canaries can never show an epsilon above {found.largest:.2f}: {stated:g} is stated"
    warnings = (*broken, *((few,) * (not able)), ONE_SIDED)
    return finding(NAME, ASKS, outcome, found, members, control, case, warnings)


def _stated(case: Case) -> Privacy:
    stated = case.package.card.privacy
    if stated is None:
        raise InputError(f"{case.file} states no epsilon: there is no noised release to attack")
    return stated


def _plan(folder: RunFolder) -> Plan:
    try:
        return from_toml(folder.plan_file.read_text(), str(folder.plan_file))
    except OSError as error:
        raise InputError(
            f"cannot read the plan {folder.plan_file} ({error.strerror or error}): leave canaries.safetensors in the "
            "run folder, whose noised release is attacked as well"
        ) from None


def _in_sum(plan: Plan, network: ConvNet, planted: Patients, case: Case, folder: RunFolder) -> dict[str, Scores]:
    """How much more of each canary than a half is in the two noised sums ``(m,)``."""
    looks, seen, known = looks_of(plan, network), load_release(folder.release), _known(case)
    inner, along = torch.zeros(planted.count, planted.count).double(), torch.zeros(planted.count).double()
    for event, vector, centre in zip(seen.events, seen.vectors, (None, seen.centre), strict=True):
        through = replace(looks, centre=centre)
        rows, taken = torch.cat(list(contributions(planted, through))), clean_sum(known, through, case.progress)
        if centre is None:
            rows, taken = (over_classes(vectors, len(case.classes)) for vectors in (rows, taken))
        left = vector - taken - rows.sum(0) / 2
        inner += rows @ rows.T / event.noise_multiplier**2
        along += rows @ left / event.noise_multiplier**2

    def estimate(part: float) -> Scores:
        # A coin has the variance 1/4, and every direction of a sum that of its noise.
        spread = inner + torch.eye(len(inner), dtype=inner.dtype) * (4 * part**2)
        return np.asarray(torch.linalg.solve(spread, along).numpy())

    return {name: estimate(part) for name, part in _both("statistics")}


def _in_teachers(plan: Plan, network: ConvNet, planted: Patients, case: Case, folder: RunFolder) -> dict[str, Scores]:
    """How much likelier all movements of all teachers are with each canary than without ``(m,)``."""
    store, known = trajectory_store(folder.teachers, plan, network), _known(case)
    if not all(store.is_complete(teacher) for teacher in range(plan.teachers.count)):
        raise InputError(f"the noised teachers are not in {folder.teachers}: they were kept elsewhere (--teachers)")
    drawn = _drawn(plan, planted, known, case, folder)
    scores = {name: torch.zeros(planted.count, dtype=torch.float64) for name, _ in _both("teachers")}
    with case.progress.stage("attacking teachers", plan.teachers.count * (store.snapshots - 1)) as stage:
        for teacher in range(plan.teachers.count):
            for before, after in pairwise(store.trajectory(teacher)):
                found = drawn.movement(network, before.to(case.device), (before - after).double())
                for name, part in _both("teachers"):
                    scores[name] += found.ratios(part * drawn.noise)
                stage.advance()
    return {name: np.asarray(values.numpy()) for name, values in scores.items()}


def _both(name: str) -> tuple[tuple[str, float], ...]:
    return (name, 1.0), (f"{name}, a tenth", 0.1)


@dataclass(frozen=True)
class Movement:
    """A movement less what is expected of it, in units of one step's clipped sum.

    ``left``: ``(P,)``. ``planted``: what each canary adds to it ``(m, P)``. ``others``: rows ``(k, P)`` whose products
    sum up to the covariance of what known patients add. ``steps``: that it is made of.
    """

    left: Tensor
    planted: Tensor
    others: Tensor
    steps: int

    def ratios(self, noise: float) -> Tensor:
        """Logarithms of the likelihood ratios of all canaries ``(m,)``; ``noise``: standard deviation in one step."""
        variance = self.steps * noise**2
        # (variance · I + othersᵀ · others)⁻¹ left, by Woodbury's identity.
        inner = self.others @ self.others.T + torch.eye(len(self.others), dtype=self.left.dtype) * variance
        rest = self.left - self.others.T @ torch.linalg.solve(inner, self.others @ self.left)
        ratios: Tensor = self.planted @ rest / variance
        return ratios


@dataclass(frozen=True)
class Drawn:
    """Canaries, some of the known patients, how probably each is drawn in a step, and the plan of the teachers.

    ``stands_for``: how many known patients each of them stands for. ``scale``: from the length of a movement to that of
    the sum that caused it. ``noise``: the standard deviation in one step. ``views``: what views are drawn from.
    """

    planted: Patients
    planted_rates: Tensor
    known: Patients
    known_rates: Tensor
    stands_for: float
    scale: float
    noise: float
    plan: NoisyPlan
    views: Source

    def movement(self, network: ConvNet, params: Tensor, moved: Tensor) -> Movement:
        """From the point ``params`` on by ``moved`` ``(P,)``."""
        steps, stands_for = self.plan.snapshot_every, self.plan.snapshot_every * self.stands_for
        planted = self._slopes(network, params, self.planted) * (steps * self.planted_rates)[:, None]
        known = self._slopes(network, params, self.known)
        expected = (known * (stands_for * self.known_rates)[:, None]).sum(0)
        spread = (stands_for * self.known_rates * (1 - self.known_rates)).sqrt()
        left = moved * self.scale - expected - planted.sum(0) / 2
        return Movement(left, planted, known * spread[:, None], steps)

    def _slopes(self, network: ConvNet, params: Tensor, patients: Patients) -> Tensor:
        everyone = torch.arange(patients.count)
        return torch.cat(list(patient_slopes(network, params, patients, everyone, self.plan, self.views)))


def _drawn(plan: Plan, planted: Patients, known: Patients, case: Case, folder: RunFolder) -> Drawn:
    """As the plan says, and the noised counts in the folder."""
    part, groups = plan.privacy, plan.teachers.count if plan.privacy.shards else 1
    counts = load_counts(folder.teachers / COUNTS) / groups
    known_rates, expected = sampling_rates(known, part.sampling_rate, counts)
    planted_rates, _ = sampling_rates(planted, part.sampling_rate, counts)
    draws = numpy_stream(case.seed, "released")
    chosen = torch.zeros(known.count, dtype=torch.bool)
    chosen[torch.from_numpy(draws.permutation(known.count)[:_KNOWN])] = True
    (training,) = (look for look in _stated(case).history if look.mechanism == TRAINING)
    return Drawn(
        planted=planted,
        planted_rates=planted_rates / groups,
        known=known.subset(chosen),
        known_rates=known_rates[chosen],
        stands_for=known.count / int(chosen.sum()) / groups,
        scale=expected / part.learning_rate,
        noise=training.noise_multiplier * part.clip,
        plan=noisy_plan(plan),
        views=draws.bytes,
    )


def _known(case: Case) -> Patients:
    """All members but for the canaries' own patients."""
    return _patients(case, case.members, alone=_stated(case).unit == "image")


def _patients(case: Case, people: People, *, alone: bool) -> Patients:
    """People as a run under differential privacy has them; ``alone``: every image as a patient of its own."""
    images = LabelledImages(
        pixels_of(people.pixels).to(case.device),
        torch.from_numpy(people.labels).to(case.device),
        people.peak,
        len(case.classes),
        case.normalisation,
    )
    return patients_of(images, np.arange(len(people.labels)) if alone else people.patient)
