"""The functions behind the verbs: what a receiver does with a package, on real files."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save as save_file
from sklearn.metrics import roc_auc_score

from meddistill import api
from meddistill.nets.find import find
from meddistill.package.read import read
from meddistill.package.types import Card, CohortCounts, Images, Normalisation, Package, Recipe, Sizes, Software, Task
from meddistill.package.write import write
from meddistill.runtime.errors import InputError, OutputError, VerificationError
from meddistill.runtime.progress import Silent
from meddistill.teachers import images as teachers
from meddistill.train.combine import Part, combine
from meddistill.train.model import load_model
from meddistill.train.protocol import PROTOCOL_VERSION, Protocol, train_network
from meddistill.train.received import received
from meddistill.train.renaming import read_renaming
from meddistill.train.tutored import train_tutored

SIDE, EACH = 8, 8
CLASSES = ("plain", "striped")
pytestmark = pytest.mark.usefixtures("one_thread")
METRICS = ("balanced_accuracy", "auroc", "accuracy", "expected_calibration_error")


def pixels(striped: bool, seed: int, channels: int = 1) -> np.ndarray:
    """``(S, S)`` or ``(S, S, 3)``: noise on grey or on stripes; colour images are tinted."""
    rng = np.random.default_rng([seed, striped])
    ground = np.tile(np.arange(SIDE) % 4 // 2 * 140, (SIDE, 1)) if striped else np.full((SIDE, SIDE), 70)
    grey = (ground + rng.integers(0, 100, (SIDE, SIDE))).astype(np.uint8)
    return grey if channels == 1 else np.stack([grey, grey // 10 * 9, grey // 10 * 8], -1)


def folder(path: Path, count: int, *, channels: int = 1, classes: tuple[str, ...] = CLASSES, seed: int = 0) -> Path:
    """Class folders; every class but the first is striped."""
    for place, name in enumerate(classes):
        (path / name).mkdir(parents=True)
        for index in range(count):
            image = pixels(place > 0, seed + 1000 * place + index, channels)
            Image.fromarray(image).save(path / name / f"{index}.png")
    return path


def package(
    path: Path, channels: int = 1, classes: tuple[str, ...] = CLASSES, *, seed: int = 5000, flipped: bool = False
) -> Path:
    """A package of eight images of each class, drawn as those of :func:`folder` are, or labelled the wrong way."""
    drawn = [
        pixels((place > 0) != flipped, seed + index, channels) for place in range(len(classes)) for index in range(EACH)
    ]
    images = np.stack([image.reshape(SIDE, SIDE, channels).transpose(2, 0, 1) for image in drawn]) / 255
    card = Card(
        software=Software(name="meddistill", version="0.1.0"),
        task=Task(classes=classes, labels="soft"),
        images=Images(count=EACH * len(classes), per_class=EACH, size=SIDE, channels=channels),
        normalisation=Normalisation(mean=(0.45,) * channels, std=(0.2,) * channels),
        recipe=Recipe(
            method="mtt", seed=0, start="noise", network="convnet-d1-w8", plan={"fit": "crop", "leak": "drop"}
        ),
        cohort=CohortCounts(counts={"train": dict.fromkeys(classes, 50)}),
        contains_real_images=False,
        bytes=Sizes(cohort_train=100_000),
    )
    labels = np.eye(len(classes), dtype=np.float32).repeat(EACH, 0) * np.float32(0.8) + np.float32(0.2 / len(classes))
    steps = np.array([0.01], np.float32)
    write(path, Package(images=images.astype(np.float32), labels=labels, step_sizes=steps, card=card))
    return path


@pytest.fixture(scope="module")
def grey(tmp_path_factory) -> Path:
    return package(tmp_path_factory.mktemp("grey") / "grey.mdz")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Split folders without a validation split: 12 + 5 images of each class."""
    path = tmp_path_factory.mktemp("pictures")
    folder(path / "train", 12)
    folder(path / "test", 5, seed=100)
    return path


@pytest.fixture(scope="module")
def model(grey, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model"
    api.train(grey, path, seeds=1, device="cpu")
    return path


@pytest.fixture(scope="module")
def colour_model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("colour")
    api.train(package(path / "colour.mdz", channels=3), path / "model", seeds=1, device="cpu")
    return path / "model"


def test_train_scores_every_seed_on_test_images(grey, pictures, tmp_path):
    answer = api.train(grey, tmp_path / "m", test=pictures, seeds=3, device="cpu").as_dict()
    json.dumps(answer, allow_nan=False)
    assert (answer["network"], answer["seeds"], answer["test_images"]) == ("convnet-d1-w8", 3, 10)
    assert answer["model"] == str(tmp_path / "m")
    for name in METRICS:
        assert len(answer[name]["per_seed"]) == 3
        assert answer[name]["low"] <= answer[name]["mean"] <= answer[name]["high"]
    assert answer["balanced_accuracy"]["mean"] > 0.8


def test_train_warns_unless_a_trusted_key_signed_and_refuses_what_is_broken(grey, tmp_path, monkeypatch):
    class Listening(Silent):
        def __init__(self):
            self.warnings = []

        def warn(self, text):
            self.warnings.append(text)

    def warnings():
        progress = Listening()
        api.train(path, tmp_path / "m", seeds=1, device="cpu", progress=progress)
        return progress.warnings

    monkeypatch.setenv("MEDDISTILL_CONFIG", str(tmp_path / "config"))
    path = tmp_path / "signed.mdz"
    path.write_bytes(grey.read_bytes())
    assert "not signed" in warnings()[0]
    api.keygen(tmp_path / "key.pem")
    api.sign(path, tmp_path / "key.pem")
    assert "a key that you do not trust" in warnings()[0]
    api.trust(tmp_path / "key.pub.pem", name="St Mary")
    assert warnings() == []
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VerificationError):
        warnings()


def test_the_model_is_that_of_the_first_seed(grey, pictures, tmp_path):
    trained = api.train(grey, tmp_path / "m", test=pictures, seeds=2, seed=7, device="cpu").as_dict()
    scored = api.evaluate(tmp_path / "m", pictures, device="cpu").as_dict()
    for name in METRICS:
        assert scored[name] == trained[name]["per_seed"][0]
    api.train(grey, tmp_path / "alone", seeds=1, seed=7, device="cpu")
    assert (tmp_path / "alone").read_bytes() == (tmp_path / "m").read_bytes()
    api.train(grey, tmp_path / "other", seeds=1, seed=8, device="cpu")
    assert (tmp_path / "other").read_bytes() != (tmp_path / "m").read_bytes()


def test_a_single_package_trains_as_the_protocol_says(grey, tmp_path):
    """What is written down in version 2 of the protocol, step by step; combining packages must not touch it."""
    api.train([grey], tmp_path / "m", seeds=1, seed=3, device="cpu")
    trained, read_back = load_model(tmp_path / "m"), read(grey)
    norm = teachers.Normalisation(read_back.card.normalisation.mean, read_back.card.normalisation.std)
    data = received(read_back.images, read_back.labels, norm, torch.device("cpu"))
    expected = train_network(trained.network, data, Protocol(), 3)
    assert PROTOCOL_VERSION == "2"
    assert all(map(torch.equal, trained.params, expected))
    assert trained.normalisation == norm


def test_only_a_tutor_has_to_be_a_network_that_is_known(grey, tmp_path):
    """A package made with a network of a later version still trains others."""
    sent = read(grey)
    later = replace(sent, card=replace(sent.card, recipe=replace(sent.card.recipe, network="convnet-of-tomorrow")))
    write(tmp_path / "later.mdz", later)
    told = []

    class Display(Silent):
        def note(self, text: str) -> None:
            told.append(text)

    api.train(tmp_path / "later.mdz", tmp_path / "m", net="vgg11-w4", seeds=1, device="cpu", progress=Display())
    assert any("made for 'convnet-of-tomorrow': with --recipe tutored vgg11-w4" in text for text in told)
    with pytest.raises(InputError, match="unknown network 'convnet-of-tomorrow'"):
        api.train(tmp_path / "later.mdz", tmp_path / "n", net="vgg11-w4", recipe="tutored", seeds=1, device="cpu")
    assert not (tmp_path / "n").exists()


def test_the_first_of_several_packages_names_the_tutor_of_them_all(grey, tmp_path):
    """In colour where one of them is, and of all classes, whatever they are called there."""
    tinted = package(tmp_path / "tinted.mdz", channels=3, classes=("even", "striped", "more"), seed=7000)
    (tmp_path / "names.csv").write_text("class,becomes\neven,plain\n")
    given = {"net": "vgg11-w4", "recipe": "tutored", "classes": tmp_path / "names.csv", "seeds": 1, "seed": 3}
    assert api.train([grey, tinted], tmp_path / "m", device="cpu", **given).as_dict()["recipe"] == "tutored"
    trained, names = load_model(tmp_path / "m"), read_renaming(tmp_path / "names.csv")
    assert trained.classes == ("plain", "striped", "more") and trained.origin.protocol == "2-tutored"
    both = combine([Part(file.name, read(file)) for file in (grey, tinted)], names)
    data = received(both.images, both.labels, both.normalisation, torch.device("cpu"))
    tutor = find("convnet-d1-w8", channels=3, size=SIDE, classes=3)
    expected = train_tutored(trained.network, tutor, data, Protocol(), 3)
    assert all(map(torch.equal, trained.params, expected))


def test_several_packages_are_trained_on_together_and_each_ones_part_is_told(grey, pictures, tmp_path):
    """The second package has its labels the wrong way round: without it all is well, without the first nothing is."""
    other = package(tmp_path / "other.mdz", seed=7000, flipped=True)
    answer = api.train([grey, other], tmp_path / "m", test=pictures, seeds=2, device="cpu").as_dict()
    json.dumps(answer, allow_nan=False)
    alone = api.train(grey, tmp_path / "alone", test=pictures, seeds=2, device="cpu").as_dict()
    first, second = answer["packages"]
    assert (first["package"], first["images"], second["images"]) == (str(grey), 2 * EACH, 2 * EACH)
    for name in METRICS:
        assert second["without"][name] == alone[name]
        gains = np.subtract(answer[name]["per_seed"], alone[name]["per_seed"])
        assert second["gain"][name]["per_seed"] == pytest.approx(gains)
    assert first["without"]["accuracy"]["mean"] < 0.3  # what is left calls stripes plain
    assert first["gain"]["accuracy"]["mean"] > 0
    assert load_model(tmp_path / "m").classes == CLASSES
    silent = api.train([grey, other], tmp_path / "silent", seeds=1, device="cpu").as_dict()
    assert [entry.keys() for entry in silent["packages"]] == [{"package", "images"}] * 2
    assert (tmp_path / "silent").read_bytes() == (tmp_path / "m").read_bytes()


def test_no_package_is_no_training(tmp_path):
    with pytest.raises(InputError, match="no package was given"):
        api.train([], tmp_path / "m")


def test_train_without_test_images_has_no_scores(grey, tmp_path):
    answer = api.train(grey, tmp_path / "m", net="convnet-d2-w4", seeds=1, device="cpu").as_dict()
    assert answer["network"] == "convnet-d2-w4"
    assert answer.keys() == {"model", "network", "recipe", "seeds", "seconds"}


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"seeds": 0}, "0 seeds"),
        ({"net": "resnet19"}, "unknown network 'resnet19'"),
        ({"net": "convnet-d5-w4"}, "halves the image"),
        ({"device": "abacus"}, "device 'abacus'"),
        ({"test": "missing"}, "missing"),
    ],
)
def test_train_refuses_before_it_trains(grey, tmp_path, wrong, expected):
    with pytest.raises(InputError, match=expected):
        api.train(grey, tmp_path / "m", **wrong)
    assert not (tmp_path / "m").exists()


def test_train_into_an_unwritable_place(grey, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file, not a folder"):
        api.train(grey, tmp_path / "file" / "m", seeds=1)


def test_evaluate_a_split_or_all(model, pictures):
    """Twelve training images of a class are two for validation and ten for training, or nearly so."""
    images = {split: api.evaluate(model, pictures, split=split).images for split in ("train", "val", "test", "all")}
    assert images["test"] == 10
    assert images["train"] + images["val"] == 24
    assert images["all"] == 34
    assert images["val"] > 0


def test_evaluate_tells_the_recall_of_each_class(model, pictures):
    answer = api.evaluate(model, pictures, split="all").as_dict()
    json.dumps(answer, allow_nan=False)
    recalls = [answer["per_class"][name]["recall"] for name in CLASSES]
    assert [answer["per_class"][name]["images"] for name in CLASSES] == [17, 17]
    assert answer["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert answer["balanced_accuracy"] > 0.8


def test_a_source_may_lack_a_class_and_order_does_not_matter(tmp_path, model):
    """Only the model's second class is there, which the source counts as its first."""
    folder(tmp_path / "all" / "test", 6, classes=("plain", "striped"))
    whole = api.evaluate(model, tmp_path / "all", split="test").as_dict()["per_class"]["striped"]
    for path in (tmp_path / "all" / "test" / "plain").iterdir():
        path.unlink()
    (tmp_path / "all" / "test" / "plain").rmdir()
    answer = api.evaluate(model, tmp_path / "all", split="test").as_dict()
    assert answer["per_class"] == {"plain": {"recall": None, "images": 0}, "striped": whole}
    assert answer["balanced_accuracy"] == answer["accuracy"] == whole["recall"]


def test_unknown_classes_are_named(model, tmp_path):
    source = folder(tmp_path / "pictures", 5, classes=("plain", "spotted", "dotted"))
    with pytest.raises(InputError, match=r"dotted, spotted.*plain, striped"):
        api.evaluate(model, source, split="all")


def test_an_empty_split_says_what_there_is(model, tmp_path):
    folder(tmp_path / "pictures" / "test", 5)
    with pytest.raises(InputError, match=r"no images in its val split.*test 10"):
        api.evaluate(model, tmp_path / "pictures", split="val")


def test_a_colour_model_takes_grey_images_as_three_equal_channels(colour_model, pictures):
    found = api.evaluate(colour_model, pictures, split="all")
    model = load_model(colour_model)
    paths = sorted(pictures.glob("*/*/*.png"))
    labels = np.array([path.parent.name == "striped" for path in paths])
    grey = np.stack([np.asarray(Image.open(path)) for path in paths]) / 255
    inputs = torch.from_numpy((np.repeat(grey[:, None], 3, 1) - 0.45) / 0.2).float()
    striped = model.network.apply(model.params, inputs).double().softmax(1)[:, 1].numpy()
    assert found.images == len(paths) == 34
    assert found.scores.auroc == pytest.approx(roc_auc_score(labels, striped))
    assert found.scores.accuracy == pytest.approx(((striped > 0.5) == labels).mean())


def test_a_colour_model_on_colour_images(colour_model, tmp_path):
    assert api.evaluate(colour_model, folder(tmp_path / "c", 6, channels=3), split="all").scores.accuracy > 0.8


def test_a_grey_model_refuses_colour_images(model, tmp_path):
    with pytest.raises(InputError, match=r"colour images.*convert them to grey"):
        api.evaluate(model, folder(tmp_path / "c", 5, channels=3), split="all")


def test_a_package_given_for_a_model_is_not_called_broken(grey, pictures, tmp_path):
    advice = r"grey\.mdz is a package, not a model: train one from it with `meddistill train .*grey\.mdz --out MODEL`$"
    for use in (
        lambda: api.evaluate(grey, pictures),
        lambda: api.predict(grey, next(pictures.rglob("*.png"))),
        lambda: api.compress(grey, pictures, tmp_path / "x"),
        lambda: api.export_model(grey, tmp_path / "x"),
    ):
        with pytest.raises(InputError, match=advice):
            use()
    assert not (tmp_path / "x").exists()
    with pytest.raises(InputError, match="meddistill train"):
        api.evaluate(tmp_path / "missing", pictures)


def test_a_model_given_for_a_package_is_not_called_broken(grey, model, tmp_path):
    api.keygen(tmp_path / "key.pem")
    api.compress(model, grey, tmp_path / "recipe.mdw")
    trained = tmp_path / "m.safetensors"
    trained.write_bytes(model.read_bytes())
    takers = {
        "train": lambda file: api.train(file, tmp_path / "x"),
        "merge": lambda file: api.merge([grey, file], tmp_path / "x.mdz"),
        "report": lambda file: api.report(file, tmp_path / "x"),
        "export": lambda file: api.export(file, tmp_path / "x", to="npz"),
    }
    for use in takers.values():
        with pytest.raises(InputError, match=r"m\.safetensors is a trained model, not a package .*meddistill predict"):
            use(trained)
        with pytest.raises(InputError, match=r"recipe\.mdw is a compressed model, not a package"):
            use(tmp_path / "recipe.mdw")
    for use in (api.verify, api.show, lambda file: api.sign(file, tmp_path / "key.pem")):
        with pytest.raises(InputError, match=r"trained model.*meddistill compress"):
            use(trained)
    assert trained.read_bytes() == model.read_bytes() and not list(tmp_path.glob("x*"))
    assert api.verify(tmp_path / "recipe.mdw").answer == "unsigned"


def test_other_safetensors_files_are_no_models(grey, tmp_path):
    (tmp_path / "x.mdz").write_bytes(save_file({"a": np.zeros(3)}, {"format": "pt"}))
    assert api.verify(tmp_path / "x.mdz").answer == "broken"


def test_show(grey):
    answer = api.show(grey).as_dict()
    json.dumps(answer, allow_nan=False)
    assert answer["task"]["classes"] == ["plain", "striped"]
    assert answer["bytes"] == grey.stat().st_size
    assert answer["factor"] == pytest.approx(100_000 / grey.stat().st_size, rel=0.01)


def test_verify_answers_and_show_refuses(grey, tmp_path):
    assert api.verify(grey).as_dict()["answer"] == "unsigned"
    broken = tmp_path / "broken.mdz"
    broken.write_bytes(grey.read_bytes()[:-40])
    found = api.verify(broken).as_dict()
    assert (found["ok"], found["answer"]) == (False, "broken")
    assert found["problems"]
    for refuse in (api.show, lambda path: api.train(path, tmp_path / "m", seeds=1)):
        with pytest.raises(VerificationError):
            refuse(broken)
    with pytest.raises(InputError, match="there is no file"):
        api.verify(tmp_path / "missing.mdz")


def test_methods():
    listed = api.methods().as_dict()["methods"]
    assert {"mtt", "mtt-soft"} <= {method["name"] for method in listed}
    assert all(method["summary"] and "arXiv" in method["source"] for method in listed)
    chosen = {one["name"]: one for one in api.methods().as_dict()["coresets"]}
    assert list(chosen) == ["random", "herding", "k-center"]
    assert all(one["contains_patients"] and one["summary"] and one["cost"] for one in chosen.values())
    assert all((one["family"], list(one["learns"])) == ("coresets", []) for one in chosen.values())
    assert "arXiv" in chosen["herding"]["source"] and "arXiv" in chosen["k-center"]["source"]
    beside = {one["name"]: one for one in api.methods().as_dict()["comparisons"]}
    assert {"scratch", "skd", "byol", "simsiam", "simclr", "mae", "imagenet"} == set(beside)
    assert all(one["summary"] and one["source"] for one in beside.values())


def test_inspect_writes_the_plan_that_distill_follows(pictures, tmp_path):
    plan = tmp_path / "plan.toml"
    answer = api.inspect(pictures, images_per_class=1, plan_out=plan, device="cpu").as_dict()
    json.dumps(answer, allow_nan=False)
    assert answer["plan"]["size"] == SIDE
    assert answer["plan_file"] == str(plan)
    assert answer["estimate"]["seconds"] == pytest.approx(sum(answer["estimate"]["stages"].values()), abs=0.3)
    short = plan.read_text()
    for setting, value in (
        ("steps = 360", "steps = 40"),
        ("warm_up = 300", "warm_up = 1"),
        ("iterations = 400", "iterations = 1"),
    ):
        assert setting in short
        short = short.replace(setting, value)
    plan.write_text(short)
    report = api.distill(pictures, tmp_path / "x.mdz", plan=plan, full_data=True, device="cpu").as_dict()
    json.dumps(report, allow_nan=False)
    assert report["plan"]["matching"]["iterations"] == 1
    assert set(report["results"]["test"]) == {"distilled", "random", "full"}
    assert report["bytes"] == (tmp_path / "x.mdz").stat().st_size
    assert Path(report["preview"]).is_file()
