"""A folder of hostile files, each with the reason for which it must be refused; made here, never committed."""

import hashlib
import io
import json
import struct
import subprocess
import sys
import textwrap
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from meddistill.package import container, keys, signature
from meddistill.package.container import Entry
from meddistill.package.members import MEMBERS
from meddistill.package.read import _examine, read, verify
from meddistill.runtime.errors import VerificationError

Members = dict[str, bytes]
Pack = Callable[..., bytes]
T, C, R, P = "tensors.safetensors", "card.json", "README.md", "preview.png"
J, A, S = "croissant.json", "audit.json", "signature.json"


def _tensors(members: Members, **changes: Any) -> bytes:
    arrays = safetensors.numpy.load(members[T])
    return safetensors.numpy.save({name: value for name, value in (arrays | changes).items() if value is not None})


def _header(members: Members, change: Callable[[dict[str, Any]], object] = bool, text: str | None = None) -> bytes:
    """The tensors with another header."""
    length = int.from_bytes(members[T][:8], "little")
    header = json.loads(members[T][8 : 8 + length])
    change(header)
    encoded = (json.dumps(header) if text is None else text).encode()
    return len(encoded).to_bytes(8, "little") + encoded + members[T][8 + length :]


def _zip(members: Members, method: int = zipfile.ZIP_STORED, **extra: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in (members | extra).items():
            file.writestr(name, data)
    return buffer.getvalue()


def _zip_named(members: Members, name: str) -> bytes:
    """A canonical archive but for one more member of any name."""
    return container.pack({**members, "x" * len(name): b"evil"}).replace(b"x" * len(name), name.encode())


def _png(parts: list[tuple[bytes, bytes]]) -> bytes:
    chunks = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _picture(width: int = 2, height: int = 2, depth: int = 8, colour: int = 0, pixels: bytes = bytes(6)) -> list[Any]:
    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
    return [(b"IHDR", header), (b"IDAT", zlib.compress(pixels, 9)), (b"IEND", b"")]


def _set(*path: Any, to: object) -> Callable[[Any], object]:
    """A change to a card, or to any other JSON."""

    def change(card: Any) -> None:
        for key in path[:-1]:
            card = card[key]
        card[path[-1]] = to

    return change


def _overlap(header: dict[str, Any]) -> None:
    header["offset"]["data_offsets"] = header["scale"]["data_offsets"]


def _lying_entry_count(sound: bytes) -> bytes:
    return sound[:-14] + struct.pack("<2H", 9999, 9999) + sound[-10:]


def _bomb(members: Members) -> bytes:
    return _zip({**members, T: bytes(50_000_000)}, zipfile.ZIP_DEFLATED)


def _wide(value: float) -> np.ndarray:
    return np.array([value], np.float32)


def _containers(m: Members, sound: bytes) -> dict[str, tuple[bytes, str]]:
    swapped = {**m, T: m[R], R: m[T]}
    names = list(m)
    return {
        "empty": (b"", "does not begin as a zip"),
        "text": (b"hello\n" * 99, "does not begin as a zip"),
        "png": (m[P], "does not begin as a zip"),
        "empty-zip": (_zip({}), "missing members"),
        "other-zip-program": (_zip(m), "another program"),
        "compressed": (_zip(m, zipfile.ZIP_DEFLATED), "another program"),
        "bomb": (_bomb(m), "another program"),
        "lzma": (_zip(m, zipfile.ZIP_LZMA), "another program"),
        "traversal": (_zip_named(m, "../../../etc/passwd"), "a member is named"),
        "absolute": (_zip_named(m, "/etc/passwd"), "a member is named"),
        "drive": (_zip_named(m, "C:\\evil.exe"), "a member is named"),
        "folder": (_zip_named(m, "folder/"), "a member is named"),
        "hidden": (_zip_named(m, ".bashrc"), "a member is named"),
        "escape-codes": (_zip_named(m, "\x1b[2Jhello"), "a member is named"),
        "long-name": (_zip_named(m, "n" * 5000), "a member is named"),
        "extra": (container.pack({**m, "evil.pkl": b"cos\nsystem\n"}), "does not know: 'evil.pkl'"),
        "many": (container.pack({**m, **{f"m{i}": b"" for i in range(20)}}), "more than 16"),
        "missing-card": (container.pack({n: m[n] for n in names[1:]}), "missing members: card.json"),
        "missing-tensors": (container.pack({n: m[n] for n in names if n != T}), f"missing members: {T}"),
        "missing-readme": (container.pack({n: m[n] for n in names if n != R}), "missing members: README.md"),
        "missing-croissant": (container.pack({n: m[n] for n in names if n != J}), f"missing members: {J}"),
        "missing-preview": (container.pack({n: m[n] for n in names[:-1]}), "missing members: preview.png"),
        "order": (container.pack({n: m[n] for n in reversed(names)}), "another order"),
        "duplicate": (_zip_named(m, "preview.png"), "preview.png' is there twice"),
        "swapped": (container.pack(swapped), "swapped"),
        "comment": (sound[:-2] + b"\x04\x00evil", "table of contents"),
        "behind": (sound + b"#!/bin/sh\n", "table of contents"),
        "before": (b"#!/bin/sh\n" + sound, "does not begin as a zip"),
        "twice": (sound + sound, "table of contents"),
        "no-table": (sound[: sound.index(b"PK\x01\x02")], "truncated"),
        "half": (sound[: len(sound) // 2], "truncated"),
        "in-a-header": (sound[:20], "truncated"),
        "entry-count": (_lying_entry_count(sound), "table of contents"),
        "size-4-GB": (sound[:18] + b"\xff" * 8 + sound[26:], "truncated"),
        "packed-size-differs": (sound[:18] + b"\x00" * 4 + sound[22:], "expected smaller, by at most 32 times"),
        "encrypted": (sound[:6] + b"\x01\x00" + sound[8:], "zip header"),
        "checksum": (sound[:14] + b"\x00" * 4 + sound[18:], "checksum"),
    }


def _archive(m: Members, name: str, packed: bytes, method: int = 8, size: int | None = None) -> bytes:
    """A canonical archive but for how one member is packed."""
    parts, entries = [], {}
    for member, data in m.items():
        kind, own = container._packed(data)
        entry = Entry(kind, zlib.crc32(data), len(own), len(data))
        if member == name:
            own, entry = packed, Entry(method, entry.checksum, len(packed), len(data) if size is None else size)
        entries[member] = entry
        parts += [container._local(member, entry), own]
    return b"".join([*parts, container._table(entries)])


def _raw(data: bytes, level: int = 9) -> bytes:
    stream = zlib.compressobj(level, zlib.DEFLATED, -15)
    return stream.compress(data) + stream.flush()


def _packings(m: Members) -> dict[str, tuple[bytes, str]]:
    """The right contents, packed as a package's never are."""
    own, other = _raw(m[C]), "does not unpack to the"
    files = {
        "stored-as-deflated": (_archive(m, C, m[C]), "expected smaller"),
        "deflated-as-stored": (_archive(m, C, own, 0), "is stored in"),
        "method-12": (_archive(m, C, m[C], 12), "packed by zip method 12"),
        "larger-than-stored": (_archive(m, P, _raw(m[P], 0)), "expected smaller"),
        "bomb": (_archive(m, C, _raw(bytes(50_000_000)), size=1_000_000), other),
        "bomb-that-says-so": (_archive(m, C, _raw(bytes(50_000_000)), size=50_000_000), "by at most 32 times"),
        "bomb-of-bombs": (_archive(m, R, _raw(_raw(bytes(10**7))), size=10**7), "by at most 32 times"),
        "too-large-for-its-name": (_archive(m, R, _raw(_hex(400_000)), size=400_000), "at most 262144 are allowed"),
        "longer-than-it-says": (_archive(m, C, own, size=len(m[C]) - 1), other),
        "shorter-than-it-says": (_archive(m, C, own, size=len(m[C]) + 1), other),
        "cut": (_archive(m, C, own[:-1]), other),
        "behind": (_archive(m, C, own + b"evil"), other),
        "twice": (_archive(m, C, own + own), other),
        "nothing": (_archive(m, C, b""), "expected smaller"),
        "noise": (_archive(m, C, b"\xff" * 999), other),
        "zlib-not-raw": (_archive(m, C, zlib.compress(m[C])), other),
        "unknown-and-deflated": (_archive({**m, "evil.bin": bytes(99)}, "evil.bin", _raw(bytes(99))), "at most 0"),
    }
    return {f"packing-{name}": file for name, file in files.items()}


def _hex(count: int) -> bytes:
    """Text that deflates to a half, not to nothing."""
    return np.random.default_rng(0).bytes(count // 2).hex().encode()


def _tensor_files(m: Members, pack: Pack) -> dict[str, tuple[bytes, str]]:
    labels = safetensors.numpy.load(m[T])["labels"]
    nan, off = labels.copy(), labels * np.float32(1.01)
    nan[0, 0] = np.nan
    other = {
        "labels-nan": (_tensors(m, labels=nan), "labels: not all are probabilities"),
        "labels-sum": (_tensors(m, labels=off), "do not sum to 1"),
        "labels-negative": (_tensors(m, labels=np.array([[2, -1]] * 2, np.float32)), "labels: not all"),
        "labels-columns": (_tensors(m, labels=np.full((2, 4), 0.25, np.float32)), "labels: the shape"),
        "labels-float64": (_tensors(m, labels=labels.astype(np.float64)), "expected dtype F32"),
        "images-float": (_tensors(m, images=np.zeros((2, 1, 8, 8), np.float32)), "expected dtype U8"),
        "images-size": (_tensors(m, images=np.zeros((2, 1, 9, 9), np.uint8)), "images: the shape"),
        "images-flat": (_tensors(m, images=np.zeros(128, np.uint8)), "images: the shape"),
        "images-empty": (_tensors(m, images=np.zeros((0, 1, 8, 8), np.uint8)), "is not possible"),
        "scale-nan": (_tensors(m, scale=_wide(np.nan)), "not all numbers are finite"),
        "scale-infinite": (_tensors(m, scale=_wide(np.inf)), "not all numbers are finite"),
        "scale-zero": (_tensors(m, scale=_wide(0)), "expected scale"),
        "scale-huge": (_tensors(m, scale=_wide(1e30)), "expected scale"),
        "scale-odd": (_tensors(m, scale=_wide(0.001234567)), "multiples"),
        "scale-two": (_tensors(m, scale=np.full(2, 0.01, np.float32)), "scale: the shape"),
        "offset-huge": (_tensors(m, offset=_wide(-1e30)), "expected scale"),
        "offset-infinite": (_tensors(m, offset=_wide(-np.inf)), "not all numbers are finite"),
        "steps-nan": (_tensors(m, step_sizes=_wide(np.nan)), "step_sizes"),
        "steps-zero": (_tensors(m, step_sizes=_wide(0)), "step_sizes"),
        "steps-tiny": (_tensors(m, step_sizes=_wide(1e-20)), "numbers from 1e-12"),
        "steps-negative": (_tensors(m, step_sizes=_wide(-0.1)), "step_sizes"),
        "steps-many": (_tensors(m, step_sizes=np.full(5000, 0.1, np.float32)), "expected 1 to 4096"),
        "steps-square": (_tensors(m, step_sizes=np.full((2, 2), 0.1, np.float32)), "step_sizes: the shape"),
        "tensor-extra": (_tensors(m, weights=_wide(1)), "expected exactly images"),
        "tensor-missing": (_tensors(m, offset=None), "expected exactly images"),
        "metadata": (_header(m, _set("__metadata__", to={"a": "b"})), "expected exactly images"),
        "overlap": (_header(m, _overlap), "overlaps"),
        "beyond": (_header(m, _set("step_sizes", "data_offsets", to=[10**6, 10**6 + 20])), "overlaps"),
        "negative-offset": (_header(m, _set("labels", "data_offsets", to=[-16, 0])), "is not possible"),
        "backwards": (_header(m, _set("labels", "data_offsets", to=[16, 0])), "do not agree"),
        "overflow": (_header(m, _set("labels", "shape", to=[2**32, 2**32])), "do not agree"),
        "dimensions": (_header(m, _set("labels", "shape", to=[1] * 200)), "is not possible"),
        "shape-text": (_header(m, _set("labels", "shape", to="22")), "is not possible"),
        "shape-true": (_header(m, _set("labels", "shape", to=[True, 4])), "is not possible"),
        "unknown-type": (_header(m, _set("labels", "dtype", to="PICKLE")), "expected dtype"),
        "header-list": (_header(m, text="[]"), "expected exactly images"),
        "header-deep": (_header(m, text="[" * 3000), "nested"),
        "header-twice": (_header(m, text='{"images": 1, "images": 2}'), "there twice"),
        "header-long": (_header(m, text=" " * 5000), "header claims"),
        "header-claims-all": (b"\xff" * 8 + m[T][8:], "header claims"),
        "tensors-cut": (m[T][:-1], "the data take"),
        "tensors-longer": (m[T] + b"\x00", "the data take"),
        "tensors-none": (b"", "header claims"),
        "tensors-pickle": (b"\x80\x04\x95cposix\nsystem\n.", "header claims"),
    }
    found = {name: (pack({T: data}), reason) for name, (data, reason) in other.items()}
    unlike = {"scale": np.full(2, 0.01, np.float32), "offset": np.zeros(3, np.float32)}
    flat = {"images": np.zeros(128, np.uint8)}
    for name, card in (("", bool), ("-without-a-card", _set("format", to=2))):
        found[f"scale-and-offset-unlike{name}"] = (pack({T: _tensors(m, **unlike)}, card), "scale: the shape is (2,)")
        found[f"scale-and-offset-flat{name}"] = (pack({T: _tensors(m, **unlike, **flat)}, card), "images: the shape")
    return found


def _card_texts(m: Members) -> dict[str, tuple[bytes, str]]:
    text = m[C].decode()
    cards = {
        "not-json": (b"{", "not JSON"),
        "not-utf8": (m[C].replace(b"normal", b"n\xff\xferm"), "not UTF-8"),
        "utf16": (text.encode("utf-16"), "not UTF-8"),
        "list": (b"[]", "expected an object"),
        "deep": (b"[" * 100_000, "nested"),
        "unclosed-quotes": (b'"' + b'\\"' * 400_000, "not JSON"),
        "nan": (text.replace("0.85", "NaN").encode(), "NaN is not a number"),
        "infinity": (text.replace("0.85", "-Infinity").encode(), "-Infinity is not a number"),
        "overflow": (text.replace("0.85", "1e999").encode(), "too large"),
        "long-number": (text.replace("0.85", "0." + "8" * 40_000).encode(), "too long"),
        "long-integer": (text.replace('"seed":3', f'"seed":{"9" * 500_000}').encode(), "beyond"),
        "duplicate-key": (text.replace('"seed"', '"seed":1,"seed"').encode(), "is there twice"),
        "too-large": (m[C] + b" " * 2**20, "at most 1048576"),
        "nothing": (b"", "not JSON"),
        "surrogate": (text.replace("normal", "\\ud800").encode(), "U+D800"),
        "nul": (text.replace("normal", "\\u0000").encode(), "U+0000"),
    }
    return {f"card-{name}": (container.pack({**m, C: data}), reason) for name, (data, reason) in cards.items()}


# 600 images that are stored with one pixel and claim to be enlarged to 1024.
_HUGE = {"count": 600, "per_class": 300, "size": 1024, "channels": 1, "intensity": "as it is", "stored": 1}


def _card_files(pack: Pack) -> dict[str, tuple[bytes, str]]:
    wide = {"mean": 0.9, "low": 0.8, "high": 0.85, "per_seed": [0.9]}
    cards = {
        "version-2": (_set("format", to=2), "update it"),
        "version-text": (_set("format", to="1"), "format: found '1'"),
        "version-true": (_set("format", to=True), "format: found True"),
        "unknown-field": (_set("patients", to=["Jane"]), "unknown field 'patients'"),
        "missing-field": (lambda card: card.pop("recipe"), "recipe: missing"),
        "count": (_set("images", "count", to=3), "images.count: found 3"),
        "count-huge": (_set("images", "count", to=10**12), "images.count: found"),
        "size": (_set("images", "size", to=9), "by the card it should be"),
        "stored": (_set("images", "stored", to=7), "by the card it should be"),
        "stored-as-large": (_set("images", "stored", to=8), "images.stored: found 8"),
        "stored-negative": (_set("images", "stored", to=-1), "stored: found -1"),
        "stored-true": (_set("images", "stored", to=True), "stored: found True"),
        "enlarged-huge": (_set("images", to=_HUGE), "more than 134217728 values"),
        "channels": (_set("images", "channels", to=2), "channels: found 2"),
        "classes-fewer": (_set("task", "classes", to=["normal"]), "unknown field 'pneumonia'"),
        "classes-same": (_set("task", "classes", to=["normal", "normal"]), "more than once"),
        "classes-none": (_set("task", "classes", to=[]), "0 classes"),
        "classes-many": (_set("task", "classes", to=[str(i) for i in range(1001)]), "1001 classes"),
        "class-number": (_set("task", "classes", to=[0, 1]), "expected a text"),
        "class-long": (_set("task", "classes", to=["a", "b" * 101]), "at most 100"),
        "class-escape-codes": (_set("task", "classes", to=["a", "\x1b]0;evil\x07"]), "control"),
        "class-right-to-left": (_set("task", "classes", to=["a", "\u202egnp"]), "U+202E"),
        "class-file": (_set("task", "classes", to=["a", "scan_17.dcm"]), "a file name"),
        "method-path": (_set("recipe", "method", to="/home/jane/method"), "a path"),
        "plan-path": (_set("recipe", "plan", "where", to="C:\\cohort"), "a path"),
        "plan-object": (_set("recipe", "plan", "x", to={"a": 1}), "expected a text"),
        "plan-name": (_set("recipe", "plan", "a b\n", to=1), "the name"),
        "plan-long": (_set("recipe", "plan", to={f"k{i}": 1 for i in range(500)}), "at most 128"),
        "seed-negative": (_set("recipe", "seed", to=-1), "recipe.seed"),
        "start-unknown": (_set("recipe", "start", to="teacher"), "recipe.start"),
        "hides-real-images": (_set("recipe", "start", to="real"), "contains_real_images"),
        "real-number": (_set("contains_real_images", to=0), "expected true or false"),
        "hard-labels": (_set("task", "labels", to="hard"), "says hard labels"),
        "std-zero": (_set("normalisation", "std", to=[0]), "normalisation.std[0]"),
        "std-many": (_set("normalisation", "std", to=[1, 1]), "list of 1 numbers"),
        "counts-negative": (_set("cohort", "counts", "train", "normal", to=-1), "cohort.counts.train.normal"),
        "counts-stranger": (_set("cohort", "counts", "train", "jane", to=1), "unknown field 'jane'"),
        "counts-text": (_set("cohort", "counts", to="secret"), "cohort.counts: expected an object"),
        "score-above-one": (_set("results", "splits", "val", "random", "accuracy", "mean", to=1.2), "accuracy.mean"),
        "score-outside": (_set("results", "splits", "val", "random", "accuracy", to=wide), "outside its own interval"),
        "score-lies": (_set("results", "splits", "val", "random", "accuracy", "mean", to=0.89), "is not the mean"),
        "score-seeds": (_set("results", "seeds", to=2), "for at most 2 seeds"),
        "score-train": (_set("results", "splits", "train", to={}), "unknown field 'train'"),
        "terms-script": (_set("terms", "licence", to="<script>alert(1)</script>"), "a viewer might run"),
        "terms-link": (_set("terms", "terms_of_use", to="javascript:alert(1)"), "a viewer might run"),
        "class-script": (_set("task", "classes", to=["a", "<img src=x onerror=y>"]), "a viewer might run"),
        "withheld-yet-told": (_set("cohort", "counts", to="withheld"), "from which the withheld counts follow"),
        "terms-date": (_set("terms", "limits", to="agreed on 2024-05-01"), "a date"),
        "terms-long": (_set("terms", "licence", to="x" * 4001), "at most 4000"),
        "terms-lines": (_set("terms", "licence", to="a\nb"), "U+000A"),
        "digest-of-itself": (_set("digests", C, to="0" * 64), "not for each member"),
        "digest-missing": (lambda card: card["digests"].pop(R), "not for each member"),
        "digest-wrong": (_set("digests", R, to="0" * 64), "README.md: its digest"),
        "digest-upper": (_set("digests", R, to="A" * 64), "hexadecimal"),
    }
    return {f"card-{name}": (pack(card=change), reason) for name, (change, reason) in cards.items()}


def _croissant_files(m: Members, pack: Pack) -> dict[str, tuple[bytes, str]]:
    document = json.loads(m[J])

    def changed(*path: Any, to: object) -> bytes:
        copy = json.loads(m[J])
        _set(*path, to=to)(copy)
        return json.dumps(copy).encode()

    files = {
        "not-json": (b"{", "not JSON"),
        "list": (b"[]", "expected an object"),
        "deep": (b"[" * 100_000, "nested"),
        "large": (_hex(1_100_000), "at most 1048576"),
        "remote-context": (changed("@context", to="https://example.org/evil.jsonld"), "@context: missing, or not"),
        "own-context": (changed("@context", "sha256", to="cr:evil"), "@context: missing, or not"),
        "no-type": (json.dumps({k: v for k, v in document.items() if k != "@type"}).encode(), "@type: missing"),
        "version": (changed("conformsTo", to=["http://mlcommons.org/croissant/9.0"]), "conformsTo"),
        "unknown-field": (changed("transform", to="import os"), "unknown fields ['transform']"),
        "remote-file": (changed("distribution", 0, "contentUrl", to="https://example.org/x"), "distribution"),
        "local-file": (changed("distribution", 0, "contentUrl", to="../../etc/passwd"), "distribution"),
        "other-digest": (changed("distribution", 0, "sha256", to="0" * 64), "distribution"),
        "script": (changed("description", to="<script>alert(1)</script>"), "a viewer might run"),
        "script-in-data": (changed("recordSet", 0, "data", 0, "classes/name", to="<img src=x>"), "a viewer might run"),
        "script-in-a-name": (changed("recordSet", 0, "<svg onload=x>", to=1), "a viewer might run"),
        "address": (changed("license", to="javascript:alert(1)"), "a viewer might run"),
        "right-to-left": (changed("name", to="\u202egnp"), "U+202E"),
    }
    return {f"croissant-{name}": (pack({J: data}), reason) for name, (data, reason) in files.items()}


def _audit_files(m: Members, pack: Pack) -> dict[str, tuple[bytes, str]]:
    files = {
        "not-json": (b"\x80\x04.", "not UTF-8"),
        "list": (b"[1]", "expected an object"),
        "nan": (b'{"advantage": NaN}', "NaN"),
        "deep": (b'{"a":' * 20 + b"1" + b"}" * 20, "nested"),
        "twice": (b'{"a": 1, "a": 2}', "twice"),
        "large": (json.dumps({"a": _hex(300_000).decode()}).encode(), "at most 262144"),
        "script": (b'{"a": "<script>"}', "a viewer might run"),
        "path": (b'{"worst": "/home/jane/scan"}', "a path"),
        "patient": (b'{"worst": "1.2.840.10008.5.1"}', "a DICOM identifier"),
    }
    found = {name: (pack({A: data}, _set("digests", A, to=_sha(data))), why) for name, (data, why) in files.items()}
    found["not-on-the-card"] = (pack({A: b"{}"}), "digests are given for")
    found["on-the-card-only"] = (pack(card=_set("digests", A, to="0" * 64)), "digests are given for")
    found["swapped"] = (pack({A: b"{}"}, _set("digests", A, to="0" * 64)), f"{A}: its digest")
    return {f"audit-{name}": file for name, file in found.items()}


def _signature_files(m: Members, pack: Pack) -> dict[str, tuple[bytes, str]]:
    private, other = (Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32) for seed in (1, 2))
    key = keys.public_half(private)
    digests = {name: _sha(data) for name, data in m.items()}
    payload = signature.statement(key, digests)
    proof = private.sign(signature.message(payload))
    whole = signature.envelope(key, proof, payload)
    foreign = signature.statement(key, {**digests, T: "0" * 64})
    fewer = signature.statement(key, {C: digests[C]})
    later = (int.from_bytes(proof[32:], "little") + 2**252 + 27742317777372353535851937790883648493).to_bytes(
        32, "little"
    )

    def signed(what: bytes, by: Ed25519PrivateKey = private) -> bytes:
        return signature.envelope(key, by.sign(signature.message(what)), what)

    def changed(*path: Any, to: object) -> bytes:
        document = json.loads(whole)
        _set(*path, to=to)(document)
        return json.dumps(document, separators=(",", ":")).encode()

    pkcs1 = payload.replace(b"PUBLIC", b"RSA PUBLIC")
    files = {
        "nothing": (b"", "not a DSSE envelope"),
        "not-json": (b"\x30\x82", "not a DSSE envelope"),
        "list": (b"[]", "not a DSSE envelope"),
        "number": (b"1", "not a DSSE envelope"),
        "null": (b'{"payload":null,"payloadType":null,"signatures":null}', "not a DSSE envelope"),
        "unsigned": (changed("signatures", to=[]), "not a DSSE envelope"),
        "two": (changed("signatures", to=json.loads(whole)["signatures"] * 2), "not a DSSE envelope"),
        "short": (signature.envelope(key, proof[:-1], payload), "not a DSSE envelope"),
        "base64": (changed("payload", to="%%%"), "not a DSSE envelope"),
        "payload-not-json": (signed(b"hello"), "not a DSSE envelope"),
        "other-kind-of-key": (signed(pkcs1), "not a DSSE envelope"),
        "large": (json.dumps({"payload": _hex(20_000).decode()}).encode(), "at most 16384"),
        "of-another-file": (signed(foreign), "of other contents"),
        "of-one-member": (signed(fewer), "of other contents"),
        "of-nothing": (signed(signature.statement(key, {})), "of other contents"),
        "by-another-key": (signed(payload, other), "does not hold"),
        "zeros": (signature.envelope(key, bytes(64), payload), "does not hold"),
        "flipped": (signature.envelope(key, bytes([proof[0] ^ 1]) + proof[1:], payload), "does not hold"),
        "malleable": (signature.envelope(key, proof[:32] + later, payload), "does not hold"),
        "over-the-payload-alone": (signature.envelope(key, private.sign(payload), payload), "does not hold"),
        "other-type": (changed("payloadType", to="text/plain"), "not written as the format has it"),
        "other-key-id": (changed("signatures", 0, "keyid", to="0" * 64), "not written as the format has it"),
        "unknown-field": (changed("note", to="Jane"), "not written as the format has it"),
        "spaces": (whole.replace(b",", b", "), "not written as the format has it"),
    }
    found = {name: (container.pack({**m, S: data}), reason) for name, (data, reason) in files.items()}
    found["not-last"] = (container.pack({C: m[C], S: whole, **m}), "another order")
    found["of-the-file-before"] = (container.pack({**m, R: m[R] + b"!", S: whole}), "of other contents")
    return {f"signature-{name}": file for name, file in found.items()}


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _people_files(m: Members, pack: Pack) -> dict[str, tuple[bytes, str]]:
    comment = [_picture()[0], (b"tEXt", b"Comment\x00Jane Doe"), *_picture()[1:]]
    behind = [_picture()[0], (b"IDAT", zlib.compress(bytes(6)) + b"Jane"), _picture()[2]]
    readmes = {
        "script": (b"<script>alert(1)</script>", "HTML"),
        "link": (b"[a](javascript:alert)", "a link"),
        "picture": (b"![a](https://example.org/track.png)", "a link"),
        "reference": (b"[a]\n\n[a]: https://example.org", "a link"),
        "reference-in-list": (b"- [a]\n- [a]: https://example.org", "a link"),
        "reference-escaped": (b"[a\\]b]\n\n[a\\]b]: https://example.org", "a link"),
        "link-behind-backslashes": (b"[a\\\\](https://example.org)", "a link"),
        "open-brackets": (b"[\n" * 131_000 + b"\x1b", "control"),
        "backslashes": (b"\\" * 262_000 + b"\x1b", "control"),
        "escape-codes": (b"\x1b[2J", "control"),
        "not-utf8": (b"\xff", "not UTF-8"),
        "large": (b"a" * 300_000, "at most 262144"),
    }
    pictures = {
        "text": (b"no picture", "not a PNG"),
        "svg": (b"\x89PNG\r\n\x1a\n<svg onload=evil()>", "PNG"),
        "cut": (m[P][:-6], "truncated"),
        "comment": (_png(comment), "and nothing else"),
        "behind-end": (m[P] + _png(_picture())[8:], "and nothing else"),
        "behind-pixels": (_png(behind), "behind its pixels"),
        "checksum": (m[P][:30] + b"\x00" + m[P][31:], "checksum"),
        "huge": (_png(_picture(2**31 - 1, 2**31 - 1)), "at most 8192"),
        "many-pixels": (_png(_picture(8192, 8192)), "at most 8192"),
        "no-pixels": (_png(_picture(0, 0)), "at most 8192"),
        "bomb": (_png(_picture(pixels=bytes(100_000_000))), "are not the 6 bytes"),
        "short": (_png(_picture(pixels=bytes(5))), "are not the 6 bytes"),
        "depth": (_png(_picture(depth=16)), "bit depth 16"),
        "palette": (_png(_picture(colour=3)), "colour type 3"),
        "not-zlib": (_png([_picture()[0], (b"IDAT", b"xxxx"), _picture()[2]]), "cannot be decompressed"),
        "no-data": (_png([_picture()[0], _picture()[2]]), "and nothing else"),
    }
    found = {f"readme-{name}": (pack({R: data}), reason) for name, (data, reason) in readmes.items()}
    return found | {f"preview-{name}": (pack({P: data}), reason) for name, (data, reason) in pictures.items()}


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory, members: Members, sound: bytes, repack: Pack) -> dict[Path, str]:
    """The folder: file and the reason that must be among its problems."""
    folder = tmp_path_factory.mktemp("hostile")
    files = _containers(members, sound) | _tensor_files(members, repack) | _card_texts(members)
    files |= _packings(members) | _card_files(repack) | _people_files(members, repack)
    files |= _croissant_files(members, repack) | _audit_files(members, repack) | _signature_files(members, repack)
    for name, (data, _) in files.items():
        (folder / f"{name}.mdz").write_bytes(data)
    return {folder / f"{name}.mdz": reason for name, (_, reason) in files.items()}


def test_every_hostile_file_is_refused_for_its_reason(hostile: dict[Path, str]) -> None:
    assert len(hostile) >= 240
    wrong = []
    for path, reason in hostile.items():
        start = time.perf_counter()
        with pytest.raises(VerificationError) as caught:
            read(path)
        took = time.perf_counter() - start
        assert took < 1, f"{path.stem} took {took:.2f} s"
        assert not verify(path).ok
        wrong += [f"{path.stem}: {caught.value}"] * (reason not in str(caught.value))
    assert not wrong, "\n".join(wrong)


def test_messages_are_safe_to_print_and_short(hostile: dict[Path, str]) -> None:
    for path in hostile:
        problems = verify(path).problems
        assert 1 <= len(problems) <= 100
        for problem in problems:
            assert problem.replace("…", "").replace("±", "").isprintable(), path.stem
            assert len(problem) < 500, path.stem


def test_memory_stays_bounded(hostile: dict[Path, str]) -> None:
    """Eight times what the members really hold, which is at most 32 times the file, and a fixed amount for the rest."""
    for path in hostile:
        tracemalloc.start()
        found = verify(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * (path.stat().st_size + sum(found.members.values())) + 64 * 2**20, f"{path.stem}: {peak}"
        assert peak < 256 * 2**20, f"{path.stem}: {peak}"


def test_memory_of_the_largest_claims(tmp_path: Path, members: Members) -> None:
    """Files of a few MB whose members unpack as far as they may, in a process that may not have more than 1 GiB."""
    for name, limit in MEMBERS.items():
        path = tmp_path / f"{name}.mdz"
        path.write_bytes(container.pack({**members, name: _shrinking(limit)}))
        assert path.stat().st_size < max(limit / 8, 20_000)
    code = """
        import resource, sys
        from pathlib import Path
        from meddistill.package.read import verify
        verify(next(Path(sys.argv[1]).glob("preview.png.mdz")))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for path in Path(sys.argv[1]).glob("*.mdz"):
            assert not verify(path).ok, path
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
    """
    words = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    done = subprocess.run(words, check=False, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1024, "MiB, the interpreter and its libraries included"


def _shrinking(size: int) -> bytes:
    """Bytes that deflate to a little more than a 32nd part."""
    block = np.random.default_rng(0).bytes(3000) + bytes(61_000)
    return (block * (size // len(block) + 1))[:size]


def test_a_sound_repacked_file_passes(repack: Pack, sound: bytes) -> None:
    """The tools of this test break nothing by themselves."""
    assert _examine(repack())[0].ok
    assert (
        hashlib.sha256(repack({C: container.unpack(sound, [])[C].tobytes()})).digest() == hashlib.sha256(sound).digest()
    )


def test_every_problem_is_listed(members: Members, repack: Pack) -> None:
    def card(fields: dict[str, Any]) -> None:
        fields["recipe"]["seed"] = -1
        fields["images"]["channels"] = "one"
        fields["digests"][P] = "0" * 64

    found = _examine(repack({R: b"<b>", T: _tensors(members, step_sizes=_wide(-1))}, card))[0]
    text = "\n".join(found.problems)
    for part in ("recipe.seed", "images.channels", "HTML", "step_sizes"):
        assert part in text, text


def test_every_cross_problem_is_listed(members: Members, repack: Pack) -> None:
    found = _examine(repack({R: b"<b>", T: _tensors(members, step_sizes=_wide(-1))}, digests=False))[0]
    text = "\n".join(found.problems)
    for part in ("README.md: its digest", f"{T}: its digest", "HTML", "step_sizes"):
        assert part in text, text


@given(data=st.data())
@settings(max_examples=150)
def test_edits_of_the_card_never_crash(members: Members, data: st.DataObject) -> None:
    """Any JSON value in any place of the card: refused or sound, never another exception."""
    card = json.loads(members[C])
    value = data.draw(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
    place: Any = card
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or not place[key] or data.draw(st.booleans()):
            place[key] = value
            break
        place = place[key]
    found = _examine(container.pack({**members, C: json.dumps(card).encode()}))[0]
    assert found.ok == (not found.problems)


@given(noise=st.binary(max_size=300), where=st.sampled_from([T, R, P, C, J]), keep=st.integers(0, 200))
@settings(max_examples=200)
def test_noise_in_any_member_never_crashes(members: Members, noise: bytes, where: str, keep: int) -> None:
    changed = {**members, where: members[where][:keep] + noise}
    assume(changed != members)
    assert not _examine(container.pack(changed))[0].ok
