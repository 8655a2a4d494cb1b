"""What planted records prove: much where they are the package, nothing where they are not, never more than is so."""

import json
from dataclasses import replace

import numpy as np
import pytest

from meddistill import api
from meddistill.audit import canaries, membership
from meddistill.audit.people import without
from meddistill.audit.run import audit, audit_canaries
from meddistill.cohort.prepare import prepare
from meddistill.package.types import Look, Privacy
from meddistill.pipeline.canaries import coins, design, tossed
from meddistill.runtime.errors import InputError

COUNT = 128


@pytest.fixture(scope="module")
def planted(sources):
    """Canaries of the members' source with coins that a test can repeat."""
    chosen = design(prepare(sources["members"], size=28), COUNT, 0, 10)
    return tossed(chosen, coins(COUNT, np.random.default_rng(11).bytes))


def scored(case, secret):
    """The scores of both sides."""
    case = replace(case, members=without(case.members, secret.images), effort=replace(case.effort, references=2))
    prepared = canaries.prepare(membership.prepare(case), secret)
    return [canaries.attack(prepared, side) for side in ("members", "control")]


@pytest.fixture(scope="module")
def leaking(cases, strangers_package, planted):
    """The case of a package that consists of the canaries whose coins put them in, with their labels; all scores."""
    case, inside = cases(strangers_package), planted.included
    labels = np.eye(2, dtype=np.float32)[planted.labels[inside]]
    images = planted.images[inside].astype(np.float32) / 255
    case = replace(case, package=replace(case.package, images=images, labels=labels))
    return case, scored(case, planted)


def test_a_package_made_of_the_canaries_proves_a_large_epsilon(leaking):
    case, sides = leaking
    found = canaries.judge(*sides, case)
    assert found.outcome == "fail"
    assert found.figures["epsilon_at_least"] > 2
    assert found.figures["epsilon_at_least"] <= found.figures["epsilon_at_least_without_delta"]
    assert found.figures["epsilon_at_least"] <= found.figures["largest_epsilon_that_can_be_shown"]
    assert found.excess.low > 0
    assert found.figures["by_kind"]["natural"]["value"] > 0.9


def test_more_than_the_card_proves_is_named(leaking):
    case, sides = leaking
    look = Look(mechanism="of a test", noise_multiplier=1.0, sampling_rate=1.0, steps=1, groups=1)
    stated = Privacy(
        epsilon=0.5, delta=1e-6, unit="image", route="statistics", accountant="x", history=(look,), outside=()
    )
    package = replace(case.package, card=replace(case.package.card, privacy=stated))
    found = canaries.judge(*sides, replace(case, package=package))
    assert (found.outcome, found.figures["delta"], found.figures["epsilon_stated"]) == ("fail", 1e-6, 0.5)
    assert "more than the card proves" in found.warnings[0]


def test_a_package_of_other_patients_proves_nothing(cases, strangers_package, planted):
    case = cases(strangers_package)
    found = canaries.judge(*scored(case, planted), case)
    assert found.outcome == "pass"
    assert found.figures["epsilon_at_least"] < 0.2
    assert "lower bound" in found.warnings[-1]


def test_scores_do_not_look_at_the_coins(cases, strangers_package, planted):
    case = cases(strangers_package)
    attacked = membership.prepare(replace(case, effort=replace(case.effort, references=2, steps=5)))
    one, other = (
        canaries.prepare(attacked, replace(planted, included=fallen))
        for fallen in (planted.included, ~planted.included)
    )
    for name in canaries.SCORES:
        np.testing.assert_array_equal(one.scores[name], other.scores[name])
    assert (canaries.attack(one, "members").kinds == canaries.attack(other, "control").kinds).all()


def test_few_canaries_pass_nothing_and_say_what_they_could_show(cases, strangers_package, planted):
    few = 24
    rng = np.random.default_rng(0)
    sides = [
        canaries.Scored({name: rng.normal(size=count) for name in canaries.SCORES}, planted.kinds[:count])
        for count in (few // 2, few // 2)
    ]
    found = canaries.judge(*sides, cases(strangers_package))
    assert found.outcome == "inconclusive"
    assert "24 canaries can never show an epsilon above" in found.warnings[0]


def test_coins_that_all_fell_alike_are_no_error(cases, strangers_package, planted):
    scores = {name: np.arange(8.0) for name in canaries.SCORES}
    none = canaries.Scored({name: np.zeros(0) for name in canaries.SCORES}, planted.kinds[:0])
    found = canaries.judge(canaries.Scored(scores, planted.kinds[:8]), none, cases(strangers_package))
    assert (found.outcome, found.main) == ("inconclusive", None)


PRIVATE = """
images_per_class = 4
size = 28
network = "convnet-d2-w8"
formation = 1
start = "noise"
[matching]
warm_up = 0
iterations = 10
[evaluation]
seeds = 0
random_sets = 0
"""


@pytest.fixture(scope="module")
def private(sources, tmp_path_factory):
    """A differentially private package with canaries, from the command to the audit."""
    folder = tmp_path_factory.mktemp("private")
    (folder / "plan.toml").write_text(PRIVATE)
    choices = {"plan": folder / "plan.toml", "epsilon": 1.0, "canaries": COUNT, "device": "cpu"}
    made = api.distill(sources["members"], folder / "lungs.mdz", method="dm", **choices)
    return made.package, made.canaries


def test_what_canaries_prove_of_a_private_run_stays_below_its_epsilon(private, check, sources, tmp_path):
    package, secret = private
    before = package.read_bytes()
    with pytest.raises(InputError, match=r"states an epsilon, and a report .* without noise would tell more"):
        check(package, planted=secret, out=tmp_path / "audit.json", attached=True)
    assert package.read_bytes() == before and not (tmp_path / "audit.json").exists()
    report = check(package, planted=secret, out=tmp_path / "audit.json")
    (found,) = (one for one in report.findings if one.attack == "canaries")
    assert found.figures["epsilon_at_least"] < found.figures["epsilon_stated"] == 1.0
    assert found.figures["canaries"] == COUNT
    alone = audit_canaries(package, str(sources["members"]), secret, effort=report.effort, device="cpu")
    assert alone == report.findings[-2:]
    written = json.loads((tmp_path / "audit.json").read_text())
    assert [one["attack"] for one in written["findings"]][-2:] == ["canaries", "release"]
    assert written["groups"]["members"]["patients"] == 2000 - COUNT // 2
    inside = report.shared()["findings"][-1]
    assert set(inside) == {"attack", "term", "asks", "outcome"}  # counts are withheld


def test_canaries_are_asked_for_and_have_to_be_those_of_the_package(
    private, strangers_package, sources, planted, tmp_path
):
    package, secret = private
    with pytest.raises(InputError, match="give the file"):
        audit(package, str(sources["members"]))
    with pytest.raises(InputError, match="are not those of"):
        audit(strangers_package, str(sources["members"]), planted=secret)
    planted.save(tmp_path / "unbound.safetensors")
    with pytest.raises(InputError, match="are not those of"):
        audit(package, str(sources["members"]), planted=tmp_path / "unbound.safetensors")
