"""The compressed-model file: an archive like a package's, read as a stranger's.

``card.json`` says what the model is; ``weights.bin`` holds the codebooks and the coded weights (a recipe has none);
``signature.json`` is optional. Everything is checked before it is used, in bounded memory and time, and nothing in the
file is run. The specification is ``FORMAT.md``, one page.
"""

import hashlib
import json
import math
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from meddistill.compress import coding, limits
from meddistill.compress.card import ModelCard, read_card
from meddistill.compress.codebook import Coded
from meddistill.nets.find import find
from meddistill.package import container, keys, signature, strict_json
from meddistill.package.limits import MAX_PROBLEMS, MAX_SIGNATURE_BYTES
from meddistill.package.members import MEMBERS as PACKAGE_MEMBERS
from meddistill.package.members import TENSORS
from meddistill.package.read import Verification
from meddistill.package.text import quote
from meddistill.runtime.errors import InputError, MeddistillError, VerificationError
from meddistill.runtime.files import write_atomic
from meddistill.train.model import params_digest

CARD, WEIGHTS, SIGNATURE = "card.json", "weights.bin", "signature.json"
MEMBERS = {
    CARD: limits.MAX_CARD_BYTES,
    WEIGHTS: limits.MAX_WEIGHTS_BYTES,
    SIGNATURE: MAX_SIGNATURE_BYTES,
}
PREDICATE_TYPE = f"urn:meddistill:compressed-model:{limits.FORMAT_VERSION}"
_MAGIC = b"PK\x03\x04"
_SPARE = 32  # by which another digest and other numbers of levels may deflate worse

Shapes = list[tuple[int, ...]]


@dataclass(frozen=True)
class Held:
    """What a sound file holds: its card, its tensors (none for a recipe), and who signed it, as a fingerprint."""

    card: ModelCard
    tensors: tuple[Coded, ...]
    signer: str | None


def is_archive(path: Path) -> bool:
    """Whether the file begins as a compressed model does, and not as a model of ``meddistill train``."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def is_compressed(path: Path) -> bool:
    """Whether the file is a compressed model rather than a package: it has none of a package's own members."""
    if not is_archive(path) or path.stat().st_size > limits.MAX_FILE_BYTES:
        return False
    members = container.unpack(_load(path), [], PACKAGE_MEMBERS | MEMBERS)
    return CARD in members and members.keys() <= MEMBERS.keys()


def encode(card: ModelCard, tensors: Sequence[Coded] = ()) -> bytes:
    """The file's bytes. Raises :class:`InputError` listing what a reader would refuse."""
    members: dict[str, bytes] = {CARD: b""}
    if card.kind != "recipe":
        members[WEIGHTS] = _weights(tensors)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in members.items() if name != CARD}
    card = replace(card, levels=tuple(len(one.levels) for one in tensors), digests=digests)
    members[CARD] = _json(card)
    data = container.pack(members)
    problems: list[str] = []
    _examine(data, problems)
    if problems:
        raise InputError("the model cannot be written:\n" + "\n".join(f"- {problem}" for problem in problems))
    return data


def overhead(card: ModelCard) -> int:
    """The bytes that a file takes beside codebooks and codes, or a few more."""
    filled = replace(card, levels=card.levels or (15,) * 16, digests={WEIGHTS: hashlib.sha256(b"").hexdigest()})
    return len(container.pack({CARD: _json(filled), WEIGHTS: b""})) + _SPARE


def write(path: Path, card: ModelCard, tensors: Sequence[Coded] = ()) -> int:
    """Write the file in one step; returns its size in bytes. Raises as :func:`encode`, and :class:`OutputError`."""
    data = encode(card, tensors)
    write_atomic(path, data)
    return len(data)


def read(path: Path) -> Held:
    """What is in the file. Raises :class:`InputError` for a missing one and a package, :class:`VerificationError`
    listing all that is wrong with a broken one."""
    return read_judged(path)[0]


def read_judged(path: Path) -> tuple[Held, Verification]:
    """What is in the file, and who signed it. Raises as :func:`read`."""
    held, found = _examined(path)
    if held is None or not found.ok:
        listed = "\n".join(f"- {problem}" for problem in found.problems)
        raise VerificationError(f"{path} is not a sound model:\n{listed}\nDo not use it; ask for it anew.")
    return held, found


def verify(path: Path) -> Verification:
    """Check the file as :func:`read` does, and report. Raises :class:`InputError` where there is none or a package."""
    return _examined(path)[1]


def _examined(path: Path) -> tuple[Held | None, Verification]:
    problems: list[str] = []
    data = _load(path)
    _refuse_package(path, data)
    held = _examine(data, problems)
    members = container.unpack(data, [], MEMBERS)
    return held, Verification(
        ok=not problems,
        problems=tuple(problems[:MAX_PROBLEMS]),
        members={name: len(content) for name, content in members.items()},
        digests=_digests(members),
        signer=None if held is None else held.signer,
    )


def _refuse_package(path: Path, data: bytes) -> None:
    if {CARD, TENSORS} <= container.unpack(data, [], PACKAGE_MEMBERS | MEMBERS).keys():
        raise InputError(
            f"{path} is a package, not a model: train one from it with `meddistill train {path} --out MODEL`"
        )


def sign(path: Path, key: Path, out: Path | None = None, passphrase: str | None = None) -> bytes:
    """Sign the sound file with the private key in ``key``, in its place or into ``out``; returns the public key."""
    read(path)
    members = container.unpack(_load(path), [], MEMBERS)
    signed = {name: content for name, content in members.items() if name != SIGNATURE}
    private = keys.private_key(key, passphrase)
    public = keys.public_half(private)
    payload = signature.statement(public, _digests(signed), PREDICATE_TYPE)
    proof = private.sign(signature.message(payload))
    write_atomic(out or path, container.pack({**signed, SIGNATURE: signature.envelope(public, proof, payload)}))
    return public


def _json(card: ModelCard) -> bytes:
    return json.dumps(card.to_dict(), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def values_digest(tensors: Sequence[Coded]) -> str:
    """SHA-256 of the restored tensors, as of a model's parameters."""
    return params_digest(tuple(torch.from_numpy(one.values()) for one in tensors))


def _weights(tensors: Sequence[Coded]) -> bytes:
    books = b"".join(one.scale.astype("<f4").tobytes() + one.levels.astype("<f2").tobytes() for one in tensors)
    return books + coding.encode([(one.codes, len(one.levels)) for one in tensors])


def _load(path: Path) -> bytes:
    """The file's bytes, never more than the limit."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise InputError(f"{path} is not a regular file: expected a compressed model")
        if facts.st_size > limits.MAX_FILE_BYTES:
            raise VerificationError(
                f"{path} has {facts.st_size} bytes; a compressed model has at most {limits.MAX_FILE_BYTES}"
            )
        with open(path, "rb") as file:
            return file.read(facts.st_size + 1)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}; give the path of a compressed model") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _examine(data: bytes, problems: list[str]) -> Held | None:
    """What the file holds; everything that is wrong is appended to ``problems``."""
    members = container.unpack(data, problems, MEMBERS)
    _member_problems(members, problems)
    digests = _digests(members)
    signer = _signer(members, digests, problems)
    card = _card(members, problems)
    if card is None:
        return None
    expected = {name: digest for name, digest in digests.items() if name == WEIGHTS}
    if dict(card.digests) != expected or (WEIGHTS in members) == (card.kind == "recipe"):
        problems.append(f"{CARD}: its digests are not those of the members; altered or swapped")
    if problems:
        return None
    try:
        shapes = tensor_shapes(card)
        tensors = _tensors(bytes(members[WEIGHTS]), card, shapes) if shapes else ()
    except (ValueError, MeddistillError) as error:
        problems.append(f"{WEIGHTS if WEIGHTS in members else CARD}: {quote(str(error), 300)}")
        return None
    if tensors and values_digest(tensors) != card.weights:
        problems.append(f"{WEIGHTS}: the weights are not those that the card names")
    return None if problems else Held(card, tensors, signer)


def tensor_shapes(card: ModelCard) -> Shapes:
    """The shapes of the tensors that the file holds; none for a recipe, whose network yet has the limits of any.

    Raises :class:`ValueError` or :class:`InputError` for a network that cannot be or is too large.
    """
    shapes = [tuple(tensor.shape) for tensor in card.tensors] if card.model is None else network_shapes(card.model)
    weights = sum(math.prod(shape) for shape in shapes)
    if weights > limits.MAX_WEIGHTS:
        raise ValueError(f"{weights} weights; at most {limits.MAX_WEIGHTS} are allowed")
    if card.kind == "recipe":
        return []
    if len(shapes) != len(card.levels):
        raise ValueError(f"{len(card.levels)} codebooks for {len(shapes)} tensors")
    return shapes


def network_shapes(model: Mapping[str, Any]) -> Shapes:
    """The shapes of the network that a card's ``model`` names. Raises :class:`InputError` for one that cannot be."""
    classes = len(model["classes"])
    network = find(model["network"], channels=model["channels"], size=model["size"], classes=classes)
    return [tuple(shape) for shape in network.shapes]


def _tensors(data: bytes, card: ModelCard, shapes: Shapes) -> tuple[Coded, ...]:
    """Codebooks and codes. Raises :class:`ValueError`."""
    books, position = [], 0
    for place, count in enumerate(card.levels):
        end = position + 4 + 2 * count
        if end > len(data):
            raise ValueError("the codebooks are cut off")
        scale = np.frombuffer(data, "<f4", 1, position)[0]
        levels = np.frombuffer(data, "<f2", count, position + 4)
        _check_book(place, scale, levels)
        books.append((levels.astype(np.float16), np.float32(scale)))
        position = end
    codes = coding.decode(data[position:], list(zip(shapes, card.levels, strict=True)))
    return tuple(Coded(code, levels, scale) for code, (levels, scale) in zip(codes, books, strict=True))


def _check_book(place: int, scale: np.float32, levels: np.ndarray[Any, Any]) -> None:
    if not limits.MIN_SCALE <= float(scale) <= limits.MAX_SCALE:  # NaN fails this too
        raise ValueError(f"tensor {place}: its scale is out of range")
    if not (np.abs(levels) <= 1).all() or (levels == 0).any() or not (np.diff(levels.astype(np.float32)) > 0).all():
        raise ValueError(f"tensor {place}: its levels are not ascending numbers within ±1 other than 0")


def _digests(members: Mapping[str, bytes | memoryview]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}


def _card(members: Mapping[str, memoryview], problems: list[str]) -> ModelCard | None:
    if CARD not in members or len(members[CARD]) > MEMBERS[CARD]:
        return None
    found: list[str] = []
    try:
        card = read_card(strict_json.parse(bytes(members[CARD]), MEMBERS[CARD]), found)
    except ValueError as error:
        card, found = None, [str(error)]
    problems += [f"{CARD}: {problem}" for problem in found]
    return card


def _signer(members: Mapping[str, memoryview], digests: Mapping[str, str], problems: list[str]) -> str | None:
    """The fingerprint of the key whose signature holds; ``None`` without a signature or after a problem."""
    if SIGNATURE not in members or len(members[SIGNATURE]) > MEMBERS[SIGNATURE]:
        return None
    others = {name: digest for name, digest in digests.items() if name != SIGNATURE}
    key, problem = signature.check(bytes(members[SIGNATURE]), others, PREDICATE_TYPE)
    if key is None:
        problems.append(f"{SIGNATURE}: {problem}")
    return None if key is None else keys.fingerprint(key)


def _member_problems(members: Mapping[str, memoryview], problems: list[str]) -> None:
    unknown = [name for name in members if name not in MEMBERS]
    if CARD not in members:
        problems.append(f"missing member: {CARD}")
    if unknown:
        problems.append(f"members that the format does not know: {', '.join(map(quote, unknown))}")
    elif list(members) != [name for name in MEMBERS if name in members]:
        problems.append(f"the members are in another order than {', '.join(MEMBERS)}")
    for name, limit in MEMBERS.items():
        if len(members.get(name, b"")) > limit:
            problems.append(f"{name}: {len(members[name])} bytes; at most {limit} are allowed")
