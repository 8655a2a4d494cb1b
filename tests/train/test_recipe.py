"""A package's own recipe: the network that seed and package are, and cards that make no sense."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from meddistill.distill.labels import classes_of, first_logits
from meddistill.distill.training import fixed_start, schedule
from meddistill.distill.unroll import Batch, Learned, Rule, unroll
from meddistill.nets.convnet import parse
from meddistill.nets.params import flatten
from meddistill.package.quantise import round_trip
from meddistill.package.read import read
from meddistill.package.types import (
    Card,
    CohortCounts,
    Images,
    Normalisation,
    Package,
    Recipe,
    Sizes,
    Software,
    Task,
)
from meddistill.package.write import write
from meddistill.runtime.errors import InputError, VerificationError
from meddistill.runtime.streams import stream
from meddistill.train.recipe import fingerprint, has_recipe, is_the_senders, rebuild, with_fingerprint

PLAN = {"soft_label.starts": "fixed", "soft_label.distilled_steps": 2, "soft_label.epochs": 3, "matching.momentum": 0.5}


@pytest.fixture
def package() -> Package:
    """Five soft-labelled images of three classes in two steps, gone through three times."""
    card = Card(
        software=Software(name="meddistill", version="0.1.0"),
        task=Task(classes=("a", "b", "c"), labels="soft"),
        images=Images(count=5, per_class=0, size=8, channels=1),
        normalisation=Normalisation(mean=(0.5,), std=(0.25,)),
        recipe=Recipe(method="soft-label", seed=4, start="noise", network="convnet-d2-w4", plan=PLAN),
        cohort=CohortCounts(counts="withheld"),
        contains_real_images=False,
        bytes=Sizes(cohort_train=None),
    )
    images = round_trip(torch.rand(5, 1, 8, 8, generator=stream(0, "images")).numpy())
    labels = first_logits(classes_of(5, 3), 3, "learned").softmax(1).numpy()
    return Package(images=images, labels=labels, step_sizes=np.linspace(0.1, 0.6, 6, dtype=np.float32), card=card)


def with_plan(package: Package, **changes: object) -> Package:
    plan = {**PLAN, **{name.replace("__", "."): value for name, value in changes.items()}}
    return replace(package, card=replace(package.card, recipe=replace(package.card.recipe, plan=plan)))


def test_it_is_where_the_engine_s_student_ends(package):
    network = parse("convnet-d2-w4", channels=1, size=8, classes=3)
    learned = Learned(
        (torch.from_numpy(package.images).double() - 0.5) / 0.25,
        torch.from_numpy(package.labels).double().log(),
        torch.from_numpy(package.step_sizes).double().log(),
    )
    ends = []

    def score(states):
        ends.append(states[6])
        return flatten_sum(states[6])

    start = tuple(param.double() for param in fixed_start(network, 4))
    batches = [Batch(rows) for rows in schedule(5, 3, 2, 3)]
    unroll(network, start, learned, batches, score, rule=Rule("full", momentum=0.5))
    found = rebuild(package)
    assert [param.shape for param in found] == list(network.shapes)
    assert all(param.dtype == torch.float32 for param in found)
    for one, other in zip(found, ends[-1], strict=True):
        torch.testing.assert_close(one, other.float(), rtol=1e-6, atol=1e-7)


def flatten_sum(params):
    return torch.stack([param.sum() for param in params]).sum()


def test_the_same_file_gives_the_same_bytes_on_any_number_of_threads(package, tmp_path):
    write(tmp_path / "x.mdz", package)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(flatten(rebuild(read(tmp_path / "x.mdz"))).numpy().tobytes())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == flatten(rebuild(package)).numpy().tobytes()


def test_the_fingerprint_survives_the_file_and_tells_networks_apart(package, tmp_path):
    params = rebuild(package)
    told = replace(package, card=with_fingerprint(package.card, params))
    write(tmp_path / "x.mdz", told)
    card = read(tmp_path / "x.mdz").card
    assert is_the_senders(card, params)
    moved = (torch.nextafter(params[0], torch.tensor(9.0)), *params[1:])
    assert not is_the_senders(card, moved)
    assert not is_the_senders(package.card, params)
    assert fingerprint(params).isalpha()


def test_what_has_no_recipe_is_refused_by_name(package):
    other = replace(package, card=replace(package.card, recipe=replace(package.card.recipe, method="mtt")))
    for without in (other, with_plan(package, soft_label__starts="random")):
        assert not has_recipe(without.card)
        with pytest.raises(InputError, match=r"no recipe of its own.*Train by the protocol"):
            rebuild(without)


@pytest.mark.parametrize(
    "changes",
    [
        {"soft_label__epochs": 4},
        {"soft_label__epochs": True},
        {"soft_label__distilled_steps": "2"},
        {"soft_label__distilled_steps": -2, "soft_label__epochs": -3},
        {"soft_label__epochs": 2**60},
        {"matching__momentum": 1.5},
        {"matching__momentum": "a"},
    ],
    ids=str,
)
def test_a_card_that_makes_no_sense_is_refused(package, changes):
    with pytest.raises(VerificationError, match="does not fit its 6 step sizes"):
        rebuild(with_plan(package, **changes))


def test_a_network_that_nothing_is_distilled_through_is_refused(package):
    card = replace(package.card, recipe=replace(package.card.recipe, network="convnet-d2-w4-bn"))
    with pytest.raises(VerificationError, match="batch norm"):
        rebuild(replace(package, card=card))


@pytest.mark.parametrize("size", [1e38, 1e10], ids=["not finite", "too large for a model file"])
def test_a_network_that_exploded_is_refused(package, size):
    with pytest.raises(VerificationError, match="exploded"):
        rebuild(replace(package, step_sizes=np.full(6, size, np.float32)))
