"""The page in a real browser: up to date, used by keyboard, narrow, dark, accessible, and without any other host."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from tests.browser import CHROMIUM, chromium
from tests.pipeline.conftest import draw

from meddistill import api
from meddistill.runtime.watch import is_alive
from meddistill.view.subjects import Subject

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium")

PATIENCE = 20_000  # milliseconds, for a machine with much else to do
LONG_PATIENCE = 120_000  # for processes that have to start first
PLAN = """
images_per_class = 1
size = 10
network = "convnet-d1-w4"
[teachers]
count = 1
steps = 20
snapshot_every = 2
batch = 8
[matching]
warm_up = 0
iterations = 400
student_steps = 1
segment = 1
batch = 2
[evaluation]
seeds = 0
"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def visit(browser, serving):
    """``visit(paths …, how to see it)`` opens the page of a server; in the end nothing may have been complained of."""
    contexts, said, asked = [], [], []

    def start(*paths, width=1280, scheme="light"):
        server = serving(*paths)
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(server.address)
        page.origin = server.address.rsplit("/", 2)[0]
        return page

    start.said = said
    yield start
    for context in contexts:
        context.close()
    assert said == []
    assert {url.split("/")[2].split(":")[0] for url in asked if not url.startswith("data:")} <= {"127.0.0.1"}


def test_it_follows_a_run_and_the_slider_stays_at_the_newest_moment(visit, new_run):
    folder = new_run()
    page = visit(folder.path)
    slider, live = page.get_by_role("slider"), page.locator(".live")
    assert (slider.input_value(), page.locator(".moment").inner_text()) == ("4", "iteration 20 of 40")
    folder.picture(25)
    folder.log(
        {"time": 160.0, "event": "distilled", "iteration": 25, "phase": "trajectories", "score": 0.6, "step_size": 0.1}
    )
    folder.tell(state="running", stage="distilling", done=25.0, total=40, seconds_left=60.0, figures={"loss": 0.125})
    live.get_by_text("0.125").wait_for()
    page.get_by_text("iteration 25 of 40").wait_for()
    assert slider.input_value() == "5"
    assert slider.get_attribute("aria-valuetext") == "iteration 25 of 40"
    folder.tell(state="done", stage="evaluating")
    live.get_by_text("finished").wait_for()
    page.wait_for_function("document.querySelector('[role=status]').textContent.startsWith('finished')")
    assert page.get_by_role("button").count() == 0


def test_everything_is_done_by_keyboard(visit, new_run):
    folder = new_run()
    folder.command("distill", "source", "--out", "lungs.mdz")
    page = visit(folder.path)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the runs"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Stop"
    # The part that holds the button is replaced while it has the focus.
    folder.tell(state="running", stage="distilling", done=21.0, total=40, figures={"loss": 0.111})
    page.get_by_text("0.111").wait_for()
    assert page.evaluate("document.activeElement.textContent") == "Stop"
    page.keyboard.press("Enter")
    page.locator(".live").get_by_text("stopping at the next safe point").wait_for()
    assert (folder.path / "stop").exists()
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("Home")
    page.get_by_text("iteration 0 of 40").wait_for()
    page.keyboard.press("ArrowRight")
    page.get_by_text("iteration 5 of 40").wait_for()
    folder.picture(25)
    folder.tell(state="stopped", stage="distilling")
    page.get_by_role("button", name="Continue").wait_for()
    # Who looks at an earlier moment is not taken away from it.
    page.wait_for_function("document.querySelector('input').max === '5'")
    assert (slider.input_value(), page.locator(".moment").inner_text()) == ("1", "iteration 5 of 40")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wrong_with_the_page_for_axe_nor_runs_out_of_the_window(visit, new_run, new_package, width, scheme):
    from axe_playwright_python.sync_playwright import Axe

    first, second = new_run("a.run"), new_run("b.run")
    first.log(
        {
            "time": 1.0,
            "event": "evaluated",
            "row": "distilled",
            "seed": 1,
            "scores": {"val": {"balanced_accuracy": 0.8}},
        }
    )
    second.tell(state="failed", error="the disk is full: free some space or write elsewhere")
    broken = new_package("broken.mdz")
    broken.write_bytes(broken.read_bytes()[:-40])
    page = visit(first.path, second.path, new_package(), broken, width=width, scheme=scheme)
    page.get_by_text("the disk is full").wait_for()
    # The policy of the page forbids what axe adds to it, but not to the browser's own tools.
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["target"], one["help"]) for one in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every(part => part < 60)")
    assert dark == (scheme == "dark")


def test_runs_and_packages_stand_side_by_side(visit, new_run, new_package):
    page = visit(new_run("a.run").path, new_run("b.run").path, new_package())
    assert page.get_by_role("article").count() == 3
    table = page.get_by_role("table").first
    assert [row.split("\t")[0] for row in table.inner_text().split("\n")[-3:]] == ["a.run", "b.run", "lungs.mdz"]
    told = page.locator(".together svg").get_attribute("aria-label")
    assert "a.run: 0.99 at 1, 0.8 at 20; b.run" in told
    boxes = [page.get_by_role("article").nth(place).bounding_box() for place in range(2)]
    assert boxes[0]["y"] == boxes[1]["y"]


def test_hostile_texts_stay_texts(visit, new_run):
    folder = new_run()
    attack = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    folder.tell(state="failed", error=attack, stage=attack)
    folder.command("distill", attack, "--out", "lungs.mdz")
    (folder.path / "snapshots" / "classes.json").write_text(json.dumps([attack, "' onload=alert(3) '"]))
    page = visit(folder.path)
    page.wait_for_timeout(2500)  # a part was fetched anew, too
    assert page.locator("img[src=x], main script").count() == 0
    assert attack in page.locator(".live .state.bad").inner_text()
    assert attack in page.locator(".shelf h4").first.inner_text()


def test_the_policy_forbids_scripts_that_were_put_into_the_page(visit, new_run):
    page = visit(new_run().path)
    done = page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script);
            try { window.evaluated = (0, eval)("true"); } catch (error) { /* as it should be */ }
            return [window.ran, window.evaluated];
        }"""
    )
    # What the browser's tools evaluate is not under the policy, so eval() is judged by the complaint alone.
    assert done[0] is None
    assert any("Content Security Policy" in text for text in visit.said)
    visit.said.clear()


def test_when_the_viewer_ends_the_page_says_so(visit, serving, new_run):
    run = new_run()
    page = visit(run.path)
    page.route("**/live/*", lambda route: route.abort())
    page.get_by_role("alert").get_by_text("The viewer does not answer.").wait_for()
    page.unroute("**/live/*")
    page.get_by_role("alert").wait_for(state="hidden")
    visit.said.clear()


def test_a_run_is_continued_by_a_click_and_says_why_it_cannot(visit, new_run):
    folder = new_run()
    folder.command("distill", "no-such-source.npz", "--out", "lungs.mdz")
    folder.tell(state="stopped", stage="distilling")
    page = visit(folder.path)
    page.get_by_role("button", name="Continue").click()
    page.locator(".said").get_by_text("It is starting.").wait_for()
    page.locator(".said").get_by_text("no-such-source.npz").wait_for()
    assert "It ended with" in page.locator(".said").inner_text()
    assert Subject(folder.path, True).key in page.locator(".live").get_attribute("id")


class Running:
    """A real run in a folder, begun at the command line, that can be held at the moment when it begins to distil."""

    def __init__(self, folder):
        self.folder = folder

    def begin(self):
        words = ["distill", "pictures", "--plan", "plan.toml", "--out", "x.mdz", "--quiet"]
        return subprocess.Popen([sys.executable, "-m", "meddistill", *words], cwd=self.folder.parent)

    def status(self):
        try:
            return json.loads((self.folder / "status.json").read_text())
        except OSError:
            return {}

    def hold(self):
        """Wait until it distils, and let it go no further; the number of the process."""
        until = time.monotonic() + LONG_PATIENCE / 1000
        while (told := self.status()).get("stage") != "distilling":
            assert time.monotonic() < until, told
            time.sleep(0.005)
        os.kill(told["pid"], signal.SIGSTOP)
        return told["pid"]


@pytest.fixture
def running(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    draw(tmp_path / "pictures", {"clear": True, "ill": False})
    (tmp_path / "plan.toml").write_text(PLAN)
    one = Running(tmp_path / "x.run")
    yield one
    if is_alive(told := one.status(), time.time()):  # a test that failed leaves it held
        os.kill(told["pid"], signal.SIGKILL)


def test_a_running_distillation_is_stopped_by_a_click_and_continued_to_its_end_by_keyboard(visit, running):
    begun = running.begin()
    held = running.hold()
    page = visit(running.folder)
    live = page.locator(".live")
    page.get_by_role("button", name="Stop").click()
    live.get_by_text("stopping at the next safe point").wait_for()
    os.kill(held, signal.SIGCONT)
    live.get_by_text("stopped; can be continued").wait_for(timeout=LONG_PATIENCE)
    assert begun.wait() == 130
    assert not (running.folder.parent / "x.mdz").exists()
    page.get_by_role("button", name="Continue").wait_for()
    while page.evaluate("document.activeElement.textContent") != "Continue":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator(".said").get_by_text("It is starting.").wait_for()
    live.get_by_text("finished").wait_for(timeout=LONG_PATIENCE)
    assert running.status()["pid"] != held
    assert api.verify(running.folder.parent / "x.mdz").ok
    page.get_by_text("iteration 400 of 400").first.wait_for()
    assert page.get_by_role("button").count() == 0
    log = [json.loads(line)["event"] for line in (running.folder / "events.jsonl").read_text().splitlines()]
    assert (log.count("begun"), log.count("continued"), log[-1]) == (1, 1, "written")
