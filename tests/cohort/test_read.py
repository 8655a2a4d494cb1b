import io
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from meddistill.cohort.read import ReadOptions, read
from meddistill.runtime.errors import InputError


def codes(listing):
    return [found.code for found in listing.problems]


def named(listing, code):
    return next(found for found in listing.problems if found.code == code)


def test_class_folders(class_folders, noise):
    listing = read(class_folders)
    assert (listing.name, listing.kind, listing.classes) == ("set", "class folders", ("cat", "dog"))
    assert len(listing.records) == 40
    assert {record.split for record in listing.records} == {None}
    assert listing.problems == ()
    assert listing.records[0].where == "cat/00.png"
    np.testing.assert_array_equal(listing.records[0].decode(), noise(0))


def test_split_folders_take_the_usual_names_in_any_case(split_folders):
    listing = read(split_folders)
    assert listing.kind == "split folders"
    counts = [sum(record.split == split for record in listing.records) for split in ("train", "val", "test")]
    assert counts == [12, 4, 6]


def test_images_deeper_in_a_class_folder_belong_to_the_class(class_folders, save, noise):
    save(class_folders / "cat" / "patient7" / "scan" / "a.tif", noise(900))
    listing = read(class_folders)
    assert {record.label for record in listing.records if "patient7" in record.where} == {"cat"}


def test_patient_pattern_takes_the_first_group_or_the_whole_match(split_folders):
    group = read(split_folders, ReadOptions(patient_pattern=r"^p(\d+)_"))
    whole = read(split_folders, ReadOptions(patient_pattern=r"^p\d+"))
    assert group.records[0].patient == "017"
    assert whole.records[0].patient == "p017"
    assert read(split_folders, ReadOptions(patient_pattern="xyz")).records[0].patient is None


def test_hidden_and_other_files_are_left_aside_and_counted(class_folders):
    for name in (".DS_Store", "Thumbs.db", "cat/.hidden.png", "cat/notes.txt", "dog/scan.svg", "README"):
        (class_folders / name).write_bytes(b"x")
    listing = read(class_folders)
    assert len(listing.records) == 40
    assert listing.ignored == {"hidden": 3, ".txt": 1, ".svg": 1, "no suffix": 1}
    assert "1 × .svg" in named(listing, "ignored-files").message
    assert "hidden" not in named(listing, "ignored-files").message


def test_empty_class_folders_and_images_outside_are_warned_of(class_folders, save, noise):
    (class_folders / "empty").mkdir()
    save(class_folders / "stray.png", noise(901))
    listing = read(class_folders)
    assert codes(listing) == ["outside-class", "empty-class"]
    assert named(listing, "outside-class").places == ("stray.png",)
    assert listing.classes == ("cat", "dog")


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_links_are_followed_but_not_in_circles(class_folders, tmp_path, save, noise):
    (class_folders / "cat" / "up").symlink_to(class_folders)
    save(tmp_path / "elsewhere" / "x.png", noise(902))
    (class_folders / "bird").symlink_to(tmp_path / "elsewhere")
    listing = read(class_folders)
    assert len(listing.records) == 41
    assert named(listing, "link-loop").places == ("cat/up",)


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_a_link_to_itself_is_named(class_folders):
    (class_folders / "cat" / "itself").symlink_to("itself")
    listing = read(class_folders)
    assert len(listing.records) == 40
    [place] = named(listing, "closed-folder").places
    assert place.startswith("cat/itself (")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root, save, noise: None, "empty folder"),
        (lambda root, save, noise: (root / "cat").mkdir(), "no PNG, JPEG, TIFF, BMP, DICOM or NIfTI image"),
        (lambda root, save, noise: (root / "a.svg").write_bytes(b"x"), "1 × .svg"),
        (lambda root, save, noise: save(root / "a.png", noise(0)), "directly in the folder"),
        (lambda root, save, noise: save(root / "train" / "a.png", noise(0)), "directly in the split folders"),
        (lambda root, save, noise: [save(root / name / "c" / "a.png", noise(0)) for name in ("train", "cat")], "mixes"),
        (lambda root, save, noise: save(root / "deep" / "train" / "cat" / "a.png", noise(0)), "instead"),
        (
            lambda root, save, noise: [save(root / name / "train" / "a.png", noise(0)) for name in ("cat", "dog")],
            "split first",
        ),
    ],
)
def test_folders_that_cannot_be_listed_say_why(tmp_path, make, said, save, noise):
    root = tmp_path / "set"
    root.mkdir()
    make(root, save, noise)
    with pytest.raises(InputError, match=said):
        read(root)


def test_a_folder_with_a_table_points_to_it(tmp_path, save, noise):
    save(tmp_path / "a.png", noise(0))
    (tmp_path / "metadata.csv").write_text("path,label\n")
    with pytest.raises(InputError, match=r"metadata\.csv"):
        read(tmp_path)


def test_wrong_paths_and_kinds(tmp_path):
    with pytest.raises(InputError, match="no file or folder"):
        read(tmp_path / "missing")
    for name, said in (("a.txt", "unknown kind"), ("a.dcm", "one image file"), ("a.nii.gz", "one image file")):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(InputError, match=said):
            read(tmp_path / name)


def test_a_wrong_pattern_is_an_input_error(class_folders):
    with pytest.raises(InputError, match="not a regular expression"):
        read(class_folders, ReadOptions(patient_pattern="(person"))


def test_table_with_all_columns(table, noise):
    listing = read(table("path,label,patient,split", "a.png,cat,p1,train", "b.png,dog,,valid", "c.png,dog,p2,TEST"))
    assert [(r.label, r.patient, r.split) for r in listing.records] == [
        ("cat", "p1", "train"),
        ("dog", None, "val"),
        ("dog", "p2", "test"),
    ]
    assert listing.problems == ()
    assert listing.records[1].where == "table.csv:3 (b.png)"
    np.testing.assert_array_equal(listing.records[1].decode(), noise(1))


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_table_delimiters_byte_order_mark_and_blank_lines(table, mark):
    path = table("x")
    text = f"\ufeffpath{mark}label\r\n\r\n a.png {mark} cat \r\n{mark}\r\nb.png{mark}dog\r\n"
    path.write_text(text, encoding="utf-8", newline="")
    assert [(record.where, record.label) for record in read(path).records] == [
        ("table.csv:3 (a.png)", "cat"),
        ("table.csv:5 (b.png)", "dog"),
    ]


def test_table_like_that_of_ham10000(tmp_path, save, noise):
    """Ids without suffix, images in two folders, columns with names of their own."""
    for seed, name in enumerate(("part_1/ISIC_1.jpg", "part_2/ISIC_2.jpg", "part_2/ISIC_3.jpg")):
        save(tmp_path / "pictures" / name, noise(seed))
    rows = ["lesion_id,image_id,dx", "HAM_1,ISIC_1,nv", "HAM_1,ISIC_2,nv", "HAM_2,ISIC_3,mel"]
    (tmp_path / "meta.csv").write_text("\n".join(rows))
    with pytest.raises(InputError, match=r"its columns are lesion_id, image_id, dx.*HAM10000"):
        read(tmp_path / "meta.csv")
    options = ReadOptions("image_id", "dx", "lesion_id", images=tmp_path / "pictures")
    listing = read(tmp_path / "meta.csv", options)
    assert [(record.label, record.patient) for record in listing.records] == [
        ("nv", "HAM_1"),
        ("nv", "HAM_1"),
        ("mel", "HAM_2"),
    ]
    assert all(record.decode().shape == (12, 12) for record in listing.records)


def test_all_faulty_rows_are_named_at_once(table, tmp_path, save, noise):
    save(tmp_path / "x" / "twin.png", noise(50))
    save(tmp_path / "y" / "twin.png", noise(51))
    listing = read(
        table(
            "path,label,split",
            "a.png,cat,train",
            "missing.png,cat,train",
            "b.png,,train",
            ",dog,train",
            "c.png",
            "d.png,dog,holdout",
            "e.png,dog,",
            "twin.png,dog,train",
        )
    )
    assert {found.code: found.places for found in listing.problems} == {
        "empty-path": ("table.csv:5",),
        "empty-label": ("table.csv:4", "table.csv:6"),
        "missing-file": ("table.csv:3 (missing.png)",),
        "ambiguous-file": ("table.csv:9 (twin.png: 2 files)",),
        "unknown-split": ("table.csv:7 (holdout)",),
        "missing-split": ("row 6", "row 8"),
    }
    assert {found.level for found in listing.problems} == {"error"}


def test_a_comma_without_quotes_gives_no_wrong_class(table):
    listing = read(
        table("path,label", "a.png,normal, benign", 'b.png,"normal, benign"', "c.png,malignant,", "d.png,x,,")
    )
    assert [(record.where, record.label) for record in listing.records] == [
        ("table.csv:3 (b.png)", "normal, benign"),
        ("table.csv:4 (c.png)", "malignant"),
        ("table.csv:5 (d.png)", "x"),
    ]
    found = named(listing, "too-many-cells")
    assert (found.level, found.places) == ("error", ("table.csv:2",))
    assert "quotes" in found.message


def test_cells_that_are_no_file_names(table):
    listing = read(table("path,label", "a.png,cat", "..,cat", f"{'x' * 5000}.png,dog", f"x/{'y' * 5000},dog"))
    assert named(listing, "missing-file").count == 3


def test_a_cell_with_a_nul(table):
    path = table("path,label", "a.png,cat", "b\0.png,dog")
    if sys.version_info >= (3, 11):
        assert named(read(path), "missing-file").count == 1
    else:  # whose csv module reads no such file
        with pytest.raises(InputError, match="cannot be read as a CSV: line contains NUL"):
            read(path)


def test_multi_label_tables_are_refused_by_name(table):
    listing = read(table("path,label", "a.png,mass", "b.png,effusion", "c.png,effusion|mass"))
    assert codes(listing) == ["multi-label"]
    assert codes(read(table("path,label", "a.png,left|right", "b.png,none"))) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "is empty"),
        (b"path,label\n", "no rows"),
        (b"path,class\na.png,x\n", "no column label; its columns are path, class"),
        (b"file,class\na.png,x\n", "no column path and no column label"),
        (b"path,label,label\na.png,x,y\n", "more than one column called label"),
        (b"path,label\n\xff\xfe,x\n", "not UTF-8"),
    ],
)
def test_tables_that_cannot_be_listed_say_why(tmp_path, text, said):
    (tmp_path / "t.csv").write_bytes(text)
    with pytest.raises(InputError, match=said):
        read(tmp_path / "t.csv")


def test_named_columns_must_exist_and_patients_have_one_origin(table):
    path = table("path,label,patient", "a.png,cat,1")
    with pytest.raises(InputError, match="no column person"):
        read(path, ReadOptions(patient_column="person"))
    with pytest.raises(InputError, match="not both"):
        read(path, ReadOptions(patient_column="patient", patient_pattern="."))
    assert read(path, ReadOptions(patient_pattern="^.")).records[0].patient == "a"
    with pytest.raises(InputError, match=r"images folder .*nowhere does not exist"):
        read(path, ReadOptions(images=path.parent / "nowhere"))


def medmnist(path: Path, **arrays):
    np.savez(path, **arrays)
    return path


def npz(path, images, labels):
    return medmnist(
        path, **{f"{s}_images": images for s in ("train", "test")}, **{f"{s}_labels": labels for s in ("train", "test")}
    )


@pytest.mark.parametrize("shape", [(4, 6, 6), (4, 6, 6, 1), (4, 6, 6, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_medmnist_grey_and_colour(tmp_path, shape, dtype):
    images = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    listing = read(npz(tmp_path / "mine.npz", images, np.array([[0], [10], [2], [0]], np.uint8)))
    assert listing.classes == ("0", "2", "10")
    assert [record.split for record in listing.records] == ["train"] * 4 + ["test"] * 4
    assert listing.records[1].where == "train[1]"
    np.testing.assert_array_equal(listing.records[1].decode(), images[1].squeeze())
    assert listing.records[1].peek() == (6, 6)
    assert named(listing, "label-gap").count == 8


def test_medmnist_class_names_are_known(tmp_path):
    images, labels = np.zeros((3, 4, 4), np.uint8), np.array([[0], [1], [1]])
    assert read(npz(tmp_path / "pneumoniamnist_64.npz", images, labels)).classes == ("normal", "pneumonia")
    assert "label-gap" in codes(read(npz(tmp_path / "octmnist.npz", images, labels)))


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (np.zeros((3, 4, 4), np.uint8), np.zeros((3, 14), np.uint8), "multi-label"),
        (np.zeros((3, 28, 28, 28), np.uint8), np.zeros((3, 1), np.uint8), "3-D volumes"),
        (np.zeros((3, 4, 4, 4, 3), np.uint8), np.zeros((3, 1), np.uint8), "3-D volumes"),
        (np.zeros((3, 4, 4), np.float32), np.zeros((3, 1), np.uint8), "float32: expected uint8 or uint16"),
        (np.zeros((3, 4, 4), np.uint8), np.zeros((3, 1), np.float32), "whole numbers"),
        (np.zeros((3, 4, 4), np.uint8), np.full((3, 1), -1), "-1 in row 0"),
        (np.zeros((3, 4, 4), np.uint8), np.array([0, 1, 2**32 - 1], np.uint32), "4294967295 in row 2: .* to 65535"),
        (np.zeros((3, 4, 4), np.uint8), np.array([0, 2**64 - 1, 1], np.uint64), "18446744073709551615 in row 1"),
        (np.zeros((3, 4, 4), np.uint8), np.zeros((2, 1), np.uint8), "3 images but train_labels 2"),
        (np.zeros((3, 0, 4), np.uint8), np.zeros((3, 1), np.uint8), "expected"),
        (np.zeros((0, 4, 4), np.uint8), np.zeros((0, 1), np.uint8), "holds no image"),
        (np.array([None] * 3), np.zeros((3, 1), np.uint8), "expected"),
    ],
)
def test_medmnist_files_that_are_refused(tmp_path, images, labels, said):
    with pytest.raises(InputError, match=said):
        read(npz(tmp_path / "a.npz", images, labels))


def test_broken_npz_files(tmp_path):
    with pytest.raises(InputError, match="found other"):
        read(medmnist(tmp_path / "a.npz", other=np.zeros(3)))
    with pytest.raises(InputError, match="found train_images"):
        read(medmnist(tmp_path / "a.npz", train_images=np.zeros((3, 4, 4), np.uint8)))
    whole = npz(tmp_path / "b.npz", np.zeros((3, 4, 4), np.uint8), np.zeros((3, 1), np.uint8)).read_bytes()
    for data in (b"", b"text", whole[: len(whole) // 2], whole[:-5]):
        (tmp_path / "c.npz").write_bytes(data)
        with pytest.raises(InputError, match="cannot be read as a MedMNIST"):
            read(tmp_path / "c.npz")
    with pytest.raises(InputError, match="no file names"):
        read(tmp_path / "b.npz", ReadOptions(patient_pattern="."))


def claim(path: Path, name: str, shape: tuple[int, ...], data: bytes) -> None:
    """Give an array of the file a header that claims a shape, before whatever data."""
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in (members | {f"{name}.npy": header.getvalue() + data}).items():
            archive.writestr(member, content)


@pytest.mark.parametrize("count", [2**46, 4, 2])
def test_npz_arrays_that_claim_other_bytes_than_there_are(tmp_path, count):
    """The labels of as many images as are claimed, or their number would be told first."""
    path = npz(tmp_path / "a.npz", np.zeros((3, 4, 4), np.uint8), np.zeros((3, 1), np.uint8))
    claim(path, "train_labels", (count, 1), bytes(3))
    claim(path, "train_images", (count, 4, 4), bytes(48))
    with pytest.raises(InputError, match=f"takes {16 * count} bytes, but the file has 48 of it"):
        read(path)


def test_damaged_and_encrypted_npz_files_say_so(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "a.npz"
    images, labels = rng.integers(0, 9, (60, 16, 16), np.uint8), np.zeros((60, 1), np.uint8)
    np.savez_compressed(path, train_images=images, train_labels=labels)
    whole = path.read_bytes()
    for place in range(200, len(whole) - 300, 397):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55] * 8) + whole[place + 8 :])
        with pytest.raises(InputError, match="cannot be read as a MedMNIST"):
            read(path)
    encrypted = bytearray(whole)
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        encrypted[whole.index(mark) + flags] |= 1
    path.write_bytes(encrypted)
    with pytest.raises(InputError, match="is encrypted"):
        read(path)


@pytest.mark.parametrize("header", [b"(" * 4000, b"{[]: 1}", b"{'descr': '|u1", b"\xff" * 40, b""])
def test_npz_headers_that_are_none(tmp_path, header):
    path = npz(tmp_path / "a.npz", np.zeros((3, 4, 4), np.uint8), np.zeros((3, 1), np.uint8))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("val_images.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(InputError, match="cannot be read as a MedMNIST"):
        read(path)


def test_a_cell_may_leave_out_any_suffix_in_any_case(tmp_path, save, noise):
    save(tmp_path / "sub" / "k.PNG", noise(1))
    save(tmp_path / "sub" / "m.png", noise(2))
    for name in ("vol1.nii.gz", "vol2.nii"):
        (tmp_path / "sub" / name).write_bytes(b"not read")
    (tmp_path / "t.csv").write_text("path,label\nsub/k,a\nk,a\nsub/m,b\nm,b\nvol1,a\nvol2,b\nsub/vol1,a\n")
    listing = read(tmp_path / "t.csv")
    assert listing.problems == ()
    assert len(listing.records) == 7


def test_a_name_that_fits_two_suffixes_is_ambiguous(tmp_path, save, noise):
    for suffix in ("PNG", "bmp"):
        save(tmp_path / "sub" / f"k.{suffix}", noise(1))
    (tmp_path / "t.csv").write_text("path,label\nsub/k,a\nk,b\nsub/gone,a\nnowhere/k,a\n")
    problems = read(tmp_path / "t.csv").problems
    assert {found.code: found.count for found in problems} == {"ambiguous-file": 2, "missing-file": 2}


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a backslash parts folders")
def test_a_backslash_in_a_path_is_named(tmp_path, save, noise):
    save(tmp_path / "sub" / "k.png", noise(1))
    (tmp_path / "t.csv").write_text("path,label\nsub\\k.png,a\nsub/k.png,b\n")
    assert "Write / in the place of \\" in named(read(tmp_path / "t.csv"), "missing-file").remedy
