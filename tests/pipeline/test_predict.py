"""Probabilities of single files are those that evaluating a source computes; every bad file is named."""

import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from tests.told import Told

from meddistill import api
from meddistill.cohort.prepare import CohortError
from meddistill.cohort.read import ReadOptions
from meddistill.nets.convnet import parse
from meddistill.runtime.errors import InputError, VerificationError
from meddistill.runtime.streams import stream
from meddistill.teachers.images import Normalisation
from meddistill.train.model import Model, save_model

DICOM = Path(pydicom.__file__).parent / "data" / "test_files"


def model(path: Path, channels: int = 1) -> Path:
    network = parse("convnet-d2-w8", channels=channels, size=10, classes=3)
    norm = Normalisation((0.4,) * channels, (0.2,) * channels)
    params = tuple(5 * param for param in network.init(stream(1, "test")))
    save_model(path, Model(network, params, ("a", "b", "c"), norm, "crop", "stop", 0))
    return path


@pytest.fixture
def grey(tmp_path) -> Path:
    return model(tmp_path / "model")


def picture(path: Path, shape: tuple[int, ...], dtype: type = np.uint8, seed: int = 0) -> Path:
    values = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape).astype(dtype)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def by_hand(path: Path, intensities: np.ndarray) -> list[float]:
    from meddistill.train.model import load_model

    held = load_model(path)
    inputs = held.normalisation.apply(torch.from_numpy(intensities.astype(np.float32))[None])
    return held.network.apply(held.params, inputs).double().softmax(1)[0].tolist()


def test_names_that_no_disk_holds_are_said(grey, tmp_path):
    long = "x" * 300
    with pytest.raises(InputError, match="is not a file: expected a model"):
        api.predict(tmp_path / long, picture(tmp_path / "a.png", (10, 10)))
    for name in (long, f"{long}.png", f"{long}.dcm", f"{long}.nii.gz"):
        with pytest.raises(CohortError, match="name too long"):
            api.predict(grey, tmp_path / name)


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_a_bad_dicom_file_and_a_link_to_itself_are_named_with_all_others(grey, tmp_path):
    picture(tmp_path / "set" / "good.png", (10, 10))
    (tmp_path / "set" / "itself").symlink_to("itself")
    dataset = pydicom.dcmread(DICOM / "MR_small.dcm")
    del dataset.Columns
    dataset.save_as(tmp_path / "set" / "bad.dcm")
    with pytest.raises(CohortError, match="2 files or folders cannot be used") as caught:
        api.predict(grey, tmp_path / "set", device="cpu")
    assert "set: itself (" in str(caught.value)
    assert "nothing as Columns" in str(caught.value)


def test_probabilities_of_a_file_by_hand(grey, tmp_path):
    path = picture(tmp_path / "x.png", (10, 16))
    answer = api.predict(grey, path, device="cpu").as_dict()
    pixels = np.asarray(Image.open(path))[None, :, 3:13] / 255
    [one] = answer["predictions"]
    assert list(one["probabilities"].values()) == pytest.approx(by_hand(grey, pixels), abs=1e-6)
    assert one["image"] == str(path)
    assert one["class"] == max(one["probabilities"], key=one["probabilities"].get)
    assert answer["classes"] == ["a", "b", "c"]


def test_16_bits_are_read_as_such_and_folders_with_all_beneath(grey, tmp_path):
    deep = picture(tmp_path / "set" / "deep.png", (10, 10), np.uint16)
    plain = picture(tmp_path / "set" / "plain.png", (10, 10))
    answer = api.predict(grey, tmp_path / "set").as_dict()["predictions"]
    assert [one["image"] for one in answer] == [str(deep), str(plain)]
    expected = by_hand(grey, np.asarray(Image.open(deep))[None] / 65535)
    assert list(answer[0]["probabilities"].values()) == pytest.approx(expected, abs=1e-6)


def test_a_colour_model_takes_grey_images(tmp_path):
    colour = model(tmp_path / "colour", channels=3)
    path = picture(tmp_path / "x.png", (10, 10))
    expected = by_hand(colour, np.repeat(np.asarray(Image.open(path))[None], 3, 0) / 255)
    [one] = api.predict(colour, [path]).as_dict()["predictions"]
    assert list(one["probabilities"].values()) == pytest.approx(expected, abs=1e-6)


def test_frames_and_slices_are_images_of_their_own(grey, tmp_path):
    nibabel.Nifti1Image(np.arange(70 * 12 * 12, dtype=np.int16).reshape(12, 12, 70), np.eye(4)).to_filename(
        tmp_path / "v.nii"
    )
    answer = api.predict(grey, [DICOM / "rtdose.dcm", tmp_path / "v.nii"]).as_dict()["predictions"]
    assert len(answer) == 15 + 70
    assert answer[3]["image"] == f"{DICOM / 'rtdose.dcm'} (frame 4)"
    assert answer[84]["image"] == f"{tmp_path / 'v.nii'} (axial slice 70)"
    other = api.predict(grey, tmp_path / "v.nii", options=ReadOptions(slice_axis="coronal")).as_dict()
    assert len(other["predictions"]) == 12


def test_reports_beneath_a_folder_are_left_aside_and_counted(grey, tmp_path):
    for name in ("test-SR.dcm", "rtplan.dcm", "MR_small.dcm"):
        (tmp_path / "set").mkdir(exist_ok=True)
        shutil.copy(DICOM / name, tmp_path / "set" / name)
    told = Told()
    answer = api.predict(grey, tmp_path / "set", progress=told).as_dict()["predictions"]
    assert [Path(one["image"]).name for one in answer] == ["MR_small.dcm"]
    assert told.notes == ["2 × DICOM without pixels left aside"]


def test_every_file_that_cannot_be_used_is_named(grey, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    files = [picture(tmp_path / "rgb.png", (10, 10, 3)), tmp_path / "text.png", tmp_path / "gone.png"]
    files.append(Path(shutil.copy(DICOM / "test-SR.dcm", tmp_path / "report.dcm")))
    with pytest.raises(CohortError) as caught:
        api.predict(grey, [*files, picture(tmp_path / "good.png", (10, 10))])
    [problem] = caught.value.problems
    assert problem.count == 4
    for expected in ("a colour image", "not a PNG", "No such file", "without pixels"):
        assert expected in str(caught.value)


def test_what_cannot_be_used_is_left_out_as_asked_and_told(grey, tmp_path):
    good, bad = picture(tmp_path / "images/good.png", (10, 10)), tmp_path / "images/bad.png"
    bad.write_bytes(b"no picture")
    heard, asked = Told(), ReadOptions(skip_unreadable=True)
    found = api.predict(grey, good.parent, options=asked, progress=heard)
    assert [Path(one.image) for one in found.images] == [good]
    assert found.images == api.predict(grey, good).images
    assert [one["file"] for one in found.as_dict()["left_out"]] == [str(bad)]
    assert not api.predict(grey, good).left_out
    (told,) = heard.warnings
    assert told.startswith("1 file or folder cannot be used") and "bad.png" in told and told.endswith("as asked.")
    with pytest.raises(CohortError, match="1 file or folder cannot be used"):
        api.predict(grey, bad, options=asked, progress=heard)


def test_no_file_and_no_model(grey, tmp_path):
    with pytest.raises(InputError, match="no image was given"):
        api.predict(grey, [])
    with pytest.raises(VerificationError, match="not a sound model"):
        api.predict(picture(tmp_path / "x.png", (10, 10)), tmp_path / "x.png")


def test_export_model_writes_what_onnx_reads(grey, tmp_path):
    import onnxruntime

    answer = api.export_model(grey, tmp_path / "m.onnx").as_dict()
    assert answer["bytes"] == (tmp_path / "m.onnx").stat().st_size
    assert answer["input"] == ["images", 1, 10, 10]
    path = picture(tmp_path / "x.png", (10, 10))
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    pixels = (np.asarray(Image.open(path))[None, None] / 255).astype(np.float32)
    [one] = api.predict(grey, path).as_dict()["predictions"]
    assert session.run(None, {"intensities": pixels})[0][0] == pytest.approx(
        list(one["probabilities"].values()), abs=1e-4
    )


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_a_model_whose_answers_are_no_numbers_gives_none(tmp_path, verb):
    """Every tensor by itself may be in order: a variance below zero is a number like any other."""
    network = parse("convnet-d2-w8-bn", channels=1, size=10, classes=2)
    params = tuple(param - 2 for param in network.init(stream(1, "test")))
    save_model(tmp_path / "model", Model(network, params, ("a", "b"), Normalisation((0,), (1,)), "crop", "stop", 0))
    for place in range(4):
        picture(tmp_path / "set" / f"{place}.png", (10, 10), seed=place)
    (tmp_path / "set.csv").write_text("path,label\n" + "".join(f"set/{k}.png,{n}\n" for k, n in enumerate("aabb")))
    with pytest.raises(VerificationError, match="not finite"):
        if verb == "predict":
            api.predict(tmp_path / "model", [tmp_path / "set"], device="cpu")
        else:
            api.evaluate(tmp_path / "model", tmp_path / "set.csv", split="all", device="cpu")
