"""No text of a package, an audit or a log becomes an element or an attribute of the page."""

from dataclasses import fields, is_dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meddistill.package.read import Verification
from meddistill.report.findings import audit_of
from meddistill.report.of_package import Shared
from meddistill.report.page import render
from meddistill.report.runlog import read_run

ATTACKS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)' x='",
    "</style><script>alert(1)</script><style>",
    "</title><script>alert(1)</script>",
    "</svg><svg onload=alert(1)>",
    "<!--",
    "]]><x>",
    "{{ 7 * 7 }}{% for x in y %}",
    "javascript:alert(1)",
    "&lt;b&gt;&#60;script&#62;",
    "</code></pre></td></table><iframe srcdoc='<script>alert(1)</script>'>",
)


def poisoned(value, texts):
    """The same value with every text in it replaced."""
    if isinstance(value, str):
        return next(texts)
    if is_dataclass(value):
        return replace(value, **{field.name: poisoned(getattr(value, field.name), texts) for field in fields(value)})
    if isinstance(value, tuple):
        return tuple(poisoned(item, texts) for item in value)
    return value


def package_of(package, make_text):
    """A package whose card has ``make_text(number)`` in the place of every text, class names and plan entries too."""

    def texts():
        number = 0
        while True:
            yield make_text(number)
            number += 1

    found, stream = package(), texts()
    card = replace(found.card, cohort=replace(found.card.cohort, counts={}))
    card = poisoned(card, stream)
    counts = {split: dict.fromkeys(card.task.classes, 5) for split in ("train", "test")}
    plan = {next(stream): next(stream), "b": True}
    cohort, recipe = replace(card.cohort, counts=counts), replace(card.recipe, plan=plan)
    return replace(found, card=replace(card, cohort=cohort, recipe=recipe, results=found.card.results and card.results))


def page_of(package, make_text, name="lungs.mdz"):
    found = Verification(
        ok=True,
        problems=(),
        members={"card.json": 5},
        digests={"card.json": "0" * 64},
        signer=make_text(1000),
        signer_name=make_text(1001),
    )
    return render(Shared(name, 5000, package_of(package, make_text), found), None, None)


def structure(page):
    """Every element in order with its attributes' names, and the values of those that a browser acts upon."""
    acted = ("href", "src", "id", "style", "srcdoc", "class", "http-equiv", "content", "role", "tabindex")
    return [
        (tag, sorted(found), [found[name] for name in acted if name in found and name != "src"])
        for tag, found in page.elements
    ]


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_text_of_a_card_becomes_markup(package, parse, attack):
    harmless = parse(page_of(package, "harmless {}".format))
    page = parse(page_of(package, lambda number: f"{attack} {number}"))
    assert structure(page) == structure(harmless)
    assert not page.comments
    assert not page.unclosed
    shown = page.text + " ".join(str(found.get("aria-label")) for found in page.all("svg"))
    assert attack.split()[0] in shown


def test_every_text_field_is_poisoned(package):
    """The test above reaches all texts of a card that a sender can choose, and the page shows those of each."""
    text = page_of(package, lambda number: f"poison{number:03}x")
    card = package_of(package, lambda number: f"poison{number:03}x").card
    for said in (*card.task.classes, *vars(card.terms).values(), card.recipe.method, card.recipe.network):
        assert said in text
    for said in (card.software.name, card.images.intensity, card.results.protocol, *card.recipe.plan):
        assert said in text


@pytest.mark.parametrize("attack", ATTACKS)
def test_file_names_audits_and_logs_are_text_too(package, parse, logged, attack):
    def page(text):
        finding = {
            "attack": text,
            "asks": text,
            "outcome": text,
            "main": {"value": 0.1, "low": 0.0, "high": 0.2},
            "warnings": [text],
            "figures": {"area": {"value": 0.5, "low": 0.4, "high": 0.6}, text: text},
        }
        answers = {"test": {"confusion": [[8, 2], [1, 9]], "bins": [[12, 9, 9], [8, 7.6, 8]]}}
        audit = audit_of({"outcome": text, "findings": [finding], text: [text, {text: text}]}, "a test")
        folder = logged(
            {
                "time": 1,
                "event": "begun",
                "version": text,
                "torch": text,
                "device": text,
                "plan": {text: text},
                "classes": [text, text],
            },
            {"time": 2, "event": "memory", "strategy": text, "precision": text},
            {"time": 3, "event": "evaluated", "row": text, "seconds": 2, "scores": {}},
            {"time": 3, "event": "evaluated", "row": "distilled", "seed": text, "seconds": 2, "answers": answers},
        )
        return render(None, replace(read_run(folder), name=text), audit) + page_of(package, str, name=text)

    found, harmless = parse(page(attack)), parse(page("harmless"))
    assert structure(found) == structure(harmless)
    assert not found.comments


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.sampled_from("<>\"'&/=`! -{}%#a\u202e\u0000\n\ud800"), min_size=1, max_size=30))
def test_whatever_the_text(package, parse, text):
    harmless = parse(page_of(package, lambda _: "x"))
    found = page_of(package, lambda _: text + "x")
    assert structure(parse(found)) == structure(harmless)
    assert "\u202e" not in found
    found.encode()


def test_commands_can_be_pasted_whatever_the_file_is_called(package, parse):
    page = parse(page_of(package, str, name="a b; rm -rf $HOME.mdz"))
    commands = [text for tag, text in page.texts if tag == "code" and text.startswith("meddistill verify")]
    assert commands == ["meddistill verify 'a b; rm -rf $HOME.mdz'"]
