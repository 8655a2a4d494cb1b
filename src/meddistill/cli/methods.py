"""``meddistill methods``: the methods and their sources."""

from meddistill.cli import text
from meddistill.cli.common import Answer, Output


def methods(*, output: Output = Output()) -> Answer:
    """List the methods, each with its paper."""
    from meddistill import api

    return Answer(api.methods().as_dict(), text.catalogue)
