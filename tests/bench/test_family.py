"""The family "scarce real labels" in a benchmark: its figures, what is shared between cells, and what is told of it."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tests.bench.conftest import SHORT
from tests.pretrain.test_imagenet import Classic

from meddistill.bench import work
from meddistill.bench.benchmark import Benchmark, bench
from meddistill.bench.grid import read_grid
from meddistill.bench.tasks import Layout, forget_scores_of_the_lost, is_done, tasks
from meddistill.cohort.prepare import prepare
from meddistill.nets.find import find
from meddistill.pretrain.loop import encoder_of
from meddistill.pretrain.store import load_encoder
from meddistill.pretrain.transfer import fine_tune, measured, probe
from meddistill.runtime.errors import InputError
from meddistill.runtime.streams import stream
from meddistill.teachers.images import measure_normalisation, split_images
from meddistill.train.baselines import random_real
from meddistill.train.metrics import measure, summarise
from meddistill.train.protocol import probabilities, real_set

pytestmark = pytest.mark.usefixtures("short")
CPU, NETWORK, VIT = torch.device("cpu"), "convnet-d2-w4", "vit-d1-w8-mean"
GRID = """
[grid]
images_per_class = [1, 2]
methods = ["byol", "byol-probe", "mae", "imagenet-probe", "scratch", "random", "dm"]
matching = ["convnet-d2-w4"]
seeds = 3
reference = "random"

[cohorts.stripes]
source = "pictures"
size = 14
pretraining = { batch = 8 }

[plan.matching]
iterations = 2
batch = 4

[pretraining]
steps = 3
encoders = 2

[methods.mae]
network = "vit-d1-w8-mean"

[methods.imagenet]
network = "resnet18-w4-affine"
weights = "weights.pth"
"""


@dataclass(frozen=True)
class Made:
    found: Benchmark
    grid: Path
    data: Path
    out: Path

    @property
    def layout(self) -> Layout:
        return Layout(read_grid(self.grid.read_text(), "grid.toml"), self.out, "cpu")

    def line(self, method: str, count: int | None, network: str = NETWORK) -> dict:
        lines = map(json.loads, (self.out / "results.jsonl").read_text().splitlines())
        wanted = (method, count, network)
        [found] = [one for one in lines if (one["method"], one["images_per_class"], one["evaluation"]) == wanted]
        return found

    def scores(self, *place) -> list[float]:
        return self.line(*place)["scores"]["test"]["as is"]["balanced_accuracy"]["per_seed"]


@pytest.fixture(scope="module")
def made(short, data, tmp_path_factory) -> Made:
    folder = tmp_path_factory.mktemp("family")
    torch.manual_seed(0)
    (folder / "data").mkdir()
    (folder / "data" / "pictures").symlink_to(data / "pictures")
    torch.save(Classic().state_dict(), folder / "data" / "weights.pth")
    (folder / "grid.toml").write_text(GRID)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("meddistill.bench.plots.plots", lambda *_: {})
        found = bench(folder / "grid.toml", folder / "out", data=folder / "data", jobs=1)
    return Made(found, folder / "grid.toml", folder / "data", folder / "out")


def by_hand(made: Made, row: str, network: str, how, count: int) -> list[float]:
    """Balanced accuracy on test images: labelled images are those that ``random`` has with the same seed."""
    cohort = prepare(made.data / "pictures", size=14, seed=0).cohort
    normalisation, scores = measure_normalisation(cohort), []
    train, test = (split_images(cohort, split, normalisation, CPU) for split in ("train", "test"))
    one = find(network, channels=1, size=14, classes=2)
    for place, seed in enumerate(made.layout.seeds):
        if row == "scratch":
            encoder = encoder_of(one, one.init(stream(seed, "train", "init")))
        else:
            [path] = made.out.glob(f"encoders/stripes {row} {network} 0 {place % 2}.*.safetensors")
            encoder = load_encoder(path, one)
        seen = measured(one, encoder, train) if how is probe else encoder
        params = how(one, seen, real_set(random_real(train, count, seed)), SHORT(), seed)
        scores.append(measure(probabilities(one, params, test), test.labels.numpy()).balanced_accuracy)
    return scores


def test_nothing_failed_and_every_row_stands_beside_the_same_without_pretraining(made):
    assert made.found.failed == ()
    assert made.found.missing == 0
    found = {(line.cell.method, line.cell.evaluation) for line in made.found.lines}
    affine = "resnet18-w4-affine"
    assert found == {
        *((row, NETWORK) for row in ("byol", "byol-probe", "scratch", "scratch-probe", "random", "dm", "full")),
        *((row, VIT) for row in ("mae", "scratch")),
        *((row, affine) for row in ("imagenet-probe", "scratch-probe")),
    }


@pytest.mark.parametrize(
    ("method", "row", "network", "how"),
    [
        ("byol", "byol", NETWORK, fine_tune),
        ("byol-probe", "byol", NETWORK, probe),
        ("mae", "mae", VIT, fine_tune),
        ("scratch-probe", "scratch", NETWORK, probe),
    ],
)
def test_figures_are_those_of_networks_trained_by_hand(made, method, row, network, how):
    assert made.scores(method, 2, network) == by_hand(made, row, network, how, 2)


def test_gain_is_over_the_same_labelled_images_without_pretraining(made):
    for method, other, network in (
        ("byol", "scratch", NETWORK),
        ("byol-probe", "scratch-probe", NETWORK),
        ("mae", "scratch", VIT),
    ):
        mine, beside = made.scores(method, 2, network), made.scores(other, 2, network)
        expected = summarise([a - b for a, b in zip(mine, beside, strict=True)])
        assert made.line(method, 2, network)["gain"] == expected.as_dict()
    assert made.line("scratch", 2)["gain"] is None
    assert made.line("scratch-probe", 2)["gain"] is None


def test_without_pretraining_it_is_the_row_of_random_images_and_is_trained_once(made):
    assert made.scores("scratch", 1) == made.scores("random", 1)
    assert not list((made.out / "scores").glob("* scratch convnet*"))


def test_an_encoder_is_pretrained_once_for_all_sizes_and_both_ways(made):
    pretrained = sorted(path.name.rpartition(".")[0].rpartition(".")[0] for path in made.out.glob("encoders/*.json"))
    assert pretrained == sorted(
        [
            *(f"stripes byol {NETWORK} 0 {number}" for number in (0, 1)),
            *(f"stripes mae {VIT} 0 {number}" for number in (0, 1)),
            "stripes imagenet resnet18-w4-affine 0 0",
        ]
    )


def test_what_would_be_shared_is_told_with_its_bytes(made):
    weights = [path.stat().st_size for path in made.out.glob("encoders/stripes byol *.safetensors")]
    packages = [path.stat().st_size for path in made.out.glob("sets/*2 dm*.mdz")]
    expected = {
        "byol": ("weights trained on patients", sum(weights) / len(weights), 2),
        "byol-probe": ("weights trained on patients", sum(weights) / len(weights), 2),
        "scratch": ("nothing", 0, 2),
        "random": ("patients' images", 2 * 2 * 14**2, 0),
        "dm": ("a package", sum(packages) / len(packages), 0),
    }
    for method, told in expected.items():
        line = made.line(method, 2)
        assert (line["shared"], line["bytes"], line["labelled_by_receiver"]) == told
    public = made.line("imagenet-probe", 2, "resnet18-w4-affine")
    assert (public["shared"], public["bytes"]) == ("nothing but public weights", 0)
    full = made.line("full", None)
    assert full["shared"] == "patients' images"
    assert full["bytes"] > made.line("random", 2)["bytes"]
    shown = (made.out / "results.md").read_text()
    assert f"| byol† | – | {NETWORK} | weights trained on patients, {expected['byol'][1] / 1000:,.1f} kB |" in shown
    assert "| scratch† | – | convnet-d2-w4 | nothing |" in shown


def test_what_became_of_every_encoder_is_recorded(made):
    rows = list(csv.DictReader((made.out / "encoders.csv").open()))
    assert [row["method"] for row in rows] == ["byol", "byol", "mae", "mae", "imagenet"]
    for row in rows:
        assert 1 <= float(row["rank"]) <= float(row["features"])
        assert 0 <= float(row["read by a line"]) <= 1
        assert row["collapsed"] in ("True", "False")
    assert float(rows[0]["rank"]) != float(rows[0]["rank, not pretrained"])
    assert "## Encoders" in (made.out / "results.md").read_text()


def test_what_was_lost_is_made_again_with_the_same_figures_and_a_second_start_pretrains_nothing(made, monkeypatch):
    tables = {name: (made.out / name).read_bytes() for name in ("results.jsonl", "results.md", "encoders.csv")}
    monkeypatch.setattr("meddistill.bench.plots.plots", lambda *_: {})
    for path in (*made.out.glob("encoders/stripes byol * 1.*"), *made.out.glob("scores/stripes 1 byol *")):
        path.unlink()
    bench(made.grid, made.out, data=made.data, jobs=1)
    assert {name: (made.out / name).read_bytes() for name in tables} == tables
    monkeypatch.setattr(work, "pretrain", None)
    assert bench(made.grid, made.out, data=made.data, jobs=1).missing == 0


def test_scores_of_an_encoder_that_was_deleted_do_not_count_any_more(tmp_path):
    layout = Layout(read_grid(GRID, "grid.toml"), tmp_path, "cpu")
    every = tasks(layout)
    for task in every:
        told = {f"{row} {seed}": {} for row in layout.rows(task.cell) for seed in layout.seeds} if task.cell else {}
        for path in filter(None, (task.outcome, task.made)):
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(told))
    [weights] = tmp_path.glob("encoders/* imagenet *.safetensors")
    [known] = tmp_path.glob("encoders/* byol * 1.*.json")  # of the second seed of three
    teachers = list(tmp_path.glob("teachers/*.json"))
    for path in (weights, known, *teachers):
        path.unlink()
    forget_scores_of_the_lost(layout, every)
    waiting = [task for task in every if not is_done(layout, task)]
    assert {(task.kind, task.encoder.row) for task in waiting if task.encoder} == {
        ("pretrain", "imagenet"),
        ("pretrain", "byol"),
    }
    scores = [task for task in waiting if task.cell]
    assert {task.cell.method for task in scores} == {"imagenet-probe", "byol", "byol-probe"}
    assert len(scores) == 2 * 3  # both sizes
    left = {task.cell.method: set(json.loads(task.outcome.read_text())) for task in scores}
    assert left["imagenet-probe"] == set()
    assert left["byol"] == {f"as is {layout.seeds[place]}" for place in (0, 2)}


def test_a_setting_changes_the_outcomes_that_it_concerns_and_no_others():
    def outcomes(text):
        return {task.outcome for task in tasks(Layout(read_grid(text, "grid.toml"), Path("out"), "cpu"))}

    changed = outcomes(GRID) ^ outcomes(GRID.replace("[methods.mae]", "[methods.mae]\nsteps = 4"))
    assert changed
    assert all(" mae " in path.name for path in changed)
    more = outcomes(GRID.replace("encoders = 2", "encoders = 3")) - outcomes(GRID)
    assert {path.name.split(".")[0][-1] for path in more if path.parent.name == "encoders"} == {"2"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("steps = 3", "steps = 3\nstpes = 4", "stpes is not a setting: expected one of steps, batch"),
        ("steps = 3", "steps = -3", "steps is -3: expected 0 to"),
        ("steps = 3", 'steps = "3"', "steps is '3': expected a number"),
        ('weights = "weights.pth"', "", "weights is missing: name the file"),
        ('network = "vit-d1-w8-mean"', 'network = "convnet-d2-w4"', "mae hides patches"),
        ('network = "vit-d1-w8-mean"', 'network = "vit-d1-w9000"', "width 1 to"),
        ("[methods.mae]", "[methods.byol-probe]\nsteps = 4\n[methods.mae]", "is a row of [methods.byol]: say it there"),
        ("size = 14", "size = 13", "mae needs images of 14 pixels or more"),
        ("pretraining = { batch = 8 }", "pretraining = 3", "cohorts.stripes.pretraining is 3: expected a section"),
        ("pretraining = { batch = 8 }", "pretraining = { batch = 1 }", "batch is 1: expected 2 to"),
        (
            'matching = ["convnet-d2-w4"]',
            'matching = ["convnet-d2-w4"]\nevaluation = ["convnet-d2-w4-bn"]',
            "batch norm",
        ),
    ],
)
def test_what_is_wrong_is_told(old, new, expected):
    assert old in GRID
    with pytest.raises(InputError) as raised:
        read_grid(GRID.replace(old, new, 1), "grid.toml")
    assert expected in str(raised.value)


@pytest.mark.usefixtures("no_pictures")
def test_weights_that_are_not_there_end_no_other_task(data, tmp_path):
    text = GRID.replace("[1, 2]", "[1]").replace('"mae", "imagenet-probe"', '"imagenet-probe"').replace(', "dm"', "")
    (tmp_path / "grid.toml").write_text(text.replace("seeds = 3", "seeds = 1\nfull = false\nrobust = false"))
    found = bench(tmp_path / "grid.toml", tmp_path / "out", data=data, jobs=1)
    [(task, error)] = found.failed
    assert task.startswith("pretrain stripes imagenet")
    assert "there is no file" in error
    assert found.missing == 2  # the encoder, and the row that needs it
    assert len(found.lines) == 6
    assert all(set(line.scores["test"]) == {"as is"} and line.augmentation_robust is None for line in found.lines)
