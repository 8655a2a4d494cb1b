"""Overlap of synthetic images, against its definition and on images made to overlap."""

import pytest
import torch

from meddistill.distill.overlap import measure_overlap
from meddistill.runtime.streams import stream


@pytest.fixture
def params(network, store):
    from meddistill.nets.params import unflatten

    return unflatten(store.snapshot(0, store.snapshots - 1), network.shapes)


def real(images, label, count):
    return images.inputs(images.rows_of(label)[:count])


def test_a_copy_overlaps_and_different_real_images_do_not(network, params, images):
    own, other = real(images, 0, 3), real(images, 1, 3)
    synthetic = torch.cat([own, own[:1], other])
    classes = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    found = measure_overlap(network, params, synthetic, classes, images, 0.99, stream(0, "overlap"))
    assert found.similarity[3] == pytest.approx(1, abs=1e-6)
    assert found.offending[3]
    assert found.similarity[0] == found.similarity[4] == -1
    assert not found.offending[[0, 4]].any()
    assert found.share == pytest.approx(float(found.offending.double().mean()))


def test_similarity_is_the_cosine_of_centred_features(network, params, images):
    rows = images.rows_of(0)
    assert len(rows) < 64  # all of them are looked at, so that the centre does not depend on the draw
    centre = network.features(params, images.inputs(rows)).mean(0).double()
    synthetic = real(images, 0, 2)
    first, second = (network.features(params, synthetic).double() - centre).detach()
    cosine = float(first @ second / first.norm() / second.norm())
    found = measure_overlap(network, params, synthetic, torch.tensor([0, 0]), images, 0.9, stream(0, "overlap"))
    assert float(found.similarity[1]) == pytest.approx(cosine, abs=1e-5)
    assert found.diversity == pytest.approx(1 - cosine, abs=1e-5)

    features = (network.features(params, images.inputs(rows)).double() - centre).detach()
    usual = [
        float(a @ b / a.norm() / b.norm()) for i, a in enumerate(features) for j, b in enumerate(features) if i != j
    ]
    assert float(found.threshold[0]) == pytest.approx(float(torch.tensor(usual).quantile(0.9)), abs=1e-5)


def test_one_image_a_class_never_overlaps(network, params, images):
    found = measure_overlap(
        network, params, torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), images, 0.5, stream(0, "overlap")
    )
    assert not found.offending.any()
    assert found.diversity == 1
