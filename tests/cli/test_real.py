"""The verbs on real files, in processes of their own."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from meddistill.package.types import Card, CohortCounts, Images, Normalisation, Package, Recipe, Sizes, Software, Task
from meddistill.package.write import write


@pytest.fixture
def package(tmp_path):
    """A sound package of two images of 8 pixels."""
    counts = {"train": {"clear": 5, "ill": 5}}
    card = Card(
        software=Software(name="meddistill", version="0.1.0"),
        task=Task(classes=("clear", "ill"), labels="soft"),
        images=Images(count=2, per_class=1, size=8, channels=1),
        normalisation=Normalisation(mean=(0.5,), std=(0.25,)),
        recipe=Recipe(method="mtt", seed=0, start="noise", network="convnet-d3-w32", plan={"steps": 10}),
        cohort=CohortCounts(counts=counts),
        contains_real_images=False,
        bytes=Sizes(cohort_train=100_000),
    )
    pixels = np.linspace(0, 1, 128, dtype=np.float32).reshape(2, 1, 8, 8)
    labels = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
    path = tmp_path / "lungs.mdz"
    write(path, Package(images=pixels, labels=labels, step_sizes=np.array([0.01], np.float32), card=card))
    return path


@pytest.fixture
def folder(tmp_path):
    """Class folders of small pictures: bright ones are clear, dark ones are ill."""
    rng = np.random.default_rng(3)
    for name, low in (("clear", 128), ("ill", 0)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for index in range(30):
            pixels = rng.integers(low, low + 128, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{index}.png")
    return tmp_path / "pictures"


def test_methods(run, document):
    done = run("methods", "--json")
    assert done.returncode == 0
    methods = document(done.stdout)["methods"]
    assert "mtt" in [method["name"] for method in methods]
    assert all(method["summary"] and method["source"] for method in methods)
    text = run("methods").stdout
    assert "mtt" in text
    coresets = text.split("\nBeside them in benchmarks: real images of patients")[1].split("\nBeside")[0]
    assert coresets.count("holds   images of patients") == text.count("images of patients\n") == 3
    assert all(f"\n{name}\n" in coresets for name in ("random", "herding", "k-center"))


def test_show(run, document, package):
    shown = document(run("show", package, "--json").stdout)
    assert shown["task"]["classes"] == ["clear", "ill"]
    assert shown["bytes"] == package.stat().st_size
    text = run("show", package)
    assert text.returncode == 0
    assert "clear, ill" in text.stdout


def test_verify_a_sound_package(run, document, package):
    done = run("verify", package, "--json")
    assert done.returncode == 4
    answer = document(done.stdout)
    assert (answer["ok"], answer["answer"], answer["problems"]) == (True, "unsigned", [])
    assert "sound and unsigned" in run("verify", package).stdout


def test_the_way_of_a_signed_package(run, document, package, tmp_path):
    """Sender and receiver, as the documentation tells them: every answer of verify with its own exit code."""
    secret = {"MEDDISTILL_PASSPHRASE": "correct horse"}
    receiver = {"MEDDISTILL_CONFIG": str(tmp_path / "receiver")}
    made = document(run("keygen", "st-mary.pem", "--passphrase", "--json", env=secret).stdout)
    locked = run("sign", package, "--key", "st-mary.pem")
    assert locked.returncode == 2
    assert "MEDDISTILL_PASSPHRASE" in locked.stderr
    signed = document(run("sign", package, "--key", "st-mary.pem", "--json", env=secret).stdout)
    assert signed["fingerprint"] == made["fingerprint"]
    stranger = run("verify", package, env=receiver)
    assert stranger.returncode == 5
    assert made["fingerprint"] in stranger.stdout
    assert run("verify", package, "--key", "st-mary.pub.pem", env=receiver).returncode == 0
    assert run("trust", "st-mary.pub.pem", "--name", "St Mary", env=receiver).returncode == 0
    assert made["fingerprint"] in run("trust", env=receiver).stdout
    trusted = run("verify", package, env=receiver)
    assert trusted.returncode == 0
    assert "signed by St Mary, whom you trust" in trusted.stdout
    assert "signed by St Mary" in run("show", package, env=receiver).stdout
    assert run("trust", "--remove", "St Mary", env=receiver).returncode == 0
    assert run("verify", package, env=receiver).returncode == 5
    package.write_bytes(package.read_bytes()[:-1])
    assert run("verify", package, env=receiver).returncode == 3


@pytest.mark.parametrize("verb", ["verify", "show"])
def test_an_altered_package_ends_with_3(run, package, verb):
    data = bytearray(package.read_bytes())
    data[len(data) // 2] ^= 1
    package.write_bytes(data)
    done = run(verb, package)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["verify", "show"])
@pytest.mark.parametrize("name", ["missing.mdz", "."])
def test_a_wrong_path_is_bad_input(run, document, verb, name):
    done = run(verb, name, "--json")
    assert done.returncode == 2
    assert document(done.stdout)["error"]["kind"] == "input"


def test_inspect_writes_a_plan_and_says_what_it_costs(run, document, folder, tmp_path):
    done = run("inspect", folder, "--images-per-class", "1", "--json")
    assert done.returncode == 0, done.stderr
    answer = document(done.stdout)
    assert answer["fingerprint"]["classes"] == ["clear", "ill"]
    assert answer["estimate"]["seconds"] > 0
    assert (tmp_path / "plan.toml").exists()
    text = run("inspect", folder, "--images-per-class", "1", "--quiet")
    assert text.returncode == 0
    assert not text.stderr
    assert "Estimate" in text.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_a_real_run_and_leaves_no_package(folder, tmp_path, number):
    command = [sys.executable, "-m", "meddistill", "distill", folder, "--out", "x.mdz", "--images-per-class", "1"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [*command, "--time", "10m"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    first = process.stderr.readline()  # the first sign of life: the run is under way
    assert b"Traceback" not in first
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, first + err
    assert b"the same command continues it" in err
    assert b"Traceback" not in err
    assert not out
    assert not (tmp_path / "x.mdz").exists()


PLAN = """
images_per_class = 1
size = 16
fit = "stretch"
network = "convnet-d2-w8"
[teachers]
count = 1
steps = 20
snapshot_every = 5
batch = 8
[matching]
iterations = 2
student_steps = 2
segment = 1
latest_start = 2
batch = 2
[evaluation]
seeds = 2
"""


def test_from_images_to_a_package_to_a_model(run, document, folder, tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    words = ("distill", folder, "--out", "x.mdz", "--plan", "plan.toml", "--teachers", "taught", "--json")
    done = run(*words)
    assert done.returncode == 0, done.stderr
    made = document(done.stdout)
    assert made["plan"]["fit"] == "stretch"
    assert set(made["results"]["test"]) == {"distilled", "random"}
    assert (tmp_path / "taught").is_dir()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "taught").glob("*.safetensors")}
    again = run(*words[:2], "--out", "y.mdz", *words[4:], "--full-data")
    assert again.returncode == 0, again.stderr
    assert before
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "taught").glob("*.safetensors")}
    assert "full" in document(again.stdout)["results"]["test"]

    for split, images in (("all", 60), ("test", None)):
        done = run(*("train", "x.mdz", "--out", "m", "--test", folder, "--test-split", split, "--seeds", "1", "--json"))
        assert done.returncode == 0, done.stderr
        assert images is None or document(done.stdout)["test_images"] == images
    scored = run("evaluate", "m", folder, "--split", "all", "--json")
    assert scored.returncode == 0, scored.stderr
    assert document(scored.stdout)["images"] == 60


def test_inspect_takes_a_fit(run, document, folder):
    done = run("inspect", folder, "--images-per-class", "1", "--fit", "pad", "--json")
    assert done.returncode == 0, done.stderr
    assert document(done.stdout)["plan"]["fit"] == "pad"
