"""Classes that only the side tells apart: nothing is mirrored from the plan to the last training, and who forgets is
warned.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tests.told import Told

from meddistill import api
from meddistill.audit.shadows import plan_of
from meddistill.cli.main import main
from meddistill.compress.load import load_model
from meddistill.nets.augment import Augmentation, usual
from meddistill.nets.convnet import parse
from meddistill.package.read import read
from meddistill.package.readme import readme
from meddistill.package.types import Card
from meddistill.pipeline import sides
from meddistill.pipeline.dp import looks_of, noisy_identity, noisy_plan
from meddistill.pipeline.material import material
from meddistill.pipeline.plan import Plan
from meddistill.pipeline.plan_file import from_toml, to_toml
from meddistill.pipeline.sides import differ_by_side
from meddistill.pipeline.teach import teacher_identity
from meddistill.runtime.errors import VerificationError
from meddistill.runtime.progress import Silent

SIDE = 10
SHORT = """
method = "{method}"
images_per_class = 2
size = 10
network = "convnet-d2-w8"
[teachers]
count = {teachers}
steps = 90
snapshot_every = 3
batch = 16
[matching]
warm_up = 40
iterations = 40
student_steps = 2
segment = 2
batch = 4
[evaluation]
seeds = 1
random_sets = 0
"""
UNFLIPPED = Augmentation(flip=0)


@pytest.fixture(scope="module")
def sided(tmp_path_factory):
    """Bright on the left or on the right, and nothing else tells the classes apart."""
    folder, rng = tmp_path_factory.mktemp("sided") / "eyes", np.random.default_rng(3)
    for name in ("OD", "OS"):
        (folder / name).mkdir(parents=True)
        for index in range(40):
            pixels = rng.integers(0, 120, (SIDE, SIDE))
            pixels[2:8, slice(0, 4) if name == "OD" else slice(6, 10)] += 110
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index}.png")
    return folder


def distilled(folder, sided, method="dm", teachers=0, **options):
    folder.mkdir()
    (folder / "plan.toml").write_text(SHORT.format(method=method, teachers=teachers))
    return api.distill(sided, folder / "x.mdz", plan=folder / "plan.toml", device="cpu", **options)


@pytest.fixture(scope="module")
def package(tmp_path_factory, sided):
    return distilled(tmp_path_factory.mktemp("unflipped") / "run", sided, flip=False)


def test_sides_are_learned_without_mirrored_images_and_not_with_them(tmp_path, sided):
    without = distilled(tmp_path / "without", sided, "meddistill", 2, flip=False)
    assert without.evaluated.results["test"]["distilled"]["balanced_accuracy"].mean > 0.95
    trained = api.train(without.package, tmp_path / "model", test=sided, seeds=1, device="cpu")
    assert trained.scores["balanced_accuracy"].mean > 0.95
    flipped = distilled(tmp_path / "with", sided, "meddistill", 2)
    assert flipped.evaluated.results["test"]["distilled"]["balanced_accuracy"].mean < 0.75


def test_the_card_says_so_and_where_images_are_mirrored_it_is_as_it_always_was(package):
    card = read(package.package).card
    assert card.recipe.plan["flip"] is False
    assert not card.flip
    assert "do not mirror images" in readme(card)
    told = card.to_dict()
    del told["recipe"]["plan"]["flip"]
    before = Card.from_dict(told)
    assert before.flip
    assert "mirror" not in readme(before)
    assert "flip" not in Plan().flat()
    told["recipe"]["plan"]["flip"] = "false"
    with pytest.raises(VerificationError, match=r"plan\.flip: expected true or false"):
        Card.from_dict(told)


def test_shadows_repeat_it(package):
    assert not plan_of(read(package.package).card).flip


def test_models_obey_wherever_they_are_trained_again(package, sided, tmp_path):
    model = tmp_path / "model"
    api.train(package.package, model, seeds=1, device="cpu")
    found = load_model(model)
    assert not found.flip
    for data in (package.package, sided):
        assert material(found, data, None, api._options(None), Silent()).augmentation == UNFLIPPED
        flipped = material(replace(found, flip=True), data, None, api._options(None), Silent())
        assert (flipped.augmentation == UNFLIPPED) == (data == package.package)
    recipe = package.package.parent / "model.mdw"
    api.compress(model, package.package, recipe, route="recreate")
    again = load_model(recipe)
    assert not again.flip
    assert all(one.equal(other) for one, other in zip(found.params, again.params, strict=True))


def test_merged_packages_say_it_too_if_one_of_them_does(package, tmp_path, sided):
    mirrored = distilled(tmp_path / "mirrored", sided, seed=2)
    for file, expected in ((mirrored.package, 1), (package.package, 0)):
        heard = Told()
        api.train(file, tmp_path / "of one", seeds=1, device="cpu", progress=heard)
        warned = [text for text in heard.warnings if "mirrored" in text]
        assert len(warned) == expected
        assert all("OD and OS" in text and "ask its sender" in text for text in warned)
    assert "flip" not in read(mirrored.package).card.recipe.plan
    files, told = [mirrored.package.rename(tmp_path / "west.mdz"), package.package], Told()
    note = "no image is mirrored in training: left and right tell classes of x.mdz apart"
    assert note in api.merge(files, tmp_path / "both.mdz").reconciled
    assert not read(tmp_path / "both.mdz").card.flip
    api.train(files, tmp_path / "of both", seeds=1, device="cpu", progress=told)
    assert note in told.notes
    api.train(tmp_path / "both.mdz", tmp_path / "of merged", seeds=1, device="cpu")
    assert not load_model(tmp_path / "of both").flip
    assert not load_model(tmp_path / "of merged").flip


def test_one_setting_of_the_plan_decides_for_all_of_a_run():
    plan = from_toml("flip = false", "here")
    assert "flip = true # mirror half of the images" in to_toml(Plan())
    network = parse(plan.network, channels=1, size=28, classes=2)
    for one, augmentation in ((plan, UNFLIPPED), (Plan(), Augmentation())):
        assert one.augmentation == usual(one.flip) == augmentation
        assert one.teacher_plan().augmentation == one.loop_plan((0, 0)).augmentation == augmentation
        assert looks_of(one, network).augmentation == noisy_plan(one).augmentation == augmentation


def test_runs_and_teachers_of_before_are_found_again_and_others_are_not_taken_for_them():
    before, without = Plan(), Plan(flip=False)
    for told in (Plan.identity, Plan.flat, teacher_identity, noisy_identity):
        assert "flip" not in told(before)
        assert told(without) == told(before) | {"flip": False}


@pytest.mark.parametrize(
    "names",
    [
        ("left", "right"),
        ("Left eye", "Right eye"),
        ("kneeLeft", "kneeRight"),
        ("L", "R"),
        ("lung_left", "lung_right"),
        ("left-sided effusion", "right-sided effusion"),
        ("linke Brust", "rechte Brust"),
        ("linksseitig", "rechtsseitig"),
        ("œil gauche", "œil droit"),
        ("oculus dexter", "oculus sinister"),
        ("situs solitus", "situs inversus"),
        ("左眼", "右眼"),
    ],
)
def test_names_that_differ_by_side(names):
    assert differ_by_side(*names)


@pytest.mark.parametrize(
    "names",
    [
        ("left", "left"),
        ("left", "normal"),
        ("left", "left lung"),
        ("left lung", "right kidney"),
        ("bright", "light"),
        ("L1", "S1"),
        ("HER2+", "HER2-"),
        ("grade 1", "grade 2"),
        ("normal", "pneumonia"),
    ],
)
def test_names_that_do_not(names):
    assert not differ_by_side(*names)


def test_a_thousand_names_of_a_stranger_are_each_taken_apart_once(monkeypatch):
    apart, taken = sides._words, []
    monkeypatch.setattr(sides, "_words", lambda name: taken.append(name) or apart(name))
    names = [f"left {'lung ' * 18}{place}" for place in range(999)]
    assert sides.received_sides(True, names) == ()
    [warned] = sides.received_sides(True, [*names, names[0].replace("left", "right")])
    assert "left" in warned.message
    assert len(taken) == 999 + 1000
    assert sides.received_sides(False, names) == () and len(taken) == 1999


def test_who_leaves_the_option_out_is_warned(sided, source, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for options, expected in (([], 1), (["--no-flip"], 0)):
        main(["inspect", str(sided), "--images-per-class", "2", "--method", "dm", "--json", *options])
        found = json.loads(capsys.readouterr().out)
        warned = [problem for problem in found["problems"] if problem["code"] == "mirrored-sides"]
        assert len(warned) == expected
        assert found["plan"]["flip"] is not bool(options)
        assert all("OD and OS" in one["message"] and "--no-flip" in one["message"] for one in warned)
    for folder, options, expected in ((sided, {}, 1), (sided, {"flip": False}, 0), (source, {}, 0)):
        told, out = Told(), tmp_path / f"{folder.name}{len(options)}"
        distilled(out, folder, progress=told, **options)
        assert len([text for text in told.warnings if "--no-flip" in text]) == expected
