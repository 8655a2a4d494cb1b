"""Packages and cohorts in a DataLoader, as anybody's training loop takes them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from meddistill import api
from meddistill.package.types import Card, CohortCounts, Images, Normalisation, Package, Recipe, Sizes, Software, Task
from meddistill.package.write import round_trip, write
from meddistill.runtime.errors import InputError


@pytest.fixture
def package(tmp_path):
    card = Card(
        software=Software(name="meddistill", version="0.1.0"),
        task=Task(classes=("ill", "well"), labels="soft"),
        images=Images(count=4, per_class=2, size=8, channels=1),
        normalisation=Normalisation(mean=(0.5,), std=(0.25,)),
        recipe=Recipe(method="mtt", seed=0, start="noise", network="convnet-d1-w8"),
        cohort=CohortCounts(counts="withheld"),
        contains_real_images=False,
        bytes=Sizes(cohort_train=None),
    )
    images = np.random.default_rng(0).uniform(-1, 2, (4, 1, 8, 8)).astype(np.float32)
    labels = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.0, 1.0]], np.float32)
    held = Package(images=images, labels=labels, step_sizes=np.ones(1, np.float32), card=card)
    write(tmp_path / "x.mdz", held)
    return tmp_path / "x.mdz", held


def test_a_package_in_a_loader(package):
    path, held = package
    data = api.package_dataset(path)
    images, labels = next(iter(DataLoader(data, batch_size=4)))
    assert len(data) == 4
    assert np.array_equal(images.numpy(), round_trip(held.images))
    assert np.array_equal(labels.numpy(), held.labels)
    assert (data.classes, data.normalisation.mean) == (("ill", "well"), (0.5,))


def test_a_transform_sees_one_image_and_cannot_spoil_the_data(package):
    path, held = package
    data = api.package_dataset(path, lambda image: image.mul_(0) + image.shape[0])
    assert torch.equal(data[1][0], torch.ones(1, 8, 8))
    assert np.array_equal(data._images.numpy(), round_trip(held.images))


def test_a_cohort_in_a_loader(tmp_path):
    for place, name in enumerate(("ill", "well")):
        (tmp_path / "set" / "train" / name).mkdir(parents=True)
        for index in range(20):
            pixels = np.full((8, 8), 10 * index + place, np.uint8)
            pixels[0, 0] = 255
            Image.fromarray(pixels).save(tmp_path / "set" / "train" / name / f"{index:02}.png")
    everything = api.cohort_dataset(tmp_path / "set", "all")
    counts = {split: len(api.cohort_dataset(tmp_path / "set", split)) for split in ("train", "val", "test")}
    images, labels = next(iter(DataLoader(everything, batch_size=40)))
    assert sum(counts.values()) == len(everything) == 40
    assert all(counts.values())
    assert labels.tolist() == [0] * 20 + [1] * 20
    assert torch.equal(images[25, 0, 3, 3], torch.tensor(51 / 255))
    train = torch.stack([image for image, _ in api.cohort_dataset(tmp_path / "set", "train")])
    assert everything.normalisation.mean == pytest.approx((float(train.mean()),), abs=1e-5)
    assert everything.normalisation.std == pytest.approx((float(train.std(correction=0)),), abs=1e-5)
    with pytest.raises(InputError, match="no split 'tests'"):
        api.cohort_dataset(tmp_path / "set", "tests")
