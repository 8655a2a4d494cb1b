"""Public start images: read whatever their layout, in the cohort's shape, and never an image of the cohort itself."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
import torch
from PIL import Image

from meddistill.cohort.options import ReadOptions
from meddistill.cohort.prepare import prepare
from meddistill.cohort.public import in_channels, public_images
from meddistill.package.read import read
from meddistill.pipeline.public import start_images
from meddistill.pipeline.request import Request
from meddistill.pipeline.run import run
from meddistill.runtime.errors import InputError

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
warm_up = 0
iterations = 1
student_steps = 1
segment = 1
batch = 4
image_rate = 0.0001
[evaluation]
seeds = 0
"""


@pytest.fixture
def public(tmp_path) -> Path:
    """Five pictures in no order: grey and colour, small and large, some deeper down."""
    folder = tmp_path / "public"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(3)
    for place, shape in enumerate([(10, 10), (30, 20), (10, 10, 3), (12, 40, 3), (8, 8)]):
        where = folder / "more" if place % 2 else folder
        Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).save(where / f"{place}.png")
    return folder


@pytest.fixture
def request_(source, public, tmp_path) -> Request:
    (tmp_path / "plan.toml").write_text(SHORT)
    return Request(source, tmp_path / "x.mdz", plan=tmp_path / "plan.toml", device="cpu", start_images=public)


def test_a_dicom_file_without_pixels_is_left_aside(public):
    report = Path(pydicom.__file__).parent / "data" / "test_files" / "test-SR.dcm"
    shutil.copy(report, public / "more" / "report.dcm")
    assert len(public_images(public, 10, 1).images) == 5


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_what_cannot_be_looked_into_is_named(public):
    (public / "more" / "itself").symlink_to("itself")
    with pytest.raises(InputError, match="cannot be opened: more/itself"):
        public_images(public, 10, 1)


def test_every_image_beneath_a_folder_is_read_in_the_shape_asked_for(public):
    grey, colour = (public_images(public, 10, channels).images for channels in (1, 3))
    assert (grey.shape, colour.shape) == ((5, 1, 10, 10), (5, 3, 10, 10))
    assert grey.min() >= 0 and grey.max() <= 1
    stored = np.asarray(Image.open(public / "0.png"), np.float32) / 255
    np.testing.assert_allclose(grey[0, 0], stored, atol=1e-6)
    np.testing.assert_allclose(colour[0], [stored] * 3, atol=1e-6)
    # Files before folders are those of lesser names: 0.png, 2.png, 4.png, more/1.png, more/3.png.
    tinted = np.asarray(Image.open(public / "2.png"), np.float32) / 255
    np.testing.assert_allclose(colour[1], tinted.transpose(2, 0, 1), atol=1e-6)
    np.testing.assert_allclose(grey[1, 0], tinted @ np.float32([0.299, 0.587, 0.114]), atol=1e-5)


def test_white_is_white_in_grey_and_colour():
    assert in_channels(np.ones((3, 2, 2), np.float32), 1) == pytest.approx(np.ones((1, 2, 2)))
    assert in_channels(np.ones((1, 2, 2), np.float32), 3) == pytest.approx(np.ones((3, 2, 2)))


def test_a_package_starts_as_the_public_images_and_says_so(request_, public):
    run(request_)
    package = read(request_.out)
    assert package.card.recipe.start == "public" and not package.card.contains_real_images
    assert "start_images" not in str(package.card.to_dict()) and str(public) not in str(package.card.to_dict())
    given = public_images(public, 10, 1).images
    nearest = [int(np.abs(given - image).mean((1, 2, 3)).argmin()) for image in package.enlarged]
    distance = [float(np.abs(given - image).mean((1, 2, 3)).min()) for image in package.enlarged]
    assert len(set(nearest)) == 4  # of five, each at most once
    assert max(distance) < 0.02  # one short step, and 64 levels


def test_a_package_of_others_can_be_the_start(request_, tmp_path):
    run(request_)
    again = replace(request_, out=tmp_path / "y.mdz", start_images=request_.out)
    run(again)
    assert read(again.out).card.recipe.start == "public"
    real = replace(request_, out=tmp_path / "real.mdz", start="real", start_images=None)
    run(real)
    with pytest.raises(InputError, match="contains real images of patients"):
        run(replace(again, out=tmp_path / "z.mdz", start_images=real.out))


def test_other_start_images_do_not_continue_a_run(request_, public):
    run(request_)
    (public / "4.png").unlink()
    with pytest.raises(InputError, match="another"):
        run(request_)


def test_images_of_the_cohort_are_no_public_ones(source, public):
    prepared = prepare(source, size=10, seed=0)
    own = next((source / "ill").iterdir())
    (public / "sneaked.png").write_bytes(own.read_bytes())
    with pytest.raises(InputError, match=r"1 image of .*public is in the cohort.*--start real"):
        start_images(public, prepared, "crop")
    with pytest.raises(InputError, match="80 images of"):
        start_images(source, prepared, "crop")


def scans(folder: Path, burned_in: str = "NO") -> Path:
    """Two classes of DICOM files, each image with a shade of its own that no window but a wide one shows."""
    scan = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm"))
    scan.BurnedInAnnotation = burned_in
    for place in range(24):
        scan.PatientID, scan.SOPInstanceUID = f"p{place}", f"1.2.{place + 1}"
        values = scan.pixel_array.copy()
        values[place:] += 40 * place
        scan.PixelData = values.tobytes()
        where = folder / ("ill" if place % 2 else "well")
        where.mkdir(parents=True, exist_ok=True)
        scan.save_as(where / f"{place:02}.dcm")
    return folder


@pytest.mark.parametrize("window", [None, (40.0, 400.0)])
def test_the_cohort_is_known_again_however_its_files_become_pictures(request_, tmp_path, window):
    source = scans(tmp_path / "scans")
    request = replace(request_, source=source, options=ReadOptions(window=window), start_images=source)
    with pytest.raises(InputError, match=r"24 images of .*scans are in the cohort"):
        run(request)


def test_images_of_the_source_are_known_by_what_they_are_not_only_at_working_size(source, public, tmp_path):
    split = tmp_path / "split"
    for name in ("ill", "clear"):
        for place, path in enumerate(sorted((source / name).iterdir())):
            where = split / ("test" if place % 4 == 0 else "train") / name
            where.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, where)
    twin = next((split / "train" / "ill").iterdir())
    shutil.copy(twin, split / "test" / "ill" / "twin.png")
    prepared = prepare(split, size=10, leak="drop")
    prepared = replace(prepared, cohort=replace(prepared.cohort, images=np.zeros_like(prepared.cohort.images)))
    shutil.copy(twin, public / "sneaked.png")
    with pytest.raises(InputError, match="1 image of"):
        start_images(public, prepared, "crop")


def test_public_images_with_text_in_them_are_refused_unless_allowed(tmp_path):
    folder = scans(tmp_path / "scans", "YES")
    with pytest.raises(InputError, match="24 files with text burned into the picture"):
        public_images(folder, 10, 1)
    assert len(public_images(folder, 10, 1, options=ReadOptions(allow_burned_in=True)).images) == 24


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"start": "noise"}, "give one of the two"),
        ({"start": "public", "start_images": None}, "add --start-images SOURCE"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(request_, change, told):
    with pytest.raises(InputError, match=told):
        run(replace(request_, **change))


def test_broken_or_missing_public_images_are_named(request_, public, tmp_path):
    (public / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"1 image of .* cannot be read:\n- broken.png"):
        run(request_)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        run(replace(request_, start_images=tmp_path / "none"))
    with pytest.raises(InputError, match="there is no file or folder"):
        run(replace(request_, start_images=tmp_path / "nowhere"))
    assert not request_.out.exists()


def test_an_epsilon_allows_public_images_to_start_from(source, public, tmp_path):
    request = Request(source, tmp_path / "x.mdz", device="cpu", start_images=public, epsilon=8, size=10, iterations=2)
    run(request)
    card = read(request.out).card
    assert card.recipe.start == "public" and card.privacy.epsilon == 8
    assert torch.isfinite(torch.from_numpy(read(request.out).images)).all()
    assert any("start images" in text for text in card.privacy.outside)


def test_with_an_epsilon_no_package_is_a_start(source, request_, tmp_path):
    """It may have been made of the very patients."""
    run(replace(request_, start_images=None))
    again = Request(source, tmp_path / "y.mdz", device="cpu", start_images=request_.out, epsilon=8, size=10)
    with pytest.raises(InputError, match="would come past the noise"):
        run(again)
    assert not (tmp_path / "y.mdz").exists() and not (tmp_path / "y.run").exists()
