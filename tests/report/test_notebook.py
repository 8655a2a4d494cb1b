"""What a notebook shows of packages and answers."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from meddistill.bench.demo import Demonstration, Row
from meddistill.pipeline.receive import EvaluateReport, TrainReport
from meddistill.report import notebook
from meddistill.train.metrics import Answers, Scores, Summary

ATTACK = "<script>alert(1)</script>"
ANSWERS = Answers(np.array([[5, 1], [0, 6]]), np.ones((15, 3)))
SUMMARY = Summary(0.8, 0.75, 0.85, (0.75, 0.85))
SUMMARIES = dict.fromkeys(("balanced_accuracy", "auroc", "accuracy"), SUMMARY)


def test_a_package_shows_its_facts_and_images(package, parse):
    page = parse(package()._repr_html_())
    assert "clear lung, shadowed lung" in page.text
    assert "6 synthetic grey images" in page.text
    assert "80.0 % (79.0 to 81.0)" in page.text
    (image,) = page.all("img")
    assert image["src"].startswith("data:image/png;base64,")
    assert not page.unclosed


def test_texts_of_a_package_are_escaped(package, parse):
    found = package()
    card = found.card
    hostile = replace(
        card,
        task=replace(card.task, classes=(ATTACK, "b")),
        recipe=replace(card.recipe, method=ATTACK),
        results=None,
    )
    page = parse(replace(found, card=hostile)._repr_html_())
    assert not page.all("script")
    assert ATTACK in page.text


def test_answers_show_their_scores(parse):
    evaluated = EvaluateReport(Scores(0.9, 0.95, 0.85, 0.05), 12, {}, ANSWERS)
    trained = TrainReport(Path("m"), ATTACK, 2, 1.0, 12, SUMMARIES, (), ())
    row = Row(10, "distilled", SUMMARIES, 7000, 5.0, 1.0, 2.0)
    for answer, said in (
        (evaluated, "12 images 90.0 95.0 85.0"),
        (trained, "2 seeds 80.0 (75.0 to 85.0)"),
        (replace(trained, scores=None), "2 seeds –"),
        (Demonstration((row,), ()), "10 a class, distilled 7.0 kB 80.0 (75.0 to 85.0)"),
    ):
        page = parse(answer._repr_html_())
        assert said in page.text
        assert not page.unclosed
        assert not page.all("script")


def test_a_table_escapes_every_cell(parse):
    page = parse(notebook.table((ATTACK, "b"), [(ATTACK, ATTACK)]))
    assert not page.all("script")
    assert page.text.count(ATTACK) == 3
