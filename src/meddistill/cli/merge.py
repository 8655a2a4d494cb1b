"""``meddistill merge``: several packages in one file."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from meddistill.cli.common import Answer, Output
from meddistill.cli.text import receiving


def merge(
    packages: Annotated[tuple[Path, ...], Parameter(negative=())],
    /,
    *,
    out: Path,
    classes: Path | None = None,
    output: Output = Output(),
) -> Answer:
    """Merge packages of several hospitals into one, whose card names its parts by digest.

    Classes are matched by name. The result is not signed, whoever signed the parts.

    Args:
        packages: The packages (FILE.mdz …), two or more.
        out: Package to write (FILE.mdz).
        classes: CSV that renames classes: columns class, becomes and, if wanted, package.
    """
    from meddistill import api

    return Answer(api.merge(packages, out, classes=classes, progress=output.progress()).as_dict(), receiving.merging)
