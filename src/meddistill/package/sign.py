"""Put a signature into a package file, in place of one that is there."""

from pathlib import Path

from meddistill.package import container, keys, signature
from meddistill.package.members import SIGNATURE
from meddistill.package.read import open_sound
from meddistill.runtime.files import write_atomic


def sign(path: Path, key: Path, out: Path | None = None, passphrase: str | None = None) -> bytes:
    """Sign the package at ``path`` with the private key in ``key``; the result replaces it, or goes to ``out``.

    Returns the public key. Raises :class:`VerificationError` for a package that is not sound, :class:`InputError` for
    a key that cannot be used, :class:`OutputError`.
    """
    members, digests = open_sound(path)
    signed = {name: content for name, content in members.items() if name != SIGNATURE}
    private = keys.private_key(key, passphrase)
    public = keys.public_half(private)
    payload = signature.statement(public, {name: digests[name] for name in signed})
    proof = private.sign(signature.message(payload))
    write_atomic(out or path, container.pack({**signed, SIGNATURE: signature.envelope(public, proof, payload)}))
    return public
