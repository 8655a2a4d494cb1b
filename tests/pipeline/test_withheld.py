"""What a sender withholds stands nowhere in the package, and whoever receives it can do all that he could."""

import json
import re
from dataclasses import replace

import pytest

from meddistill import api
from meddistill.audit.shadows import plan_of
from meddistill.package.members import CARD, CROISSANT, README, TENSORS
from meddistill.package.read import open_sound, read
from meddistill.pipeline.dp import noisy_identity
from meddistill.pipeline.plan import Plan
from meddistill.pipeline.plan_file import from_toml, to_toml
from meddistill.pipeline.request import Request
from meddistill.pipeline.run import run
from meddistill.pipeline.teach import teacher_identity
from meddistill.train.model import load_model
from meddistill.train.recipe import is_the_senders

SHORT = """
images_per_class = 2
size = 10
network = "convnet-d2-w4"
[teachers]
count = 1
steps = 9
snapshot_every = 3
batch = 8
[matching]
warm_up = 2
iterations = 3
student_steps = 2
segment = 1
batch = 4
[soft_label]
real_batch = 8
[evaluation]
seeds = 3
"""
TRAINING_IMAGES = 56


def distilled(source, folder, **options):
    folder.mkdir()
    (folder / "plan.toml").write_text(SHORT)
    request = Request(source=source, out=folder / "x.mdz", plan=folder / "plan.toml", device="cpu", **options)
    return request, run(request)


@pytest.fixture(scope="module")
def usual(source, tmp_path_factory):
    return distilled(source, tmp_path_factory.mktemp("usual") / "run")


@pytest.fixture(scope="module")
def silent(source, tmp_path_factory):
    """All is withheld that can be."""
    withheld = {"withhold_counts": True, "withhold_results": True, "fixed_normalisation": True}
    return distilled(source, tmp_path_factory.mktemp("silent") / "run", **withheld)


def numbers(value):
    """All numbers of a JSON value."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from numbers(one)
    elif isinstance(value, float | int) and not isinstance(value, bool):
        yield value


def texts(file):
    """The members of a package that are text."""
    members = open_sound(file)[0]
    return {name: str(members[name], "utf-8") for name in (CARD, README, CROISSANT)}


def test_fixed_numbers_stand_in_the_place_of_the_training_images(usual, silent):
    measured, card = read(usual[0].out).card.normalisation, read(silent[0].out).card
    assert (card.normalisation.mean, card.normalisation.std) == ((0.5,), (0.25,))
    assert card.recipe.plan["fixed_normalisation"] is True
    assert "fixed_normalisation" not in read(usual[0].out).card.recipe.plan
    told = [*numbers(json.loads(texts(silent[0].out)[CARD]))]
    for value in (*measured.mean, *measured.std):
        assert min(abs(value - one) for one in told) > 1e-3
    assert plan_of(card).fixed_normalisation
    assert not plan_of(read(usual[0].out).card).fixed_normalisation


def test_no_score_is_left_in_any_text_and_the_sender_has_them_all(usual, silent, source, tmp_path):
    request, report = silent
    assert report.evaluated.results["test"]["distilled"]["balanced_accuracy"].per_seed
    assert (request.out.with_suffix(".run") / "scores.json").exists()
    assert read(request.out).card.results is None
    members = texts(request.out)
    assert json.loads(members[CARD])["results"] is None
    for text in members.values():
        assert not re.search(r"accuracy|auroc|scores", text, re.IGNORECASE)
    # But for them it is the package that tells them: nothing else has changed by it.
    _, told = distilled(source, tmp_path / "alone", withhold_results=True)
    open_one, silent_one = (open_sound(file)[0] for file in (usual[0].out, told.package))
    assert bytes(open_one[TENSORS]) == bytes(silent_one[TENSORS])
    cards = [json.loads(bytes(members[CARD])) for members in (open_one, silent_one)]
    assert {name for name in cards[0] if cards[0][name] != cards[1][name]} == {"results", "digests"}


def test_scores_by_a_recipe_of_its_own_are_withheld_too_and_it_can_be_followed(source, tmp_path):
    request, report = distilled(source, tmp_path / "run", method="soft-label", withhold_results=True)
    assert set(report.evaluated.results["test"]) == {"distilled", "own", "random"}
    card = read(request.out).card
    assert card.results is None
    api.train(request.out, tmp_path / "m.st", recipe="own", device="cpu")
    assert is_the_senders(card, load_model(tmp_path / "m.st").params)


def test_a_receiver_misses_nothing(silent, usual, source, tmp_path):
    file = tmp_path / "silent.mdz"
    file.write_bytes(silent[0].out.read_bytes())
    assert api.verify(file).ok
    shown = api.show(file).as_dict()
    assert (shown["results"], shown["factor"]) == (None, None)
    trained = api.train(file, tmp_path / "m", test=source, seeds=1, device="cpu")
    assert trained.scores
    assert load_model(tmp_path / "m").normalisation.mean == (0.5,)
    assert api.evaluate(tmp_path / "m", source, device="cpu").scores
    api.report(file, tmp_path / "r.html")
    assert "the sender withholds them" in (tmp_path / "r.html").read_text()
    api.export(file, tmp_path / "x.npz", to="npz")
    api.merge([file, usual[0].out], tmp_path / "both.mdz")
    assert read(tmp_path / "both.mdz").card.cohort.counts == "withheld"
    api.train([file, usual[0].out], tmp_path / "of both", seeds=1, device="cpu")


def possible(normalisation, pixels=100, most=500):
    """How many images mean and deviation may be of: then both sums, of pixels and of their squares, are whole."""
    (mean,), (std,) = normalisation.mean, normalisation.std
    sums = (mean * 255 * pixels, (std**2 + mean**2) * 255**2 * pixels)
    return [count for count in range(1, most) if all(abs(one * count - round(one * count)) < 1e-3 for one in sums)]


def test_withheld_counts_do_not_follow_from_mean_and_deviation(usual, source, tmp_path):
    assert TRAINING_IMAGES in possible(read(usual[0].out).card.normalisation)
    request, report = distilled(source, tmp_path / "run", withhold_counts=True)
    measured, told = read(usual[0].out).card.normalisation, read(request.out).card.normalisation
    assert TRAINING_IMAGES not in possible(told)
    for one, other in zip((*measured.mean, *measured.std), (*told.mean, *told.std), strict=True):
        assert other == pytest.approx(one, rel=0.005)
        assert other == float(f"{other:.3g}")
    assert bytes(open_sound(request.out)[0][TENSORS]) == bytes(open_sound(usual[0].out)[0][TENSORS])
    assert set(report.evaluated.results["test"]) == {"distilled", "random"}


def test_runs_and_teachers_of_before_are_found_again_and_others_are_not_taken_for_them():
    before, fixed = Plan(), Plan(fixed_normalisation=True)
    for told in (Plan.identity, Plan.flat, teacher_identity):
        assert "fixed_normalisation" not in told(before)
        assert told(fixed) == told(before) | {"fixed_normalisation": True}
    assert noisy_identity(fixed) == noisy_identity(before), "under noise it always was"
    assert from_toml(to_toml(fixed), "here") == fixed
    assert not from_toml("", "here").fixed_normalisation


def test_inspect_writes_it_into_the_plan(source, tmp_path):
    options = {"images_per_class": 2, "method": "dm", "device": "cpu"}
    for fixed in (None, True):
        found = api.inspect(source, fixed_normalisation=fixed, plan_out=tmp_path / "plan.toml", **options)
        assert found.plan.fixed_normalisation is bool(fixed)
        assert from_toml((tmp_path / "plan.toml").read_text(), "here") == found.plan


def test_a_plan_may_say_it_and_the_run_is_another_one(usual, source, tmp_path):
    (tmp_path / "plan.toml").write_text("fixed_normalisation = true\n" + SHORT)
    request = Request(source=source, out=tmp_path / "x.mdz", plan=tmp_path / "plan.toml", device="cpu")
    run(request)
    assert read(request.out).card.normalisation.mean == (0.5,)
    with pytest.raises(Exception, match="belongs to another run"):
        run(replace(usual[0], fixed_normalisation=True))
    with pytest.raises(Exception, match="trained on other images or by another plan"):
        run(replace(request, run=tmp_path / "another.run", teachers=usual[0].out.with_suffix(".run") / "teachers"))
