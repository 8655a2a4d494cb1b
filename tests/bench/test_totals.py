"""Sets of so many images in all, fewer than classes among them, beside as many random real ones."""

import csv
import json
from pathlib import Path

import pytest
import torch
from tests.bench.conftest import GRID, SHORT

from meddistill import api
from meddistill.bench.benchmark import Benchmark, bench
from meddistill.bench.grid import read_grid
from meddistill.bench.tasks import Layout, cells, tasks
from meddistill.cohort.prepare import prepare
from meddistill.nets.find import find
from meddistill.package.read import read
from meddistill.report.cells import ALL, read_results
from meddistill.runtime.errors import InputError
from meddistill.runtime.streams import stream
from meddistill.teachers.images import measure_normalisation, split_images
from meddistill.train.metrics import measure
from meddistill.train.protocol import probabilities, real_set, train_network

pytestmark = pytest.mark.usefixtures("short")
OWN, OTHER = "convnet-d2-w4", "convnet-d1-w4"
TOTALS = (
    GRID.replace(
        "images_per_class = [1, 2]",
        "images_per_class = [1]\ntotal_images = [1, 3]\nrobust = false\nreference = 'random'",
        1,
    )
    .replace('["mtt", "mtt-soft", "random", "herding", "k-center-soft"]', '["mtt", "mtt-soft", "short", "random"]')
    .replace("distillations = 2", "distillations = 1")
    .replace(
        "[subsets.small]", "[methods.short]\nmethod = 'mtt-soft'\nmatching = { iterations = 1 }\n\n[subsets.small]"
    )
)


@pytest.fixture(scope="module")
def made(short, data, tmp_path_factory) -> tuple[Benchmark, Path, Layout]:
    folder = tmp_path_factory.mktemp("totals")
    (folder / "grid.toml").write_text(TOTALS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("meddistill.bench.plots.plots", lambda *_: {})
        found = bench(folder / "grid.toml", folder / "out", data=data, jobs=1)
    return found, folder / "out", Layout(read_grid(TOTALS, "grid.toml"), folder / "out", "cpu")


def line(out: Path, method: str, total: int, network: str = OWN) -> dict:
    lines = map(json.loads, (out / "results.jsonl").read_text().splitlines())
    wanted = (method, total, network)
    [found] = [one for one in lines if (one["method"], one.get("total_images"), one["evaluation"]) == wanted]
    return found


def test_rows_with_soft_labels_and_random_images_have_cells_of_so_many_in_all(made):
    found, _, layout = made
    assert (found.failed, found.missing) == ((), 0)
    in_all = {(one.cell.method, one.cell.total_images) for one in found.lines if one.cell.total_images}
    assert in_all == {(method, total) for method in ("mtt-soft", "short", "random", "random-soft") for total in (1, 3)}
    per_class = {(one.cell.method, one.cell.images_per_class) for one in found.lines if not one.cell.total_images}
    assert per_class == {("mtt", 1), ("mtt-soft", 1), ("short", 1), ("random", 1), ("random-soft", 1), ("full", 0)}
    assert all((cell.images_per_class == 0) == (cell.total_images > 0) for cell in cells(layout.grid) if cell.amount)


def test_sets_have_so_many_images_and_random_ones_as_many(made):
    _, out, _ = made
    for total in (1, 3):
        [name] = line(out, "mtt-soft", total)["sets"]
        assert name.startswith(f"sets/stripes {total} in all mtt-soft ")
        assert read(out / name).images.shape[0] == total
        assert line(out, "random", total)["bytes"] == total * 100
        assert (out / name).stat().st_size == line(out, "mtt-soft", total)["bytes"]


def test_random_images_are_drawn_as_evenly_as_can_be_and_trained_by_the_protocol(made, data):
    _, out, layout = made
    cohort = prepare(data / "pictures", size=10, seed=0).cohort
    train, test = (
        split_images(cohort, split, measure_normalisation(cohort), torch.device("cpu")) for split in ("train", "test")
    )
    scores = []
    for seed in layout.seeds:
        favoured = int(torch.randperm(2, generator=stream(seed, "random real", "classes"))[0])
        rows = train.rows_of(favoured)
        first = rows[torch.randperm(len(rows), generator=stream(seed, "random real", favoured))[:1]]
        network = find(OWN, channels=1, size=10, classes=2)
        params = train_network(network, real_set(train.subset(first)), SHORT(), seed)
        scores.append(measure(probabilities(network, params, test), test.labels.numpy()).balanced_accuracy)
    assert line(out, "random", 1)["scores"]["test"]["as is"]["balanced_accuracy"]["per_seed"] == scores


def test_gain_is_over_as_many_with_soft_labels_and_methods_are_compared_where_both_have_cells(made):
    found, out, _ = made
    for total in (1, 3):
        mine, other = (line(out, method, total) for method in ("mtt-soft", "random-soft"))
        scores = [one["scores"]["test"]["as is"]["balanced_accuracy"]["per_seed"] for one in (mine, other)]
        assert mine["gain"]["per_seed"] == pytest.approx([a - b for a, b in zip(*scores, strict=True)])
    rows = list(csv.DictReader((out / "paired.csv").open()))
    in_all = [(row["method"], row["images_per_class"], row["total_images"]) for row in rows if row["total_images"]]
    assert in_all == [(name, "", total) for name in ("mtt-soft", "short") for _ in (OWN, OTHER) for total in ("1", "3")]
    counted = {row["method"]: row["cells"] for row in rows if row["cohort"] == "all"}
    assert counted == {"mtt": "2", "mtt-soft": "6", "short": "6"}
    assert [one.cells for one in found.ranking] == [2, 2, 2, 2]  # one a class, on two networks


def test_a_variant_stands_under_its_own_name_and_says_what_it_is(made):
    _, out, _ = made
    short, soft = line(out, "short", 3), line(out, "mtt-soft", 3)
    assert (short["variant_of"], short["labels"]) == ("mtt-soft", "soft")
    assert "variant_of" not in soft
    page = (Path(__file__).parents[2] / "docs/bench.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in page.split("A line of `results.jsonl` has")[1].split("\n## ")[0] for key in short)
    packages = [read(out / one["sets"][0]) for one in (short, soft)]
    assert [package.card.recipe.method for package in packages] == ["mtt-soft"] * 2
    assert [package.card.recipe.plan["matching.iterations"] for package in packages] == [1, 3]
    assert short["scores"] != soft["scores"]
    assert "short: mtt-soft with matching.iterations = 1." in (out / "results.md").read_text()


def test_tables_and_reports_say_how_many_in_all(made, tmp_path):
    found, out, _ = made
    shown = (out / "results.md").read_text()
    assert "| 3 in all | mtt-soft | convnet-d2-w4 |" in shown
    assert "### stripes, 3 image(s) in all" in shown
    assert "stripes, 3 in all, mtt-soft made with convnet-d2-w4" in found._repr_html_()
    amounts = {cell.amount for cell in read_results(out).cells}
    assert amounts == {(None, 1), (None, 3), (1, None), ALL}
    api.report(out, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    places = [
        page.index(f"stripes, {words}</caption>") for words in ("1 image in all", "3 images in all", "1 image a class")
    ]
    assert places == sorted(places)


def test_totals_change_no_other_outcome_and_a_subset_may_have_nothing_else():
    without = TOTALS.replace("total_images = [1, 3]\n", "")
    some, every = (
        {t.outcome for t in tasks(Layout(read_grid(text, "x"), Path("out"), "cpu"))} for text in (without, TOTALS)
    )
    assert some < every
    assert all(" in all " in path.name for path in every - some)
    alone = TOTALS + "\n[subsets.few]\nimages_per_class = []\n"
    assert {cell.amount for cell in cells(read_grid(alone, "x", "few"))} == {"1 in all", "3 in all", ""}
    assert read_grid(TOTALS.replace("images_per_class = [1]\n", "", 1), "x").images_per_class == ()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("total_images = [1, 3]", "total_images = [0]", "grid.total_images is [0]: expected a list of whole numbers"),
        ("total_images = [1, 3]", "total_images = 3", "grid.total_images is 3: expected a list of whole numbers"),
        (
            '["mtt", "mtt-soft", "short", "random"]',
            '["mtt", "herding"]',
            "grid.total_images is for methods with soft labels",
        ),
        ("images_per_class = [1]\ntotal_images = [1, 3]\n", "images_per_class = []\n", "images_per_class is empty"),
    ],
)
def test_what_is_wrong_is_told(old, new, expected):
    assert old in TOTALS
    with pytest.raises(InputError) as raised:
        read_grid(TOTALS.replace(old, new, 1).replace("reference = 'random'", ""), "grid.toml")
    assert expected in str(raised.value)


def test_more_than_there_are_random_images_for_is_refused_by_name(tmp_path, data):
    text = (
        TOTALS.replace("[1, 3]", "[5000]")
        .replace('"mtt", "mtt-soft", "short", ', "")
        .replace("seeds = 2", "seeds = 2\nfull = false")
    )
    (tmp_path / "grid.toml").write_text(text)
    found = bench(tmp_path / "grid.toml", tmp_path / "out", data=data, jobs=1)
    assert len(found.failed) == 2
    assert all("total_images = 5000 are not to be had evenly from 2 classes" in error for _, error in found.failed)
    assert {line.cell.amount for line in found.lines} == {"1"}
