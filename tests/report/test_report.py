"""What a reader of a report relies on: it says what is there, and needs nothing else."""

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from meddistill import api
from meddistill.audit.finding import Finding
from meddistill.audit.statistics import Interval
from meddistill.package.read import read
from meddistill.package.types import CohortCounts, Look, Privacy, Score, Sizes
from meddistill.pipeline.plan import Plan, override
from meddistill.runtime.errors import InputError, OutputError, VerificationError

TOUCHES_TORCH = """
import sys
from pathlib import Path
from meddistill import api
from meddistill.audit.finding import Finding
from meddistill.audit.statistics import Interval
api.report(Path(sys.argv[1]), Path(sys.argv[2]))
print(*sorted({"torch", "sklearn", "scipy", "meddistill.cohort", "meddistill.pipeline"} & set(sys.modules)))
"""

FINDING = Finding(
    attack="copies",
    asks="does an image copy a patient?",
    outcome="alarm",
    main=Interval(0.061, 0.02, 0.11),
    control=Interval(0.031, 0.0, 0.08),
    baseline=0.01,
    warnings=("few patients",),
    figures={"area": Interval(0.57, 0.52, 0.62).as_dict(), "copies": 0},
).as_dict()


@pytest.fixture
def shown(tmp_path, parse):
    """The page of a report on a subject."""

    def show(subject, **options):
        api.report(subject, tmp_path / "report.html", **options)
        return parse((tmp_path / "report.html").read_text(encoding="utf-8"))

    return show


def test_a_package_is_told_whole(saved, shown):
    page = shown(saved())
    for said in (
        "clear lung",
        "shadowed lung",
        "CC BY 4.0",
        "research alone",
        "not for babies",
        "mtt",
        "convnet-d2-w8",
    ):
        assert said in page.text
    assert "6 synthetic grey images of 8 × 8 pixels" in page.text
    assert "2,468" in page.text  # training images in all
    assert "80.0 (79.0 to 81.0)" in page.text
    assert "70.0 (69.0 to 71.0)" in page.text
    assert (
        "lies wholly above the one of as many random real images in balanced accuracy, AUROC and accuracy" in page.text
    )
    assert "not signed" in page.text
    assert "Nothing was measured" in page.text
    assert "meddistill train lungs.mdz --out model.safetensors" in page.text


def test_the_images_are_the_packages_pixels_with_their_labels(saved, shown):
    path = saved()
    found = shown(path).all("img")
    expected = np.round(np.clip(read(path).images[:, 0], 0, 1) * 255).astype(np.uint8)
    assert len(found) == len(expected) == 6
    for attributes, pixels in zip(found, expected, strict=True):
        png = base64.b64decode(attributes["src"].removeprefix("data:image/png;base64,"))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), pixels)
    assert found[0]["alt"] == "Synthetic image 1: clear lung 0.875, shadowed lung 0.125"
    assert found[5]["alt"] == "Synthetic image 6: shadowed lung 0.875, clear lung 0.125"


def test_it_needs_nothing_else(saved, logged, log, shown):
    """No script, no address but its own parts and pictures, no style but the one whose digest the policy allows."""
    saved()
    page = shown(logged(*log))
    assert not page.unclosed
    assert not page.all("script") + page.all("link") + page.all("iframe") + page.all("object")
    for tag, attributes in page.elements:
        assert not {name for name in attributes if name.startswith("on") or name in ("style", "srcset", "action")}
        assert attributes.get("href", "#").startswith("#"), tag
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,"), tag
    targets = {attributes["href"] for attributes in page.all("a")}
    assert targets <= {f"#{attributes['id']}" for _, attributes in page.elements if "id" in attributes}
    (style,) = (text for tag, text in page.texts if tag == "style")
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = (m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.split(";")[0] == "default-src 'none'"
    assert "unsafe" not in policy


def test_the_policy_allows_the_style_sheet(saved, tmp_path):
    """A browser takes the digest of the element's text to the byte."""
    api.report(saved(), tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in text


def test_who_cannot_see_or_point_is_told_as_much(saved, logged, log, shown):
    saved()
    page = shown(logged(*log))
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert all(attributes.get("alt") for attributes in page.all("img"))
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in page.all("svg"))
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    labels = [attributes["aria-label"] for attributes in page.all("svg")]
    assert any("this package: 80.0, interval 79.0 to 81.0" in label for label in labels)
    assert sum("tabindex" in attributes for attributes in page.all("li")) == 6


def test_a_package_is_read_without_torch(saved, logged, log, tmp_path):
    path = saved()
    for subject in (path, logged(*log)):
        words = [sys.executable, "-c", TOUCHES_TORCH, str(subject), str(tmp_path / "r.html")]
        assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.split() == []


def test_the_same_input_gives_the_same_bytes(saved, logged, log, tmp_path):
    saved()
    for name in ("a.html", "b.html"):
        answer = api.report(logged(*log), tmp_path / name).as_dict()
        assert answer["bytes"] == (tmp_path / name).stat().st_size
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_real_images_and_withheld_counts_are_said(saved, package, shown):
    plain = shown(saved())
    card = package().card
    marked = {"contains_real_images": True, "recipe": replace(card.recipe, start="real")}
    withheld = {"cohort": replace(card.cohort, counts="withheld"), "bytes": replace(card.bytes, cohort_train=None)}
    page = shown(saved("marked.mdz", **marked, **withheld))
    assert "It holds real images" in page.text
    assert "It holds real images" not in plain.text
    assert "withheld by the sender" in page.text
    assert "2,468" not in page.text


def test_a_package_without_scores(saved, shown):
    assert "The card holds no scores" in shown(saved(results=None)).text


def test_the_network_of_a_packages_own_recipe_has_its_row_and_no_interval(saved, package, shown):
    results = package().card.results
    one = {name: Score(mean=0.86, low=0.86, high=0.86, per_seed=(0.86,)) for name in results.splits["test"]["full"]}
    splits = {split: {**rows, "own": one} for split, rows in results.splits.items()}
    page = shown(saved(results=replace(results, splits=splits)))
    cells = [text for tag, text in page.texts if tag in ("td", "th")]
    place = cells.index("this package, by its own recipe")
    assert cells[place + 1 : place + 4] == ["86.0"] * 3


def test_who_signed_is_said(saved, tmp_path, monkeypatch, shown):
    monkeypatch.setenv("MEDDISTILL_CONFIG", str(tmp_path / "config"))
    path = saved()
    fingerprint = api.keygen(tmp_path / "key.pem").as_dict()["fingerprint"]
    api.sign(path, tmp_path / "key.pem")
    stranger = shown(path).text
    assert "a key that is not trusted here" in stranger
    assert fingerprint in stranger
    api.trust(tmp_path / "key.pub.pem", name="St Mary")
    assert "signed by St Mary, whom you trust" in shown(path).text


def test_many_classes_and_images_stay_within_bounds(saved, package, tmp_path, monkeypatch):
    """More images than are shown: the page tells how many there are, and is no larger than the budget allows."""
    from meddistill.report import pictures

    monkeypatch.setattr(pictures, "MOST_IMAGES", 4)
    monkeypatch.setattr(pictures, "PIXEL_BUDGET", 4 * 16)
    found = pictures.gallery(package())
    assert [(len(shelf.pictures), shelf.total) for shelf in found.shelves] == [(2, 3), (2, 3)]
    assert found.reduction == 2
    png = base64.b64decode(found.shelves[0].pictures[0].source.split(",")[1])
    assert Image.open(io.BytesIO(png)).size == (4, 4)


def test_a_run_is_told_with_the_package_beside_it(saved, logged, log, shown):
    saved()
    page = shown(logged(*log))
    assert "6 synthetic grey images" in page.text
    headings = " ".join(text for tag, text in page.texts if tag == "h3")
    for title in ("How the teachers learned", "the loss", "step size", "Overlap", "Diversity"):
        assert title in headings
    assert "12.5 (12.5 to 12.5)" in page.text  # the calibration error
    labels = [attributes["aria-label"] for attributes in page.all("svg")]
    assert any("distance of trajectories: 0.9 at 2, 0.7 at 3" in label for label in labels)
    assert "it is for whoever made the package" in page.text


@pytest.mark.parametrize("amount", [{"images_per_class": 1}, {"total_images": 2}])
def test_a_run_of_the_default_method_has_its_package(amount, saved, package, logged, log, shown):
    """Four small images stand in the place of each that was asked for, and images in all are of no class."""
    plan = override(Plan(), size=28, **amount)
    recipe = replace(package().card.recipe, method=plan.method, seed=plan.seed, network=plan.network, plan=plan.flat())
    count = plan.count(2)
    images = replace(package().card.images, count=count, per_class=count // 2 * (not plan.total_images))
    saved(per_class=count // 2, images=images, recipe=recipe)
    begun = {**log[0], "plan": plan.in_force()}
    page = shown(logged(begun, *log[1:]))
    assert "8 synthetic grey images" in page.text
    for other in (override(plan, images_per_class=3), override(plan, total_images=3), replace(plan, formation=1)):
        page = shown(logged({**log[0], "plan": other.in_force()}, *log[1:]))
        assert "No package made by this run stands beside its folder" in page.text


@pytest.mark.parametrize(("count", "said"), [(0, False), (4, True)])
def test_teachers_that_were_not_measured_are_told_of_where_there_are_any(count, said, logged, log, shown):
    events = [one for one in log[1:] if not one["event"].startswith("teacher")]
    begun = {**log[0], "plan": {**log[0]["plan"], "teachers": {"count": count}}}
    assert ("The teachers were not measured in this run" in shown(logged(begun, *events)).text) == said


def test_images_in_all_are_not_counted_by_class(saved, package, shown):
    card = package().card
    assert "3 for each of 2 classes" in shown(saved()).text
    page = shown(saved("few.mdz", images=replace(card.images, per_class=0)))
    assert "for 2 classes in all" in page.text and "0 for each" not in page.text


def test_times_of_stages_leave_out_the_breaks(logged, log):
    from meddistill.report.runlog import read_run

    stages = dict(read_run(logged(*log)).stages)
    assert stages["training the teachers"] == 10
    assert stages["distilling"] == 30
    assert stages["evaluating"] == 8
    cut = next(place for place, one in enumerate(log) if one.get("iteration") == 2)
    later = [{**one, "time": one["time"] + 1000} for one in log[cut:]]
    broken = read_run(logged(*log[:cut], {"time": log[cut]["time"] + 990, "event": "continued"}, *later))
    assert dict(broken.stages)["distilling"] == 30
    assert broken.continued == 1


def test_iterations_that_a_continued_run_repeats_are_drawn_once(logged, log):
    from meddistill.report.runlog import read_run

    again = {"time": 143.0, "event": "distilled", "iteration": 2, "phase": "trajectories", "score": 0.8, "step_size": 1}
    assert read_run(logged(*log, again)).matched == ((2.0, 0.8), (3.0, 0.7))


def test_the_loss_of_every_family_has_its_curve(logged, log, shown):
    other = [{**one, "phase": "gradients"} if one.get("phase") == "trajectories" else one for one in log]
    labels = [attributes["aria-label"] for attributes in shown(logged(*other)).all("svg")]
    assert any("distance of gradients: 0.9 at 2, 0.7 at 3" in label for label in labels)


def test_a_package_of_another_run_is_not_shown_with_this_one(saved, logged, log, shown):
    saved()
    other = {**log[0], "plan": {**log[0]["plan"], "seed": 4}}
    page = shown(logged(other, *log[1:]))
    assert "No package made by this run stands beside its folder" in page.text
    assert not page.all("img")


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("not json", '{"event": 3}', "[]", '{"event": "distilled"', "\x00"),
        ({"event": "distilled", "phase": "features", "iteration": "x", "score": None},),
        ('{"event": "distilled", "phase": "features", "iteration": 1, "score": NaN}',),
        ({"event": "begun", "plan": 3}, {"event": "teachers", "snapshot": 1, "balanced_accuracy": 0.5}),
        ({"event": "begun", "plan": {"teachers": 3}}, {"event": "window", "earliest_start": "0"}),
        ({"event": "memory", "bytes_each": -1, "together": True, "strategy": ["x"]},),
        ({"event": "evaluated", "row": "distilled", "scores": {"test": 3}, "seconds": "x"},),
        ({"event": "distilled", "phase": "trajectories", "iteration": 5, "score": 0.0, "step_size": 0.0},),
        ("[" * 5000,),
        [
            {"event": "distilled", "phase": "features", "iteration": n, "score": s}
            for n, s in enumerate((1e308, -1e308))
        ],
        [
            {"event": "distilled", "phase": "features", "iteration": n, "score": s}
            for n, s in enumerate((1e-320, -1e-320))
        ],
        [{"event": "distilled", "phase": "features", "iteration": 10**400, "score": 10**400}],
    ],
)
def test_a_damaged_log_is_shown_as_far_as_it_goes(logged, shown, lines):
    page = shown(logged(*lines))
    assert "The run has not finished" in page.text
    assert not page.unclosed


def test_an_audit_is_shown_with_its_figures(saved, shown, tmp_path):
    document = {"audit": 1, "outcome": "alarm", "findings": [FINDING], "seed": 7, "groups": {"members": 120}}
    page = shown(saved(audit=document))
    for said in ("copies", "does an image copy a patient?", "alarm", "few patients", "from the package itself", "120"):
        assert said in page.text
    labels = " ".join(attributes["aria-label"] for attributes in page.all("svg"))
    assert "members: 6.1, interval 2.0 to 11.0; control patients: 3.1, interval 0.0 to 8.0" in labels
    assert "Area under the ROC curve" in labels


def test_a_page_has_the_regulators_terms_and_the_sentence_that_may_be_used(saved, shown):
    document = {
        "outcome": "alarm",
        "findings": [FINDING, {**FINDING, "attack": "tickling"}],
        "sentence": "All is well.",
    }
    page = shown(saved(audit=document))
    headings = [text for tag, text in page.texts if tag == "h3"]
    places = [
        headings.index(name) for name in ("What may be said", "Singling out", "Linkability", "Inference", "Other")
    ]
    assert places == sorted(places)
    assert "Comparison" not in headings
    assert page.text.count("Not attacked: nothing may be said of it.") == 2
    assert "It may not be said of this package that no excess was found." in page.text
    assert "alarm: copies, another attack." in page.text
    assert "All is well" not in page.text
    assert "nothing may be said of it" in shown(saved()).text


def test_an_audit_may_be_given_beside_the_package(saved, shown, tmp_path):
    path, audit = saved(), tmp_path / "audit.json"
    audit.write_text(
        json.dumps({"package": "/home/mueller/x.mdz", "findings": [FINDING], "tensors_sha256": digest(path)})
    )
    page = shown(path, audit=audit)
    assert "from a file that was given" in page.text
    assert "mueller" not in page.text
    audit.write_text(json.dumps({"anything": {"leaks": 0.25}, "list": [1, {"deep": True}]}))
    page = shown(path, audit=audit)
    assert "anything.leaks" in page.text
    assert "0.25" in page.text
    odd = {"value": 1e308, "low": -1e308, "high": 10**15}
    audit.write_text(json.dumps({"findings": [{"attack": "a", "main": odd, "figures": {"area": odd}}]}))
    assert not shown(path, audit=audit).unclosed
    audit.write_text(json.dumps({"tensors_sha256": "0" * 64}))
    with pytest.raises(InputError, match="of another package"):
        shown(path, audit=audit)
    audit.write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        shown(path, audit=audit)


def test_of_withheld_counts_no_audit_that_is_given_tells_a_figure(saved, shown, tmp_path):
    withheld = {"cohort": CohortCounts(counts="withheld"), "bytes": Sizes(cohort_train=None)}
    path, audit = saved(**withheld), tmp_path / "audit.json"
    told = {"outcome": "alarm", "findings": [FINDING], "groups": {"members": {"patients": 4711}}, "anything": 4712}
    audit.write_text(json.dumps(told | {"gates": {"patients": 123}}))
    page = shown(path, audit=audit)
    for said in ("copies", "does an image copy a patient?", "alarm", "without figures: the card withholds", "123"):
        assert said in page.text
    for kept in ("4711", "4712", "few patients", "Area under the ROC curve"):
        assert kept not in page.text
    assert not [one for one in page.all("svg") if "members" in one.get("aria-label", "")]


def test_an_audit_of_a_package_that_states_an_epsilon_is_refused(saved, shown, tmp_path):
    history = (Look(mechanism="sums", noise_multiplier=4.0, sampling_rate=1.0, steps=1, groups=1),)
    stated = Privacy(
        epsilon=2.0,
        delta=1e-5,
        unit="patient",
        route="statistics",
        accountant="exact",
        history=history,
        outside=("names of the classes",),
    )
    withheld = {"cohort": CohortCounts(counts="withheld"), "bytes": Sizes(cohort_train=None)}
    path, audit = saved(**withheld, privacy=stated, results=None), tmp_path / "audit.json"
    audit.write_text(json.dumps({"findings": [FINDING]}))
    with pytest.raises(InputError, match="keep the audit in the house"):
        shown(path, audit=audit)
    assert "does an image copy" not in shown(path).text


def test_the_audit_of_a_model_is_not_taken_for_one_of_a_package(saved, shown, tmp_path):
    audit = tmp_path / "audit.json"
    audit.write_text(json.dumps({"weights_sha256": "0" * 64, "model": "/home/somebody/lungs.mdw"}))
    with pytest.raises(InputError, match=r"of a model"):
        shown(saved(), audit=audit)


def test_rows_of_characters_are_told_of_images_not_of_members(saved, shown, tmp_path):
    audit = tmp_path / "audit.json"
    found = {**FINDING, "attack": "marks", "warnings": ["look at image 3"], "figures": {"images": [3, 5]}}
    audit.write_text(json.dumps({"findings": [found]}))
    page = shown(saved(), audit=audit)
    assert "look at image 3" in page.text
    assert "control patients' images" in page.text
    assert "3, 5" in page.text


def digest(path):
    return api.verify(path).digests["tensors.safetensors"]


def test_what_cannot_be_reported_on(saved, tmp_path):
    path, out = saved(), tmp_path / "report.html"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"events\.jsonl.*NAME\.run"):
        api.report(tmp_path / "empty", out)
    with pytest.raises(InputError, match="there is no file"):
        api.report(tmp_path / "missing.mdz", out)
    with pytest.raises(InputError, match="name another file"):
        api.report(path, path)
    with pytest.raises(OutputError, match="is a folder"):
        api.report(path, tmp_path / "empty")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(VerificationError, match="not a sound package"):
        api.report(path, out)
    assert not out.exists()
