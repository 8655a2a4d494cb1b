"""Getting started, carried out: the commands of the page on a tenth of the images, with the quick settings it names.

Then, in the same folder, those commands of other pages that take seconds.
"""

import io
import json
import re
import shlex
import subprocess
import sys

import pytest
import torch
from pages import ROOT, blocks
from pages import commands as taken_apart
from rich.console import Console
from tests.report.conftest import OTHER, OWN, cell

from meddistill.cli.layout import printable
from meddistill.cli.main import app

PAGE = ROOT / "docs/getting-started.md"
QUICK = """
images_per_class = 2
size = 28
network = "convnet-d3-w8"
[teachers]
count = 1
steps = 40
snapshot_every = 4
[matching]
warm_up = 20
iterations = 5
student_steps = 2
segment = 2
[evaluation]
seeds = 2
"""
EXIT_CODES = {"audit": {6, 7, 8}}  # a quick audit never passes
SHOW_PROGRESS = ("inspect", "distill", "audit", "train", "evaluate")
# Of other pages; what they call SOURCE is what the folder has.
OTHERS = ("README.md", "docs/index.md", "docs/package.md", "docs/report.md", "docs/choose-method.md")
SECONDS = ("show", "report", "verify", "evaluate", "predict", "export-model", "compress", "methods")
STANDS_FOR = {"OTHER_SOURCE": "lungs/pneumoniamnist-joint.npz", "IMAGE": "lungs.png"}
# What inspect says depends on which images there are.
SAYS_THE_SAME = ("distill", "show", "report", "audit", "keygen", "sign", "trust", "verify", "train", "evaluate")


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Of every command: its words, what the page says that it prints, and its answer."""
    folder = tmp_path_factory.mktemp("started")
    (folder / "quick.toml").write_text(QUICK)
    (folder / "examples").symlink_to(ROOT / "examples")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MEDDISTILL_CONFIG", str(folder / "trusted"))
        begun = [(command, printed, carried_out(command)) for command, printed in commands()]
        (folder / "OUT").mkdir()
        (folder / "OUT" / "results.jsonl").write_text(json.dumps(cell("mtt", OWN, OTHER, 0.8, 0.1)))
        yield begun, [(command, carried_out(command)) for command in other_commands()]
    torch.set_num_threads(before)


def other_commands():
    """Every quick command of other pages, once, but for those of getting started itself."""
    known = {shlex.join(shlex.split(command)) for command, _ in commands()}
    every = [
        shlex.join(["meddistill", *(STANDS_FOR.get(word, word) for word in words)])
        for page in OTHERS
        for text in blocks(ROOT / page, "", "sh", "console")
        for words in taken_apart(text)
        if words[0] in SECONDS
    ]
    return [command for command in dict.fromkeys(every) if command not in known]


def commands():
    """Commands and their output as the page has them, with the substitutions that it names."""
    page = PAGE.read_text(encoding="utf-8")
    quicker = re.findall(r'<!-- test: "(.*?)" becomes "(.*?)"', page)
    assert len(quicker) == 3
    for block in blocks(PAGE, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = part.replace("\\\n", " ").partition("\n")
            for old, new in quicker:
                command = command.replace(old, new)
            yield command, printed


def carried_out(command):
    """The answer of a verb; None of another program."""
    words = shlex.split(command)
    if words[0] != "meddistill":
        subprocess.run([sys.executable, *words[1:]], check=True, capture_output=True)
        return None
    verb, bound, _ = app.parse_args(
        [*words[1:], *(["--quiet"] if words[1] in SHOW_PROGRESS else [])], exit_on_error=False
    )
    return verb(*bound.args, **bound.kwargs)


def answers(told):
    """Of every command with an answer of its own: the words, and the answer."""
    begun, others = told
    return [(command, answer) for command, *_, answer in (*begun, *others) if answer is not None]


def test_every_command_does_what_its_page_says(told):
    begun, others = told
    assert len(begun) > 9
    assert len(others) > 6
    assert {command.split()[1] for command, _ in answers(told)} > set(SECONDS)
    for command, answer in answers(told):
        assert answer.exit_code in EXIT_CODES.get(command.split()[1], {0}), command


def test_what_is_printed_looks_as_on_the_page(told):
    """Line by line the same first words, whatever the figures."""
    for command, printed, answer in told[0]:
        if answer is not None and command.split()[1] in SAYS_THE_SAME:
            shown, now = beginnings(printed), beginnings(rendered(answer))
            assert shown, f"{command}: the page does not say what it prints (docs/tools/console.py)"
            assert shown <= now, command


def rendered(answer):
    console = Console(file=io.StringIO(), width=80, highlight=False, emoji=False, markup=False)
    answer.render(printable(answer.document), console)
    return console.file.getvalue()


def beginnings(printed):
    """The first word of every line that begins at the margin with a small letter and is the name of something."""
    return {found[1] for line in printed.splitlines() if (found := re.match(r"([a-z][a-z-]+)(?:  | –| [0-9–])", line))}


def test_every_key_of_an_answer_is_in_the_reference(told):
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    for command, answer in answers(told):
        verb = command.split()[1]
        section = page.split(f"\n## {verb}\n")[1].split("\n## ")[0]
        for key in keys(answer.document):
            assert f"`{key}`" in section, f"{verb}: {key}"


def keys(document):
    """The names of a document and of the entries of its lists; what is below is named by data, or by a table."""
    for name, value in document.items():
        yield name
        if isinstance(value, list):
            for entry in value:
                if isinstance(entry, dict):
                    yield from entry
