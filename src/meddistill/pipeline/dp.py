"""A run under differential privacy: the patients are looked at once, under noise, and then put out of reach.

:func:`protect` is given the patients and returns what distilling may know. The run then goes on with
:func:`nobody` in the place of the training images. The run folder keeps a digest of what was released. Once
matching has begun, no run goes on without that release or from another: the card states the epsilon of one.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch

from meddistill.cohort.prepare import Prepared
from meddistill.distill.loop import Matching
from meddistill.distill.matching.released import ReleasedMeans
from meddistill.distill.methods import Method, find
from meddistill.nets.convnet import ConvNet
from meddistill.package.types import Look
from meddistill.package.types import Privacy as Statement
from meddistill.pipeline.folder import RunFolder, filling
from meddistill.pipeline.plan import Plan, unflipped
from meddistill.pipeline.teach import trajectory_store
from meddistill.privacy.accountant import Event
from meddistill.privacy.patients import Patients, patients_of
from meddistill.privacy.sgd import TRAINING, Budget, NoisyPlan, budget, kept_counts, shards, train_noisily
from meddistill.privacy.statistics import Looks, Release, load_release, release
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import write_atomic
from meddistill.runtime.progress import Progress
from meddistill.teachers.images import LabelledImages
from meddistill.teachers.store import TrajectoryStore

Unit = Literal["patient", "image"]

COUNTS = "counts.json"  # beside the teachers
OUTSIDE = (
    "names of the classes, size, grey or colour and bits of the images, and that there are enough images of each class",
    "which patients stand in the training split, and which images were refused or left out as leaks or duplicates",
    "scores on validation and test images, whose patients are not in the training split; nothing else is used of those",
    "settings that the sender chose after seeing other results on these patients, and any other release about them",
)
PUBLIC_START = (
    "the start images, which the sender says are public: whether they derive from these patients is not known here"
)


@dataclass(frozen=True)
class Protected:
    """What distilling may know: what it matches, by which method, from where on, and what the card states of it."""

    matching: Matching
    method: Method
    window: tuple[int, int]
    statement: Statement


def protect(
    plan: Plan,
    network: ConvNet,
    patients: Patients,
    unit: Unit,
    folder: RunFolder,
    teachers: Path,
    identity: str,
    progress: Progress,
) -> Protected:
    """Look at the patients by the plan's route, unless the folder holds what an earlier, interrupted run has seen."""
    if patients.count > 0.1 / plan.privacy.delta:
        progress.warn(
            f"a delta of {plan.privacy.delta:g} is large for {patients.count} patients: {_smaller(patients.count)}"
        )
    shell = nobody(patients.images)
    if plan.privacy.route == "statistics":
        looks, seen = _statistics(plan, network, patients, folder, progress)
        noise = [event.noise_multiplier for event in seen.events]
        folder.events.write("released", epsilon=seen.epsilon, delta=seen.delta, noise=noise)
        method = replace(find(plan.method), objective=ReleasedMeans(looks, seen))
        statement = _statement(plan, unit, Release.accountant, seen.events, 1)
        return Protected(Matching(network, None, 0, shell), method, (0, 0), statement)
    noisy, spending = noisy_teachers(plan)
    with filling(teachers, identity, patients.images.device.type):
        store = _teach(plan, network, noisy, spending, patients, folder, teachers, progress)
    groups = plan.teachers.count if plan.privacy.shards else 1
    statement = _statement(plan, unit, Budget.accountant, spending.history, groups)
    # Where segments may start is not asked of validation images: anywhere.
    window = (0, noisy.snapshots - 1 - plan.matching.segment)
    matching = Matching(network, store, plan.teachers.count, shell, plan.smoothed)
    return Protected(matching, find(plan.method), window, statement)


def require_small_delta(plan: Plan, prepared: Prepared) -> None:
    """Raises :class:`InputError` for a delta that is met by showing one of the patients, whatever epsilon is."""
    delta, patients = plan.privacy.delta, len(np.unique(_owners(prepared)))
    if plan.privacy.epsilon and delta * patients >= 1:
        raise InputError(
            f"a delta of {delta:g} for {patients} patients promises nothing: whoever shows one of them outright meets "
            f"it; {_smaller(patients)}"
        )


def _smaller(patients: int) -> str:
    return f"give a --delta of at most {0.1 / patients:.1g}"


def unit_of(prepared: Prepared) -> Unit:
    """Whom a guarantee can be about: images, each for itself, unless every image has a patient."""
    return "image" if prepared.fingerprint.without_patient else "patient"


def train_patients(prepared: Prepared, train: LabelledImages) -> Patients:
    """Whose the training images are."""
    return patients_of(train, _owners(prepared))


def whose(prepared: Prepared) -> dict[str, str]:
    """What a run's identity needs of the patients: the unit, and which training images are of one, by no name."""
    _, first, group = np.unique(_owners(prepared), return_index=True, return_inverse=True)
    shared = first[group].astype("<i8").tobytes()
    return {"unit": unit_of(prepared), "patients": hashlib.sha256(shared).hexdigest()}


def _owners(prepared: Prepared) -> npt.NDArray[np.int64]:
    rows = prepared.cohort.indices("train")
    return prepared.people[rows] if unit_of(prepared) == "patient" else np.arange(len(rows))


def nobody(images: LabelledImages) -> LabelledImages:
    """The same without a single image."""
    return images.subset(torch.arange(0))


def looks_of(plan: Plan, network: ConvNet) -> Looks:
    """Through what the plan's route ``statistics`` looks at patients."""
    return Looks(network, plan.augmentation, plan.seed, plan.privacy.looks)


def noisy_plan(plan: Plan) -> NoisyPlan:
    """How the plan's teachers are trained under noise."""
    part = plan.privacy
    return NoisyPlan(
        steps=plan.teachers.steps,
        snapshot_every=plan.teachers.snapshot_every,
        learning_rate=part.learning_rate,
        clip=part.clip,
        sampling_rate=part.sampling_rate,
        views=part.views,
        augmentation=plan.augmentation,
    )


def noisy_teachers(plan: Plan) -> tuple[NoisyPlan, Budget]:
    """How the plan's teachers are trained, and with how much noise. Raises :class:`InputError` without Opacus."""
    part, noisy = plan.privacy, noisy_plan(plan)
    return noisy, budget(noisy, part.epsilon, part.delta, 1 if part.shards else plan.teachers.count)


def noisy_identity(plan: Plan) -> dict[str, Any]:
    """The settings that make two plans' noised teachers the same; more teachers are another release."""
    return {"privacy": asdict(plan.privacy), "teachers": asdict(plan.teachers)} | unflipped(plan.flip)


def _statistics(
    plan: Plan, network: ConvNet, patients: Patients, folder: RunFolder, progress: Progress
) -> tuple[Looks, Release]:
    part, path, looks = plan.privacy, folder.release, looks_of(plan, network)
    _require_first(folder, path.exists())
    if not path.exists():
        release(patients, looks, part.epsilon, part.delta, progress=progress).save(path)
    seen = load_release(path)
    if (seen.epsilon, seen.delta, seen.looks) != (part.epsilon, part.delta, part.looks):
        raise InputError(
            f"the release {path} was made for epsilon {seen.epsilon:g}, delta {seen.delta:g} and {seen.looks} looks, "
            f"not for {part.epsilon:g}, {part.delta:g} and {part.looks}: put the release of this run back"
        )
    _keep(folder, (path.read_bytes(),))
    return replace(looks, centre=seen.centre), seen


def _require_first(folder: RunFolder, there: bool) -> None:
    """Nobody is looked at twice by one run. ``there``: whether all is that the run has released.

    Matching, which leaves a checkpoint, begins after the release.
    """
    if (folder.released.exists() or folder.checkpoint.exists()) and not there:
        raise InputError(
            f"what the run in {folder.path} has released under noise is gone, and releasing anew would spend epsilon "
            "once more: put it back, or delete the folder and begin a new run, whose epsilon adds to that of this one"
        )


def _keep(folder: RunFolder, parts: Iterable[bytes]) -> None:
    """Mark the run as one that goes on from this release. Raises :class:`InputError` if it was another one."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    mark = json.dumps({"sha256": digest.hexdigest()}).encode()
    if not folder.released.exists():
        write_atomic(folder.released, mark)
    elif folder.released.read_bytes() != mark:
        raise InputError(
            f"the run in {folder.path} began from another noised release, and a package of two would state the epsilon "
            "of one: give the folder of teachers, or put back the release, that it began with"
        )


def _teach(
    plan: Plan,
    network: ConvNet,
    noisy: NoisyPlan,
    spending: Budget,
    patients: Patients,
    folder: RunFolder,
    place: Path,
    progress: Progress,
) -> TrajectoryStore:
    """The teachers that are missing; one that was interrupted is trained anew, and what it had seen is never used."""
    store, count = trajectory_store(place, plan, network), plan.teachers.count
    store.tidy()
    is_there = (place / COUNTS).exists() and all(store.is_complete(teacher) for teacher in range(count))
    _require_first(folder, is_there)
    counts = kept_counts(place / COUNTS, patients, spending.counting)
    groups = _kept_groups(place / "groups.safetensors", patients.count, count) if plan.privacy.shards else None
    with progress.stage("teaching", count * (noisy.snapshots - 1)) as stage:
        for teacher in range(count):
            if store.is_complete(teacher):
                stage.advance(noisy.snapshots - 1)
                continue
            own = patients if groups is None else patients.subset(groups == teacher)
            near = counts if groups is None else counts / count
            made = train_noisily(network, own, noisy, spending.training, near, plan.seed, teacher, stage=stage)
            store.save(teacher, made)
    told = (store.trajectory(teacher).numpy().tobytes() for teacher in range(count))
    _keep(folder, ((place / COUNTS).read_bytes(), *told))
    return store


def _kept_groups(path: Path, patients: int, count: int) -> torch.Tensor:
    """Which teacher each patient belongs to, the same whenever the run goes on."""
    if not path.exists():
        write_atomic(path, safetensors.torch.save({"groups": shards(patients, count)}))
    return safetensors.torch.load_file(path)["groups"]


def _statement(plan: Plan, unit: Unit, accountant: str, history: tuple[Event, ...], groups: int) -> Statement:
    # Counts are released of all patients together, teachers of each group.
    looks = tuple(Look(**vars(event), groups=groups if event.mechanism == TRAINING else 1) for event in history)
    return Statement(
        epsilon=plan.privacy.epsilon,
        delta=plan.privacy.delta,
        unit=unit,
        route=cast(Literal["statistics", "teachers"], plan.privacy.route),
        accountant=accountant,
        history=looks,
        outside=(*OUTSIDE, PUBLIC_START) if plan.start == "public" else OUTSIDE,
    )
