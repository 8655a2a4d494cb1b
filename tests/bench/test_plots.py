"""Pictures of a benchmark: methods are compared over the same cells."""

from pathlib import Path

import pytest
from tests.bench.conftest import GRID

from meddistill.bench.grid import read_grid
from meddistill.bench.plots import plots, transfer_means
from meddistill.bench.tables import Line
from meddistill.bench.tasks import Layout, cells
from meddistill.train.metrics import summarise

OWN, OTHER = "convnet-d2-w4", "convnet-d1-w4"
METHODS = '["mtt", "mtt-soft", "random", "herding", "k-center-soft"]'
TWO = GRID.replace(METHODS, '["mtt", "mtt-soft"]').replace(
    "[plan.teachers]", "[cohorts.hard]\nsource = 'hard'\nsize = 10\n\n[plan.teachers]", 1
)


def lines(layout: Layout, score) -> list[Line]:
    """A line for every cell to which ``score`` gives one."""
    found = []
    for cell in cells(layout.grid):
        if (mean := score(cell)) is not None:
            scores = {"test": {"as is": {"balanced_accuracy": summarise([mean])}}}
            found.append(Line(cell, scores, None, None, None, None))
    return found


def layout(text: str) -> Layout:
    return Layout(read_grid(text, "grid.toml"), Path("out"), "cpu")


def better(cell) -> float:
    """The method with soft labels is better everywhere; one cohort is hard."""
    return (0.5 if cell.source.name == "hard" else 0.9) + (0.02 if cell.method == "mtt-soft" else 0)


def test_who_failed_on_a_hard_cohort_does_not_look_better():
    def failed(cell):
        return None if (cell.source.name, cell.method) == ("hard", "mtt") else better(cell)

    for score, mean in ((better, 70), (failed, 90)):
        means = transfer_means(layout(TWO), lines(layout(TWO), score))
        expected = {("mtt", OWN, name): mean for name in (OWN, OTHER)}
        expected |= {("mtt-soft", OWN, name): mean + 2 for name in (OWN, OTHER)}
        assert means == pytest.approx(expected)


def test_sizes_that_only_methods_with_soft_labels_have_do_not_count():
    text = GRID.replace(METHODS, '["mtt", "mtt-soft"]').replace("[1, 2]", "[1, 2]\ntotal_images = [1]", 1)
    found = lines(layout(text), lambda cell: 0.5 if cell.total_images else better(cell))
    assert transfer_means(layout(text), found)["mtt-soft", OWN, OWN] == pytest.approx(92)


def test_where_cohorts_have_matching_networks_of_their_own_each_is_over_its_cohort():
    text = TWO.replace("source = 'hard'", "source = 'hard'\nmatching = ['convnet-d1-w8']")
    means = transfer_means(layout(text), lines(layout(text), better))
    assert (means["mtt", OWN, OTHER], means["mtt", "convnet-d1-w8", OTHER]) == pytest.approx((90, 50))


def test_without_a_cell_of_all_methods_there_is_no_picture_of_transfer():
    found = lines(layout(TWO), lambda cell: better(cell) if cell.method != "mtt" else None)
    assert transfer_means(layout(TWO), found) == {}
    assert "transfer.png" not in plots(layout(TWO), found)
