"""DICOM files as hospitals have them: the test files that pydicom's wheel brings along, and variations of them."""

import shutil
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_file_meta_info, read_preamble
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

from meddistill.cohort.check import check
from meddistill.cohort.files import NoPictureError, pictures
from meddistill.cohort.fingerprint import fingerprint
from meddistill.cohort.prepare import CohortError, prepare
from meddistill.cohort.read import ReadOptions, read
from meddistill.cohort.scan import scan
from meddistill.runtime.errors import InputError

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
TREE = FILES / "dicomdirtests"
PLAIN = ReadOptions()


def load(name: str, options: ReadOptions = PLAIN) -> list[np.ndarray]:
    return [frame.load().pixels for frame in pictures(FILES / name, options)]


def changed(tmp_path: Path, name: str, **values: object) -> Path:
    """A copy of a test file with other header values; None removes one."""
    dataset = dcmread(FILES / name)
    for keyword, value in values.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.dcm"
    dataset.save_as(path)
    return path


def shown(path: Path, options: ReadOptions = PLAIN) -> np.ndarray:
    [frame] = pictures(path, options)
    return frame.load().pixels


def full_scale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint((values.astype(np.float64) - low) / (high - low) * 65535)


@pytest.mark.parametrize("name", ["CT2/17106", "CT2/17136", "CT5N/2062", "MR1/15820", "MR2/4950", "MR700/4467"])
def test_rescale_and_window_are_those_of_pydicom(name):
    """pydicom's window gives values between the ends of the stored range, mapped here from black to white."""
    path = next(TREE.glob(f"*/{name}"))
    dataset = dcmread(path)
    windowed = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    ends = np.array([-(2.0**15), 2.0**15 - 1]) * float(dataset.get("RescaleSlope", 1)) + float(
        dataset.get("RescaleIntercept", 0)
    )
    found = shown(path)
    assert found.dtype == np.uint16
    assert np.abs(found - full_scale(windowed, *ends)).max() <= 1
    assert found.max() > found.min()


def test_monochrome1_is_turned_round():
    path = next(TREE.glob("*/CR1/6154"))
    dataset = dcmread(path)
    assert dataset.PhotometricInterpretation == "MONOCHROME1"
    values = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    centre, width = float(dataset.WindowCenter), float(dataset.WindowWidth)
    expected = 1 - np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    assert np.abs(shown(path) - expected * 65535).max() <= 0.5 + 1e-6


def test_a_window_of_ones_own_goes_before_the_files(tmp_path):
    path = TREE / "77654033/CT2/17106"
    dataset = dcmread(path)
    values = apply_modality_lut(dataset.pixel_array, dataset).astype(np.float64)
    found = shown(path, ReadOptions(window=(40, 400)))
    assert np.abs(found - np.clip((values - 39.5) / 399 + 0.5, 0, 1) * 65535).max() <= 0.5 + 1e-6
    assert np.abs(found.astype(int) - shown(path)).max() > 1000


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_functions(tmp_path, function):
    path = changed(tmp_path, "MR_small.dcm", VOILUTFunction=function, WindowCenter=900, WindowWidth=700)
    dataset = dcmread(path)
    expected = full_scale(apply_voi_lut(dataset.pixel_array, dataset), -(2**15), 2**15 - 1)
    assert np.abs(shown(path) - expected).max() <= 1.5


def test_a_voi_look_up_table(tmp_path):
    """Four output values for stored values from 600 on."""
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4, 600, 8])
    table.add_new("LUTData", "US", [10, 60, 200, 255])
    path = changed(tmp_path, "MR_small.dcm", VOILUTSequence=[table])
    stored = dcmread(path).pixel_array
    expected = np.array([10, 60, 200, 255])[np.clip(stored.astype(int) - 600, 0, 3)] / 255
    assert np.abs(shown(path) - expected * 65535).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    "name",
    [
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_padded.dcm",
    ],
)
def test_every_transfer_syntax_gives_the_same_picture(name):
    assert np.array_equal(load(name)[0], load("MR_small.dcm")[0])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("JPGExtended.dcm", (1024, 256)),
        ("JPEG2000.dcm", (1024, 256)),
        ("JPEGLSNearLossless_16.dcm", (50, 10)),
        ("693_J2KI.dcm", (512, 512)),
        ("examples_overlay.dcm", (300, 484)),
    ],
)
def test_12_and_16_bits_stay_deep(name, shape):
    [found] = load(name)
    assert (found.shape, found.dtype) == (shape, np.uint16)
    assert len(np.unique(found)) > 2


def test_8_bits_are_taken_as_they_are():
    for name in ("JPEGLSNearLossless_08.dcm", "image_dfl.dcm"):
        [found] = load(name)
        assert found.dtype == np.uint8
        assert np.array_equal(found, dcmread(FILES / name).pixel_array)


RED = "SC_rgb_rle.dcm"


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_dcmtk_+eb+cr.dcm",
        "SC_rgb_dcmtk_+eb+cy+np.dcm",
        "SC_rgb_dcmtk_+eb+cy+s4.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "SC_rgb_jpeg_lossy_gdcm.dcm",
        "SC_rgb_gdcm_KY.dcm",
        "SC_rgb_jls_lossy_line.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "SC_rgb_rle_16bit.dcm",
    ],
)
def test_colour_is_rgb_however_it_is_stored(name):
    """One colour chart in RGB and YBR, plain, JPEG, JPEG lossless, JPEG-LS, JPEG 2000, RLE, at 8 and at 16 bits."""
    [found], [chart] = load(name), load(RED)
    assert found.shape == chart.shape == (100, 100, 3)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - chart).mean() < 4


def test_a_palette_is_looked_up():
    [found] = load("examples_palette.dcm")
    assert (found.shape, found.dtype) == ((350, 800, 3), np.uint8)
    assert len(np.unique(found.reshape(-1, 3), axis=0)) > 20


def test_frames_are_pictures_of_one_patient():
    frames = pictures(FILES / "examples_ybr_color.dcm", PLAIN)
    assert len(frames) == 30
    assert [frames[0].place, frames[29].place] == [" (frame 1)", " (frame 30)"]
    assert len({frame.patient for frame in frames}) == 1
    assert frames[0].peek() == (320, 240)
    assert not np.array_equal(frames[0].load().pixels, frames[29].load().pixels)
    whole = pixel_array(FILES / "SC_rgb_rle_2frame.dcm")
    assert all(np.array_equal(a, b) for a, b in zip(load("SC_rgb_rle_2frame.dcm"), whole, strict=True))


def test_an_enhanced_file_has_its_window_in_its_groups(tmp_path):
    shared, voi, rescale = Dataset(), Dataset(), Dataset()
    voi.WindowCenter, voi.WindowWidth = "1000", "500"
    rescale.RescaleSlope, rescale.RescaleIntercept = "2", "-100"
    shared.FrameVOILUTSequence, shared.PixelValueTransformationSequence = [voi], [rescale]
    path = changed(
        tmp_path, "MR_small.dcm", WindowCenter=None, WindowWidth=None, SharedFunctionalGroupsSequence=[shared]
    )
    values = dcmread(path).pixel_array * 2.0 - 100
    assert np.abs(shown(path) - np.clip((values - 999.5) / 499 + 0.5, 0, 1) * 65535).max() <= 0.5 + 1e-6


def test_padding_is_black(tmp_path):
    stored = dcmread(FILES / "MR_small.dcm").pixel_array
    value = int(stored[0, 0])
    path = changed(tmp_path, "MR_small.dcm", PhotometricInterpretation="MONOCHROME1")
    dataset = dcmread(path)
    dataset.add_new("PixelPaddingValue", "SS", value)
    dataset.save_as(path)
    found = shown(path)
    assert not found[stored == value].any()
    assert found.any()


@pytest.mark.parametrize("representation", ["SS", "US"])
def test_padding_of_signed_pixels_is_black_however_it_is_written(tmp_path, representation):
    """Some writers put -1000 down as 64536, and the limit of its range likewise."""
    stored = np.array([[-1000, -999, -998, 0, 40, 400, 900, 1000]], np.int16)
    first, last = (-1000, -999) if representation == "SS" else (65536 - 1000, 65536 - 999)
    path = changed(
        tmp_path, "CT_small.dcm", Rows=1, Columns=8, PixelData=stored.tobytes(), PhotometricInterpretation="MONOCHROME1"
    )
    dataset = dcmread(path)
    assert (dataset.PixelRepresentation, dataset.BitsAllocated) == (1, 16)
    dataset.add_new("PixelPaddingValue", representation, first)
    dataset.add_new("PixelPaddingRangeLimit", representation, last)
    dataset.save_as(path)
    assert (shown(path)[0] == 0).tolist() == [True, True, False, False, False, False, False, False]


def test_padding_of_unsigned_pixels_may_be_large(tmp_path):
    stored = np.array([[65535, 64000, 9, 7]], np.uint16)
    path = changed(
        tmp_path,
        "CT_small.dcm",
        Rows=1,
        Columns=4,
        PixelData=stored.tobytes(),
        PixelRepresentation=0,
        RescaleSlope=None,
    )
    dataset = dcmread(path)
    dataset.add_new("PixelPaddingValue", "US", 65535)
    dataset.save_as(path)
    assert (shown(path)[0] == 0).tolist() == [True, False, False, False]


def test_empty_sequences_are_as_good_as_none(tmp_path):
    bare = {"WindowCenter": 900, "WindowWidth": 700}
    empty = {**bare, "VOILUTSequence": [], "ModalityLUTSequence": []}
    [plain] = pictures(changed(tmp_path, "MR_small.dcm", **bare), PLAIN)
    [same] = pictures(changed(tmp_path, "MR_small.dcm", **empty), PLAIN)
    assert np.array_equal(same.load().pixels, plain.load().pixels)
    [frame] = pictures(changed(tmp_path, "MR_small.dcm", WindowCenter=None, WindowWidth=None, VOILUTSequence=[]), PLAIN)
    assert frame.no_window


@pytest.mark.parametrize("name", ["MR_small.dcm", "SC_rgb_rle.dcm"])
def test_pixel_values_in_other_than_the_lowest_bits_are_refused(tmp_path, name):
    """They would be read as other values, in silence."""
    bits = dcmread(FILES / name).BitsStored
    path = changed(tmp_path, name, BitsStored=bits - 4)
    with pytest.raises(ValueError, match=f"its HighBit is {bits - 1}, and {bits - 5} alone is read"):
        pictures(path, PLAIN)


def test_a_file_without_the_preamble_gets_a_remedy_that_a_user_can_follow(tmp_path):
    (tmp_path / "a.dcm").write_bytes((FILES / "MR_small.dcm").read_bytes()[132:])
    with pytest.raises(ValueError, match="export it once more") as caught:
        pictures(tmp_path / "a.dcm", PLAIN)
    assert "force" not in str(caught.value)


@pytest.mark.parametrize("name", ["test-SR.dcm", "rtplan.dcm", "waveform_ecg.dcm", "dicomdirtests/DICOMDIR"])
def test_what_holds_no_picture_is_said_to_hold_none(name):
    with pytest.raises(NoPictureError, match="without pixels"):
        pictures(FILES / name, PLAIN)


@pytest.mark.parametrize("name", ["MR_truncated.dcm", "SC_rgb_rle_32bit.dcm"])
def test_what_cannot_be_decoded_says_why(name):
    [frame] = pictures(FILES / name, PLAIN)
    with pytest.raises(ValueError, match="broken, cut short"):
        frame.load()


def test_a_file_that_claims_endless_frames_or_pixels_is_refused(tmp_path):
    for values in ({"NumberOfFrames": 2_000_000_000}, {"Rows": 65535, "Columns": 65535}):
        with pytest.raises(ValueError, match="more than are read"):
            pictures(changed(tmp_path, "MR_small.dcm", **values), PLAIN)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"Columns": None}, "nothing as Columns"),
        ({"Rows": [64, 64]}, "'[64, 64]' as Rows"),
        ({"BitsStored": [16, 16]}, "'[16, 16]' as BitsStored"),
    ],
)
def test_a_bad_header_is_one_unreadable_picture_among_others(tmp_path, values, said):
    (tmp_path / "set" / "a").mkdir(parents=True)
    shutil.copy(FILES / "MR_small.dcm", tmp_path / "set" / "a" / "good.dcm")
    bad = changed(tmp_path / "set" / "a", "MR_small.dcm", **values)
    [told] = scan(read(tmp_path / "set"), 16).unreadable
    assert told.startswith("a/1.dcm: broken") and said in told
    with pytest.raises(ValueError, match="expected one whole number"):
        pictures(bad, PLAIN)


def deflated(path: Path, padding: int, meta: bytes | None = None) -> Path:
    """The deflated test file with a trailing element of so many zeros."""
    whole = (FILES / "image_dfl.dcm").read_bytes()
    with open(FILES / "image_dfl.dcm", "rb") as file:
        read_preamble(file, force=False)
        read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
        start = file.tell()
    element = b"\xfc\xff\xfc\xffOB\0\0" + padding.to_bytes(4, "little") + bytes(padding)
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    packed = packer.compress(zlib.decompress(whole[start:], -15) + element) + packer.flush()
    path.write_bytes((whole[:start] if meta is None else whole[:132] + meta) + packed)
    return path


def test_a_deflated_file_is_not_inflated_beyond_a_limit(tmp_path):
    assert np.array_equal(shown(deflated(tmp_path / "a.dcm", 1 << 20)), load("image_dfl.dcm")[0])
    path = deflated(tmp_path / "b.dcm", 100 << 20)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ValueError, match="more than 64 MiB once inflated"):
        pictures(path, PLAIN)


def test_a_deflated_file_with_its_meta_in_implicit_form_is_refused(tmp_path):
    """pydicom reads such a meta in a second attempt, so what it would inflate might begin elsewhere."""
    uid = b"1.2.840.10008.1.2.1.99"
    path = deflated(tmp_path / "a.dcm", 100 << 20, b"\2\0\x10\0" + len(uid).to_bytes(4, "little") + uid)
    assert read_file_meta_info(path).TransferSyntaxUID == uid.decode()
    with pytest.raises(ValueError, match="broken"):
        pictures(path, PLAIN)


@pytest.fixture
def site(tmp_path) -> Path:
    """Files without suffixes in folders, as an archive writes them, without classes: two patients' CR, CT, MR."""
    shutil.copytree(TREE / "98892003", tmp_path / "scans" / "98892003")
    shutil.copytree(TREE / "98892001", tmp_path / "scans" / "98892001")
    shutil.copytree(TREE / "77654033", tmp_path / "scans" / "77654033")
    shutil.copy(TREE / "DICOMDIR", tmp_path / "scans" / "DICOMDIR")
    return tmp_path


@pytest.mark.parametrize(("patient", "known"), [("K-17", True), ("", False), (None, False)])
def test_a_study_holds_images_together_and_is_no_patient(tmp_path, patient, known):
    """No guarantee about a person may rest on it."""
    for label in ("a", "b"):
        (tmp_path / "scans" / label).mkdir(parents=True)
        for _ in range(2):
            changed(tmp_path / "scans" / label, "CT_small.dcm", PatientID=patient, StudyInstanceUID="1.2.3")
    found = read(tmp_path / "scans", ReadOptions())
    assert [record.names_patient for record in found.records] == [known] * 4
    assert {record.patient for record in found.records} == {"K-17" if known else "1.2.3"}
    told = fingerprint(scan(found, 16), np.zeros(4, np.int8), "given")
    assert told.without_patient == (0 if known else 4)
    named = read(tmp_path / "scans", ReadOptions(patient_pattern=r"(\d+)"))
    assert all(record.names_patient for record in named.records)


def test_a_header_holds_images_together_where_a_cell_is_empty(tmp_path):
    """By an equal id with those that the column names; and nobody says that it names a person as the column does."""
    names = [changed(tmp_path, "CT_small.dcm", PatientID=patient).name for patient in ("K1", "K1", "K2", "")]
    source = tmp_path / "t.csv"
    source.write_text("path,label,patient\n" + "".join(f"{name},a,{'K1' * (not n)}\n" for n, name in enumerate(names)))
    records = read(source).records
    assert [record.patient for record in records[:3]] == ["K1", "K1", "K2"]
    assert records[3].patient == dcmread(tmp_path / names[3]).StudyInstanceUID
    assert [record.names_patient for record in records] == [True, False, False, False]
    source.write_text("path,label,patient\n" + "".join(f"{name},a,\n" for name in names))
    listing = read(source)
    assert [record.patient for record in listing.records[:3]] == ["K1", "K1", "K2"]
    [told] = [one for one in listing.problems if one.code == "patient-unknown"]
    assert "the column patient gives no image a patient" in told.message


def ids(folder: Path, keyword: str) -> list[str]:
    return [
        str(dcmread(path).get(keyword))
        for path in sorted(folder.rglob("*"))
        if path.name.isdecimal() and path.is_file()
    ]


def table(site: Path, *lines: str) -> Path:
    (site / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return site / "labels.csv"


def test_labels_by_patient_study_or_image(site):
    scans = site / "scans"
    patients = sorted(set(ids(scans, "PatientID")))
    source = table(
        site, "PatientID,label", *(f"{name},{'ct' if place else 'mr'}" for place, name in enumerate(patients))
    )
    listing = read(source, ReadOptions(images=scans))
    assert len(listing.records) == len(ids(scans, "PatientID")) == 31
    assert {record.patient for record in listing.records} == set(patients)
    for keyword in ("StudyInstanceUID", "SOPInstanceUID", "SeriesInstanceUID"):
        found = sorted(set(ids(scans, keyword)))
        source = table(
            site, f"{keyword},label,split", *(f"{uid},c{place % 2},train" for place, uid in enumerate(found))
        )
        listing = read(source, ReadOptions(images=scans))
        expected = {uid: f"c{place % 2}" for place, uid in enumerate(found)}
        assert sorted(record.label for record in listing.records) == sorted(map(expected.get, ids(scans, keyword)))
        assert {record.split for record in listing.records} == {"train"}


def test_identifiers_that_do_not_match_are_all_listed(site):
    found = sorted(set(ids(site / "scans", "StudyInstanceUID")))
    source = table(site, "StudyInstanceUID,label", f"{found[0]},a", "1.2.3.4,b", "1.2.3.5,b")
    problems = {problem.code: problem for problem in read(source, ReadOptions(images=site / "scans")).problems}
    assert problems["missing-file"].count == 2
    assert "labels.csv:3 (1.2.3.4)" in problems["missing-file"].places
    assert problems["unlabelled"].count == 31 - ids(site / "scans", "StudyInstanceUID").count(found[0])
    assert problems["unlabelled"].level == "warning"


def test_a_cohort_of_dicom_keeps_pixels_and_classes_alone(site):
    """No name, id or date of the headers is in anything that leaves the readers, the owner's messages apart."""
    patients = sorted(set(ids(site / "scans", "PatientID")))
    source = table(site, "PatientID,label", *(f"{name},{'ab'[place % 2]}" for place, name in enumerate(patients)))
    prepared = prepare(source, size=16, options=ReadOptions(images=site / "scans"), evaluation=True)
    cohort = prepared.cohort
    assert (cohort.images.shape, cohort.images.dtype) == ((31, 1, 16, 16), np.uint16)
    assert vars(cohort).keys() == {"images", "labels", "splits", "classes"}
    told = str(prepared.fingerprint.as_dict())
    secrets = {*patients, *ids(site / "scans", "PatientName"), *ids(site / "scans", "StudyInstanceUID")}
    assert not [secret for secret in secrets if secret in told]
    assert sum(prepared.fingerprint.patients.values()) == 2  # a patient is in one split only


def test_class_folders_of_dicom_files_grouped_by_patient(tmp_path):
    for name, folder in (("mr", "98892003"), ("ct", "98892001")):
        shutil.copytree(TREE / folder, tmp_path / "set" / name)
    shutil.copy(FILES / "test-SR.dcm", tmp_path / "set" / "mr" / "report.dcm")
    listing = read(tmp_path / "set")
    assert listing.classes == ("ct", "mr")
    assert {record.patient for record in listing.records if record.label == "ct"} == {"98890234"}
    assert listing.ignored["DICOM without pixels"] == 1
    named = read(tmp_path / "set", ReadOptions(patient_pattern=r"\d"))
    assert {record.patient for record in named.records} <= set("0123456789")


def test_a_leak_between_splits_is_seen_by_the_header(tmp_path):
    for split, folder in (("train", "MR1"), ("test", "MR2")):
        shutil.copytree(TREE / "98892003" / folder, tmp_path / split / "mr")
        shutil.copytree(TREE / "98892001" / "CT5N", tmp_path / split / "ct")
    with pytest.raises(CohortError) as caught:
        prepare(tmp_path, size=16)
    [leak] = [problem for problem in caught.value.problems if problem.code == "patient-across-splits"]
    assert leak.count == 1  # the CT and the MR are of one patient


def test_burned_in_text_stops_unless_waived(tmp_path):
    """Both files with the flag are named, the one that denies it is not."""
    for name, flag in (("a", "YES"), ("b", "YES"), ("c", "NO")):
        (tmp_path / "set" / name).mkdir(parents=True)
        changed(tmp_path / "set" / name, "MR_small.dcm", BurnedInAnnotation=flag)
    with pytest.raises(CohortError) as caught:
        prepare(tmp_path / "set", size=16, evaluation=True)
    [found] = [problem for problem in caught.value.problems if problem.code == "burned-in"]
    assert (found.level, found.count, found.places) == ("error", 2, ("a/0.dcm", "b/0.dcm"))
    waived = ReadOptions(allow_burned_in=True)
    assert len(prepare(tmp_path / "set", size=16, options=waived, evaluation=True).cohort.labels) == 3


def test_no_window_is_told_with_its_remedy(tmp_path):
    (tmp_path / "set" / "a").mkdir(parents=True)
    shutil.copy(FILES / "CT_small.dcm", tmp_path / "set" / "a")
    [found] = [problem for problem in read(tmp_path / "set").problems if problem.code == "no-window"]
    assert "--window" in found.remedy
    assert not read(tmp_path / "set", ReadOptions(window=(40, 400))).problems


def test_broken_files_are_listed_with_all_others(tmp_path):
    (tmp_path / "set" / "a").mkdir(parents=True)
    shutil.copy(FILES / "MR_small.dcm", tmp_path / "set" / "a" / "good.dcm")
    shutil.copy(FILES / "MR_truncated.dcm", tmp_path / "set" / "a" / "short.dcm")
    (tmp_path / "set" / "a" / "text.dcm").write_text("not an image")
    scanned = scan(read(tmp_path / "set"), 16)
    [found] = [problem for problem in check(scanned) if problem.code == "unreadable"]
    assert found.count == 2
    assert {place.split(":")[0] for place in found.places} == {"a/short.dcm", "a/text.dcm"}


def test_a_single_file_is_no_source():
    with pytest.raises(InputError, match="one image file"):
        read(FILES / "MR_small.dcm")


def test_a_row_that_names_a_report_is_an_error(tmp_path):
    shutil.copy(FILES / "test-SR.dcm", tmp_path / "report.dcm")
    shutil.copy(FILES / "MR_small.dcm", tmp_path / "mr.dcm")
    source = table(tmp_path, "path,label", "report.dcm,a", "mr.dcm,b")
    assert [(found.code, found.count) for found in read(source).problems if found.level == "error"] == [
        ("no-pixels", 1)
    ]


def test_files_without_a_suffix_are_found_by_name(tmp_path):
    for name in ("IM0000", "1.2.840.1", "1.2.840.2"):
        (tmp_path / "sub").mkdir(exist_ok=True)
        shutil.copy(FILES / "MR_small.dcm", tmp_path / "sub" / name)
    listing = read(table(tmp_path, "path,label", "IM0000,a", "1.2.840.1,b", "sub/1.2.840.2,b"))
    assert not [found.code for found in listing.problems if found.level == "error"]
    assert len(listing.records) == 3
