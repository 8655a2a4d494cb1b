"""``meddistill report``: a package, a run or a benchmark as one HTML file, for the people who decide about sharing."""

from pathlib import Path

from meddistill.cli.common import Answer, Output
from meddistill.cli.text import files


def report(
    subject: Path,
    /,
    *,
    out: Path,
    audit: Path | None = None,
    output: Output = Output(),
) -> Answer:
    """Write what a package holds, how a run went, or what a benchmark found, as one HTML file.

    The file needs nothing else: no network, no script. It is for a browser, on paper too.

    Args:
        subject: The package (FILE.mdz), the folder of a run (NAME.run), or that of a benchmark.
        out: The HTML file to write; an existing one is replaced.
        audit: Result of an audit (JSON) to show [default: the package's own].
    """
    from meddistill import api

    return Answer(api.report(subject, out, audit=audit).as_dict(), files.reported)
