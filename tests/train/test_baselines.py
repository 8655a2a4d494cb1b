"""Sets of real images: as many of every class as asked for, chosen as the papers say."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meddistill.teachers.images import LabelledImages, Normalisation
from meddistill.train.baselines import herding, k_center, random_real


@st.composite
def problems(draw):
    counts, asked = draw(st.lists(st.integers(3, 7), min_size=2, max_size=3)), draw(st.integers(1, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    # Every image's one pixel is its number.
    pixels = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1)
    images = LabelledImages(pixels, labels, 255, len(counts), Normalisation((0.5,), (0.2,)))
    return images, torch.randn(len(labels), 4, generator=generator), asked


def chosen(found, label):
    return found.pixels.flatten()[found.labels == label].tolist()


@settings(max_examples=50)
@given(problems())
def test_as_many_different_images_of_every_class_as_asked_for(problem):
    images, features, asked = problem
    for found in (random_real(images, asked, 0), herding(images, features, asked), k_center(images, features, asked)):
        for label in range(images.classes):
            mine = chosen(found, label)
            assert len(set(mine)) == len(mine) == asked
            assert all(int(images.labels[row]) == label for row in mine)


@settings(max_examples=50)
@given(problems())
def test_herding_is_the_greedy_choice_by_its_definition(problem):
    images, features, asked = problem
    found = herding(images, features, asked)
    for label in range(images.classes):
        rows = (images.labels == label).nonzero().flatten().tolist()
        mean, picked = features[rows].double().mean(0), []
        for _ in range(asked):
            left = [row for row in rows if row not in picked]
            picked.append(min(left, key=lambda row: float((features[[*picked, row]].double().mean(0) - mean).norm())))
        assert chosen(found, label) == picked


@settings(max_examples=50)
@given(problems())
def test_k_center_covers_at_most_twice_as_badly_as_the_best_choice_with_its_first_image(problem):
    """Gonzalez 1985: greedy k-center is within a factor of two."""
    images, features, asked = problem
    found = k_center(images, features, asked)
    for label in range(images.classes):
        rows = (images.labels == label).nonzero().flatten().tolist()
        mean = features[rows].double().mean(0)
        first = min(rows, key=lambda row: float((features[row].double() - mean).norm()))
        mine = chosen(found, label)
        assert mine[0] == first

        def radius(picked, rows=rows):
            return max(min(float((features[row] - features[one]).norm()) for one in picked) for row in rows)

        best = min(radius(picked) for picked in itertools.combinations(rows, asked))
        assert radius(mine) <= 2 * best + 1e-6
