import math

import pytest
import torch
import torch.nn.functional as F

from meddistill.nets.augment import Augmentation, Draw
from meddistill.runtime.streams import stream

NONE = Augmentation(shift=0, scale=0, rotate=0, flip=0, brightness=0, contrast=0)


def images(count=6, channels=2, size=9, dtype=torch.float64):
    return torch.randn(count, channels, size, size, dtype=dtype, generator=stream(0, "images"))


def only(**strength):
    return Augmentation(**(vars(NONE) | strength))


def test_no_strength_is_no_change():
    draw = NONE.draw(6, stream(0, "draw"))
    torch.testing.assert_close(draw.apply(images()), images(), rtol=0, atol=1e-6)


def test_a_flip_is_a_flip():
    draw = only(flip=1).draw(6, stream(0, "draw"))
    torch.testing.assert_close(draw.apply(images()), images().flip(3), rtol=0, atol=1e-6)


def test_flips_come_as_often_as_asked():
    draw = only(flip=0.25).draw(4000, stream(0, "draw"))
    share = float((draw.affine[:, 0, 0] < 0).float().mean())
    assert abs(share - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 4000)


def test_brightness_and_contrast_are_those_of_the_draw():
    draw = only(brightness=0.5, contrast=0.3).draw(6, stream(0, "draw"))
    changed = draw.apply(images())
    mean, before = changed.mean(dim=(1, 2, 3)), images().mean(dim=(1, 2, 3))
    torch.testing.assert_close(mean - before, draw.brightness.flatten().double(), rtol=0, atol=1e-6)
    spread = changed.std(dim=(1, 2, 3)) / images().std(dim=(1, 2, 3))
    torch.testing.assert_close(spread, draw.contrast.flatten().double(), rtol=1e-6, atol=1e-6)
    assert draw.brightness.abs().max() <= 0.5
    assert (draw.contrast - 1).abs().max() <= 0.3


def test_a_shift_moves_by_a_fraction_of_the_side():
    ramp = torch.linspace(-1, 1, 21, dtype=torch.float64).expand(50, 1, 21, 21)  # grows by 0.1 a pixel to the right
    draw = only(shift=0.1).draw(50, stream(0, "draw"))
    moved = draw.apply(ramp)[:, 0, 10, 10] - ramp[:, 0, 10, 10]
    pixels = moved / 0.1
    assert pixels.abs().max() <= 0.1 * 21
    torch.testing.assert_close(pixels, draw.affine[:, 0, 2].double() / 2 * 21, rtol=0, atol=1e-5)
    assert pixels.abs().max() > 1


def test_a_rotation_and_a_zoom_stay_within_their_limits():
    draw = only(rotate=20.0, scale=0.2).draw(500, stream(0, "draw"))
    cos, sin = draw.affine[:, 0, 0], draw.affine[:, 1, 0]
    zoom, angle = torch.hypot(cos, sin), torch.atan2(sin, cos) * 180 / math.pi
    assert 0.8 <= zoom.min() < 0.82
    assert 1.18 < zoom.max() <= 1.2
    assert 19 < angle.abs().max() <= 20


def test_a_quarter_turn_is_a_quarter_turn():
    draw = only(rotate=90.0).draw(1, stream(0, "draw"))
    affine = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])
    turned = type(draw)(affine, draw.brightness, draw.contrast).apply(images(1))
    torch.testing.assert_close(turned, images(1).rot90(1, (2, 3)), rtol=0, atol=1e-6)


def test_a_draw_follows_its_generator_and_can_be_applied_twice():
    first, again, other = (Augmentation().draw(6, stream(seed, "draw")) for seed in (1, 1, 2))
    assert torch.equal(first.apply(images()), again.apply(images()))
    assert torch.equal(first.apply(images()), first.apply(images()))
    assert not torch.equal(first.apply(images()), other.apply(images()))


def test_images_of_a_batch_are_changed_independently():
    same = images(1).expand(6, -1, -1, -1)
    changed = Augmentation().draw(6, stream(0, "draw")).apply(same)
    assert len({tuple(image.flatten().tolist()) for image in changed}) == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_kind_of_number_stay(dtype):
    changed = Augmentation().draw(6, stream(0, "draw")).apply(images(dtype=dtype))
    assert changed.shape == images().shape
    assert changed.dtype == dtype


def test_the_gradient_flows_and_is_right():
    draw = Augmentation().draw(2, stream(0, "draw"))
    inputs = images(2, 1, 4).requires_grad_()
    assert torch.autograd.gradcheck(draw.apply, (inputs,))
    (slope,) = torch.autograd.grad(draw.apply(inputs).sum(), inputs)
    assert bool((slope != 0).any())


def test_the_edge_is_continued_outwards():
    flat = torch.ones(20, 1, 8, 8)
    draw = only(shift=0.5, rotate=45.0, scale=0.5).draw(20, stream(0, "draw"))
    torch.testing.assert_close(draw.apply(flat), flat)
    assert F.affine_grid(draw.affine, [20, 1, 8, 8], align_corners=False).abs().max() > 1


@pytest.mark.parametrize("sizes", [[10], [10] * 7, [3, 3, 1, 3], [256, 44, 256], [1] * 5])
def test_draws_in_one_go_are_those_one_after_another_to_the_bit(sizes):
    """Packages are compared byte by byte: a run must not depend on how many steps are drawn at once."""
    one_by_one, in_one_go = stream(0, "draws"), stream(0, "draws")
    expected = [Augmentation().draw(size, one_by_one) for size in sizes]
    found = Augmentation().draws(sizes, in_one_go)
    assert len(found) == len(sizes)
    for one, other in zip(found, expected, strict=True):
        assert all(torch.equal(part, same) for part, same in zip(one.parts, other.parts, strict=True))
    assert torch.equal(in_one_go.get_state(), one_by_one.get_state())


def test_joined_draws_split_into_those_they_were_joined_from():
    draws = [Augmentation().draw(size, stream(0, "draw", size)) for size in (4, 2, 5)]
    for one, other in zip(Draw.joined(draws).split([4, 2, 5]), draws, strict=True):
        assert all(torch.equal(part, same) for part, same in zip(one.parts, other.parts, strict=True))
