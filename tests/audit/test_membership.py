"""The scores of membership are what they say, and find members where there is something to find."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from meddistill.audit import greatest_risk, linkage, membership, references
from meddistill.audit.apart import confidence_of_each, tell_apart, warnings
from meddistill.audit.finding import Gates
from meddistill.audit.people import People


def test_the_margin_is_the_log_odds_of_the_own_class():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    own = torch.tensor([0, 2, 1, 1, 0])
    chance = logits.softmax(1).gather(1, own[:, None])[:, 0]
    torch.testing.assert_close(references._margin(logits, own), (chance / (1 - chance)).log())


def test_only_references_that_did_not_see_a_patient_count():
    values = np.array([[1.0, 9.0], [3.0, 2.0], [5.0, 4.0], [100.0, 6.0]])
    seen = np.array([[False, True], [False, False], [False, False], [True, False]])
    mean, spread = references.unseen(values, seen)
    assert mean.tolist() == [3, 4]
    assert spread == pytest.approx([2, 2])  # both have a variance of 4, and so has their mean


def test_scores_that_tell_nothing_pass_and_scores_that_tell_all_fail():
    rng = np.random.default_rng(0)
    nothing = tell_apart(rng.normal(size=4000), rng.normal(size=4000), Gates())
    assert nothing.outcome == "pass"
    assert tell_apart(rng.normal(size=400) + 3, rng.normal(size=400), Gates()).outcome == "fail"


def test_all_looks_together_raise_an_alarm_as_seldom_as_one():
    """The area, two rates and what is retrieved, four hundred times where nothing leaks."""
    rng = np.random.default_rng(3)
    case = SimpleNamespace(gates=Gates(), members=SimpleNamespace(count=1000), control=SimpleNamespace(count=1000))
    sides = ([linkage.Linked(rng.normal(size=1000), rng.normal(size=80)) for _ in range(2)] for _ in range(400))
    alarms = sum(linkage.judge(*both, case).outcome in ("alarm", "fail") for both in sides)
    assert alarms <= 0.05 * 400
    assert confidence_of_each(Gates(), besides=1) == pytest.approx(1 - 0.05 / 4)
    assert confidence_of_each(Gates(), scores=4) == pytest.approx(1 - 0.05 / 12)


@pytest.mark.parametrize(
    ("images", "retrieving", "outcome"),
    [(80, 40, "pass"), (80, 48, "pass"), (80, 51, "inconclusive"), (80, 60, "alarm"), (1000, 500, "pass")]
    + [(1000, 530, "pass"), (1000, 600, "alarm")],
)
def test_what_few_images_retrieve_passes_undecided_only_within_chance(images, retrieving, outcome):
    rng = np.random.default_rng(0)
    case = SimpleNamespace(gates=Gates(), members=SimpleNamespace(count=4000), control=SimpleNamespace(count=4000))
    nearest = (np.arange(images) < retrieving).astype(float)
    members, control = rng.normal(size=(2, 4000))
    found = linkage.judge(linkage.Linked(members, nearest), linkage.Linked(control, 1 - nearest), case)
    assert found.outcome == outcome
    assert any("80 synthetic images are too few" in one for one in found.warnings) == (images == 80 and retrieving < 51)


def patients(counts):
    """A stand-in for people: so many of each class."""
    return SimpleNamespace(count=sum(counts), classes=np.repeat(np.arange(len(counts)), counts))


def trial(members, control):
    effort = SimpleNamespace(references=2, students=1, shadows=6)
    names = tuple("abcdefgh"[: len(members)])
    return SimpleNamespace(
        gates=Gates(), effort=effort, classes=names, members=patients(members), control=patients(control)
    )


def scored(rng, people):
    """Scores that tell nothing; classes have levels and spreads of their own, as they have with real networks."""
    level, spread = 2.0 * people.classes, 1.0 + people.classes
    return {name: level + spread * rng.normal(size=people.count) for name in (*membership.SCORES, "direct")}


def test_all_looks_of_all_classes_together_raise_an_alarm_as_seldom_as_one():
    """Five classes, two of them rare, by four scores, two hundred times where nothing leaks."""
    rng, case = np.random.default_rng(5), trial((800, 300, 300, 70, 70), (400, 150, 150, 21, 20))
    found = [membership.judge(scored(rng, case.members), scored(rng, case.control), case) for _ in range(200)]
    assert set(found[0].figures["by_class"]) == set("abcde")
    assert sum(one.outcome in ("alarm", "fail") for one in found) <= 0.05 * len(found)


def test_a_class_that_leaks_alone_is_found_and_named():
    rng, case = np.random.default_rng(6), trial((4000, 120), (1600, 60))
    members, control = scored(rng, case.members), scored(rng, case.control)
    members["ratio"][case.members.classes == 1] += 2.0  # one of its own deviations
    found = membership.judge(members, control, case)
    assert all(one["area"]["value"] < 0.55 for one in found.figures["scores"].values())
    assert found.outcome in ("alarm", "fail")
    worst = found.figures["worst_class"]
    assert (worst["class"], worst["score"], worst["members"], worst["control"]) == ("b", "ratio", 120, 60)
    assert any("members of the class b stand apart by ratio" in one for one in found.warnings)


def test_rare_classes_keep_nothing_from_passing_and_it_is_told_that_little_is_known_of_them():
    rng, case = np.random.default_rng(8), trial((6000, 90, 12), (6000, 30, 12))
    found = membership.judge(scored(rng, case.members), scored(rng, case.control), case)
    assert found.outcome == "pass"
    assert set(found.figures["by_class"]) == {"a", "b"}
    assert found.warnings[-1].endswith("nothing leaks of single classes: b, c")
    assert found.figures["undecided_classes"] == 2


def test_members_above_every_control_patient_follow_the_exact_law():
    orders = list(itertools.permutations([True, True, True, False, False]))
    for count in range(4):
        share = np.mean([all(order[:count]) for order in orders])
        assert greatest_risk.chance_of_above(count, 3, 2) == pytest.approx(share)
    control = np.arange(1000.0)
    few = np.concatenate([np.full(25, 2000.0), np.linspace(0, 990, 975)])
    found = greatest_risk.above_every_control({"ratio": (few, control)}, 0.99)
    assert (found.members, found.outcome, found.chance) == (25, "alarm", pytest.approx(0.5**25, rel=0.5))
    assert found.expected == pytest.approx(1000 / 1001)
    assert found.warnings == ("25 members stand above every control patient by ratio, 1.0 expected: alarm",)
    assert greatest_risk.above_every_control({"ratio": (few[20:], control)}, 0.99).outcome == "pass"


def test_control_patients_are_measured_by_the_others_of_their_class():
    rng, case = np.random.default_rng(9), trial((30, 5), (25, 6))
    members, control = rng.normal(size=35), rng.normal(size=31)
    mine, theirs = references.standardised(case, members, control)
    classes = case.control.classes
    for place in range(31):
        others = np.delete(control, place)
        if classes[place] == 0:
            others = np.delete(control[:25], place)  # of the second class there are too few
        assert theirs[place] == pytest.approx((control[place] - others.mean()) / others.std(ddof=1))
    assert mine[0] == pytest.approx((members[0] - control[:25].mean()) / control[:25].std(ddof=1))
    assert mine[34] == pytest.approx((members[34] - control.mean()) / control.std(ddof=1))


def test_members_of_rare_classes_stand_out_no_more_often_than_control_patients():
    """Spreads of twenty control patients who counted in their own put twice as many members above all control."""
    rng = np.random.default_rng(10)
    case, above = trial((400,) + (60,) * 7, (200,) + (20,) * 7), []
    for _ in range(300):
        both = (scored(rng, people)["ratio"] for people in (case.members, case.control))
        mine, theirs = references.standardised(case, *both)
        above.append((mine > theirs.max()).sum())
    assert np.mean(above) == pytest.approx(820 / 341, rel=0.25)


def test_a_few_members_who_stand_out_are_not_averaged_away():
    rng = np.random.default_rng(0)
    members, control = rng.normal(size=3000), rng.normal(size=3000)
    members[:150] += 8
    found = tell_apart(members, control, Gates())
    assert found.area.value < 0.55
    assert found.outcome == "fail"


def test_too_few_patients_neither_pass_nor_are_passed_over_in_silence():
    few = drawn(1, 60)
    assert (few.outcome, few.undecided) == ("inconclusive", (0.001, 0.01))
    assert len(warnings([few], Gates())) == 2
    some = drawn(0, 2000)
    assert (some.outcome, some.undecided) == ("pass", (0.001,))
    [told] = warnings([some, some], Gates())
    assert "0.1 %" in told
    assert warnings([drawn(0, 10_000)], Gates()) == ()


def test_what_was_decided_is_not_said_to_have_too_few_patients():
    """By the numbers alone 900 patients are too few for 1 %, and by what was found that rate may yet pass, or fail."""
    passed = drawn(0, 900)
    assert passed.rates[-1].excess.high <= Gates().passes[-1]
    assert (passed.outcome, passed.undecided) == ("pass", (0.001,))
    failed = tell_apart(np.arange(900.0) + 2000, np.arange(900.0), Gates())
    assert (failed.outcome, failed.undecided) == ("fail", ())


def test_a_strict_rate_that_a_few_control_patients_decide_keeps_no_harmless_package_from_passing():
    """The highest of 1,150 control patients lies anywhere: 4,000 members above him are often more than 1 in 1,000."""
    rng = np.random.default_rng(2)
    found = [tell_apart(rng.normal(size=4000), rng.normal(size=1150), Gates(), besides=1) for _ in range(300)]
    assert sum(one.outcome == "pass" for one in found) >= 0.97 * len(found)


def drawn(seed, patients):
    rng = np.random.default_rng(seed)
    return tell_apart(rng.normal(size=patients), rng.normal(size=patients), Gates())


def test_every_patient_is_unknown_to_half_of_the_references(check, strangers_package, cases):
    case = cases(strangers_package)
    for side in ("members", "control"):
        seen = references.halves(case, side, case.effort.references)
        assert (seen.sum(0) == case.effort.references // 2).all()
        assert abs(int(seen[0].sum()) - int((~seen[0]).sum())) <= 1


class Doubles:
    """A few members, in float64."""

    def __init__(self, people):
        self.labels, self.images = people.labels[:6], people.images(slice(0, 6)).double()

    def blocks(self, device):
        return [self.images]


def test_the_slope_is_the_change_of_the_loss(strangers_package, cases):
    case = cases(strangers_package)
    people, generator = Doubles(case.members), torch.Generator().manual_seed(3)
    params = tuple(param.double() for param in case.network.init(generator))
    along = tuple(torch.randn(param.shape, generator=generator).double() for param in params)

    def losses(step):
        moved = tuple(one + step * two for one, two in zip(params, along, strict=True))
        logits = case.network.apply(moved, case.normalisation.apply(people.images))
        return torch.nn.functional.cross_entropy(logits, torch.from_numpy(people.labels), reduction="none")

    expected = (losses(1e-6) - losses(-1e-6)) / 2e-6
    np.testing.assert_allclose(membership._slope(case, params, along, people), expected.numpy(), rtol=1e-5, atol=1e-7)


def test_a_control_image_is_not_compared_with_itself(strangers_package, cases):
    case = cases(strangers_package)
    few = People(case.control.pixels[:40], 255, case.control.labels[:40], np.arange(40))
    case = replace(case, control=few)
    found = membership._density(case, few, own=True)
    own, around = case.recogniser.of(few, case.device), case.recogniser.directions(case.synthetic)
    for row in (0, 17):
        others = torch.cat([own[:row], own[row + 1 :]])
        near, of_package = ((x @ own[row] / 0.1).double().exp().mean().item() for x in (others, around))
        assert found[row] == pytest.approx(math.log(of_package / near), abs=1e-4)


def test_members_are_found_where_the_package_is_their_images(strangers_package, cases):
    """Thirty members' own images with hard labels: students have seen nothing else."""
    case = cases(strangers_package)
    rows = np.concatenate([np.flatnonzero(case.members.labels == label)[:15] for label in (0, 1)])
    few = People(case.members.pixels[rows], 255, case.members.labels[rows], np.arange(30))
    labels = np.eye(2, dtype=np.float32)[few.labels]
    package = replace(case.package, images=few.images(slice(None)).numpy(), labels=labels)
    case = replace(case, members=few, package=package, effort=replace(case.effort, steps=120))
    prepared = membership.prepare(case)
    found = membership.judge(*(membership.attack(prepared, side) for side in ("members", "control")), case)
    assert found.outcome == "fail"
    assert found.warnings[-1] == membership.WEAKER
    shadowed = replace(case, effort=replace(case.effort, shadows=6))
    both = (membership.attack(prepared, side) for side in ("members", "control"))
    assert membership.WEAKER not in membership.judge(*both, shadowed).warnings
