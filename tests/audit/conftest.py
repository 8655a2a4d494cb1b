"""Real chest X-rays in groups that share no image, and packages made from them in a few seconds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import meddistill
from meddistill import api
from meddistill.audit.case import Case, Effort
from meddistill.audit.finding import Gates
from meddistill.audit.people import Sample, making_of_package, read_groups
from meddistill.audit.recognise import DIMENSIONS, Recogniser
from meddistill.audit.report import Report
from meddistill.audit.run import audit
from meddistill.nets.convnet import parse
from meddistill.package.read import read
from meddistill.runtime.progress import Silent
from meddistill.runtime.streams import stream
from meddistill.teachers.images import Normalisation

EMBEDDED = Path(meddistill.__file__).parent / "data" / "pneumoniamnist.npz"
KINDS = ("images", "labels")
PLAN = """
images_per_class = {per_class}
size = 28
formation = 1 # so that an image may be replaced by a real one of the same size
network = "convnet-d2-w8"
start = "{start}"
[teachers]
count = 1
steps = 40
snapshot_every = 4
batch = 16
[matching]
warm_up = 30
iterations = 30
student_steps = 2
segment = 2
batch = 8
[evaluation]
seeds = 1
random_sets = 0
"""


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def save(path: Path, images: np.ndarray, labels: np.ndarray, train: int, val: int) -> Path:
    """A MedMNIST file of which the first images are for training, the next for validation, the rest the test set."""
    parts = {"train": slice(0, train), "val": slice(train, train + val), "test": slice(train + val, None)}
    arrays = {f"{name}_images": images[part] for name, part in parts.items()}
    np.savez(path, **arrays, **{f"{name}_labels": labels[part] for name, part in parts.items()})
    return path


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """``members``: 2,000 training and 2,000 test images; ``strangers``: 560 training images; no image is in both."""
    folder = tmp_path_factory.mktemp("sources")
    with np.load(EMBEDDED) as file:
        images, labels = file["train_images"], file["train_labels"]
    _, first = np.unique(images.reshape(len(images), -1), axis=0, return_index=True)
    order = np.random.default_rng(1).permutation(first)[:4630]
    images, labels = images[order], labels[order]
    (folder / "members").mkdir()
    (folder / "strangers").mkdir()
    return {
        "members": save(folder / "members" / "pneumoniamnist.npz", images[:4040], labels[:4040], 2000, 40),
        "strangers": save(folder / "strangers" / "pneumoniamnist.npz", images[4040:], labels[4040:], 560, 15),
    }


@pytest.fixture(scope="session")
def twice(sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The members, each a second time with noise of 2 of 255, and the same control images."""
    with np.load(sources["members"]) as file:
        images, labels = (np.concatenate([file[f"{one}_{kind}"] for one in ("train", "val", "test")]) for kind in KINDS)
    noise = np.rint(np.random.default_rng(5).normal(0, 2, images[:2000].shape))
    again = (images[:2000] + noise).clip(0, 255).astype(np.uint8)
    images, labels = np.concatenate([images[:2000], again, images[2000:]]), np.concatenate([labels[:2000], labels])
    return save(tmp_path_factory.mktemp("twice") / "pneumoniamnist.npz", images, labels, 4000, 40)


@pytest.fixture(scope="session")
def make(sources, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A package distilled from one of the sources."""

    def package(source: str, start: str = "prototypes", per_class: int = 10) -> Path:
        folder = tmp_path_factory.mktemp("package")
        (folder / "plan.toml").write_text(PLAN.format(start=start, per_class=per_class))
        out = folder / "lungs.mdz"
        api.distill(sources[source], out, plan=folder / "plan.toml", device="cpu")
        return out

    return package


@pytest.fixture(scope="session")
def check(sources) -> Callable[..., Report]:
    """The audit of a package against the members, with little computing; ``references=0``: without membership."""

    def audited(package: Path, references: int = 2, **choices: object) -> Report:
        effort = Effort(references=references, students=1, steps=20, recogniser_steps=30)
        return audit(package, f"{sources['members']}:train", effort=effort, device="cpu", **choices)

    return audited


@pytest.fixture(scope="session")
def strangers_package(make) -> Path:
    """Made from none of the members."""
    return make("strangers")


@pytest.fixture(scope="session")
def cases(sources) -> Callable[[Path], Case]:
    """What attacks are given for a package, with an untrained recogniser."""
    import torch

    def case(package: Path) -> Case:
        found, source = read(package), sources["members"]
        groups = read_groups(Sample(source, "train"), Sample(source, "test"), making_of_package(found.card))
        network = parse("convnet-d2-w8", channels=1, size=28, classes=2)
        normalisation = Normalisation(found.card.normalisation.mean, found.card.normalisation.std)
        untrained = replace(network, classes=DIMENSIONS)
        return Case(
            file=package,
            package=found,
            members=groups.members,
            control=groups.control,
            classes=found.card.task.classes,
            network=network,
            normalisation=normalisation,
            recogniser=Recogniser(untrained, untrained.init(stream(0, "test")), normalisation),
            gates=Gates(),
            effort=Effort(references=4, students=2, steps=40, recogniser_steps=1),
            seed=0,
            device=torch.device("cpu"),
            progress=Silent(),
        )

    return case
