"""A folder of hostile compressed models, each with the reason why it is refused; made here, never committed."""

import hashlib
import json
import struct
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.compress.conftest import NETWORK

from meddistill.compress import coding, file, limits
from meddistill.compress.card import ModelCard
from meddistill.compress.codebook import code
from meddistill.compress.load import load_model
from meddistill.package import container, keys
from meddistill.package.types import Software
from meddistill.runtime.errors import InputError, VerificationError
from meddistill.train.model import Model, describe, described_model

Members = dict[str, bytes]
W, C, S = "weights.bin", "card.json", "signature.json"


def held(model: Model) -> tuple[ModelCard, list[Any]]:
    tensors = [code(param.numpy(), 15) for param in model.params]
    digest = file.values_digest(tensors)
    card = ModelCard(
        software=Software(name="meddistill", version="0.1.0"),
        kind="network",
        route="essential",
        saw="patients",
        model=describe(model),
        weights=digest,
        original=4 * NETWORK.parameters,
    )
    return card, tensors


@pytest.fixture(scope="session")
def sound(model: Model) -> bytes:
    return file.encode(*held(model))


@pytest.fixture(scope="session")
def members(sound: bytes) -> Members:
    problems: list[str] = []
    found = {name: bytes(data) for name, data in container.unpack(sound, problems, file.MEMBERS).items()}
    assert not problems
    return found


def repack(
    members: Members, change: Callable[[dict[str, Any]], object] = bool, weights: bytes | None = None, **other: bytes
) -> bytes:
    """The file with another card or other weights, whose digests agree with that."""
    changed = members | other | ({} if weights is None else {W: weights})
    card = json.loads(changed[C])
    if W in card["digests"]:
        card["digests"][W] = hashlib.sha256(changed[W]).hexdigest()
    change(card)
    return container.pack(changed | {C: json.dumps(card).encode()})


def put(*path: Any, to: object) -> Callable[[Any], object]:
    def change(card: Any) -> None:
        for key in path[:-1]:
            card = card[key]
        card[path[-1]] = to

    return change


def drop(*path: Any) -> Callable[[Any], object]:
    def change(card: Any) -> None:
        for key in path[:-1]:
            card = card[key]
        del card[path[-1]]

    return change


def book(members: Members, scale: float = 1.0, levels: tuple[float, ...] = (), count: int = 15) -> bytes:
    """The weights with another first codebook."""
    written = struct.pack("<f", scale) + np.array(levels, "<f2").tobytes()
    return written + members[W][len(written) :] if levels else written + members[W][4:]


LEVELS = tuple(np.linspace(-1, 1, 15).tolist()[:7]) + (0.01,) + tuple(np.linspace(-1, 1, 15).tolist()[8:])


def cards() -> dict[str, tuple[Callable[[Any], object], str]]:
    tensor = {"name": "a", "shape": [3], "dtype": "float32"}
    origin = {"packages": ["0" * 64], "protocol": "1", "seed": 0, "weights": "0" * 64}
    return {
        "format": (put("format", to=2), "format"),
        "software": (put("software", to="me"), "software"),
        "escape": (put("software", "name", to="\x1b[2J"), "control"),
        "kind": (put("kind", to="pickle"), "kind"),
        "saw": (put("saw", to="nobody"), "saw"),
        "route-path": (put("route", to="/etc/passwd/x"), "path"),
        "more": (put("evil", to=1), "unknown field"),
        "less": (drop("weights"), "missing"),
        "no-saw": (drop("saw"), "missing"),
        "model-none": (put("model", to=None), "model"),
        "model-text": (put("model", to="text"), "model"),
        "model-more": (put("model", "evil", to=1), "unknown field"),
        "model-less": (drop("model", "fit"), "missing"),
        "network": (put("model", "network", to="resnet50"), "unknown network"),
        "deep-transformer": (put("model", "network", to="vit-d999999-w768"), "depth must be"),
        "wide-classic": (put("model", "network", to="resnet18-w999999"), "width must be"),
        "heavy-classic": (put("model", "network", to="vgg11-w128"), "at most 16777216"),
        "large-classic": (put("model", "network", to="vgg11-w256"), "choose a smaller"),
        "wider": (put("model", "network", to="convnet-d2-w13"), "weights"),
        "narrower": (put("model", "network", to="convnet-d2-w11"), "weights"),
        "deeper": (put("model", "network", to="convnet-d3-w12"), "codebooks for"),
        "huge": (put("model", "network", to="convnet-d8-w1024"), "halves"),
        "huge-image": (lambda c: c["model"].update(network="convnet-d1-w1024", size=1024), "choose a smaller"),
        "many-digits": (put("model", "network", to="convnet-d2-w" + "9" * 60), "width"),
        "size": (put("model", "size", to=2**40), "size"),
        "size-text": (put("model", "size", to="8"), "size"),
        "channels": (put("model", "channels", to=0), "channels"),
        "two-channels": (put("model", "channels", to=2), "weights"),
        "classes": (put("model", "classes", to=7), "classes"),
        "classes-more": (put("model", "classes", to=["a", "b", "c"]), "weights"),
        "classes-twice": (put("model", "classes", to=["a", "a"]), "more than once"),
        "classes-file": (put("model", "classes", to=["a", "patient_7.png"]), "file name"),
        "std-zero": (put("model", "normalisation", "std", to=[0.0]), "std"),
        "mean-far": (put("model", "normalisation", "mean", to=[1e30]), "mean"),
        "mean-more": (put("model", "normalisation", "mean", to=[0.1, 0.1]), "normalisation"),
        "fit": (put("model", "fit", to="squeeze"), "square"),
        "leak": (put("model", "leak", to="yes"), "leaking"),
        "seed": (put("model", "seed", to=-1), "seed"),
        "origin": (put("model", "origin", to={**origin, "packages": ["x"]}), "hexadecimal"),
        "origin-weights": (put("model", "origin", to={**origin, "weights": "x"}), "hexadecimal"),
        "origin-none": (put("model", "origin", to={**origin, "packages": []}), "packages"),
        "origin-more": (put("model", "origin", to={**origin, "evil": 1}), "unknown field"),
        "answers": (put("answers", to=[[0.5, 0.5]]), "answers"),
        "answers-text": (put("answers", to=["a"]), "answers"),
        "answers-many": (put("answers", to=[[1.0]] * 99), "answers"),
        "levels-more": (lambda c: c["levels"].append(15), "codebooks for"),
        "levels-less": (lambda c: c["levels"].pop(), "codebooks for"),
        "levels-none": (put("levels", to=[]), "no weights"),
        "levels-256": (put("levels", 0, to=256), "levels"),
        "levels-negative": (put("levels", 0, to=-1), "levels"),
        "levels-true": (put("levels", 0, to=True), "levels"),
        "levels-many": (put("levels", to=[1] * 5000), "levels"),
        "levels-other": (put("levels", 0, to=14), "weights.bin"),
        "tensors": (put("tensors", to=[tensor]), "tensors"),
        "weights-digest": (put("weights", to="0" * 64), "not those that the card names"),
        "weights-short": (put("weights", to="0" * 63), "hexadecimal"),
        "digest": (put("digests", W, to="0" * 64), "altered or swapped"),
        "digest-none": (put("digests", to={}), "altered or swapped"),
        "digest-more": (put("digests", C, to="0" * 64), "digests"),
        "recipe-with-weights": (put("kind", to="recipe"), "recipe"),
        "module": (put("kind", to="module"), "module"),
        "original": (put("original", to=0), "original"),
    }


def payloads(m: Members) -> dict[str, tuple[bytes, str]]:
    w, nan = m[W], float("nan")
    return {
        "empty": (b"", "cut off"),
        "books-cut": (w[:100], "cut off"),
        "zeros": (bytes(len(w)), "scale"),
        "ones": (b"\xff" * len(w), "scale"),
        "scale-nan": (book(m, nan), "scale"),
        "scale-negative": (book(m, -1.0), "scale"),
        "scale-zero": (book(m, 0.0), "scale"),
        "scale-infinite": (book(m, float("inf")), "scale"),
        "scale-large": (book(m, 1e30), "scale"),
        "levels-nan": (book(m, 1.0, (nan, *LEVELS[1:])), "levels"),
        "levels-infinite": (book(m, 1.0, (*LEVELS[:-1], float("inf"))), "levels"),
        "levels-large": (book(m, 1.0, (*LEVELS[:-1], 1.5)), "levels"),
        "levels-zero": (book(m, 1.0, (*LEVELS[:7], 0.0, *LEVELS[8:])), "levels"),
        "levels-order": (book(m, 1.0, LEVELS[::-1]), "levels"),
        "levels-twice": (book(m, 1.0, (*LEVELS[:-1], LEVELS[-2])), "levels"),
        "levels-other": (book(m, 1.0, LEVELS), "not those that the card names"),
        "codes-cut": (w[:-40], "weights.bin"),
        "codes-longer": (w + b"\1" * 40, "left over"),
        "codes-other": (w[:-60] + bytes(60), "weights.bin"),
        "one-bit": (w[:-30] + bytes([w[-30] ^ 1]) + w[-29:], "weights.bin"),
    }


def containers(m: Members, sound: bytes) -> dict[str, tuple[bytes, str]]:
    return {
        "zip-only": (container.pack({}), "not a sound model"),
        "half": (sound[: len(sound) // 2], "truncated"),
        "in-a-header": (sound[:20], "truncated"),
        "no-table": (sound[: sound.index(b"PK\x01\x02")], "truncated"),
        "behind": (sound + b"#!/bin/sh\n", "table of contents"),
        "no-card": (container.pack({W: m[W]}), "missing member"),
        "no-weights": (container.pack({C: m[C]}), "altered or swapped"),
        "order": (container.pack({W: m[W], C: m[C]}), "another order"),
        "more": (container.pack({**m, "evil.pkl": b"cos\nsystem\n"}), "does not know"),
        "a-package-member": (container.pack({**m, "README.md": b"hello"}), "does not know"),
        "card-not-json": (container.pack({**m, C: b"\x80\x04\x95"}), "UTF-8"),
        "card-list": (container.pack({**m, C: b"[]"}), "expected an object"),
        "card-twice": (container.pack({**m, C: b'{"format":1,"format":1}'}), "twice"),
        "card-deep": (container.pack({**m, C: b"[" * 99}), "nested"),
        "card-nan": (container.pack({**m, C: m[C].replace(b"0.25", b"NaN")}), "not a number"),
        "card-large": (container.pack({**m, C: m[C] + bytes(range(33, 127)) * 3000}), "at most"),
        "weights-swapped": (container.pack({**m, W: m[W][:-1] + b"\7"}), "altered or swapped"),
        "signature": (container.pack({**m, S: b"{}"}), "signature.json"),
        "signature-large": (container.pack({**m, S: bytes(range(33, 127)) * 300}), "at most"),
    }


def refused(path: Path, data: bytes, reason: str) -> None:
    path.write_bytes(data)
    tracemalloc.start()
    begun = time.process_time()
    with pytest.raises(VerificationError, match=reason.replace("(", "[(]")):
        load_model(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * 2**20
    assert time.process_time() - begun < 20


@pytest.mark.parametrize("name", cards())
def test_cards(name: str, members: Members, tmp_path: Path) -> None:
    change, reason = cards()[name]
    refused(tmp_path / "x.mdw", repack(members, change), reason)


def test_payloads(members: Members, tmp_path: Path) -> None:
    for data, reason in payloads(members).values():
        refused(tmp_path / "x.mdw", repack(members, weights=data), reason)


def test_containers(members: Members, sound: bytes, tmp_path: Path) -> None:
    for data, reason in containers(members, sound).values():
        refused(tmp_path / "x.mdw", data, reason)


def test_a_small_file_that_claims_millions_of_weights(members: Members, tmp_path: Path) -> None:
    def claim(card: dict[str, Any]) -> None:
        card["model"].update(network="convnet-d3-w800")
        card["levels"] = [0] * 14

    refused(tmp_path / "x.mdw", repack(members, claim, struct.pack("<f", 1.0) * 14), "too few bytes")


@pytest.mark.parametrize(
    ("network", "size", "reason"),
    [
        ("convnet-d1-w1024", 1024, "536883202 parameters for images"),
        ("resnet18-w128", 16, "weights; at most 16777216"),
        ("vit-d12-w768", 8, "weights; at most 16777216"),
        ("resnet50", 8, "unknown network"),
    ],
)
def test_a_recipe_of_a_network_that_is_too_large_or_unknown(
    model: Model, tmp_path: Path, network: str, size: int, reason: str
) -> None:
    """It is refused before anybody looks for its package, by ``verify`` as by ``load_model``."""
    origin = {"packages": ["0" * 64], "protocol": "1", "seed": 0, "weights": "0" * 64}
    card = replace(
        held(model)[0],
        kind="recipe",
        route="recreate",
        model=describe(model) | {"origin": origin},
        answers=((1.0, 0.0),),
    )
    recipe = {C: bytes(container.unpack(file.encode(card), [], file.MEMBERS)[C])}
    refused(tmp_path / "x.mdw", repack(recipe, lambda c: c["model"].update(network=network, size=size)), reason)
    assert not file.verify(tmp_path / "x.mdw").ok


def test_a_bomb_is_not_unpacked(members: Members, tmp_path: Path) -> None:
    import io
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(C, members[C])
        archive.writestr(W, bytes(60 * 2**20))
    refused(tmp_path / "x.mdw", buffer.getvalue(), "zip header")


def test_a_file_larger_than_any_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "x.mdw", "wb") as huge:
        huge.write(b"PK\x03\x04")
        huge.truncate(limits.MAX_FILE_BYTES + 1)
    with pytest.raises(VerificationError, match="at most"):
        load_model(tmp_path / "x.mdw")


def test_every_truncation_and_many_flips(sound: bytes, tmp_path: Path) -> None:
    for end in range(4, len(sound), 97):
        refused(tmp_path / "x.mdw", sound[:end], "not a sound model")
    for place in range(4, len(sound), 61):
        damaged = bytearray(sound)
        damaged[place] ^= 0x10
        (tmp_path / "x.mdw").write_bytes(damaged)
        with pytest.raises(VerificationError):
            load_model(tmp_path / "x.mdw")


@settings(max_examples=60)
@given(data=st.binary(max_size=400))
def test_any_codes_under_a_true_digest_are_refused_or_read(data: bytes, members: Members) -> None:
    books = members[W][: sum(4 + 2 * count for count in json.loads(members[C])["levels"])]
    problems: list[str] = []
    held = file._examine(repack(members, weights=books + data), problems)
    assert held is None and problems


def test_a_sound_file_is_read_as_it_was_written(sound: bytes, model: Model, tmp_path: Path) -> None:
    (tmp_path / "x.mdw").write_bytes(sound)
    found = load_model(tmp_path / "x.mdw")
    _, tensors = held(model)
    assert described_model(describe(found), model.params) == model
    assert all(np.array_equal(a.numpy(), b.values()) for a, b in zip(found.params, tensors, strict=True))
    assert len(sound) < 4 * NETWORK.parameters


def test_what_a_reader_would_refuse_is_not_written(model: Model) -> None:
    card, tensors = held(model)
    for wrong in ({"classes": ["a", "b", "c"]}, {"fit": "C:\\x"}, {"size": 5000}):
        bad = ModelCard(**{**vars(card), "model": {**describe(model), **wrong}})
        with pytest.raises(InputError, match="cannot be written"):
            file.encode(bad, tensors)


def test_a_signature_holds_for_this_kind_of_file_alone(sound: bytes, members: Members, tmp_path: Path) -> None:
    from meddistill.package import signature

    path, key = tmp_path / "x.mdw", tmp_path / "key.pem"
    path.write_bytes(sound)
    keys.generate(key)
    public = file.sign(path, key)
    assert file.read(path).signer == keys.fingerprint(public)
    signed = {n: bytes(d) for n, d in container.unpack(path.read_bytes(), [], file.MEMBERS).items()}
    refused(path, repack(signed, put("saw", to="packages")), "altered")
    as_package = signature.statement(public, file._digests(members))
    proof = keys.private_key(key).sign(signature.message(as_package))
    forged = container.pack({**members, S: signature.envelope(public, proof, as_package)})
    refused(path, forged, "signature.json")


def test_the_coder_is_bounded_by_the_bytes_that_are_there() -> None:
    assert coding.FREE_BITS + coding.BITS_PER_BYTE * limits.MAX_WEIGHTS_BYTES > limits.MAX_WEIGHTS
