"""Getting started, carried out: the commands of the page on a tenth of the images, with the quick settings it names."""

import io
import re
import shlex
import subprocess
import sys

import pytest
import torch
from pages import ROOT, blocks
from rich.console import Console

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
        yield [(command, printed, carried_out(command)) for command, printed in commands()]
    torch.set_num_threads(before)


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


def test_every_command_does_what_its_page_says(told):
    assert len(told) > 9
    for command, _, answer in told:
        if answer is not None:
            assert answer.exit_code in EXIT_CODES.get(command.split()[1], {0}), command


def test_what_is_printed_looks_as_on_the_page(told):
    """Line by line the same first words, whatever the figures."""
    for command, printed, answer in told:
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
