"""The benchmark end to end: its figures are those of networks trained by hand, and nothing is done twice."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.bench.conftest import GRID, SHORT

from meddistill import api
from meddistill.bench import work
from meddistill.bench.benchmark import Benchmark, bench
from meddistill.bench.grid import read_grid
from meddistill.bench.scores import augmentation_robust, label_robust
from meddistill.bench.tasks import Layout
from meddistill.cohort.prepare import prepare
from meddistill.distill.methods import METHODS
from meddistill.nets.find import find
from meddistill.package.read import read
from meddistill.runtime.errors import InputError, MeddistillError
from meddistill.teachers.images import measure_normalisation, split_images
from meddistill.train.baselines import random_real
from meddistill.train.metrics import measure
from meddistill.train.protocol import Protocol, probabilities, real_set, train_network
from meddistill.train.received import received
from meddistill.train.tutored import train_tutored

pytestmark = pytest.mark.usefixtures("short")
CPU = torch.device("cpu")
TABLES = ("results.jsonl", "results.csv", "results.md", "paired.csv")


@dataclass(frozen=True)
class Made:
    """A carried out grid, its folder and its lines by method, size and network."""

    found: Benchmark
    grid: Path
    data: Path
    out: Path

    @property
    def layout(self) -> Layout:
        return Layout(read_grid(self.grid.read_text(), "grid.toml"), self.out, "cpu")

    def line(self, method: str, count: int | None, network: str = "convnet-d2-w4") -> dict:
        lines = map(json.loads, (self.out / "results.jsonl").read_text().splitlines())
        [found] = [
            line
            for line in lines
            if (line["method"], line["images_per_class"], line["evaluation"]) == (method, count, network)
        ]
        return found


@pytest.fixture(scope="module")
def made(short, data, tmp_path_factory) -> Made:
    folder = tmp_path_factory.mktemp("bench")
    (folder / "grid.toml").write_text(GRID)
    found = bench(folder / "grid.toml", folder / "out", data=data, jobs=1)
    return Made(found, folder / "grid.toml", data, folder / "out")


def tables(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in TABLES}


def trained_by_hand(made: Made, network: str, sets: Callable, protocol: Protocol | None = None) -> list[float]:
    """Balanced accuracy on test images for each seed: two have the splits of one distillation, two the other's."""
    scores = []
    for place, seed in enumerate(made.layout.seeds):
        cohort = prepare(made.data / "pictures", size=10, seed=place // 2).cohort
        normalisation = measure_normalisation(cohort)
        train, test = (split_images(cohort, split, normalisation, CPU) for split in ("train", "test"))
        one = find(network, channels=1, size=10, classes=2)
        params = train_network(one, sets(train, seed, place // 2), protocol or SHORT(), seed)
        scores.append(measure(probabilities(one, params, test), test.labels.numpy()).balanced_accuracy)
    return scores


def over_both(values: list[float]) -> dict:
    """The mean over the two distillations, and the interval over their means: 12.706 is t at 97.5 % of 1 degree."""
    first, second = (values[0] + values[1]) / 2, (values[2] + values[3]) / 2
    mean, half = (first + second) / 2, 12.7062047 * abs(first - second) / 2
    told = {"mean": mean, "low": mean - half, "high": mean + half}
    return {**told, "per_seed": values, "per_distillation": [first, second]}


def close(found: dict, expected: dict) -> bool:
    """The same keys, and figures but for rounding."""
    return list(found) == list(expected) and all(found[name] == pytest.approx(expected[name]) for name in expected)


def packaged(made: Made, method: str, count: int) -> Callable:
    grid = made.layout.grid

    def sets(train, seed, distillation):
        plan = grid.plan_for(grid.cohorts[0], method, count, "convnet-d2-w4", distillation)
        package = read(made.layout.package(grid.cohorts[0], plan))
        return received(package.images, package.labels, train.normalisation, CPU)

    return sets


def test_every_cell_is_there_and_nothing_failed(made):
    assert made.found.failed == ()
    assert made.found.missing == 0
    assert len(made.found.lines) == 2 * (1 + 2 * 6)
    assert {path.name for path in made.found.files} >= {*TABLES, "times.csv"}
    assert all(path.stat().st_size for path in made.found.files)


@pytest.mark.parametrize("network", ["convnet-d2-w4", "convnet-d1-w4"])
def test_figures_are_those_of_networks_trained_by_hand(made, network):
    random = trained_by_hand(made, network, lambda train, seed, _: real_set(random_real(train, 2, seed)))
    distilled = trained_by_hand(made, network, packaged(made, "mtt-soft", 2))
    full = trained_by_hand(made, network, lambda train, *_: real_set(train))
    for method, count, expected in (("random", 2, random), ("mtt-soft", 2, distilled), ("full", None, full)):
        found = made.line(method, count, network)["scores"]["test"]["as is"]["balanced_accuracy"]
        assert close(found, over_both(expected))


def test_the_robust_scores_are_made_of_networks_trained_by_hand(made):
    plain = SHORT(augmentation=work.NO_AUGMENTATION)
    sets = packaged(made, "mtt-soft", 1)
    distilled = trained_by_hand(made, "convnet-d2-w4", sets)
    without = trained_by_hand(made, "convnet-d2-w4", sets, plain)
    hard = trained_by_hand(made, "convnet-d2-w4", lambda *asked: work.hardened(sets(*asked)))
    full = made.line("full", None)["scores"]["test"]["as is"]["balanced_accuracy"]["per_seed"]
    beside = made.line("random-soft", 1)["scores"]["test"]
    random, random_plain = (beside[row]["balanced_accuracy"]["per_seed"] for row in ("as is", "plain"))
    line = made.line("mtt-soft", 1)
    label = [
        label_robust(distilled=a, distilled_hard=b, random=c, full=d)
        for a, b, c, d in zip(distilled, hard, random, full, strict=True)
    ]
    augmentation = [
        augmentation_robust(distilled=a, random=b, distilled_plain=c, random_plain=d)
        for a, b, c, d in zip(distilled, random, without, random_plain, strict=True)
    ]
    assert line["label_robust"]["per_seed"] == pytest.approx(label)
    assert line["augmentation_robust"]["per_seed"] == pytest.approx(augmentation)
    assert line["gain"]["per_seed"] == pytest.approx(np.subtract(distilled, random).tolist())
    assert made.line("random", 1)["gain"] is None
    # A set with hard labels is compared with random images that have hard labels.
    lines = (made.line(method, 1)["scores"]["test"]["as is"] for method in ("mtt", "random"))
    by_seed = [rows["balanced_accuracy"]["per_seed"] for rows in lines]
    assert made.line("mtt", 1)["gain"]["per_seed"] == pytest.approx(np.subtract(*by_seed).tolist())


def test_comparisons_are_paired_by_distillation_and_averaged_over_cells(made):
    rows = list(csv.DictReader((made.out / "paired.csv").open()))
    differences = []
    for count in (1, 2):
        for network in ("convnet-d2-w4", "convnet-d1-w4"):
            soft, mtt = (
                made.line(method, count, network)["scores"]["test"]["as is"]["balanced_accuracy"]["per_seed"]
                for method in ("mtt-soft", "mtt")
            )
            differences.append(np.subtract(soft, mtt))
            [row] = [
                row
                for row in rows
                if (row["method"], row["images_per_class"], row["evaluation"]) == ("mtt-soft", str(count), network)
            ]
            expected = over_both(differences[-1].tolist())
            assert row["against"] == "mtt"
            assert [float(row[name]) for name in ("difference", "difference low", "difference high")] == pytest.approx(
                [expected[name] for name in ("mean", "low", "high")]
            )
    [row] = [row for row in rows if (row["method"], row["cohort"]) == ("mtt-soft", "all")]
    overall = over_both(np.mean(differences, axis=0).tolist())
    assert int(row["cells"]) == 4
    assert {row["method"] for row in rows if row["cohort"] == "all"} == set(made.layout.grid.methods) - {"mtt"}
    assert [float(row["difference"]), float(row["difference low"])] == pytest.approx([overall["mean"], overall["low"]])


def test_the_tables_say_the_same(made):
    rows = list(csv.DictReader((made.out / "results.csv").open()))
    lines = [json.loads(line) for line in (made.out / "results.jsonl").read_text().splitlines()]
    shown = (made.out / "results.md").read_text()
    assert len(rows) == len(lines) == len(made.found.lines)
    for row, line in zip(rows, lines, strict=True):
        main = line["scores"]["test"]["as is"]["balanced_accuracy"]
        assert float(row["test balanced_accuracy"]) == main["mean"]
        assert float(row["test balanced_accuracy high"]) == main["high"]
        assert f"{100 * main['mean']:.1f} ± {50 * (main['high'] - main['low']):.1f}" in shown
        assert row["contains_patients"] == str(line["method"] not in METHODS)
        assert row["distillations"] == str(line["distillations"]) == "2"
    assert "2 distillations a method" in shown
    assert "interval over the distillations" in shown


def test_what_is_lost_on_another_network_is_paired_by_seed(made):
    for method in ("mtt", "mtt-soft", "herding"):
        there, here = (made.line(method, 2, name) for name in ("convnet-d2-w4", "convnet-d1-w4"))
        scores = [line["scores"]["test"]["as is"]["balanced_accuracy"]["per_seed"] for line in (there, here)]
        assert here["drop"]["per_seed"] == pytest.approx(np.subtract(*scores).tolist())
        assert there["drop"] is None
    assert made.line("random", 2, "convnet-d1-w4")["drop"] is None
    drop = made.line("mtt", 2, "convnet-d1-w4")["drop"]
    shown = (made.out / "results.md").read_text().split("## Transfer")[1]
    assert f"(drop {100 * drop['mean']:.1f} ± {50 * (drop['high'] - drop['low']):.1f})" in shown
    assert shown.count("| mtt |") == shown.count("| herding* |") == 2  # one for each number of images


def test_its_report_and_those_of_its_sets_show_transfer(made, tmp_path):
    line = made.line("mtt", 2, "convnet-d1-w4")
    assert all((made.out / name).is_file() for name in line["sets"])
    assert len(line["sets"]) == 2
    told = f"drop {round(100 * line['drop']['mean'], 1) + 0.0:.1f}<"
    package = made.out / line["sets"][0]
    for subject in (made.out, package, package.with_suffix(".run")):
        assert api.report(subject, tmp_path / "r.html").benchmark.samefile(made.out)
        assert told in (tmp_path / "r.html").read_text()


def test_every_key_of_a_line_is_documented(made):
    line = made.line("mtt-soft", 2)
    page = (Path(__file__).parents[2] / "docs/bench.md").read_text(encoding="utf-8")
    section = page.split("A line of `results.jsonl` has")[1].split("\n## ")[0]
    for key in (*line, *line["scores"], *line["scores"]["test"], *line["gain"]):
        assert f"`{key}`" in section, key


def test_a_notebook_shows_every_cell(made):
    shown = made.found._repr_html_()
    main = made.line("mtt", 2, "convnet-d1-w4")["scores"]["test"]["as is"]["balanced_accuracy"]
    assert shown.count("<tr>") == 1 + len(made.found.lines)
    assert "stripes, 2 a class, mtt made with convnet-d2-w4, trained: convnet-d1-w4" in shown
    assert "{:.1f} ({:.1f} to {:.1f})".format(*(100 * main[name] for name in ("mean", "low", "high"))) in shown


def test_bytes_are_those_of_the_files_and_no_real_image_is_written(made):
    packages = list(made.out.rglob("*.mdz"))
    assert len(packages) == 2 * 2 * 2  # two methods, sizes and distillations: none of random, herding, k-center
    assert not any(read(path).card.contains_real_images for path in packages)
    sizes = [path.stat().st_size for path in packages if " 2 mtt convnet" in path.name]
    assert made.line("mtt", 2)["bytes"] == sum(sizes) / 2
    assert made.line("random", 2)["bytes"] == 2 * 2 * 100
    assert {path.suffix for path in made.out.rglob("*") if path.is_file()} <= {
        *(".json", ".jsonl", ".csv", ".md", ".png", ".mdz", ".toml", ".safetensors", "")
    }


def test_labels_of_teachers_are_chosen_on_validation_images(made):
    chosen = [json.loads(path.read_text()) for path in (made.out / "labels").iterdir()]
    assert len(chosen) == 4
    for one in chosen:
        assert one["val"][str(one["point"])] == max(one["val"].values())


@pytest.mark.usefixtures("no_pictures")
def test_a_second_start_trains_nothing_and_writes_the_same(made, monkeypatch):
    before = tables(made.out)
    monkeypatch.setattr(work, "train_network", None)
    monkeypatch.setattr("meddistill.pipeline.evaluate.train_network", None)
    monkeypatch.setattr("meddistill.bench.work.prepare", None)
    again = bench(made.grid, made.out, data=made.data / "not there", jobs=1)
    assert tables(made.out) == before
    assert (again.lines, again.ranking, again.missing) == (made.found.lines, made.found.ranking, 0)


def copied(made: Made, path: Path) -> Made:
    shutil.copytree(made.out, path)
    return replace(made, out=path)


@pytest.mark.usefixtures("no_pictures")
def test_what_was_lost_is_made_again_with_the_same_figures(made, tmp_path):
    copy = copied(made, tmp_path / "out")
    [package] = [path for path in copy.out.rglob("*.mdz") if " 1 mtt convnet-d2-w4 0" in path.name]
    for path in (package.with_suffix(".json"), *(copy.out / "scores").glob("stripes 1 mtt *")):
        path.unlink()
    [broken] = (copy.out / "scores").glob("stripes 2 herding * convnet-d1*")
    kept = dict(list(json.loads(broken.read_text()).items())[:2])
    broken.write_text(json.dumps(kept))
    bench(made.grid, copy.out, data=made.data, jobs=1)
    assert tables(copy.out) == tables(made.out)
    assert kept.items() <= json.loads(broken.read_text()).items()


@pytest.mark.usefixtures("no_pictures")
def test_a_set_that_was_deleted_is_made_again_and_only_its_own_networks_are_trained_again(made, tmp_path):
    copy = copied(made, tmp_path / "out")
    [package] = [path for path in (copy.out / "sets").glob("*.mdz") if " 1 mtt convnet-d2-w4 0" in path.name]
    package.unlink()
    shutil.rmtree(package.with_suffix(".run"))
    before = {path: path.read_bytes() for path in (copy.out / "scores").iterdir()}
    for path in (copy.out / "scores").glob("stripes 1 mtt *"):  # figures of a set that was another
        told = json.loads(path.read_text())
        first = {
            name: {**told[name], "seconds": -1.0} for name in told if int(name.split()[-1]) in made.layout.seeds[:2]
        }
        path.write_text(json.dumps({**told, **first}))
    found = bench(made.grid, copy.out, data=made.data, jobs=1)
    assert (found.failed, found.missing) == ((), 0)
    assert tables(copy.out) == tables(made.out)
    for path, was in before.items():
        now, told = json.loads(path.read_text()), json.loads(was)
        assert all(one["seconds"] >= 0 for one in now.values())
        if not path.name.startswith("stripes 1 mtt "):
            assert now == told
        else:  # those of the other distillation were not touched
            assert {name for name in told if now[name] == told[name]} >= {
                name for name in told if int(name.split()[-1]) in made.layout.seeds[2:]
            }


@pytest.mark.usefixtures("no_pictures")
def test_a_grid_that_grows_keeps_what_is_there(made, tmp_path):
    copy = copied(made, tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (copy.out / "scores").iterdir()}
    (tmp_path / "grid.toml").write_text(GRID.replace('"random",', '"random", "herding-soft",'))
    grown = bench(tmp_path / "grid.toml", copy.out, data=made.data, jobs=1)
    assert len(grown.lines) == len(made.found.lines) + 4
    assert times.items() <= {path: path.stat().st_mtime_ns for path in (copy.out / "scores").iterdir()}.items()


@pytest.mark.usefixtures("no_pictures")
def test_a_method_that_fails_ends_no_other_and_is_tried_again(made, tmp_path, monkeypatch):
    copy = copied(made, tmp_path / "out")
    for path in [*(copy.out / "sets").glob("stripes 1 mtt *.json"), *(copy.out / "scores").glob("stripes 1 *")]:
        path.unlink()

    def fail(*_):
        raise MeddistillError("the student ran away")

    with monkeypatch.context() as patch:
        patch.setattr(work, "run", fail)
        found = bench(made.grid, copy.out, data=made.data, jobs=1)
    assert [error for _, error in found.failed] == ["the student ran away"] * 2
    assert all(name.startswith("make stripes 1 mtt convnet-d2-w4") for name, _ in found.failed)
    assert found.missing == 4  # two sets, and the networks of two kinds on them
    assert len(found.lines) == len(made.found.lines) - 2
    bench(made.grid, copy.out, data=made.data, jobs=1)
    assert tables(copy.out) == tables(made.out)


@pytest.mark.usefixtures("no_pictures")
def test_a_size_that_a_class_is_too_small_for_fails_by_itself(tmp_path, data):
    text = GRID.replace("[1, 2]", "[1, 500]", 1).replace(
        '["mtt", "mtt-soft", "random", ', '["mtt", "scratch", "random", '
    )
    (tmp_path / "grid.toml").write_text(text)
    found = bench(tmp_path / "grid.toml", tmp_path / "out", data=data, jobs=1)
    assert all("images_per_class = 500 are not to be had" in error for _, error in found.failed)
    assert {task.split()[0] for task, _ in found.failed} == {"make", "label", "score"}
    assert {line.cell.amount for line in found.lines} == {"1", ""}
    assert len(found.lines) == 2 * 7


@pytest.mark.usefixtures("no_pictures")
def test_a_tutored_network_learns_by_way_of_the_matching_one(made, tmp_path):
    """On sets with a matching network and on random images alike; what it loses is told as of any other network."""
    copy, grid = copied(made, tmp_path / "out"), tmp_path / "grid.toml"
    grid.write_text(
        GRID.replace('"convnet-d1-w4"]', '"convnet-d1-w4-tutored"]')
        .replace('"mtt", "mtt-soft", "random", "herding", "k-center-soft"', '"mtt"')
        .replace("[1, 2]", "[2]")
    )
    found = bench(grid, copy.out, data=made.data, jobs=1)
    assert len(found.lines) == 2 * 3
    tutor = find("convnet-d2-w4", channels=1, size=10, classes=2)

    def by_hand(sets: Callable) -> list[float]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(globals(), "train_network", lambda one, *rest: train_tutored(one, tutor, *rest))
            return trained_by_hand(made, "convnet-d1-w4", sets)

    random = by_hand(lambda train, seed, _: real_set(random_real(train, 2, seed)))
    distilled = by_hand(packaged(made, "mtt", 2))
    for method, expected in (("random", random), ("mtt", distilled)):
        line = copy.line(method, 2, "convnet-d1-w4-tutored")
        assert close(line["scores"]["test"]["as is"]["balanced_accuracy"], over_both(expected))
    assert line["gain"]["per_seed"] == pytest.approx(np.subtract(distilled, random).tolist())
    own = made.line("mtt", 2)["scores"]["test"]["as is"]["balanced_accuracy"]["per_seed"]
    assert line["drop"]["per_seed"] == pytest.approx(np.subtract(own, distilled).tolist())


@pytest.mark.usefixtures("no_pictures")
def test_other_images_under_the_same_name_are_refused(made, tmp_path):
    copy = copied(made, tmp_path / "out")
    shutil.copytree(made.data / "pictures", tmp_path / "data" / "pictures")
    for path in (tmp_path / "data" / "pictures" / "ill").glob("*0.png"):
        path.unlink()
    for path in (copy.out / "scores").glob("stripes 1 random *"):
        path.unlink()
    found = bench(made.grid, copy.out, data=tmp_path / "data", jobs=1)
    assert len(found.failed) == 2  # one for each network
    assert all("no longer those" in error for _, error in found.failed)


def test_pictures_are_of_what_was_found(made):
    from PIL import Image

    names = {path.name for path in made.out.glob("*.png")}
    assert names == {"accuracy-bytes.png", "accuracy-time.png", "transfer.png", "teachers.png"}
    for name in names:
        with Image.open(made.out / name) as picture:
            assert min(picture.size) > 100


def test_a_grid_or_a_folder_that_cannot_be_used_is_told(tmp_path, data):
    with pytest.raises(InputError, match=r"cannot read the grid .*none\.toml"):
        bench(tmp_path / "none.toml", tmp_path / "out", data=data)
    (tmp_path / "grid.toml").write_text(GRID.replace('"pictures"', '"nowhere"'))
    found = bench(tmp_path / "grid.toml", tmp_path / "out", data=data, subset="small", jobs=1)
    assert {str(data / "nowhere") in error for _, error in found.failed} == {True}
    assert found.lines == ()


def test_results_that_no_benchmark_wrote_are_not_replaced(tmp_path):
    (tmp_path / "grid.toml").write_text(GRID)
    (tmp_path / "results.md").write_text("mine")
    with pytest.raises(InputError, match=r"holds results\.md, which no benchmark wrote: give --out a new folder"):
        bench(tmp_path / "grid.toml", tmp_path)
    assert (tmp_path / "results.md").read_text() == "mine"
