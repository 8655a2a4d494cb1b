"""``meddistill trust``: whose signatures count."""

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter, validators

from meddistill.cli.common import Answer, Output
from meddistill.cli.text import files

WHAT = Group("What to do (one of)", sort_key=3, validator=validators.LimitedChoice())


def trust(
    key: Path | None = None,
    /,
    *,
    name: Annotated[str | None, Parameter(group=WHAT)] = None,
    remove: Annotated[str | None, Parameter(group=WHAT)] = None,
    output: Output = Output(),
) -> Answer:
    """List the keys that you trust, add one, or remove one.

    Compare a fingerprint with the sender by telephone before you trust it.

    Args:
        key: Public key (NAME.pub.pem) to trust under --name; without one the trusted keys are listed.
        name: What you call its owner.
        remove: Name of the key to trust no longer.
    """
    from meddistill import api

    return Answer(api.trust(key, name=name, remove=remove).as_dict(), files.trusted_keys)
