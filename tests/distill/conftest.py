"""Forty tiny images with a pattern that a network can learn, and the trajectories of two teachers on them."""

import pytest
import torch

from meddistill.distill.loop_plan import LoopPlan
from meddistill.distill.segments import RandomSegments
from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet
from meddistill.runtime.streams import stream
from meddistill.teachers.images import LabelledImages, Normalisation
from meddistill.teachers.store import TrajectoryStore
from meddistill.teachers.train import TeacherPlan, train_teacher

MILD = Augmentation(shift=0.05, scale=0.05, rotate=5, flip=0, brightness=0.1, contrast=0.1)
# The least that goes through a warm-up and some iterations; tests change what they are about.
PLAN = LoopPlan(
    iterations=8,
    student_steps=1,
    batch=1,
    segments=RandomSegments(length=2, latest_start=6),
    segments_at_once=2,
    optimiser="adam",
    image_rate=0.1,
    label_rate=0.1,
    step_rate=0.1,
    decay=False,
    learn_labels=True,
    strategy="adjoint",
    augmentation=MILD,
    warm_up=2,
    real_images=8,
)


@pytest.fixture(scope="session")
def images():
    """40 images of 8×8: the left half is bright in class 0, the right half in class 1."""
    labels = torch.arange(40) % 2
    half = torch.tensor([[1.0] * 4 + [0.0] * 4]).expand(8, 8)
    pattern = torch.where(labels.view(-1, 1, 1, 1) == 0, half, half.flip(1))
    spread = torch.randn(40, 1, 8, 8, generator=stream(0, "pixels"))
    pixels = (128 + 40 * (pattern - 0.5) + 30 * spread).clamp(0, 255).to(torch.uint8)
    intensities = pixels / 255
    normalisation = Normalisation((float(intensities.mean()),), (float(intensities.std()),))
    return LabelledImages(pixels, labels, 255, 2, normalisation)


@pytest.fixture(scope="session")
def network():
    return ConvNet(width=4, depth=1, channels=1, size=8, classes=2)


@pytest.fixture(scope="session")
def store(images, network, tmp_path_factory):
    """Two teachers of 11 snapshots."""
    plan = TeacherPlan(2, 30, 3, 16, 0.1, "balanced", MILD)
    kept = TrajectoryStore(tmp_path_factory.mktemp("trajectories"), plan.snapshots, network.parameters)
    for teacher in range(plan.count):
        kept.save(teacher, train_teacher(network, images, plan, 0, teacher))
    return kept
