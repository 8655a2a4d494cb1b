import pytest
import torch
import torch.nn.functional as F

from meddistill.nets.convnet import ConvNet, parse
from meddistill.nets.params import flatten, leaves, unflatten
from meddistill.runtime.errors import InputError
from meddistill.runtime.streams import stream


@pytest.mark.parametrize(
    ("width", "depth", "channels", "size", "classes"), [(1, 1, 1, 2, 2), (4, 2, 3, 9, 5), (8, 3, 1, 28, 2)]
)
def test_logits_and_parameters_have_the_stated_shapes(width, depth, channels, size, classes):
    network = ConvNet(width, depth, channels, size, classes)
    params = network.init(stream(0, "init"))
    assert tuple(param.shape for param in params) == network.shapes
    assert sum(param.numel() for param in params) == network.parameters
    assert network.apply(params, torch.randn(6, channels, size, size)).shape == (6, classes)


def test_the_number_of_parameters_is_the_literatures():
    # Width 128, depth 3, 32x32 colour, 10 classes: 320,010, the ConvNet of dataset condensation.
    assert ConvNet(128, 3, 3, 32, 10).parameters == 320_010


def test_initial_parameters_follow_the_generator_alone():
    network = ConvNet(4, 2, 1, 8, 3)
    one, again, other = (flatten(network.init(stream(seed, "init"))) for seed in (1, 1, 2))
    torch.rand(3)  # the global generator has no part in it
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_initial_parameters_stay_within_one_over_root_fan_in():
    weight, bias, scale, shift, *_ = ConvNet(64, 1, 3, 8, 2).init(stream(0, "init"))
    bound = 27**-0.5
    assert weight.abs().max() <= bound
    assert bias.abs().max() <= bound
    assert weight.abs().max() > 0.95 * bound
    assert torch.equal(scale, torch.ones(64))
    assert torch.equal(shift, torch.zeros(64))


def test_the_network_is_that_of_instance_norm():
    network = ConvNet(5, 2, 2, 12, 3)
    params = tuple(torch.randn_like(p, dtype=torch.float64) for p in network.init(stream(0, "init")))
    images = torch.randn(4, 2, 12, 12, dtype=torch.float64)
    features = images
    for block in range(2):
        weight, bias, scale, shift = params[4 * block : 4 * block + 4]
        features = F.conv2d(features, weight, bias, padding=1)
        features = F.avg_pool2d(F.relu(F.instance_norm(features, weight=scale, bias=shift, eps=1e-5)), 2)
    expected = features.flatten(1) @ params[-2].T + params[-1]
    torch.testing.assert_close(network.apply(params, images), expected, rtol=1e-12, atol=1e-12)


def test_images_of_a_batch_do_not_see_each_other():
    network = ConvNet(4, 1, 1, 8, 2)
    params = network.init(stream(0, "init"))
    images = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(network.apply(params, images)[:2], network.apply(params, images[:2]))


def test_a_name_is_read_back():
    network = ConvNet(32, 3, 1, 28, 2)
    assert network.name == "convnet-d3-w32"
    assert parse(network.name, channels=1, size=28, classes=2) == network


@pytest.mark.parametrize("name", ["", "convnet", "resnet-18", "convnet-d3-w", "convnet-d3-w32 ", "ConvNet-d3-w32"])
def test_an_unknown_name_says_what_one_looks_like(name):
    with pytest.raises(InputError, match=r"expected convnet-dDEPTH-wWIDTH, for example convnet-d3-w32"):
        parse(name, channels=1, size=28, classes=2)


@pytest.mark.parametrize(
    "name", ["convnet-d0-w8", "convnet-d9-w8", "convnet-d2-w0", "convnet-d2-w1025", "convnet-d1-w" + "9" * 5000]
)
def test_widths_and_depths_have_bounds(name):
    with pytest.raises(InputError, match="width must be 1 to 1024 and depth 1 to 8"):
        parse(name, channels=1, size=512, classes=2)


def test_a_network_too_deep_for_its_images_says_how_deep_it_may_be():
    with pytest.raises(
        InputError, match="halves the image 4 times, which 9 pixels do not allow: use a depth of at most 3"
    ):
        parse("convnet-d4-w8", channels=1, size=9, classes=2)
    assert parse("convnet-d3-w8", channels=1, size=9, classes=2).shapes[-2] == (2, 8)


def test_flat_parameters_are_a_copy_and_come_back():
    params = ConvNet(3, 2, 1, 8, 2).init(stream(0, "init"))
    flat = flatten(params)
    back = unflatten(flat, tuple(param.shape for param in params))
    assert all(torch.equal(a, b) for a, b in zip(params, back, strict=True))
    flat.zero_()
    assert params[0].abs().sum() > 0
    assert back[0].abs().sum() == 0  # these are views


def test_leaves_have_a_gradient_of_their_own():
    param = torch.ones(2, requires_grad=True)
    (leaf,) = leaves((param * 2,))
    assert leaf.is_leaf
    assert leaf.requires_grad
    assert leaf.tolist() == [2, 2]


def test_many_networks_at_once_are_each_network_alone():
    network = ConvNet(4, 2, 2, 9, 3)
    many = [tuple(p.double() for p in network.init(stream(seed, "init"))) for seed in range(3)]
    images = torch.randn(3, 5, 2, 9, 9, dtype=torch.float64)
    stacked = tuple(torch.stack(group) for group in zip(*many, strict=True))
    alone = torch.stack([network.apply(params, seen) for params, seen in zip(many, images, strict=True)])
    torch.testing.assert_close(network.apply_many(stacked, images), alone, rtol=1e-12, atol=1e-12)
