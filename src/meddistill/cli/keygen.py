"""``meddistill keygen``: a pair of keys to sign packages with."""

from pathlib import Path

from meddistill.cli.common import Answer, Flag, Output
from meddistill.cli.passphrase import new_passphrase
from meddistill.cli.text import files


def keygen(out: Path, /, *, passphrase: Flag = False, output: Output = Output()) -> Answer:
    """Make a pair of Ed25519 keys: the private one signs, the public one goes to receivers.

    Args:
        out: File of the private key (NAME.pem); the public one is written beside it (NAME.pub.pem).
        passphrase: Lock the private key: ask for a passphrase, or take that in MEDDISTILL_PASSPHRASE.
    """
    from meddistill import api

    return Answer(api.keygen(out, new_passphrase() if passphrase else None).as_dict(), files.key_pair)
