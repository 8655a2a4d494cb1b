"""Teachers under differential privacy: a step sees some of the patients, clips each one's gradient, adds noise.

This is DP-SGD (Abadi et al. 2016, arXiv 1607.00133, algorithm 1) with the patient in the place of the example: in a
step each patient takes part with a probability of at most ``sampling_rate``, independently of all others (Poisson
sampling), and contributes the gradient of the mean loss on some augmented images of the patient's own, shortened to
``clip``. Noise of ``noise_multiplier · clip`` goes on the sum. All points of the trajectory follow from the noised
sums, so that all may be known: the accountant covers every iterate, not only the last.

The sum is divided by the *expected* number of patients in a step and classes are balanced by their rates; both follow
from one noised count of the patients of each class, which is a release of its own in the history.

Opacus computes gradients of modules, example by example. Teachers here are functions of their parameters, and a patient
may have several images, so gradients come from this project's own stacked networks (one copy a patient); of Opacus
only the accountant is used.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet
from meddistill.nets.gradient import gradient
from meddistill.nets.params import flatten, sound, unflatten
from meddistill.privacy import noise
from meddistill.privacy.accountant import RENYI, Event, gaussian_noise, noise_for
from meddistill.privacy.patients import Patients, clipped
from meddistill.runtime.errors import InputError, MeddistillError
from meddistill.runtime.files import write_atomic
from meddistill.runtime.progress import Stage
from meddistill.runtime.streams import stream

# The noise on counts is so many times what the whole budget would allow: they take a sixteenth of it.
_COUNT_NOISE = 4.0
_AT_ONCE = 32
COUNTING = "Gaussian mechanism on the numbers of patients by class"
TRAINING = "Poisson-subsampled Gaussian mechanism on the sum of clipped gradients (DP-SGD)"


@dataclass(frozen=True)
class NoisyPlan:
    """How a teacher is trained. ``views``: augmented images of a patient in a step; the rest as in the module."""

    steps: int
    snapshot_every: int
    learning_rate: float
    clip: float
    sampling_rate: float
    views: int
    augmentation: Augmentation = Augmentation()  # noqa: RUF009 (frozen)

    @property
    def snapshots(self) -> int:
        """Points of a trajectory."""
        return self.steps // self.snapshot_every + 1


@dataclass(frozen=True)
class Budget:
    """The noise of both mechanisms, and all that is looked at: ``history``."""

    counting: float
    training: float
    history: tuple[Event, ...]

    accountant = RENYI


def budget(plan: NoisyPlan, epsilon: float, delta: float, teachers: int) -> Budget:
    """The least noise with which so many teachers that see the same patients are (ε, δ)-differentially private.

    Teachers with patients of their own count as one (parallel composition).
    """
    counting = _COUNT_NOISE * gaussian_noise(epsilon, delta)

    def history(training: float) -> tuple[Event, ...]:
        return (
            Event(COUNTING, counting),
            Event(TRAINING, training, plan.sampling_rate, plan.steps * teachers),
        )

    training = noise_for(history, epsilon, delta)
    return Budget(counting, training, history(training))


def noised_counts(patients: Patients, multiplier: float, source: noise.Source = noise.SYSTEM) -> Tensor:
    """About how many patients each class has ``(classes,)``, float64; a patient of two classes counts half in each.

    One patient changes the clean counts by a vector of length 1 at most.
    """
    classes = patients.images.classes
    share = 1 / torch.bincount(patients.patient).double()[patients.patient]
    clean = torch.zeros(classes, dtype=torch.float64).index_add(0, patients.images.labels.cpu(), share)
    return clean + torch.from_numpy(noise.normal(classes, source)) * multiplier


def kept_counts(path: Path, patients: Patients, multiplier: float) -> Tensor:
    """The noised counts in the file, or new ones that are kept there: noise is never drawn twice."""
    if not path.exists():
        write_atomic(path, json.dumps(noised_counts(patients, multiplier).tolist()).encode())
    return load_counts(path)


def load_counts(path: Path) -> Tensor:
    """Noised counts that were kept. Raises :class:`InputError` for another file."""
    try:
        return torch.tensor(json.loads(path.read_text()), dtype=torch.float64)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"cannot read the noised counts {path} ({error}): start in a new folder") from None


def shards(count: int, groups: int, source: noise.Source = noise.SYSTEM) -> Tensor:
    """Which of the groups each patient is in ``(count,)``: drawn for each alone, so that it depends on nobody else."""
    return torch.from_numpy(noise.uniform(count, source) * groups).long()


def train_noisily(
    network: ConvNet,
    patients: Patients,
    plan: NoisyPlan,
    noise_multiplier: float,
    counts: Tensor,
    seed: int,
    teacher: int,
    *,
    source: noise.Source = noise.SYSTEM,
    stage: Stage | None = None,
) -> Tensor:
    """The trajectory of a teacher ``(snapshots, P)`` float32 on the CPU; its first point follows from the seed.

    ``counts``: noised numbers of patients by class ``(classes,)``. Raises :class:`MeddistillError` if it diverges.
    """
    rates, expected = sampling_rates(patients, plan.sampling_rate, counts)
    params = flatten(network.init(stream(seed, "teacher", teacher, "init"))).to(patients.images.device)
    points = [params.cpu().clone()]
    for step in range(1, plan.steps // plan.snapshot_every * plan.snapshot_every + 1):
        chosen = torch.from_numpy(noise.uniform(patients.count, source) < rates.numpy()).nonzero().flatten()
        total = clean_step(network, params, patients, chosen, plan, source)
        total += torch.from_numpy(noise.normal(len(total), source)) * (noise_multiplier * plan.clip)
        params = params - plan.learning_rate / expected * total.to(params)
        if not sound(params).all():
            raise MeddistillError(
                f"the noised teacher diverged in step {step}: lower privacy.learning_rate in the plan"
            )
        if step % plan.snapshot_every == 0:
            points.append(params.cpu().clone())
            if stage is not None:
                stage.advance()
    return torch.stack(points)


def sampling_rates(patients: Patients, highest: float, counts: Tensor) -> tuple[Tensor, float]:
    """Each patient's probability to take part in a step ``(count,)``, and how many are expected to, of ``counts``.

    The rarest class has the ``highest``, others as much less as they are more frequent; a patient of several classes
    the mean of theirs. The rate of a patient follows from the patient's own labels and the noised counts.
    """
    safe = counts.clamp_min(1.0)
    by_class = highest * safe.min() / safe
    owners, labels = patients.patient, patients.images.labels.cpu()
    total = torch.zeros(patients.count, dtype=torch.float64).index_add(0, owners, by_class[labels])
    return total / torch.bincount(owners), max(1.0, float((by_class * safe).sum()))


def clean_step(
    network: ConvNet,
    params: Tensor,
    patients: Patients,
    chosen: Tensor,
    plan: NoisyPlan,
    source: noise.Source = noise.SYSTEM,
) -> Tensor:
    """What noise is put on: the sum ``(P,)``, float64 on the CPU, of the clipped gradients of the ``chosen`` patients.

    A patient more or less among them changes it by a vector of length ``clip`` at most.
    """
    total = torch.zeros(len(params), dtype=torch.float64)
    for slopes in patient_slopes(network, params, patients, chosen, plan, source):
        total += slopes.sum(0)
    return total


def patient_slopes(
    network: ConvNet,
    params: Tensor,
    patients: Patients,
    chosen: Tensor,
    plan: NoisyPlan,
    source: noise.Source = noise.SYSTEM,
) -> Iterator[Tensor]:
    """What each of the ``chosen`` patients adds to a step, some at a time: clipped gradients ``(g, P)``, float64.

    Views and their augmentation are drawn anew in every call. The gradients are on the CPU.
    """
    images = patients.images
    # Nobody at all may have been drawn.
    for group in chosen.split(_AT_ONCE) if len(chosen) else ():
        rows = _rows(patients, group, plan.views, source)
        numbers = torch.from_numpy(noise.uniform(7 * rows.numel(), source)).float().view(7, -1)
        inputs = plan.augmentation.of(numbers).apply(images.inputs(rows.flatten()))
        labels = F.one_hot(images.labels[rows.flatten().to(images.device)], images.classes).to(inputs.dtype)
        copies = tuple(p.expand(len(group), *p.shape) for p in unflatten(params, network.shapes))
        shape = (len(group), plan.views)
        slopes = gradient(network, copies, inputs.unflatten(0, shape), labels.unflatten(0, shape))
        yield clipped(torch.cat([slope.flatten(1) for slope in slopes], 1).cpu().double(), plan.clip)


def _rows(patients: Patients, group: Tensor, views: int, source: noise.Source) -> Tensor:
    """For each patient of the group, rows ``(g, views)`` of some of the patient's images, with replacement."""
    order = torch.argsort(patients.patient, stable=True)
    sizes = torch.bincount(patients.patient)
    begins = sizes.cumsum(0) - sizes
    places = torch.from_numpy(noise.uniform(len(group) * views, source)).view(-1, views)
    return order[begins[group][:, None] + (places * sizes[group][:, None]).long()]
