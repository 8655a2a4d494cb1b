"""Build the documentation into build/docs: every warning (a broken link, a missing page) fails, and so does a page that
would load something from elsewhere.

    .venv/bin/python .ci/check_docs.py
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

from sphinx.cmd.build import build_main

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "docs"
# Elements that a browser fetches without being asked; links to elsewhere (a) are read, not fetched.
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data", "link": "href"}


class Page(HTMLParser):
    """Addresses outside of the site that a page fetches."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elsewhere: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called for every element."""
        found = dict(attrs)
        address = found.get(FETCHED.get(tag, "")) or ""
        if re.match(r"(?:[a-z]+:)?//", address) and found.get("rel") not in ("canonical",):
            self.elsewhere.append(address)


def fetched() -> list[str]:
    """What the pages and style sheets would load from elsewhere."""
    found = [f"{file.name}: {one}" for file in OUT.rglob("*.html") for one in Page(file.read_text("utf-8")).elsewhere]
    styles = [(file.name, file.read_text("utf-8")) for file in OUT.rglob("*.css")]
    return found + [
        f"{name}: {one}" for name, text in styles for one in re.findall(r"url\([\"']?((?:https?:)?//[^)]*)", text)
    ]


def main() -> int:
    """The exit code."""
    options = ["-q", "-E", "-a", "-W", "--keep-going", "-b", "html", "-d", str(ROOT / "build" / "doctrees")]
    if code := build_main([*options, str(ROOT / "docs"), str(OUT)]):
        return code
    if elsewhere := fetched():
        print("the documentation loads from elsewhere:\n" + "\n".join(elsewhere), file=sys.stderr)
        return 1
    print(f"documentation: {OUT.relative_to(ROOT)}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
