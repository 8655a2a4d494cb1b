"""Settings of pretraining: what a method takes by itself, and what a grid may say instead."""

from dataclasses import replace

import pytest

from meddistill.pretrain.views import Views
from meddistill.pretrain.ways import WAYS, plan_of
from meddistill.runtime.errors import InputError


def test_a_method_has_steps_and_a_rate_of_its_own_and_the_grid_may_change_them():
    own = plan_of(WAYS["mae"], {}).schedule(WAYS["mae"], 28)
    assert (own.steps, own.learning_rate) == (2400, 1e-3)
    assert plan_of(WAYS["byol"], {}).schedule(WAYS["byol"], 28).steps == 600
    changed = plan_of(WAYS["mae"], {"steps": 10, "learning_rate": 0.02}).schedule(WAYS["mae"], 28)
    assert (changed.steps, changed.learning_rate) == (10, 0.02)


def test_larger_images_get_more_steps_and_smaller_ones_no_fewer():
    plan, way = plan_of(WAYS["byol"], {}), WAYS["byol"]
    assert [plan.schedule(way, size).steps for size in (16, 28, 56, 112)] == [600, 600, 1200, 2400]


def test_what_cannot_be_is_listed_at_once():
    with pytest.raises(InputError, match=r"(?s)steps.*pace is not a setting"):
        plan_of(WAYS["byol"], {"steps": -1, "pace": 3})


def test_views_are_mirrored_unless_the_side_tells_classes_apart():
    plan, way = plan_of(WAYS["byol"], {"smallest": 0.4}), WAYS["byol"]
    usual, sided = plan.schedule(way, 28), plan.schedule(way, 28, flip=False)
    assert usual.views == Views(0.4)
    assert sided == replace(usual, views=Views(0.4, replace(usual.views.change, flip=0)))
