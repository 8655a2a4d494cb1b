"""Shadow packages: likelihood ratios by the slow way, a recipe that copies is found out, nothing is left behind."""

import tempfile
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from meddistill.audit import shadows
from meddistill.audit.case import Effort
from meddistill.audit.people import People
from meddistill.audit.references import halves
from meddistill.audit.run import audit
from meddistill.nets.convnet import parse
from meddistill.package.read import read
from meddistill.runtime.errors import InputError

SIDES = ("members", "control")


def drawn(shifts, patients=300, count=8, seed=0):
    """Values of shadows that are larger by a patient's shift where the patient was in, and which were in."""
    rng = np.random.default_rng(seed)
    seen = np.stack([np.arange(patients) % 2 == place % 2 for place in range(count)])
    return rng.normal(size=(count, patients)) + seen * shifts, seen


def test_ratios_are_those_of_two_normal_densities():
    values, seen = drawn(1.5, patients=40)
    asked = np.random.default_rng(1).normal(size=40)
    found = shadows.ratios(values, seen, asked)
    spread = {
        inside: np.mean([values[seen[:, p] == inside, p].var(ddof=1) for p in range(40)]) for inside in (True, False)
    }
    for patient in range(40):
        told = {}
        for inside in (True, False):
            own = values[seen[:, patient] == inside, patient]
            told[inside] = norm(own.mean(), np.sqrt((own.var(ddof=1) + spread[inside]) / 2))
        expected = told[True].logpdf(asked[patient]) - told[False].logpdf(asked[patient])
        assert found["online"][patient] == pytest.approx(expected)
        above = (asked[patient] - told[False].mean()) / told[False].std()
        assert found["offline"][patient] == pytest.approx(above)


def prepared(case, shifts):
    shadowed = {side: drawn(shifts, seed=place) for place, side in enumerate(SIDES)}
    package = {"members": drawn(shifts, count=2)[0][1], "control": np.random.default_rng(9).normal(size=300)}
    values, seen = ({side: shadowed[side][part] for side in SIDES} for part in (0, 1))
    return shadows.Prepared(case, values, package, seen)


def test_whoever_was_in_or_out_is_judged_by_as_many_shadows(cases, strangers_package):
    """Else scores would differ by how well their distributions are known."""
    found, real, calls = prepared(cases(strangers_package), 0.0), shadows.ratios, []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shadows, "ratios", lambda values, seen, asked: calls.append(seen) or real(values, seen, asked))
        shadows.attack(found, "members")
    for seen in calls[:8]:
        assert (seen.sum(0) == 3).all()
        assert len(seen) == 6


@pytest.mark.parametrize(("shift", "outcome"), [(0.0, "pass"), (3.0, "fail")])
def test_patients_who_leave_a_trace_are_found_and_others_are_not(cases, strangers_package, shift, outcome):
    case = cases(strangers_package)
    sides = [shadows.attack(prepared(case, shift), side) for side in SIDES]
    assert len(sides[0].shadows["online"]) == len(sides[1].shadows["online"]) == 8 * 300
    found = shadows.judge(*sides, case)
    assert found.outcome == outcome
    assert found.figures["trials"] == 4800
    assert set(found.figures["scores"]["online"]) >= {"found_at_0.001", "found_at_0.01", "excess_at_0.01"}


def test_the_card_tells_a_plan_that_makes_the_same_again(strangers_package):
    card = read(strangers_package).card
    plan = shadows.plan_of(card)
    told = {**plan.flat(), "evaluation.seeds": 1}
    assert {name: told[name] for name in card.recipe.plan if name in told} == {
        name: value for name, value in card.recipe.plan.items() if name in told
    }
    assert (plan.method, plan.network, plan.start) == (card.recipe.method, card.recipe.network, card.recipe.start)
    merged = replace(card, recipe=replace(card.recipe, method="merge"))
    with pytest.raises(InputError, match="the recipe on the card"):
        shadows.plan_of(merged)


@pytest.mark.parametrize("count", [3, 4, 7])
def test_too_few_or_an_odd_number_of_shadows_is_refused_at_once(strangers_package, count):
    with pytest.raises(InputError, match="an even number from 6"):
        audit(strangers_package, "no such source", effort=Effort(shadows=count))


def few(people, count):
    """Some patients, with classes by lot: a network is right of them only if it has learned them by heart."""
    lots = np.random.default_rng(count).integers(0, 2, count)
    return People(people.pixels[:count], people.peak, lots, np.arange(count))


def test_a_recipe_that_starts_from_real_images_is_found_out_and_leaves_no_file(
    cases, strangers_package, tmp_path, monkeypatch
):
    """Hardly any iterations: each shadow shows 24 of its some forty patients."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    case = cases(strangers_package)
    recipe = case.package.card.recipe
    plan = recipe.plan | {"matching.iterations": 1, "matching.warm_up": 0, "teachers.count": 0, "images_per_class": 12}
    card = replace(case.package.card, recipe=replace(recipe, method="dm", start="real", plan=plan))
    case = replace(
        case,
        package=replace(case.package, card=card),
        members=few(case.members, 40),
        control=few(case.control, 50),
        network=parse("convnet-d2-w16", channels=1, size=28, classes=2),
        effort=replace(case.effort, shadows=8, students=1, steps=200),
    )
    made = shadows.prepare(case)
    assert list(tmp_path.iterdir()) == []
    assert made.shadows["control"].shape == made.seen["control"].shape == (8, 45)  # five are validation images
    assert (made.seen["members"] == halves(case, "members", 8)).all()
    assert (made.seen["members"].sum(0) == 4).all()
    sides = [shadows.attack(made, side) for side in SIDES]
    found = shadows.judge(*sides, case)
    areas = [one["area"]["value"] for one in found.figures["scores"].values()]
    assert max(areas) > 0.65
