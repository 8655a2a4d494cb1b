"""Four answers, each for its reason; and what the signature says can be checked by others."""

import base64
import hashlib
import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from meddistill import api
from meddistill.package import container, keys, signature, trust
from meddistill.package.members import SIGNATURE
from meddistill.package.read import _examine, read, verify
from meddistill.package.types import Package
from meddistill.package.write import encode
from meddistill.runtime.errors import InputError, OutputError, VerificationError

Make = Callable[..., Package]
Save = Callable[[bytes], Path]


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "config"
    monkeypatch.setenv("MEDDISTILL_CONFIG", str(folder))
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """The private key of a pair; the public one is ``ours.pub.pem``."""
    keys.generate(tmp_path / "ours.pem")
    return tmp_path / "ours.pem"


@pytest.fixture
def signed(pair: Path, saved: Save, sound: bytes) -> Path:
    path = saved(sound)
    api.sign(path, pair)
    return path


def _answer(path: Path, key: Path | None = None) -> tuple[str, int]:
    found = api.verify(path, key=key)
    return found.answer, found.exit_code


def test_four_answers(signed: Path, pair: Path, sound: bytes, tmp_path: Path) -> None:
    ours = pair.with_name("ours.pub.pem")
    unsigned = tmp_path / "unsigned.mdz"
    unsigned.write_bytes(sound)
    broken = tmp_path / "broken.mdz"
    broken.write_bytes(signed.read_bytes()[:-1])
    assert _answer(unsigned) == ("unsigned", 4)
    assert _answer(broken) == ("broken", 3)
    assert _answer(signed) == ("stranger", 5)
    assert _answer(signed, ours) == ("trusted", 0)
    api.trust(ours, name="St Mary's")
    assert _answer(signed) == ("trusted", 0)
    assert api.verify(signed).signer_name == "St Mary's"
    assert api.show(signed).as_dict()["signer"]["name"] == "St Mary's"
    api.trust(remove="St Mary's")
    assert _answer(signed) == ("stranger", 5)


def test_the_key_that_was_given_is_the_only_one(signed: Path, pair: Path, tmp_path: Path) -> None:
    other, _ = keys.generate(tmp_path / "other.pem")
    api.trust(pair.with_name("ours.pub.pem"), name="ours")
    assert _answer(signed, other) == ("stranger", 5)


def test_a_signature_changes_nothing_else(signed: Path, sound: bytes, make: Make) -> None:
    package = read(signed)
    assert encode(package) == encode(make()) == sound
    before, after = container.unpack(sound, []), container.unpack(signed.read_bytes(), [])
    assert {name: data for name, data in after.items() if name != SIGNATURE} == before


def test_signing_again_replaces(signed: Path, pair: Path, tmp_path: Path) -> None:
    before = signed.read_bytes()
    api.sign(signed, pair)
    assert signed.read_bytes() == before, "Ed25519 signatures have no randomness"
    keys.generate(tmp_path / "other.pem")
    out = tmp_path / "again.mdz"
    answer = api.sign(signed, tmp_path / "other.pem", out=out).as_dict()
    assert signed.read_bytes() == before
    assert api.verify(out).signer == answer["fingerprint"] != api.verify(signed).signer


def test_others_can_check_it(signed: Path, pair: Path) -> None:
    """By the DSSE and in-toto specifications and the PEM file alone."""
    members = container.unpack(signed.read_bytes(), [])
    envelope = json.loads(bytes(members[SIGNATURE]))
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"]
    assert kind == "application/vnd.in-toto+json"
    encoded = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    public = serialization.load_pem_public_key(pair.with_name("ours.pub.pem").read_bytes())
    proof = base64.b64decode(envelope["signatures"][0]["sig"])
    public.verify(proof, encoded)
    with pytest.raises(InvalidSignature):
        public.verify(proof, encoded + b" ")
    statement = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "urn:meddistill:package:1"
    stated = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    others = {name: data for name, data in members.items() if name != SIGNATURE}
    assert stated == {name: hashlib.sha256(data).hexdigest() for name, data in others.items()}
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert envelope["signatures"][0]["keyid"] == hashlib.sha256(der).hexdigest() == api.verify(signed).signer


def test_a_broken_package_is_not_signed(pair: Path, saved: Save, sound: bytes) -> None:
    path = saved(sound[:-1])
    with pytest.raises(VerificationError):
        api.sign(path, pair)
    assert path.read_bytes() == sound[:-1]


@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
@settings(max_examples=150)
def test_a_changed_byte_never_passes_as_signed(sound: bytes, place: float, change: int) -> None:
    whole = _signed(sound, Ed25519PrivateKey.from_private_bytes(bytes(32)))
    broken, members = bytearray(whole), dict[str, memoryview]()
    broken[int(place * len(whole))] ^= change
    assert not _examine(bytes(broken), members)[0].ok or members == container.unpack(whole, [])


def _signed(sound: bytes, private: Ed25519PrivateKey) -> bytes:
    members = container.unpack(sound, [])
    key = keys.public_half(private)
    payload = signature.statement(key, {name: hashlib.sha256(data).hexdigest() for name, data in members.items()})
    proof = private.sign(signature.message(payload))
    return container.pack({**members, SIGNATURE: signature.envelope(key, proof, payload)})


def test_keys_are_standard_pem(pair: Path) -> None:
    private = serialization.load_pem_private_key(pair.read_bytes(), None)
    assert isinstance(private, Ed25519PrivateKey)
    assert pair.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    public = pair.with_name("ours.pub.pem")
    pem = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert public.read_bytes() == pem
    assert keys.read_public(public) == private.public_key().public_bytes_raw()
    assert stat.S_IMODE(pair.stat().st_mode) == 0o600


def test_a_key_is_never_replaced(pair: Path) -> None:
    before = pair.read_bytes()
    with pytest.raises(OutputError, match="never replaced"):
        api.keygen(pair)
    pair.unlink()
    with pytest.raises(OutputError, match=r"ours\.pub\.pem exists"):
        api.keygen(pair)
    assert not pair.exists()
    assert before


@pytest.mark.parametrize("name", [".", "/", "x" * 300])
def test_a_key_is_given_a_name_that_a_file_can_have(name: str) -> None:
    with pytest.raises(OutputError, match=r"give another name|name is too long"):
        api.keygen(name)


def test_passphrases(tmp_path: Path, saved: Save, sound: bytes) -> None:
    path, key = saved(sound), tmp_path / "locked.pem"
    api.keygen(key, "correct horse")
    assert api.is_locked(key)
    assert b"ENCRYPTED" in key.read_bytes()
    for wrong, message in ((None, "locked with a passphrase"), ("battery", "passphrase is wrong")):
        with pytest.raises(InputError, match=message):
            api.sign(path, key, passphrase=wrong)
    assert path.read_bytes() == sound
    api.sign(path, key, passphrase="correct horse")
    assert api.verify(path).answer == "stranger"


def test_other_keys_are_refused(tmp_path: Path, saved: Save, sound: bytes, pair: Path) -> None:
    path, key = saved(sound), tmp_path / "curve.pem"
    curve = generate_private_key(SECP256R1())
    form = serialization
    key.write_bytes(curve.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    public = tmp_path / "curve.pub.pem"
    public.write_bytes(curve.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(InputError, match="not an Ed25519 key"):
        api.sign(path, key)
    with pytest.raises(InputError, match="not an Ed25519 key"):
        api.trust(public, name="curve")
    with pytest.raises(InputError, match="it is a private key"):
        api.trust(pair, name="ours")
    for content, message in ((b"no key", "not a public key"), (b"x" * 99_999, "it is not a key")):
        public.write_bytes(content)
        with pytest.raises(InputError, match=message):
            api.verify(path, key=public)
    with pytest.raises(InputError, match="there is no key file"):
        api.verify(path, key=tmp_path / "missing.pem")


def test_the_store_keeps_names_and_keys_apart(pair: Path, tmp_path: Path, config: Path) -> None:
    ours, (other, _) = pair.with_name("ours.pub.pem"), keys.generate(tmp_path / "other.pem")
    assert api.trust().as_dict() == {"trusted": {}, "file": str(config / "trusted.json")}
    api.trust(ours, name="ours")
    api.trust(ours, name="ours")
    with pytest.raises(InputError, match="another key is trusted as 'ours'"):
        api.trust(other, name="ours")
    with pytest.raises(InputError, match="this key is trusted as 'ours'"):
        api.trust(ours, name="theirs")
    for name in ("", "x" * 101, "a\x1b[2J", "\u202eevil"):
        with pytest.raises(InputError, match="cannot be a key's name"):
            api.trust(other, name=name)
    with pytest.raises(InputError, match="give both"):
        api.trust(other)
    with pytest.raises(InputError, match="trusted are: 'ours'"):
        api.trust(remove="nobody")
    assert list(api.trust().as_dict()["trusted"]) == ["ours"]


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', '{"a": "no key"}'])
def test_a_damaged_store_trusts_nobody(config: Path, signed: Path, content: str) -> None:
    config.mkdir()
    (config / "trusted.json").write_text(content)
    with pytest.raises(InputError, match="are damaged"):
        api.verify(signed)


@pytest.mark.parametrize(
    ("system", "variables", "expected"),
    [
        ("linux", {"XDG_CONFIG_HOME": "/x"}, "/x/meddistill"),
        ("linux", {"HOME": "/h"}, "/h/.config/meddistill"),
        ("darwin", {"HOME": "/h"}, "/h/Library/Application Support/meddistill"),
        ("win32", {"APPDATA": "/r"}, "/r/meddistill"),
        ("linux", {"MEDDISTILL_CONFIG": "/own", "HOME": "/h"}, "/own"),
    ],
)
def test_the_configuration_folder(
    monkeypatch: pytest.MonkeyPatch, system: str, variables: dict[str, str], expected: str
) -> None:
    for name in ("MEDDISTILL_CONFIG", "XDG_CONFIG_HOME", "APPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", system)
    assert trust.config_folder() == Path(expected)


def test_a_warning_for_all_but_trusted_ones(signed: Path, pair: Path) -> None:
    found = verify(signed)
    assert "compare the fingerprint" in (trust.warning(found) or "")
    assert trust.warning(trust.judge(found, keys.read_public(pair.with_name("ours.pub.pem")))) is None
