"""The strongest attack on the release of statistics: whether one patient took part, knowing all the rest.

What is found, with 99 % confidence, is a lower bound of epsilon: ln((TPR − δ) / FPR), of a threshold fixed beforehand.
It must not exceed what is claimed, and must exceed it where there is less noise than was claimed.
"""

import math

import pytest
import torch
from scipy.stats import beta

from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet
from meddistill.privacy import statistics
from meddistill.privacy.patients import Patients, patients_of
from meddistill.privacy.statistics import Looks, Release, clean_sum, fixed_normalisation, release
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


def test_a_release_gives_no_more_than_it_claims(monkeypatch):
    network, epsilon = ConvNet(4, 2, 1, 8, 2), 1.0
    looks = Looks(network, STILL, 0, 2)
    sums = [clean_sum(cohort(people, network), looks) for people in (6, 5)]
    change = sums[0] - sums[1]
    assert float(change.norm()) == pytest.approx(1, abs=1e-5)

    def towards(side: int, claimed: float) -> torch.Tensor:
        """How far 600 releases go in the direction of the sixth patient, in units of what they claim as noise."""
        monkeypatch.setattr(statistics, "clean_sum", lambda *_: sums[side].clone())
        drawn = [release(cohort(6 - side, network), looks, claimed, DELTA) for _ in range(600)]
        scores = torch.stack([vector(one) for one in drawn]) @ change - float(sums[1] @ change)
        return scores / drawn[0].event.noise_multiplier

    threshold = 1.5
    assert least_epsilon(towards(0, epsilon), towards(1, epsilon), threshold) <= epsilon
    # Claimed to be epsilon, and made for eight times as much.
    assert least_epsilon(towards(0, 8 * epsilon), towards(1, 8 * epsilon), threshold) > epsilon


def vector(found: Release) -> torch.Tensor:
    """The noised sum, as noise was put on it."""
    looks = len(found.features)
    features = found.features.double().transpose(0, 1).flatten() * (0.9 / looks) ** 0.5
    return torch.cat([features, found.counts.double() * 0.1**0.5])
