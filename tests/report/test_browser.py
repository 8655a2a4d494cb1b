"""The report in a real browser, where one is installed: nothing runs, nothing is fetched, everybody can read it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.browser import CHROMIUM, chromium
from tests.report.conftest import cell

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


@pytest.fixture
def benchmark_file(tmp_path) -> Path:
    """A report on a benchmark of sets that were tried on seven networks."""
    networks = ["convnet-d3-w32", "resnet18-w16", "vgg11-w16", "alexnet-w32", "vit-d4-w64", "convnet-d1-w8", "resnet18"]
    lines = [
        cell(method, networks[0], network, 0.9 - 0.1 * place, place and 0.1 * place)
        for method in ("mtt", "meddistill")
        for place, network in enumerate(networks)
    ]
    (tmp_path / "results.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    api.report(tmp_path, tmp_path / "b.html")
    return tmp_path / "b.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_everybody_can_read_it(browser, page_file, benchmark_file, scheme, width):
    """axe finds nothing, in light and dark, and a telephone does not scroll sideways."""
    assert page_file.stat().st_size > 10_000
    if browser is None:
        return
    from axe_playwright_python.sync_playwright import Axe

    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    for file in (page_file, benchmark_file):
        page.goto(file.as_uri())
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_on_paper_nothing_is_cut_off(browser, page_file, benchmark_file):
    """Tables fit into the width of A4 less its margins, charts can be read; what only serves the screen is gone."""
    assert benchmark_file.exists()
    if browser is None:
        return
    page = browser.new_page(viewport={"width": 672, "height": 950})
    page.emulate_media(media="print")
    for file in (page_file, benchmark_file):
        page.goto(file.as_uri())
        widths = page.evaluate(
            "[...document.querySelectorAll('table, svg, img, pre')].map(e => e.getBoundingClientRect().right)"
        )
        assert max(widths) <= 673
        assert not page.locator("nav, .screen").filter(visible=True).count()
        letters = page.evaluate(
            "[...document.querySelectorAll('svg text')].filter(e => e.checkVisibility())"
            ".map(e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a)"
        )
        assert min(letters) >= 8  # pixels: 6 points
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
