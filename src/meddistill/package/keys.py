"""Ed25519 keys in standard PEM files: PKCS8 for the private half, SPKI for the public one (RFC 8410).

A public key is 32 bytes; its name everywhere is its fingerprint, the SHA-256 of its SPKI form in hexadecimal. Reading
and writing public keys needs nothing; whatever computes with keys imports ``cryptography`` when it is called.
"""

import base64
import binascii
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from meddistill.runtime.errors import InputError, MeddistillError, OutputError
from meddistill.runtime.files import is_there, require_named, write_error

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_SPKI = bytes.fromhex("302a300506032b6570032100")  # what precedes the 32 bytes in RFC 8410's form
_BEGIN, _END = "-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----"
_MAX_KEY_BYTES = 2**14


def public_pem(key: bytes) -> str:
    """The 32 bytes of a public key as PEM, in its one canonical form."""
    return f"{_BEGIN}\n{base64.b64encode(_SPKI + key).decode()}\n{_END}\n"


def parse_public(pem: str) -> bytes:
    """The 32 bytes of a public key. Raises :class:`ValueError` for anything but an Ed25519 key in PEM."""
    lines = [line.strip() for line in pem.strip().splitlines()]
    if "PRIVATE KEY" in pem:
        raise ValueError("it is a private key; give the public one (.pub.pem), and the private one to nobody")
    if len(lines) < 3 or lines[0] != _BEGIN or lines[-1] != _END:
        raise ValueError("it is not a public key in PEM")
    try:
        der = base64.b64decode("".join(lines[1:-1]), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("its base64 is broken") from None
    if len(der) != len(_SPKI) + 32 or not der.startswith(_SPKI):
        raise ValueError("it is not an Ed25519 key")
    return der[len(_SPKI) :]


def fingerprint(key: bytes) -> str:
    """64 hexadecimal digits that name a public key."""
    return hashlib.sha256(_SPKI + key).hexdigest()


def read_public(path: Path) -> bytes:
    """The 32 bytes of the public key in a file. Raises :class:`InputError`."""
    try:
        return parse_public(_read(path).decode("ascii"))
    except ValueError as error:
        raise InputError(f"{path} cannot be used as a public key: {error}") from None


def generate(path: Path, passphrase: str | None = None) -> tuple[Path, bytes]:
    """Write a new private key to ``path``, readable by its owner alone, and the public one beside it (``.pub.pem``).

    Returns the public key's file and its 32 bytes. A key is never replaced: raises :class:`OutputError` where one is.
    """
    require_named(path)
    private = _ed25519().generate()
    public, key = path.with_name(f"{path.stem}.pub.pem"), public_half(private)
    for existing in (path, public):
        if is_there(existing):
            raise OutputError(f"{existing} exists: a key is never replaced; choose another name")
    _create(path, _private_pem(private, passphrase), 0o600)
    _create(public, public_pem(key).encode(), 0o644)
    return public, key


def is_encrypted(path: Path) -> bool:
    """Whether the private key in a file asks for a passphrase. Raises :class:`InputError`."""
    return b"ENCRYPTED" in _read(path)


def private_key(path: Path, passphrase: str | None = None) -> "Ed25519PrivateKey":
    """The private key in a file, to sign with. Raises :class:`InputError`."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    kind, data = _ed25519(), _read(path)
    secret = passphrase.encode() if passphrase and is_encrypted(path) else None
    try:
        private = load_pem_private_key(data, secret)
    except TypeError:
        raise InputError(
            f"{path} is locked with a passphrase: give it when asked, or in MEDDISTILL_PASSPHRASE"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        wrong = "the passphrase is wrong, or the file is damaged" if secret else "it is not a private key in PEM"
        raise InputError(f"{path} cannot be used to sign: {wrong}") from None
    if not isinstance(private, kind):
        raise InputError(f"{path} is not an Ed25519 key: make one with `meddistill keygen`")
    return private


def public_half(private: "Ed25519PrivateKey") -> bytes:
    """The 32 bytes of the public key that belongs to a private one."""
    return private.public_key().public_bytes_raw()


def holds(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the signature is that key's of that message."""
    _ed25519()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _ed25519() -> "type[Ed25519PrivateKey]":
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError:
        raise MeddistillError(
            "signatures need the Python package cryptography, which is missing: pip install cryptography"
        ) from None
    return Ed25519PrivateKey


def _private_pem(private: "Ed25519PrivateKey", passphrase: str | None) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    lock = form.BestAvailableEncryption(passphrase.encode()) if passphrase else form.NoEncryption()
    return private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, lock)


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_KEY_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"there is no key file {path}; `meddistill keygen` makes one") from None
    except OSError as error:
        raise InputError(f"cannot read the key {path}: {error.strerror or error}") from error
    if len(data) > _MAX_KEY_BYTES:
        raise InputError(f"{path} is larger than {_MAX_KEY_BYTES} bytes: it is not a key")
    return data


def _create(path: Path, data: bytes, mode: int) -> None:
    """Write a new file that only ``mode`` may read from its first moment on; never over another one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise write_error(path, error) from error
