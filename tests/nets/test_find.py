"""The networks besides the ConvNet: shapes, published sizes, gradients, and that a small set can be learned."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from meddistill.nets.convnet import ConvNet
from meddistill.nets.find import find
from meddistill.nets.params import leaves
from meddistill.runtime.errors import InputError
from meddistill.runtime.streams import stream
from meddistill.train.protocol import Protocol, synthetic_set, train_network

CONVNETS = ("convnet-d3-w8", "convnet-d3-w8-gn", "convnet-d3-w8-bn")
NARROW = ("resnet18-w4", "vgg11-w4", "alexnet-w8", "vit-d2-w16", "vit-d2-w16-mean", "resnet18-w4-affine", *CONVNETS)
pytestmark = pytest.mark.usefixtures("one_thread")


def named(name, channels=1, size=28, classes=3):
    return find(name, channels=channels, size=size, classes=classes)


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (3, 50), (1, 65)])
def test_shapes_and_that_images_do_not_see_each_other(name, channels, size):
    network = named(name, channels, size)
    params = network.init(stream(0, "init"))
    assert network.name == name
    assert tuple(param.shape for param in params) == network.shapes
    images = torch.randn(3, channels, size, size, generator=stream(0, "images"))
    logits = network.apply(params, images)
    assert logits.shape == (3, 3)
    assert network.features(params, images).shape[0] == 3
    torch.testing.assert_close(network.apply(params, images[1:2]), logits[1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "channels", "size", "classes", "parameters"),
    [
        ("convnet-d3-w128", 3, 32, 10, 320_010),  # dataset condensation, Zhao et al. 2021
        ("resnet18", 3, 224, 1000, 11_689_512),  # He et al. 2016, as commonly counted
        ("resnet18", 3, 32, 10, 11_173_962),  # its variant for CIFAR
        ("resnet18-strided", 3, 64, 1000, 11_689_512),  # on smaller images the same network
        ("vgg11", 3, 32, 10, 9_231_114),  # with norms and one linear layer, for CIFAR
        ("vit-d12-w192", 3, 224, 1000, 5_717_416),  # DeiT-Ti, Touvron et al. 2021
    ],
)
def test_the_number_of_parameters_is_the_published_one(name, channels, size, classes, parameters):
    assert sum(shape.numel() for shape in named(name, channels, size, classes).shapes) == parameters


def test_alexnet_has_the_layers_of_the_paper_of_dataset_condensation():
    convolutions = [(3, 128, 5), (128, 192, 5), (192, 256, 3), (256, 192, 3), (192, 192, 3)]
    counted = sum(outputs * (inputs * side**2 + 1) for inputs, outputs, side in convolutions)
    network = named("alexnet", 3, 32, 10)
    assert sum(shape.numel() for shape in network.shapes) == counted + 192 * 16 * 10 + 10


@pytest.mark.parametrize("name", NARROW)
def test_every_learned_parameter_has_a_gradient_and_every_pixel_counts(name):
    network = named(name)
    params = leaves(tuple(param.double() for param in network.init(stream(0, "init"))))
    images = torch.randn(4, 1, 28, 28, dtype=torch.float64, generator=stream(0, "x")).requires_grad_()
    loss = F.cross_entropy(network.apply_training(params, images), torch.tensor([0, 1, 2, 0]))
    learned = params[: len(params) - network.statistics]
    *slopes, by_image = torch.autograd.grad(loss, [*learned, images])
    # A bias before a norm of single channels is taken away again; every other parameter matters.
    idle = {place for place, (one, after) in enumerate(pairwise(learned)) if one.ndim == after.ndim == 1}
    assert all(bool(slope.abs().sum() > 0) for place, slope in enumerate(slopes) if place not in idle)
    assert all(bool(torch.isfinite(slope).all()) for slope in slopes)
    inside = by_image[:, :, 2:26, 2:26] if name.startswith("convnet") else by_image
    assert bool((inside.abs().amax((0, 1)) > 0).all())


@pytest.mark.parametrize("name", NARROW)
def test_the_same_generator_gives_the_same_parameters(name):
    first, again, other = (named(name).init(stream(seed, "init")) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("name", ["resnet18-w8", "vgg11-w8", "alexnet-w16", "vit-d2-w32", "convnet-d2-w8-gn"])
def test_the_protocol_trains_it(name):
    """Bright and dark images are told apart after some steps."""
    labels = torch.arange(16) % 2
    images = torch.randn(16, 1, 28, 28, generator=stream(0, "x")) * 0.3 + labels[:, None, None, None] * 2 - 1
    network = named(name, classes=2)
    params = train_network(network, synthetic_set(images, F.one_hot(labels).float()), Protocol(steps=60, epochs=0), 0)
    assert torch.equal(network.apply(params, images).argmax(1), labels)


@pytest.mark.parametrize("size", [65, 112])
def test_the_strided_resnet_is_the_one_of_large_images(size):
    usual, strided = named("resnet18-w4", 3, size), named("resnet18-w4-strided", 3, size)
    params = usual.init(stream(0, "init"))
    assert (strided.name, strided.shapes) == ("resnet18-w4-strided", usual.shapes)
    images = torch.randn(3, 3, size, size, generator=stream(0, "x"))
    torch.testing.assert_close(strided.apply(params, images), usual.apply(params, images))


@pytest.mark.parametrize("size", [33, 64])
def test_the_strided_resnet_takes_small_images_as_long_as_a_plane_is_left(size):
    network = named("resnet18-w4-strided", 1, size)
    params = leaves(network.init(stream(0, "init")))
    images = torch.randn(4, 1, size, size, generator=stream(0, "x"))
    loss = F.cross_entropy(network.apply(params, images), torch.tensor([0, 1, 2, 0]))
    assert all(bool((slope != 0).any()) for slope in torch.autograd.grad(loss, params))
    with pytest.raises(InputError, match=r"32 pixels are too small for it.*at least 33; take resnet18-w4$"):
        named("resnet18-w4-strided", 1, 32)


def test_a_resnet_wants_images_of_which_it_sees_something():
    network = named("resnet18-w4", 1, 9)
    params = leaves(network.init(stream(0, "init")))
    images = torch.randn(4, 1, 9, 9, generator=stream(0, "x"))
    loss = F.cross_entropy(network.apply(params, images), torch.tensor([0, 1, 2, 0]))
    assert all(bool((slope != 0).any()) for slope in torch.autograd.grad(loss, params))
    with pytest.raises(InputError, match=r"8 pixels are too small for it.*at least 9; take vgg11-w4$"):
        named("resnet18-w4", 1, 8)
    assert named("vgg11-w4", 1, 8).size == named("resnet18-w4-affine", 1, 8).size == 8


def test_batch_norm_learns_with_the_batch_and_answers_with_what_it_measured():
    network = named("convnet-d2-w8-bn", classes=2)
    assert isinstance(network, ConvNet)
    params = tuple(param.double() for param in network.init(stream(0, "init")))
    images = torch.randn(64, 1, 28, 28, dtype=torch.float64, generator=stream(0, "x")) * 3 + 1
    settled = network.settle(params, images)
    weight, bias = params[:2]
    seen = F.conv2d(images, weight, bias, padding=1)
    torch.testing.assert_close(settled[10], seen.mean((0, 2, 3)))
    torch.testing.assert_close(settled[11], seen.var((0, 2, 3)))
    # The batch that was measured gets nearly the logits that it had while it was learned from.
    torch.testing.assert_close(
        network.apply(settled, images), network.apply_training(params, images), rtol=1e-3, atol=1e-3
    )
    assert not torch.allclose(network.apply(params, images), network.apply(settled, images), atol=0.05)


def test_a_trained_network_with_batch_norm_has_statistics_of_its_images():
    network = named("convnet-d2-w8-bn", classes=2)
    images = torch.randn(8, 1, 28, 28, generator=stream(0, "x")) + 5
    labels = F.one_hot(torch.arange(8) % 2).float()
    params = train_network(network, synthetic_set(images, labels), Protocol(steps=2, epochs=0), 0)
    assert bool((params[10].abs() > 0.1).any())
    assert bool((params[11] != 1).all())


@pytest.mark.parametrize(
    "name", ["resnet", "resnet18-", "resnet18-w0", "vgg16", "vit-d2", "vit-d2-w100", "vit-d99-w64", "alexnet-w999", "x"]
)
def test_unknown_names_and_impossible_sizes_are_refused(name):
    with pytest.raises(InputError, match="network"):
        named(name)
