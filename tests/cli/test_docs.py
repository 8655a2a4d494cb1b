"""What is written down agrees with what is there."""

import re
from pathlib import Path

import pytest

from meddistill import __version__
from meddistill.cli.main import VERBS, app

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("verb", [function.__name__.replace("_", "-") for function in VERBS])
def test_every_option_of_every_verb_is_in_the_docs(verb):
    documented = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert f"\n## {verb}\n" in documented
    options = [name for argument in app[verb].assemble_argument_collection() for name in argument.names]
    for option in options:
        if option.startswith("--"):
            assert f"`{option}`" in documented


def test_the_citation_names_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in citation


def test_every_dependency_has_an_exact_version_in_the_constraints():
    pinned = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.scripts]")[0]
    wanted = set(re.findall(r'"([a-z0-9-]+)>=', project))
    assert {"torch", "numpy", "pytest", "hatchling"} <= wanted <= pinned
