"""The report in a real browser, where one is installed: nothing runs, nothing is fetched, everybody can read it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.browser import CHROMIUM, chromium

from meddistill import api
from meddistill.package.read import Verification
from meddistill.report.findings import audit_of
from meddistill.report.of_package import Shared
from meddistill.report.page import render

ATTACK = (
    "</style><script>document.title='hit'</script><img src=x onerror=\"document.title='hit'\">"
    "'\" onmouseover=alert(1) x='</svg><svg onload=alert(1)>"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """Debian's chromium; None where there is none, and what the parsers of other tests find has to do."""
    if CHROMIUM is None:
        yield None
        return
    with chromium() as opened:
        yield opened


@pytest.fixture
def page_file(saved, logged, log, tmp_path) -> Path:
    """A report on a run with its package, an audit, and confusion matrices."""
    finding = {
        "attack": "copies",
        "asks": "does one copy a patient?",
        "outcome": "pass",
        "main": {"value": 0.06, "low": 0.02, "high": 0.11},
        "control": {"value": 0.03, "low": 0.0, "high": 0.08},
        "figures": {"area": {"value": 0.5, "low": 0.4, "high": 0.6}},
    }
    saved(audit={"outcome": "pass", "findings": [finding]})
    answers = {"test": {"confusion": [[8, 2], [1, 9]], "bins": [[0, 0, 0], [12, 9, 9], [8, 7.6, 8]]}}
    evaluated = {"time": 149, "event": "evaluated", "row": "distilled", "seed": 1, "answers": answers}
    begun = {**log[0], "classes": ["clear lung", "shadowed lung"]}
    api.report(logged(begun, *log[1:-2], evaluated, log[-1]), tmp_path / "r.html")
    return tmp_path / "r.html"


def test_a_hostile_card_runs_nothing_and_fetches_nothing(browser, package, tmp_path, parse):
    """The writer and the reader refuse such texts; the page does not rely on that."""
    card = package().card
    hostile = replace(
        card,
        task=replace(card.task, classes=(ATTACK, "b")),
        recipe=replace(card.recipe, method=ATTACK, plan={ATTACK: ATTACK}),
        cohort=replace(card.cohort, counts="withheld"),
        terms=replace(card.terms, licence=ATTACK, limits=ATTACK),
    )
    found = Verification(ok=True, problems=(), members={ATTACK: 5}, digests={ATTACK: ATTACK}, signer=ATTACK)
    audit = audit_of({"outcome": ATTACK, "findings": [{"attack": ATTACK, "asks": ATTACK, "figures": {ATTACK: 1}}]}, "x")
    text = render(Shared(ATTACK, 5000, replace(package(), card=hostile), found), None, audit)
    assert not parse(text).all("script")
    (tmp_path / "r.html").write_text(text, encoding="utf-8")
    if browser is None:
        return
    page, asked, opened = browser.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (opened.append(dialog.message), dialog.dismiss()))
    page.goto((tmp_path / "r.html").as_uri())
    for image in page.locator("li.image").all():
        image.hover()
    assert page.title() == f"Report on {ATTACK}"
    assert not opened
    assert {url.split(":")[0] for url in asked[1:]} <= {"data"}
    assert "document.title='hit'" in page.inner_text("body")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_everybody_can_read_it(browser, page_file, scheme, width):
    """axe finds nothing, in light and dark, and a telephone does not scroll sideways."""
    assert page_file.stat().st_size > 10_000
    if browser is None:
        return
    from axe_playwright_python.sync_playwright import Axe

    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(page_file.as_uri())
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_the_tab_key_shows_labels(browser, page_file):
    assert page_file.exists()
    if browser is None:
        return
    page = browser.new_page()
    page.goto(page_file.as_uri())
    tip = page.locator("li.image .tip").first
    assert not tip.is_visible()
    page.locator("li.image").first.focus()
    assert tip.is_visible()
    page.close()
