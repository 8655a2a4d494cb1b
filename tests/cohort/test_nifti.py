"""NIfTI volumes: the files that nibabel's wheel brings along, and volumes whose orientation is known."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from meddistill.cohort.check import check
from meddistill.cohort.files import pictures
from meddistill.cohort.prepare import prepare
from meddistill.cohort.read import ReadOptions, read
from meddistill.cohort.scan import scan
from meddistill.cohort.split import complete

FILES = Path(nibabel.__file__).parent / "tests" / "data"


def load(path: Path, **options: object) -> list[np.ndarray]:
    return [frame.load().pixels for frame in pictures(path, ReadOptions(**options))]


def save(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine).to_filename(path)
    return path


@pytest.mark.parametrize("axis", ["sagittal", "coronal", "axial"])
def test_slices_of_a_real_volume(axis):
    path = FILES / "anatomical.nii"
    volume = nibabel.as_closest_canonical(nibabel.load(path)).get_fdata()
    place = ("sagittal", "coronal", "axial").index(axis)
    low, high = np.percentile(volume, [0.5, 99.5])
    frames = pictures(path, ReadOptions(slice_axis=axis))
    assert len(frames) == volume.shape[place]
    assert {frame.patient for frame in frames} == {str(path)}
    for index in (0, 7, len(frames) - 1):
        expected = np.clip((volume.take(index, place).T[::-1] - low) / (high - low), 0, 1) * 65535
        found = frames[index].load().pixels
        assert frames[index].peek() == found.shape[::-1]
        assert found.dtype == np.uint16
        assert np.abs(found - expected).max() <= 1


def test_orientation_is_by_the_patient_and_not_by_the_file(tmp_path):
    """A mark at the patient's left, front and top is where it should be, however the voxels are stored."""
    marked = np.zeros((6, 7, 8), np.uint8)
    marked[0, 6, 7] = 200  # canonical axes grow to the right, to the front, to the top
    plain = save(tmp_path / "plain.nii", marked)
    turned = save(tmp_path / "turned.nii.gz", marked[::-1].transpose(1, 0, 2), np.eye(4)[[1, 0, 2, 3]] * [1, -1, 1, 1])
    for path in (plain, turned):
        for axis, index, corner in (("axial", 7, (0, 0)), ("coronal", 6, (0, 0)), ("sagittal", 0, (0, 6))):
            pixels = load(path, slice_axis=axis)[index]
            assert pixels[corner] == 200
            assert (pixels > 0).sum() == 1


def test_8_bits_are_taken_as_they_are_unless_a_window_is_given():
    path = FILES / "standard.nii.gz"
    volume = np.asanyarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)
    assert all(np.array_equal(found, volume[:, :, index].T[::-1]) for index, found in enumerate(load(path)))
    [low, *_] = load(path, window=(100.0, 50.0))
    expected = np.clip((volume[:, :, 0].T[::-1].astype(float) - 75) / 50, 0, 1) * 65535
    assert np.abs(low - expected).max() <= 1


def test_values_that_are_not_finite_are_black(tmp_path):
    values = np.linspace(0, 1, 60, dtype=np.float32).reshape(3, 4, 5)
    values[0, 0, 0] = np.nan
    [first, *_] = load(save(tmp_path / "v.nii", values))
    assert first[-1, 0] == 0
    with pytest.raises(ValueError, match="no voxel has a finite value"):
        load(save(tmp_path / "w.nii", np.full((3, 3, 3), np.nan, np.float32)))


def test_a_sparse_volume_keeps_its_grey_levels(tmp_path):
    """A lesion of under half a percent on an empty ground: both percentiles are the ground."""
    values = np.zeros((20, 20, 20), np.float32)
    values[8:11, 8:11, 8:11] = np.linspace(1, 27, 27).reshape(3, 3, 3)
    values[0, 0, 0] = np.inf
    found = np.stack(load(save(tmp_path / "v.nii", values)))
    expected = np.rint(np.arange(28) / 27 * 65535)
    np.testing.assert_allclose(np.unique(found), expected, atol=1)
    assert not np.stack(load(save(tmp_path / "w.nii", np.full((3, 3, 3), 7, np.int16)))).any()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("functional.nii", "three dimensions"),
        ("example4d.nii.gz", "three dimensions"),
        ("row_major.dconn.nii", "NIfTI"),
    ],
)
def test_what_is_not_one_volume_is_refused_by_name(name, expected):
    with pytest.raises(ValueError, match=expected):
        pictures(FILES / name, ReadOptions())


def test_broken_volumes(tmp_path):
    data = (FILES / "anatomical.nii").read_bytes()
    (tmp_path / "short.nii").write_bytes(data[:20_000])
    (tmp_path / "text.nii.gz").write_text("not a volume")
    with pytest.raises(ValueError, match="cut short"):
        load(tmp_path / "short.nii")
    with pytest.raises(ValueError, match="not a NIfTI volume"):
        load(tmp_path / "text.nii.gz")


def test_a_cohort_of_volumes_keeps_a_volumes_slices_in_one_split(tmp_path):
    rng = np.random.default_rng(0)
    for place in range(8):
        folder = tmp_path / "set" / ("ill", "well")[place % 2] / f"sub-{place}"
        folder.mkdir(parents=True)
        save(folder / "brain.nii.gz", rng.integers(0, 4000, (9, 9, 5)).astype(np.int16))
    listing = read(tmp_path / "set")
    assert len(listing.records) == 40
    assert len({record.patient for record in listing.records}) == 8
    prepared = prepare(tmp_path / "set", size=9, evaluation=True)
    assert sum(prepared.fingerprint.patients.values()) == 8


def test_rows_of_a_table_label_whole_volumes(tmp_path):
    save(tmp_path / "a.nii", np.arange(27, dtype=np.int16).reshape(3, 3, 3))
    save(tmp_path / "b.nii", np.arange(36, dtype=np.int16).reshape(3, 3, 4))
    (tmp_path / "t.csv").write_text("path,label,patient\na.nii,x,p1\nb.nii,y,p2\n")
    records = read(tmp_path / "t.csv").records
    assert [(record.label, record.patient) for record in records] == [("x", "p1")] * 3 + [("y", "p2")] * 4
    assert records[3].where == "t.csv:3 (b.nii) (axial slice 1)"


def test_slices_stay_together_where_a_pattern_or_a_cell_names_no_patient(tmp_path):
    """The volume holds its slices together without counting as a person: no guarantee may rest on it."""
    rng = np.random.default_rng(0)
    for place in range(16):
        folder = tmp_path / "set" / ("ill", "well")[place % 2]
        folder.mkdir(parents=True, exist_ok=True)
        name = f"P{place}.nii" if place < 8 else f"scan{place}.nii"
        save(folder / name, rng.integers(0, 4000, (9, 9, 5)).astype(np.int16))
    lines = [f"{'ill' if place % 2 == 0 else 'well'}/P{place}.nii,{place % 2},P{place}" for place in range(8)]
    lines += [f"{'ill' if place % 2 == 0 else 'well'}/scan{place}.nii,{place % 2}," for place in range(8, 16)]
    (tmp_path / "set" / "t.csv").write_text("\n".join(["path,label,patient", *lines]) + "\n")
    by_pattern = (tmp_path / "set", ReadOptions(patient_pattern=r"P\d+"))
    for source, options in (by_pattern, (tmp_path / "set" / "t.csv", ReadOptions())):
        scanned = scan(read(source, options), 9)
        found = complete(scanned, scanned.given_splits, 0)
        spread = {}
        for record, split in zip(scanned.records, found.tolist(), strict=True):
            spread.setdefault(record.where.split(" (axial")[0], set()).add(split)
        assert len(spread) == 16 and all(len(splits) == 1 for splits in spread.values())
        assert sum(record.names_patient for record in scanned.records) == 40
        [told] = [one for one in check(scanned) if one.code == "patient-unknown"]
        assert told.count == 40
        assert "(40 held together by PatientID, study or volume)" in told.message


def test_a_pattern_that_names_nobody_is_told(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        save(tmp_path / "set" / name / "v.nii", np.arange(27, dtype=np.int16).reshape(3, 3, 3))
    [told] = read(tmp_path / "set", ReadOptions(patient_pattern="xyz")).problems
    assert (told.code, told.level) == ("patient-unknown", "warning")
    assert "the pattern 'xyz' gives no image a patient" in told.message
