"""Planted records: coins that nothing else determines, patients who are really left out, a file that stays secret."""

import json
import stat
from dataclasses import replace

import numpy as np
import pytest

from meddistill import api
from meddistill.cli.main import main
from meddistill.cohort.prepare import prepare
from meddistill.package.glance import facts
from meddistill.package.read import open_sound, read, verify
from meddistill.pipeline import run as running
from meddistill.pipeline.canaries import KINDS, Canaries, coins, design, load, plant, tossed
from meddistill.pipeline.request import Request
from meddistill.pipeline.run import run
from meddistill.runtime.errors import InputError

COUNT = 16
PLAN = """
method = "dm"
images_per_class = 2
size = 10
network = "convnet-d2-w4"
start = "noise"
[matching]
iterations = 2
[evaluation]
seeds = 0
"""


def request_in(folder, source, canaries: int = COUNT) -> Request:
    folder.mkdir(exist_ok=True)
    (folder / "plan.toml").write_text(PLAN)
    return Request(source=source, out=folder / "x.mdz", plan=folder / "plan.toml", device="cpu", canaries=canaries)


@pytest.fixture(scope="module")
def made(source, tmp_path_factory) -> Request:
    asked = request_in(tmp_path_factory.mktemp("made"), source)
    run(asked)
    return asked


@pytest.fixture(scope="module")
def prepared(source):
    return prepare(source, size=10, images_per_class=2)


def kept(asked: Request) -> Canaries:
    return load(asked.out.with_suffix(".run") / "canaries.safetensors")


def of_kind(chosen, kind):
    return np.flatnonzero(chosen.kinds == KINDS.index(kind))


def test_coins_are_the_bits_of_the_system_and_fair():
    assert coins(4, lambda count: bytes(range(count))).tolist() == [False, True, False, True]
    assert 0.45 < coins(4000).mean() < 0.55
    assert (coins(64) != coins(64)).any()


def test_what_the_canaries_are_follows_from_the_seed_and_not_from_the_coins(prepared, made, source, tmp_path):
    one, same, other = (design(prepared, COUNT, seed, 2) for seed in (0, 0, 1))
    assert (one.images == same.images).all()
    assert (one.images != other.images).any()
    again = request_in(tmp_path, source)
    run(again)
    first, second = kept(made), kept(again)
    assert (first.images == second.images).all()
    assert (first.labels == second.labels).all()
    assert (first.images == one.images).all()


def test_two_runs_of_one_seed_toss_other_coins(source, tmp_path):
    """Were they drawn from the seed, which stands on the card, they would agree."""
    found = []
    for name in ("one", "other"):
        asked = request_in(tmp_path / name, source, canaries=48)
        run(asked)
        found.append(kept(asked).included)
    assert (found[0] != found[1]).any()


def test_kinds_are_spread_evenly_and_are_what_they_say(prepared):
    chosen, cohort = design(prepared, COUNT, 0, 2), prepared.cohort
    assert np.bincount(chosen.kinds).tolist() == [4, 4, 4, 4]
    known = {cohort.images[row].tobytes(): cohort.labels[row] for row in cohort.indices("train")}
    for place in of_kind(chosen, "natural"):
        assert known[chosen.images[place].tobytes()] == chosen.labels[place]
    for place in of_kind(chosen, "flipped"):
        assert known[chosen.images[place].tobytes()] != chosen.labels[place]
    blank = chosen.images[of_kind(chosen, "blank")]
    assert [len(np.unique(image)) for image in blank] == [1] * 4
    assert len({image.tobytes() for image in chosen.images}) == COUNT
    assert set(np.unique(chosen.images[of_kind(chosen, "outlier")])) == {0, 255}


def test_whoever_loses_the_coin_has_no_image_in_the_run_and_other_splits_stay(prepared):
    chosen = design(prepared, COUNT, 0, 2)
    included = np.arange(COUNT) % 3 == 0
    planted = plant(prepared, chosen, included)
    train = planted.cohort.indices("train")
    there = [image.tobytes() for image in planted.cohort.images[train]]
    assert [there.count(image.tobytes()) for image in chosen.images] == included.astype(int).tolist()
    assert len(train) == len(prepared.cohort.indices("train")) - COUNT // 2 + included.sum()
    assert len(np.unique(planted.people)) == len(planted.cohort.labels)
    for split in ("val", "test"):
        before, after = (one.cohort.images[one.cohort.indices(split)] for one in (prepared, planted))
        assert (before == after).all()


def test_a_patient_of_several_images_is_left_out_with_all_of_them(prepared):
    pairs = replace(prepared, people=np.arange(len(prepared.people)) // 2)
    chosen = design(pairs, 8, 0, 2)
    train = prepared.cohort.indices("train")
    gone = np.unique(pairs.people[chosen.held])
    assert len(gone) == 4
    assert set(chosen.held) == set(train[np.isin(pairs.people[train], gone)])


@pytest.mark.parametrize(
    ("count", "least", "said"), [(3, 2, "expected 4 or more"), (60, 2, "no more than half"), (40, 25, "leave too few")]
)
def test_what_cannot_be_planted_is_refused(prepared, count, least, said):
    with pytest.raises(InputError, match=said):
        design(prepared, count, 0, least)


def test_the_file_is_its_owners_alone_and_belongs_to_the_package(made):
    path = made.out.with_suffix(".run") / "canaries.safetensors"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert kept(made).package == open_sound(made.out)[1]["tensors.safetensors"]
    assert b"patients" in path.read_bytes()[:400]


def test_nothing_of_the_canaries_is_in_the_package_or_elsewhere_in_the_run(made):
    card, found = read(made.out).card, kept(made)
    assert verify(made.out).ok
    assert (card.canaries, card.cohort.counts, card.bytes.cohort_train) == (COUNT, "withheld", None)
    assert f"{COUNT} canaries" in card.terms.limits
    assert "not to be shared" in bytes(open_sound(made.out)[0]["README.md"]).decode()
    files = [path for path in made.out.parent.rglob("*") if path.is_file() and path.name != "canaries.safetensors"]
    files = [path.read_bytes() for path in files] + [bytes(data) for data in open_sound(made.out)[0].values()]
    secrets = [image.tobytes() for image in found.images if len(np.unique(image)) > 1]
    assert not any(secret in data for secret in (*secrets, found.included.tobytes()) for data in files)


def test_the_log_does_not_tell_how_the_coins_fell(made):
    for line in (made.out.with_suffix(".run") / "events.jsonl").read_text().splitlines():
        assert not {"canaries", "included", "counts", "images"} & set(json.loads(line))


def test_the_same_request_continues_with_the_same_coins(made):
    before, coin = made.out.read_bytes(), kept(made).included
    made.out.unlink()
    found = run(made)
    assert made.out.read_bytes() == before
    assert (kept(made).included == coin).all()
    assert found.as_dict()["canaries"] == str(made.out.with_suffix(".run") / "canaries.safetensors")


def test_a_run_that_was_killed_before_it_began_leaves_coins_that_count(source, tmp_path, monkeypatch):
    asked = request_in(tmp_path, source)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "_settle_plan", killed)
    with pytest.raises(KeyboardInterrupt):
        run(asked)
    coin = kept(asked).included
    monkeypatch.undo()
    run(asked)
    assert (kept(asked).included == coin).all()


@pytest.mark.parametrize("canaries", [0, 20])
def test_another_number_of_canaries_is_another_run(made, canaries):
    before = kept(made)
    with pytest.raises(InputError, match="belongs to another run"):
        run(replace(made, canaries=canaries))
    assert (kept(made).included == before.included).all()


def test_a_run_without_canaries_is_not_continued_with_them_and_keeps_no_trace(source, tmp_path):
    asked = request_in(tmp_path, source, canaries=0)
    assert run(asked).as_dict()["canaries"] is None
    with pytest.raises(InputError, match="belongs to another run"):
        run(replace(asked, canaries=COUNT))
    assert not (asked.out.with_suffix(".run") / "canaries.safetensors").exists()
    assert read(asked.out).card.canaries == 0


def test_whoever_is_shown_the_package_is_told(made, tmp_path, capsys):
    assert main(["show", str(made.out)]) in (0, 4)
    assert "made to be audited" in capsys.readouterr().out
    api.report(made.out, out=tmp_path / "page.html")
    assert "It was made to be audited" in (tmp_path / "page.html").read_text()
    assert any(name == "canaries" for name, _ in facts(read(made.out)))


def test_such_a_package_is_not_merged(made, tmp_path):
    with pytest.raises(InputError, match="canaries were planted"):
        api.merge([made.out, made.out], tmp_path / "both.mdz")


def test_other_files_are_no_canaries(made, tmp_path):
    with pytest.raises(InputError, match="does not hold canaries"):
        load(made.out)
    with pytest.raises(InputError, match="does not hold canaries"):
        load(made.out.with_suffix(".run") / "distilled.safetensors")
    with pytest.raises(InputError, match="cannot read"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: replace(one, images=one.images.astype(np.float32)), "images are float32"),
        (lambda one: replace(one, images=one.images[:, 0]), "images are uint8 of shape"),
        (lambda one: replace(one, labels=one.labels[1:]), "labels are int64 of shape"),
        (lambda one: replace(one, labels=one.labels - 99), "labels or kinds"),
        (lambda one: replace(one, kinds=one.kinds + np.uint8(9)), "labels or kinds"),
        (lambda one: replace(one, included=one.included.astype(np.uint8)), "included are uint8"),
    ],
)
def test_damaged_canaries_are_refused(prepared, tmp_path, change, said):
    whole = tossed(design(prepared, 8, 0, 2), coins(8))
    change(whole).save(tmp_path / "canaries.safetensors")
    with pytest.raises(InputError, match=f"does not hold canaries.*{said}"):
        load(tmp_path / "canaries.safetensors")


def test_sixteen_bits_are_kept(prepared, tmp_path):
    cohort = prepared.cohort
    deep = replace(prepared, cohort=replace(cohort, images=cohort.images.astype(np.uint16) * 257))
    chosen = design(deep, 8, 0, 2)
    tossed(chosen, coins(8)).save(tmp_path / "canaries.safetensors")
    found = load(tmp_path / "canaries.safetensors")
    assert found.images.dtype == np.uint16
    assert (found.images == chosen.images).all()
