"""Shadow packages: likelihood ratios by the slow way, a recipe that copies is found out, nothing is left behind."""

import tempfile
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from tests.told import Told

from meddistill.audit import shadows
from meddistill.audit.case import Effort
from meddistill.audit.people import People
from meddistill.audit.references import halves
from meddistill.audit.run import audit
from meddistill.nets.convnet import parse
from meddistill.package.read import read
from meddistill.runtime import crew, processes
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
    return shadows.Prepared(case, values, package, seen, {side: np.arange(300) // 2 % 2 for side in SIDES})


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
    assert {name: one["members"] for name, one in found.figures["by_class"].items()} == {
        "normal": 300,
        "pneumonia": 300,
    }
    unsaid = [
        one.split(" of single classes: ")[1].split(", ") for one in found.warnings if " of single classes: " in one
    ]
    assert found.figures["undecided_classes"] == sum(map(len, unsaid))
    for both in sides:
        assert (np.bincount(both.patient) == 4).all()  # each of 600 patients is in half of the shadows
        assert (both.classes == both.patient % 300 // 2 % 2).all()


def test_a_class_that_leaks_alone_is_named(cases, strangers_package):
    """Patients 2, 3, 6, 7, … have the second class."""
    case = cases(strangers_package)
    shifts = 1.0 * (np.arange(300) // 2 % 2)
    found = shadows.judge(*(shadows.attack(prepared(case, shifts), side) for side in SIDES), case)
    assert found.figures["worst_class"]["class"] == "pneumonia"
    assert found.figures["by_class"]["normal"]["outcome"] in ("pass", "inconclusive")
    assert any("members of the class pneumonia stand apart" in one for one in found.warnings)


@pytest.mark.parametrize("leaks", [0, 2])
def test_the_patient_at_greatest_risk_counts_however_many_are_at_none(cases, strangers_package, leaks):
    case, sides = cases(strangers_package), {}
    for place, side in enumerate(SIDES):
        sides[side] = drawn(6.0 * (np.arange(300) < leaks), count=32, seed=place)
    values, seen = ({side: sides[side][part] for side in SIDES} for part in (0, 1))
    package = {side: np.random.default_rng(9).normal(size=300) for side in SIDES}
    made = shadows.Prepared(case, values, package, seen, {side: np.zeros(300, np.int64) for side in SIDES})
    found = shadows.judge(*(shadows.attack(made, side) for side in SIDES), case)
    single = found.figures["single_patients"]["offline"]
    assert (single["patients"], single["surely_told_apart"]) == (600, 2 * leaks)
    assert abs(single["largest_area_by_chance"] - 0.82) < 0.01
    assert (found.outcome == "alarm") == bool(leaks)
    assert any("single patients are surely told apart by offline" in one for one in found.warnings) == bool(leaks)


def test_the_card_tells_a_plan_that_makes_the_same_again(strangers_package):
    card = read(strangers_package).card
    plan = shadows.plan_of(card)
    told = {**plan.flat(), "evaluation.seeds": 1}
    assert {name: told[name] for name in card.recipe.plan if name in told} == {
        name: value for name, value in card.recipe.plan.items() if name in told
    }
    assert (plan.method, plan.network, plan.start) == (card.recipe.method, card.recipe.network, card.recipe.start)
    # What a card does not tell was not there, whatever the method may say by now.
    smooth = replace(card, recipe=replace(card.recipe, plan={**card.recipe.plan, "matching.smoothing": 3}))
    assert (plan.matching.smoothing, shadows.plan_of(smooth).matching.smoothing) == (0, 3)
    # An older one tells 0 for the formation that its method had, which its images show.
    for size, stored, formation in ((32, 16, 2), (31, 10, 3), (32, None, 1)):
        recipe = replace(card.recipe, plan={**card.recipe.plan, "formation": 0, "size": size})
        older = replace(card, images=replace(card.images, size=size, stored=stored), recipe=recipe)
        assert shadows.plan_of(older).formation == formation
    merged = replace(card, recipe=replace(card.recipe, method="merge"))
    with pytest.raises(InputError, match="the recipe on the card"):
        shadows.plan_of(merged)
    public = replace(card, recipe=replace(card.recipe, start="public"))
    with pytest.raises(InputError, match="started from public images"):
        shadows.plan_of(public)


@pytest.mark.parametrize("count", [3, 4, 7])
def test_too_few_or_an_odd_number_of_shadows_is_refused_at_once(strangers_package, count):
    with pytest.raises(InputError, match="an even number from 6"):
        audit(strangers_package, "no such source", effort=Effort(shadows=count))


@pytest.mark.parametrize(
    ("asked", "said"), [((0, 5), "give --shadows"), ((6, 30), "the package had 30"), ((6, 0), "1 or more")]
)
def test_shadows_are_no_longer_than_the_package_and_that_is_told_at_once(strangers_package, asked, said):
    effort = Effort(shadows=asked[0], shadow_iterations=asked[1])
    with pytest.raises(InputError, match=said):
        audit(strangers_package, "no such source", effort=effort)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_by_shadows_of_fewer_iterations_nothing_passes_or_fails(cases, strangers_package, shift):
    case = cases(strangers_package)
    case = replace(case, effort=replace(case.effort, shadow_iterations=10))
    found = shadows.judge(*(shadows.attack(prepared(case, shift), side) for side in SIDES), case)
    assert found.outcome == "inconclusive"
    assert "shadows had 10 iterations of matching and the package 30" in found.warnings[-1]
    assert found.figures["iterations"] == {"shadows": 10, "package": 30}
    assert shadows.plan_for(case.package.card, replace(case.effort, shadows=6)).matching.iterations == 10


def few(people, count):
    """Some patients, with classes by lot: a network is right of them only if it has learned them by heart."""
    lots = np.random.default_rng(count).integers(0, 2, count)
    return People(people.pixels[:count], people.peak, lots, np.arange(count))


def quick(case, **matching):
    """Some people, and a recipe with hardly any work."""
    recipe = case.package.card.recipe
    plan = recipe.plan | {"matching.iterations": 1, "matching.warm_up": 0, "teachers.count": 0, **matching}
    card = replace(case.package.card, recipe=replace(recipe, method="dm", start="real", plan=plan))
    package = replace(case.package, card=card)
    return replace(case, package=package, members=few(case.members, 40), control=few(case.control, 50))


def test_shadows_made_side_by_side_are_the_same_and_how_long_is_told_before(cases, strangers_package, monkeypatch):
    """Helpers start at once, and each process makes some; a small effort, but real files and real processes."""
    monkeypatch.setattr(crew, "SECONDS_WORTH_HELP", 0.0)
    case, noting = quick(cases(strangers_package), images_per_class=2), Told()
    case = replace(case, effort=replace(case.effort, shadows=6, students=1, steps=2), progress=noting)
    made, trained, train = [], [], shadows.train_network
    monkeypatch.setattr(shadows, "train_network", lambda *rest: trained.append(rest) or train(*rest))
    alone = shadows.prepare(case, processes=1)
    assert [told.split(",")[0] for told in noting.notes] == ["6 shadows"] and "1 at once" in noting.notes[0]
    assert len(trained) == 7  # one student of every shadow, and of the package
    monkeypatch.setattr(processes, "start", lambda code, real=processes.start: made.append(real(code)) or made[-1])
    together = shadows.prepare(case, processes=2)
    assert "2 at once" in noting.notes[1]
    assert len(made) == 1 and made[0].poll() is not None
    for side in SIDES:
        np.testing.assert_array_equal(alone.shadows[side], together.shadows[side])
        np.testing.assert_array_equal(alone.package[side], together.package[side])


def test_members_of_8_bits_are_no_darker_in_a_shadow_than_control_patients_of_16(cases, strangers_package):
    case, who = cases(strangers_package), np.arange(20)
    members = People(np.full((20, 1, 8, 8), 200, np.uint8), 255, who % 2, who)
    control = People(np.full((20, 1, 8, 8), 200 * 257, np.uint16), 65535, who % 2, who)
    for mixed in (
        replace(case, members=members, control=control),
        replace(case, members=control, control=members),
    ):
        cohort = shadows._source(mixed, dict.fromkeys(SIDES, who < 10), who >= 18).cohort
        assert (len(cohort.images), cohort.peak) == (22, 65535)
        assert set((cohort.images / cohort.peak).ravel()) == {200 / 255}


def test_a_recipe_that_starts_from_real_images_is_found_out_and_leaves_no_file(
    cases, strangers_package, tmp_path, monkeypatch
):
    """Hardly any iterations: each shadow shows 24 of its some forty patients."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    case = quick(cases(strangers_package), images_per_class=12)
    case = replace(
        case,
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
