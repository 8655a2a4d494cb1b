"""Pretraining: what moves, what does not, what is refused, and that something is learned without collapse."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meddistill.pretrain import look, loop
from meddistill.pretrain.loop import Schedule, encoder_of, pretrain
from meddistill.pretrain.mae import Mae
from meddistill.pretrain.objective import Side, perceptron, perceptron_parts, width_of
from meddistill.pretrain.store import load_encoder, save_encoder
from meddistill.pretrain.views import Views
from meddistill.pretrain.ways import WAYS
from meddistill.runtime.errors import InputError, MeddistillError
from meddistill.runtime.streams import stream

CONVNET, VIT = "convnet-d2-w8", "vit-d1-w16-mean"
SHORT = Schedule(steps=6, batch=16, learning_rate=1e-3, weight_decay=1e-4)
PRETRAINED = [name for name, way in WAYS.items() if way.objective is not None]


def network_for(way, named):
    return named(VIT if way == "mae" else CONVNET)


@pytest.mark.parametrize("way", PRETRAINED)
def test_a_seed_names_the_encoder_and_labels_do_not_matter(way, named, images):
    network, objective = network_for(way, named), WAYS[way].objective
    first = pretrain(objective, network, images, SHORT, 1)
    relabelled = replace(images, labels=images.labels.flip(0))
    again, other = pretrain(objective, network, relabelled, SHORT, 1), pretrain(objective, network, images, SHORT, 2)
    assert first.losses == again.losses != other.losses
    assert all(torch.equal(a, b) for a, b in zip(first.encoder, again.encoder, strict=True))
    assert tuple(param.shape for param in first.encoder) == network.shapes[:-2]
    assert not any(param.requires_grad for param in first.encoder)


@pytest.mark.parametrize("way", PRETRAINED)
def test_every_parameter_learns_and_the_target_gets_no_gradient(way, named, images):
    network, objective = network_for(way, named), WAYS[way].objective
    online = loop._first_side(objective, network, torch.device("cpu"), 0)
    target = loop._copy(online)
    for param in loop._tensors(target):
        param.requires_grad_()
    view, generator = loop._views(images, SHORT, stream(0, "views")), stream(0, "loss")
    objective.loss(online, target if objective.momentum else online, view, generator).backward()
    assert all(param.grad is None for param in loop._tensors(target))
    # A bias before a norm is taken away again.
    silent = [param for param in loop._tensors(online) if param.grad is None or not param.grad.abs().sum() > 1e-9]
    assert all(param.ndim == 1 for param in silent)


@pytest.mark.parametrize("way", PRETRAINED)
def test_the_loss_falls_and_features_do_not_collapse(way, named, images):
    network = network_for(way, named)
    schedule = Schedule(steps=60, batch=48, learning_rate=3e-3, weight_decay=1e-4)
    made = pretrain(WAYS[way].objective, network, images, schedule, 0)
    features = look.features_of(network, made.encoder, images)
    assert made.losses[-1] < made.losses[0]
    assert not look.is_collapsed(features)


def test_the_slow_average_follows_by_its_formula_and_ends_still():
    assert loop.keep(0.98, 0) == pytest.approx(0.98)
    assert loop.keep(0.98, 0.5) == pytest.approx(0.99)
    assert loop.keep(0.98, 1) == pytest.approx(1)
    slow, fast = [torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 6.0])]
    loop.follow(slow, fast, 0.75)
    assert slow[0].tolist() == [1.5, 3.0]


def test_the_rate_rises_then_falls_to_zero():
    schedule = replace(SHORT, steps=100, learning_rate=1.0)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[55] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 1e-3


@given(smallest=st.floats(0.05, 1), seed=st.integers(0, 2**31))
def test_a_view_is_a_square_within_the_image_of_at_least_the_least_area(smallest, seed):
    views = Views(smallest, replace(Views().change, rotate=0))
    affine = views.draw(20, stream(seed, "views")).affine
    corners = torch.tensor([[x, y, 1.0] for x in (-1, 1) for y in (-1, 1)])
    reached = torch.einsum("nij,cj->nci", affine, corners)
    assert reached.abs().max() <= 1 + 1e-5
    area = (affine[:, 0, 0] * affine[:, 1, 1]).abs()
    assert area.min() >= smallest - 1e-5
    assert area.max() <= 1 + 1e-5


def test_a_head_normalises_over_the_batch():
    parts = perceptron_parts(3, 4, 2, normed=True)
    params = tuple(part.draw(stream(0, "head")) for part in parts)
    outputs = perceptron(params, torch.randn(50, 3, generator=stream(0, "x")))
    torch.testing.assert_close(outputs.mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(outputs.var(0, unbiased=False), torch.ones(2), rtol=0, atol=1e-2)


def test_the_transformer_that_sees_all_patches_is_the_network_itself(named, images):
    network = named("vit-d2-w16-mean", channels=1, size=18)  # 18 pixels are padded to whole patches
    params = network.init(stream(0, "vit"))
    inputs = torch.randn(3, 1, 18, 18, generator=stream(0, "x"))
    tokens = network.encode(params, network.tokens(params, inputs))
    assert tokens.shape == (3, 1 + network.patches, 16)
    torch.testing.assert_close(network.features(params, inputs), tokens[:, 1:].mean(1))
    plain = replace(network, averages=False)
    torch.testing.assert_close(plain.features(params, inputs), tokens[:, 0])


def test_what_is_hidden_does_not_reach_the_encoder(named):
    """The loss depends on hidden patches as aims alone: the gradient into the drawing is zero."""
    network, objective = named("vit-d1-w16-mean"), Mae(width=16)
    online = loop._first_side(objective, network, torch.device("cpu"), 0)
    inputs = torch.randn(2, 1, 16, 16, generator=stream(0, "x"))
    order = torch.rand(2, network.patches, generator=stream(0, "loss")).argsort(1)
    shown = order[:, : round(network.patches * 0.25)]
    seen = []

    @dataclass(frozen=True)
    class Watched(type(network)):
        def encode(self, params, tokens):
            seen.append(tokens)
            return super().encode(params, tokens)

    watched = Watched(**{name: getattr(network, name) for name in network.__dataclass_fields__})
    objective.loss(Side(watched, online.encoder, online.heads), online, lambda: inputs, stream(0, "loss"))
    every = network.tokens(online.encoder, inputs)
    expected = torch.cat([every[:, :1], torch.stack([every[i, 1:][shown[i]] for i in range(2)])], 1)
    torch.testing.assert_close(seen[0], expected)


def test_networks_that_cannot_be_pretrained_are_refused(named, images):
    with pytest.raises(InputError, match="mae hides patches, which convnet-d2-w8 does not have"):
        pretrain(Mae(), named(CONVNET), images, SHORT, 0)
    with pytest.raises(InputError, match="convnet-d2-w8-bn has batch norm"):
        pretrain(WAYS["byol"].objective, named("convnet-d2-w8-bn"), images, SHORT, 0)
    with pytest.raises(MeddistillError, match="pretraining diverged"):
        pretrain(WAYS["simclr"].objective, named(CONVNET), images, replace(SHORT, learning_rate=1e20), 0)


def test_an_encoder_survives_the_disk_and_another_networks_is_refused(named, tmp_path):
    network = named(CONVNET)
    encoder = encoder_of(network, network.init(stream(0, "x")))
    size = save_encoder(tmp_path / "one.safetensors", encoder)
    assert size == (tmp_path / "one.safetensors").stat().st_size > 4 * sum(param.numel() for param in encoder)
    found = load_encoder(tmp_path / "one.safetensors", network)
    assert all(torch.equal(a, b) for a, b in zip(found, encoder, strict=True))
    with pytest.raises(InputError, match="not an encoder of convnet-d2-w4"):
        load_encoder(tmp_path / "one.safetensors", named("convnet-d2-w4"))
    (tmp_path / "one.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot read the encoder"):
        load_encoder(tmp_path / "one.safetensors", network)


def test_ranks_of_features_that_are_known():
    eye = torch.eye(6)
    axes = torch.cat([eye, -eye])
    assert look.effective_rank(axes + 100) == pytest.approx(6)
    assert look.effective_rank(axes[:, :1] * torch.ones(1, 6)) == pytest.approx(1)
    assert look.effective_rank(torch.ones(9, 4)) == 1
    shares = torch.tensor([0.5, 0.3, 0.2])
    expected = math.exp(-sum(float(p) * math.log(p) for p in shares))
    assert look.effective_rank(torch.cat([torch.diag(shares), -torch.diag(shares)])) == pytest.approx(expected)


def test_a_collapse_is_seen():
    noise = torch.randn(60, 8, generator=stream(0, "x"))
    assert not look.is_collapsed(noise + 1)
    assert look.is_collapsed(torch.ones(60, 8))
    assert look.is_collapsed(1e-5 * noise + 1)
    assert look.is_collapsed(noise[:, :1] * torch.ones(1, 8))
    assert look.spread(torch.zeros(3, 2)) == 0


def test_the_line_is_the_best_in_the_least_squares_with_classes_that_count_alike():
    from sklearn.linear_model import Ridge

    features, labels = torch.randn(40, 5, generator=stream(0, "x")), torch.tensor([0] * 28 + [1] * 9 + [2] * 3)
    features[:, 0] += labels
    found = look.read_by_line(features, labels, features, 3)
    inputs = ((features - features.mean(0)) / features.std(0)).double().numpy()
    inputs = torch.cat([torch.tensor(inputs), torch.ones(40, 1)], 1).numpy()
    weights = (1 / torch.bincount(labels))[labels].numpy()
    ridge = Ridge(alpha=1e-2, fit_intercept=False).fit(inputs, torch.eye(3)[labels].numpy(), sample_weight=weights)
    torch.testing.assert_close(found, torch.from_numpy(ridge.predict(inputs)).double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "width"), [("convnet-d2-w8", 128), ("vit-d1-w16", 16), ("resnet18-w4", 32)])
def test_the_width_is_that_of_the_features(named, name, width):
    assert width_of(named(name)) == width
