"""Training under the protocol: how many steps, always the same result, and better than chance."""

import numpy as np
import pytest
import torch

from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import parse
from meddistill.nets.find import find
from meddistill.runtime.errors import MeddistillError
from meddistill.runtime.streams import stream
from meddistill.teachers.images import LabelledImages, Normalisation
from meddistill.train.baselines import random_real
from meddistill.train.metrics import measure
from meddistill.train.protocol import (
    Protocol,
    _rows,
    probabilities,
    protocol_for,
    real_set,
    synthetic_set,
    train_network,
)
from meddistill.train.received import received

pytestmark = pytest.mark.usefixtures("one_thread")
NETWORK = parse("convnet-d1-w8", channels=1, size=8, classes=2)
SHORT = Protocol(steps=40, epochs=0, batch=8, augmentation=Augmentation(flip=0, rotate=0, shift=0, scale=0))


@pytest.fixture
def images() -> LabelledImages:
    """Class 1 has stripes, class 0 has none."""
    labels = torch.arange(60) % 2
    noise = torch.randint(0, 100, (60, 1, 8, 8), generator=stream(1, "test"))
    stripes = (torch.arange(8) % 4 // 2 * 120).expand(60, 1, 8, 8)
    pixels = noise + torch.where(labels.view(-1, 1, 1, 1) == 1, stripes, 60)
    return LabelledImages(pixels.to(torch.uint8), labels, 255, 2, Normalisation((0.4,), (0.2,)))


@pytest.mark.parametrize(("count", "steps"), [(2, 300), (64, 300), (2400, 300), (2401, 301), (4708, 589)])
def test_steps_for(count, steps):
    assert Protocol().steps_for(count) == steps


@pytest.mark.parametrize(
    ("name", "version", "rate"),
    [
        ("convnet-d3-w32", "1", 0.03),
        ("convnet-d3-w32", "2", 0.03),
        ("resnet18-w16", "1", 0.03),
        ("resnet18", "2", 0.01),
        ("vgg11-w16", "2", 0.01),
        ("vit", "2", 0.03),
        ("convnet-d3-w32", "2-tutored", 0.03),
        ("resnet18", "2-tutored", 0.03),
        ("vgg11-w16", "2-tutored", 0.01),
    ],
)
def test_the_rate_is_that_of_the_network_and_the_version(name, version, rate):
    network = find(name, channels=1, size=16, classes=2)
    assert protocol_for(network, version) == Protocol(learning_rate=rate)


def test_an_epoch_drops_a_last_smaller_batch_but_not_an_only_one():
    rows = _rows(10, 4, torch.Generator().manual_seed(0))
    drawn = [next(rows) for _ in range(4)]
    assert [len(batch) for batch in drawn] == [4, 4, 4, 4]
    assert len(set(torch.cat(drawn[:2]).tolist())) == 8
    assert drawn[0].tolist() != drawn[2].tolist()
    small = _rows(3, 4, torch.Generator().manual_seed(0))
    assert sorted(next(small).tolist()) == [0, 1, 2]


def test_training_is_a_function_of_its_seed(images):
    first, again, other = (train_network(NETWORK, real_set(images), SHORT, seed) for seed in (4, 4, 5))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not any(param.requires_grad for param in first)


def test_training_does_not_touch_the_global_random_state(images):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train_network(NETWORK, real_set(images), SHORT, 0)
    assert torch.equal(torch.rand(1), expected)


def test_training_learns_and_the_rate_falls_to_zero(images):
    params = train_network(NETWORK, real_set(images.subset(torch.arange(40))), SHORT, 0)
    held_out = images.subset(torch.arange(40, 60))
    found = probabilities(NETWORK, params, held_out)
    assert found.shape == (20, 2)
    assert found.sum(1) == pytest.approx(np.ones(20))
    assert measure(found, held_out.labels.numpy()).balanced_accuracy > 0.9


def test_soft_labels_are_learned_as_they_are(images):
    """Everything labelled (0.8, 0.2): the network comes to say so, whatever it is shown."""
    soft = synthetic_set(images.inputs(torch.arange(8)), torch.tensor([[0.8, 0.2]]).expand(8, 2))
    params = train_network(NETWORK, soft, Protocol(steps=200, epochs=0, learning_rate=0.05), 0)
    assert probabilities(NETWORK, params, images)[:, 0] == pytest.approx(0.8, abs=0.1)


def test_many_images_are_scored_in_order(images):
    """More than one block of images."""
    many = images.subset(torch.arange(60).repeat(5))
    params = train_network(NETWORK, real_set(images), SHORT, 0)
    assert probabilities(NETWORK, params, many) == pytest.approx(
        np.tile(probabilities(NETWORK, params, images), (5, 1))
    )


@pytest.mark.parametrize(("size", "most"), [(8, 64), (64, 64), (224, 5), (1024, 1)])
def test_the_larger_images_are_the_fewer_are_scored_at_once(size, most, monkeypatch):
    """What a network holds of them grows with both; every process that scores holds it."""
    network = parse("convnet-d1-w1", channels=1, size=size, classes=2)
    images = LabelledImages(torch.zeros(130, 1, 1, 1), torch.zeros(130), 255, 2, Normalisation((0,), (1,)))
    seen = []

    def apply(self, params, inputs):
        seen.append(len(inputs))
        return torch.zeros(len(inputs), 2)

    monkeypatch.setattr(type(network), "apply", apply)
    assert probabilities(network, (), images).shape == (130, 2)
    assert max(seen) == most and sum(seen) == 130


def test_diverged_training_is_an_error(images):
    extreme = synthetic_set(images.inputs(torch.arange(4)), torch.full((4, 2), 1e30))
    with pytest.raises(MeddistillError, match="diverged"):
        train_network(NETWORK, extreme, SHORT, 0)


def test_received_images_are_normalised(images):
    pixels = np.full((2, 1, 8, 8), 0.6, np.float32)
    data = received(pixels, np.eye(2, dtype=np.float32), images.normalisation, torch.device("cpu"))
    assert data.inputs(torch.tensor([1])).numpy() == pytest.approx(np.ones((1, 1, 8, 8)))
    assert data.labels.tolist() == [[1, 0], [0, 1]]


def test_random_images_are_so_many_of_each_class_and_never_the_same_twice(images):
    chosen = random_real(images, 5, seed=1)
    assert chosen.labels.tolist() == [0] * 5 + [1] * 5
    assert len({row.numpy().tobytes() for row in chosen.pixels}) == 10
    assert torch.equal(chosen.pixels, random_real(images, 5, seed=1).pixels)
    assert not torch.equal(chosen.pixels, random_real(images, 5, seed=2).pixels)


def test_random_images_in_all_are_of_every_class_about_as_many(images):
    chosen = [random_real(images, 2, seed, more=1).labels.bincount().tolist() for seed in range(8)]
    assert {tuple(counts) for counts in chosen} == {(2, 3), (3, 2)}
    assert len(random_real(images, 0, 1, more=1)) == 1
