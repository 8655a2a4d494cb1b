"""Codebooks, pruning and retraining, each against the slow obvious way."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from meddistill.compress import essential
from meddistill.compress.codebook import at_levels, code
from meddistill.compress.prune import narrowed, ranked, without_idle_biases
from meddistill.compress.retrain import Pace, automatic_slopes, retrain, slopes_of, snap
from meddistill.nets.find import find
from meddistill.runtime.errors import MeddistillError
from meddistill.runtime.streams import stream


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)


def test_every_weight_is_at_its_nearest_level_and_zeros_stay():
    tensor = weights(30, 20)
    tensor[::3] = 0
    coded = at_levels(tensor, np.array([-0.2, -0.05, 0.04, 0.21]))
    levels = coded.levels.astype(np.float64) * float(coded.scale)
    nearest = levels[np.abs(tensor[..., None] - levels).argmin(-1)]
    np.testing.assert_allclose(coded.values(), np.where(tensor == 0, 0, nearest), rtol=1e-6)
    assert (coded.codes == 0).sum() == (tensor == 0).sum()


def test_no_even_codebook_is_better_than_that_of_k_means():
    tensor = weights(4000)
    best = min(
        np.square(tensor - at_levels(tensor, np.linspace(-end, end, 15) + 1e-4).values()).mean()
        for end in np.linspace(0.1, 0.4, 31)
    )
    assert np.square(tensor - code(tensor, 15).values()).mean() < best


@pytest.mark.parametrize("tensor", [np.zeros((3, 4), np.float32), np.full((5,), -2.5e-3, np.float32), weights(9) * 1e9])
def test_tensors_of_few_values_are_exact_to_half_precision(tensor):
    coded = code(tensor, 15)
    np.testing.assert_allclose(coded.values(), tensor, rtol=1e-3)
    assert coded.values().dtype == np.float32 and coded.values().shape == tensor.shape


def test_ranks_are_those_of_the_definition():
    params = [
        torch.from_numpy(weights(6, 5)),
        torch.from_numpy(weights(4)),
        torch.from_numpy(10 * weights(7, 3, seed=1)),
    ]
    params[0][0, :2] = 0
    ranks = []
    for param in (params[0], params[2]):
        squares = param.double().flatten() ** 2
        ranks += [float(s / squares[squares >= s].sum()) if s else 0.0 for s in squares]
    ranking = ranked(params, [True, False, True])
    for count in (20, 1, 47, 51, 0):
        least = sorted(ranks)[-max(count, 1)]
        masks = ranking.masks(count / 51)
        flat = torch.cat([masks[0].flatten(), masks[2].flatten()])
        assert flat.tolist() == [float(rank >= least and rank > 0) for rank in ranks]
        assert masks[1].all()


@pytest.mark.parametrize("target", [60, 110, 170, 10_000])
def test_as_much_is_kept_as_fits_if_every_share_is_tried_with_a_ranking_of_its_own(target):
    params = (torch.from_numpy(weights(12, 4, 3, 3)), torch.from_numpy(weights(12)))
    prunable, fitting = [True, False], [0.0]
    for share in np.arange(1, 1025) / 1024:
        masks = ranked(params, prunable).masks(share)
        masked = [param * mask for param, mask in zip(params, masks, strict=True)]
        coded = [code(param.numpy(), count) for param, count in zip(masked, (7, 15), strict=True)]
        if essential._estimated_bytes(coded) <= target:
            fitting.append(share)
    assert essential.kept_for(ranked(params, prunable), prunable, target, 7) == max(fitting)


def test_a_convolutions_bias_before_an_instance_norm_does_nothing(model, unseen):
    params = tuple(p + 1 if p.ndim == 1 else p for p in model.params)
    cleared = without_idle_biases(model.network, params)
    a, b = (model.network.apply(tuple(x.double() for x in p), unseen.images.double()) for p in (params, cleared))
    torch.testing.assert_close(a, b)
    assert not cleared[1].any() and params[2].equal(cleared[2])


def test_channels_that_nobody_reads_can_go(model, unseen):
    dead = {0: [1, 4, 5], 1: [0, 7, 11]}
    params = [param.clone().double() for param in model.params]
    params[4][:, dead[0]] = 0
    params[-2].view(2, 12, 4)[:, dead[1]] = 0
    network, fewer = narrowed(model.network, tuple(params), 9)
    assert network == replace(model.network, width=9)
    assert [tuple(p.shape) for p in fewer] == [tuple(shape) for shape in network.shapes]
    images = unseen.images.double()
    torch.testing.assert_close(network.apply(fewer, images), model.network.apply(tuple(params), images))


def test_snapping_is_one_step_of_k_means():
    tensor = torch.from_numpy(weights(50, 4))
    tensor[:7] = 0
    levels = torch.tensor([-0.3, -0.1, 0.05, 0.2, 9.0])
    snapped, moved = snap(tensor, levels)
    nearest = (tensor[..., None] - levels).abs().argmin(-1)
    for place, level in enumerate(levels):
        mine = (nearest == place) & (tensor != 0)
        expected = tensor[mine].mean() if mine.any() else level
        torch.testing.assert_close(moved[place], expected)
        assert (snapped[mine] == moved[place]).all()
    assert not snapped[:7].any()


def test_pruned_weights_stay_zero_and_the_network_learns(model, course, unseen):
    masks = ranked(model.params, [p.ndim > 1 for p in model.params]).masks(0.4)
    start = tuple(p * m for p, m in zip(model.network.init(stream(3, "start")), masks, strict=True))
    found, _ = retrain(slopes_of(model.network), start, course, Pace(100, batch=24), 0, masks=masks)
    assert all(not param[mask == 0].any() for param, mask in zip(found, masks, strict=True))
    again, _ = retrain(slopes_of(model.network), start, course, Pace(100, batch=24), 0, masks=masks)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    right = unseen.labels.argmax(1)
    before, after = ((model.network.apply(p, unseen.images).argmax(1) == right).float().mean() for p in (start, found))
    assert after > before + 0.2


@pytest.mark.parametrize(("name", "rate"), [("convnet-d2-w12", 0.03), ("vgg11-w4", 0.01)])
def test_a_network_is_retrained_at_the_rate_of_its_training(course, monkeypatch, name, rate):
    rates = []

    def noted(slopes, params, course, pace, seed, *, levels=None, **_):
        rates.append(pace.learning_rate)
        return params, [None] * len(params) if levels is None else levels

    monkeypatch.setattr(essential, "retrain", noted)
    network = find(name, channels=1, size=8, classes=2)
    params = network.init(stream(0, "start"))
    essential.essential(network, params, course, network.parameters, 0, effort=essential.Effort(rounds=2))
    assert rates == pytest.approx([rate, rate, rate / 3])


def test_a_lesson_is_what_the_original_says_of_the_very_image(model, course):
    lessons = course.lessons(8, stream(0, "lessons"))
    seen = [next(lessons) for _ in range(40)]  # more than two passes: some answers come from memory
    for inputs, target in (*seen, *(next(course.lessons(8, stream(0, "lessons"))) for _ in range(2))):
        answers = model.network.apply(model.params, inputs).softmax(1)
        mixed = target - 0.7 * answers
        torch.testing.assert_close(mixed.sum(1), torch.full((8,), 0.3))
        assert ((mixed - 0.3).abs() < 1e-4).any(1).all()


def test_diverging_is_told(model, course):
    with pytest.raises(MeddistillError, match="diverged"):
        retrain(slopes_of(model.network), model.params, course, Pace(20, learning_rate=1e30), 0)


def test_both_ways_to_the_gradient_agree(model, taught):
    params = tuple(param.double() for param in model.params)
    inputs, target = taught.images[:9].double(), 0.8 * taught.labels[:9].double() + 0.1
    by_hand = slopes_of(model.network)(params, inputs, target)
    torch.testing.assert_close(by_hand, automatic_slopes(model.network.apply)(params, inputs, target))
