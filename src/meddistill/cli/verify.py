"""``meddistill verify``: whether a package is whole and unaltered."""

from pathlib import Path

from meddistill.cli import text
from meddistill.cli.common import Answer, Output
from meddistill.runtime.errors import VerificationError


def verify(package: Path, /, *, output: Output = Output()) -> Answer:
    """Check a package: members, digests, shapes, ranges. Ends with 3 if it is broken.

    Args:
        package: The package (FILE.mdz).
    """
    from meddistill import api

    document = api.verify(package).as_dict()
    return Answer(document, text.verification, 0 if document["ok"] else VerificationError.exit_code)
