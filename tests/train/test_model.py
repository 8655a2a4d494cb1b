"""Model files: what is written is read, and nothing unsound is."""

import json
import struct
from dataclasses import replace
from typing import Any

import pytest
import safetensors.torch
import torch

from meddistill.nets.convnet import parse
from meddistill.nets.find import find
from meddistill.pipeline.compress import compress
from meddistill.runtime.errors import InputError, OutputError, VerificationError
from meddistill.runtime.streams import stream
from meddistill.teachers.images import Normalisation
from meddistill.train.model import MAX_MODEL_BYTES, Model, describe, load_model, save_model

NETWORK = parse("convnet-d2-w4", channels=3, size=8, classes=2)
MODEL = Model(
    network=NETWORK,
    params=NETWORK.init(stream(0, "test")),
    classes=("ill", "well ✓"),
    normalisation=Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
    fit="pad",
    leak="drop",
    seed=2**53 - 1,
)


@pytest.fixture
def path(tmp_path):
    save_model(tmp_path / "model", MODEL)
    return tmp_path / "model"


def rewrite(path, *, tensors=lambda held: held, change=lambda described: described):
    """The same model with other tensors or another description."""
    with safetensors.safe_open(path, framework="pt") as file:
        described = json.loads(file.metadata()["model"])
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    changed = change(described)
    metadata = {"model": changed if isinstance(changed, str) else json.dumps(changed)}
    path.write_bytes(safetensors.torch.save(tensors(held), metadata))


def test_round_trip(path, tmp_path):
    found = load_model(path)
    assert replace(found, params=()) == replace(MODEL, params=())
    assert all(torch.equal(a, b) for a, b in zip(found.params, MODEL.params, strict=True))
    for _ in range(5):  # more than once: the order of several header entries would be a matter of luck
        save_model(tmp_path / "again", found)
        assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["resnet18-w4", "vit-d1-w8", "convnet-d2-w4-bn"])
def test_other_networks_are_kept_with_all_their_tensors(tmp_path, name):
    network = find(name, channels=3, size=12, classes=2)
    params = tuple(param + 1 for param in network.init(stream(0, "test")))
    save_model(tmp_path / "other", replace(MODEL, network=network, params=params))
    found = load_model(tmp_path / "other")
    assert found.network == network
    assert all(torch.equal(a, b) for a, b in zip(found.params, params, strict=True))


def test_that_seeds_differed_is_kept_and_files_of_before_are_read(path, tmp_path):
    assert not load_model(path).mixed_splits
    with safetensors.safe_open(path, framework="pt") as file:
        assert "mixed_splits" not in json.loads(file.metadata()["model"])
    save_model(tmp_path / "mixed", replace(MODEL, mixed_splits=True))
    assert load_model(tmp_path / "mixed").mixed_splits


def test_a_model_says_where_nothing_was_mirrored_and_others_are_as_they_were(tmp_path):
    assert "flip" not in describe(MODEL)
    save_model(tmp_path / "sided", replace(MODEL, flip=False))
    assert not load_model(tmp_path / "sided").flip


def test_many_tensors_keep_their_order(tmp_path):
    network = parse("convnet-d8-w1", channels=1, size=256, classes=2)
    model = replace(
        MODEL, network=network, params=network.init(stream(1, "test")), normalisation=Normalisation((0,), (1,))
    )
    save_model(tmp_path / "model", model)
    assert all(torch.equal(a, b) for a, b in zip(load_model(tmp_path / "model").params, model.params, strict=True))


def test_a_missing_model_or_a_folder_is_bad_input(tmp_path):
    for name in ("missing", "."):
        with pytest.raises(InputError, match="meddistill train"):
            load_model(tmp_path / name)


def test_an_unwritable_place(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        save_model(tmp_path / "file" / "model", MODEL)


def described(**changes: Any):
    return lambda before: before | changes


@pytest.mark.parametrize(
    "change",
    [
        described(network="resnet50"),
        described(network="convnet-d2-w5"),
        described(network="convnet-d9-w4"),
        described(network="convnet-d2-w" + "9" * 5000),
        described(size=9**99),
        described(size=12),
        described(size=-8),
        described(size=float("inf")),
        described(channels=1),
        described(classes=["ill", "well", "worse"]),
        described(classes=7),
        described(normalisation={"mean": [0, 0, 0], "std": [1, 1, 0]}),
        described(normalisation={"mean": [0, 0, 0], "std": [1, 1, float("inf")]}),
        described(normalisation={"mean": [0, 0, float("nan")], "std": [1, 1, 1]}),
        described(normalisation={"mean": [0, 0, 1e300], "std": [1, 1, 1]}),
        described(normalisation={"mean": [0, 0, 0], "std": [1, 1, 1e-60]}),
        described(normalisation={"mean": [0], "std": [1]}),
        described(normalisation=[]),
        described(fit="squeeze"),
        described(fit=["crop"]),
        described(leak={"stop": 1}),
        described(seed="one"),
        described(seed=None),
        lambda before: {name: value for name, value in before.items() if name != "classes"},
        lambda before: "[" * 100_000,
        lambda before: "{",
        lambda before: "[]",
        lambda before: '"text"',
        lambda before: '{"size": ' + "9" * 5000 + "}",
    ],
)
def test_a_description_that_cannot_be(path, change):
    rewrite(path, change=change)
    with pytest.raises(VerificationError):
        load_model(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (described(size=1_000_000), "1000000 pixels a side, expected"),
        (described(size=0), "0 pixels"),
        (described(channels=2), "2 channels"),
        (described(classes=["ill", "ill"]), "class 'ill' is there more than once"),
        (described(classes=["ill", "\x1b[2Jwell"]), "control"),
        (described(classes=["ill", "a" * 101]), "at most 100"),
        (described(classes=["ill", 2]), "expected a text"),
        (described(classes="ab"), "expected a list of names"),
    ],
)
def test_what_no_package_could_be_either(tmp_path, change, said):
    """A network whose tensors fit images of any size: they say nothing of the claims beside them."""
    network = find("resnet18-w1", channels=3, size=9, classes=2)
    save_model(tmp_path / "model", replace(MODEL, network=network, params=network.init(stream(0, "test"))))
    rewrite(tmp_path / "model", change=change)
    with pytest.raises(VerificationError, match="not a sound model") as caught:
        load_model(tmp_path / "model")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "tensors",
    [
        lambda held: {},
        lambda held: held | {"0000": held["0000"] * float("nan")},
        lambda held: held | {"0000": held["0000"] * 1e38},
        lambda held: held | {"0001": held["0001"].double()},
        lambda held: held | {"0001": torch.zeros(7)},
        lambda held: held | {"9999": torch.zeros(1)},
        lambda held: {name: tensor for name, tensor in held.items() if name != "0003"},
    ],
    ids=["none", "not finite", "too large", "float64", "other shape", "one more", "one less"],
)
def test_tensors_that_do_not_fit(path, tensors):
    rewrite(path, tensors=tensors)
    with pytest.raises(VerificationError, match="not a sound model"):
        load_model(path)


def test_another_format(path):
    rewrite(path, change=described(format="meddistill model 2"))
    with pytest.raises(VerificationError, match="meddistill model 2"):
        load_model(path)
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(1)}))
    with pytest.raises(VerificationError, match="not a meddistill model"):
        load_model(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04",
        b"\x80\x04\x95",
        b"text" * 100,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"{}",
    ],
    ids=["empty", "zip", "pickle", "text", "huge header", "no tensors"],
)
def test_not_a_model_at_all(path, data):
    path.write_bytes(data)
    with pytest.raises(VerificationError):
        load_model(path)


def test_a_truncated_model(path):
    whole = path.read_bytes()
    for length in (7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(VerificationError, match="not a sound model"):
            load_model(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(MAX_MODEL_BYTES + 1)
    with pytest.raises(VerificationError, match="larger than"):
        load_model(tmp_path / "huge")


@pytest.mark.parametrize("name", ["convnet-d2-w4-bn", "resnet18-w80"])
def test_networks_that_cannot_be_compressed_are_refused_by_name(tmp_path, name):
    network = find(name, channels=1, size=12, classes=2)
    model = replace(MODEL, network=network, params=network.init(stream(0, "test")))
    model = replace(model, normalisation=Normalisation((0.1,), (0.2,)))
    save_model(tmp_path / "model", model)
    with pytest.raises(InputError, match=f"the model is a {name}"):
        compress(tmp_path / "model", tmp_path / "none", tmp_path / "out.mdw")
