"""Several distillations a cell; and with one, names and figures as they have always been."""

import csv
import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from tests.bench.conftest import GRID
from tests.bench.test_grid import PRIVATE

from meddistill import __version__, api
from meddistill.bench.benchmark import Benchmark, bench
from meddistill.bench.grid import read_grid
from meddistill.bench.tasks import Layout, Task, is_done, read_outcome, tasks
from meddistill.package.read import read
from meddistill.report.cells import read_results
from meddistill.runtime.progress import Silent
from meddistill.runtime.streams import derive
from meddistill.train.metrics import summarise, summarise_distillations
from meddistill.train.protocol import PROTOCOL_VERSION

RECORDS = Path(__file__).parents[2] / "benchmarks/records"
ONE = GRID.replace("distillations = 2", "distillations = 1").replace(
    "seeds = 2", "seeds = 2\nrobust = false\nfull = false"
)
TWO = ONE.replace("distillations = 1", "distillations = 2")
# Keys of the lines that were recorded before a cell could have several distillations.
KEYS = json.loads((RECORDS / "bench_transfer/results.jsonl").read_text(encoding="utf-8").splitlines()[0])


class Warned(Silent):
    """Remembers what it was warned of."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def layout(text: str, out: str = "out") -> Layout:
    return Layout(read_grid(text, "grid.toml"), Path(out), "cpu")


def digest(told: dict) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:10]


def test_with_one_distillation_outcomes_have_the_names_that_they_have_always_had():
    """Written out as version 1 of the benchmark named them: so old folders are found again."""
    one = layout(ONE)
    [source] = one.grid.cohorts
    identity = {name: value for name, value in asdict(source).items() if name != "matching"}
    del identity["options"]["skip_unreadable"]
    around = {"source": identity, "version": __version__, "bench": "1", "device": "cpu"}
    plan = one.grid.plan_for(source, "mtt", 2, "convnet-d2-w4", 0)
    told = {"images": 2, "network": "convnet-d1-w4", "seed": 0, "distillations": 1, "protocol": PROTOCOL_VERSION}
    random, mtt = told | {"method": "random"}, told | {"method": "mtt", "plan": plan.identity()}
    looking = asdict(plan.teachers) | {"network": "convnet-d2-w4", "seed": 0, "images": 2}
    expected = {
        f"out/scores/stripes 2 random convnet-d1-w4.{digest(around | {'settings': random})}.json",
        f"out/scores/stripes 2 mtt convnet-d2-w4 convnet-d1-w4.{digest(around | {'settings': mtt})}.json",
        f"out/sets/stripes 2 mtt convnet-d2-w4 0.{digest(around | {'settings': plan.identity()})}.json",
        f"out/labels/stripes 2 convnet-d2-w4 0.{digest(around | {'settings': looking})}.json",
    }
    assert expected <= {str(task.outcome) for task in tasks(one)}
    assert str(one.facts(source, 0)) == f"out/cohorts/stripes.0.{digest(identity)}.json"
    assert one.seeds == [derive(0, "evaluation", 0), derive(0, "evaluation", 1)]


def test_more_distillations_keep_the_first_with_its_networks_and_add_others():
    one, two = layout(ONE), layout(TWO)
    assert two.seeds[:2] == one.seeds
    assert len(set(two.seeds)) == 4
    assert [two.seeds_of(0), two.seeds_of(1)] == [two.seeds[:2], two.seeds[2:]]
    few, many = ({task.outcome for task in tasks(each)} for each in (one, two))
    assert few < many
    assert {path.parent.name for path in many - few} == {"teachers", "labels", "sets"}
    # With more networks each, a distillation keeps those that it had.
    more = layout(TWO.replace("seeds = 2", "seeds = 3"))
    assert [more.seeds_of(place)[:2] for place in (0, 1)] == [two.seeds_of(0), two.seeds_of(1)]


@pytest.mark.usefixtures("short", "no_pictures")
def test_tables_show_no_interval_of_a_single_network(tmp_path, data):
    alone = ONE.replace("seeds = 2", "seeds = 1") + "[subsets.real]\nmethods = ['random', 'scratch']\n"
    (tmp_path / "grid.toml").write_text(alone)
    found = bench(tmp_path / "grid.toml", tmp_path / "out", data=data, subset="real", jobs=1)
    assert [one.not_worse for one in found.ranking] == [None, None]
    table = (tmp_path / "out/results.md").read_text()
    assert "±" not in table
    assert f"| {100 * found.lines[0].main.mean:.1f} |" in table
    rows = list(csv.DictReader((tmp_path / "out/results.csv").open()))
    rows += csv.DictReader((tmp_path / "out/paired.csv").open())
    assert not any(value for row in rows for name, value in row.items() if name.endswith((" low", " high")))
    assert any(row.get("test balanced_accuracy") for row in rows)


@pytest.mark.usefixtures("short", "no_pictures")
def test_sets_under_differential_privacy_are_made_and_say_so(tmp_path, data):
    text = ONE + PRIVATE + "[subsets.noised]\nimages_per_class = [1]\nmethods = ['dm', 'noised']\n"
    (tmp_path / "grid.toml").write_text(text.replace("seeds = 2", "seeds = 1"))
    found = bench(tmp_path / "grid.toml", tmp_path / "out", data=data, subset="noised", jobs=1)
    assert (found.failed, found.missing) == ((), 0)
    packages = sorted((tmp_path / "out/sets").glob("*.mdz"))
    assert [read(path).card.privacy.route for path in packages] == ["statistics", "teachers"]
    assert not list((tmp_path / "out").glob("teachers/*"))


@pytest.mark.usefixtures("short", "no_pictures")
def test_a_grid_with_another_seed_goes_into_the_same_folder(tmp_path, data):
    """Its source has no splits: they are drawn with the seed of the grid and the number of the distillation."""
    text = ONE + "[subsets.real]\nimages_per_class = [1]\nmethods = ['random']\n"
    first, other, both = text, text.replace("[grid]", "[grid]\nseed = 1"), text.replace("lations = 1", "lations = 2")
    assert other != first != both
    for each in (first, other, both):
        (tmp_path / "grid.toml").write_text(each)
        found = bench(tmp_path / "grid.toml", tmp_path / "out", data=data, subset="real", jobs=1)
        assert (found.failed, found.missing) == ((), 0)
    splits = {path.read_text() for path in (tmp_path / "out/cohorts").iterdir()}
    assert len(splits) == 2  # the second distillation of the first grid has those of the other grid


@pytest.fixture(scope="module")
def grown(short, data, tmp_path_factory) -> tuple[Benchmark, dict, Benchmark, Path]:
    """A benchmark of one distillation, what its files held, the same with two in the same folder, and that folder."""
    folder = tmp_path_factory.mktemp("grown")
    (folder / "grid.toml").write_text(ONE)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("meddistill.bench.plots.plots", lambda *_: {})
        found.append(bench(folder / "grid.toml", folder / "out", data=data, subset="small", jobs=1))
        before = {path: path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()}
        (folder / "grid.toml").write_text(TWO)
        found.append(bench(folder / "grid.toml", folder / "out", data=data, subset="small", jobs=1))
    return found[0], before, found[1], folder / "out"


def test_one_distillation_is_written_with_the_keys_that_old_records_have(grown):
    first, before, _, out = grown
    [random, mtt] = [json.loads(line) for line in before[out / "results.jsonl"].splitlines()]
    assert list(mtt) == list(random) == list(KEYS)
    assert list(mtt["scores"]["test"]["as is"]["auroc"]) == list(KEYS["scores"]["test"]["as is"]["auroc"])
    assert list(mtt["gain"]) == ["mean", "low", "high", "per_seed"]
    assert all("distillations" not in line.as_dict() for line in first.lines)
    assert b"2 seeds, 1 distillation(s) a method. Test split, percent, mean" in before[out / "results.md"]
    assert b"distillations" not in before[out / "results.csv"] + before[out / "paired.csv"]


def test_a_benchmark_that_grows_makes_no_set_and_trains_no_network_twice(grown):
    _, before, second, out = grown
    assert (second.failed, second.missing) == ((), 0)
    sets = [path for path in before if path.parent.name == "sets" or path.suffix == ".safetensors"]
    assert sets
    assert all(path.read_bytes() == before[path] for path in sets)
    for path in (path for path in before if path.parent.name == "scores"):
        assert json.loads(before[path]).items() < read_outcome(path).items()
    # Going back to one distillation needs nothing more, either.
    small = read_grid(ONE, "grid.toml", "small")
    assert all(is_done(Layout(small, out, "cpu"), task) for task in tasks(Layout(small, out, "cpu")))


def test_figures_of_several_are_means_over_them_with_an_interval_over_them(grown):
    first, _, second, _ = grown
    [_, alone], [_, both] = first.lines, second.lines
    assert both.main.per_seed[:2] == alone.main.per_seed
    assert len(both.sets) == 2
    assert both.main == summarise_distillations(both.main.per_seed, 2)
    assert both.as_dict()["distillations"] == 2
    assert list(both.gain.as_dict()) == ["mean", "low", "high", "per_seed", "per_distillation"]
    # Pairs are of the same distillation: what sets share does not widen the interval of a difference.
    [random, _] = second.lines
    pairs = zip(both.main.per_distillation, random.main.per_distillation, strict=True)
    assert both.gain.per_distillation == pytest.approx([a - b for a, b in pairs])


def test_the_report_says_what_its_intervals_hold(grown, tmp_path):
    _, before, _, out = grown
    assert [cell.distillations for cell in read_results(out).cells] == [2, 2]
    (tmp_path / "old").mkdir()
    (tmp_path / "old/results.jsonl").write_bytes(before[out / "results.jsonl"])
    told = {}
    for folder in (out, tmp_path / "old", RECORDS / "bench_transfer", RECORDS / "bench_hour"):
        api.report(folder, tmp_path / "report.html")
        told[folder.name] = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "each with 2 distillations and 4 networks in all" in told["out"]
    assert "each with 2 seeds." in told["old"]
    assert "each with 5 seeds." in told["bench_transfer"]
    assert "each with 5 seeds." in told["bench_hour"]
    assert not any("distillations and" in told[name] for name in ("old", "bench_transfer", "bench_hour"))


def test_the_interval_is_students_t_over_the_means_of_distillations():
    found = summarise_distillations([0.5, 0.7, 0.6, 0.8, 0.7, 0.9], 3)
    assert found.per_distillation == pytest.approx((0.6, 0.7, 0.8))
    assert found.mean == pytest.approx(0.7)
    half = 4.3026527 * 0.1 / 3**0.5  # t at 97.5 % of 2 degrees, times the standard error
    assert (found.low, found.high) == pytest.approx((0.7 - half, 0.7 + half))
    assert summarise_distillations([0.5, 0.7], 1) == summarise([0.5, 0.7])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ONE, "2 seeds are few: intervals need 5 or more"),
        (TWO.replace("seeds = 2", "seeds = 9"), "2 distillations are few: intervals need 5 or more"),
        (ONE.replace("distillations = 1", "distillations = 5").replace("seeds = 2", "seeds = 1"), None),
    ],
)
def test_who_asks_for_few_repetitions_is_warned(tmp_path, monkeypatch, text, expected):
    (tmp_path / "grid.toml").write_text(text)
    heard = Warned()
    monkeypatch.setattr("meddistill.bench.benchmark._carry_out", lambda *_: [])
    monkeypatch.setattr("meddistill.bench.benchmark._written", lambda *_: None)
    bench(tmp_path / "grid.toml", tmp_path / "out", progress=heard)
    assert heard.warnings == ([expected] if expected else [])


def test_each_distillation_has_encoders_of_its_own():
    text = TWO.replace('"mtt", "mtt-soft", "random"', '"mtt", "mtt-soft", "byol", "random"')
    text += "[pretraining]\nencoders = 1\n"
    made: list[Task] = [task for task in tasks(layout(text)) if task.encoder is not None]
    assert sorted({(task.encoder.distillation, task.encoder.number) for task in made}) == [(0, 0), (1, 0)]
