"""Slopes and curvature of one step: by hand against automatic differentiation, and compiled against neither."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.distill.test_unroll import close, network_of, noise, start_of

from meddistill.distill.distance import normalised_l2
from meddistill.distill.unroll import Batch, Learned, Rule, step, unroll
from meddistill.nets import compiled, curvature
from meddistill.nets.compiled import Compiled
from meddistill.nets.convnet import ConvNet
from meddistill.runtime.streams import stream


def close_as_a_whole(found, expected, relative):
    """Every tensor to a share of the whole: a bias before a norm has a slope that is nothing but rounding."""
    size = float(torch.cat([part.flatten() for part in expected]).norm())
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert float((one - other).norm()) <= relative * size


@st.composite
def steps(draw):
    depth = draw(st.integers(1, 3))
    network = ConvNet(draw(st.integers(1, 5)), depth, draw(st.sampled_from([1, 3])), draw(st.integers(8, 11)), 3)
    students, count, seed = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(0, 10**6))
    starts = [start_of(network, seed + 100 * place) for place in range(students)]
    params = tuple(torch.stack(parts) for parts in zip(*starts, strict=True))
    along = tuple(noise(seed + place, *param.shape) for place, param in enumerate(params))
    images = noise(seed, students, count, network.channels, network.size, network.size)
    return network, params, along, images, noise(seed, students, count, 3, scale=2.0).softmax(2)


@settings(max_examples=80)
@given(steps())
def test_curvature_is_one_function_however_it_is_computed(problem):
    network, params, along, images, labels = problem
    reference = step.reverse(network, "full", params, along, images, labels)
    for other in (step.written, partial(step.written, kernels=True), step.forward):
        found = other(network, "full", params, along, images, labels)
        close_as_a_whole(found.params, reference.params, 1e-9)
        close(found.images, reference.images, 1e-9)
        close(found.labels, reference.labels, 1e-9)


@settings(max_examples=40)
@given(steps())
def test_slopes_are_one_function_however_they_are_computed(problem):
    network, params, _, images, labels = problem
    expected = step.automatic(network, "full", params, images, labels)
    for kernels in (False, True):
        found = step.written_slopes(network, "full", params, images, labels, kernels)
        close_as_a_whole(found, expected, 1e-9)


@pytest.mark.parametrize("by", [step.reverse, step.forward, step.written, partial(step.written, kernels=True)])
def test_without_the_parameters_part_the_rest_stays(by):
    network = network_of()
    params = tuple(param[None] for param in start_of(network))
    along = tuple(noise(1, *param.shape) for param in params)
    arguments = (network, "full", params, along, noise(2, 1, 4, 1, 6, 6), noise(3, 1, 4, 3).softmax(2))
    whole, part = by(*arguments), by(*arguments, False)
    assert part.params is None
    torch.testing.assert_close(part.images, whole.images, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(part.labels, whole.labels, rtol=1e-12, atol=1e-14)


def test_other_networks_are_differentiated_automatically():
    class Linear:
        def apply_many(self, params, images):
            return torch.bmm(images.flatten(2), params[0])

    by = step.step_of(Linear())
    params, along = (noise(0, 2, 4, 3),), (noise(1, 2, 4, 3),)
    images, labels = noise(2, 2, 5, 1, 2, 2), noise(3, 2, 5, 3).softmax(2)
    ahead, behind = (by.slopes((params[0] + e * along[0],), images, labels)[0] for e in (1e-5, -1e-5))
    close(by.curvature(params, along, images, labels, True).params[0], (ahead - behind) / 2e-5, 1e-7)


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("precision", ["full", "bfloat16"])
def test_half_precision_by_hand_is_near_the_exact_one(precision, kernels):
    network = ConvNet(16, 2, 1, 16, 3)
    params = tuple(param[None] for param in start_of(network))
    along = tuple(noise(place, *param.shape) for place, param in enumerate(params))
    images, labels = noise(2, 1, 6, 1, 16, 16), noise(3, 1, 6, 3).softmax(2)
    exact = step.written(network, "full", params, along, images, labels).images
    rounded = [tuple(p.float() for p in group) for group in (params, along, (images, labels))]
    found = step.written(network, precision, rounded[0], rounded[1], *rounded[2], kernels=kernels)
    assert all(part.dtype == torch.float32 for part in (*found.params, found.images, found.labels))
    cosine = float(torch.cosine_similarity(found.images.flatten().double(), exact.flatten(), dim=0))
    assert cosine > (0.999999 if precision == "full" else 0.9999)


def test_the_gradient_in_half_precision_is_near_the_exact_one():
    """Of ten steps of the network that the published recipes take, at half its size: cosine 0.998 or more."""
    network, steps = ConvNet(64, 3, 1, 16, 3), 10
    params = network.init(stream(0, "init"))
    images, logits = noise(0, 16, 1, 16, 16), noise(1, 16, 3)
    batches = [Batch(torch.randperm(16, generator=stream(0, "rows", place))[:8]) for place in range(steps)]
    found = []
    for dtype, precision in ((torch.float64, "full"), (torch.float32, "bfloat16")):
        start, target = (tuple(p.to(dtype) for p in some) for some in (params, network.init(stream(1, "init"))))
        learned = Learned(images.to(dtype), logits.to(dtype), torch.tensor([math.log(0.03)], dtype=dtype))
        score = partial(normalised, start, target, steps)
        found.append(unroll(network, start, learned, batches, score, rule=Rule(precision=precision)).gradient.images)
    assert float(torch.cosine_similarity(found[0].flatten(), found[1].flatten().double(), dim=0)) >= 0.998


def normalised(start, target, steps, states):
    return normalised_l2(states[steps], target, start)


def test_compiling_pays_for_long_runs_alone():
    work = step.operations(ConvNet(128, 3, 1, 28, 2), 10)
    assert work == pytest.approx(11 * 0.74e9, rel=0.02)
    for device in ("cpu", "cuda"):
        assert not compiled.pays(1000, work, torch.device(device))
        assert compiled.pays(1_000_000, work, torch.device(device))


def test_without_a_compiler_the_plain_function_is_called(monkeypatch):
    monkeypatch.setattr(compiled, "has_compiler", lambda device: False)
    plain = Compiled(lambda a, b: a + b)
    assert plain(1, torch.ones(())) == 2
    assert plain.failed == "there is no compiler"


def test_a_compiler_that_fails_is_answered_by_the_plain_function(monkeypatch, caplog):
    def broken(function, **_):
        def fails(*_):
            raise RuntimeError("no luck")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(compiled, "has_compiler", lambda device: True)
    plain = Compiled(lambda a, b: a + b)
    assert plain(1, torch.ones(())) == 2
    assert plain(2, torch.ones(())) == 3
    assert plain.failed == "no luck"
    assert [record.getMessage() for record in caplog.records] == ["steps are not compiled: no luck"]


@pytest.mark.parametrize("kernels", [False, True])
def test_compiled_steps_give_the_same_numbers(monkeypatch, caplog, kernels):
    """The whole path of the compiler but for the C++ that it writes, which would take a minute."""
    compile_of = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, mode, **asked: compile_of(function, backend="aot_eager", **asked)
    )
    monkeypatch.setattr(compiled, "has_compiler", lambda device: True)
    step.step_of.cache_clear()
    network = ConvNet(3, 1, 1, 6, 2)
    params = tuple(param[None].double() for param in network.init(stream(0, "init")))
    along = tuple(noise(place, *param.shape) for place, param in enumerate(params))
    images, labels = noise(2, 1, 3, 1, 6, 6), noise(3, 1, 3, 2).softmax(2)
    fast, slow = step.step_of(network, "full", True, kernels), step.step_of(network)
    for _ in range(2):
        found, expected = (by.curvature(params, along, images, labels, True).params for by in (fast, slow))
        close_as_a_whole(found, expected, 1e-9)
    close_as_a_whole(fast.slopes(params, images, labels), slow.slopes(params, images, labels), 1e-9)
    for _ in range(2):
        slopes, trace = fast.tracing.slopes(params, images, labels)
        close_as_a_whole(slopes, slow.slopes(params, images, labels), 1e-9)
        close_as_a_whole(fast.tracing.curvature(params, along, trace, True).params, expected, 1e-9)
    step.step_of.cache_clear()
    assert "not compiled" not in caplog.text


@pytest.mark.parametrize(("precision", "kernels"), [("full", False), ("bfloat16", False), ("bfloat16", True)])
def test_steps_of_any_number_of_shapes_are_compiled_each_to_one_graph(monkeypatch, precision, kernels):
    """The compiler gives up a piece of code that it compiled eight times, without a word."""
    compile_of, graphs = torch.compile, []

    def backend(module, _):
        graphs.append(module)
        return module.forward

    monkeypatch.setattr(
        torch, "compile", lambda function, mode, **asked: compile_of(function, backend=backend, **asked)
    )
    monkeypatch.setattr(compiled, "has_compiler", lambda device: True)
    step.step_of.cache_clear()
    network = ConvNet(2, 1, 1, 4, 2)
    fast = step.step_of(network, precision, True, kernels)
    for count in range(1, 13):
        params = tuple(param[None] for param in network.init(stream(0, "init")))
        images, labels = torch.ones(1, count, 1, 4, 4), torch.ones(1, count, 2) / 2
        for _ in range(2):
            fast.slopes(params, images, labels)
            fast.curvature(params, params, images, labels, True)
    step.step_of.cache_clear()
    assert (fast.slopes.failed, fast.curvature.failed) == (None, None)
    assert len(graphs) == 2 * 12


@pytest.mark.parametrize("precision", ["full", "bfloat16"])
def test_a_gpu_may_round_values_in_bfloat16_alone(monkeypatch, precision):
    """Where a convolution of the step is called, TF32 is on; before, after and after an error it is not."""
    seen, convolve = set(), curvature._convolve

    def watched(*arguments):
        seen.add(torch.backends.cudnn.allow_tf32)
        return convolve(*arguments)

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(curvature, "_convolve", watched)
    network = ConvNet(2, 1, 1, 4, 2)
    start, learned = network.init(stream(0, "init")), Learned(noise(1, 2, 1, 4, 4), noise(2, 2, 2), torch.zeros(1))
    learned = Learned(*(tensor.float() for tensor in learned.tensors()))
    batches = [Batch(torch.arange(2))]
    unroll(network, start, learned, batches, lambda s: s[1][0].sum(), rule=Rule(precision=precision))
    assert seen == {precision == "bfloat16"}
    assert torch.backends.cudnn.allow_tf32 is False
    with pytest.raises(ZeroDivisionError):
        unroll(network, start, learned, batches, lambda s: 1 / 0, rule=Rule(precision=precision))
    assert torch.backends.cudnn.allow_tf32 is False
