"""What may be said after an audit: no more than its figures allow, whoever wrote them, and no forbidden word."""

import copy
import json
import re

import pytest

from meddistill.audit.case import Effort
from meddistill.audit.finding import Finding, Gates
from meddistill.audit.report import Report
from meddistill.audit.statistics import Interval
from meddistill.package.audit import audit_problems
from meddistill.report.sentence import PROVED, sentence
from meddistill.report.terms import OTHER, REGULATORS, TERMS, term_of

ATTACKS = ("hygiene", "population", "marks", "copies", "linkage", "membership", "labels")
OF_A_MODEL = ("hygiene", "population", "membership", "labels")
FORBIDDEN = re.compile(r"anonym|\bprivate|\bsafe\b|de-?identified|\bproves\b", re.IGNORECASE)


def excess(high):
    return Interval(0.0, -0.001, high).as_dict()


def figures_of(attack, strict=0.003):
    """As attacks have them; ``strict``: how high the excess at 0.1 % false alarms may be."""
    rates = {"excess_at_0.001": excess(strict), "excess_at_0.01": excess(0.015)}
    told = {
        "copies": {"undecided": []},
        "linkage": rates | {"undecided": []},
        "membership": {
            "scores": {"ratio": rates},
            "undecided_classes": 0,
            "network_trained_on_members": Interval(0.71, 0.7, 0.72).as_dict(),
        },
        "shadows": {
            "scores": {"online": rates},
            "undecided_classes": 0,
            "of_the_package": {"online": {"excess_at_0.01": excess(0.9)}},
        },
        "marks": {"side": 14, "letters_from": 7},
    }
    return told.get(attack, {})


def report(attacks=ATTACKS, outcomes=(), figures=(), **changes):
    """An audit of 2,000 members and 1,200 control patients that passed, but for the outcomes given."""
    found = [
        Finding(name, "?", dict(outcomes).get(name, "pass"), figures=dict(figures).get(name, figures_of(name)))
        for name in attacks
    ]
    groups = {side: {"patients": count, "images": 9} for side, count in (("members", 2000), ("control", 1200))}
    groups |= {"unit": "patient", "left_out_of_control": 0, "members_agree_with_card": "agree"}
    usual = {"kind": "package", "file": "x.mdz", "digest": "0", "withheld": False, "groups": groups}
    usual |= {"findings": tuple(found), "gates": Gates(), "effort": Effort(), "seed": 0, "seconds": 1.0}
    return Report(**usual | changes)


def test_after_a_pass_it_has_the_figures_and_what_is_open():
    told = report().sentence
    assert told.startswith("Attacks for copies, linkage, membership and recorded classes by version ")
    assert "on 2,000 members and 1,200 control patients, found no excess above the gates in the report." in told
    assert "Left undecided: text lower than 7 of the images' 14 pixels." in told
    assert "Not tried: membership by packages made anew (shadows); planted canaries;" in told
    assert "inference of attributes other than the recorded class" in told
    assert told.endswith("No protection against other attacks has been measured or proved.")
    repeated = report((*ATTACKS, "shadows")).sentence
    assert "and for membership by packages made anew by version" in repeated
    assert "(shadows)" not in repeated
    assert "in single classes" not in repeated


def test_what_was_left_undecided_is_named():
    weak = figures_of("membership", strict=0.02)
    weak |= {"network_trained_on_members": Interval(0.52, 0.5, 0.54).as_dict()}
    told = report(figures={"membership": weak}).sentence
    assert "excess at 0.1 % false alarms (membership), for want of patients" in told
    assert "hardly finds the members of a network trained on their own images (area 0.52)" in told
    groups = report().groups | {"unit": "image", "members_agree_with_card": "no"}
    told = report(groups=groups).sentence
    assert "1,200 control patients, each image taken for a patient" in told
    assert "whether these members are those of the package" in told


def test_what_so_few_images_or_patients_do_not_decide_is_named_and_of_older_audits_all_of_it():
    few = {"copies": {"undecided": ["order"]}, "membership": figures_of("membership") | {"undecided_classes": 2}}
    told = report(figures=few).sentence
    assert "whether images are nearer to members on the whole, for want of images" in told
    assert "membership in single classes, for want of patients" in told
    assert "the share of images" not in told
    assert "retrieve" not in told
    for undecided in ({"undecided_classes": 1}, {}):  # older audits do not tell it
        figures = {"scores": figures_of("shadows")["scores"], **undecided}
        told = report((*ATTACKS, "shadows"), figures={"shadows": figures}).sentence
        assert "membership by packages made anew in single classes, for want of patients" in told
        assert "; membership in single classes" not in told
    older = {
        "copies": {},
        "linkage": {key: one for key, one in figures_of("linkage").items() if key != "undecided"},
        "membership": {key: one for key, one in figures_of("membership").items() if key != "undecided_classes"},
    }
    told = report(figures=older).sentence
    for words in ("the share of images", "nearer to members", "retrieve members", "in single classes"):
        assert words in told


def test_where_counts_are_withheld_it_has_no_figure_and_claims_less():
    found = report(withheld=True)
    told = found.sentence
    assert "on members and control patients whose numbers are withheld, found no excess" in told
    assert (
        "Left undecided, or withheld: excess at 0.1 % false alarms; excess of close images, of what they retrieve "
        "and in single classes; text too small to be found;" in told
    )
    assert "2,000" not in told
    assert found.as_dict()["sentence"] == found.shared()["sentence"] == told
    assert "7" not in told.replace(found.as_dict()["software"]["version"], "")


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        ({"copies": "inconclusive"}, "meddistill: undecided: copies. Neither a leak nor its absence follows."),
        (
            {"linkage": "alarm", "labels": "inconclusive"},
            "alarm: linkage; undecided: labels. Something is told of single",
        ),
        ({"hygiene": "fail", "copies": "alarm"}, "failed: hygiene; alarm: copies. It should not leave."),
    ],
)
def test_after_anything_but_a_pass_it_says_what_may_not_be_said(outcomes, said):
    told = report(outcomes=outcomes).sentence
    assert told.startswith("It may not be said of this package that no excess was found.")
    assert said in told
    of_model = report(OF_A_MODEL, {"membership": "fail"}, kind="model").sentence
    assert of_model.startswith("It may not be said of these weights that no excess was found.")


def test_of_a_model_other_attacks_are_named():
    told = report(OF_A_MODEL, kind="model").sentence
    assert told.startswith("Attacks for membership and recorded classes by version ")
    assert "of meddistill on these weights, on 2,000 members" in told
    assert "references made in the very way of the model" in told


def test_beside_an_epsilon_and_canaries_an_audit_is_told_to_nobody():
    assert report(proved=True).sentence == PROVED
    assert report(proved=True, outcomes={"linkage": "inconclusive"}).sentence == PROVED
    assert "It should not leave" in report(proved=True, outcomes={"copies": "fail"}).sentence
    planted = report((*ATTACKS, "canaries"), proved=True).sentence
    assert planted.startswith("Nothing may be said for this package: canaries were planted")


def test_files_of_before_have_one_too():
    found = json.loads(json.dumps(report().as_dict()))
    told = found.pop("sentence")
    for one in found["findings"]:
        del one["term"]
    assert sentence(found) == told


def hostile():
    whole = json.loads(json.dumps(report().as_dict()))

    def changed(*path, to):
        document = copy.deepcopy(whole)
        place = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to
        return document

    yield {}
    yield {"outcome": "pass"}
    yield {"outcome": "pass", "findings": "anonymous"}
    yield {"outcome": "pass", "findings": [{"attack": "anonymous", "outcome": "pass"}]}
    yield changed("findings", to=whole["findings"][:4])
    yield changed("findings", 0, "outcome", to="anonymous")
    yield changed("findings", 0, "outcome", to=["pass"])
    yield changed("outcome", to="anonymous")
    yield changed("outcome", to={})
    for gates in ({}, None, {"rates": [], "passes": []}, {"rates": [[]], "passes": [{}]}, {"rates": 1, "passes": 1}):
        yield changed("gates", to=gates)


@pytest.mark.parametrize("document", list(hostile()))
def test_what_is_no_whole_audit_allows_nothing(document):
    assert sentence(document).startswith("Nothing may be said")


def test_a_strangers_words_are_not_in_it():
    document = report((*ATTACKS, "is anonymous")).as_dict() | {"sentence": "This package is anonymous."}
    document["software"] = {"name": "anonymous", "version": "1: it is anonymous"}
    document["groups"] = {"members": {"patients": "anonymous"}, "control": 7, "unit": "anonymous"}
    assert "by version unknown of meddistill, on members and control patients whose" in sentence(document)
    assert not FORBIDDEN.search(sentence(document))
    document["findings"].append({"attack": "is private", "outcome": "fail"})
    assert "failed: another attack." in sentence(document)
    document["findings"].insert(0, {"attack": "copies", "outcome": "alarm"})  # told again behind it, as passed
    assert "alarm: copies" in sentence(document)
    odd = {"marks": {"side": "x", "letters_from": 1e999}, "membership": {"scores": {"a": {"excess_at_0.001": 3}}}}
    assert "0.1 % false alarms (membership)" in report(figures=odd).sentence


@pytest.mark.parametrize("proved", [False, True])
@pytest.mark.parametrize("withheld", [False, True])
@pytest.mark.parametrize("kind", ["package", "model"])
@pytest.mark.parametrize("outcome", ["pass", "inconclusive", "alarm", "fail"])
def test_no_sentence_has_the_forbidden_words_and_every_one_may_stand_in_a_package(proved, withheld, kind, outcome):
    groups = report().groups | {"members": {"patients": 123_456_789}, "control": {"patients": 98_765_432}}
    found = report(outcomes={"labels": outcome}, proved=proved, withheld=withheld, kind=kind, groups=groups)
    assert not FORBIDDEN.search(found.sentence)
    assert audit_problems(json.dumps(found.shared()).encode()) == []


def test_every_attack_belongs_to_one_term_and_the_file_says_which():
    assert REGULATORS == ("singling out", "linkability", "inference")
    belongs = {"copies": "singling out", "membership": "singling out", "shadows": "singling out"}
    belongs |= {"linkage": "linkability", "labels": "inference", "hygiene": "direct identifiers", "x": OTHER}
    assert {attack: term_of(attack) for attack in belongs} == belongs
    listed = [attack for term in TERMS for attack in term.attacks]
    assert len(listed) == len(set(listed)) == len({*ATTACKS, "shadows", "canaries", "release"})
    told = {one["attack"]: one["term"] for one in report().as_dict()["findings"]}
    assert told == {attack: term_of(attack) for attack in ATTACKS}
    assert [one["term"] for one in report(withheld=True).shared()["findings"]] == list(told.values())
