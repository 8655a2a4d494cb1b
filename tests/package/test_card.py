"""The card: strict in both directions, and every text free of traces of patients."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from meddistill.package import container, strict_json
from meddistill.package.glance import facts
from meddistill.package.read import _examine
from meddistill.package.readme import readme
from meddistill.package.text import cell, class_problems, escape, problem, quote
from meddistill.package.types import Card, CohortCounts, Package, Results, Score, Sizes, Terms
from meddistill.package.write import encode
from meddistill.runtime.errors import InputError, VerificationError

Make = Callable[..., Package]


def test_to_and_from_dict(make: Make) -> None:
    card = make().card
    assert Card.from_dict(card.to_dict()) == card
    withheld = replace(card, cohort=CohortCounts(counts="withheld"), bytes=Sizes(cohort_train=None))
    for changed in (replace(card, results=None), withheld):
        assert Card.from_dict(changed.to_dict()) == changed


def test_images_that_are_not_counted_by_class(make: Make) -> None:
    """As where there are fewer than classes; where they are counted, the count must be right."""
    card = make(3, 2).card
    few = replace(card, images=replace(card.images, count=2, per_class=0))
    assert Card.from_dict(few.to_dict()) == few
    assert "2 synthetic grey images of 8 x 8 pixels, to train" in readme(few)
    assert ("images", "2 synthetic grey images") in facts(replace(make(3, 2), card=few))
    assert ("images", "6 synthetic grey images, 2 a class") in facts(make(3, 2))
    assert "6 synthetic grey images of 8 x 8 pixels, 2 per class, to train" in readme(card)
    with pytest.raises(VerificationError, match=r"images\.count: found 2, expected 6"):
        Card.from_dict(replace(card, images=replace(card.images, count=2)).to_dict())


def test_all_problems_at_once(make: Make) -> None:
    value = make().card.to_dict()
    value["recipe"]["seed"] = "three"
    value["images"]["size"] = 0
    value["note"] = "x"
    del value["terms"]
    with pytest.raises(VerificationError) as caught:
        Card.from_dict(value)
    for part in ("recipe.seed", "images.size", "unknown field 'note'", "terms: missing"):
        assert part in str(caught.value)


@pytest.mark.parametrize("value", [None, [], "card", 1, {}])
def test_no_card_at_all(value: object) -> None:
    with pytest.raises(VerificationError, match="not valid"):
        Card.from_dict(value)


def test_numpy_numbers_are_refused_by_name(make: Make) -> None:
    package = make()
    card = replace(package.card, bytes=Sizes(cohort_train=np.int64(5)))
    with pytest.raises(InputError, match=r"bytes\.cohort_train"):
        encode(replace(package, card=card))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("/home/jane/images", "a path"),
        ("C:/images", "a path"),
        ("see ../images", "a path"),
        (r"images\jane", "a path"),
        ("~/images", "a path"),
        ("IMG0001.dcm", "a file name"),
        ("patient.PNG", "a file name"),
        ("labels.csv.", "a file name"),
        ("seen 2021-03-04", "a date"),
        ("4.3.2021", "a date"),
        ("03/04/1999", "a date"),
        ("20210304", "a long number"),
        ("1.2.840.10008.5.1", "a DICOM identifier"),
    ],
)
def test_traces_of_patients(text: str, kind: str) -> None:
    assert kind in (problem(text, 100) or "")
    assert class_problems(["normal", text])


@pytest.mark.parametrize(
    "text",
    [
        "Bowen's disease / carcinoma",
        "COVID-19",
        "0",
        "10",
        "T2/FLAIR",
        "méningiome",
        "肺炎",
        "<=2 cm",
        "grade 1.5",
        "v1.2.3",
    ],
)
def test_ordinary_names_pass(text: str) -> None:
    assert problem(text, 100) is None


@pytest.mark.parametrize("code", [0xAD, 0x34F, 0x115F, 0x1160, 0x180E, 0x200B, 0x2800, 0x3164, 0xFE0F, 0xFFA0, 0xE01EF])
def test_what_nobody_sees_is_refused(code: int) -> None:
    """Two classes that look the same, or one without a name."""
    assert f"U+{code:04X}" in (problem(f"il{chr(code)}l", 100) or "")
    assert class_problems(["ill", f"ill{chr(code)}"])


def test_joiners_of_other_scripts_pass() -> None:
    assert class_problems(["می\u200cخواهم", "क्\u200dष"]) == []


def test_web_addresses_only_where_allowed() -> None:
    text = "Apache 2.0, https://www.apache.org/licenses/LICENSE-2.0.txt"
    assert problem(text, 100, urls=True) is None
    assert problem(text, 100) is not None


def test_class_names_are_checked_before_hours_of_work() -> None:
    assert class_problems(["a", "b"]) == []
    assert class_problems([]) == ["0 classes; expected 1 to 1000"]
    assert class_problems(["é", "e\u0301"]) == [r"class '\xe9' is there more than once"]
    assert len(class_problems(["", "a\tb", "x" * 101, 3])) == 4


def test_quote_is_short_and_printable() -> None:
    assert quote("a\x1b[2J") == r"'a\x1b[2J'"
    assert len(quote("x" * 10**6)) < 70
    assert len(quote(list(range(10**4)))) < 70


@pytest.mark.parametrize(
    "formula",
    [
        "=1+1",
        "@SUM(A1)",
        ' =HYPERLINK("x")',
        "+HYPERLINK(A2)",
        "-2+3+cmd|' /C calc'!A0",
        "\uff1d1+1",
        "+[book]A1",
        "\t=1",
    ],
)
def test_a_spreadsheet_is_given_no_formula(formula: str) -> None:
    assert cell(formula) == f"'{formula}"


@pytest.mark.parametrize("text", ["+ve", "-ve", "-", "+", "HER2-", "a=b", "p(x)", "normal (n=3)", "-1.5", ""])
def test_what_is_no_formula_stays_as_it_is(text: str) -> None:
    assert cell(text) == text


def test_readme_shows_texts_as_they_are(make: Make) -> None:
    evil = "< script [x](y) ![z](http://t/t) | `c` *b* _i_ &lt; $m$"
    package = make()
    task = replace(package.card.task, classes=("a|b", "<= *c*"))
    card = replace(package.card, task=task, terms=Terms(licence=evil), cohort=CohortCounts(counts={}))
    text = readme(card)
    assert "<" not in text
    assert escape(evil) in text
    assert r"a\|b, &lt;= \*c\*" in text
    assert _examine(encode(replace(package, card=card)))[0].ok


@pytest.mark.parametrize(
    "text",
    ["<script>alert(1)</script>", "a <img src=x>", "</p>", "<!-- -->", "JavaScript :alert(1)", "data:text/html,x"],
)
def test_what_a_viewer_might_run_is_refused(make: Make, text: str) -> None:
    assert "a viewer might run" in (problem(text, 100) or "")
    package = make()
    with pytest.raises(InputError, match="viewer"):
        encode(replace(package, card=replace(package.card, terms=Terms(terms_of_use=text))))


def test_withheld_counts_are_not_told_otherwise(make: Make) -> None:
    """Neither by the size of the cohort nor by scores with so many digits that they tell the number of images."""
    package = make()
    card = replace(package.card, cohort=CohortCounts(counts="withheld"))
    with pytest.raises(InputError, match="cohort_train"):
        encode(replace(package, card=card))
    score = Score(mean=2 / 3, low=1 / 3, high=0.9, per_seed=(2 / 3,))
    results = Results(protocol="1", network="n", seeds=1, splits={"test": {"distilled": {"auroc": score}}})
    told = encode(replace(package, card=replace(card, bytes=Sizes(cohort_train=None), results=results)))
    fields = json.loads(bytes(container.unpack(told, [])["card.json"]))
    assert fields["bytes"] == {"cohort_train": None}
    assert fields["results"]["splits"]["test"]["distilled"]["auroc"]["mean"] == 0.667


def test_readme_shows_no_interval_of_a_single_network(make: Make) -> None:
    card = make().card
    one = dict.fromkeys(("balanced_accuracy", "auroc", "accuracy"), Score(mean=0.7, low=0.7, high=0.7, per_seed=(0.7,)))
    splits = {split: rows | {"own": one} for split, rows in card.results.splits.items()}
    told = readme(replace(card, results=replace(card.results, splits=splits)))
    assert "| this package, by its own recipe | 70.0 | 70.0 | 70.0 |" in told
    assert "one network, which has no interval" in told
    assert "85.0 (80.0 to 90.0)" in told
    alone = readme(replace(card, results=replace(card.results, seeds=1, splits={"test": {"distilled": one}})))
    assert "70.0 (" not in alone
    assert "interval" not in alone


def test_readme_warns_of_real_images(make: Make) -> None:
    card = make().card
    real = replace(card, contains_real_images=True, recipe=replace(card.recipe, start="real"))
    assert "contains real images" in readme(real)
    assert "contains real images" not in readme(card)
    assert "withholds" in readme(replace(card, cohort=CohortCounts(counts="withheld"), results=None))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a": 1, "a": 1}', "twice"),
        (b"[NaN]", "NaN"),
        (b"[1e400]", "too large"),
        (b"[" * 9 + b"]" * 9, "nested"),
        (b"[" * 10**5, "nested"),
        (b"[9007199254740992]", "beyond"),
        (b"\xff", "UTF-8"),
        (b"\xef\xbb\xbf{}", "JSON"),
        (b"{} {}", "not JSON"),
        (b'"' + b"x" * 99 + b'"', "at most"),
    ],
)
def test_json_limits(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        strict_json.parse(data, 100 if b"x" in data else 10**6)


def test_brackets_in_texts_are_no_depth() -> None:
    assert strict_json.parse(b'{"a": "[[[[[[[[[[[[", "b": "\\"[[[[[[[[[["}', 100) == {
        "a": "[" * 12,
        "b": '"' + "[" * 10,
    }
