"""``meddistill methods``: the methods, what they take and where they come from."""

from meddistill.cli.common import Answer, Output
from meddistill.cli.text import making


def methods(*, output: Output = Output()) -> Answer:
    """List the methods: family, what is learned, cost, paper."""
    from meddistill import api

    return Answer(api.methods().as_dict(), making.catalogue)
