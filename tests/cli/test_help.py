import subprocess
import sys
import time
from pathlib import Path

import pytest

VERBS = (
    *("inspect", "distill", "train", "evaluate", "predict", "export-model", "compress"),
    *("merge", "export", "show", "report", "view", "verify", "audit", "keygen", "sign", "trust"),
    *("methods", "demo", "bench"),
)

HEAVY = """
import contextlib, io, sys
from meddistill.cli.main import main
with contextlib.redirect_stdout(io.StringIO()):
    code = main(sys.argv[1:])
print(code, *sorted({"torch", "numpy", "sklearn", "scipy", "PIL", "matplotlib"} & set(sys.modules)))
"""


def test_help_names_every_verb(run):
    done = run("--help")
    assert done.returncode == 0
    assert not done.stderr
    for verb in VERBS:
        assert f" {verb} " in done.stdout


def test_no_words_is_help(run):
    assert run().stdout == run("--help").stdout


def test_help_starts_within_a_second(run):
    run("--help")
    seconds = []
    for _ in range(3):
        before = time.perf_counter()
        run("--help")
        seconds.append(time.perf_counter() - before)
    assert min(seconds) < 1.0


@pytest.mark.parametrize("words", [["--help"], ["distill", "--help"], ["distill", "--no-such-option"]])
def test_nothing_heavy_is_imported_before_a_verb_runs(words):
    done = subprocess.run([sys.executable, "-c", HEAVY, *words], capture_output=True, text=True, check=True)
    assert done.stdout.split() in (["0"], ["2"])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_and_has_json_and_quiet(run, verb):
    done = run(verb, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout
    assert "--quiet" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("verb", ["inspect", "distill"])
def test_the_defaults_that_are_told_are_those_of_the_plan(run, verb):
    from meddistill.pipeline.plan import Plan

    plan, told = Plan(), " ".join(run(verb, "--help").stdout.replace("│", " ").split())
    for name in ("images_per_class", "method", "fit", "seed"):
        words = told.split(f"--{name.replace('_', '-')} ")[1].split(" --")[0]
        assert f"[default: {getattr(plan, name)}]" in words
    documented = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    assert f"| `--method` | `{plan.method}` |" in documented
    assert f"| `--fit` | `{plan.fit}` |" in documented
    assert f"| `--start` | `{plan.start}` |" in documented


def test_version_is_the_package_version(run):
    from meddistill import __version__

    assert run("--version").stdout.strip() == __version__
