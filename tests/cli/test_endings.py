"""How a verb may end, and what then stands on standard output, on standard error and in the exit code."""

import contextlib
import io
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from meddistill.cli import interrupts
from meddistill.cli.display import Lines
from meddistill.cli.main import main
from meddistill.cohort.problems import CohortError, problem
from meddistill.runtime.errors import InputError, OutputError, VerificationError

PROBLEMS = [
    (InputError("no such folder: x"), "input", 2),
    (OutputError("cannot write x: the disk is full"), "output", 2),
    (VerificationError("x is altered"), "verification", 3),
]


def failing(error):
    def function(*_args, **_options):
        raise error

    return function


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_end_that_python_dropped_is_made_again_when_a_stage_advances(number):
    before, display = signal.getsignal(number), Lines(io.StringIO())
    with interrupts.heeded(), display.stage("teaching", 3) as stage:
        stage.advance()
        with contextlib.suppress(KeyboardInterrupt):  # as a destructor does
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            stage.advance()
        stage.advance()  # whoever tidies up is left alone
    assert signal.getsignal(number) is before


def test_nothing_is_shown_of_a_request_that_python_dropped(capsys):
    class Held:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    with interrupts.heeded():
        Held()
        with pytest.raises(KeyboardInterrupt):
            interrupts.again()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("error", "kind", "code"), PROBLEMS)
def test_an_error_to_mend_is_one_message(fake_api, capsys, error, kind, code):
    fake_api.show = failing(error)
    assert main(["show", "x"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"meddistill: {error}\n"


@pytest.mark.parametrize(("error", "kind", "code"), PROBLEMS)
def test_an_error_to_mend_is_one_document(fake_api, capsys, document, error, kind, code):
    fake_api.show = failing(error)
    assert main(["show", "x", "--json"]) == code
    captured = capsys.readouterr()
    assert document(captured.out) == {"error": {"kind": kind, "message": str(error), "exit_code": code}}
    assert str(error) in captured.err


def test_names_in_messages_cannot_drive_the_terminal(fake_api, capsys):
    fake_api.show = failing(InputError("no such file: \x1b]0;title\x07"))
    main(["show", "x"])
    assert capsys.readouterr().err == "meddistill: no such file: \\x1b]0;title\\x07\n"


def test_all_problems_of_a_source_are_in_the_document(fake_api, capsys, document):
    problems = (problem("unreadable-file", "error", "1 file cannot be read", ["a.png"], "Mend it."),)
    fake_api.distill = failing(CohortError("folder", problems))
    assert main(["distill", "folder", "--out", "x", "--json"]) == 2
    error = document(capsys.readouterr().out)["error"]
    assert error["problems"] == [found.as_dict() for found in problems]


def test_a_bug_keeps_its_traceback(fake_api, capsys, document):
    fake_api.show = failing(ZeroDivisionError("by nought"))
    assert main(["show", "x", "--json"]) == 1
    captured = capsys.readouterr()
    assert "Traceback" in captured.err
    assert document(captured.out)["error"]["kind"] == "internal"


@pytest.mark.parametrize("verb", [["distill", "x", "--out", "y"], ["demo"]])
def test_an_interrupted_run_says_how_to_go_on(fake_api, capsys, verb):
    fake_api.distill = fake_api.demo = failing(KeyboardInterrupt())
    assert main(verb) == 130
    assert "the same command continues it" in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError("a library made this of it"), OutputError("cannot write x")])
def test_an_error_that_a_library_made_of_ctrl_c_is_an_interruption(fake_api, capsys, error):
    def show(*_arguments):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise error from None

    fake_api.show = show
    assert main(["show", "x", "--json"]) == 130
    captured = capsys.readouterr()
    assert json.loads(captured.out)["error"]["kind"] == "interrupted"
    assert "Traceback" not in captured.err


def test_an_interrupted_look_does_not_claim_a_saved_state(fake_api, capsys, document):
    fake_api.show = failing(KeyboardInterrupt())
    assert main(["show", "x", "--json"]) == 130
    captured = capsys.readouterr()
    assert "continues" not in captured.err
    assert document(captured.out)["error"]["kind"] == "interrupted"


def test_only_the_document_reaches_standard_output(fake_api, capsys, document, result):
    def chatty(_package):
        print("a library talks")
        return result({"value": math.nan, "list": [math.inf, 1.5, "ü"]})

    fake_api.show = chatty
    assert main(["show", "x", "--json"]) == 0
    captured = capsys.readouterr()
    assert document(captured.out) == {"value": None, "list": [None, 1.5, "ü"]}
    assert "a library talks" in captured.err


def test_a_broken_package_is_reported_and_ends_with_3(fake_api, capsys, document, result):
    answer = {"ok": False, "answer": "broken", "problems": ["card.json: digest differs"], "members": {}}
    found = result(answer)
    found.exit_code = 3
    fake_api.verify = lambda _package, key: found
    assert main(["verify", "x"]) == 3
    assert "card.json: digest differs" in capsys.readouterr().out
    assert main(["verify", "x", "--json"]) == 3
    assert document(capsys.readouterr().out) == answer


def test_leak_flags_reach_the_api(fake_api, result):
    seen = []

    def distill(*_args, **options):
        seen.append(options["leak"])
        return result({"package": "y", "bytes": 1, "results": {}})

    fake_api.distill = distill
    for flags in ([], ["--resplit"], ["--drop-leak"], ["--allow-leak"]):
        assert main(["distill", "x", "--out", "y", *flags]) == 0
    assert seen == ["stop", "resplit", "drop", "allow"]


def test_options_reach_the_api_as_they_were_meant(fake_api, result, tmp_path):
    seen = {}

    def distill(*args, **options):
        seen.update(options, args=args)
        return result({"package": "y", "bytes": 1, "results": {}})

    fake_api.distill = distill
    words = "distill a.csv --out y --time 1h30m --size 28 --path-column image_id --label-column dx --images pictures"
    assert main([*words.split(), "--patient-pattern", r"(person\d+)_"]) == 0
    options = seen["options"]
    assert seen["time_s"] == 5400
    assert seen["size"] == 28
    assert (options.path_column, options.label_column) == ("image_id", "dx")
    assert str(options.images) == "pictures"
    assert options.patient_pattern == r"(person\d+)_"


def test_choices_that_are_left_out_are_left_to_the_api(fake_api, result, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = {}

    def take(verb, answer):
        def function(*_args, **options):
            seen[verb] = options
            return result(answer)

        return function

    fake_api.distill = take("distill", {"package": "y", "bytes": 1, "results": {}})
    fake_api.inspect = take("inspect", {"fingerprint": {"name": "x", "classes": [], "counts": {}}})
    main(["distill", "x", "--out", "y"])
    main(["inspect", "x"])
    for options in seen.values():
        assert {options[name] for name in ("images_per_class", "method", "size", "fit", "flip", "seed")} == {None}
    assert seen["inspect"]["fixed_normalisation"] is None
    withheld = ("withhold_counts", "withhold_results", "fixed_normalisation")
    assert [seen["distill"][name] for name in withheld] == [False, False, None]
    assert {seen["distill"][name] for name in ("start", "teachers", "full_data")} == {None}
    main(["distill", "x", "--out", "y", "--teachers", "t", "--fit", "pad", "--no-flip", "--full-data"])
    main(["inspect", "x", "--fit", "stretch", "--fixed-normalisation"])
    assert {name: seen["distill"][name] for name in ("teachers", "fit", "flip", "full_data")} == {
        "teachers": Path("t"),
        "fit": "pad",
        "flip": False,
        "full_data": True,
    }
    assert (seen["inspect"]["fit"], seen["inspect"]["fixed_normalisation"]) == ("stretch", True)
    main(["distill", "x", "--out", "y", "--withhold-counts", "--withhold-results", "--fixed-normalisation"])
    assert all(seen["distill"][name] is True for name in withheld)


def test_splits_reach_the_api(fake_api, result):
    seen = []

    def train(*_args, **options):
        seen.append(options["test_split"])
        return result({"model": "m", "network": "n", "seeds": 1, "seconds": 1.0})

    def evaluate(*_args, **options):
        seen.append(options["split"])
        return result({"balanced_accuracy": 0.5, "auroc": 0.5, "accuracy": 0.5, "images": 1, "per_class": {}})

    fake_api.train, fake_api.evaluate = train, evaluate
    for split in ("test", "val", "train", "all"):
        assert main(["train", "x.mdz", "--out", "m", "--test", "y", "--test-split", split]) == 0
        assert main(["evaluate", "m", "y", "--split", split]) == 0
    assert seen == ["test", "test", "val", "val", "train", "train", "all", "all"]


def test_an_edited_plan_is_not_replaced_unless_asked(fake_api, result, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    seen = []

    def inspect(_source, **options):
        seen.append(options["plan_out"])
        return result({"fingerprint": {"name": "x", "classes": [], "counts": {}}, "problems": [], "plan": {}})

    fake_api.inspect = inspect
    main(["inspect", "x"])
    (tmp_path / "plan.toml").write_text("edited")
    main(["inspect", "x"])
    main(["inspect", "x", "--plan-out", "plan.toml"])
    assert [plan and plan.name for plan in seen] == ["plan.toml", None, "plan.toml"]
    assert "plan.toml exists" in capsys.readouterr().err


ENDLESS = """
import sys, time, types
fake = sys.modules["meddistill.api"] = types.ModuleType("meddistill.api")
def distill(*args, progress, **options):
    progress.note("ready")
    with progress.stage("distilling", 10) as stage:
        stage.advance(1, loss=0.5)
        time.sleep(60)
fake.distill = distill
from meddistill.cli.main import main
sys.exit(main(["distill", "x", "--out", "y", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_process_with_130(number, document):
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "the same command continues it" in err
    assert document(out)["error"]["kind"] == "interrupted"


CLOSED = """
import sys, types
fake = sys.modules["meddistill.api"] = types.ModuleType("meddistill.api")
class Result:
    def as_dict(self):
        return {"methods": [{"name": "n", "summary": "s", "source": "t" * 100}] * 10000}
fake.methods = Result
from meddistill.cli.main import main
sys.exit(main(["methods", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_reader_that_has_seen_enough_is_no_error(words):
    read, write = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", CLOSED, *words], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    os.read(read, 10)
    os.close(read)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_full_disk_behind_standard_output_is_said(words):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", CLOSED, *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "meddistill: cannot write standard output: No space left on device\n"


def test_a_poor_terminal_encoding_is_no_error():
    code = textwrap.dedent("""
        import sys, types
        fake = sys.modules["meddistill.api"] = types.ModuleType("meddistill.api")
        fake.methods = lambda: types.SimpleNamespace(
            as_dict=lambda: {"methods": [{"name": "±×…", "summary": "[bold]", "source": ":smile:"}]})
        from meddistill.cli.main import main
        sys.exit(main(["methods"]))
    """)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "???" in done.stdout
    assert "[bold]" in done.stdout
    assert ":smile:" in done.stdout
