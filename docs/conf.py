"""How the pages of this folder become the site: `make docs` writes it to build/docs, where it needs no network."""

import ast
import re
from pathlib import Path

from sphinx.application import Sphinx

from meddistill import __version__

SOURCE = Path(__file__).parents[1] / "src" / "meddistill"
# Specifications stand beside the code that follows them; the site has them as pages of its own.
SPECIFICATIONS = {"format": "package/FORMAT.md", "compressed-format": "compress/FORMAT.md"}

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


# Without it the names of api.py's annotations could be those of several classes.
autodoc_type_aliases = imported_for_types(SOURCE / "api.py")


def complete(app: Sphinx, page: str, content: list[str]) -> None:
    """Put specifications in their places, and have links to them lead there."""
    text = (SOURCE / SPECIFICATIONS[page]).read_text(encoding="utf-8") if page in SPECIFICATIONS else content[0]
    for name, file in SPECIFICATIONS.items():
        text = re.sub(rf"\]\([./a-z]*{file}", f"]({name}.md", text)
    content[0] = text


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", complete)
