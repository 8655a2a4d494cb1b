"""No verb writes over what it reads: it says so before any work, and every file stays as it is."""

import numpy as np
import pytest
import safetensors.numpy

from meddistill.cli.main import main
from meddistill.cohort.read import ReadOptions, places
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import require_another

FILES = (
    "t.csv",
    "a.mdz",
    "b.mdz",
    "m",
    "k.pem",
    "names.csv",
    "plan.toml",
    "audit.json",
    *(f"scans/ill/{name}" for name in ("1.png", "2.jpg", "t.csv")),
)
WORDS = {
    "inspect a table": "inspect t.csv --plan-out t.csv",
    "distill a table": "distill t.csv --out t.csv",
    "distill by its own way": "distill t.csv --out scans/../t.csv",
    "distill a folder": "distill scans --out scans",
    "distill over an image": "distill scans --out scans/ill/2.jpg",
    "distill with a preview over an image": "distill scans --out scans/ill/1.mdz",
    "distill with a preview over an image of a table": "distill scans/ill/t.csv --out scans/ill/1.mdz",
    "distill over its folder of images": "distill t.csv --images scans --out scans",
    "distill over its start": "distill t.csv --start-images a.mdz --out a.mdz",
    "distill over its run": "distill t.csv --out x.mdz --run x.mdz",
    "distill over a folder above its run": "distill t.csv --out x.mdz --run x.mdz/y",
    "distill over its teachers": "distill t.csv --out x.mdz --teachers x.mdz",
    "distill with a preview over its run": "distill t.csv --out x.mdz --run x.png",
    "inspect an image of a table": "inspect scans/ill/t.csv --plan-out scans/ill/2.jpg",
    "distill an image of a table": "distill scans/ill/t.csv --out scans/ill/2.jpg",
    "train over an image of a table": "train a.mdz --test scans/ill/t.csv --out scans/ill/1.png",
    "train over a file without an ending of a table": "train a.mdz --test t.csv --out m",
    "compress over an image of a table": "compress m --data scans/ill/t.csv --out scans/ill/1.png",
    "audit over an image of a table": "audit a.mdz --members scans/ill/t.csv:all --out scans/ill/1.png",
    "audit of a model over an image of a table": "audit m.mdw --members scans/ill/t.csv --out scans/ill/1.png",
    "train over a package": "train a.mdz b.mdz --out b.mdz",
    "train over its test images": "train a.mdz --test t.csv --out t.csv",
    "train over its names": "train a.mdz --classes names.csv --out names.csv",
    "compress over the model": "compress m --data t.csv --out m",
    "compress over the data": "compress m --data a.mdz --out a.mdz",
    "compress over its test images": "compress m --data a.mdz --test t.csv --out t.csv",
    "merge over a part": "merge a.mdz b.mdz --out a.mdz",
    "merge over its names": "merge a.mdz b.mdz --classes names.csv --out names.csv",
    "export over the package": "export a.mdz --to npz --out a.mdz",
    "export a model over it": "export-model m --out m",
    "report over the package": "report a.mdz --out a.mdz",
    "report over the audit": "report a.mdz --audit audit.json --out audit.json",
    "sign over the key": "sign a.mdz --key k.pem --out k.pem",
    "audit over the package": "audit a.mdz --members t.csv --out a.mdz",
    "audit over the members": "audit a.mdz --members t.csv:train --out t.csv",
    "audit over the control": "audit a.mdz --members scans --control t.csv:all --out t.csv",
    "audit over canaries": "audit a.mdz --members scans --canaries m --out m",
    "audit of a model over it": "audit m.mdw --members scans --out m.mdw",
}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_an_input_is_never_replaced(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans" / "ill").mkdir(parents=True)
    for name in FILES:
        (tmp_path / name).write_text("path,label\nscans/ill/1.png,ill\n")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert "would replace" in said or "is no name for a package" in said
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_a_model_beside_a_table_is_replaced_by_the_next(tmp_path):
    """Models often have no ending, and stand where the tables are; DICOM files have none either."""
    model, image = tmp_path / "model", tmp_path / "IM0001"
    safetensors.numpy.save_file({"x": np.zeros(3, np.float32)}, model)
    image.write_bytes(bytes(128) + b"DICM")
    require_another(model, places(tmp_path / "t.csv", ReadOptions()))
    require_another(image, places(tmp_path / "t.csv", ReadOptions(images=tmp_path / "elsewhere")))
    with pytest.raises(InputError, match="would replace a file of"):
        require_another(image, places(tmp_path / "t.csv", ReadOptions()))


def test_a_name_too_long_is_said_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scans").mkdir()
    for out in (f"{'x' * 300}.mdz", f"scans/{'x' * 300}.mdz"):
        assert main(["distill", "scans", "--out", out]) == 2
        assert "the name is too long" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["set.zip", "set.mdw", "set.png", "set.run", "set", "lungs-0.5", "SET.MDZ", ".mdz"])
@pytest.mark.parametrize("words", ["distill scans", "merge a.mdz b.mdz", "sign a.mdz --key k.pem"])
def test_a_package_gets_no_other_ending_for_verbs_know_it_by_that(words, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for there in ("a.mdz", "b.mdz", "k.pem"):
        (tmp_path / there).touch()
    assert main([*words.split(), "--out", name]) == 2
    assert f"--out {name} is no name for a package" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mdz", "b.mdz", "k.pem"]


def test_a_plan_that_somebody_wrote_is_not_replaced_by_that_of_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.toml").write_text("# mine\nseed = 3\n")
    assert main(["distill", "t.csv", "--out", "x.mdz", "--plan", "plan.toml", "--run", "."]) == 2
    assert "--run: the plan plan.toml would replace" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["plan.toml"]
