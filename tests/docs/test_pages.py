"""Whatever a page says can be typed: commands parse, code compiles, files are read, links lead somewhere."""

import ast
import importlib
import inspect
import json
import re

import pytest
import tomlkit
from pages import PAGES, ROOT, anchors, blocks, commands, links, prose

from meddistill import api
from meddistill.cli.main import app
from meddistill.runtime import watch
from meddistill.runtime.events import EventLog
from meddistill.runtime.progress import Silent

SCRIPTS = sorted(ROOT.glob("examples/*.sh"))
named = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pytest.mark.parametrize("file", [*PAGES, *SCRIPTS], ids=lambda file: str(file.relative_to(ROOT)))
def test_every_command_is_one_that_the_program_takes(file):
    for text in blocks(file, "", "sh", "console") if file.suffix == ".md" else [file.read_text()]:
        for words in commands(text):
            app.parse_args(words, exit_on_error=False, print_error=False)


def test_commands_are_found():
    """The test above is not about nothing, and a wrong option does not parse."""
    found = [words for page in PAGES for text in blocks(page, "", "sh", "console") for words in commands(text)]
    assert len(found) > 80
    assert {words[0] for words in found} >= {"inspect", "distill", "train", "audit", "bench", "compress", "report"}
    with pytest.raises(Exception, match="--no-such"):
        app.parse_args(["distill", "x", "--out", "y", "--no-such"], exit_on_error=False, print_error=False)


@named
def test_verbs_and_options_in_sentences_exist(page):
    for said in re.findall(r"`meddistill ([^`]*)`", prose(page)):
        verb = said.split()[0].rstrip("…")
        if verb.islower() and not verb.startswith("-"):
            assert verb in app, said
            known = {name for argument in app[verb].assemble_argument_collection() for name in argument.names}
            assert set(re.findall(r"--[a-z-]+", said)) <= known | {"--help"}, said


@named
def test_python_in_a_page_compiles_and_imports_what_there_is(page):
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("meddistill"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")
            if isinstance(node, ast.Call) and re.fullmatch(r"api\.\w+", ast.unparse(node.func)):
                function = getattr(api, ast.unparse(node.func)[4:])
                inspect.signature(function).bind(*node.args, **{word.arg: 0 for word in node.keywords})


@named
def test_settings_in_a_page_are_toml(page):
    for text in blocks(page, "toml"):
        tomlkit.parse(text)


@named
def test_links_lead_to_files_and_headings(page):
    for file, anchor in links(page):
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), file
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{file}#{anchor}"


def test_every_page_of_the_site_is_in_its_contents_once():
    told = "\n".join(blocks(ROOT / "docs/index.md", "{toctree}"))
    listed = [line for line in told.splitlines() if line and not line.startswith(":")]
    assert sorted(listed) == sorted(page.stem for page in ROOT.glob("docs/*.md") if page.stem != "index")


def test_every_picture_is_made_by_a_command_of_the_project():
    shown = {name for page in ROOT.glob("docs/*.md") for name, _ in links(page) if name.startswith("pictures/")}
    there = {f"pictures/{file.name}" for file in (ROOT / "docs/pictures").iterdir()}
    made = (ROOT / "docs/tools/pictures.py").read_text(encoding="utf-8")
    assert shown == there
    assert all(f'"{name.removeprefix("pictures/")}"' in made for name in shown)


def test_every_event_and_its_fields_are_documented():
    table = dict(re.findall(r"^\| `([a-z ]+)` \| (.*) \|$", prose(ROOT / "docs/events.md"), re.MULTILINE))
    written = {}
    for file in (ROOT / "src/meddistill").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if _writes_an_event(node):
                fields = {word.arg for word in node.keywords if word.arg}
                written.setdefault(node.args[0].value, set()).update(fields)
    assert EventLog.write.__name__ == "write"
    assert {"begun", "evaluated", "written", "overlap", "memory"} <= set(written) <= set(table)
    for name, fields in written.items():
        assert fields <= set(re.findall(r"`([a-z_]+)`", table[name])), name


def test_every_key_of_the_status_and_the_command_is_documented(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "SECONDS_BETWEEN", -1.0)
    monkeypatch.setattr("sys.argv", ["meddistill", "distill", "x"])
    with (
        pytest.raises(ValueError, match="disk"),
        watch.watched(tmp_path, Silent()) as progress,
        progress.stage("distilling", 2) as stage,
    ):
        stage.advance(1, loss=0.5)
        raise ValueError("the disk is full")
    section = (ROOT / "docs/view.md").read_text(encoding="utf-8").split("\n## The status\n")[1].split("\n## ")[0]
    told, command = (json.loads((tmp_path / name).read_text()) for name in ("status.json", "command.json"))
    assert told["state"] == "failed"
    for key in (*told, *told["memory"], *command):
        assert f"`{key}`" in section, key


def _writes_an_event(node):
    """``….write("kind", field=…)``: what else is written has no fields."""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "write"
        and len(node.args) == 1
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
        and bool(node.keywords)
    )
