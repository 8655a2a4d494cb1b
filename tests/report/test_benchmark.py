"""What a reader of a benchmark's report relies on: every cell, and what sets are worth on networks of other kinds."""

import json
from pathlib import Path

import pytest
from tests.report.conftest import OTHER, OWN, cell

from meddistill import api
from meddistill.report.cells import read_results, transfers
from meddistill.runtime.errors import InputError

LINES = (
    cell("full", None, OWN, 0.9, count=None),
    cell("random", None, OWN, 0.6),
    cell("mtt", OWN, OWN, 0.8, sets=["sets/lungs.mdz"]),
    cell("dm", OWN, OWN, 0.7, sets=["sets/dm.mdz"]),
    cell("random", None, OTHER, 0.55),
    cell("mtt", OWN, OTHER, 0.75, drop=0.05, sets=["sets/lungs.mdz"]),
    cell("dm", OWN, OTHER, 0.72, drop=-0.02, sets=["sets/dm.mdz"]),
    cell("skd", None, OTHER, 0.5, shared="weights trained on patients"),
)


@pytest.fixture
def tabled(tmp_path):
    """``tabled(*lines)`` makes the folder of a benchmark with these results; a text stands there as it is."""

    def write(*lines):
        folder = tmp_path / "out"
        (folder / "sets").mkdir(parents=True, exist_ok=True)
        written = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (folder / "results.jsonl").write_text("\n".join(written) + "\n")
        return folder

    return write


@pytest.fixture
def shown(tmp_path, parse):
    """The page of a report on a subject."""

    def show(subject):
        api.report(subject, tmp_path / "report.html")
        return parse((tmp_path / "report.html").read_text(encoding="utf-8"))

    return show


def test_the_matrix_has_a_row_for_each_set_and_a_column_for_each_network(tabled):
    (matrix,) = transfers(read_results(tabled(*LINES)).cells)
    assert (matrix.cohort, matrix.amount, matrix.networks) == ("lungs", (3, None), (OWN, OTHER))
    told = [[one and (one.method, one.main.mean) for one in row] for row in matrix.rows]
    assert told == [
        [("mtt", 0.8), ("mtt", 0.75)],
        [("dm", 0.7), ("dm", 0.72)],
        [("random", 0.6), ("random", 0.55)],
        [("full", 0.9), None],
    ]


def test_sets_that_were_tried_on_their_own_network_alone_have_no_matrix(tabled, shown):
    folder = tabled(*(line for line in LINES if line["evaluation"] == OWN))
    assert transfers(read_results(folder).cells) == ()
    page = shown(folder)
    assert "What it is worth on other networks" not in page.text
    assert "#transfer" not in {link["href"] for link in page.all("a")}


def test_a_benchmark_is_told_whole(tabled, shown):
    page = shown(tabled(*LINES))
    assert not page.unclosed
    assert "4 methods on 1 cohort, 8 pairs of set and network, each with 3 seeds" in page.text.replace("\n", " ")
    assert "80.0 ± 1.0" in page.text
    labels = [attributes["aria-label"] for attributes in page.all("svg")]
    assert any("mtt: 80.0, interval 79.0 to 81.0; dm: 70.0" in label for label in labels)  # the best first
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert not page.all("script")
    assert "What it tells about patients" not in page.text


def test_of_a_single_network_no_interval_is_told(tabled, shown):
    def single(told):
        alone = {"mean", "low", "high", "per_seed"} == set(told)
        return (
            dict.fromkeys(("mean", "low", "high"), told["mean"]) | {"per_seed": [told["mean"]]}
            if alone
            else {name: single(value) if isinstance(value, dict) else value for name, value in told.items()}
        )

    page = shown(tabled(*map(single, LINES)))
    assert "75.0 drop 5.0" in page.text
    for word in ("0 ±", "79.0 to 81.0", "80.0 to 80.0", "(3.0 to 7.0)", "(5.0 to 5.0)"):
        assert word not in page.text
    labels = [attributes["aria-label"] for attributes in page.all("svg")]
    assert any("mtt: 80.0; dm: 70.0" in label for label in labels)


def test_every_field_says_its_score_its_interval_and_how_much_is_lost(tabled, shown):
    page = shown(tabled(*LINES))
    for said in ("75.0 74.0 to 76.0 drop 5.0 (3.0 to 7.0)", "72.0 71.0 to 73.0 drop -2.0 (-4.0 to 0.0)"):
        assert said in page.text
    assert "80.0 79.0 to 81.0 its own" in page.text
    assert "random real images" in page.text
    # The strongest colour is the highest score, the lightest the lowest; the network of the set is framed.
    shades = [found["class"] for found in page.all("td") if "right" in (found.get("class") or "")]
    assert shades == [
        *("right h7 own", "right h6", "right h4 own", "right h5"),
        *("right h1", "right h0", "right h10"),
    ]


def test_a_package_that_stands_in_its_benchmark_is_told_with_its_row_alone(tabled, saved, shown):
    folder, package = tabled(*LINES), saved()
    assert "other networks" not in shown(package).text
    within = package.rename(folder / "sets" / package.name)
    page = shown(within)
    assert "80.0 79.0 to 81.0 its own 75.0 74.0 to 76.0 drop 5.0 (3.0 to 7.0)" in page.text
    assert "random real images" in page.text
    assert "matched on convnet-d2-w8" in page.text
    assert "72.0 71.0 to 73.0" not in page.text  # of another package
    answer = api.report(within, folder / "report.html").as_dict()
    assert (answer["benchmark"], answer["package"]) == (str(folder), str(within))
    other = within.rename(folder / "sets" / "another.mdz")
    assert "other networks" not in shown(other).text


def test_a_run_in_its_benchmark_is_told_with_its_row_too(tabled, saved, logged, log, shown):
    folder = tabled(*LINES)
    saved().rename(folder / "sets" / "lungs.mdz")
    run = logged(*log).rename(folder / "sets" / "lungs.run")
    assert "drop 5.0 (3.0 to 7.0)" in shown(run).text


@pytest.mark.parametrize(
    ("inside", "given", "package", "benchmark"),
    [(".", "sets/lungs.run", "sets/lungs.mdz", "."), ("sets/lungs.run", ".", "../lungs.mdz", "../..")],
)
def test_places_are_told_as_they_were_given(inside, given, package, benchmark, tabled, saved, logged, log, monkeypatch):
    folder = tabled(*LINES)
    saved().rename(folder / "sets" / "lungs.mdz")
    run = logged(*log).rename(folder / "sets" / "lungs.run")
    monkeypatch.chdir(folder / inside)
    told = api.report(Path(given), Path("page.html")).as_dict()
    assert (told["out"], told["run"], told["package"], told["benchmark"]) == ("page.html", given, package, benchmark)
    told = api.report(run, folder / "page.html").as_dict()
    assert (told["run"], told["package"], told["benchmark"]) == (str(run), str(run.with_suffix(".mdz")), str(folder))


def test_several_sets_that_were_made_alike_are_said(tabled, saved, shown):
    sets = ["sets/lungs.mdz", "sets/lungs 2.mdz"]
    folder = tabled(*({**line, "sets": sets} if line["method"] == "mtt" else line for line in LINES))
    page = shown(saved().rename(folder / "sets" / "lungs.mdz"))
    assert "means over 2 sets that were made alike" in page.text


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        "{}",
        "[" * 5000,
        {**LINES[2], "cohort": 3},
        {**LINES[2], "images_per_class": "many"},
        {**LINES[2], "images_per_class": -1},
        {**LINES[2], "matching": ["x"]},
        {**LINES[2], "scores": {"test": 5}},
        {**LINES[2], "scores": {"test": {"as is": {"balanced_accuracy": {"mean": 10**400, "low": 0, "high": 1}}}}},
        cell("mtt", OWN, OWN, 5.0),
        cell("mtt", OWN, OWN, -0.5),
        {**LINES[2], "scores": {"test": {"as is": {"balanced_accuracy": {"mean": 0.5, "low": 5, "high": 5}}}}},
        {**LINES[2], "scores": {"test": {"as is": {"balanced_accuracy": {"mean": 1e300, "low": 0, "high": 1}}}}},
        {**LINES[2], "scores": {"test": {"as is": {"balanced_accuracy": {"mean": float("nan"), "low": 0, "high": 1}}}}},
    ],
)
def test_a_line_that_is_no_cell_is_counted_and_passed_over(tabled, shown, line):
    page = shown(tabled(line, *LINES))
    assert "1 line(s) of the results could not be read" in page.text
    assert "drop 5.0 (3.0 to 7.0)" in page.text


def test_older_results_without_drops_are_shown_too(tabled, shown):
    old = [{name: value for name, value in line.items() if name not in ("drop", "sets")} for line in LINES]
    page = shown(tabled(*old))
    assert "75.0 74.0 to 76.0" in page.text
    assert "drop 5.0" not in page.text


@pytest.mark.parametrize(
    "attack", ["<script>alert(1)</script>", "\" onload='x' \u202e", "{{ 7 * 7 }}", "</svg><img src=x>"]
)
def test_no_text_of_the_results_becomes_markup(tabled, shown, attack):
    def poisoned(text):
        names = {"mtt": f"{text} m", "dm": f"{text} d", OWN: f"{text} o", OTHER: f"{text} n", "lungs": f"{text} c"}
        return [{k: names.get(v, v) if isinstance(v, str) else v for k, v in line.items()} for line in LINES]

    pages = [shown(tabled(*poisoned(text))) for text in ("harmless", attack)]
    first, second = ([(tag, sorted(found), found.get("class")) for tag, found in page.elements] for page in pages)
    assert first == second
    assert "\u202e" not in pages[1].text


def test_what_a_benchmark_cannot_be_asked(tabled, tmp_path):
    folder = tabled(*LINES)
    (tmp_path / "audit.json").write_text("{}")
    with pytest.raises(InputError, match="report on the package"):
        api.report(folder, tmp_path / "r.html", audit=tmp_path / "audit.json")
    with pytest.raises(InputError, match="name another file"):
        api.report(folder, folder / "results.jsonl")
    empty = tabled()
    api.report(empty, tmp_path / "r.html")
    assert "0 methods" in (tmp_path / "r.html").read_text()
