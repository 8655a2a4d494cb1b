"""The page: a package, a run, an audit and a benchmark, each told in its own file, put into the template.

Everything that is not the project's own text goes through the template's escaping, after characters that would act
upon the page were made visible. A Content-Security-Policy forbids scripts, and every address but the page's own
pictures; the one style sheet is allowed by its digest.
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources

from jinja2 import Environment
from markupsafe import Markup

from meddistill import __version__
from meddistill.report.cells import Cell, Results
from meddistill.report.escaped import environment
from meddistill.report.findings import Audit
from meddistill.report.of_audit import told_of_audit
from meddistill.report.of_benchmark import told_of_benchmark, told_of_transfer
from meddistill.report.of_package import Shared, told_of_package
from meddistill.report.of_run import told_of_run
from meddistill.report.runlog import RunLog


def render(
    shared: Shared | None,
    run: RunLog | None,
    audit: Audit | None,
    *,
    bench: Results | None = None,
    beside: Sequence[Cell] = (),
) -> str:
    """The HTML of a report on a package, on a run, on both, or on a benchmark; the same input gives the same text.

    ``beside``: what a benchmark measured of the package, and what it compared that with.
    """
    style = _text("style.css")
    name = next((one.name for one in (shared, run, bench) if one is not None), "")
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=f"Report on {name}",
            name=name,
            style=Markup(style),
            style_digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii"),
            version=__version__,
            shared=None if shared is None else told_of_package(shared),
            run=None if run is None else told_of_run(run),
            audit=None if audit is None else told_of_audit(audit),
            bench=None if bench is None else told_of_benchmark(bench),
            transfer=told_of_transfer(beside if bench is None else bench.cells),
        )
    )


@cache
def _environment() -> Environment:
    return environment(_text)


def _text(name: str) -> str:
    return (resources.files("meddistill.report") / "templates" / name).read_text(encoding="utf-8")
