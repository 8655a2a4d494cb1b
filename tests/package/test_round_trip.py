"""What is written is what is read, byte for byte the same every time, and a changed byte never passes."""

import hashlib
import io
import subprocess
import sys
import textwrap
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from meddistill.package import container, limits, readme
from meddistill.package.read import _examine, read, verify
from meddistill.package.show import summary
from meddistill.package.types import CohortCounts, Package, Results, Score
from meddistill.package.write import encode, round_trip, write
from meddistill.runtime.enlarge import enlarge, enlarging
from meddistill.runtime.errors import InputError, OutputError, VerificationError

Make = Callable[..., Package]
Save = Callable[[bytes], Path]


@pytest.mark.parametrize(("classes", "per_class", "size", "channels"), [(2, 1, 28, 1), (3, 4, 16, 3), (1, 1, 1, 1)])
@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_round_trip(
    make: Make, tmp_path: Path, classes: int, per_class: int, size: int, channels: int, labels: str
) -> None:
    package = make(classes, per_class, size, channels, labels)
    path = tmp_path / "folder" / "p.mdz"
    size_in_bytes = write(path, package)
    back = read(path)
    assert size_in_bytes == path.stat().st_size
    assert back.images.dtype == back.labels.dtype == back.step_sizes.dtype == np.float32
    np.testing.assert_array_equal(back.images, round_trip(package.images))
    np.testing.assert_array_equal(back.labels, package.labels)
    np.testing.assert_array_equal(back.step_sizes, package.step_sizes)
    assert replace(back.card, digests={}) == package.card
    assert encode(back) == path.read_bytes(), "what was read is written as the same bytes"
    assert verify(path).as_dict()["answer"] == "unsigned"


def test_images_stored_small_are_read_as_stored_and_enlarged(make: Make, tmp_path: Path) -> None:
    package = make(size=12, stored=5, channels=3)
    write(tmp_path / "p.mdz", package)
    back = read(tmp_path / "p.mdz")
    np.testing.assert_array_equal(back.images, round_trip(package.images))
    assert back.images.shape == (2, 3, 5, 5)
    assert back.enlarged.shape == (2, 3, 12, 12)
    assert back.enlarged.dtype == np.float32
    # The formula of FORMAT.md, written out for one pixel: centres at 3.5 · 5 / 12 − ½ = 0.958… and 0.
    weight, plane = 3.5 * 5 / 12 - 0.5, back.images[1, 2].astype(np.float64)
    expected = (1 - weight) * plane[0, 0] + weight * plane[1, 0]
    np.testing.assert_allclose(back.enlarged[1, 2, 3, 0], expected, rtol=1e-6)
    plain = make()
    assert plain.enlarged is plain.images
    assert "2 synthetic colour images of 12 x 12 pixels (stored with 5 x 5)" in readme.readme(back.card)


def test_enlarging_takes_little_more_room_than_what_comes_out() -> None:
    small = np.random.default_rng(0).random((48, 1, 2, 2), np.float32)
    tracemalloc.start()
    found = enlarge(small, 512)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1.5 * found.nbytes
    matrix = enlarging(2, 512)
    np.testing.assert_array_equal(found, (matrix @ small.astype(np.float64) @ matrix.T).astype(np.float32))


def test_same_package_same_bytes(make: Make, sound: bytes) -> None:
    assert encode(make()) == sound


def test_same_bytes_in_another_process(make: Make, sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "p.mdz"
    path.write_bytes(sound)
    code = f"""
        import pathlib
        from meddistill.package.read import read
        from meddistill.package.write import write
        write(pathlib.Path({str(tmp_path / "again.mdz")!r}), read(pathlib.Path({str(path)!r})))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=60)
    assert (tmp_path / "again.mdz").read_bytes() == sound


def test_any_zip_program_reads_it(sound: bytes, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(io.BytesIO(sound)) as file:
        assert file.testzip() is None
        assert {name: file.read(name) for name in file.namelist()} == members


def test_reading_imports_neither_torch_nor_pillow(sound: bytes, tmp_path: Path) -> None:
    (tmp_path / "p.mdz").write_bytes(sound)
    code = """
        import sys, pathlib
        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {"torch", "PIL", "sklearn", "scipy", "rich", "cyclopts", "tomlkit", "pickle5"}:
                    raise ImportError(name + " must not be imported")
        sys.meta_path.insert(0, Refuse())
        from meddistill.package.read import read, verify
        from meddistill.package.show import summary
        path = pathlib.Path(sys.argv[1])
        assert verify(path).ok
        print(summary(read(path), path.stat().st_size)["bytes"])
    """
    arguments = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "p.mdz")]
    done = subprocess.run(arguments, check=False, timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(sound)


@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
@hypothesis_settings(max_examples=300)
def test_a_changed_byte_never_passes(sound: bytes, members: dict[str, bytes], place: float, change: int) -> None:
    broken = bytearray(sound)
    broken[int(place * len(sound))] ^= change
    assert _refused_or_the_same(bytes(broken), members)


def _refused_or_the_same(data: bytes, members: dict[str, bytes]) -> bool:
    """The bits behind the end of a deflate stream mean nothing; all others do, and none changes a member unnoticed."""
    found: dict[str, memoryview] = {}
    return not _examine(data, found)[0].ok or found == members


def test_every_changed_header_byte_is_found(sound: bytes, members: dict[str, bytes]) -> None:
    """All bytes that are not data: local headers, names, the central directory, the end record."""
    inside: set[int] = set()
    for data in members.values():
        packed = container._packed(data)[1]
        start = sound.index(packed)
        inside |= set(range(start, start + len(packed)))
    for place in set(range(len(sound))) - inside:
        broken = bytearray(sound)
        broken[place] ^= 0x01
        assert not _examine(bytes(broken))[0].ok, place


def test_every_changed_bit_of_a_deflated_text_is_harmless(sound: bytes, members: dict[str, bytes]) -> None:
    packed = container._packed(members["README.md"])[1]
    start = sound.index(packed)
    for bit in [*range(8 * 100), *range(8 * (len(packed) - 20), 8 * len(packed))]:
        broken = bytearray(sound)
        broken[start + bit // 8] ^= 1 << bit % 8
        assert _refused_or_the_same(bytes(broken), members), bit


def test_truncated_anywhere(sound: bytes) -> None:
    for length in range(len(sound)):
        assert not _examine(sound[:length])[0].ok, length


@given(tail=st.binary(min_size=1, max_size=40))
@hypothesis_settings(max_examples=50)
def test_appended_or_prepended_bytes(sound: bytes, tail: bytes) -> None:
    assert not _examine(sound + tail)[0].ok
    assert not _examine(tail + sound)[0].ok


@given(data=st.binary(max_size=400))
@hypothesis_settings(max_examples=200)
def test_arbitrary_bytes(data: bytes) -> None:
    for start in (b"", b"PK\x03\x04", b"PK\x05\x06"):
        found = _examine(start + data)[0]
        assert not found.ok
        assert found.problems


def test_errors_and_verdicts(sound: bytes, saved: Save) -> None:
    path = saved(sound[:-1])
    with pytest.raises(VerificationError, match=r"package\.mdz is not a sound package(.|\n)*truncated") as caught:
        read(path)
    assert caught.value.exit_code == 3
    found = verify(path)
    assert (found.ok, found.answer) == (False, "broken")
    assert found.members["card.json"] > 0


@pytest.mark.parametrize("act", [read, verify])
def test_no_file_is_bad_input(act: Callable[[Path], object], tmp_path: Path) -> None:
    for path, message in [(tmp_path / "no.mdz", "there is no file"), (tmp_path, "is a folder")]:
        with pytest.raises(InputError, match=message) as caught:
            act(path)
        assert caught.value.exit_code == 2
    with pytest.raises(InputError, match="not a regular file"):
        act(Path("/dev/zero"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot read"):
        act(tmp_path / "file" / "under.mdz")


def test_too_large_a_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.mdz"
    with open(path, "wb") as file:
        file.truncate(limits.MAX_FILE_BYTES + 1)  # a sparse file: takes no space
    with pytest.raises(VerificationError, match="at most 146800640"):
        read(path)
    assert not verify(path).ok


def test_failed_write_leaves_the_old_file(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "p.mdz"
    write(path, make())
    before = path.read_bytes()
    package = make()
    with pytest.raises(InputError, match="step_sizes"):
        write(path, replace(package, step_sizes=-package.step_sizes))
    assert path.read_bytes() == before
    with pytest.raises(OutputError):
        write(tmp_path, package)
    assert list(tmp_path.iterdir()) == [path]


def test_scores_are_written_with_five_digits(make: Make, tmp_path: Path) -> None:
    package = make()
    score = Score(mean=2 / 3, low=1 / 3, high=0.9, per_seed=(2 / 3, 2 / 3))
    results = Results(protocol="1", network="n", seeds=3, splits={"test": {"distilled": {"auroc": score}}})
    path = tmp_path / "p.mdz"
    write(path, replace(package, card=replace(package.card, results=results)))
    back = read(path)
    assert back.card.results is not None
    assert back.card.results.splits["test"]["distilled"]["auroc"] == Score(
        mean=0.66667, low=0.33333, high=0.9, per_seed=(0.66667, 0.66667)
    )
    assert encode(back) == path.read_bytes()


def test_what_would_shrink_too_much_is_stored(make: Make, tmp_path: Path) -> None:
    package = make()
    plan = {f"{'k' * 90}{i}": "v" * 99 for i in range(128)} | {"x": 1}
    counts = {split: {f"class {i} {'n' * 80}": 1 for i in range(200)} for split in ("train", "val", "test")}
    classes = tuple(counts["train"])
    card = replace(
        package.card,
        task=replace(package.card.task, classes=classes),
        images=replace(package.card.images, count=200),
        recipe=replace(package.card.recipe, plan=dict(list(plan.items())[:128])),
        cohort=CohortCounts(counts=counts),
        results=None,
    )
    labels = np.eye(200, dtype=np.float32)
    long = replace(package, images=np.zeros((200, 1, 8, 8), np.float32), labels=labels, card=card)
    long = replace(long, card=replace(card, task=replace(card.task, labels="hard")))
    path = tmp_path / "p.mdz"
    write(path, long)
    with zipfile.ZipFile(path) as file:
        kinds = {entry.filename: entry.compress_type for entry in file.infolist()}
    assert kinds["card.json"] == zipfile.ZIP_STORED, "it would unpack to more than 32 times"
    assert kinds["croissant.json"] == zipfile.ZIP_DEFLATED
    assert encode(read(path)) == path.read_bytes()


def test_the_file_is_hardly_more_than_its_images(make: Make) -> None:
    """Images of noise, the worst case; a card with fewer results than a run's."""
    few, many = len(encode(make(2, 1, 28))), len(encode(make(2, 10, 28)))
    assert few < 6_500
    assert many < 24_000


def test_all_problems_of_a_package_are_listed(make: Make) -> None:
    package = make()
    labels = package.labels.copy()
    labels[0] = [0.5, 0.6]
    broken = replace(package, labels=labels, step_sizes=np.array([np.nan], np.float32))
    with pytest.raises(InputError, match=r"labels: 1 rows do not sum(.|\n)*step_sizes"):
        encode(broken)
    with pytest.raises(InputError, match=r"images: the type is float64(.|\n)*labels: the shape"):
        encode(replace(package, images=package.images.astype(np.float64), labels=labels[:1]))
    with pytest.raises(InputError, match="by the card it should be"):
        encode(replace(package, images=package.images[:, :, :4, :4]))


def test_summary(make: Make, saved: Save, sound: bytes) -> None:
    found = summary(read(saved(sound)), len(sound))
    assert found["bytes"] == len(sound)
    assert found["bytes_per_class"] == len(sound) / 2
    assert found["factor"] == 1_000_000 / len(sound)
    assert found["step_sizes"]["count"] == 5
    assert found["digests"]["README.md"] == hashlib.sha256(_member(sound, "README.md")).hexdigest()


def _member(data: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return file.read(name)
