import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meddistill.runtime.device import choose, sent
from meddistill.runtime.errors import InputError, MeddistillError, OutputError, VerificationError
from meddistill.runtime.events import EventLog
from meddistill.runtime.files import (
    remove_leftovers,
    require_another,
    require_writable,
    write_atomic,
    write_error,
    write_folder,
)
from meddistill.runtime.progress import Silent
from meddistill.runtime.streams import derive, numpy_stream, stream

NAMES = st.lists(st.one_of(st.text(), st.integers()), max_size=4)


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_errors_say_how_a_program_ends():
    assert (InputError("").exit_code, OutputError("").exit_code, VerificationError("").exit_code) == (2, 2, 3)
    assert issubclass(VerificationError, MeddistillError)


@given(st.integers(), NAMES)
def test_a_stream_is_a_function_of_seed_and_names(seed, names):
    value = derive(seed, *names)
    assert 0 <= value < 2**63
    assert value == derive(seed, *names)
    assert value != derive(seed + 1, *names)
    assert value != derive(seed, *names, "more")


def test_names_cannot_be_confused():
    assert len({derive(0, "a", "b"), derive(0, "ab"), derive(0, "b", "a"), derive(0, 1), derive(0, "1")}) == 5


def test_streams_do_not_touch_the_global_generators():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = torch.rand(1, generator=stream(0, "a"))
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(first, torch.rand(1, generator=stream(0, "a")))
    assert np.array_equal(numpy_stream(0, "a").random(3), numpy_stream(0, "a").random(3))


def test_streams_are_the_same_on_every_machine():
    assert derive(0, "distill", 7, 0) == 4028533246256240518
    assert torch.randint(1000, (3,), generator=stream(0, "a")).tolist() == [527, 135, 271]


def test_a_write_makes_folders_and_replaces_whole_files(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert left_in(path.parent) == ["file"]


def test_a_file_in_the_way_of_a_folder_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x", tmp_path / "file" / "y" / "x"):
        for write in (require_writable, lambda path: write_atomic(path, b"")):
            with pytest.raises(OutputError, match="a part of the path is a file, not a folder"):
                write(path)


def test_a_folder_in_the_way_of_a_file_is_said(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="the path is a folder: give the name of a file"):
        write_atomic(tmp_path / "folder", b"")
    with pytest.raises(OutputError, match="the path is a folder"):
        require_writable(tmp_path / "folder")
    assert left_in(tmp_path) == ["folder"]


def test_a_name_too_long_is_said(tmp_path):
    with pytest.raises(OutputError, match="the name is too long"):
        write_atomic(tmp_path / ("x" * 400), b"")


@pytest.mark.parametrize("place", [".", "/"])
def test_a_folder_without_a_name_is_no_place_to_write_to(place):
    for write in (lambda path: write_atomic(path, b""), lambda path: write_folder(path, {})):
        with pytest.raises(OutputError, match="give another name"):
            write(Path(place))


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write everywhere")
def test_a_closed_folder_is_said(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="no permission to write there"):
        require_writable(tmp_path / "x")
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_every_message_names_the_file(number):
    message = str(write_error(Path("some/file"), OSError(number, os.strerror(number))))
    assert message.startswith("cannot write some/file: ")


def test_asking_whether_a_file_could_be_written_leaves_nothing(tmp_path):
    require_writable(tmp_path / "new" / "file")
    assert left_in(tmp_path / "new") == []
    (tmp_path / "old").write_text("kept")
    require_writable(tmp_path / "old")
    assert (tmp_path / "old").read_text() == "kept"


def refused(out, *used):
    with pytest.raises(InputError, match="name another file"):
        require_another(out, used)


def test_an_output_is_another_file_than_all_that_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table, folder = tmp_path / "t.csv", tmp_path / "new" / "x.run"
    table.write_text("path,label")
    (tmp_path / "link").symlink_to(table)
    (tmp_path / "hard").hardlink_to(table)
    for name in ("t.csv", "./t.csv", "link", "hard"):
        refused(Path(name), None, tmp_path / "other", table)
    refused(folder, folder)
    refused(folder.parent, folder)
    require_another(tmp_path / "x.mdz", [None, table, folder, tmp_path / "other"])


def test_in_a_folder_that_is_read_only_what_a_verb_wrote_is_replaced(tmp_path):
    (tmp_path / "cat").mkdir()
    for name in ("1.png", "1", "1.mdz", "1.JSON"):
        (tmp_path / "cat" / name).write_text("kept")
    refused(tmp_path / "cat" / "1.png", tmp_path)
    refused(tmp_path / "cat" / "1", tmp_path)
    for name in ("1.mdz", "1.JSON", "new.png", "new"):
        require_another(tmp_path / "cat" / name, [tmp_path])
    require_another(tmp_path / "cat" / "1.png", [tmp_path / "dog"])


def test_a_process_that_dies_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = (
        "import os, sys; from pathlib import Path; from meddistill.runtime import files\n"
        "os.fsync = lambda handle: os._exit(9)\n"
        "files.write_atomic(Path(sys.argv[1]), b'new')"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9
    assert path.read_bytes() == b"old"
    assert len(left_in(tmp_path)) == 2
    remove_leftovers(tmp_path)
    assert left_in(tmp_path) == ["file"]
    remove_leftovers(tmp_path / "not there")


def test_events_are_appended_line_by_line(tmp_path):
    log = EventLog(tmp_path / "run" / "events.jsonl")
    log.write("begun", plan={"a": 1})
    EventLog(tmp_path / "run" / "events.jsonl").write("skipped", score=None)
    lines = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["begun", "skipped"]
    assert lines[0]["plan"] == {"a": 1}
    assert all(line["time"] > 1e9 for line in lines)


def test_events_without_a_file_are_swallowed_and_a_closed_file_is_said(tmp_path):
    EventLog().write("begun")
    with pytest.raises(OutputError, match="the path is a folder"):
        EventLog(tmp_path).write("begun")


@pytest.mark.parametrize("name", ["cuda:99", "no such device", ""])
def test_a_device_that_is_not_there_is_said(name):
    with pytest.raises(InputError, match=r"cannot be used here .*: use cpu, cuda or auto"):
        choose(name)


@pytest.mark.parametrize("name", ["meta", "xla:0"])
def test_a_device_that_nothing_computes_on_is_refused(name):
    with pytest.raises(InputError, match=f"'{name}' .*not supported: use cpu, cuda or auto"):
        choose(name)


def test_devices_that_are_there():
    assert choose("cpu") == torch.device("cpu")
    assert choose("auto").type in ("cpu", "cuda")


@pytest.fixture
def usual_cuda():
    """What CUDA's libraries are told by those who want speed; given back afterwards as it was."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    usual = ((cudnn, "allow_tf32", True), (matmul, "allow_tf32", True))
    usual = (*usual, (cudnn, "deterministic", False), (cudnn, "benchmark", True))
    before = [getattr(library, flag) for library, flag, _ in usual]
    for library, flag, value in usual:
        setattr(library, flag, value)
    yield usual
    for (library, flag, _), value in zip(usual, before, strict=True):
        setattr(library, flag, value)


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:1", "cpu"])
def test_cuda_keeps_every_bit_of_float32_and_takes_the_same_kernels(name, usual_cuda, monkeypatch):
    """As far as can be seen without a GPU: how the libraries are told to compute."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    on_cuda = choose(name).type == "cuda"
    assert on_cuda == (name != "cpu")
    assert all(getattr(library, flag) is (value != on_cuda) for library, flag, value in usual_cuda)


def test_the_silent_display_takes_everything():
    with Silent().stage("work", 3) as stage:
        stage.advance()
        stage.advance(2, loss=0.5)
    Silent().note("")
    Silent().warn("")


class Elsewhere:
    """In the place of a tensor: notes where it is sent and how."""

    def __init__(self, device):
        self.device, self.noted = torch.device(device), []

    def pin_memory(self):
        self.noted.append("pinned")
        return self

    def to(self, device, **how):
        self.noted.append((device.type, how))
        return self


@pytest.mark.parametrize(
    ("there", "to", "expected"),
    [
        ("cpu", "cuda", ["pinned", ("cuda", {"non_blocking": True})]),
        ("cuda", "cuda", [("cuda", {})]),  # only what lies on the CPU can be pinned
        ("cpu", "mps", [("mps", {})]),
    ],
)
def test_nobody_waits_for_what_is_sent_to_a_gpu(there, to, expected):
    tensor = Elsewhere(there)
    sent(tensor, torch.device(to))
    assert tensor.noted == expected


def test_what_is_there_already_is_not_copied():
    tensor = torch.zeros(3)
    assert sent(tensor, torch.device("cpu")) is tensor
