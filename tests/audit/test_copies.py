"""A copy is found under what may have been done to it; two images of one patient are not two patients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meddistill.audit import copies
from meddistill.audit.people import People


class NoRecogniser:
    """Directions that tell nothing: pixels and structure have to find a copy alone."""

    def directions(self, images):
        return torch.nn.functional.normalize(images.flatten(1)[:, :4] * 0 + torch.eye(4)[0], dim=1)

    def of(self, people, device):
        return self.directions(torch.cat(list(people.blocks(device))))


class Case:
    recogniser = NoRecogniser()
    device = torch.device("cpu")


def people(count=30, size=20, seed=4, patient=None):
    """Smooth random images."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(size=(count, 1, size // 3, size // 3)))
    fine = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    pixels = (255 * (fine - fine.min()) / (fine.max() - fine.min())).numpy().astype(np.uint8)
    numbers = np.arange(count) if patient is None else np.asarray(patient)
    return People(pixels, 255, np.zeros(count, np.int64), numbers)


def changed(image, how):
    if how == "mirrored and moved":
        return torch.roll(image.flip(3), (2, -1), (2, 3))
    if how == "darker and flatter":
        return 0.1 + 0.5 * image
    return image + 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("how", ["mirrored and moved", "darker and flatter", "noisy"])
def test_a_changed_copy_is_much_nearer_to_its_original_than_to_anybody_else(how):
    gallery = people()
    found = copies.ratios(Case(), changed(gallery.images(slice(7, 8)), how), gallery)
    assert found["pixels"][0] < copies.COPY
    stranger = copies.ratios(Case(), people(seed=9).images(slice(0, 5)), gallery)
    assert stranger["pixels"].min() > 0.6


def test_a_second_image_of_the_same_patient_does_not_hide_a_copy():
    once = people()
    twice = People(
        np.concatenate([once.pixels, once.pixels[7:8]]), 255, np.zeros(31, np.int64), np.append(np.arange(30), 7)
    )
    image = once.images(slice(7, 8))
    assert copies.ratios(Case(), image, twice)["pixels"][0] < 1e-3
    other = People(twice.pixels, 255, twice.labels, np.arange(31))
    assert copies.ratios(Case(), image, other)["pixels"][0] == pytest.approx(0, abs=1)


def test_one_patient_alone_is_no_copy_of_anybody():
    alone = people(count=1)
    assert copies.ratios(Case(), alone.images(slice(0, 1)), alone)["pixels"][0] == 1


def test_the_best_view_is_found_as_by_trying_all():
    gallery, images = people(6), people(2, seed=8).images(slice(None)).double()
    small = copies._gallery(gallery, torch.device("cpu"))
    found, _ = copies._correlations(copies._details(images.float()), small.details)
    for row in range(2):
        for other in range(6):
            inner = copies._details(gallery.images(slice(other, other + 1)).double())[0, 0, 2:-2, 2:-2].numpy()
            tried = [
                np.corrcoef(view[0, 0].numpy().ravel(), inner.ravel())[0, 1]
                for view in copies._views(copies._details(images[row : row + 1]))
            ]
            assert len(tried) == 50
            assert found[row, other] == pytest.approx(max(tried), abs=1e-5)


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
    assert float(copies.similarity(one, other)) == pytest.approx(np.mean(each))
    assert float(copies.similarity(one, one)) == pytest.approx(1)


def compared(found, usual):
    """Ratios by one measure; by the others nothing is near."""
    away = {name: np.ones(len(found)) for name in copies.MEASURES}
    far = {name: np.linspace(0.8, 1, len(usual)) for name in copies.MEASURES}
    return copies.Compared(away | {"features": np.array(found)}, far | {"features": usual})


def test_where_strangers_come_as_near_it_is_a_likeness_and_far_nearer_a_copy():
    usual = np.random.default_rng(0).random(300) ** (1 / 6)  # as on dermatoscopy: 0.1 % are below a third
    found = np.full(280, 0.9)
    found[[4, 9]] = 0.33, 0.02
    limits = dict.fromkeys(copies.MEASURES, 0.4)
    assert copies.found_near(compared(found, usual), limits) == ([9], [4])
    # Where strangers never come near, a third is near enough; where many come nearer, it is nothing.
    assert copies.found_near(compared(found, np.linspace(0.7, 1, 300)), limits) == ([4, 9], [])
    assert copies.found_near(compared(found, usual), dict.fromkeys(copies.MEASURES, 0.3)) == ([9], [])


@given(st.integers(0, 1000), st.floats(2, 20))
@settings(max_examples=30)
def test_accidents_are_those_of_the_distribution(seed, power):
    rng = np.random.default_rng(seed)
    usual = rng.random(2000) ** (1 / power)  # of which a share r ** power is below r
    found = np.full(100, 0.01 ** (1 / power))
    assert copies.accidents(found, usual)[0] == pytest.approx(100 * 0.01, rel=0.7)
    assert copies.accidents(np.array([0.0]), usual)[0] < 1e-3
    assert copies.accidents(np.array([1.0]), usual)[0] == pytest.approx(0.1)  # all that the tail can tell
