"""``meddistill sign``: vouch for a package."""

from pathlib import Path

from meddistill.cli.common import Answer, Output
from meddistill.cli.passphrase import passphrase
from meddistill.cli.text import files


def sign(package: Path, /, *, key: Path, out: Path | None = None, output: Output = Output()) -> Answer:
    """Sign a sound package; a signature that it has is replaced. A locked key asks for its passphrase.

    Args:
        package: The package (FILE.mdz).
        key: The private key (NAME.pem), as `meddistill keygen` makes it.
        out: Where to write the signed package [default: in its place].
    """
    from meddistill import api

    secret = passphrase() if api.is_locked(key) else None
    return Answer(api.sign(package, key, out=out, passphrase=secret).as_dict(), files.signed)
