"""The command line and the functions behind it, on one real run: the same numbers, and a run that Ctrl-C ends."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from meddistill import api

OFTEN = """
import sys
import meddistill.distill.loop
meddistill.distill.loop.SECONDS_BETWEEN_CHECKPOINTS = -1.0
from meddistill.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
WORDS = ["distill", "pictures", "--plan", "plan.toml", "--out", "x.mdz", "--device", "cpu"]


@pytest.fixture
def place(tmp_path, source, plan_text):
    (tmp_path / "pictures").symlink_to(source)
    (tmp_path / "plan.toml").write_text(plan_text)
    return tmp_path


def start(place, *command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *command], cwd=place, env=environment, text=True, **pipes)


def answer(place, *words):
    process = start(place, "-m", "meddistill", *words, "--json")
    out, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return json.loads(out)


def test_ctrl_c_ends_a_run_with_a_message_and_the_same_command_continues_it(place, tmp_path_factory, source):
    process = start(place, "-c", OFTEN, *WORDS, "--json")
    until = time.monotonic() + 600
    while not (place / "x.run" / "distilled.safetensors").exists():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=600)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "the same command continues it" in said
    assert json.loads(out)["error"]["kind"] == "interrupted"
    assert sorted(path.name for path in place.iterdir()) == ["pictures", "plan.toml", "x.run"]
    assert not list(place.rglob("*.tmp"))

    told = answer(place, *WORDS)
    alone = api.distill(source, tmp_path_factory.mktemp("alone") / "x.mdz", plan=place / "plan.toml", device="cpu")
    assert alone.package.read_bytes() == (place / "x.mdz").read_bytes()
    assert told["results"] == alone.as_dict()["results"]
    assert told["bytes"] == alone.bytes
    assert told["plan"] == alone.as_dict()["plan"]

    # the receiver's verbs give the numbers of the functions, too
    trained = answer(place, "train", "x.mdz", "--out", "model", "--test", "pictures", "--seeds", "2", "--device", "cpu")
    by_hand = api.train(place / "x.mdz", place / "again", test=source, seeds=2, device="cpu").as_dict()
    changing = ("model", "seconds")
    assert {k: v for k, v in trained.items() if k not in changing} == {
        k: v for k, v in by_hand.items() if k not in changing
    }
    assert (place / "model").read_bytes() == (place / "again").read_bytes()
    scored = answer(place, "evaluate", "model", "pictures", "--device", "cpu")
    assert scored == api.evaluate(place / "again", source, device="cpu").as_dict()
    assert scored["accuracy"] == trained["accuracy"]["per_seed"][0]
    assert scored["images"] == trained["test_images"] == 16
