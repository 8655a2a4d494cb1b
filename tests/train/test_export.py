"""Exported images are the package's, read back by other readers, whatever the classes are called."""

import csv
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from meddistill.cohort.prepare import prepare
from meddistill.cohort.read import ReadOptions, read
from meddistill.package.types import Card, CohortCounts, Images, Normalisation, Package, Recipe, Sizes, Software, Task
from meddistill.runtime.errors import OutputError
from meddistill.train.export import export, folder_names

CLASSES = ("normal, benign", "../up", "Ill", "ill")


def package(channels: int = 1, classes: tuple[str, ...] = CLASSES) -> Package:
    rng = np.random.default_rng(channels)
    count = 3 * len(classes)
    card = Card(
        software=Software(name="meddistill", version="0.1.0"),
        task=Task(classes=classes, labels="soft"),
        images=Images(count=count, per_class=3, size=6, channels=channels),
        normalisation=Normalisation(mean=(0.5,) * channels, std=(0.25,) * channels),
        recipe=Recipe(method="mtt", seed=0, start="noise", network="convnet-d1-w8"),
        cohort=CohortCounts(counts="withheld"),
        contains_real_images=False,
        bytes=Sizes(cohort_train=1000),
    )
    images = rng.uniform(-0.3, 1.3, (count, channels, 6, 6)).astype(np.float32)
    labels = rng.dirichlet(np.ones(len(classes)), count).astype(np.float32)
    return Package(images=images, labels=labels, step_sizes=np.ones(1, np.float32), card=card)


def expected(held: Package) -> np.ndarray:
    levels = np.rint(held.images.clip(0, 1) * 255).astype(np.uint8)
    return levels.transpose(0, 2, 3, 1).squeeze()


@pytest.mark.parametrize("channels", [1, 3])
def test_class_folders_hold_every_image_under_its_likeliest_class(tmp_path, channels):
    held = package(channels)
    report = export(held, tmp_path / "out", "folder")
    assert report.clipped == pytest.approx(((held.images < 0) | (held.images > 1)).mean())
    with open(tmp_path / "out" / "labels.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(held.images) == report.images
    for row, pixels, label in zip(rows, expected(held), held.labels, strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / row["path"])), pixels)
        assert row["label"] == CLASSES[label.argmax()]
        assert [float(row[f"p({name})"]) for name in CLASSES] == pytest.approx(label, abs=1e-6)
    inside = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert all((tmp_path / "out") in path.parents for path in inside)


def test_a_class_that_is_a_formula_is_none_in_a_spreadsheet(tmp_path):
    export(package(classes=("=HYPERLINK(A2)", "+ve")), tmp_path / "out", "folder")
    with open(tmp_path / "out" / "labels.csv", encoding="utf-8", newline="") as file:
        assert {row["label"] for row in csv.DictReader(file)} == {"'=HYPERLINK(A2)", "+ve"}


def test_class_folders_and_their_table_are_sources_again(tmp_path):
    held = package(classes=("ill", "well"))
    export(held, tmp_path / "out", "folder")
    by_folder, by_table = read(tmp_path / "out"), read(tmp_path / "out" / "labels.csv", ReadOptions())
    assert by_folder.classes == by_table.classes == ("ill", "well")
    assert len(by_folder.records) == len(by_table.records) == 6


def test_a_medmnist_file(tmp_path):
    held = package(3, classes=("ill", "well"))
    for name in ("a.npz", "b.npz"):
        export(held, tmp_path / name, "npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["train_images"], expected(held))
        assert np.array_equal(arrays["train_labels"][:, 0], held.labels.argmax(1))
        assert np.array_equal(arrays["train_probabilities"], held.labels)
        assert arrays["classes"].tolist() == ["ill", "well"]
        assert arrays["val_images"].shape == (0, 6, 6, 3)
    cohort = prepare(tmp_path / "a.npz", size=6, evaluation=True).cohort
    assert np.array_equal(np.sort(cohort.images.reshape(-1)), np.sort(expected(held).reshape(-1)))


def test_an_image_folder_for_load_dataset(tmp_path):
    """Its rules: a metadata.jsonl beside the pictures, a key file_name, the other keys are columns."""
    held = package()
    export(held, tmp_path / "out", "huggingface")
    lines = (tmp_path / "out" / "train" / "metadata.jsonl").read_text().splitlines()
    assert len(lines) == len(held.images)
    for line, pixels, label in zip(lines, expected(held), held.labels, strict=True):
        row = json.loads(line)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "train" / row["file_name"])), pixels)
        assert row["label"] == CLASSES[label.argmax()]
        assert row["probabilities"] == pytest.approx(label, abs=1e-6)


@pytest.mark.parametrize("to", ["folder", "huggingface"])
def test_the_senders_terms_go_along(tmp_path, to):
    held = package()
    export(held, tmp_path / "out", to)
    assert json.loads((tmp_path / "out" / "card.json").read_text())["terms"] == vars(held.card.terms)
    assert "preview.png" not in (tmp_path / "out" / "README.md").read_text()


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="something is there already"):
        export(package(), tmp_path / "out", "folder")
    real, written = Path.write_bytes, []

    def full_disk(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) > 3:
            raise OSError(28, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OutputError, match="disk is full"):
        export(package(), tmp_path / "new", "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=6))
def test_folder_names_never_lead_elsewhere(classes):
    names = folder_names(classes)
    assert len({name.casefold() for name in names}) == len(names) == len(classes)
    for name in names:
        assert name
        assert name == name.strip()
        assert not set(name) & set('./\\:*?"<>|\0\n')


@pytest.mark.parametrize("classes", [["b__2", "b*", "b?"], ["b_2", "b", "B"], ["x", "X", "X_1", "x_1"]])
def test_a_mended_folder_name_is_not_the_name_of_another(classes):
    assert len({name.casefold() for name in folder_names(classes)}) == len(classes)


def test_long_names_of_classes_become_folders_that_every_system_takes(tmp_path):
    classes = ("肺" * 90, "肺" * 89 + "炎", "é" * 100, "x" * 100)
    names = folder_names(classes)
    assert len(set(names)) == 4
    assert all(len(name.encode()) <= 210 for name in names)
    assert names[0] == "肺" * 66
    export(package(classes=classes), tmp_path / "out", "folder")
    assert len(list((tmp_path / "out").glob("*/*.png"))) == 12


def test_known_bad_folder_names():
    assert folder_names(["..", "a/b", "CON", "test", "...", "x", "X"]) == [
        "___0",
        "a_b",
        "CON_2",
        "test_3",
        "____4",
        "x",
        "X_6",
    ]


def test_the_npz_is_a_plain_zip_without_the_clock(tmp_path):
    export(package(), tmp_path / "a.npz", "npz")
    with zipfile.ZipFile(io.BytesIO((tmp_path / "a.npz").read_bytes())) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_real_start_and_card_are_told(tmp_path):
    held = package()
    held = replace(held, card=replace(held.card, contains_real_images=True))
    export(held, tmp_path / "out", "folder")
    assert "contains real images" in (tmp_path / "out" / "README.md").read_text()
