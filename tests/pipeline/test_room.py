"""What a stranger's package names may be more than a machine has room for: said before, or where memory runs out."""

from pathlib import Path

import numpy as np
import pytest
import torch

from meddistill import api
from meddistill.nets.convnet import ConvNet, parse
from meddistill.nets.find import find
from meddistill.nets.network import MAX_PARAMETERS
from meddistill.package.types import Card, CohortCounts, Images, Normalisation, Package, Recipe, Sizes, Software, Task
from meddistill.package.write import write
from meddistill.pipeline import receive
from meddistill.runtime.errors import InputError
from meddistill.train.model import MAX_MODEL_BYTES, load_model

CLASSES = ("ill", "well")


def received(path: Path, *, size: int = 8, classes: tuple[str, ...] = CLASSES, network: str = "convnet-d1-w8") -> Path:
    """A package of one small image for each class, of one pixel where networks take others."""
    stored, count = (None if size == 8 else 1), len(classes)
    card = Card(
        software=Software(name="meddistill", version="0.1.0"),
        task=Task(classes=classes, labels="hard"),
        images=Images(count=count, per_class=1, size=size, channels=1, stored=stored),
        normalisation=Normalisation(mean=(0.5,), std=(0.25,)),
        recipe=Recipe(method="mtt", seed=1, start="noise", network=network, plan={"fit": "crop", "leak": "stop"}),
        cohort=CohortCounts(counts="withheld"),
        contains_real_images=False,
        bytes=Sizes(cohort_train=None),
    )
    pixels = np.random.default_rng(0).random((count, 1, stored or size, stored or size), np.float32)
    labels = np.eye(count, dtype=np.float32)
    write(path, Package(images=pixels, labels=labels, step_sizes=np.ones(1, np.float32), card=card))
    return path


def no_room(*_: object, **__: object) -> torch.Tensor:
    """What a CPU's allocator says to more than any machine has."""
    return torch.empty(2**50)


@pytest.mark.parametrize("net", [None, "convnet-d1-w1024"])
def test_a_network_that_no_model_file_holds_is_refused_before_any_memory_is_taken_for_it(tmp_path, monkeypatch, net):
    package = received(tmp_path / "a.mdz", size=1024, network="convnet-d1-w8" if net else "convnet-d1-w1024")
    assert package.stat().st_size < 5000
    monkeypatch.setattr(ConvNet, "init", lambda *_: pytest.fail("parameters were made"))
    with pytest.raises(InputError, match=r"convnet-d1-w1024 has 5368\d+ parameters for images of 1024 pixels and 2"):
        api.train(package, tmp_path / "model", net=net, device="cpu")
    assert not (tmp_path / "model").exists()


def test_networks_of_usual_sizes_are_below_the_bound_and_all_that_are_fit_into_a_model_file():
    usual = ("convnet-d5-w1024", "convnet-d3-w128", "resnet18", "vgg11", "alexnet", "vit-d12-w768")
    assert all(find(name, channels=3, size=224, classes=1000).parameters <= MAX_PARAMETERS for name in usual)
    # A thousand classes of a hundred letters, twice escaped, take less than what is left.
    assert 4 * MAX_PARAMETERS + 2**22 == MAX_MODEL_BYTES
    with pytest.raises(InputError, match="choose a smaller network"):
        parse("convnet-d1-w1024", channels=1, size=224, classes=1000)
    for name in ("resnet18-w256", "vit-d24-w768"):
        with pytest.raises(InputError, match="choose a smaller network"):
            find(name, channels=3, size=224, classes=2)


def test_memory_that_runs_out_in_training_is_told_with_what_to_do(tmp_path, monkeypatch):
    package = received(tmp_path / "a.mdz")
    monkeypatch.setattr(receive, "train_as", no_room)
    with pytest.raises(InputError, match=r"not enough memory for the network convnet-d1-w8 on images of 8 × 8 pixels"):
        api.train(package, tmp_path / "model", device="cpu")
    monkeypatch.setattr(receive, "train_as", lambda *_, **__: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        api.train(package, tmp_path / "model", device="cpu")


def test_memory_that_runs_out_over_a_models_answers_is_told(tmp_path, monkeypatch):
    api.train(received(tmp_path / "a.mdz"), tmp_path / "model", seeds=1, device="cpu")
    assert load_model(tmp_path / "model").network.size == 8
    api.export(tmp_path / "a.mdz", tmp_path / "set", to="folder")
    monkeypatch.setattr(ConvNet, "apply", no_room)
    with pytest.raises(InputError, match="not enough memory"):
        api.predict(tmp_path / "model", tmp_path / "set" / "ill", device="cpu")
    with pytest.raises(InputError, match="not enough memory"):
        api.evaluate(tmp_path / "model", tmp_path / "set" / "labels.csv", split="all", device="cpu")
