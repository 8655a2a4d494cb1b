"""``meddistill verify``: whether a package is whole, and who vouches for it."""

from pathlib import Path

from meddistill.cli.common import Answer, Output
from meddistill.cli.text import files


def verify(package: Path, /, *, key: Path | None = None, output: Output = Output()) -> Answer:
    """Check a package and its signature.

    Ends with 0 if it is signed by a trusted key, with 3 if it is broken, 4 if nobody signed it, 5 if a stranger did.

    Args:
        package: The package (FILE.mdz).
        key: The one public key (NAME.pub.pem) to trust [default: those of `meddistill trust`].
    """
    from meddistill import api

    found = api.verify(package, key=key)
    return Answer(found.as_dict(), files.verification, found.exit_code)
