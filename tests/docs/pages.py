"""The pages that are checked, and what is in them: blocks of code, inline code, links, headings."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("src/meddistill/**/*.md")])
_FENCE = re.compile(r"^( *)```(\{?[\w-]*\}?)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
SHELL = ("", "sh", "console")
_SAID = re.compile(_FENCE.pattern + r"|`(meddistill [^`]*)`", _FENCE.flags)
_ELLIPSIS = "…"
_ALTERNATIVES = re.compile(r"^\[?([A-Z][\w.]*)\|.*")  # the first of A|B


def blocks(page: Path, *languages: str) -> list[str]:
    """The code in fences of one of these languages; ``""`` is a fence without a language."""
    found = _FENCE.findall(page.read_text(encoding="utf-8"))
    return [text for _, language, text in found if language in languages]


def prose(page: Path) -> str:
    """The page without its fences."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def commands(text: str) -> Iterator[list[str]]:
    """Every ``meddistill`` command of a block or script, as words.

    What only stands for more (``…``) is left out, a shell's variable with a default is that default.
    """
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text.replace("\\\n", " "))
    for line in text.splitlines():
        found = re.search(r"(?:^\s*(?:\$ |srun )?|python -m )(meddistill .*)", line)
        if found and "VERB" not in line:
            words = shlex.split(found[1].split(" > ")[0], comments=True)[1:]
            yield [_ALTERNATIVES.sub(r"\1", word) for word in words if _ELLIPSIS not in word]


def said(page: Path) -> Iterator[list[str]]:
    """Every ``meddistill`` command of the page, those of its sentences too, from the first to the last."""
    for found in _SAID.finditer(page.read_text(encoding="utf-8")):
        if found[4] or found[2] in SHELL:
            yield from commands(found[4].replace("\n", " ") if found[4] else found[3])


def anchors(page: Path) -> set[str]:
    """What links to headings of a page may name, as code hosts and the site do."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings]
    return {
        name if plain[:place].count(name) == 0 else f"{name}-{plain[:place].count(name)}"
        for place, name in enumerate(plain)
    }


def links(page: Path) -> Iterator[tuple[str, str]]:
    """File and anchor of every link and picture that leads into the project."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"[a-z]+:", target):
            file, _, anchor = target.partition("#")
            yield file, anchor


def undocumented(verb: str, document: dict[str, Any]) -> set[str]:
    """Keys of a verb's answer, and of the entries of its lists, that its section of the reference does not name.

    What is below is named by data, or by a table. A benchmark's results have a page of their own.
    """
    section = (ROOT / "docs/cli.md").read_text(encoding="utf-8").split(f"\n## {verb}\n")[1].split("\n## ")[0]
    if verb == "bench":
        section += (ROOT / "docs/bench.md").read_text(encoding="utf-8").split("\nA line of `results.jsonl` has\n")[1]
    entries = [entry for value in document.values() if isinstance(value, list) for entry in value]
    names = {*document, *(name for entry in entries if isinstance(entry, dict) for name in entry)}
    return {name for name in names if f"`{name}`" not in section}
