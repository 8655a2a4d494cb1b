"""Methods without trajectories, from a source to a trained model: no teachers, few images, a recipe of its own."""

import json
from dataclasses import replace

import pytest

from meddistill import api
from meddistill.cli.main import main
from meddistill.distill import loop
from meddistill.package.read import read, verify
from meddistill.pipeline import run as running
from meddistill.pipeline.estimate import Costs
from meddistill.pipeline.plan import override
from meddistill.pipeline.plan_file import read_plan
from meddistill.pipeline.request import Request
from meddistill.pipeline.run import run
from meddistill.runtime.errors import InputError
from meddistill.train.model import load_model
from meddistill.train.recipe import is_the_senders

SHORT = """
images_per_class = 2
size = 10
network = "convnet-d2-w4"
[matching]
warm_up = 2
iterations = 3
real_images = 4
[soft_label]
real_batch = 8
epochs = 2
[evaluation]
seeds = 1
random_sets = 0
"""


@pytest.fixture
def fresh(source, tmp_path) -> Request:
    (tmp_path / "plan.toml").write_text(SHORT)
    return Request(source=source, out=tmp_path / "x.mdz", plan=tmp_path / "plan.toml", device="cpu")


@pytest.fixture(scope="module")
def made(source, tmp_path_factory) -> Request:
    """A finished run of soft-label; tests leave its files alone."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "plan.toml").write_text(SHORT)
    request = Request(source=source, out=folder / "x.mdz", plan=folder / "plan.toml", device="cpu", method="soft-label")
    run(request)
    return request


def events(request: Request, kind: str) -> list[dict[str, object]]:
    lines = (request.out.with_suffix(".run") / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def test_the_package_has_a_step_size_for_each_step_and_says_what_was_planned(made):
    package = read(made.out)
    plan = package.card.recipe.plan
    assert verify(made.out).ok
    assert package.step_sizes.shape == (4,)  # two steps of an image of every class, twice
    assert package.card.task.labels == "soft"
    assert (plan["teachers.count"], plan["matching.warm_up"], plan["soft_label.starts"]) == (0, 2, "fixed")
    assert not (made.out.with_suffix(".run") / "teachers").exists()
    assert [event["phase"] for event in events(made, "distilled")] == ["features"] * 2 + ["training"] * 3


def test_its_own_recipe_gives_the_model_that_the_card_has_scores_of(made, tmp_path):
    card = read(made.out).card
    report = api.train(made.out, tmp_path / "m.st", recipe="own", test=made.source, device="cpu").as_dict()
    assert (report["senders"], report["recipe"]) == (True, "own")
    assert report["seeds"] == 1
    assert is_the_senders(card, load_model(tmp_path / "m.st").params)
    for metric in ("balanced_accuracy", "auroc", "accuracy"):
        told = card.results.splits["test"]["own"][metric]
        assert told.mean == told.low == told.high == pytest.approx(report[metric]["mean"], abs=1e-5)
    again = api.train(made.out, tmp_path / "n.st", recipe="own", seed=7, device="cpu")
    assert (tmp_path / "n.st").read_bytes() == (tmp_path / "m.st").read_bytes()
    assert again.scores is None


def test_the_protocol_takes_the_package_as_any_other(made, tmp_path):
    card = read(made.out).card
    report = api.train(made.out, tmp_path / "m.st", seeds=1, test=made.source, device="cpu").as_dict()
    assert "senders" not in report
    assert report["recipe"] == "protocol"
    assert 0 <= report["auroc"]["mean"] <= 1
    assert {split: list(rows) for split, rows in card.results.splits.items()} == {
        split: ["distilled", "own"] for split in ("val", "test")
    }


def test_what_its_own_recipe_does_not_go_with_is_refused(made, tmp_path, capsys):
    with pytest.raises(InputError, match="give one package, without --net"):
        api.train(made.out, tmp_path / "m.st", recipe="own", net="convnet-d1-w4", device="cpu")
    code = main(["train", str(made.out), "--recipe", "own", "--out", str(tmp_path / "m.st"), "--seeds", "3", "--json"])
    assert code == 0
    assert json.loads(capsys.readouterr().out)["seeds"] == 1


def test_a_run_that_was_killed_ends_with_the_same_bytes(fresh, made, monkeypatch):
    request = replace(fresh, method="soft-label")
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    stop = running.distill

    def interrupted(*args, **options):
        def enough(done):
            raise KeyboardInterrupt

        return stop(*args, **(options | {"is_enough": enough}))

    with monkeypatch.context() as patched:
        patched.setattr(running, "distill", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(request)
    run(request)
    assert request.out.read_bytes() == made.out.read_bytes()


def test_fewer_images_than_classes(fresh):
    run(replace(fresh, method="soft-label", total_images=1, random_sets=1))
    package = read(fresh.out)
    assert (package.card.images.count, package.card.images.per_class) == (1, 0)
    assert package.images.shape == (1, 1, 10, 10)
    assert package.step_sizes.shape == (2,)
    assert {"distilled", "own", "random"} == set(package.card.results.splits["test"])
    with pytest.raises(InputError, match=r"1 images for 2 classes.*dm has hard labels"):
        run(replace(fresh, method="dm", total_images=1, run=fresh.out.with_suffix(".other")))
    with pytest.raises(InputError, match="give one of --total-images and --images-per-class"):
        run(replace(fresh, total_images=1, images_per_class=1))


def test_random_starts_have_no_recipe_of_their_own(fresh, tmp_path):
    fresh.plan.write_text(SHORT.replace("[soft_label]", '[soft_label]\nstarts = "random"'))
    run(replace(fresh, method="soft-label"))
    assert "own" not in read(fresh.out).card.results.splits["test"]
    with pytest.raises(InputError, match="no recipe of its own"):
        api.train(fresh.out, tmp_path / "m.st", recipe="own", device="cpu")


def test_a_time_is_kept_without_teachers(fresh, monkeypatch):
    plan = override(read_plan(fresh.plan), method="dm")
    far = replace(plan, matching=replace(plan.matching, iterations=200_000))
    free = Costs(teacher_step=0.0, warm_up=0.0, iteration=0.0, evaluation=0.0, full=0.0)
    monkeypatch.setattr("meddistill.pipeline.run.fit_to_time", lambda *_, **__: (far, free))
    report = run(replace(fresh, plan=None, method="dm", size=10, seconds=2.0))
    assert 20 <= report.plan.matching.iterations < 200_000
    assert read(fresh.out).card.recipe.plan["matching.iterations"] == report.plan.matching.iterations
