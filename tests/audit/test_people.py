"""Who is a member and who is not: splits of one source, two sources, patients in both."""

import numpy as np
import pytest
from PIL import Image

from meddistill.audit.people import People, Sample, making_of_package, read_groups, sample
from meddistill.cohort.read import ReadOptions
from meddistill.package.read import read
from meddistill.runtime.errors import InputError
from meddistill.runtime.progress import Silent


def test_a_sample_is_a_source_with_or_without_a_split(tmp_path):
    assert sample("a/b.npz:test", "train") == Sample(__import__("pathlib").Path("a/b.npz"), "test")
    assert sample("a/b.npz", "train").part == "train"
    assert str(sample("C:/lungs", "all").source) == "C:/lungs"


@pytest.fixture(scope="module")
def making(strangers_package):
    return making_of_package(read(strangers_package).card)


def draw(folder, rows, seed):
    """A CSV of pictures; ``rows``: patient and split of each."""
    rng = np.random.default_rng(seed)
    lines = ["path,label,patient,split"]
    for place, (patient, split) in enumerate(rows):
        name = f"{seed}-{place}.png"
        Image.fromarray(rng.integers(0, 255, (28, 28)).astype(np.uint8)).save(folder / name)
        lines.append(f"{name},{('normal', 'pneumonia')[place % 2]},{patient},{split}")
    path = folder / f"{seed}.csv"
    path.write_text("\n".join(lines))
    return path


def test_a_patient_of_both_groups_is_a_member_alone_and_images_are_counted_by_patient(tmp_path, making):
    inside = draw(tmp_path, [("anna", "train"), ("anna", "train"), ("ben", "train"), ("eve", "test")], 1)
    outside = draw(tmp_path, [("carl", "test"), ("anna", "test"), ("dora", "test"), ("dora", "train")], 2)
    groups = read_groups(Sample(inside, "train"), Sample(outside, "all"), making)
    assert (groups.unit, groups.overlap) == ("patient", 1)
    assert groups.members.patient.tolist() == [0, 0, 1]
    assert (groups.members.count, groups.control.count, len(groups.control.labels)) == (2, 2, 3)
    again = read_groups(Sample(inside, "train"), Sample(inside, "test"), making)
    assert (again.members.count, again.control.count) == (2, 1)


@pytest.mark.parametrize(("wide", "column"), [(False, "ward"), (False, "patient"), (True, "patient")])
def test_a_member_whom_another_source_calls_differently_is_found_by_the_image(tmp_path, making, wide, column):
    inside = draw(tmp_path, [("anna", "train"), ("ben", "train"), ("eve", "test")], 8)
    lines, far = [f"path,label,{column},split"], np.random.default_rng(9)
    for place, who in enumerate(["m1", "m1", "m2", "m3", "m4"]):  # of m1 the first image is anna's, m4's is empty
        pixels = np.asarray(Image.open(tmp_path / "8-0.png")) if place == 0 else far.integers(0, 255, (28, 28))
        pixels = (pixels * (place < 4)).astype(np.uint16 if wide else np.uint8)
        Image.fromarray(pixels * 257 if wide else pixels).save(tmp_path / f"other-{place}.png")
        lines.append(f"other-{place}.png,normal,{who},test")
    Image.new("L", (28, 28)).save(tmp_path / "8-1.png")  # ben's is empty, too: that tells nobody
    outside = tmp_path / "outside.csv"
    outside.write_text("\n".join(lines))
    groups = read_groups(Sample(inside, "train"), Sample(outside, "all"), making)
    assert (groups.overlap, groups.control.count) == (1, 3 if column == "patient" else 4)
    assert (groups.control.pixels.dtype == np.uint16) == wide


def test_a_cohort_that_was_read_without_its_broken_images_can_be_audited_so(tmp_path, making):
    source = draw(tmp_path, [(f"p{place}", ("train", "test")[place % 4 > 1]) for place in range(12)], 3)
    (tmp_path / "3-6.png").write_bytes(b"broken")
    samples = Sample(source, "train"), Sample(source, "test")
    with pytest.raises(InputError, match="--skip-unreadable"):
        read_groups(*samples, making)
    groups = read_groups(*samples, making, ReadOptions(skip_unreadable=True))
    assert groups.control.count == 5  # of six


def test_the_unit_is_the_patient_only_where_every_image_has_an_id(tmp_path, making):
    """As under differential privacy: an image without one may be anybody's."""
    source = draw(tmp_path, [("anna", "train"), ("", "train"), ("ben", "train"), ("eve", "test"), ("", "val")], 12)
    groups = read_groups(Sample(source, "train"), Sample(source, "test"), making)
    assert (groups.unit, groups.members.count) == ("image", 3)


class Named(Silent):
    """A display that knows which stages there were, and what it was told."""

    def __init__(self):
        self.stages, self.warnings = [], []

    def stage(self, name, total=None):
        self.stages.append(name)
        return super().stage(name, total)

    def warn(self, text):
        self.warnings.append(text)


def test_a_source_is_read_once_and_two_are_told_apart(tmp_path, making):
    source = draw(tmp_path, [("anna", "train"), ("ben", "train"), ("eve", "test")], 6)
    other = draw(tmp_path, [("carl", "test"), ("dora", "test")], 7)
    shown = Named()
    read_groups(Sample(source, "train"), Sample(source, "test"), making, progress=shown)
    assert shown.stages == ["reading images"]
    assert len(set(shown.warnings)) == len(shown.warnings) > 0
    shown = Named()
    read_groups(Sample(source, "train"), Sample(other, "all"), making, progress=shown)
    assert shown.stages == ["reading members", "reading control"]


def test_without_patient_ids_identical_images_count_once(sources, making):
    groups = read_groups(Sample(sources["members"], "train"), Sample(sources["members"], "test"), making)
    assert (groups.unit, groups.members.count, groups.control.count) == ("image", 2000, 2000)


@pytest.mark.parametrize(
    ("members", "control", "said"),
    [("train", "train", "every patient of the control group"), ("train", "val", "has no images")],
)
def test_groups_that_cannot_be_compared_are_refused(tmp_path, making, members, control, said):
    source = draw(tmp_path, [("anna", "train"), ("ben", "train"), ("eve", "test")], 3)
    with pytest.raises(InputError, match=said):
        read_groups(Sample(source, members), Sample(source, control), making)


def test_classes_that_the_package_does_not_have_are_named(tmp_path, making):
    source = draw(tmp_path, [("anna", "train"), ("eve", "test")], 5)
    source.write_text(source.read_text().replace("normal", "fracture"))
    with pytest.raises(InputError, match=r"has the classes fracture.*its classes are normal, pneumonia"):
        read_groups(Sample(source, "train"), Sample(source, "test"), making)


def test_a_patients_scores_are_those_of_all_images():
    people = People(np.zeros((4, 1, 2, 2), np.uint8), 255, np.array([1, 1, 0, 0]), np.array([0, 1, 0, 1]))
    scores = np.array([1.0, 5.0, 3.0, -1.0])
    assert people.best(scores).tolist() == [3, 5]
    assert people.mean(scores).tolist() == [2, 2]
    assert people.classes.tolist() == [1, 1]
