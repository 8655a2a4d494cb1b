"""How the pages of this folder become the site: `make docs` writes it to build/docs, where it needs no network."""

import ast
import os
import re
from importlib import import_module
from pathlib import Path

from sphinx.application import Sphinx

from meddistill import __version__, api

ROOT = Path(__file__).resolve().parents[1]
# What stands elsewhere, specifications beside the code that follows them; the site has them as pages of its own.
PLACED = {
    "format": "src/meddistill/package/FORMAT.md",
    "compressed-format": "src/meddistill/compress/FORMAT.md",
    "security": "SECURITY.md",
}

project = "meddistill"
author = "The meddistill authors"
project_copyright = "The meddistill authors, Apache-2.0"
version = release = __version__
language = "en-GB"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}

# Headings can be linked to as on a code host: #the-working-size-and-the-resize-rule.
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]

# The reference is made of the docstrings, in the order of the files.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "undoc-members": False, "show-inheritance": False}
python_use_unqualified_type_names = True
add_module_names = False
maximum_signature_line_length = 88

html_theme = "furo"
html_title = "meddistill"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6e8f", "color-brand-content": "#0b6e8f"},
    "dark_css_variables": {"color-brand-primary": "#5cc0e0", "color-brand-content": "#5cc0e0"},
}


def imported_for_types(file: Path) -> dict[str, str]:
    """Where the names come from that a module imports for its annotations alone."""
    blocks = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.If)]
    found = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {name.asname or name.name: f"{node.module}.{name.name}" for node in found for name in node.names}


for name, place in imported_for_types(ROOT / "src" / "meddistill" / "api.py").items():
    module, _, member = place.rpartition(".")
    setattr(api, name, getattr(import_module(module), member))


LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]+)?\)")


def complete(app: Sphinx, page: str, content: list[str]) -> None:
    """Put what stands elsewhere in its place, and have every link lead to a page, or else to a file to download."""
    file = ROOT / PLACED.get(page, f"docs/{page}.md")

    def led(link: re.Match[str]) -> str:
        target = (file.parent / link[1]).resolve()
        for name, place in PLACED.items():
            if target == ROOT / place:
                return f"]({name}.md{link[2] or ''})"
        leads = os.path.relpath(target, ROOT / "docs")
        return f"](path:{leads})" if leads.startswith("..") else f"]({leads}{link[2] or ''})"

    content[0] = LINK.sub(led, file.read_text(encoding="utf-8"))


# What axe finds in the theme's pages, and what it should be.
MENDED = (
    ('<p class="caption" role="heading">', '<p class="caption" role="heading" aria-level="2">'),
    ('<aside class="sidebar-drawer">', '<aside class="sidebar-drawer" aria-label="All pages">'),
    ('<aside class="toc-drawer', '<aside aria-label="On this page" class="toc-drawer'),
    ('<div class="highlight"><pre>', '<div class="highlight"><pre tabindex="0">'),
    ('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper'),
    ('<th class="head"></th>', "<td></td>"),
    ('<th class="head"><p></p></th>', "<td></td>"),
)
# Signatures of several lines are laid out as lists that define nothing.
SIGNATURE = re.compile(r"<dl>\n((?:<dd>.*</dd>\n)+)</dl>")


def mend(app: Sphinx, error: Exception | None) -> None:
    """Make the pages usable by keyboard and by those who listen to them."""
    for file in Path(app.outdir).glob("*.html"):
        text = file.read_text(encoding="utf-8")
        for found, better in MENDED:
            text = text.replace(found, better)
        text = SIGNATURE.sub(lambda found: re.sub(r"<(/?)dd>", r"<\1span>", found[1]), text)
        file.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", complete)
    app.connect("build-finished", mend)
