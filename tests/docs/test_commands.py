"""Every command that a page shows is carried out: in the words and the order of the page, at small scale.

Getting started has a file of its own. A page's folder holds beforehand what the page takes for granted (images, keys,
the package that it is about); what one command makes is there for the next. The tables below say what is another than
on the page; whatever in them is of no use any more is an error.
"""

import contextlib
import functools
import io
import itertools
import re
import runpy
import shlex
import shutil
import sys
import threading
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cyclopts import CycloptsError
from pages import PAGES, ROOT, SHELL, blocks, said, undocumented
from shelf import fill

from meddistill.audit.case import Effort as AuditEffort
from meddistill.bench import demo
from meddistill.cli import main as cli
from meddistill.compress import module as modules
from meddistill.compress.essential import Effort as CompressEffort
from meddistill.distill.unroll import Learned
from meddistill.distill.unroll.types import Batch
from meddistill.nets.convnet import parse
from meddistill.pipeline import compress as compressing
from meddistill.runtime.streams import stream
from meddistill.train.protocol import protocol_for
from meddistill.view.serve import Server

# What a page's folder has at first, and which thing of the shelf that is. All have EVERYWHERE.
BEFORE = {
    "README.md": {"SOURCE": "pictures", "OTHER_SOURCE": "pictures", "IMAGE": "picture.png", "st-mary.pem": "key.pem"},
    "docs/audit.md": {"SOURCE": "pictures", "lungs.mdw": "model.mdw"},
    "docs/audit-for-an-officer.md": {"chest": "pictures", "chest.mdz": "lungs.mdz", "st-mary.pem": "key.pem"},
    "docs/bench.md": {"DATA": "data", "recipes": "recipes"},
    "docs/compared.md": {"DATA": "data", "recipes": "recipes"},
    "docs/choose-method.md": {"chest": "pictures", "grid.toml": "grid.toml"},
    "docs/cli.md": {
        "SOURCE": "pictures",
        "FILE": "picture.png",
        "A.mdz": "lungs.mdz",
        "B.mdz": "other.mdz",
        "RUN": "lungs.run",
        "GRID.toml": "example.toml",
    },
    "docs/cohorts.md": {
        "ham10000": "data/ham10000",
        "studies.csv": "studies.csv",
        "export": "export",
        "kermany_pneumonia_224": "pictures",
    },
    "docs/compress.md": {"lungs.safetensors": "model", "lungs.mdz": "lungs.mdz", "SOURCE": "pictures"},
    "docs/dicom.md": {"chest": "scans", "studies.csv": "studies.csv", "export": "export", "volumes": "volumes"},
    "docs/exchange.md": {"examples": "examples", "IMAGE": "picture.png"},
    "docs/gpu-and-cluster.md": {"chest": "pictures", "plan.toml": "quick.toml"},
    "docs/index.md": {"SOURCE": "pictures", "OTHER_SOURCE": "pictures"},
    "docs/own-data.md": {"chest": "pictures"},
    "docs/package.md": {"lungs.mdz": "lungs.mdz"},
    "docs/privacy.md": {"SOURCE": "pictures"},
    "docs/report.md": {
        "lungs.mdz": "lungs.mdz",
        "lungs.run": "lungs.run",
        "audit.json": "audit.json",
        "OUT": "compared",
    },
    "docs/results.md": {"DATA": "data"},
    "docs/scarce-labels.md": {"DATA": "data", "recipes": "recipes"},
    "docs/view.md": {"lungs.run": "lungs.run", "meddistill-demo": "demo"},
}
EVERYWHERE = {"quick.toml": "quick.toml", "pneumoniamnist.npz": "xrays.npz"}
# Words that stand for something, and options whose value would take long, or a GPU.
STANDS_FOR = {
    ("--to", "FORM"): "folder",
    ("--device", "cuda"): "cpu",
    ("--size", "1/200"): "1/2",
    ("--canaries", "200"): "20",
    ("--shadows", "32"): "6",
    ("--references", "8"): "2",
    ("--images-per-class", "50"): "20",
}
# Options of a verb that are added where the page does not give them; None leaves one out.
SMALL = {
    "distill": {"--time": None, "--plan": "quick.toml"},
    "train": {"--seeds": "2"},
    "audit": {"--references": "2"},
    "demo": {"--images-per-class": "1", "--seeds": "2"},
    "bench": {"--jobs": "1"},
}
# What a page says that these commands end with; all others end with 0, but for audits, which may end with any answer.
CODES = {
    "README.md": {"verify": [5]},
    "docs/package.md": {"verify": [4, 0]},
    "docs/compress.md": {"verify": [4]},
    "docs/cli.md": {"verify": [4]},
}
OF_AN_AUDIT = {0, 6, 7, 8}
# Python of a page: what its folder has at first, by its name there, and what the page writes that would take long.
PYTHON = {
    "README.md": {"chest_xrays": "pictures"},
    "docs/compress.md": {},
    "docs/engine.md": {},
    "docs/exchange.md": {"north.mdz": "lungs.mdz", "south.mdz": "other.mdz", "images": "pictures"},
    "docs/package.md": {"lungs.mdz": "lungs.mdz"},
    "docs/report.md": {"lungs.mdz": "lungs.mdz", "model.safetensors": "model", "images": "pictures"},
}
SHORTER = {"time_s=600": 'plan=Path("quick.toml")', "score), ...]": "score)]"}
ELSEWHERE = {"docs/new-method.md"}  # tests/testing/test_conformance.py
# Commands of other programs that are run, with fewer images (the second by the test of getting started) …
RUN = {"python examples/split_sites.py exchange", "python examples/split_sites.py lungs --prefix pneumoniamnist-"}
# … and those that are not, and why.
_INSTALLS = "installs, which needs a network; .ci/check_wheel.py tries what it leaves"
_CHECKS = "is what runs the tests, or what they are a part of"
_GPU = "needs a GPU"
_MEASURES = "measures for minutes to hours, and replaces a record"
NOT_RUN = {
    "python3 -m venv .venv && . .venv/bin/activate": _INSTALLS,
    "make test": _CHECKS,
    "make lint": _CHECKS,
    "make docs": _CHECKS,
    "make format": "rewrites the sources",
    "make demo": "installs and then runs `meddistill demo`, which is run",
    "pip install -c constraints.txt .": _INSTALLS,
    "pip install -c constraints.txt '.[dicom]'": _INSTALLS,
    "pip install -c constraints.txt '.[onnx]'": _INSTALLS,
    "pip install 'meddistill[view]'": _INSTALLS,
    "pip download -c constraints.txt -d wheels .": _INSTALLS,
    "pip install --no-index --find-links wheels -c constraints.txt meddistill": _INSTALLS,
    "python benchmarks/engine.py": _MEASURES,
    "python benchmarks/engine.py --only memory --batches 10": _MEASURES,
    "python benchmarks/engine.py --only time --ways adjoint compiled bfloat16-compiled": _MEASURES,
    "make gpu PYTHON=… DATA=…": _GPU,
    "python benchmarks/whole_run.py": _GPU,
    "python benchmarks/counted.py": "counts for minutes, and replaces a record",
    "python benchmarks/gpu.py": _GPU,
    "python benchmarks/gpu.py --only recipes --compiled --students 23 64": _GPU,
    "python benchmarks/gpu.py --only kernels": _GPU,
    "python benchmarks/gpu.py --only recipes --kernels --compiled --students 23 64": _GPU,
    "python benchmarks/teachers.py --device cuda --at-once 32 --teachers 32": _GPU,
    "python benchmarks/teachers.py --device cuda --arithmetic bfloat16 --rounds 0 --target --data COVID_FOLDER": _GPU,
    "sh examples/exchange.sh exchange": "tests/test_exchange.py runs it at small scale",
    "sh examples/exchange.sh exchange examples/kermany.toml": "takes images that are not part of the project",
}


@pytest.fixture(scope="module", autouse=True)
def small(one_thread):
    """What no option makes small: the trained networks are then worth nothing, and quick."""
    effort = CompressEffort(narrow=2, fresh=2, rounds=1, prune=2, quantise=2)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("bench.work", "train.tutored", "pipeline.pack"):
            patch.setattr(f"meddistill.{module}.protocol_for", short)
        patch.setattr(compressing, "compress", functools.partial(compressing.compress, effort=effort))
        patch.setattr(modules, "compress_module", functools.partial(modules.compress_module, effort=effort))
        patch.setattr(
            "meddistill.audit.case.Effort",
            functools.partial(AuditEffort, students=1, steps=4, recogniser_steps=2),
        )
        patch.setattr("meddistill.bench.plots.plots", lambda *_: {})
        patch.setattr(demo, "Request", quick_request)
        patch.setattr(Server, "serve_forever", looked_at)
        yield


def short(*asked, **how):
    """The protocol, with next to no steps."""
    return replace(protocol_for(*asked, **how), steps=4, epochs=0)


def quick_request(**asked):
    """The demo's, on a few of its images and with the quick plan."""
    return Request(**asked | {"source": Path("pneumoniamnist.npz"), "plan": Path("quick.toml"), "iterations": None})


def looked_at(server, **_):
    """Somebody opens the page and then ends the viewer with Ctrl-C."""
    answering = threading.Thread(target=serve_forever, args=(server,), kwargs={"poll_interval": 0.05})
    answering.start()
    with urllib.request.urlopen(server.address, timeout=60) as page:
        assert page.status == 200
    server.shutdown()
    answering.join()
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def shelf(tmp_path_factory, small):
    """Everything that pages take for granted, each made once."""
    folder = tmp_path_factory.mktemp("shelf")
    with working_in(folder):
        fill(folder)
    return folder


@contextlib.contextmanager
def working_in(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MEDDISTILL_CONFIG", str(folder / "trusted"))
        patch.setenv("MEDDISTILL_PASSPHRASE", "correct horse")
        yield


def carried_out(words):
    """Exit code, the answer if there is one, and what was printed."""
    answers, printed = [], io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        patch.setattr(cli, "_print_text", lambda answer: (answers.append(answer), print_text(answer)))
        code = cli.main(words)
    return code, answers[0] if answers else None, printed.getvalue()


def is_whole(words):
    """Whether these words are a command and not only a part of one, as many in sentences are."""
    try:
        cli.app.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError:
        return False
    return True


def in_place(words):
    """A page's words, with what stands for something replaced."""
    return [STANDS_FOR.get(pair, pair[1]) for pair in itertools.pairwise(["", *words])]


def smaller(words):
    """The same command with the options of its verb in :data:`SMALL`."""
    for option, value in SMALL.get(words[0], {}).items():
        if value is None and option in words:
            place = words.index(option)
            words = words[:place] + words[place + 2 :]
        elif value is not None and option not in words:
            words = [*words, option, value]
    return words


def others(page):
    """Commands of other programs in a page, without comments."""
    text = "\n".join(blocks(ROOT / page, *SHELL))
    found = re.findall(r"^\s*(?:\$ )?((?:python3?|pip|sh|make) .*)", text, re.MULTILINE)
    return [re.sub(r"\s+# .*", "", line) for line in found if "-m meddistill" not in line]


def run_script(words):
    """A script of ``examples``, on a part of the images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*words[1:], "--images", "60"])
        runpy.run_path(words[1], run_name="__main__")


def of_a_page(page):
    """Its commands."""
    return [words for words in map(in_place, said(ROOT / page)) if is_whole(words)]


def set_up(folder, shelf, names):
    """What a page takes for granted."""
    for name, thing in (EVERYWHERE | names).items():
        if (shelf / thing).is_dir():
            shutil.copytree(shelf / thing, folder / name, symlinks=True)
        else:
            shutil.copy(shelf / thing, folder / name)


SHOWN = [name for page in PAGES if of_a_page(name := str(page.relative_to(ROOT))) and name != "docs/getting-started.md"]
print_text, serve_forever, Request = cli._print_text, Server.serve_forever, demo.Request


@pytest.mark.parametrize("page", SHOWN)
def test_every_command_of_a_page_is_carried_out(page, shelf, tmp_path):
    """It ends as the page says, and every key of its answer is in the reference."""
    set_up(tmp_path, shelf, BEFORE.get(page, {}))
    codes = {verb: list(found) for verb, found in CODES.get(page, {}).items()}
    with working_in(tmp_path):
        for line in others(page):
            if line in RUN:
                run_script(shlex.split(line))
        for words in of_a_page(page):
            code, answer, printed = carried_out(smaller(words))
            expected = OF_AN_AUDIT if words[0] == "audit" else {codes[words[0]].pop(0) if words[0] in codes else 0}
            assert code in expected, f"{shlex.join(words)}\n{printed}"
            if answer is not None:
                assert undocumented(words[0], answer.document) == set(), words
    assert not any(codes.values()), "a code is expected of a command that the page does not show"


def test_the_tables_have_nothing_that_is_not_on_a_page():
    assert set(BEFORE) | set(CODES) <= set(SHOWN)
    for page, names in BEFORE.items():
        text = (ROOT / page).read_text(encoding="utf-8")
        assert [name for name in names if not re.search(rf"\b{re.escape(name)}\b", text)] == [], page
    every = [words for page in PAGES for words in said(page)]
    pairs = {pair for words in every for pair in itertools.pairwise(words)}
    assert set(STANDS_FOR) <= pairs
    lines = {line for page in PAGES for line in others(page)}
    assert lines == set(NOT_RUN) | RUN


def test_every_verb_is_on_one_of_the_pages():
    verbs = {words[0] for page in SHOWN for words in of_a_page(page)}
    assert verbs - {"--help"} == {name for name in cli.app if not name.startswith("-")}
    assert set(SMALL) <= verbs


@pytest.mark.parametrize("page", PYTHON)
def test_the_python_of_a_page_runs(page, shelf, tmp_path, monkeypatch):
    set_up(tmp_path, shelf, PYTHON[page])
    monkeypatch.chdir(tmp_path)
    names = given(page)
    for text in blocks(ROOT / page, "python"):
        shorter = functools.reduce(lambda so_far, pair: so_far.replace(*pair), SHORTER.items(), text)
        exec(compile(shorter, page, "exec"), names)


def given(page):
    """What a page's Python has by name and does not define."""
    if page == "docs/compress.md":
        images, labels = torch.randn(30, 1, 8, 8, generator=stream(0, "images")), torch.arange(30) % 3
        return {"resnet18": classifier, "resnet": classifier(3), "inputs": images, "labels": labels}
    if page == "docs/engine.md":
        network = parse("convnet-d1-w4", channels=1, size=8, classes=2)
        start, batch = network.init(stream(0, "start")), Batch(torch.arange(2))
        learned = Learned(torch.randn(2, 1, 8, 8, generator=stream(0, "images")), torch.eye(2), torch.zeros(1) - 4)
        score = lambda states: sum(param.square().sum() for param in states[80])  # noqa: E731
        return {"network": network, "start": start, "batches": [batch] * 80, "score": score, "learned": learned}
    return {}


def classifier(num_classes):
    """In the place of torchvision's ResNet-18; always of the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 512, bias=False), torch.nn.ReLU(), torch.nn.Linear(512, num_classes)
        )


def test_the_python_of_every_page_is_run_somewhere():
    with_python = {str(page.relative_to(ROOT)) for page in PAGES if blocks(page, "python")}
    assert with_python == set(PYTHON) | ELSEWHERE
