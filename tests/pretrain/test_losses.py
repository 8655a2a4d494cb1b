"""Every loss against its paper's equation, term by term, in float64."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from meddistill.pretrain import byol, mae, simclr, simsiam, skd
from meddistill.runtime.streams import stream

TEMPERATURE, SHARE = 0.3, 0.5


def numbers(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=stream(0, name))


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other) / math.sqrt(float(one @ one) * float(other @ other))


def test_byol_is_the_squared_distance_of_directions():
    predicted, aim = numbers(5, 7), numbers(5, 7, name="y")
    by_row = [((p / p.norm() - z / z.norm()) ** 2).sum() for p, z in zip(predicted, aim, strict=True)]
    assert byol.regression(predicted, aim).item() == pytest.approx(float(sum(by_row)) / 5, abs=1e-12)
    assert byol.regression(aim * 3, aim).item() == pytest.approx(0, abs=1e-12)


def test_simsiam_is_the_negative_cosine_and_lets_no_gradient_into_its_aim():
    predicted, aim = numbers(4, 6).requires_grad_(), numbers(4, 6, name="y").requires_grad_()
    found = simsiam.distance(predicted, aim)
    assert found.item() == pytest.approx(-sum(map(cosine, predicted.detach(), aim.detach())) / 4, abs=1e-12)
    found.backward()
    assert predicted.grad is not None
    assert predicted.grad.abs().sum() > 0
    assert aim.grad is None


def test_simclr_is_the_cross_entropy_of_the_other_view_among_all_others():
    first, second = numbers(4, 6), numbers(4, 6, name="y")
    views = [*first, *second]
    terms = []
    for i in range(8):
        scores = {k: math.exp(cosine(views[i], views[k]) / TEMPERATURE) for k in range(8) if k != i}
        terms.append(-math.log(scores[(i + 4) % 8] / sum(scores.values())))
    assert simclr.contrast(first, second, TEMPERATURE).item() == pytest.approx(sum(terms) / 8, abs=1e-12)


def test_knowledge_is_passed_on_by_similarity_again_and_again():
    features, own = numbers(5, 8), numbers(5, 3, name="y").softmax(1)
    affinity = skd.affinities(features)
    for i, j in product(range(5), range(5)):
        others = sum(math.exp(cosine(features[i], features[k])) for k in range(5) if k != i)
        expected = 0 if i == j else math.exp(cosine(features[i], features[j])) / others
        assert affinity[i, j].item() == pytest.approx(expected, abs=1e-12)
    passed = own
    for _ in range(200):
        passed = SHARE * affinity @ passed + (1 - SHARE) * own
    found = skd.ensemble(affinity, own, SHARE)
    torch.testing.assert_close(found, passed, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.sum(1), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_divergence_is_that_of_kullback_and_leibler_and_zero_for_the_same():
    known, predicted = numbers(5, 4).softmax(1), numbers(5, 4, name="y")
    terms = []
    for q, p in zip(known, predicted, strict=True):
        said = [math.exp(float(x) / float(p.norm()) / TEMPERATURE) for x in p]
        terms += [float(a) * math.log(float(a) / (b / sum(said))) for a, b in zip(q, said, strict=True)]
    assert skd.divergence(known, predicted, TEMPERATURE).item() == pytest.approx(sum(terms) / 5, abs=1e-12)
    same = (predicted / predicted.norm(dim=1, keepdim=True) / TEMPERATURE).softmax(1)
    assert skd.divergence(same, predicted, TEMPERATURE).item() == pytest.approx(0, abs=1e-12)


def test_patches_are_cut_row_by_row_and_standardised_one_by_one():
    images = numbers(2, 3, 8, 8)
    patches = mae.cut(images, 4)
    assert patches.shape == (2, 4, 48)
    for row, column in product(range(2), range(2)):
        piece = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten(1)
        torch.testing.assert_close(patches[:, 2 * row + column], piece, rtol=0, atol=0)
    found = mae.standardised(patches)[1, 2]
    expected = (patches[1, 2] - patches[1, 2].mean()) / (patches[1, 2].var() + 1e-6).sqrt()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_chosen_rows_go_back_to_their_places():
    rows, order = numbers(3, 5, 2), torch.rand(3, 5, generator=stream(0, "order")).argsort(1)
    torch.testing.assert_close(mae.chosen(mae.chosen(rows, order), order.argsort(1)), rows, rtol=0, atol=0)
