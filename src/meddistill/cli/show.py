"""``meddistill show``: what a package says of itself."""

from pathlib import Path

from meddistill.cli import text
from meddistill.cli.common import Answer, Output


def show(package: Path, /, *, output: Output = Output()) -> Answer:
    """Show what a package holds: classes, recipe, results, size, terms.

    Args:
        package: The package (FILE.mdz).
    """
    from meddistill import api

    return Answer(api.show(package).as_dict(), text.package)
