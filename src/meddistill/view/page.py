"""The page and the parts of it that are fetched anew: every part is HTML that templates write and escape."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from meddistill import __version__
from meddistill.package.read import Verification, read_judged
from meddistill.package.trust import judge
from meddistill.package.types import Card, Package, Score
from meddistill.report.charts import Band, Curve, Point, curves
from meddistill.report.elements import Figure
from meddistill.report.escaped import environment
from meddistill.report.pictures import FEW, Gallery, gallery
from meddistill.report.runlog import RunLog
from meddistill.runtime.errors import MeddistillError
from meddistill.runtime.words import duration, size
from meddistill.view import pictures, runs
from meddistill.view.runs import Run, Scored
from meddistill.view.subjects import Subject

ROWS = {"distilled": "distilled", "random": "random real", "full": "all real", "own": "own recipe"}
# What each state means, and the class of its colour.
STATES = {
    "waiting": ("has not begun", "rest"),
    "running": ("running", "live"),
    "stopping": ("stopping at the next safe point", "live"),
    "stopped": ("stopped; can be continued", "halt"),
    "lost": ("ended without a word; can be continued", "halt"),
    "failed": ("failed", "fault"),
    "done": ("finished", "good"),
}
_TOGETHER = 6  # curves in the chart that compares runs
_QUIET_SECONDS = 60
_ENOUGH = 12  # points of a curve that is worth smoothing


@dataclass(frozen=True)
class Opened:
    """A package that was read: the file, what it holds, and who signed it."""

    bytes: int
    package: Package
    found: Verification
    gallery: Gallery


@dataclass(frozen=True)
class Line:
    """One subject in the table that compares them."""

    key: str
    name: str
    state: str
    method: str
    images: str
    loss: str
    val: str
    test: str
    bytes: str


def whole(subjects: Sequence[Subject], base: str) -> str:
    """The page; ``base``: what all addresses of it begin with."""
    return _render(
        "page.html",
        base=base,
        version=__version__,
        several=len(subjects) > 1,
        cards=[_card(one, base) for one in subjects],
        compared=Markup(compared(subjects, base)) if len(subjects) > 1 else "",
    )


def live(subject: Subject, base: str, note: str = "") -> str:
    """Where a run stands; ``note``: what came of the button that was pressed."""
    run = runs.read(subject.path)
    return _sealed("live.html", base=base, key=subject.key, note=note, **_standing(run))


def figures(subject: Subject, base: str) -> str:
    """The charts and scores of a run."""
    run = runs.read(subject.path)
    return _sealed(
        "figures.html", base=base, key=subject.key, figures=_charts(run), scored=_scores(run), plan=_plan(run.log)
    )


def images(subject: Subject, at: int) -> str:
    """The synthetic images of the moment ``at``, counted from 0."""
    moments = runs.moments(subject.path)
    place = min(max(at, 0), len(moments) - 1)
    iteration = moments[place] if moments else None
    total = runs.read(subject.path).iterations
    shelves = () if iteration is None else pictures.shelves(subject.path, iteration)
    few = sum(len(shelf.pictures) for shelf in shelves) <= FEW
    told = "" if iteration is None else f"iteration {iteration}" + (f" of {total[1]:.0f}" if total else "")
    return _render("images.html", shelves=shelves, few=few, told=told)


def compared(subjects: Sequence[Subject], base: str) -> str:
    """All subjects in one table, and the losses of runs in one chart."""
    known = [(one, runs.read(one.path)) for one in subjects if one.is_run]
    lines = {one.key: _run_line(one, run) for one, run in known}
    lines |= {one.key: _package_line(one) for one in subjects if not one.is_run}
    losses = [_smooth(one.name[:18], run.log.matched) for one, run in known if run.log is not None]
    drawn = [curve for curve in losses if len(curve.points) > 1][:_TOGETHER]
    chart = curves("Loss of matching", "iteration", drawn) if len(drawn) > 1 else None
    names = [curve.name for curve in drawn]
    return _sealed("compared.html", base=base, lines=[lines[one.key] for one in subjects], chart=chart, names=names)


def asset(name: str) -> bytes:
    """A style sheet or script of the page."""
    return (resources.files("meddistill.view") / "templates" / name).read_bytes()


def style() -> bytes:
    """The report's style sheet and what the viewer adds to it."""
    report = (resources.files("meddistill.report") / "templates" / "style.css").read_bytes()
    return report + b"\n" + asset("view.css")


def seal(text: str) -> str:
    """By which the page says what it has, so that nothing is sent that it has already."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _card(subject: Subject, base: str) -> dict[str, Any]:
    """One subject's place on the page."""
    told: dict[str, Any] = {"key": subject.key, "name": subject.name, "is_run": subject.is_run, "base": base}
    if not subject.is_run:
        return told | {"package": Markup(package(subject))}
    moments = runs.moments(subject.path)
    parts = {"live": live(subject, base), "figures": figures(subject, base), "images": images(subject, len(moments))}
    return told | {"last": max(0, len(moments) - 1)} | {name: Markup(part) for name, part in parts.items()}


def package(subject: Subject) -> str:
    """What a package holds, or why it is not shown."""
    opened = _open(subject.path)
    if isinstance(opened, str):
        return _render("package.html", problem=opened)
    card, found = opened.package.card, opened.found
    shelves = opened.gallery.shelves
    return _render(
        "package.html",
        problem=None,
        card=card,
        answer=found.answer,
        signer=found.signer_name or found.signer,
        tiles=_package_tiles(opened),
        shelves=shelves,
        few=sum(len(shelf.pictures) for shelf in shelves) <= FEW,
        scored=_card_scores(card),
        bytes=size(opened.bytes),
    )


def _standing(run: Run) -> dict[str, Any]:
    """What the part that is fetched most often shows."""
    word, colour = STATES[run.state]
    silent = run.silent_seconds
    is_silent = run.state == "running" and silent is not None and silent > _QUIET_SECONDS
    return {
        "state": run.state,
        "word": word,
        "colour": colour,
        "error": run.error,
        "stages": _stages(run),
        "percent": None if run.share is None or run.state not in ("running", "stopping") else round(100 * run.share),
        "stage": run.stage,
        "tiles": _tiles(run),
        "silent": duration(silent // 60 * 60) if is_silent and silent is not None else "",
        "may_stop": run.state == "running",
        "may_resume": run.state in runs.RESUMABLE and bool(run.command),
        "is_orphan": run.state in runs.RESUMABLE and not run.command,
        "command": " ".join(("meddistill", *run.command)) if run.command else "",
        "moments": len(run.moments),
    }


def _stages(run: Run) -> list[tuple[str, str]]:
    """The stages, each ``past``, ``now`` or ``ahead``."""
    has_teachers = run.log is None or run.log.plans_teachers
    names = [name for name in runs.STAGES if name != "teaching" or has_teachers]
    if run.state == "done":
        return [(name, "past") for name in names]
    here = names.index(run.stage) if run.stage in names else -1
    return [(name, "past" if place < here else "now" if place == here else "ahead") for place, name in enumerate(names)]


def _tiles(run: Run) -> list[tuple[str, str, str]]:
    """Name, value, and a word on it."""
    tiles: list[tuple[str, str, str]] = []
    if run.state in ("running", "stopping"):
        left = "–" if run.seconds_left is None else duration(run.seconds_left)
        tiles.append(("time left", left, f"of {run.stage or 'this stage'}"))
    elif run.log is not None and run.log.stages:
        tiles.append(("time taken", duration(sum(seconds for _, seconds in run.log.stages)), "all stages"))
    if run.iterations is not None:
        tiles.append(("iteration", f"{run.iterations[0]:.0f}", f"of {run.iterations[1]:.0f}"))
    if run.loss is not None:
        tiles.append(("loss", f"{run.loss:.3g}", "of the last iteration"))
    if (val := _validation(run)) is not None:
        tiles.append(("validation accuracy", f"{100 * val[0]:.1f} %", val[1]))
    if "resident" in run.memory:
        tiles.append(("memory", size(run.memory["resident"]), _processes(run.memory.get("processes"))))
    if "gpu" in run.memory:
        tiles.append(("GPU memory", size(run.memory["gpu"]), "reserved"))
    return tiles


def _processes(count: float | None) -> str:
    """Whose memory it is; runs of earlier versions counted the main process alone."""
    return "of the main process" if count is None else f"of {count:.0f} process{'' if count == 1 else 'es'}"


def _validation(run: Run) -> tuple[float, str] | None:
    """The best that is known by now: of networks trained on the distilled set, else of the teachers."""
    for row in run.scored:
        if row.row == "distilled" and "val" in row.balanced_accuracy:
            return row.balanced_accuracy["val"], f"balanced; distilled, {_networks(row.networks)}"
    learned = () if run.log is None else run.log.balanced_accuracy
    return (max(value for _, value in learned), "balanced; best of the teachers") if learned else None


def _networks(count: int) -> str:
    return f"{count} network{'' if count == 1 else 's'}"


def _charts(run: Run) -> list[Figure]:
    """Whatever has two points at least."""
    log = run.log
    if log is None:
        return []
    window = [Band("segments start here", *log.window)] if log.window is not None else []
    told = [
        ("Loss of matching", "iteration", [_smooth("loss", log.matched)], []),
        (
            "Teachers on validation images",
            "training step",
            [Curve("balanced accuracy", log.balanced_accuracy), Curve("AUROC", log.auroc)],
            window,
        ),
        ("Loss of the warm-up", "iteration", [_smooth("loss", log.features)], []),
        ("Step size", "iteration", [Curve("step size", log.step_sizes)], []),
        ("Overlap and diversity", "iteration", [Curve("overlap", log.overlap), Curve("diversity", log.diversity)], []),
        ("Memory while distilling", "iteration", [Curve("MB", run.resident)], []),
    ]
    return [
        Figure(title, curves(title, across, lines, bands))
        for title, across, lines, bands in told
        if len(lines[0].points) > 1
    ]


def _scores(run: Run) -> list[tuple[str, ...]]:
    rows = sorted(run.scored, key=lambda one: list(ROWS).index(one.row) if one.row in ROWS else len(ROWS))
    return [(ROWS.get(one.row, one.row), str(one.networks), *map(_percent, _by_split(one))) for one in rows]


def _smooth(name: str, points: Sequence[Point]) -> Curve:
    """A curve that is smoothed once there is something to smooth."""
    return Curve(name, tuple(points), smoothed=len(points) >= _ENOUGH)


def _by_split(scored: Scored) -> tuple[float | None, float | None]:
    return scored.balanced_accuracy.get("val"), scored.balanced_accuracy.get("test")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _plan(log: RunLog | None) -> list[tuple[str, str]]:
    """What the run set out to do, in a few words."""
    if log is None:
        return []
    wanted = ("method", "network", "images_per_class", "total_images", "size", "start", "seed")
    return [
        (name.replace("_", " "), str(log.plan[name])[:80]) for name in wanted if log.plan.get(name) not in (None, "", 0)
    ]


def _run_line(subject: Subject, run: Run) -> Line:
    plan = dict(_plan(run.log))
    each = {row.row: row.balanced_accuracy for row in run.scored}.get("distilled", {})
    images = f"{plan['images per class']} a class" if "images per class" in plan else plan.get("total images", "–")
    return Line(
        key=subject.key,
        name=subject.name,
        state=STATES[run.state][0].split(";")[0],
        method=plan.get("method", "–"),
        images=images,
        loss="–" if run.loss is None else f"{run.loss:.3g}",
        val=_percent(each.get("val")),
        test=_percent(each.get("test")),
        bytes="–",
    )


def _package_line(subject: Subject) -> Line:
    opened = _open(subject.path)
    if isinstance(opened, str):
        return Line(subject.key, subject.name, "refused", "–", "–", "–", "–", "–", "–")
    card = opened.package.card
    scores = {split: _card_score(card, split, "distilled") for split in ("val", "test")}
    return Line(
        key=subject.key,
        name=subject.name,
        state=f"package, {'signed' if opened.found.signer else 'unsigned'}",
        method=card.recipe.method,
        images=f"{card.images.count} in all",
        loss="–",
        val=_percent(None if scores["val"] is None else scores["val"].mean),
        test=_percent(None if scores["test"] is None else scores["test"].mean),
        bytes=size(opened.bytes),
    )


def _package_tiles(opened: Opened) -> list[tuple[str, str, str]]:
    card = opened.package.card
    tiles = [
        ("images", str(card.images.count), f"of {card.images.pixels.replace(' x ', ' × ')}"),
        ("classes", str(len(card.task.classes)), f"{card.task.labels} labels"),
        ("file", size(opened.bytes), f"by {card.recipe.method}"),
    ]
    score = _card_score(card, "test", "distilled")
    if score is not None:
        tiles.append(("test accuracy", f"{100 * score.mean:.1f} %", "balanced, as the card says"))
    return tiles


def _card_scores(card: Card) -> list[tuple[str, ...]]:
    if card.results is None:
        return []
    rows = list(dict.fromkeys(row for split in card.results.splits.values() for row in split))
    return [
        (ROWS.get(row, row), *(_interval(_card_score(card, split, row)) for split in ("val", "test"))) for row in rows
    ]


def _card_score(card: Card, split: str, row: str) -> Score | None:
    rows = None if card.results is None else card.results.splits.get(split)
    return None if rows is None or row not in rows else rows[row].get("balanced_accuracy")


def _interval(score: Score | None) -> str:
    if score is None:
        return "–"
    ends = f" ({100 * score.low:.1f} to {100 * score.high:.1f})" if score.has_interval else ""
    return f"{100 * score.mean:.1f}{ends}"


def _open(path: Path) -> Opened | str:
    """The package, or why there is none."""
    try:
        facts = path.stat()
    except OSError as error:
        return f"cannot read {path.name}: {error.strerror}"
    return _read_once(path, facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=16)
def _read_once(path: Path, _changed: int, bytes_: int) -> Opened | str:
    try:
        found, verification = read_judged(path)
        return Opened(bytes_, found, judge(verification), gallery(found))
    except MeddistillError as error:
        return str(error)


def _sealed(name: str, **told: Any) -> str:
    """A part that carries the seal of what it shows."""
    bare = _render(name, seal="", **told)
    return _render(name, seal=seal(bare), **told)


def _render(name: str, **told: Any) -> str:
    return _environment().get_template(name).render(**told)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return environment(lambda name: asset(name).decode())
