"""The audit of a model: what has learned few patients by heart fails, what never saw them does not, others are told."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from tests.audit.conftest import EMBEDDED, save

from meddistill import api
from meddistill.audit import attempt, hygiene, run_model, weights
from meddistill.audit.case import Effort
from meddistill.audit.finding import EXIT_CODES, Finding
from meddistill.audit.people import Groups
from meddistill.audit.references import sureness_of
from meddistill.audit.run_model import audit_model, is_model
from meddistill.cli.main import main
from meddistill.cli.text import auditing
from meddistill.compress import file
from meddistill.compress.card import ModelCard, Saw, Tensor
from meddistill.compress.codebook import code
from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet
from meddistill.package.types import Software
from meddistill.report.findings import read_audit
from meddistill.runtime.errors import InputError, VerificationError
from meddistill.teachers.images import Normalisation
from meddistill.train.model import Model, Origin, describe, params_digest, save_model
from meddistill.train.protocol import Protocol, TrainingSet, train_network

EFFORT = Effort(references=4, steps=40, recogniser_steps=5)
FEW = 120
NETWORK = ConvNet(width=24, depth=2, channels=1, size=28, classes=2)
NORMALISATION = Normalisation((0.5,), (0.25,))
STILL = Augmentation(shift=0, scale=0, rotate=0, flip=0, brightness=0, contrast=0)


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    """860 different images in random order, with classes by lot: who is right of them has learned them by heart."""
    with np.load(EMBEDDED) as embedded:
        pixels = embedded["train_images"]
    _, first = np.unique(pixels.reshape(len(pixels), -1), axis=0, return_index=True)
    order = np.random.default_rng(5).permutation(first)[: 620 + 2 * FEW]
    return pixels[order], np.random.default_rng(6).integers(0, 2, (len(order), 1)).astype(np.uint8)


@pytest.fixture(scope="module")
def source(images, tmp_path_factory) -> Path:
    """120 training images, 20 validation images, 600 test images; the last 120 are in no split."""
    return save(tmp_path_factory.mktemp("few") / "pneumoniamnist.npz", *(part[:-FEW] for part in images), FEW, 20)


def by_heart(pixels: np.ndarray, known: np.ndarray) -> Model:
    """A network that has seen the same few images, unmoved, many times."""
    inputs = NORMALISATION.apply(torch.from_numpy(pixels[:, None].astype(np.float32) / 255))
    data = TrainingSet(inputs, torch.eye(2)[torch.from_numpy(known[:, 0].astype(np.int64))])
    params = train_network(NETWORK, data, Protocol(steps=400, batch=40, augmentation=STILL), 0)
    return Model(NETWORK, params, ("normal", "pneumonia"), NORMALISATION, "crop", "stop", 0)


def compressed(model: Model, path: Path, saw: Saw = "patients") -> Path:
    """The model with 255 levels a tensor."""
    tensors = [code(param.numpy(), 255) for param in model.params]
    card = ModelCard(
        software=Software(name="meddistill", version="0"),
        kind="network",
        route="essential",
        saw=saw,
        model=describe(model),
        weights=file.values_digest(tensors),
        original=4 * NETWORK.parameters,
    )
    file.write(path, card, tensors)
    return path


@pytest.fixture(scope="module")
def of_members(images, tmp_path_factory) -> Path:
    return compressed(by_heart(*(part[:FEW] for part in images)), tmp_path_factory.mktemp("models") / "members.mdw")


@pytest.fixture(scope="module")
def strangers_model(images) -> Model:
    return by_heart(*(part[-FEW:] for part in images))


def outcomes(report):
    return {found.attack: found.outcome for found in report.findings}


def test_weights_that_know_few_patients_by_heart_fail(of_members, source, tmp_path):
    report = audit_model(of_members, str(source), effort=EFFORT, device="cpu", out=tmp_path / "audit.json")
    assert report.groups["members"]["patients"] == FEW
    found = {one.attack: one for one in report.findings}
    assert list(found) == ["hygiene", "population", "membership", "labels"]
    assert found["population"].figures["groups"] != "differ"
    assert outcomes(report)["membership"] == "fail"
    assert (report.outcome, report.exit_code) == ("fail", EXIT_CODES["fail"])
    assert "a pass of these attacks does not make them harmless" in found["hygiene"].warnings[0]
    figures = found["membership"].figures
    assert (set(figures["scores"]), figures["saw"]) == ({"sureness", "likelihood", "ratio"}, "patients")
    assert all(one["area"]["low"] > 0.5 for one in figures["scores"].values())
    written = json.loads((tmp_path / "audit.json").read_text())
    assert written == report.as_dict()
    assert (written["model"], written["weights_sha256"]) == (str(of_members), file.read(of_members).card.weights)
    assert not {"package", "tensors_sha256", "attached"} & set(written)
    with pytest.raises(InputError, match="is of a model"):
        read_audit(tmp_path / "audit.json", "0" * 64)


def test_weights_that_never_saw_the_members_do_not_fail(strangers_model, source, tmp_path):
    report = audit_model(compressed(strangers_model, tmp_path / "others.mdw"), str(source), effort=EFFORT, device="cpu")
    assert outcomes(report)["membership"] in ("pass", "inconclusive")
    assert outcomes(report)["labels"] in ("pass", "inconclusive")
    assert report.outcome in ("pass", "inconclusive")


def test_the_raw_score_is_the_models_own_answer(of_members, source):
    """And a quick audit asks nothing of it."""
    seen = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_model, "_compared", lambda case, groups: seen.append(case) or [])
        audit_model(of_members, str(source), effort=replace(EFFORT, recogniser_steps=1), device="cpu")
    (case,) = seen
    few = replace(case, effort=replace(EFFORT, references=2, steps=1))
    scores = weights.attack(weights.prepare(few), "members")
    model = run_model.load_model(of_members)
    inputs = NORMALISATION.apply(case.members.images(slice(0, 5)))
    views = [NETWORK.apply(model.params, view).double().softmax(1) for view in (inputs, inputs.flip(3))]
    own = torch.from_numpy(case.members.labels[:5])[:, None]
    odds = sum((chance / (1 - chance)).log() for chance in (view.gather(1, own)[:, 0] for view in views)) / 2
    np.testing.assert_allclose(scores["sureness"][:5], odds.numpy(), rtol=1e-5)
    np.testing.assert_allclose(scores["sureness"], sureness_of(case, model.params, case.members))
    quick = run_model._compared(replace(case, effort=replace(EFFORT, references=0)), _groups(case))
    assert [one.outcome for one in quick[1:]] == ["inconclusive"] * 2
    assert quick[1].warnings[0] == "not attacked, as asked"


def _groups(case):
    return Groups(case.members, case.control, "image", 0)


def test_a_leak_among_groups_that_differ_anyway_is_neither_claimed_nor_denied(monkeypatch):
    monkeypatch.setattr(attempt, "judged", lambda attack, *_: Finding(attack.NAME, "", answers[attack.NAME]))
    answers = {"population": "inconclusive", "membership": "fail", "labels": "pass"}
    differ, *others = (Finding(name, "", outcome, figures={"groups": "differ"}) for name, outcome in answers.items())
    found = attempt.unless_different(differ, others)
    assert {one.outcome for one in found} == {"inconclusive"}
    assert "groups differ" in found[0].warnings[-1]
    assert attempt.unless_different(replace(differ, outcome="pass"), others) == others


def test_a_model_of_train_is_audited_too_and_tells_its_packages(strangers_model, source, tmp_path, monkeypatch):
    monkeypatch.setattr(run_model, "_compared", lambda case, groups: [])
    digest = params_digest(strangers_model.params)
    for origin, said in ((None, "nobody knows"), (Origin(("0" * 64,), "1", 0, digest), "audit the packages too")):
        save_model(tmp_path / "model.safetensors", replace(strangers_model, origin=origin))
        report = audit_model(tmp_path / "model.safetensors", str(source), effort=EFFORT, device="cpu")
        assert said in report.findings[0].warnings[0]
        assert report.digest == digest


def test_a_patients_name_in_what_the_file_says_fails():
    prepared = hygiene.prepare_model(['{"classes": ["mueller"]}', "ward7-113"], ("normal",), "packages")
    for name, outcome in (("mueller", "fail"), ("ward7-113", "fail"), ("normal", "pass"), ("schmidt", "pass")):
        hits = hygiene.attack(prepared, {name})
        assert hygiene.judge(hits, 0, hygiene.Names(), prepared).outcome == outcome


def test_words_of_every_models_file_are_nobodys(of_members, strangers_model, tmp_path):
    origin = Origin(("0" * 64,), "1", 0, params_digest(strangers_model.params))
    save_model(tmp_path / "model.safetensors", replace(strangers_model, origin=origin))
    for path in (of_members, tmp_path / "model.safetensors"):
        opened = run_model._opened(path)
        own = run_model._own_texts(opened.model)
        prepared = hygiene.prepare_model([opened.text], opened.model.classes, opened.saw, own)
        left = {word for word in prepared.words - prepared.own if hygiene._tells(word)}
        digits = {word for word in left if len(word) == 64 or word.isdigit()}  # digests, and places of tensors
        assert left == digits


def test_a_recipe_and_a_module_are_told_and_nothing_is_read(strangers_model, tmp_path):
    like = replace(strangers_model, origin=Origin(("0" * 64,), "1", 0, params_digest(strangers_model.params)))
    card = ModelCard(
        software=Software(name="meddistill", version="0"),
        kind="recipe",
        route="recreate",
        saw="packages",
        model=describe(like),
        answers=((0.5, 0.5),),
        weights=params_digest(like.params),
        original=4,
    )
    file.write(tmp_path / "recipe.mdw", card)
    tensors = [code(np.ones(3, np.float32), 15)]
    named = replace(
        card,
        kind="module",
        model=None,
        answers=(),
        tensors=(Tensor(name="a", shape=(3,), dtype="float32"),),
        weights=file.values_digest(tensors),
    )
    file.write(tmp_path / "module.mdw", named, tensors)
    for name, said in (
        ("recipe", "no weights of its own: audit the pack"),
        ("module", "a module of somebody's"),
    ):
        with pytest.raises(InputError, match=said):
            api.audit(tmp_path / f"{name}.mdw", "no such source")


def test_what_is_only_for_packages_is_refused(of_members):
    for choice in ({"attached": True}, {"canaries": Path("secret.safetensors")}, {"shadows": 8}):
        with pytest.raises(InputError, match="model"):
            api.audit(of_members, "no such source", **choice)


def test_broken_files_end_with_3_and_are_what_their_names_say(of_members, tmp_path, capsys):
    data = bytearray(of_members.read_bytes())
    data[len(data) // 2] ^= 1
    broken = {"flipped.mdw": bytes(data), "cut.mdw": bytes(data[:200]), "noise.mdw": b"no model", "n.safetensors": b"{"}
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(VerificationError):
            api.audit(tmp_path / name, "no such source")
    assert is_model(of_members) and not is_model(tmp_path / "package.mdz")
    assert main(["audit", str(tmp_path / "flipped.mdw"), "--members", "no-such-source"]) == 3
    assert "Traceback" not in capsys.readouterr().err


def test_the_terminal_speaks_of_weights():
    groups = {side: {"patients": 1, "images": 1} for side in ("members", "control")} | {"unit": "image"}
    console = Console(width=200)
    with console.capture() as shown:
        for kind in ("model", "package"):
            auditing.audit({kind: "x", "groups": groups, "findings": [], "outcome": "fail"}, console)
    model, package = shown.get().split("fail: ")[1:]
    assert "these weights tell too much" in model
    assert "the package tells too much" in package
