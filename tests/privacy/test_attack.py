"""The strongest attack on what is released: whether one patient took part, knowing all the rest.

What is found, with 99 % confidence, is a lower bound of epsilon: ln((TPR − δ) / FPR), of a threshold fixed beforehand.
It must not exceed what is claimed, and must exceed it where there is less noise than was claimed.
"""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from scipy.stats import beta

from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet
from meddistill.privacy.accountant import Event, spent
from meddistill.privacy.patients import Patients, patients_of
from meddistill.privacy.sgd import TRAINING, NoisyPlan, patient_slopes, train_noisily
from meddistill.privacy.statistics import (
    Looks,
    Release,
    contributions,
    fixed_normalisation,
    over_classes,
    release,
)
from meddistill.runtime.streams import numpy_stream
from meddistill.teachers.images import LabelledImages

DELTA, CONFIDENCE = 1e-5, 0.99
STILL = Augmentation(0, 0, 0, 0, 0, 0)


def least_epsilon(inside: torch.Tensor, outside: torch.Tensor, threshold: float) -> float:
    """By Clopper and Pearson's bounds of both rates."""
    found, mistaken = int((inside > threshold).sum()), int((outside > threshold).sum())
    each = (1 - CONFIDENCE) / 2
    lowest = float(beta.ppf(each, found, len(inside) - found + 1))
    highest = float(beta.ppf(1 - each, mistaken + 1, len(outside) - mistaken))
    return math.log(max(lowest - DELTA, 1e-12) / highest)


def cohort(people: int, network: ConvNet) -> Patients:
    rng = numpy_stream(4, "attack")
    pixels = torch.from_numpy(rng.integers(0, 256, (6, 1, network.size, network.size))).to(torch.uint8)
    images = LabelledImages(pixels, torch.arange(6) % 2, 255, 2, fixed_normalisation(1))
    chosen = torch.arange(people)
    return patients_of(images.subset(chosen), chosen.numpy())


def test_a_release_gives_no_more_than_it_claims():
    network, epsilon = ConvNet(4, 2, 1, 8, 2), 1.0
    looks = Looks(network, STILL, 0, 2)
    people = [cohort(count, network) for count in (6, 5)]

    def found(side: int, claimed: float) -> torch.Tensor:
        """How far 400 releases go in the direction of the sixth patient, in units of what they claim as noise."""
        return torch.stack([towards(release(people[side], looks, claimed, DELTA)) for _ in range(400)])

    def towards(seen: Release) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for event, vector, centre in zip(seen.events, seen.vectors, (None, seen.centre), strict=True):
            rows = torch.cat(list(contributions(people[0], replace(looks, centre=centre))))
            rows = over_classes(rows, 2) if centre is None else rows
            total += (vector - rows[:5].sum(0)) @ rows[5] / event.noise_multiplier**2
        return total * sum(event.noise_multiplier**-2 for event in seen.events) ** -0.5

    threshold = 1.5
    assert least_epsilon(found(0, epsilon), found(1, epsilon), threshold) <= epsilon
    # Claimed to be epsilon, and made for eight times as much.
    assert least_epsilon(found(0, 8 * epsilon), found(1, 8 * epsilon), threshold) > epsilon


TEACHER = NoisyPlan(
    steps=4, snapshot_every=1, learning_rate=0.5, clip=0.05, sampling_rate=0.5, views=1, augmentation=STILL
)


def test_a_noised_teacher_gives_no_more_than_it_claims():
    """The likelihood ratio of a whole trajectory, known every point of it, for one patient of two."""
    pytest.importorskip("opacus")
    network, epsilon, enough, little = ConvNet(4, 1, 1, 8, 2), 1.0, 4.7, 0.47
    assert spent([Event(TRAINING, enough, TEACHER.sampling_rate, TEACHER.steps)], DELTA) <= epsilon
    patients = [cohort(people, network) for people in (2, 1)]
    counts = torch.ones(2, dtype=torch.float64)

    def surprise(side: int, multiplier: float) -> torch.Tensor:
        """Of 200 teachers, how much likelier each is with the second patient than without."""
        found = [train_noisily(network, patients[side], TEACHER, multiplier, counts, 0, 0) for _ in range(200)]
        return torch.tensor([likelihood(network, patients[0], points.double(), multiplier) for points in found])

    assert least_epsilon(surprise(0, enough), surprise(1, enough), 0.0) <= epsilon
    assert least_epsilon(surprise(0, little), surprise(1, little), 2.0) > epsilon


def likelihood(network: ConvNet, patients: Patients, points: torch.Tensor, multiplier: float) -> float:
    """Log of the ratio over all steps, in each of which a patient takes part with probability one half."""
    total, spread = 0.0, multiplier * TEACHER.clip
    for before, after in pairwise(points):
        everyone = torch.arange(2)
        first, second = torch.cat(list(patient_slopes(network, before.float(), patients, everyone, TEACHER)))
        moved = (before - after) / TEACHER.learning_rate  # one patient of each class at one half: one is expected
        away = [-((moved - part) ** 2).sum() / (2 * spread**2) for part in (0 * first, first, second, first + second)]
        total += float(torch.logsumexp(torch.stack(away), 0) - torch.logsumexp(torch.stack(away[:2]), 0)) - math.log(2)
    return total
