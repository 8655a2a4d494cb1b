"""What a notebook shows of packages and answers."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from meddistill import api
from meddistill.audit.finding import Finding
from meddistill.audit.report import Report
from meddistill.audit.statistics import Interval
from meddistill.bench.demo import Demonstration, Row
from meddistill.cohort.types import Cohort
from meddistill.package.types import Task
from meddistill.pipeline.predict import LeftOut, Prediction, Predictions
from meddistill.pipeline.receive import EvaluateReport, TrainReport
from meddistill.report import notebook
from meddistill.runtime.errors import InputError
from meddistill.train import plots
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


def test_a_single_network_has_no_interval(parse):
    one = Summary(0.8, 0.8, 0.8, (0.8,)).as_dict()
    assert "(" not in parse(notebook.scores({"a": dict.fromkeys(("balanced_accuracy", "auroc"), one)})).text


def test_a_table_escapes_every_cell(parse):
    page = parse(notebook.table((ATTACK, "b"), [(ATTACK, ATTACK)]))
    assert not page.all("script")
    assert page.text.count(ATTACK) == 3


def test_a_cohort_shows_counts_and_no_image(parse):
    page = parse(cohort(("clear", ATTACK))._repr_html_())
    assert "6 grey images of 8 × 8 pixels" in page.text
    assert f"{ATTACK} 2 1 0" in page.text
    assert not page.all("img") + page.all("script")
    assert not page.unclosed


def test_data_sets_show_counts_and_no_image(saved, parse, tmp_path):
    np.savez(tmp_path / "real.npz", **{f"{split}_{kind}": array for split, kind, array in tiny_medmnist()})
    for data, said in (
        (api.package_dataset(saved()), "clear lung 3"),
        (api.cohort_dataset(tmp_path / "real.npz", size=8), "images in all 12"),
    ):
        page = parse(data._repr_html_())
        assert said in page.text
        assert not page.all("img")


def test_predictions_and_audits_show_themselves(parse, tmp_path):
    said = Predictions(("a", ATTACK), (Prediction("x<b>.png", (0.25, 0.75)),), (LeftOut("y<b>.png", "no PNG"),))
    page = parse(said._repr_html_())
    assert f"x<b>.png {ATTACK} 0.250 0.750 y<b>.png" in page.text
    finding = Finding("copies", "one?", "alarm", Interval(0.1, 0.0, 0.2), None)
    found = Report("package", Path("p"), "", False, (finding,), {}, None, None, 0, 1.0)
    assert "copies one? 10.0 (0.0 to 20.0) – alarm" in parse(found._repr_html_()).text


def test_a_plot_shows_the_pixels_of_the_package(package):
    found = package(task=Task(classes=("$a$ lung", "b"), labels="soft"))
    figure = found.plot()
    shown = [panel.get_images()[0].get_array() for panel in figure.axes if panel.get_images()]
    assert len(shown) == 6
    np.testing.assert_array_equal(shown[4], np.clip(found.images[4, 0], 0, 1))
    assert figure.axes[0].get_title() == "$a$ lung\n0.875"
    figure.draw_without_rendering()


def test_a_plot_of_a_cohort_shows_one_split_by_class():
    figure = cohort(("clear", "ill")).plot("val")
    assert [len(panel.get_images()) for panel in figure.axes] == [1, *[0] * 7, 1, *[0] * 7]
    figure.draw_without_rendering()


def test_answers_and_scores_are_drawn():
    found = EvaluateReport(Scores(0.9, 0.95, 0.85, 0.05), 12, {"a": {}, "b": {}}, ANSWERS).plot()
    assert [text.get_text() for text in found.axes[0].texts] == ["83.3", "16.7", "0.0", "100.0"]
    assert found.axes[1].get_title() == "calibration error 5.0 %"
    rows = plots.scores({"random": SUMMARIES, "distilled": SUMMARIES})
    assert [text.get_text() for text in rows.axes[0].get_yticklabels()] == ["distilled", "random"]
    found.draw_without_rendering()
    rows.draw_without_rendering()


def test_without_matplotlib_a_plot_says_what_to_install(package, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"pip install 'meddistill\[plot\]'"):
        package().plot()


def cohort(names):
    images = np.arange(6 * 64, dtype=np.uint16).reshape(6, 1, 8, 8).astype(np.uint8)
    return Cohort(images, np.array([0, 0, 1, 1, 0, 1]), np.array([0, 0, 0, 0, 1, 1], np.uint8), names)


def tiny_medmnist():
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4), ("test", 4)):
        yield split, "images", rng.integers(0, 256, (count, 8, 8), dtype=np.uint8)
        yield split, "labels", (np.arange(count) % 2).reshape(-1, 1)
