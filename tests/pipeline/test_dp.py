"""Runs under differential privacy: what they leave, what they cannot reach, what they state, what they refuse."""

import json
import shutil
from dataclasses import replace

import pytest

from meddistill.cohort.prepare import prepare
from meddistill.package.read import read, verify
from meddistill.pipeline import run as running
from meddistill.pipeline.dp import unit_of
from meddistill.pipeline.request import Request
from meddistill.pipeline.run import run
from meddistill.privacy.accountant import Event, gaussian_noise, spent
from meddistill.runtime.errors import InputError

SHORT = """
images_per_class = 2
size = 10
network = "convnet-d2-w4"
[teachers]
count = {count}
steps = 9
snapshot_every = 3
[matching]
iterations = 3
student_steps = 2
segment = 1
batch = 4
[evaluation]
seeds = {seeds}
[privacy]
shards = {shards}
looks = 4
"""


def request_in(folder, source, route: str, count: int = 1, shards: str = "false", seeds: int = 0) -> Request:
    folder.mkdir(exist_ok=True)
    (folder / "plan.toml").write_text(SHORT.format(count=count, shards=shards, seeds=seeds))
    return Request(
        source=source, out=folder / "x.mdz", plan=folder / "plan.toml", device="cpu", epsilon=4.0, dp_route=route
    )


@pytest.fixture(scope="module", params=["statistics", "teachers"])
def made(request, source, tmp_path_factory) -> Request:
    asked = request_in(tmp_path_factory.mktemp(request.param), source, request.param, seeds=1)
    run(asked)
    return asked


def test_the_card_states_what_is_proved(made):
    card = read(made.out).card
    stated = card.privacy
    assert verify(made.out).ok
    assert (stated.epsilon, stated.delta, stated.unit, stated.route) == (4.0, 1e-5, "image", made.dp_route)
    assert card.cohort.counts == "withheld"
    assert card.bytes.cohort_train is None
    assert (card.normalisation.mean, card.normalisation.std) == ((0.5,), (0.25,))
    assert (card.recipe.start, card.contains_real_images) == ("noise", False)
    assert {row for rows in card.results.splits.values() for row in rows} == {"distilled"}
    assert "differential privacy" in card.terms.limits
    if made.dp_route == "statistics":
        assert {(look.steps, look.sampling_rate, look.groups) for look in stated.history} == {(1, 1.0, 1)}
        together = sum(look.noise_multiplier**-2 for look in stated.history) ** -0.5
        assert together == pytest.approx(gaussian_noise(4.0, 1e-5))
        assert (card.recipe.method, card.task.labels) == ("dm", "hard")
    else:
        counting, training = stated.history
        assert (training.steps, training.sampling_rate) == (9, 0.05)
        events = [
            Event(one.mechanism, one.noise_multiplier, one.sampling_rate, one.steps) for one in (counting, training)
        ]
        assert 3.9 < spent(events, 1e-5) <= 4.0


def test_the_run_folder_holds_the_release_and_nothing_else_of_patients(made):
    folder = made.out.with_suffix(".run")
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.parent.name != "snapshots"}
    common = {"distilled.safetensors", "events.jsonl", "lock", "plan.toml", "run.json", "scores.json"}
    common |= {"released.json", "snapshots", "status.json"}  # a digest, of the synthetic images, of the process
    routes = {
        "statistics": {"release.safetensors"},
        "teachers": {
            "teachers",
            *(f"teachers/{name}" for name in ("counts.json", "lock", "teacher-0000.safetensors", "teachers.json")),
        },
    }
    assert files == common | routes[made.dp_route]


def test_the_same_request_continues_without_a_second_release(made, tmp_path):
    again = copied(made, tmp_path)
    before = contents(again)
    again.out.unlink()
    run(again)
    assert contents(again) == before


def test_no_run_goes_on_from_another_release(made, tmp_path):
    again = copied(made, tmp_path)
    before = contents(again)
    seen = {"statistics": "release.safetensors", "teachers": "teachers/teacher-0000.safetensors"}[made.dp_route]
    (again.out.with_suffix(".run") / seen).rename(tmp_path / "kept")
    with pytest.raises(InputError, match="is gone, and releasing anew would spend epsilon once more"):
        run(again)
    (
        again.out.with_suffix(".run") / "released.json"
    ).unlink()  # the images in the folder were matched to it all the same
    with pytest.raises(InputError, match="is gone, and releasing anew would spend epsilon once more"):
        run(again)
    (tmp_path / "kept").rename(again.out.with_suffix(".run") / seen)
    run(again)
    assert contents(again) == before


def test_no_run_goes_on_with_other_teachers(source, tmp_path):
    """A set that was matched to two releases would state the epsilon of one."""
    asked = request_in(tmp_path, source, "teachers")
    run(asked)
    other = request_in(tmp_path / "other", source, "teachers")
    run(other)
    with pytest.raises(InputError, match="began from another noised release"):
        run(replace(asked, teachers=other.out.with_suffix(".run") / "teachers"))
    with pytest.raises(InputError, match="is gone, and releasing anew would spend epsilon once more"):
        run(replace(asked, teachers=tmp_path / "fresh"))
    assert not list((tmp_path / "fresh").glob("*.safetensors"))


@pytest.mark.parametrize("route", ["statistics", "teachers"])
def test_no_run_for_images_goes_on_as_one_for_patients(source, tmp_path, route):
    asked = replace(request_in(tmp_path, source, route), leak="resplit")
    run(asked)
    assert read(asked.out).card.privacy.unit == "image"
    before = asked.out.read_bytes()
    options = replace(asked.options, patient_pattern=r"mueller-(\d+)")
    assert unit_of(prepare(source, size=10, options=options, leak="resplit")) == "patient"
    with pytest.raises(InputError, match="belongs to another run"):
        run(replace(asked, options=options))
    if route == "teachers":
        teachers = asked.out.with_suffix(".run") / "teachers"
        with pytest.raises(InputError, match="trained on other images or by another plan"):
            run(replace(asked, options=options, run=tmp_path / "new.run", teachers=teachers))
    assert asked.out.read_bytes() == before


def test_a_release_for_another_epsilon_is_refused(source, tmp_path):
    asked = request_in(tmp_path, source, "statistics")
    other = replace(request_in(tmp_path / "other", source, "statistics"), epsilon=8.0)
    run(asked)
    run(other)
    (tmp_path / "x.run" / "released.json").unlink()
    shutil.copy(tmp_path / "other" / "x.run" / "release.safetensors", tmp_path / "x.run")
    with pytest.raises(InputError, match="epsilon 8, delta 1e-05 and 4 looks, not for 4, 1e-05 and 4"):
        run(asked)


def test_nothing_behind_the_release_touches_training_images(made, tmp_path, monkeypatch):
    """All that was made of the release is made again after every training image and label has been wiped out."""
    again, wiped = copied(made, tmp_path), []
    before = again.out.read_bytes()
    prepared = prepare(made.source, size=10, images_per_class=2)

    def protect_and_wipe(plan, network, patients, *others):
        found = real(plan, network, patients, *others)
        rows = prepared.cohort.indices("train")
        prepared.cohort.images[rows], prepared.cohort.labels[rows] = 0, 0
        patients.images.pixels.zero_()
        patients.images.labels.zero_()
        wiped.append(len(patients.images))
        return found

    real = running.protect
    monkeypatch.setattr(running, "protect", protect_and_wipe)
    for name in ("distilled.safetensors", "scores.json"):
        (again.out.with_suffix(".run") / name).unlink()
    again.out.unlink()
    run(again, prepared=prepared)
    assert wiped == [56]
    assert again.out.read_bytes() == before


def test_what_distilling_is_given_has_no_images(made, tmp_path, matched):
    run(copied(made, tmp_path))
    (matching,) = matched
    assert len(matching.real) == 0
    assert matching.real.pixels.untyped_storage().nbytes() == 0


def test_noised_trajectories_are_smoothed_as_the_plan_says(source, tmp_path, matched):
    asked = request_in(tmp_path, source, "teachers")
    asked.plan.write_text(asked.plan.read_text().replace("segment = 1", "segment = 1\nsmoothing = 1"))
    run(asked)
    assert [matching.smoothing for matching in matched] == [1]


def test_noise_does_not_follow_from_the_seed(made, tmp_path, source):
    fresh = request_in(tmp_path, source, made.dp_route)
    run(fresh)
    assert (read(fresh.out).images != read(made.out).images).any()
    assert read(fresh.out).card.privacy == read(made.out).card.privacy


def test_a_run_that_was_killed_between_teachers_keeps_those_that_are_there(source, tmp_path, monkeypatch):
    asked = request_in(tmp_path, source, "teachers", count=2)
    real, calls = running.protect.__globals__["train_noisily"], []

    def killed(*arguments, **more):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **more)

    monkeypatch.setitem(running.protect.__globals__, "train_noisily", killed)
    with pytest.raises(KeyboardInterrupt):
        run(asked)
    first = (asked.out.with_suffix(".run") / "teachers" / "teacher-0000.safetensors").read_bytes()
    counts = (asked.out.with_suffix(".run") / "teachers" / "counts.json").read_bytes()
    run(asked)
    assert len(calls) == 3
    assert (asked.out.with_suffix(".run") / "teachers" / "teacher-0000.safetensors").read_bytes() == first
    assert (asked.out.with_suffix(".run") / "teachers" / "counts.json").read_bytes() == counts
    assert read(asked.out).card.privacy.history[1].steps == 18


def test_teachers_with_patients_of_their_own_share_no_budget(source, tmp_path):
    asked = request_in(tmp_path, source, "teachers", count=2, shards="true")
    run(asked)
    _, training = read(asked.out).card.privacy.history
    assert (training.steps, training.groups) == (9, 2)


def test_teachers_that_see_everybody_in_every_step_have_groups_as_well(source, tmp_path):
    asked = request_in(tmp_path, source, "teachers", count=2, shards="true")
    asked.plan.write_text(asked.plan.read_text() + "sampling_rate = 1.0\n")
    run(asked)
    counting, training = read(asked.out).card.privacy.history
    assert (counting.groups, training.groups, training.sampling_rate) == (1, 2, 1.0)


def test_the_unit_is_the_patient_where_all_images_have_one(source, tmp_path):
    asked = replace(
        request_in(tmp_path, source, "statistics"),
        options=replace(Request(source, tmp_path).options, patient_pattern=r"mueller-\d+(\d)"),
        leak="resplit",
    )
    with pytest.raises(InputError):  # ten patients, all in both classes: this only shows that the pattern is used
        run(replace(asked, leak="stop", epsilon=None, delta=1.0))
    run(asked)
    assert read(asked.out).card.privacy.unit == "patient"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": "real"}, "start is real, which shows patients"),
        ({"start": "prototypes"}, "start is prototypes"),
        ({"seconds": 60.0, "plan": None}, "leave --time out"),
        ({"leak": "allow"}, "--allow-leak and an epsilon"),
        ({"epsilon": None, "delta": 1e-6, "dp_route": None}, "need an --epsilon above 0"),
        ({"epsilon": 0.0}, "need an --epsilon above 0"),
        ({"epsilon": -1.0}, "privacy.epsilon is -1.0"),
        ({"delta": 0.5}, "privacy.delta is 0.5"),
        ({"delta": 0.1}, r"a delta of 0.1 for \d\d patients promises nothing.*at most 0.00"),
        ({"method": "mtt"}, "the statistics are those of dm"),
        ({"dp_route": "teachers", "method": "dm"}, "looks at real images"),
        ({"dp_route": "teachers", "method": "ftd"}, "needs flat teachers"),
        ({"random_sets": 1}, "random_sets trains on real images"),
        ({"full_row": True}, "full_data trains on real images"),
    ],
    ids=str,
)
def test_what_would_look_past_the_accountant_is_refused(source, tmp_path, changes, message):
    asked = request_in(tmp_path, source, "statistics")
    with pytest.raises(InputError, match=message):
        run(replace(asked, **changes))
    assert not asked.out.exists()
    assert not asked.out.with_suffix(".run").exists()


def copied(made: Request, folder) -> Request:
    shutil.copytree(made.out.parent, folder / "copy")
    return replace(made, out=folder / "copy" / "x.mdz", plan=folder / "copy" / "plan.toml")


def contents(asked: Request) -> dict[str, bytes]:
    """All files but the log and the status, which go on, and the checkpoint, whose names are in no order."""
    new = ("events.jsonl", "distilled.safetensors", "status.json")
    files = (path for path in asked.out.parent.rglob("*") if path.is_file() and path.name not in new)
    return {str(path): path.read_bytes() for path in files}


def test_the_event_log_tells_no_numbers_of_patients(made):
    for line in (made.out.with_suffix(".run") / "events.jsonl").read_text().splitlines():
        assert not {"patients", "counts", "images"} & set(json.loads(line))
