"""Networks that learn by way of another one: what they are shown, and that it is the protocol otherwise."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import parse
from meddistill.nets.find import find
from meddistill.runtime.streams import derive, stream
from meddistill.teachers.images import LabelledImages, Normalisation
from meddistill.train.protocol import Protocol, protocol_for, real_set, synthetic_set, train_network
from meddistill.train.tutored import TUTORED_VERSION, Tutor, train_as, train_tutored

pytestmark = pytest.mark.usefixtures("one_thread")
TUTOR = parse("convnet-d1-w8", channels=1, size=9, classes=2)
PUPIL = find("resnet18-w4", channels=1, size=9, classes=2)
STILL = Augmentation(shift=0, scale=0, rotate=0, flip=0, brightness=0, contrast=0)
SHORT = Protocol(steps=30, epochs=0, batch=8, augmentation=STILL)


def striped(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of which every second has stripes, with their labels, and nothing else to be told by."""
    labels = torch.arange(count) % 2
    stripes = (torch.arange(9) % 4 // 2 * 2.0 - 1).expand(count, 1, 9, 9)
    noise = torch.randn((count, 1, 9, 9), generator=stream(seed, "noise"))
    return noise * 0.3 + stripes * labels.view(-1, 1, 1, 1), labels


@given(st.integers(1, 6), st.integers(0, 99))
def test_a_lesson_is_what_the_tutor_sees_in_mixtures_of_pairs(count, seed):
    params, (images, labels) = TUTOR.init(stream(seed, "init")), striped(count, seed)
    shown, told = Tutor(TUTOR, params).lesson(images, labels, torch.Generator().manual_seed(seed))
    again = torch.Generator().manual_seed(seed)
    partners, shares = torch.randperm(count, generator=again), torch.rand(count, 1, 1, 1, generator=again)
    for place in range(count):
        share, partner = float(shares[place]), int(partners[place])
        mixture = (1 - share) * images[place] + share * images[partner]
        torch.testing.assert_close(shown[place], mixture)
        torch.testing.assert_close(told[place], TUTOR.apply(params, mixture[None]).softmax(1)[0])
    assert not told.requires_grad


def test_a_pupil_learns_what_its_tutor_knows_whatever_the_labels_say():
    images, labels = striped(40, 1)
    params = train_network(TUTOR, synthetic_set(images, torch.eye(2)[labels]), replace(SHORT, steps=100), 0)
    wrong = synthetic_set(images, torch.eye(2)[1 - labels])
    pupil = train_network(PUPIL, wrong, replace(SHORT, steps=150), 0, lesson=Tutor(TUTOR, params).lesson)
    unseen, truth = striped(60, 2)
    with torch.no_grad():
        assert (PUPIL.apply(pupil, unseen).argmax(1) == truth).float().mean() > 0.9


def test_tutor_and_pupil_learn_by_the_protocol_each_at_its_rate():
    """Step by step, with an optimiser of PyTorch: a ResNet learns from labels at another rate, but not from a tutor.

    Of six images each is three times in a batch.
    """
    images, labels = striped(6, 3)
    data, seed = synthetic_set(images, torch.eye(2)[labels]), 5
    protocol = replace(protocol_for(PUPIL), steps=3, epochs=0, augmentation=STILL)
    assert protocol.learning_rate != 0.03
    found = train_tutored(PUPIL, TUTOR, data, protocol, seed)
    usual = Protocol(steps=3, epochs=0, learning_rate=0.03, augmentation=STILL)
    tutor = train_network(TUTOR, data, usual, derive(seed, "tutor"))
    params = [param.clone().requires_grad_() for param in PUPIL.init(stream(seed, "train", "init"))]
    draws = stream(seed, "train", "batches")
    optimiser = torch.optim.SGD(params, lr=0.03, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 3)
    for _ in range(3):
        batch = images[torch.randperm(18, generator=draws) % 6]
        torch.rand((7, 18), generator=draws)  # of an augmentation that changes nothing
        partners, shares = torch.randperm(18, generator=draws), torch.rand((18, 1, 1, 1), generator=draws)
        mixed = (1 - shares) * batch + shares * batch[partners]
        told = TUTOR.apply(tutor, mixed).softmax(1)
        optimiser.zero_grad()
        (-(told * PUPIL.apply(tuple(params), mixed).log_softmax(1)).sum(1).mean()).backward()
        optimiser.step()
        schedule.step()
    for one, other in zip(found, params, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-3, atol=1e-4)


def test_real_images_can_be_learned_by_way_of_another_network_too():
    """Few of them, as many, and more than fill a batch; the fewest are two."""
    labels = torch.arange(20) % 2
    images = LabelledImages(
        torch.randint(0, 256, (20, 1, 9, 9), generator=stream(1, "t"), dtype=torch.uint8),
        labels,
        255,
        2,
        Normalisation((0.5,), (0.2,)),
    )
    for count in (2, 16, 20):
        few = images.subset(torch.arange(count))
        drawn = synthetic_set(few.inputs(torch.arange(count)), torch.eye(2)[few.labels])
        found = (train_tutored(PUPIL, TUTOR, data, replace(SHORT, steps=2), 1) for data in (real_set(few), drawn))
        assert all(map(torch.equal, *found))


def test_a_version_says_which_way():
    images, labels = striped(6, 3)
    data = synthetic_set(images, torch.eye(2)[labels])
    tutored = train_as(TUTORED_VERSION, PUPIL, TUTOR.name, data, 1, flip=False)
    by_hand = train_tutored(PUPIL, TUTOR, data, protocol_for(PUPIL, flip=False), 1)
    plain = train_as("2", PUPIL, TUTOR.name, data, 1, flip=False)
    assert all(map(torch.equal, tutored, by_hand))
    assert all(map(torch.equal, plain, train_network(PUPIL, data, protocol_for(PUPIL, flip=False), 1)))
    with pytest.raises(KeyError):
        train_as("99-tutored", PUPIL, TUTOR.name, data, 1)
