"""``compress`` as users meet it: every route on real files, and what else takes the result."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.test_api import folder, package

from meddistill import api
from meddistill.cli.main import app, main
from meddistill.compress import file
from meddistill.compress.essential import Effort
from meddistill.compress.load import load_model
from meddistill.compress.recreate import recreate
from meddistill.nets.find import find
from meddistill.package.read import read
from meddistill.pipeline.compress import compress
from meddistill.runtime.errors import InputError, VerificationError
from meddistill.train.model import load_model as load_trained
from meddistill.train.model import params_digest, save_model
from meddistill.train.protocol import Protocol, train_network
from meddistill.train.received import received
from meddistill.train.tutored import train_tutored

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = Effort(narrow=60, fresh=250, rounds=2, prune=30, quantise=60)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> Path:
    """Split folders of two classes, and a package of the same."""
    path = tmp_path_factory.mktemp("hospital")
    for seed, (split, count) in enumerate({"train": 30, "val": 15, "test": 20}.items()):
        folder(path / "source" / split, count, seed=10_000 * seed)
    package(path / "grey.mdz")
    return path


@pytest.fixture(scope="module")
def model(hospital) -> Path:
    """A model that is known to have seen the package alone."""
    api.train(hospital / "grey.mdz", hospital / "model", net="convnet-d1-w64", seeds=1, device="cpu")
    return hospital / "model"


def test_essential_weights_of_a_source(model, hospital, tmp_path, caplog):
    out = tmp_path / "small.mdw"
    report = compress(model, hospital / "source", out, drop=5, effort=QUICK)
    answer = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert out.stat().st_size == answer["bytes_after"] < answer["bytes_before"] / 3
    assert answer["saw"] == "patients" and "PATIENTS' IMAGES" in answer["warning"]
    floor = answer["judged"] - 0.05
    within = [one for one in answer["attempts"] if one["balanced_accuracy"] >= floor]
    assert min(one["bytes"] for one in within) == answer["stages"][-1]["bytes"]
    measured = api.evaluate(out, hospital / "source", device="cpu").as_dict()
    original = api.evaluate(model, hospital / "source", device="cpu").as_dict()
    for name, one in answer["scores"].items():
        assert one["after"] == pytest.approx(measured[name])
        assert one["before"] == pytest.approx(original[name])
        assert one["low"] <= one["change"] <= one["high"]
    assert answer["test_images"] == 40
    assert file.read(out).card.saw == "patients"
    assert load_model(out).origin is None


def test_a_size_is_kept_to_and_the_result_is_the_same_again(model, hospital, tmp_path):
    before = model.stat().st_size
    for name in ("a", "b"):
        report = compress(model, hospital / "source", tmp_path / name, size=1 / 4, effort=QUICK)
        assert report.bytes_after <= before / 4
        assert len(report.attempts) == 1
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with pytest.raises(InputError, match=r"the card alone takes \d+") as caught:
        compress(model, hospital / "source", tmp_path / "c", size=1e-6, effort=QUICK)
    around = int(re.findall(r"alone takes (\d+)", str(caught.value))[0])
    with pytest.raises(InputError, match="levels and norms"):
        compress(model, hospital / "source", tmp_path / "c", size=(around + 25) / before, effort=QUICK)


def test_a_small_network_taught_by_the_package_alone(model, hospital, tmp_path):
    out, before = tmp_path / "small.mdw", load_trained(model).network.width
    report = compress(
        model, hospital / "grey.mdz", out, size=1 / 12, route="small", test=hospital / "source", effort=QUICK
    )
    assert (report.route, report.saw, report.test_images) == ("small", "packages", 40)
    assert report.as_dict()["warning"] is None
    assert [name for name, _ in report.stages][:2] == ["original", "a fresh network"]
    assert load_model(out).network.width < before
    assert report.scores["accuracy"].after > 0.65


@pytest.mark.parametrize("net", ["vgg11-w4", "convnet-d1-w8-gn", "vit-d1-w16"])
def test_other_networks_keep_their_channels_or_teach_a_small_one(net, hospital, tmp_path):
    api.train(hospital / "grey.mdz", tmp_path / "other", net=net, seeds=1, device="cpu")
    before = load_trained(tmp_path / "other")
    report = compress(tmp_path / "other", hospital / "source", tmp_path / "same.mdw", size=1 / 3, effort=QUICK)
    same = load_model(tmp_path / "same.mdw")
    assert same.network == before.network and report.bytes_after <= report.bytes_before / 3
    assert all(len(param.unique()) <= QUICK.levels + 1 for param in same.params if param.ndim > 1)
    assert report.cost_after.bytes == report.cost_before.bytes > 4 * before.network.parameters
    out = tmp_path / "small.mdw"
    report = compress(tmp_path / "other", hospital / "source", out, size=0.5, route="small", effort=QUICK)
    small = load_model(out)
    kind, width = (net.split("-")[0], before.network.width) if net.startswith("vgg") else ("convnet-d1", 128)
    assert small.network.name.startswith(kind) and small.network.size == before.network.size
    assert small.network.width <= width
    told = api.show(out).as_dict()
    assert (told["saw"], told["answer"]) == ("patients", "unsigned") and "PATIENTS' IMAGES" in told["warning"]
    assert told["stored"] == small.network.parameters and told["bytes"] == report.bytes_after


def test_what_else_takes_a_compressed_model(model, hospital, tmp_path):
    import onnxruntime

    out, picture = tmp_path / "small.mdw", tmp_path / "x.png"
    compress(model, hospital / "source", out, size=1 / 3, effort=QUICK)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8)).astype(np.uint8)
    Image.fromarray(pixels).save(picture)
    [told] = api.predict(out, picture, device="cpu").as_dict()["predictions"]
    api.export_model(out, tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    [[found]] = [session.run(None, {"intensities": (pixels[None, None] / 255).astype(np.float32)})[0]]
    assert list(told["probabilities"].values()) == pytest.approx(found.tolist(), abs=1e-5)
    again = compress(out, hospital / "grey.mdz", tmp_path / "again.mdw", size=0.9, effort=QUICK)
    assert again.saw == "unknown"


def test_a_recipe_gives_the_same_bits(model, hospital, tmp_path):
    out = hospital / "recipe.mdw"
    report = api.compress(model, hospital / "grey.mdz", out, test=hospital / "source")
    assert (report.route, report.saw) == ("recreate", "packages")
    assert out.stat().st_size < 2000
    held, original = load_model(out), load_trained(model)
    assert all(torch.equal(a, b) for a, b in zip(held.params, original.params, strict=True))
    assert replace(held, params=()) == replace(original, params=())
    assert all(one.change == one.low == one.high == 0 for one in report.scores.values())
    (tmp_path / "alone.mdw").write_bytes(out.read_bytes())
    with pytest.raises(InputError, match=r"put the \.mdz file there"):
        load_model(tmp_path / "alone.mdw")


def test_a_recipe_elsewhere(hospital, model, tmp_path, monkeypatch):
    """Another machine sums in another order: a little is told, much is refused."""
    from meddistill.compress import load

    out = hospital / "recipe-elsewhere.mdw"
    api.compress(model, hospital / "grey.mdz", out, route="recreate")
    honest, told = load.recreate, []

    class Display(load.Silent):
        def warn(self, text: str) -> None:
            told.append(text)

    def changed(by: float):
        return lambda *given: tuple(param * (1 + by) for param in honest(*given))

    monkeypatch.setattr(load, "recreate", changed(1e-4))
    assert load_model(out, Display()).params
    assert "does not give the same bits" in told[0]
    monkeypatch.setattr(load, "recreate", changed(0.5))
    with pytest.raises(VerificationError, match="gives another model"):
        load_model(out, Display())


def test_a_recipe_is_followed_by_the_protocol_that_it_names(model, hospital):
    """Version 1 trained every network at the rate of the ConvNet; a later one no program of today can follow."""
    trained, sent = load_trained(model), read(hospital / "grey.mdz")
    network = find("vgg11-w4", channels=1, size=trained.network.size, classes=2)
    data = received(sent.enlarged, sent.labels, trained.normalisation, torch.device("cpu"))
    for version, rate in (("1", 0.03), ("2", 0.01)):
        origin = replace(trained.origin, protocol=version)
        made = recreate(replace(trained, network=network, origin=origin), sent)
        expected = train_network(network, data, Protocol(learning_rate=rate), origin.seed)
        assert all(map(torch.equal, made, expected))
    later = replace(sent, card=replace(sent.card, recipe=replace(sent.card.recipe, network="convnet-of-tomorrow")))
    assert all(map(torch.equal, recreate(trained, later), trained.params))  # nobody but a tutor has to know that one
    for unknown in ("99", "99-tutored"):
        with pytest.raises(VerificationError, match=f"recipe is of protocol {unknown},"):
            recreate(replace(trained, origin=replace(trained.origin, protocol=unknown)), sent)


def test_a_tutored_model_can_be_sent_as_its_recipe(hospital, tmp_path):
    """A network of another kind than the package's; the package's own tutors it again wherever the recipe is read."""
    api.train(hospital / "grey.mdz", tmp_path / "m", net="vgg11-w4", recipe="tutored", seeds=1, seed=4, device="cpu")
    trained, sent = load_trained(tmp_path / "m"), read(hospital / "grey.mdz")
    assert trained.origin.protocol == "2-tutored"
    data = received(sent.enlarged, sent.labels, trained.normalisation, torch.device("cpu"))
    tutor = find(sent.card.recipe.network, channels=1, size=trained.network.size, classes=2)
    assert trained.network != tutor
    expected = train_tutored(trained.network, tutor, data, Protocol(), 4)
    assert all(map(torch.equal, trained.params, expected))
    shutil.copy(hospital / "grey.mdz", tmp_path)
    api.compress(tmp_path / "m", tmp_path / "grey.mdz", tmp_path / "m.mdw", route="recreate")
    assert all(map(torch.equal, load_model(tmp_path / "m.mdw").params, expected))


def test_no_recipe_without_an_honest_origin(model, hospital, tmp_path):
    original = load_trained(model)
    touched = replace(original, params=tuple(param * 1.001 for param in original.params))
    save_model(tmp_path / "touched", touched)
    assert load_trained(tmp_path / "touched").origin is None
    other = replace(original.origin, weights=params_digest(touched.params))
    save_model(tmp_path / "liar", replace(touched, origin=other))
    for name, reason in (("liar", "does not give the same weights"), ("touched", "has no recipe")):
        with pytest.raises(InputError, match=reason):
            api.compress(tmp_path / name, hospital / "grey.mdz", tmp_path / "x", route="recreate")
    with pytest.raises(InputError, match="give --data FILE"):
        api.compress(model, hospital / "source", tmp_path / "x", route="recreate")
    assert not (tmp_path / "x").exists()


def test_the_command_line_shouts_about_patients(model, hospital, tmp_path, capsys, monkeypatch):
    from meddistill.pipeline import compress as pipeline

    monkeypatch.setattr(pipeline.compress, "__kwdefaults__", {**pipeline.compress.__kwdefaults__, "effort": QUICK})
    words = ["compress", str(model), "--data", str(hospital / "source"), "--out", str(tmp_path / "s.mdw")]
    assert main([*words, "--size", "1/4"]) == 0
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert "PATIENTS' IMAGES" in text.replace("\n  ", " ")
    assert re.search(r"^size +\S+ \S+ before, .* after: 1/\d+ of the file$", shown.out, re.MULTILINE)
    for text in ("fewer weights", "coded", "balanced accuracy %", "time an image"):
        assert text in shown.out
    assert main(["show", str(tmp_path / "s.mdw")]) == 0
    shown = capsys.readouterr().out
    assert "PATIENTS' IMAGES" in shown.replace("\n  ", " ") and "essential" in shown and "nobody vouches" in shown
    assert re.search(r"^size +\S+ \S+ of weights before, .* in the file: 1/\d+ of the weights$", shown, re.MULTILINE)
    assert main([*words, "--size", "1/4", "--drop", "1"]) == 2
    assert main([*words, "--size", "4"]) == 2
    assert main([*words, "--size", "small"]) == 2
    assert main([*words, "--drop", "-1"]) == 2


def test_what_is_advised_about_a_source_are_options_that_the_verb_has(model, hospital, tmp_path, capsys):
    """One broken image: as advised, it is left out. A leak: compress has nothing to do with it but say how to go on."""
    source = tmp_path / "source"
    shutil.copytree(hospital / "source", source)
    (source / "test" / "plain" / "0.png").write_bytes(b"broken")
    shutil.copy(source / "train" / "plain" / "1.png", source / "test" / "plain" / "copy.png")
    options = ["--device", "cpu", "--json"]
    for words in (
        ["evaluate", str(model), str(source), *options],
        ["train", str(hospital / "grey.mdz"), "--out", str(tmp_path / "m"), "--test", str(source), *options],
        ["audit", str(hospital / "grey.mdz"), "--members", str(source), "--references", "0", *options],
        ["compress", str(model), "--data", str(source), "--out", str(tmp_path / "s.mdw"), "--json"],
    ):
        assert main(words) == 2
        told = json.loads(capsys.readouterr().out)["error"]["message"]
        assert "--skip-unreadable" in told and "duplicate-across-splits" in told
        known = {name for argument in app[words[0]].assemble_argument_collection() for name in argument.names}
        assert set(re.findall(r"--[a-z-]+", told)) <= known
    assert main(["evaluate", str(model), str(source), *options, "--skip-unreadable"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 40


def test_sign_and_verify_take_a_compressed_model(model, hospital, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDDISTILL_CONFIG", str(tmp_path / "config"))
    out, key = tmp_path / "small.mdw", tmp_path / "key.pem"
    compress(model, hospital / "source", out, size=1 / 3, effort=QUICK)
    assert api.verify(out).answer == "unsigned"
    api.keygen(key)
    api.sign(out, key)
    assert api.verify(out).answer == "stranger"
    assert api.verify(out, key=tmp_path / "key.pub.pem").answer == "trusted"
    assert load_model(out).classes == load_trained(model).classes
    with pytest.raises(InputError, match="compressed model, not a package"):
        api.train(out, tmp_path / "x")
    out.write_bytes(out.read_bytes().replace(b"weights.bin", b"weights.bim"))
    assert not api.verify(out).ok
