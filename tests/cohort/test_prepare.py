import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from meddistill.cohort.prepare import CohortError, prepare, propose_size, survey
from meddistill.cohort.problems import in_order, problem
from meddistill.cohort.read import ReadOptions
from meddistill.runtime.errors import InputError
from meddistill.runtime.progress import Silent

SKIPPING = ReadOptions(skip_unreadable=True)


def codes(problems, level=None):
    return [found.code for found in problems if level in (None, found.level)]


def test_errors_stand_before_leaks_and_leaks_before_warnings():
    found = [
        problem(code, level, "what", ["here"], "remedy")
        for code, level in (("a", "warning"), ("b", "leak"), ("c", "error"), ("d", "error"))
    ]
    assert codes(in_order(found)) == ["c", "d", "b", "a"]


def named(problems, code):
    return next(found for found in problems if found.code == code)


def test_a_clean_source_becomes_a_cohort(class_folders):
    prepared = prepare(class_folders, size=8)
    cohort = prepared.cohort
    assert cohort.images.shape == (40, 1, 8, 8)
    assert cohort.images.dtype == np.uint8
    assert cohort.labels.dtype == np.int64
    assert cohort.classes == ("cat", "dog")
    assert [cohort.counts(split) for split in ("train", "val", "test")] == [
        {"cat": 14, "dog": 14},
        {"cat": 2, "dog": 2},
        {"cat": 4, "dog": 4},
    ]
    assert prepared.problems == ()
    assert prepared.fingerprint.split_origin == "assigned"
    again = prepare(class_folders, size=8).cohort
    np.testing.assert_array_equal(again.images, cohort.images)
    np.testing.assert_array_equal(again.splits, cohort.splits)
    assert (prepare(class_folders, size=8, seed=1).cohort.splits != cohort.splits).any()


def test_given_splits_are_kept(split_folders):
    prepared = prepare(split_folders, size=None)
    assert prepared.cohort.images.shape == (22, 1, 12, 12)
    assert prepared.fingerprint.counts["val"] == {"cat": 2, "dog": 2}
    assert prepared.fingerprint.split_origin == "given"


def test_missing_validation_is_taken_from_training_and_never_from_test(split_folders):
    shutil.rmtree(split_folders / "valid")
    prepared = prepare(split_folders, size=12)
    counts = prepared.fingerprint.counts
    assert prepared.fingerprint.split_origin == "completed"
    assert sum(counts["test"].values()) == 6
    assert sum(counts["val"].values()) == 2
    assert sum(counts["train"].values()) == 10


def test_a_source_to_evaluate_on_needs_no_training_images(split_folders):
    for name in ("train", "valid"):
        shutil.rmtree(split_folders / name)
    with pytest.raises(CohortError) as caught:
        prepare(split_folders, size=8)
    assert codes(caught.value.problems) == ["empty-split", "empty-split"]
    prepared = prepare(split_folders, size=8, evaluation=True)
    assert prepared.cohort.counts("test") == {"cat": 3, "dog": 3}


def test_all_errors_are_listed_at_once(class_folders):
    (class_folders / "cat" / "text.png").write_text("not an image")
    whole = (class_folders / "dog" / "00.png").read_bytes()
    (class_folders / "dog" / "cut.png").write_bytes(whole[:-40])
    (class_folders / "dog" / "empty.jpg").write_bytes(b"")
    with pytest.raises(CohortError) as caught:
        prepare(class_folders, size=8, images_per_class=50)
    unreadable = named(caught.value.problems, "unreadable")
    assert unreadable.count == 3
    for name in ("cat/text.png", "dog/cut.png", "dog/empty.jpg"):
        assert name in str(caught.value)
    assert codes(caught.value.problems, "error") == ["unreadable", "too-few-images"]
    assert "at most 14" in str(caught.value)
    assert caught.value.exit_code == 2
    prepared = prepare(class_folders, size=8, options=SKIPPING)
    assert len(prepared.cohort.labels) == 40
    assert named(prepared.problems, "unreadable").level == "warning"
    seen = survey(class_folders, options=SKIPPING)
    assert "Left out as asked" in named(seen.problems, "unreadable").message


def test_a_truncated_jpeg_is_never_half_decoded(class_folders, noise):
    path = class_folders / "cat" / "big.jpg"
    Image.fromarray(noise(1, 200, 200, 3)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CohortError, match=r"cat/big\.jpg: broken or cut short"):
        prepare(class_folders, size=8)


def test_nothing_readable(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_text("text")
    for attempt in (lambda: prepare(tmp_path, size=8), lambda: prepare(tmp_path, size=None), lambda: survey(tmp_path)):
        with pytest.raises(CohortError, match="2 images cannot be read"):
            attempt()
    with pytest.raises(CohortError):
        prepare(tmp_path, size=8, options=SKIPPING)


def test_one_class_is_an_error(class_folders):
    shutil.rmtree(class_folders / "dog")
    with pytest.raises(CohortError, match="only one class, cat"):
        prepare(class_folders, size=8)


def test_a_class_absent_from_training_is_an_error_elsewhere_a_warning(split_folders):
    shutil.rmtree(split_folders / "Test" / "cat")
    assert named(prepare(split_folders, size=8).problems, "class-absent").level == "warning"
    shutil.rmtree(split_folders / "train" / "dog")
    with pytest.raises(CohortError, match="1 class without any image in train: dog"):
        prepare(split_folders, size=8)


@pytest.mark.parametrize("size", [0, 3, 5000, -1])
def test_impossible_sizes(class_folders, size):
    with pytest.raises(InputError, match="working size"):
        prepare(class_folders, size=size)


@pytest.fixture
def leaking(split_folders, save, noise):
    """Patient p001 of train also in test; the image of p002 also in val; p003 in train and val."""
    train = split_folders / "train" / "cat"
    save(split_folders / "Test" / "cat" / "p001_second.png", noise(500))
    shutil.copy(train / "p002_cat.png", split_folders / "valid" / "cat" / "p090_cat.png")
    save(split_folders / "valid" / "dog" / "p003_second.png", noise(501))
    return split_folders


PATTERN = ReadOptions(patient_pattern=r"^p\d+")


def test_leaks_stop_and_say_what_can_be_done(leaking):
    with pytest.raises(CohortError) as caught:
        prepare(leaking, size=8, options=PATTERN)
    assert codes(caught.value.problems, "leak") == [
        "patient-across-splits",
        "patient-across-splits",
        "duplicate-across-splits",
    ]
    text = str(caught.value)
    assert "1 patient is in both train and test (2 images): p001" in text
    assert "train/cat/p002_cat.png = valid/cat/p090_cat.png" in text
    assert "1 of them byte for byte" in text
    for remedy in ("--resplit", "--drop-leak", "--allow-leak"):
        assert remedy in text


def test_what_is_advised_about_leaks_is_what_the_caller_can_do(leaking):
    seen = prepare(leaking, size=8, options=PATTERN, evaluation=True)
    told = [found for found in seen.problems if found.level == "leak"]
    assert len(told) == 3
    assert not any("--" in found.message for found in told)
    with pytest.raises(CohortError, match=r"Ask somebody\.") as caught:
        prepare(leaking, size=8, options=PATTERN, leak_remedy="Ask somebody.")
    assert "--resplit" not in str(caught.value)


def test_leaks_can_be_allowed(leaking):
    prepared = prepare(leaking, size=8, options=PATTERN, leak="allow")
    assert len(prepared.cohort.labels) == 25
    assert len(codes(prepared.problems, "leak")) == 3


def test_leaks_can_be_dropped_from_the_less_protected_split(leaking):
    prepared = prepare(leaking, size=8, options=PATTERN, leak="drop")
    fingerprint = prepared.fingerprint
    assert {split: sum(counts.values()) for split, counts in fingerprint.counts.items()} == {
        "train": 11,
        "val": 4,
        "test": 7,
    }
    assert codes(prepared.problems, "leak") == []
    dropped = named(prepared.problems, "leak-dropped")
    assert dropped.places == ("1 from train", "2 from val")
    assert "3 images" in dropped.message


def test_resplitting_ends_leaks(leaking):
    prepared = prepare(leaking, size=8, options=PATTERN, leak="resplit")
    assert codes(prepared.problems, "leak") == []
    assert "resplit" in codes(prepared.problems)
    assert prepared.fingerprint.split_origin == "assigned"
    assert sum(prepared.fingerprint.patients.values()) == 23


def test_pixel_identical_images_of_other_files_leak_too(split_folders):
    with Image.open(split_folders / "train" / "cat" / "p001_cat.png") as image:
        image.convert("RGB").save(split_folders / "Test" / "cat" / "copy.bmp")
    with pytest.raises(CohortError) as caught:
        prepare(split_folders, size=8)
    leak = named(caught.value.problems, "duplicate-across-splits")
    assert leak.count == 1
    assert "byte for byte" not in leak.message


def test_duplicates_conflicts_and_constant_images_are_warned_of(class_folders, save):
    shutil.copy(class_folders / "cat" / "00.png", class_folders / "cat" / "copy.png")
    shutil.copy(class_folders / "cat" / "01.png", class_folders / "dog" / "copy.png")
    for name in ("black", "white"):
        save(class_folders / "dog" / f"{name}.png", np.full((12, 12), 255 * (name == "white"), np.uint8))
    problems = survey(class_folders).problems
    assert codes(problems) == ["constant", "duplicate", "label-conflict"]
    assert named(problems, "constant").places == ("dog/black.png", "dog/white.png")
    assert named(problems, "label-conflict").places == ("cat/01.png = dog/copy.png",)


def test_equal_constant_images_do_not_link_patients(tmp_path, save, noise):
    for number in range(30):
        for name in ("cat", "dog"):
            save(tmp_path / name / f"p{number:02}{name}_0.png", noise(number + 50 * (name == "dog")))
            save(tmp_path / name / f"p{number:02}{name}_1.png", np.zeros((12, 12), np.uint8))
    prepared = prepare(tmp_path, size=8, options=ReadOptions(patient_pattern=r"^p\d+[a-z]+"))
    assert prepared.fingerprint.patients == {"train": 42, "val": 6, "test": 12}


def test_patients_stay_in_one_split_when_splits_are_assigned(tmp_path, save, noise):
    for number in range(60):
        save(tmp_path / ("cat" if number % 2 else "dog") / f"p{number // 4}_{number}.png", noise(number))
    prepared = prepare(tmp_path, size=8, options=ReadOptions(patient_pattern=r"^p\d+"))
    assert sum(prepared.fingerprint.patients.values()) == 15


def test_colour_and_depth_are_those_of_the_richest_image(tmp_path, save, noise):
    for number in range(10):
        for name in ("cat", "dog"):
            save(tmp_path / name / f"{number}.png", noise(number + 20 * (name == "dog")))
    save(tmp_path / "cat" / "colour.png", noise(99, channels=3))
    wide = np.full((12, 12), 65535, np.uint16)
    wide[0] = 0
    save(tmp_path / "dog" / "wide.png", wide)
    prepared = prepare(tmp_path, size=12)
    cohort = prepared.cohort
    assert cohort.images.shape == (22, 3, 12, 12)
    assert cohort.images.dtype == np.uint16
    assert cohort.peak == 65535
    np.testing.assert_array_equal(cohort.images[0], np.stack([noise(0).astype(np.uint16) * 257] * 3))
    np.testing.assert_array_equal(cohort.images[-1], np.stack([wide] * 3))
    mixed = [found for found in prepared.problems if found.code == "mixed-modes"]
    assert [found.places for found in mixed] == [("cat/colour.png",), ("dog/wide.png",)]
    assert (prepared.fingerprint.channels, prepared.fingerprint.bit_depth) == (3, 16)


def test_other_warnings(tmp_path, save, noise):
    for label, name in enumerate(("Cat", "cat", "dog")):
        for number in range(10):
            save(tmp_path / name / f"{number}.png", noise(10 * label + number).astype(np.uint16) * 16)
    save(tmp_path / "dog" / "long.png", noise(98, 10, 40).astype(np.uint16) * 16)
    problems = prepare(tmp_path, size=16).problems
    assert codes(problems) == ["dark", "much-cropped", "upscaled", "similar-classes"]
    assert named(problems, "similar-classes").places == ("Cat / cat",)
    assert codes(prepare(tmp_path, size=8, fit="pad").problems) == ["dark", "similar-classes"]


def test_a_hint_where_names_look_like_patients_and_a_warning_where_the_pattern_misses_some(tmp_path, save, noise):
    for number in range(20):
        for name in ("cat", "dog"):
            patient = f"person{number // 2}" if number < 15 else "x"
            save(tmp_path / name / f"{patient}_{name}_{number}.png", noise(number + 30 * (name == "dog")))
    hint = named(survey(tmp_path).problems, "patient-hint")
    assert r"--patient-pattern '(person\d+)'" in hint.message
    assert survey(tmp_path).fingerprint.patients is None
    found = survey(tmp_path, options=ReadOptions(patient_pattern=r"person\d+"))
    assert named(found.problems, "patient-unknown").count == 10
    assert found.fingerprint.without_patient == 10
    assert sum(found.fingerprint.patients.values()) == 8


def test_a_survey_never_stops_for_problems_and_is_json(leaking):
    (leaking / "train" / "cat" / "bad.png").write_text("text")
    found = survey(leaking, options=PATTERN, images_per_class=100)
    assert codes(found.problems, "error") == ["unreadable", "too-few-images"]
    assert len(codes(found.problems, "leak")) == 3
    document = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert document["fingerprint"]["proposed_size"] == 12
    assert document["fingerprint"]["unreadable"] == 1
    assert document["fingerprint"]["width"] == {"smallest": 12, "median": 12.0, "largest": 12}
    assert "p001" not in json.dumps(document["fingerprint"])


@pytest.mark.parametrize(
    ("native", "size"),
    [([], 64), ([(28, 28)], 28), ([(128, 96)], 64), ([(600, 450), (20, 30), (40, 50)], 40)],
)
def test_the_proposed_size(native, size):
    assert propose_size(native) == size


def test_progress_is_told_of_every_image(class_folders):
    seen = []

    class Counting(Silent):
        @contextmanager
        def stage(self, name, total=None):
            class One:
                def advance(self, amount=1, **figures):
                    seen.append(amount)

            seen.append((name, total))
            yield One()

    prepare(class_folders, size=8, progress=Counting())
    assert seen[0] == ("reading images", 40)
    assert sum(seen[1:]) == 40


def test_an_interrupt_ends_the_scan(class_folders):
    class Interrupting(Silent):
        @contextmanager
        def stage(self, name, total=None):
            class One:
                def advance(self, amount=1, **figures):
                    raise KeyboardInterrupt

            yield One()

    with pytest.raises(KeyboardInterrupt):
        prepare(class_folders, size=8, progress=Interrupting())


def test_errors_survive_being_sent_between_processes(class_folders):
    import pickle

    (class_folders / "cat" / "bad.png").write_text("text")
    with pytest.raises(CohortError) as caught:
        prepare(class_folders, size=8)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.problems) == (str(caught.value), caught.value.problems)


def test_one_patient_id_for_nearly_all_is_told_where_it_leaves_a_split_empty(tmp_path, save, noise):
    """A placeholder such as ANONYMOUS holds all images together: to add images would not help."""
    for number in range(24):
        name = "ANONYMOUS" if number < 23 else f"P{number}"
        save(tmp_path / ("cat", "dog")[number % 2] / f"{name}_{number}.png", noise(number))
    with pytest.raises(CohortError) as caught:
        prepare(tmp_path, size=8, options=ReadOptions(patient_pattern="ANONYMOUS"))
    told = named(caught.value.problems, "empty-split").remedy
    assert "23 of 24 images have one patient id" in told
    assert "--patient-column or --patient-pattern" in told


def test_a_split_that_the_source_leaves_empty_is_no_matter_of_patients(split_folders):
    shutil.rmtree(split_folders / "train")
    with pytest.raises(CohortError) as caught:
        prepare(split_folders, size=8, options=ReadOptions(patient_pattern="p"))
    assert named(caught.value.problems, "empty-split").remedy.startswith("Give some train images")
