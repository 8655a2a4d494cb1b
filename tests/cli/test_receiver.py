"""How the receiver's verbs speak: the arguments they pass on, and the text they print."""

import csv
import io
import json

from meddistill.cli.main import main

PREDICTED = {
    "classes": ["normal, benign", "ill"],
    "predictions": [
        {"image": "a b.png", "class": "ill", "probabilities": {"normal, benign": 0.25, "ill": 0.75}},
        {"image": "x" * 200, "class": "ill", "probabilities": {"normal, benign": 0.125, "ill": 0.875}},
    ],
    "left_out": [{"file": "=bad.png", "problem": "not a PNG"}],
}


def test_predict_takes_many_files_and_prints_a_table_or_csv(fake_api, result, capsys):
    asked = []
    fake_api.predict = lambda model, files, **choices: asked.append((model, files, choices)) or result(PREDICTED)
    assert main(["predict", "m", "a.png", "b.dcm", "--window", "40", "400"]) == 0
    [(model, files, choices)] = asked
    assert (str(model), [str(path) for path in files]) == ("m", ["a.png", "b.dcm"])
    assert choices["options"].window == (40, 400)
    shown = capsys.readouterr().out
    assert "75.0" in shown
    assert "=bad.png not a PNG" in shown
    assert main(["predict", "m", "a.png", "--csv"]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == ["image", "class", "p(normal, benign)", "p(ill)"]
    assert rows[1] == ["a b.png", "ill", "0.25", "0.75"]
    assert rows[2][0] == "x" * 200
    assert rows[3:] == [["'=bad.png", "", "", ""]]
    assert main(["predict", "m", "a.png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == PREDICTED


def test_predict_gives_a_spreadsheet_no_formula(fake_api, result, capsys):
    one = {"image": "@x.png", "class": "=1+1", "probabilities": {"=1+1": 0.75, "+ve": 0.25}}
    fake_api.predict = lambda *_, **__: result({"classes": ["=1+1", "+ve"], "predictions": [one], "left_out": []})
    assert main(["predict", "m", "a.png", "--csv"]) == 0
    assert list(csv.reader(io.StringIO(capsys.readouterr().out)))[1] == ["'@x.png", "'=1+1", "0.75", "0.25"]


def test_train_takes_several_packages_and_tells_what_each_is_worth(fake_api, result, capsys):
    score = {"mean": 0.8, "low": 0.7, "high": 0.9, "per_seed": [0.8]}
    scores = dict.fromkeys(("balanced_accuracy", "auroc", "accuracy", "expected_calibration_error"), score)
    part = {"package": "east.mdz", "images": 20, "without": scores, "gain": scores}
    document = {
        "model": "m",
        "network": "n",
        "seeds": 1,
        "seconds": 1.0,
        "test_images": 9,
        "packages": [part],
        **scores,
    }
    asked = []
    fake_api.train = lambda packages, out, **choices: asked.append((packages, choices)) or result(document)
    assert main(["train", "a.mdz", "b.mdz", "--out", "m", "--classes", "c.csv"]) == 0
    [(packages, choices)] = asked
    assert [str(path) for path in packages] == ["a.mdz", "b.mdz"]
    assert str(choices["classes"]) == "c.csv"
    told = capsys.readouterr().out
    assert "trained without" in told
    assert "east.mdz" in told
    assert "calibration error %  80.0" in told
    assert "On 9 real images, 1 seed, which has no interval" in told


def test_merge_and_export_say_what_they_wrote(fake_api, result, capsys):
    merged = {"package": "c.mdz", "bytes": 900, "classes": ["a"], "images": 4, "reconciled": ["enlarged"]}
    parts = [{"package": "a.mdz", "sha256": "f" * 64, "images": 2}]
    fake_api.merge = lambda packages, out, **choices: result(merged | {"parts": parts})
    assert main(["merge", "a.mdz", "b.mdz", "--out", "c.mdz"]) == 0
    told = capsys.readouterr().out
    assert "note: enlarged" in told
    assert "f" * 16 in told
    fake_api.export = lambda package, out, to: result({"out": str(out), "to": to, "images": 4, "clipped": 0.012})
    assert main(["export", "a.mdz", "--to", "npz", "--out", "x.npz"]) == 0
    assert "1.2% of all values" in capsys.readouterr().out
    model = {"out": "m.onnx", "to": "onnx", "bytes": 9, "input": ["images", 1, 28, 28], "classes": ["a", "b"]}
    fake_api.export_model = lambda model_file, out, to: result(model)
    assert main(["export-model", "m", "--out", "m.onnx"]) == 0
    assert "images × 1 × 28 × 28" in capsys.readouterr().out


def test_audit_passes_its_choices_on_and_ends_with_the_exit_code_of_its_outcome(fake_api, result, capsys):
    bare = {"attack": "hygiene", "outcome": "fail", "main": None, "control": None, "baseline": None, "excess": None}
    document = {
        "groups": {"unit": "image", **{side: {"patients": 5, "images": 5} for side in ("members", "control")}},
        "outcome": "fail",
        "findings": [{**bare, "warnings": [], "figures": {}}],
    }
    found, asked = result(document), []
    found.exit_code = 6
    fake_api.audit = lambda package, members, control, **choices: asked.append((members, control, choices)) or found
    assert main(["audit", "a.mdz", "--members", "x.csv:train", "--quick", "--attach"]) == 6
    assert main(["audit", "a.mdz", "--members", "x", "--control", "y:all", "--references", "8", "--json"]) == 6
    assert [(members, control) for members, control, _ in asked] == [("x.csv:train", None), ("x", "y:all")]
    assert [choices["references"] for _, _, choices in asked] == [0, 8]
    assert [choices["attached"] for _, _, choices in asked] == [True, False]
    assert "should not leave" in capsys.readouterr().out
