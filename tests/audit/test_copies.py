"""A copy is found under what may have been done to it; two images of one patient are not two patients."""

import warnings
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meddistill.audit import copies, lots, nearest
from meddistill.audit.people import People
from meddistill.runtime.streams import numpy_stream


class NoRecogniser:
    """Directions that tell nothing: pixels and structure have to find a copy alone."""

    def directions(self, images):
        return torch.nn.functional.normalize(images.flatten(1)[:, :4] * 0 + torch.eye(4)[0], dim=1)

    def of(self, people, device):
        return self.directions(torch.cat(list(people.blocks(device))))


@dataclass
class Case:
    members: People | None = None
    control: People | None = None
    synthetic: torch.Tensor | None = None
    recogniser = NoRecogniser()
    device = torch.device("cpu")
    seed = 0


def people(count=30, size=20, seed=4, patient=None):
    """Smooth random images."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(size=(count, 1, size // 3, size // 3)))
    fine = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    pixels = (255 * (fine - fine.min()) / (fine.max() - fine.min())).numpy().astype(np.uint8)
    numbers = np.arange(count) if patient is None else np.asarray(patient)
    return People(pixels, 255, np.zeros(count, np.int64), numbers)


CHANGES = {
    "mirrored and moved": lambda image: torch.roll(image.flip(3), (2, -1), (2, 3)),
    "upside down": lambda image: image.flip(2),
    "turned by a right angle": lambda image: image.rot90(1, (2, 3)),
    "turned": lambda image: nearest._turned(image, 8, 1),
    "turned and enlarged": lambda image: nearest._turned(image, 6, 0.94),
    "enlarged": lambda image: nearest._turned(image, 0, 0.88),
    "reduced": lambda image: nearest._turned(image, 0, 1.12),
    "inverted": lambda image: 1 - image,
    "darker and flatter": lambda image: 0.1 + 0.5 * image,
    "noisy": lambda image: image + 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1)),
}


def ratios(images, gallery):
    """By measure, the distance of each image to the nearest patient over that to the second nearest."""
    every = nearest.gallery_of(Case(), gallery)
    found = nearest.nearest(Case(), images, every, nearest.listed(gallery.count, gallery.count))
    near = nearest.near(found, every, nearest.twin_distance(found["pixels"]))
    return {name: one.ratios(np.ones(gallery.count, bool)) for name, one in near.items()}


def joined(*groups):
    """The same people and others, who have numbers of their own."""
    pixels = np.concatenate([group.pixels for group in groups])
    return People(pixels, 255, np.zeros(len(pixels), np.int64), np.arange(len(pixels)))


def noisy(people, seed):
    """The same images with noise of 2 of 255."""
    noise = np.rint(np.random.default_rng(seed).normal(0, 2, people.pixels.shape))
    return replace(people, pixels=(people.pixels + noise).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("how", CHANGES)
def test_a_changed_copy_is_much_nearer_to_its_original_than_to_anybody_else(how):
    gallery = people()
    assert ratios(CHANGES[how](gallery.images(slice(7, 8))), gallery)["pixels"][0] < copies.COPY
    assert ratios(people(seed=9).images(slice(0, 5)), gallery)["pixels"].min() > 0.6


def test_colours_tell_apart_what_has_the_same_shapes():
    """Details of an original and of one whose red and blue are exchanged: the same without colour."""
    parts = [people(seed=seed).pixels for seed in (4, 5, 6)]
    pixels = np.concatenate([*parts, parts[2], parts[1], parts[0]], 1).reshape(30, 2, 3, 20, 20)
    both = joined(*(replace(people(), pixels=pixels[:, one]) for one in range(2)))
    gallery, copied = nearest.gallery_of(Case(), both), both.images(slice(37, 38)).rot90(1, (2, 3))
    found = nearest._registered(nearest._views(copied)[0], gallery, 60)[0]
    distance = dict(zip(found.row[0].tolist(), found.distance[0].tolist(), strict=True))
    assert found.row[0, 0] == 37
    assert distance[37] == pytest.approx(0, abs=1e-5)
    assert distance[7] > 0.3


def test_a_second_image_of_the_same_patient_does_not_hide_a_copy():
    once = people()
    twice = People(
        np.concatenate([once.pixels, once.pixels[7:8]]), 255, np.zeros(31, np.int64), np.append(np.arange(30), 7)
    )
    assert ratios(once.images(slice(7, 8)), twice)["pixels"][0] < 1e-3


@pytest.mark.parametrize("times", [1, 4])
def test_nor_do_the_same_patients_under_other_ids(times):
    once = people()
    again = joined(once, *(noisy(once, seed) for seed in range(times)))
    for how in ("mirrored and moved", "noisy"):
        assert ratios(CHANGES[how](once.images(slice(0, 30))), again)["pixels"].max() < copies.COPY, how
    strangers = ratios(people(seed=9).images(slice(0, 5)), again)
    assert strangers["pixels"] == pytest.approx(ratios(people(seed=9).images(slice(0, 5)), once)["pixels"], abs=0.05)


def test_images_under_other_ids_are_counted_and_told():
    once, others = people(60), people(40, seed=9)
    twice, rows = joined(once, noisy(once, 1)), torch.arange(60)
    for gallery, share in ((once, 0), (twice, 1)):
        assert nearest.share_of_twins(nearest.gallery_of(Case(), gallery), rows, 0.05) == share
    case = Case(twice, joined(noisy(others, 2), noisy(once, 3)), others.images(slice(0, 10)))
    prepared = copies.prepare(case)
    assert (prepared.twins.members, prepared.twins.control) == (1, 0.6)
    # Control images that are a member's say nothing of how near strangers come.
    assert len(prepared.usual["members"]["pixels"]) == 40
    assert prepared.usual["members"]["pixels"].min() > 0.5
    finding = copies.judge(*(copies.attack(prepared, side) for side in ("members", "control")), case)
    assert any("100 % of members' images are nearly another member's" in one for one in finding.warnings)
    assert any("60 % of control images are nearly a member's" in one for one in finding.warnings)
    assert finding.outcome == "inconclusive"


def test_one_patient_alone_is_no_copy_of_anybody():
    alone = people(count=1)
    assert ratios(alone.images(slice(0, 1)), alone)["pixels"][0] == 1


@given(st.integers(0, 1000))
@settings(max_examples=30)
def test_ratios_among_some_are_those_of_lists_of_them_alone(seed):
    rng = np.random.default_rng(seed)
    distance = np.sort(rng.random((3, 6)))
    patient = np.stack([rng.permutation(8)[:6] for _ in range(3)])
    equal = rng.random((3, 6, 6)) < 0.2
    twins = equal | equal.transpose(0, 2, 1) | np.eye(6, dtype=bool)
    among = rng.random((5, 8)) < 0.5
    for whole in (True, False):
        found = nearest.Near(distance, patient, twins, whole).ratios(among)
        for draw, image in np.ndindex(5, 3):
            left = [place for place in range(6) if among[draw, patient[image, place]]]
            others = [place for place in left[1:] if not twins[image, left[0], place]]
            last = left[0] if whole and left else 5
            second = distance[image, others[0] if others else last]
            assert found[draw, image] == pytest.approx(distance[image, left[0]] / second if left else 1)


def test_the_best_views_are_found_as_by_trying_all():
    gallery, images = people(6), people(2, seed=8).images(slice(None))
    small = nearest.gallery_of(Case(), gallery)
    theirs = nearest._details(gallery.images(slice(None)).double())[:, 0, 2:-2, 2:-2].flatten(1).numpy()
    moves = [(down, right) for down in range(5) for right in range(5)]
    for image, views in zip(images, nearest._views(images), strict=True):
        assert len(views) == 104
        found = nearest._registered(views, small, 6)[0]
        details = nearest._details(views.double())[:, 0]
        tried = torch.stack([details[:, down : down + 16, right : right + 16] for down, right in moves]).flatten(0, 1)
        alike = np.abs(np.corrcoef(tried.flatten(1).numpy(), theirs)[-6:, :-6]).max(1)
        assert found.row[0].tolist() == np.argsort(-alike).tolist()
        assert found.distance[0].numpy() == pytest.approx(np.sort(1 - alike), abs=1e-5)
        assert (views[0] == image).all()


def test_structure_is_that_of_the_best_view():
    """Also of an inverted one."""
    gallery = people(6)
    small = nearest.gallery_of(Case(), gallery)
    original = gallery.images(slice(3, 4))
    for copy in (original.rot90(1, (2, 3)), 1 - original.flip(2), torch.roll(original, (2, -2), (2, 3))):
        by_structure = nearest._registered(nearest._views(copy)[0], small, 6)[1]
        assert by_structure.row[0, 0] == 3
        assert by_structure.distance[0, 0] == pytest.approx(0, abs=1e-5)


def test_structural_similarity_is_that_of_every_window():
    rng = np.random.default_rng(2)
    one, other = (torch.from_numpy(rng.random((1, 1, 12, 12))) for _ in range(2))
    each = []
    for top in range(6):
        for left in range(6):
            a, b = (x[0, 0, top : top + 7, left : left + 7].numpy().ravel() for x in (one, other))
            covariance = np.mean((a - a.mean()) * (b - b.mean()))
            above = (2 * a.mean() * b.mean() + 1e-4) * (2 * covariance + 9e-4)
            each.append(above / ((a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (a.var() + b.var() + 9e-4)))
    assert float(nearest.similarity(one, other)) == pytest.approx(np.mean(each))
    assert float(nearest.similarity(one, one)) == pytest.approx(1)


NO_TWINS = copies.Twins(0.05, 0.0, 0.0)
SIDES = ("members", "control")


def compared(found, usual):
    """Ratios by one measure; by the others nothing is near."""
    away = {name: np.ones(len(found)) for name in nearest.MEASURES}
    far = {name: np.linspace(0.8, 1, len(usual)) for name in nearest.MEASURES}
    return copies.Compared(away | {"features": np.array(found)}, far | {"features": usual}, {}, NO_TWINS)


def test_where_strangers_come_as_near_it_is_a_likeness_and_far_nearer_a_copy():
    usual = np.random.default_rng(0).random(300) ** (1 / 6)  # as on dermatoscopy: 0.1 % are below a third
    found = np.full(280, 0.9)
    found[[4, 9]] = 0.33, 0.02
    limits = dict.fromkeys(nearest.MEASURES, 0.4)
    assert copies.found_near(compared(found, usual), limits) == ([9], [4])
    # Where strangers never come near, a third is near enough; where many come nearer, it is nothing.
    assert copies.found_near(compared(found, np.linspace(0.7, 1, 300)), limits) == ([4, 9], [])
    assert copies.found_near(compared(found, usual), dict.fromkeys(nearest.MEASURES, 0.3)) == ([9], [])


@given(st.integers(0, 1000), st.floats(2, 20))
@settings(max_examples=30)
def test_accidents_are_those_of_the_distribution(seed, power):
    rng = np.random.default_rng(seed)
    usual = rng.random(2000) ** (1 / power)  # of which a share r ** power is below r
    found = np.full(100, 0.01 ** (1 / power))
    assert copies.accidents(found, usual)[0] == pytest.approx(100 * 0.01, rel=0.7)
    assert copies.accidents(np.array([0.0]), usual)[0] < 1e-3
    assert copies.accidents(np.array([1.0]), usual)[0] == pytest.approx(0.1)  # all that the tail can tell


def among_strangers(images, people, rng):
    """Whom each of so many images is near, all of them and the people being strangers; none comes nearer than 0.5."""
    one, other = (rng.normal(size=(count, 4)) for count in (images, people))
    distance = 0.5 + np.linalg.norm(0.5 * one[:, None] - other, axis=-1)
    patient = distance.argsort(1)[:, : nearest.listed(people // 4, people)]
    twins = np.broadcast_to(np.eye(patient.shape[1], dtype=bool), (images, *[patient.shape[1]] * 2))
    return nearest.Near(np.take_along_axis(distance, patient, 1), patient, twins, False)


@pytest.mark.parametrize("members", [200, 1000])
def test_images_of_strangers_are_no_nearer_to_members_whatever_the_sizes(members):
    rng = np.random.default_rng(members)
    plain, judged = [], []
    for _ in range(60):
        near = among_strangers(40, 1200, rng)
        inside = np.arange(1200) < members
        found = float(lots.areas(near.ratios(inside), near.ratios(~inside)))
        plain.append(found)
        judged.append(lots.beside_lots(found, lots.by_lot(near, lots.drawn(1200, members, rng, 200)), 0.9875))
    assert abs(np.mean(plain) - 0.5) > 0.02  # the larger group is denser
    assert np.mean([one.value for one in judged]) == pytest.approx(0.5, abs=0.02)
    assert sum(one.low > 0.5 for one in judged) <= 3


@given(st.integers(0, 1000), st.integers(1, 12))
@settings(max_examples=30)
def test_areas_are_those_of_all_pairs(seed, count):
    one, other = np.random.default_rng(seed).integers(0, 5, (2, 3, count)).astype(float)
    pairs = (one[:, :, None] < other[:, None]) + 0.5 * (one[:, :, None] == other[:, None])
    assert lots.areas(one, other) == pytest.approx(pairs.mean((1, 2)))


def test_what_is_usual_among_fewer_members_is_their_own():
    """Control images beside fifty draws of a third of the members, by lists of each alone."""
    members, control = people(90), people(30, seed=9)
    prepared = copies.prepare(Case(members, control, control.images(slice(0, 2))))
    chosen = lots.drawn(90, 30, numpy_stream(0, "copies", "galleries"), 50)
    some = chosen[0][0]
    part = replace(members, pixels=members.pixels[some], labels=np.zeros(30, np.int64), patient=np.arange(30))
    rows = numpy_stream(0, "copies").permutation(30)
    alone = ratios(control.images(rows), part)
    for measure in ("pixels", "texture"):
        assert prepared.usual["control"][measure].shape == (50 * 30,)
        assert prepared.usual["control"][measure][:30] == pytest.approx(alone[measure], abs=1e-6)


@pytest.mark.parametrize(("count", "outcome"), [(1, "pass"), (2, "pass"), (7, "pass"), (8, "fail")])
def test_a_handful_of_images_is_not_judged_by_its_order(count, outcome):
    """Even if all are nearer to members; and nobody is warned by numpy."""
    found = [copies.Compared(*every(count, ratio), NO_TWINS) for ratio in (0.9, 0.95)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finding = copies.judge(*found, Case())
    assert finding.outcome == outcome
    assert any("too few to be judged by their order" in one for one in finding.warnings) == (count < 8)


def every(count, ratio):
    """Such ratios of so many images by all measures, what is usual, and areas by lot."""
    values = (np.full(count, ratio), np.linspace(0.8, 1, 300), by_chance(count))
    return (dict.fromkeys(nearest.MEASURES, one) for one in values)


@cache
def by_chance(count):
    """Areas of so many images by lot."""
    rng = np.random.default_rng(count)
    return lots.areas(rng.random((1000, count)), rng.random((1000, count)))


def of_strangers(count, rng, usual=3000):
    """Both sides of a set of so many images that has nothing of either; the measures know nothing of each other."""
    return [
        copies.Compared(
            {name: rng.random(count) ** (1 / 8) for name in nearest.MEASURES},
            {name: rng.random(usual) ** (1 / 8) for name in nearest.MEASURES},
            dict.fromkeys(nearest.MEASURES, by_chance(count)),
            NO_TWINS,
        )
        for _ in SIDES
    ]


@pytest.mark.parametrize("count", [20, 80, 320])
def test_all_looks_together_raise_an_alarm_as_seldom_as_one(count):
    """The share of close images, their order and single copies by four measures, where nothing leaks."""
    rng = np.random.default_rng(count)
    found = [copies.judge(*of_strangers(count, rng), Case()).outcome for _ in range(400)]
    assert sum(one in ("alarm", "fail") for one in found) <= 0.05 * 400
    assert copies.LOOKS == 12


def shown(count, close, others, leaning=0.0):
    """The answer on a set of which so many are close to either side by one measure, and the rest lean to members."""
    usual = np.linspace(0.8, 1, 3000)
    rest = np.random.default_rng(1).permutation(np.linspace(0.85, 1, count))
    sides = []
    for near, less in ((close, leaning), (others, 0.0)):
        ratios = dict.fromkeys(nearest.MEASURES, rest - less)
        ratios["texture"] = np.concatenate([np.full(near, 0.7), rest[near:] - less])
        every = dict.fromkeys(nearest.MEASURES, usual)
        sides.append(copies.Compared(ratios, every, dict.fromkeys(nearest.MEASURES, by_chance(count)), NO_TWINS))
    return copies.judge(*sides, Case())


@pytest.mark.parametrize(
    ("count", "close", "others", "outcome"),
    [(80, 0, 0, "pass"), (80, 3, 0, "pass"), (80, 5, 0, "inconclusive"), (320, 8, 2, "inconclusive")]
    + [(320, 2, 2, "pass"), (1000, 20, 20, "pass"), (1000, 60, 10, "alarm"), (1000, 250, 10, "fail")],
)
def test_few_images_pass_undecided_only_with_what_chance_brings(count, close, others, outcome):
    finding = shown(count, close, others)
    assert finding.outcome == outcome
    few = any("too few to bound the share" in one for one in finding.warnings)
    assert few == (count == 80)
    undecided = any("close to members than to control patients is undecided" in one for one in finding.warnings)
    assert undecided == (outcome == "inconclusive")


def test_a_share_that_reaches_too_far_by_any_measure_is_told():
    """By the measure of the greatest excess nothing is close; another shows many to both."""
    finding = shown(320, 90, 90)
    assert finding.figures["texture"]["excess"]["high"] > copies.CLOSE_PASSES
    assert "too few to bound the share" in finding.warnings[0]


@pytest.mark.parametrize(
    ("count", "leaning", "outcome"),
    [(80, 0.007, "pass"), (80, 0.018, "inconclusive"), (80, 0.024, "alarm"), (3000, 0.0, "pass")]
    + [(3000, 0.002, "pass"), (3000, 0.006, "alarm"), (3000, 0.04, "fail")],
)
def test_an_order_that_leans_to_members_passes_undecided_only_within_chance(count, leaning, outcome):
    finding = shown(count, 0, 0, leaning)
    assert finding.outcome == outcome
    few = any("too few to bound by how much they are nearer" in one for one in finding.warnings)
    assert few == (count == 80 and outcome == "pass")


def test_what_rests_on_no_comparison_is_told_apart():
    leaning = shown(3000, 0, 0, 0.04)
    assert (leaning.outcome, leaning.anyway) == ("fail", "pass")
    sides = of_strangers(80, np.random.default_rng(0))
    sides[0].ratios["pixels"][3] = 1e-4
    copied = copies.judge(*sides, Case())
    assert (copied.outcome, copied.anyway) == ("fail", "fail")
