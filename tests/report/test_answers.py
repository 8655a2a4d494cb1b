"""What a run's report tells of answers: counted at the evaluation, read from the log, drawn on the page."""

import json

import pytest

from meddistill import api
from meddistill.report.answers import read_answers
from meddistill.report.of_answers import told_of_answers


def evaluated(row="distilled", seed=1, confusion=((8, 2), (1, 9)), bins=((0, 0, 0), (12, 9.0, 9), (8, 7.6, 8))):
    answers = {"test": {"confusion": confusion, "bins": bins}}
    event = {"time": 149, "event": "evaluated", "row": row, "seed": seed, "answers": answers}
    return json.loads(json.dumps(event))


@pytest.fixture
def page(saved, logged, log, tmp_path, parse):
    def show(*events, classes=("clear lung", "shadowed lung")):
        saved()
        begun = {**log[0], "classes": classes}
        api.report(logged(begun, *log[1:-2], *events, log[-1]), tmp_path / "r.html")
        return parse((tmp_path / "r.html").read_text(encoding="utf-8"))

    return show


def test_networks_are_added_up_and_one_that_was_told_twice_counts_once():
    (found,) = read_answers([evaluated(seed=1), evaluated(seed=1), evaluated(seed=2, confusion=((10, 0), (3, 7)))])
    assert found.networks == 2
    assert found.confusion == ((18.0, 2.0), (4.0, 16.0))
    assert found.bins == ((0, 0, 0), (24, 18, 18), (16, 15.2, 16))


def test_several_networks_of_a_seed_are_told_as_a_mean(page):
    """With three draws of random images a seed, the images of a cell are still those of one network."""
    (found,) = read_answers([evaluated("random") | {"networks": 3}])
    assert found.networks == 3
    shown = page(evaluated("random", confusion=((24, 6), (3, 27))) | {"networks": 3})
    cells = [text for tag, text in shown.texts if tag in ("td", "span")]
    place = cells.index("80.0")
    assert cells[place : place + 4] == ["80.0", "8", "20.0", "2"]


def test_the_page_shows_shares_of_each_class_and_the_bins(page):
    shown = page(evaluated(), evaluated("full", confusion=((10, 0), (0, 10))))
    cells = [text for tag, text in shown.texts if tag == "td"]
    for share in ("80.0", "20.0", "10.0", "90.0", "100.0"):
        assert share in cells
    assert "This package" in shown.text
    assert "All real images" in shown.text
    assert "taken for shadowed lung" in shown.text
    labels = " ".join(found["aria-label"] for found in shown.all("svg"))
    assert "75% sure, 75% right; 95% sure, 100% right" in labels
    assert not shown.unclosed


def test_many_classes_are_told_by_their_most_frequent_mistakes(page):
    count = 20
    confusion = [[5 if at == place else int(at == 0) for at in range(count)] for place in range(count)]
    confusion[3][7] = 5
    shown = page(evaluated(confusion=confusion), classes=[f"kind {place}" for place in range(count)])
    cells = [text for tag, text in shown.texts if tag in ("td", "th")]
    assert cells[cells.index("kind 3") : cells.index("kind 3") + 4] == ["kind 3", "kind 7", "45.5", "5"]
    assert "taken for kind 7" not in shown.text


def test_classes_are_numbered_where_the_log_names_others(page):
    shown = page(evaluated(), classes=["a", "b", "c"])
    assert "taken for class 2" in shown.text


@pytest.mark.parametrize(
    "told",
    [
        {"confusion": [[1, 2]], "bins": None},
        {"confusion": [[1, -2], [3, 4]], "bins": [[1, 1]]},
        {"confusion": [["<b>", 2], [3, 4]], "bins": [["x", 1, 1]]},
        {"confusion": [[1] * 51] * 51, "bins": [[0, 0, 0]] * 15},
        {"confusion": {"0": 1}, "bins": [[1, 1, 1]] * 51},
        {"confusion": [[True]], "bins": [[1e300, 1, 1]]},
    ],
)
def test_what_is_no_count_is_passed_over(page, told):
    assert read_answers([evaluated(**told)]) == ()
    assert "Who is taken for whom" not in page(evaluated(**told)).text


def test_a_row_that_the_program_does_not_know_is_not_shown():
    found = read_answers([evaluated("<script>")])
    assert told_of_answers(found, (), {}) is None
