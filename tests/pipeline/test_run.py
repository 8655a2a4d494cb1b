"""Runs from a tiny source to a package, and the ways in which they refuse to start or to go on."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from PIL import Image

from meddistill.cohort.prepare import prepare
from meddistill.distill.loop import distill
from meddistill.distill.methods import DEFAULT_METHOD, METHODS
from meddistill.nets.convnet import parse
from meddistill.package.read import read, verify
from meddistill.pipeline.estimate import Costs
from meddistill.pipeline.evaluate import evaluation_seeds
from meddistill.pipeline.folder import RunFolder, filling
from meddistill.pipeline.plan import override
from meddistill.pipeline.plan_file import read_plan, to_toml
from meddistill.pipeline.request import Request
from meddistill.pipeline.run import Report, run
from meddistill.runtime.errors import InputError, OutputError
from meddistill.runtime.streams import derive
from meddistill.runtime.watch import COMMAND, STATUS
from meddistill.teachers.images import measure_normalisation, split_images
from meddistill.train.baselines import random_real
from meddistill.train.metrics import measure
from meddistill.train.protocol import Protocol, probabilities, real_set, train_network
from meddistill.train.received import received

CPU = torch.device("cpu")

# The least that goes through every stage.
SHORT = """
images_per_class = 2
size = 10
network = "convnet-d2-w4"
[teachers]
count = 2
steps = 9
snapshot_every = 3
batch = 8
[matching]
warm_up = 2
iterations = 3
student_steps = 2
segment = 1
batch = 4
[evaluation]
seeds = 2
"""


@pytest.fixture(scope="module")
def made(source, tmp_path_factory) -> tuple[Request, Report]:
    """One finished run. Tests that change its files work on a copy."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "plan.toml").write_text(SHORT)
    request = Request(source=source, out=folder / "x.mdz", plan=folder / "plan.toml", device="cpu")
    return request, run(request)


@pytest.fixture
def request_again(made, tmp_path) -> Request:
    """The same request in a folder that holds a copy of the finished run."""
    request, _ = made
    shutil.copytree(request.out.parent, tmp_path / "copy")
    return replace(request, out=tmp_path / "copy" / "x.mdz", plan=tmp_path / "copy" / "plan.toml")


@pytest.fixture
def fresh(source, tmp_path) -> Request:
    (tmp_path / "plan.toml").write_text(SHORT)
    return Request(source=source, out=tmp_path / "x.mdz", plan=tmp_path / "plan.toml", device="cpu")


def files(folder: Path) -> list[str]:
    """All but what is there to be watched (tests/pipeline/test_watch.py)."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "snapshots")
    return sorted(str(path.relative_to(folder)) for path in found if path.name not in (STATUS, COMMAND))


def kinds(run_folder: Path) -> list[str]:
    return [json.loads(line)["event"] for line in (run_folder / "events.jsonl").read_text().splitlines()]


def test_the_files_of_a_run(made):
    request, report = made
    assert report.package == request.out
    assert report.bytes == request.out.stat().st_size
    with Image.open(report.preview) as preview:
        assert preview.format == "PNG"
    assert files(request.out.parent) == [
        "plan.toml",
        "x.mdz",
        "x.png",
        "x.run/distilled.safetensors",
        "x.run/events.jsonl",
        "x.run/lock",
        "x.run/plan.toml",
        "x.run/run.json",
        "x.run/scores.json",
        "x.run/teachers/curve-2x4.json",
        "x.run/teachers/lock",
        "x.run/teachers/teacher-0000.safetensors",
        "x.run/teachers/teacher-0001.safetensors",
        "x.run/teachers/teachers.json",
    ]
    told = kinds(report.run)
    assert (told[0], told[-1], told.count("teacher"), told.count("evaluated")) == ("begun", "written", 2, 4)


def test_the_card_says_what_was_done(made):
    package = read(made[0].out)
    card = package.card
    assert package.images.shape == (4, 1, 10, 10)
    assert package.labels.argmax(1).tolist() == [0, 0, 1, 1]
    assert card.task.classes == ("clear", "ill")
    assert (card.images.count, card.images.per_class, card.images.size, card.images.channels) == (4, 2, 10, 1)
    assert card.cohort.counts == {
        split: {"clear": n, "ill": n} for split, n in (("train", 28), ("val", 4), ("test", 8))
    }
    assert card.bytes.cohort_train == 56 * 100
    assert (card.recipe.method, card.recipe.start, card.recipe.seed) == ("meddistill", "prototypes", 0)
    assert card.recipe.network == card.results.network == "convnet-d2-w4"
    assert card.recipe.plan["leak"] == "stop"
    assert card.recipe.plan["teachers.steps"] == 9
    assert card.contains_real_images is False
    assert verify(made[0].out).ok


def test_small_images_are_stored_small_and_measured_enlarged(fresh):
    request = replace(fresh, size=16)
    report = run(request)
    package = read(request.out)
    assert (package.card.images.size, package.card.images.stored) == (16, 8)
    assert (package.card.images.count, package.card.images.per_class) == (16, 8)
    assert package.images.shape == (16, 1, 8, 8)
    assert report.random_bytes == 4 * 16 * 16  # as many pixels as two real images of each class
    cohort = prepare(request.source, size=16, images_per_class=2, seed=0).cohort
    test = split_images(cohort, "test", measure_normalisation(cohort), CPU)
    data = received(package.enlarged, package.labels, test.normalisation, CPU)
    network = parse(package.card.recipe.network, channels=1, size=16, classes=2)
    params = train_network(network, data, Protocol(), evaluation_seeds(0, 2)[0])
    scores = measure(probabilities(network, params, test), test.labels.numpy())
    told = package.card.results.splits["test"]["distilled"]["balanced_accuracy"].per_seed[0]
    assert told == pytest.approx(scores.balanced_accuracy, abs=1e-5)


def test_the_normalisation_is_that_of_the_training_images(made):
    """The cohort's training mean is near the mean of all its images, of which training has seven in ten."""
    request, _ = made
    pixels = np.stack([np.asarray(Image.open(path)) for path in request.source.rglob("*.png")]) / 255
    card = read(request.out).card
    assert card.normalisation.mean[0] == pytest.approx(pixels.mean(), abs=0.01)
    assert card.normalisation.std[0] == pytest.approx(pixels.std(), abs=0.01)


def test_results_have_both_rows_on_both_splits(made):
    _, report = made
    results = read(made[0].out).card.results
    assert {split: set(rows) for split, rows in results.splits.items()} == {
        "val": {"distilled", "random"},
        "test": {"distilled", "random"},
    }
    told = report.as_dict()["results"]
    for split, rows in results.splits.items():
        for row, scores in rows.items():
            for name in ("balanced_accuracy", "auroc", "accuracy"):
                score = scores[name]
                assert score.per_seed == pytest.approx(told[split][row][name]["per_seed"], abs=1e-5)
                assert len(score.per_seed) == results.seeds == 2
                assert score.low <= score.mean <= score.high
                assert score.mean == pytest.approx(np.mean(score.per_seed), abs=1e-5)


def test_nothing_in_the_package_or_the_log_names_a_file(made):
    request, report = made
    for path in (request.out, report.preview, *report.run.rglob("*")):
        if path.is_file():
            assert b"mueller" not in path.read_bytes(), path
            assert str(request.source).encode() not in path.read_bytes(), path


def test_real_start_images_mark_the_package(fresh):
    run(replace(fresh, start="real"))
    card = read(fresh.out).card
    assert card.recipe.start == "real"
    assert card.contains_real_images is True


def test_the_same_request_gives_the_same_bytes_without_doing_it_again(request_again):
    before = request_again.out.read_bytes()
    told = kinds(request_again.out.with_suffix(".run"))
    request_again.out.unlink()
    run(request_again)
    assert request_again.out.read_bytes() == before
    new = kinds(request_again.out.with_suffix(".run"))[len(told) :]
    assert set(new) == {"continued", "window", "resources", "written"}  # nothing taught, distilled or evaluated


def test_the_same_request_elsewhere_gives_the_same_bytes(fresh, made):
    run(fresh)
    assert fresh.out.read_bytes() == made[0].out.read_bytes()


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"images_per_class": 1}, {"method": "mtt"}, {"start": "noise"}, {"fit": "pad"}, {"leak": "allow"}],
    ids=lambda other: next(iter(other)),
)
def test_another_option_does_not_continue_the_run(request_again, other):
    before = {name: (request_again.out.parent / name).read_bytes() for name in files(request_again.out.parent)}
    with pytest.raises(InputError, match=r"belongs to another run.*--run"):
        run(replace(request_again, **other))
    assert before == {name: (request_again.out.parent / name).read_bytes() for name in files(request_again.out.parent)}


def test_other_images_do_not_continue_the_run(request_again, tmp_path):
    shutil.copytree(request_again.source, tmp_path / "pictures")
    path = next((tmp_path / "pictures" / "ill").iterdir())
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    with pytest.raises(InputError, match="other images"):
        run(replace(request_again, source=tmp_path / "pictures"))


def test_an_edited_plan_in_the_run_folder_does_not_continue(request_again):
    plan = request_again.out.with_suffix(".run") / "plan.toml"
    plan.write_text(plan.read_text().replace("iterations = 3", "iterations = 4"))
    with pytest.raises(InputError, match="edited plan"):
        run(request_again)


@pytest.mark.parametrize("name", ["run.json", "scores.json", "distilled.safetensors", "teachers/curve-2x4.json"])
def test_a_broken_file_in_the_run_folder_is_named(request_again, name):
    path = request_again.out.with_suffix(".run") / name
    path.write_bytes(path.read_bytes()[:7])
    with pytest.raises(InputError, match="delete it") as raised:
        run(request_again)
    assert str(path if name != "run.json" else path.parent) in str(raised.value)


def test_a_run_folder_in_use_is_left_alone(request_again):
    folder = request_again.out.with_suffix(".run")
    hold = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, folder / "lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(InputError, match="in use by another process"):
            run(request_again)
    finally:
        holder.communicate()
    run(request_again)


def test_leftovers_of_a_killed_process_are_removed(request_again):
    folder = request_again.out.with_suffix(".run")
    for place in (folder, folder / "teachers"):
        (place / ".scores.json.1.abc.tmp").write_bytes(b"half")
    # what is there between writing a whole trajectory and deleting its part
    (folder / "teachers" / "teacher-0001.part.safetensors").write_bytes(b"half")
    run(request_again)
    assert not [*folder.rglob("*.tmp"), *folder.rglob("*.part.*")]


def test_runs_share_a_folder_of_teachers(fresh, tmp_path):
    teachers = tmp_path / "teachers"
    run(replace(fresh, teachers=teachers))
    times = {path.name: path.stat().st_mtime_ns for path in teachers.iterdir()}
    second = replace(fresh, teachers=teachers, out=tmp_path / "y.mdz", images_per_class=1, method="mtt")
    run(second)
    assert times == {path.name: path.stat().st_mtime_ns for path in teachers.iterdir()}
    assert "teacher" not in kinds(tmp_path / "y.run")
    assert not (tmp_path / "y.run" / "teachers").exists()
    assert read(second.out).card.images.per_class == 1

    for other in ({"seed": 3}, {"network": "convnet-d2-w8"}, {"fit": "stretch"}):
        with pytest.raises(InputError, match=r"other images or by another plan.*--teachers"):
            run(replace(fresh, teachers=teachers, out=tmp_path / "z.mdz", run=tmp_path / next(iter(other)), **other))
    assert not (tmp_path / "z.mdz").exists()
    assert times == {path.name: path.stat().st_mtime_ns for path in teachers.iterdir()}


def test_without_seeds_nothing_is_measured_and_a_source_may_be_read_before(fresh):
    fresh.plan.write_text(SHORT.replace("seeds = 2", "seeds = 0"))
    told = prepare(fresh.source, size=10, images_per_class=2)
    report = run(fresh, prepared=told)
    assert report.as_dict()["results"] == {}
    assert read(fresh.out).card.results is None
    assert "evaluated" not in kinds(report.run)
    assert not (report.run / "scores.json").exists()


def test_a_folder_of_teachers_is_added_to(fresh, tmp_path):
    """More teachers and longer trajectories train only what is missing, and shorter plans use what is there."""
    teachers = tmp_path / "teachers"
    run(replace(fresh, teachers=teachers))
    before = {path.name: path.read_bytes() for path in teachers.glob("teacher-*")}
    for name, change in (("more", ("count = 2", "count = 3")), ("longer", ("steps = 9", "steps = 12"))):
        (tmp_path / f"{name}.toml").write_text(SHORT.replace(*change))
        out = tmp_path / f"{name}.mdz"
        run(replace(fresh, teachers=teachers, plan=tmp_path / f"{name}.toml", out=out))
        told = [json.loads(line) for line in (tmp_path / f"{name}.run" / "events.jsonl").read_text().splitlines()]
        taught = [event["teacher"] for event in told if event["event"] == "teacher"]
        assert taught == {"more": [2], "longer": [0, 1]}[name]
        if name == "more":
            assert all((teachers / teacher).read_bytes() == before[teacher] for teacher in before)
    again = replace(fresh, teachers=teachers, out=tmp_path / "again.mdz")
    run(again)
    assert "teacher" not in kinds(tmp_path / "again.run")
    assert again.out.read_bytes() == fresh.out.read_bytes()

    (tmp_path / "decay.toml").write_text(SHORT.replace("steps = 9", "steps = 9\ndecay = true"))
    with pytest.raises(InputError, match="by another plan"):
        run(replace(fresh, teachers=teachers, plan=tmp_path / "decay.toml", out=tmp_path / "decay.mdz"))


def test_teachers_of_another_kind_of_device_are_used_whole_and_never_trained_on(fresh, tmp_path):
    teachers = tmp_path / "teachers"
    run(replace(fresh, teachers=teachers))
    mark, more = teachers / "teachers.json", tmp_path / "more.toml"
    assert json.loads(mark.read_text())["device"] == "cpu"
    more.write_text(SHORT.replace("count = 2", "count = 3"))
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"device": "cuda"}))
    times = {path.name: path.stat().st_mtime_ns for path in teachers.iterdir()}
    run(replace(fresh, teachers=teachers, out=tmp_path / "y.mdz"))
    longer = replace(fresh, teachers=teachers, plan=more, out=tmp_path / "z.mdz")
    with pytest.raises(InputError, match=r"another kind of device \(cuda\).*Train them with --device cuda"):
        run(longer)
    assert times == {path.name: path.stat().st_mtime_ns for path in teachers.iterdir()}
    # Folders of before do not say where they were trained.
    mark.write_text(json.dumps({"identity": json.loads(mark.read_text())["identity"]}))
    run(longer)
    assert (teachers / "teacher-0002.safetensors").exists()


def test_a_folder_of_teachers_that_another_run_fills_is_left_alone(fresh, tmp_path, monkeypatch):
    monkeypatch.setattr("meddistill.pipeline.folder._PATIENCE", 0.0)
    teachers = tmp_path / "teachers"
    with (
        filling(teachers, "another run's", "cpu"),
        pytest.raises(InputError, match=r"another run is training.*--teachers"),
    ):
        run(replace(fresh, teachers=teachers))
    assert files(teachers) == ["lock", "teachers.json"]


@pytest.mark.parametrize("storage", ["int16", "convex2"])
def test_a_run_on_trajectories_in_fewer_bytes(fresh, storage):
    fresh.plan.write_text(SHORT.replace("[matching]", f'storage = "{storage}"\noptimiser = "gsam"\n[matching]'))
    report = run(fresh)
    assert read(fresh.out).card.recipe.plan["teachers.storage"] == storage
    assert report.plan.teachers.optimiser == "gsam"


@pytest.mark.parametrize(("asked", "smoothing"), [(-1, 0), (0, 0), (1, 1)])
def test_trajectories_are_smoothed_as_the_plan_says_and_the_card_and_the_log_say_so(fresh, matched, asked, smoothing):
    fresh.plan.write_text(SHORT.replace("segment = 1", f"segment = 1\nsmoothing = {asked}"))
    report = run(fresh)
    assert [matching.smoothing for matching in matched] == [smoothing]
    assert read(fresh.out).card.recipe.plan.get("matching.smoothing", 0) == smoothing
    begun = json.loads((report.run / "events.jsonl").read_text().splitlines()[0])
    assert begun["plan"] == json.loads(json.dumps(report.plan.in_force()))
    assert begun["plan"]["matching"]["smoothing"] == smoothing


@pytest.mark.parametrize(("asked", "batch"), [(0, 32), (3, 3)])
def test_card_and_log_tell_the_batch_that_students_had(fresh, asked, batch):
    fresh.plan.write_text(SHORT.replace("batch = 4", f"batch = {asked}"))
    report = run(fresh)
    assert read(fresh.out).card.recipe.plan["matching.batch"] == batch
    begun = json.loads((report.run / "events.jsonl").read_text().splitlines()[0])
    assert (begun["plan"]["matching"]["batch"], report.plan.matching.batch) == (batch, asked)


def test_leaks_stop_a_run_before_it_leaves_anything(fresh, tmp_path, source):
    for split, start, end in (("train", 0, 20), ("val", 20, 30), ("test", 30, 40)):
        for name in ("clear", "ill"):
            (tmp_path / "split" / split / name).mkdir(parents=True)
            for path in sorted((source / name).iterdir())[start:end]:
                shutil.copy(path, tmp_path / "split" / split / name)
    copied = sorted((tmp_path / "split" / "train" / "clear").iterdir())
    shutil.copy(copied[0], tmp_path / "split" / "val" / "clear" / "copy-a.png")
    shutil.copy(copied[1], tmp_path / "split" / "test" / "clear" / "copy-b.png")
    leaking = replace(fresh, source=tmp_path / "split", out=tmp_path / "out" / "x.mdz")
    with pytest.raises(InputError) as raised:
        run(leaking)
    message = str(raised.value)
    for expected in ("copy-a.png", "copy-b.png", "--resplit", "--drop-leak", "--allow-leak"):
        assert expected in message
    assert files(tmp_path / "out") == []

    run(replace(leaking, leak="drop"))
    card = read(leaking.out).card
    assert card.recipe.plan["leak"] == "drop"
    assert [sum(card.cohort.counts[split].values()) for split in ("train", "val", "test")] == [39, 20, 21]


def test_a_machine_slower_than_planned_for_stops_in_time_and_says_so(fresh, monkeypatch):
    plan = read_plan(fresh.plan)
    far = replace(plan, matching=replace(plan.matching, iterations=200_000))
    free = Costs(teacher_step=0.0, warm_up=0.0, iteration=0.0, evaluation=0.0, full=0.0)
    monkeypatch.setattr("meddistill.pipeline.run.fit_to_time", lambda *_, **__: (far, free))
    request = replace(fresh, plan=None, size=10, seconds=2.0)
    report = run(request)
    made = report.plan.matching.iterations
    assert 20 <= made < 200_000
    card = read(request.out).card
    assert card.recipe.plan["matching.iterations"] == made

    before = request.out.read_bytes()
    run(request)  # continues the run, which is at its end
    assert request.out.read_bytes() == before
    kept = request.out.with_suffix(".run") / "plan.toml"
    by_plan = replace(fresh, plan=kept, out=fresh.out.with_name("y.mdz"))
    run(by_plan)
    assert by_plan.out.read_bytes() == before


def test_a_kill_between_the_two_files_of_an_amended_plan_leaves_the_run_resumable(request_again):
    folder = RunFolder(request_again.out.with_suffix(".run"))
    text, before = folder.plan_file.read_text(), read_plan(folder.plan_file)
    folder.amend(replace(before, matching=replace(before.matching, iterations=2)))
    folder.plan_file.write_text(text)
    run(request_again)


def test_a_plan_and_a_time_exclude_each_other(fresh, tmp_path):
    with pytest.raises(InputError, match="one of --plan and --time"):
        run(replace(fresh, seconds=60.0))
    assert files(tmp_path) == ["plan.toml"]


@pytest.mark.parametrize("name", ["x.png", "x.run"])
def test_a_package_does_not_take_its_neighbours_place(fresh, name):
    with pytest.raises(InputError, match=r"is no name for a package.*ending \.mdz"):
        run(replace(fresh, out=fresh.out.with_name(name)))


def test_a_class_name_that_points_to_a_patient_is_refused_at_once(fresh, tmp_path, source):
    shutil.copytree(source, tmp_path / "pictures")
    (tmp_path / "pictures" / "ill").rename(tmp_path / "pictures" / "2020-01-02")
    with pytest.raises(InputError, match="a date"):
        run(replace(fresh, source=tmp_path / "pictures"))
    assert not fresh.out.with_suffix(".run").exists()


def test_an_output_below_a_file_is_refused_before_any_work(fresh, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="a file, not a folder"):
        run(replace(fresh, out=tmp_path / "file" / "x.mdz"))
    with pytest.raises(OutputError, match="a file, not a folder"):
        run(replace(fresh, run=tmp_path / "file"))
    (tmp_path / "folder.mdz").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        run(replace(fresh, out=tmp_path / "folder.mdz"))
    assert files(tmp_path) == ["file", "plan.toml"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB; only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("mounting a small file system takes root")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a small file system here: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_fills_up_while_teaching(fresh, small_disk):
    (small_disk / "ballast").write_bytes(b"0" * 40_000)
    full = replace(fresh, out=small_disk / "x.mdz")
    with pytest.raises(OutputError, match="the disk is full"):
        run(full)
    assert not [name for name in files(small_disk) if name.endswith((".tmp", ".probe", ".mdz"))]


def test_a_disk_that_is_full_when_the_package_is_written(fresh, small_disk, made):
    (small_disk / "ballast").write_bytes(b"0" * 64 * 1024)
    request = replace(fresh, out=small_disk / "x.mdz", run=fresh.out.with_suffix(".run"))
    with pytest.raises(OutputError, match=r"x\.mdz: the disk is full"):
        run(request)
    assert files(small_disk) == ["ballast"]
    (small_disk / "ballast").unlink()
    run(request)
    assert request.out.read_bytes() == made[0].out.read_bytes()


def test_the_random_row_is_the_mean_of_several_sets_for_each_seed(fresh, made, tmp_path):
    fresh.plan.write_text(SHORT + "random_sets = 3\n")
    found = run(fresh).evaluated.results["test"]
    once = made[1].evaluated.results["test"]
    assert found["distilled"] == once["distilled"]
    fresh.plan.write_text(SHORT + "random_sets = 0\n")
    assert "random" not in run(replace(fresh, out=tmp_path / "y.mdz")).evaluated.results["test"]

    # every set of a seed, trained by hand
    cohort = prepare(fresh.source, size=10, images_per_class=2, seed=0).cohort
    data = {split: split_images(cohort, split, measure_normalisation(cohort), CPU) for split in ("train", "test")}
    network = parse("convnet-d2-w4", channels=1, size=10, classes=2)
    for seed, mean in zip(evaluation_seeds(0, 2), found["random"]["auroc"].per_seed, strict=True):
        scores = []
        for chosen_by in (seed, derive(seed, "random set", 1), derive(seed, "random set", 2)):
            params = train_network(network, real_set(random_real(data["train"], 2, chosen_by)), Protocol(), seed)
            labels = data["test"].labels.numpy()
            scores.append(measure(probabilities(network, params, data["test"]), labels).auroc)
        assert mean == pytest.approx(fmean(scores))
    assert once["random"] != found["random"]


def test_what_a_kill_left_beside_the_package_is_removed(request_again):
    folder = request_again.out.parent
    for name in (".x.mdz.17.ab12.tmp", ".x.png.17.ab12.tmp", ".y.mdz.17.ab12.tmp"):
        (folder / name).write_bytes(b"half")
    run(request_again)
    assert [path.name for path in folder.glob(".*")] == [".y.mdz.17.ab12.tmp"], "another file's is not ours to delete"


def test_terms_stand_on_the_card_and_counts_can_be_withheld(request_again):
    report = run(replace(request_again, licence="CC BY 4.0", terms="Ask us first.", withhold_counts=True))
    package = read(request_again.out)
    assert (package.card.terms.licence, package.card.terms.terms_of_use) == ("CC BY 4.0", "Ask us first.")
    assert package.card.cohort.counts == "withheld"
    assert package.card.bytes.cohort_train is None
    assert report.cohort_bytes == 56 * 100, "the sender is told nevertheless"


def test_unfit_terms_stop_a_run_at_once(fresh):
    with pytest.raises(InputError, match=r"--licence: .*a viewer might run"):
        run(replace(fresh, licence="<script>"))
    assert files(fresh.out.parent) == ["plan.toml"]


def test_what_a_package_cannot_hold_stops_a_run_at_once(fresh, monkeypatch):
    monkeypatch.setattr("meddistill.package.limits.MAX_IMAGES", 3)
    with pytest.raises(InputError, match="4 images; a package holds at most 3"):
        run(fresh)
    assert files(fresh.out.parent) == ["plan.toml"]


@pytest.mark.parametrize(("logarithm", "written"), [(500.0, 1e6), (-500.0, 1e-12)])
def test_extreme_step_sizes_do_not_spoil_a_run_at_its_end(request_again, monkeypatch, logarithm, written):
    def extreme(*arguments, **options):
        return replace(distill(*arguments, **options), log_steps=torch.tensor([logarithm]))

    monkeypatch.setattr("meddistill.pipeline.run.distill", extreme)
    run(request_again)
    assert read(request_again.out).step_sizes.tolist() == [np.float32(written)]


# Of images as small as these the default is mtt-soft by another name.
@pytest.mark.parametrize("name", [name for name in METHODS if name not in (DEFAULT_METHOD, "mtt-soft")])
def test_every_method_makes_a_package_of_its_own(fresh, made, name):
    plan = override(read_plan(fresh.plan), method=name)
    fresh.plan.write_text(to_toml(replace(plan, matching=replace(plan.matching, iterations=6))))
    run(fresh)
    package = read(fresh.out)
    assert package.card.recipe.method == name
    assert package.card.task.labels == ("soft" if METHODS[name].labels != "hard" else "hard")
    assert not np.array_equal(package.images, read(made[0].out).images)
    assert ("overlap" in kinds(fresh.out.with_suffix(".run"))) == METHODS[name].mitigates_overlap
