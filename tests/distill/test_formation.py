"""Small images that stand for large ones: enlarging, its transpose, and a loop that moves them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tests.distill.conftest import PLAN as SHORT

from meddistill.distill.formation import Formation, stored_side
from meddistill.distill.labels import classes_of, first_logits
from meddistill.distill.loop import Matching, distill
from meddistill.distill.overlap import Mitigation
from meddistill.distill.unroll import Learned
from meddistill.nets.augment import Augmentation
from meddistill.runtime.enlarge import enlarge, enlarging
from meddistill.runtime.streams import stream

PLAN = replace(SHORT, iterations=6, student_steps=2, batch=8, segments_at_once=1, augmentation=Augmentation())


@given(small=st.integers(1, 20), more=st.integers(0, 30))
def test_enlarging_is_what_torch_calls_bilinear(small, more):
    images = torch.randn(2, 3, small, small, generator=stream(small, "small"), dtype=torch.float64)
    wanted = F.interpolate(images, size=(small + more,) * 2, mode="bilinear", align_corners=False)
    found = Formation(small, small + more).enlarged(images)
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)
    assert np.allclose(enlarge(images.numpy(), small + more), wanted.numpy(), atol=1e-6)


@given(small=st.integers(1, 12), more=st.integers(0, 12))
def test_the_gradient_goes_back_through_the_transpose(small, more):
    formation, draw = Formation(small, small + more), stream(more, "slope")
    images = torch.randn(2, 1, small, small, generator=draw, dtype=torch.float64).requires_grad_()
    slope = torch.randn(2, 1, small + more, small + more, generator=draw, dtype=torch.float64)
    (wanted,) = torch.autograd.grad(formation.enlarged(images), images, slope)
    assert torch.allclose(formation.pulled_back(slope), wanted, rtol=1e-12, atol=1e-12)


def test_no_brightness_is_won_or_lost():
    assert np.allclose(enlarging(7, 16).sum(1), 1)
    flat = torch.full((1, 1, 8, 8), 0.3)
    assert torch.allclose(Formation(4, 8).shrunk(flat), torch.full((1, 1, 4, 4), 0.3))
    with pytest.raises(ValueError, match="cannot be enlarged"):
        enlarging(8, 4)


@given(size=st.integers(4, 300), formation=st.integers(1, 4))
def test_small_images_take_no_more_pixels_than_the_one_they_stand_for(size, formation):
    assert (formation * stored_side(size, formation)) ** 2 <= size**2


def small_set(side):
    labels = classes_of(16, 2)
    made = torch.randn(16, 1, side, side, generator=stream(0, "made"))
    return Learned(made, first_logits(labels, 2, "learned"), torch.tensor([0.1]).log())


def test_a_loop_moves_the_small_images(images, network, store):
    found = distill(small_set(network.size // 2), Matching(network, store, 2, images), PLAN, 0)
    assert found.images.shape[-1] == network.size // 2
    assert not torch.equal(found.images, small_set(network.size // 2).images)


def test_a_step_on_small_images_is_the_step_on_large_ones_pulled_back(images, network, store):
    """Plain descent, one iteration: the small images move by the transpose of what the large ones move by."""
    plan = replace(PLAN, iterations=1, warm_up=0, optimiser="sgd", image_rate=1.0)
    formation, small = Formation(network.size // 2, network.size), small_set(network.size // 2)
    large = Learned(formation.enlarged(small.images), small.label_logits, small.log_steps)
    matching = Matching(network, store, 2, images)
    moved = distill(large, matching, plan, 0).images - large.images
    found = distill(small, matching, plan, 0).images - small.images
    assert torch.allclose(found, formation.pulled_back(moved), rtol=1e-4, atol=1e-7)


def test_images_that_start_anew_are_small_too(images, network, store):
    plan = replace(PLAN, mitigation=Mitigation(every=3, retrained=1, quantile=0.0))
    found = distill(small_set(network.size // 2), Matching(network, store, 2, images), plan, 0)
    assert found.images.shape[-1] == network.size // 2
