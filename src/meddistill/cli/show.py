"""``meddistill show``: what a package, or a compressed model, says of itself."""

from pathlib import Path

from meddistill.cli.common import Answer, Output
from meddistill.cli.text import files


def show(file: Path, /, *, output: Output = Output()) -> Answer:
    """Show what a package holds: classes, recipe, results, size, terms; or a compressed model, and what it has seen.

    Args:
        file: The package (FILE.mdz), or the compressed model (FILE.mdw).
    """
    from meddistill import api

    return Answer(api.show(file).as_dict(), files.shown)
