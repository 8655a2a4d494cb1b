"""The gradient that trains networks is that of automatic differentiation of each network by itself."""

from functools import partial

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from meddistill.nets.convnet import ConvNet
from meddistill.nets.gradient import Kernels, automatic_gradient, forget_compiled, gradient
from meddistill.nets.params import leaves


@given(st.integers(1, 3), st.integers(1, 6), st.sampled_from([1, 3]), st.sampled_from([8, 11]), st.integers(0, 10**6))
def test_both_ways_are_the_derivative_of_the_loss(networks, count, channels, size, seed):
    network = ConvNet(width=5, depth=2, channels=channels, size=size, classes=3)
    generator = torch.Generator().manual_seed(seed)
    each = [tuple(param.double() for param in network.init(generator)) for _ in range(networks)]
    images = torch.randn(networks, count, channels, size, size, generator=generator, dtype=torch.float64)
    labels = torch.randn(networks, count, 3, generator=generator, dtype=torch.float64).softmax(2)
    stacked = tuple(torch.stack(params) for params in zip(*each, strict=True))
    expected = [
        torch.autograd.grad(F.cross_entropy(network.apply(params, x), q), params)
        for params, x, q in zip(map(leaves, each), images, labels, strict=True)
    ]
    for way in (gradient, automatic_gradient, partial(gradient, kernels=Kernels())):
        found = way(network, stacked, images, labels)
        for place, slopes in enumerate(expected):
            for one, other in zip(found, slopes, strict=True):
                torch.testing.assert_close(one[place], other, rtol=1e-9, atol=1e-12)


def test_kernels_round_no_more_than_automatic_differentiation_in_bfloat16():
    network, generator = ConvNet(width=8, depth=3, channels=1, size=16, classes=3), torch.Generator().manual_seed(0)
    params = tuple(param[None] for param in network.init(generator))
    images = torch.randn(1, 6, 1, 16, 16, generator=generator)
    labels = torch.randn(1, 6, 3, generator=generator).softmax(2)
    exact = gradient(network, tuple(map(torch.Tensor.double, params)), images.double(), labels.double())

    def error(**how):
        found = gradient(network, params, images, labels, **how)
        apart = torch.cat([(one - other).flatten() for one, other in zip(found, exact, strict=True)])
        return float(apart.norm() / torch.cat([one.flatten() for one in exact]).norm())

    assert error(kernels=Kernels()) < 1e-5
    assert 1e-5 < error(kernels=Kernels(), autocast=True) < error(autocast=True)


def test_a_gradient_by_kernels_is_compiled_where_that_is_asked_for(monkeypatch):
    network = ConvNet(width=3, depth=1, channels=1, size=8, classes=2)
    asked = []
    monkeypatch.setattr("meddistill.nets.compiled.has_compiler", lambda device: asked.append(device.type))
    params = tuple(param[None] for param in network.init(torch.Generator().manual_seed(0)))
    images, labels = torch.ones(1, 2, 1, 8, 8), torch.full((1, 2, 2), 0.5)
    forget_compiled()
    both = [gradient(network, params, images, labels, kernels=Kernels(compiled)) for compiled in (False, True)]
    forget_compiled()
    assert asked == ["cpu"]  # which says that there is none: the function is taken as it is
    assert all(torch.equal(one, other) for one, other in zip(*both, strict=True))
