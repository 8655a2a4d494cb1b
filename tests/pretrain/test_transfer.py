"""Fine-tuning and probing: which parameters move, by whose protocol, and that a probe is one linear layer."""

import functools

import pytest
import torch
import torch.nn.functional as F

from meddistill.pretrain.look import features_of
from meddistill.pretrain.loop import encoder_of
from meddistill.pretrain.transfer import Frozen, fine_tune, measured, probe
from meddistill.runtime.streams import stream
from meddistill.train.baselines import random_real
from meddistill.train.protocol import Protocol, real_set, train_network

SHORT = Protocol(steps=12, epochs=0)
NETWORKS = ["convnet-d2-w8", "vit-d1-w16-mean", "resnet18-w4"]


@pytest.fixture(params=NETWORKS)
def network(request, named):
    return named(request.param)


@pytest.fixture
def encoder(network):
    return encoder_of(network, network.init(stream(7, "pretrained")))


def test_fine_tuning_is_training_that_starts_at_the_encoder_with_a_fresh_layer(network, encoder, images):
    before = [param.clone() for param in encoder]
    data = real_set(random_real(images, 3, 0))
    still = fine_tune(network, encoder, data, Protocol(steps=1, epochs=0, learning_rate=1e-12), 5)
    fresh = network.init(stream(5, "train", "init"))
    for found, expected in zip(still, [*encoder, *fresh[-2:]], strict=True):
        torch.testing.assert_close(found, expected)
    tuned = fine_tune(network, encoder, data, SHORT, 5)
    assert sum(not torch.equal(a, b) for a, b in zip(tuned, still, strict=True)) > len(tuned) / 2
    assert all(torch.equal(a, b) for a, b in zip(before, encoder, strict=True))  # shared by all cells


def test_fine_tuning_a_fresh_encoder_is_training_from_scratch(network, images):
    data = real_set(random_real(images, 3, 0))
    fresh = encoder_of(network, network.init(stream(5, "train", "init")))
    tuned, scratch = fine_tune(network, fresh, data, SHORT, 5), train_network(network, data, SHORT, 5)
    assert all(torch.equal(a, b) for a, b in zip(tuned, scratch, strict=True))


def test_a_probe_leaves_the_encoder_and_is_one_layer_on_standardised_features(network, encoder, images):
    data = real_set(random_real(images, 3, 0))
    seen = measured(network, encoder, images)
    params = probe(network, seen, data, SHORT, 5)
    assert all(torch.equal(a, b) for a, b in zip(params[:-2], encoder, strict=True))
    head = train_network(Frozen(network, seen), data, SHORT, 5)
    inputs = images.inputs(torch.arange(4))
    expected = Frozen(network, seen).apply(head, inputs)
    torch.testing.assert_close(network.apply(params, inputs), expected, rtol=1e-4, atol=1e-4)
    features = features_of(network, encoder, images)
    standardised = (features - features.mean(0)) / features.std(0).clamp_min(1e-6)
    torch.testing.assert_close(F.linear(standardised[:4], *head), expected, rtol=1e-4, atol=1e-4)


def test_a_probe_can_learn(images, named):
    network = named("convnet-d2-w8")
    seen = measured(network, encoder_of(network, network.init(stream(1, "x"))), images)
    params = probe(network, seen, real_set(images), Protocol(steps=150, epochs=0), 0)
    logits = network.apply(params, images.inputs(torch.arange(len(images))))
    assert (logits.argmax(1) == images.labels).double().mean() > 0.9


def test_features_that_never_change_do_not_make_numbers_that_are_none(images, named):
    network = named("convnet-d2-w8")
    dead = tuple(torch.zeros_like(param) for param in encoder_of(network, network.init(stream(1, "x"))))
    params = probe(network, measured(network, dead, images), real_set(images), SHORT, 0)
    assert all(bool(torch.isfinite(param).all()) for param in params)


def test_the_seed_names_the_outcome(network, encoder, images):
    data = real_set(random_real(images, 3, 0))
    for how in (
        functools.partial(fine_tune, network, encoder),
        functools.partial(probe, network, measured(network, encoder, images)),
    ):
        one, again, other = (how(data, SHORT, seed)[-2] for seed in (1, 1, 2))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
