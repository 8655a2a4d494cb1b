"""The whole audit: what leaks fails, what cannot leak passes, and attaching breaks nothing in silence."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from meddistill import api
from meddistill.audit import attempt, copies, hygiene, labels, linkage, marks, membership, population, run
from meddistill.audit.case import Effort
from meddistill.audit.finding import EXIT_CODES, Finding, Gates
from meddistill.audit.people import Groups
from meddistill.cohort.types import Listing, Record
from meddistill.package.members import CARD, MEMBERS, SIGNATURE
from meddistill.package.read import open_sound, read
from meddistill.package.write import write
from meddistill.pipeline.card import withholding_counts
from meddistill.runtime.errors import InputError


def outcomes(report):
    return {found.attack: found.outcome for found in report.findings}


@pytest.fixture(scope="module")
def silent(strangers_package, tmp_path_factory) -> Path:
    """A package of other patients, whose card does not tell how many these are."""
    found = read(strangers_package)
    package = tmp_path_factory.mktemp("silent") / "lungs.mdz"
    write(package, replace(found, card=withholding_counts(found.card)))
    return package


@pytest.fixture(scope="module")
def passed(check, silent):
    """The report on a package of other patients."""
    return check(silent)


@pytest.fixture(scope="module")
def attached(check, strangers_package, tmp_path_factory):
    """A report on a package of other patients whose card tells how many these are, as it was written and attached."""
    folder = tmp_path_factory.mktemp("attached")
    package = folder / "lungs.mdz"
    package.write_bytes(strangers_package.read_bytes())
    return check(package, references=0, out=folder / "audit.json", attached=True), folder


@pytest.fixture(scope="module")
def from_real(make) -> Path:
    return make("members", start="real", per_class=50)


def hide_start(package: Path, folder: Path) -> Path:
    """The same images with a card that does not tell that they started from real ones."""
    found = read(package)
    card = replace(found.card, recipe=replace(found.card.recipe, start="noise"), contains_real_images=False)
    out = folder / "hidden.mdz"
    write(out, replace(found, card=card))
    return out


def plant(package: Path, members: Path, folder: Path) -> None:
    """The same package with one image in the place of another: a member's, mirrored, darker and noisy."""
    found = read(package)
    with np.load(members) as file:
        planted = file["train_images"][30].astype(np.float32) / 255
    images = found.images.copy()
    images[4, 0] = 0.9 * planted[:, ::-1] + np.random.default_rng(0).normal(0, 0.03, planted.shape).astype(np.float32)
    write(folder / "planted.mdz", replace(found, images=images))


def test_a_package_of_other_patients_passes(passed):
    attacks = ("hygiene", "population", "marks", "copies", "linkage", "membership", "labels")
    assert outcomes(passed) == dict.fromkeys(attacks, "pass")
    assert (passed.outcome, passed.exit_code) == ("pass", 0)
    assert passed.groups["members_agree_with_card"] == "no"
    assert "withholds its counts: whether these members" in passed.findings[0].warnings[0]


def test_members_who_are_not_those_on_the_card_let_nothing_pass(attached):
    report, _ = attached
    assert set(outcomes(report).values()) == {"inconclusive"}
    assert "the members have 2000 images, and the card tells of 560 training images" in report.findings[0].warnings[0]
    assert all("not those on the card" in found.warnings[-1] for found in report.findings[1:])
    assert report.groups["members_agree_with_card"] == "differ"


def test_a_package_that_started_from_real_images_fails_even_if_its_card_is_silent(check, from_real, tmp_path):
    declared = hygiene.prepare(from_real, read(from_real).card)
    assert hygiene.judge(0, 0, hygiene.Names(), declared).outcome == "fail"
    report = check(hide_start(from_real, tmp_path), references=0)
    assert outcomes(report)["hygiene"] == "pass"
    assert outcomes(report)["copies"] == "fail"
    assert (report.outcome, report.exit_code) == ("fail", EXIT_CODES["fail"])


def test_one_planted_copy_fails_the_package(check, strangers_package, sources, tmp_path):
    plant(strangers_package, sources["members"], tmp_path)
    report = check(tmp_path / "planted.mdz", references=0)
    found = {one.attack: one for one in report.findings}
    assert (found["copies"].outcome, found["copies"].figures["copies"]) == ("fail", 1)
    assert found["membership"].outcome == "inconclusive"  # it was not attacked: without it nothing passes


def test_patients_who_stand_twice_hide_nothing(silent, from_real, sources, twice, tmp_path):
    plant(silent, sources["members"], tmp_path)
    answers = {}
    for package in (silent, tmp_path / "planted.mdz", hide_start(from_real, tmp_path)):
        effort = Effort(references=0, recogniser_steps=30)
        report = run.audit(package, f"{twice}:train", effort=effort, device="cpu")
        answers[package.stem] = {one.attack: one for one in report.findings}["copies"]
    # That people stand twice can be told without the package, so that what compares the groups is not judged.
    assert {name: (one.anyway, one.outcome) for name, one in answers.items()} == {
        "lungs": ("pass", "inconclusive"),
        "planted": ("fail", "fail"),
        "hidden": ("fail", "fail"),
    }
    assert answers["planted"].figures["copies"] == 1
    assert answers["hidden"].figures["copies"] > 10
    assert all("are nearly another member's" in " ".join(one.warnings) for one in answers.values())


def test_the_report_on_disk_and_in_the_package_says_the_same_and_holds_no_place(attached):
    report, folder = attached
    written = json.loads((folder / "audit.json").read_text())
    inside = dict(read(folder / "lungs.mdz").audit)
    assert written == report.as_dict()
    assert {name: written[name] for name in inside} == inside
    assert set(written) - set(inside) == {"package", "seconds", "attached"}
    assert str(folder) not in json.dumps(inside)


def test_attaching_changes_nothing_but_the_cards_digests(attached, strangers_package):
    _, folder = attached
    before, after = open_sound(strangers_package)[0], open_sound(folder / "lungs.mdz")[0]
    assert list(after) == [name for name in MEMBERS if name != SIGNATURE]
    assert {name for name in before if bytes(before[name]) != bytes(after[name])} == {CARD}
    cards = [json.loads(bytes(members[CARD])) for members in (before, after)]
    digests = [card.pop("digests") for card in cards]
    assert cards[0] == cards[1]
    assert set(digests[1]) - set(digests[0]) == {"audit.json"}


def test_a_signed_package_is_left_alone_before_anything_is_computed(strangers_package, tmp_path):
    package, key = tmp_path / "signed.mdz", tmp_path / "key.pem"
    package.write_bytes(strangers_package.read_bytes())
    api.keygen(key)
    api.sign(package, key)
    before = package.read_bytes()
    with pytest.raises(InputError, match="is signed"):
        api.audit(package, "no such source", attached=True)
    assert package.read_bytes() == before


def test_where_counts_are_withheld_nothing_in_the_package_tells_them(passed):
    assert passed.withheld
    told = passed.shared()
    assert "groups" not in told
    assert all(set(found) == {"attack", "term", "asks", "outcome"} for found in told["findings"])
    assert "whose numbers are withheld, found no excess above the gates" in told["sentence"]


def test_groups_from_different_populations_let_no_comparison_pass(cases, strangers_package):
    def judged(case):
        prepared = population.prepare(case)
        return population.judge(*(population.attack(prepared, side) for side in ("members", "control")), case)

    case = cases(strangers_package)
    assert judged(case).outcome == "pass"
    darker = replace(case.control, pixels=(case.control.pixels * 0.8).astype(np.uint8))
    found = judged(replace(case, control=darker))
    assert (found.outcome, found.figures["groups"]) == ("inconclusive", "differ")
    assert "differ without the package" in found.warnings[0]


@pytest.mark.parametrize(
    ("patients", "apart", "groups"),
    [
        (100, 0.0, "undecided"),
        (100, 0.43, "undecided"),
        (100, 1.0, "differ"),
        (4000, 0.0, "alike"),
        (4000, 0.43, "differ"),
    ],
)
def test_groups_that_may_differ_are_not_taken_for_alike(patients, apart, groups):
    """Areas of 0.5, 0.62 and 0.76."""
    from scipy.stats import norm

    scores = norm.ppf((np.arange(patients) + 0.5) / patients)
    found = population.judge(scores + apart, scores, SimpleNamespace(gates=Gates()))
    assert (found.outcome, found.figures["groups"]) == ("pass" if groups == "alike" else "inconclusive", groups)
    assert ("too few patients" in " ".join(found.warnings)) == (groups == "undecided")


def test_a_leak_among_groups_that_differ_anyway_is_neither_claimed_nor_denied(monkeypatch, cases, strangers_package):
    case = cases(strangers_package)
    answers = {"population": "inconclusive", "copies": "pass", "linkage": "pass", "membership": "fail"}
    answers |= {"labels": "alarm", "marks": "alarm"}
    for attack in (population, marks, copies, linkage, membership, labels):
        monkeypatch.setattr(attack, "prepare", lambda _: None)
    figures, anyway = {"groups": "differ"}, {"copies": "pass"}
    monkeypatch.setattr(
        attempt,
        "judged",
        lambda attack, *_: Finding(
            attack.NAME, "", answers[attack.NAME], figures=figures, anyway=anyway.get(attack.NAME, "pass")
        ),
    )
    groups = Groups(case.members, case.control, "image", 0)

    def compared():
        return {one.attack: one for one in run._compared(case, groups)}

    found = compared()
    assert {found[name].outcome for name in ("copies", "membership", "linkage", "labels")} == {"inconclusive"}
    assert "groups differ" in found["membership"].warnings[-1]
    assert found["marks"].outcome == "alarm"
    answers["copies"] = "fail"  # by the whole set, and then by a copy
    assert compared()["copies"].outcome == "inconclusive"
    anyway["copies"] = "fail"
    assert compared()["copies"].outcome == "fail"
    figures["groups"], anyway["copies"] = "undecided", "pass"
    found = compared()
    assert (found["copies"].outcome, found["membership"].outcome, found["labels"].outcome) == ("fail", "fail", "alarm")
    assert found["linkage"].outcome == "inconclusive"
    assert "groups may differ" in found["linkage"].warnings[-1]
    answers["copies"] = "pass"
    answers["membership"] = answers["labels"] = "inconclusive"
    few = replace(case, gates=Gates(patients=5000))
    assert {one.outcome for one in run._compared(few, groups) if one.attack != "marks"} == {"inconclusive"}


def records(*named):
    """A listing of images in these files, of these patients."""
    made = [Record(where, "normal", None, patient, lambda: None, lambda: (1, 1)) for where, patient in named]
    return Listing("x", "csv", tuple(made), ("normal",))


def licensed(package, text, folder):
    """What hygiene sees of the package with these words of its sender."""
    found = read(package)
    card = replace(found.card, terms=replace(found.card.terms, licence=text))
    write(folder / "licensed.mdz", replace(found, card=card))
    return hygiene.prepare(folder / "licensed.mdz", read(folder / "licensed.mdz").card)


@pytest.mark.parametrize(
    ("where", "patient", "text"),
    [
        ("scans/ward7-113.png", "Mueller", "Thanks to Dr Mueller"),
        ("scans/ward7-113.png", "Mueller", "from ward7-113"),
        ("scans/mueller.png", None, "Thanks to Dr Mueller"),
        ("table.csv:12 (scans/mueller.png)", None, "Thanks to Dr Mueller"),
        ("table.csv:12 (mueller.dcm) (frame 3)", None, "Thanks to Dr Mueller"),
        ("a/1.png", "P017", "without P017"),
        ("a/1.png", "12-04", "without 12-04"),
        ("a/1.png", "Ann", "for Ann"),
        ("a/12.04.png", "12345", "without 12345"),
    ],
)
def test_names_of_patients_and_files_in_a_text_fail(strangers_package, tmp_path, where, patient, text):
    names = hygiene.names_of(records((where, patient)))
    for said, outcome in ((text, "fail"), ("Thanks to nobody: CC BY-NC 4.0, a set of 2026", "pass")):
        prepared = licensed(strangers_package, said, tmp_path)
        found = hygiene.judge(hygiene.attack(prepared, names.words), 0, names, prepared)
        assert (found.outcome, found.figures["names_found"]) == (outcome, int(outcome == "fail"))


def test_words_that_every_package_has_are_nobodys_name(strangers_package, tmp_path):
    """A class, words of the card and of the README, numbers of rows, a word that stands in everybody's name."""
    prepared = licensed(strangers_package, "images of the chest, section 12", tmp_path)
    listing = records(("normal/normal (1).png", None), ("images.png", "DM"), ("12.png", "research"), ("a.png", "soft"))
    names = hygiene.names_of(listing)
    names |= hygiene.names_of(records(*((f"chest {place}.png", f"patient {place}") for place in range(40))))
    assert hygiene.attack(prepared, names.words - {"dm"}) == 0
    assert hygiene.attack(licensed(strangers_package, "to DM", tmp_path), {"dm"}) == 1


def test_how_many_names_were_not_looked_for_is_told(strangers_package, tmp_path):
    prepared = licensed(strangers_package, "", tmp_path)

    def judged(*named):
        return hygiene.judge(0, 0, hygiene.names_of(records(*named)), prepared)

    some = judged(("1.png", "12"), ("2.png", "P017"))
    assert (some.outcome, some.figures["names_looked_for"], some.figures["names_not_looked_for"]) == ("pass", 1, 3)
    assert some.warnings[0].startswith("3 of 4 names of patients and files were not looked for")
    none = judged(("scan-113.png", "12"), ("scan-114.png", "13"))
    assert (none.outcome, none.figures["names_looked_for"]) == ("inconclusive", 2)
    assert "no patient's id is among the others" in none.warnings[0]
    rows = judged(("train[0]", None), ("train[1]", None))  # of an array, which names nobody
    assert (rows.outcome, rows.warnings, rows.figures["names_not_looked_for"]) == ("pass", (), 0)
