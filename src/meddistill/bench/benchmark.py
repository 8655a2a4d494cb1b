"""The benchmark: a grid of sets and networks, carried out where it was left, and its tables and pictures."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meddistill.bench.crowd import Result, Setting, carry_out, hands_for
from meddistill.bench.grid import Grid
from meddistill.bench.tables import (
    Line,
    Ranked,
    comparisons,
    comparisons_csv,
    encoders_csv,
    json_lines,
    lines,
    markdown,
    ranking,
    results_csv,
    times_csv,
)
from meddistill.bench.tasks import Layout, forget_scores_of_the_lost, is_done, tasks
from meddistill.pipeline.folder import LOCK, locked
from meddistill.runtime.crew import processes_for
from meddistill.runtime.device import choose
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import remove_leftovers, write_atomic
from meddistill.runtime.progress import Progress, Silent
from meddistill.train.metrics import Summary

_LEAST_REPEATED = 5
_FOLDERS = ("cohorts", "encoders", "labels", "scores", "sets", "teachers")
_TABLES = ("results.jsonl", "results.csv", "results.md", "paired.csv", "times.csv", "encoders.csv")


@dataclass(frozen=True)
class Benchmark:
    """What was found: a line for every cell, methods in order, files, and the tasks that failed with their reasons."""

    out: Path
    lines: tuple[Line, ...]
    ranking: tuple[Ranked, ...]
    files: tuple[Path, ...]
    failed: tuple[tuple[str, str], ...]
    missing: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "out": str(self.out),
            "results": [line.as_dict() for line in self.lines],
            "ranking": [vars(one) for one in self.ranking],
            "files": [str(path) for path in self.files],
            "failed": [{"task": task, "error": error} for task, error in self.failed],
            "missing": self.missing,
        }

    def _repr_html_(self) -> str:
        from meddistill.report.notebook import scores

        return scores({_named(line): {name: one.as_dict() for name, one in _main(line).items()} for line in self.lines})


def _named(line: Line) -> str:
    cell = line.cell
    made = f" made with {cell.matching}" if cell.matching else ""
    count = f"{cell.amount} a class" if cell.images_per_class else cell.amount or "all images"
    return f"{cell.source.name}, {count}, {cell.method}{made}, trained: {cell.evaluation}"


def _main(line: Line) -> dict[str, Summary]:
    return line.scores["test"]["as is"]


def bench(
    grid: Path,
    out: Path,
    *,
    data: Path | None = None,
    subset: str | None = None,
    jobs: int | None = None,
    device: str = "auto",
    progress: Progress = Silent(),
) -> Benchmark:
    """Carry out what is left of the grid in the file ``grid`` and write its tables into the folder ``out``.

    ``data``: the folder that sources start from, by default that of the file. ``subset``: only this part of the grid.
    ``jobs``: processes, on a CPU by default as many as PyTorch would take threads; figures do not depend on their
    number. A task that fails does not end the others. Raises :class:`InputError` for a grid that cannot be carried out.
    """
    where = choose(device)
    setting = Setting(_text(grid), str(grid), subset, data or grid.parent, out, str(where))
    layout = setting.layout()
    _warn_of_few(layout.grid, progress)
    _require_own(out)
    with locked(out, f"another process is filling {out}: wait for it, or choose another folder with --out"):
        for folder in ("", *_FOLDERS):
            remove_leftovers(out / folder)
        failed = _carry_out(setting, layout, jobs or processes_for(where), progress)
        return _written(layout, failed, progress)


def _require_own(out: Path) -> None:
    """Raises :class:`InputError` for a folder whose files a benchmark would replace and none has written."""
    taken = [name for name in (*_TABLES, *_FOLDERS) if (out / name).exists()]
    if taken and not (out / LOCK).exists():
        raise InputError(f"{out} holds {', '.join(taken)}, which no benchmark wrote: give --out a new folder")


def _warn_of_few(grid: Grid, progress: Progress) -> None:
    what = "seeds" if grid.distillations == 1 else "distillations"
    if (count := getattr(grid, what)) < _LEAST_REPEATED:
        progress.warn(f"{count} {what} are few: intervals need {_LEAST_REPEATED} or more")


def _text(grid: Path) -> str:
    try:
        return grid.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the grid {grid} ({error}): see docs/bench.md for what it is") from None


def _carry_out(setting: Setting, layout: Layout, jobs: int, progress: Progress) -> list[tuple[str, str]]:
    """Do what is not done yet; the tasks that failed, and why."""
    every = tasks(layout)
    forget_scores_of_the_lost(layout, every)
    waiting = [task for task in every if not is_done(layout, task)]
    failed: list[tuple[str, str]] = []
    if not waiting:
        return failed
    kinds = Counter(task.kind for task in waiting)
    told = ", ".join(f"{count} to {kind}" for kind, count in kinds.items())
    progress.note(f"{len(waiting)} of {len(every)} tasks are left: {told}")
    with (
        progress.stage("benchmark", len(every)) as stage,
        hands_for(setting, min(jobs, len(waiting)), progress) as hands,
    ):
        stage.advance(len(every) - len(waiting))

        def report(result: Result) -> None:
            if result.error is None:
                stage.advance()
            else:
                failed.append((result.task.name, result.error))
                progress.warn(f"{result.task.name}: {result.error}")

        carry_out(waiting, hands, report)
    return failed


def _written(layout: Layout, failed: list[tuple[str, str]], progress: Progress) -> Benchmark:
    found, out = lines(layout), layout.out
    files = {
        "results.jsonl": json_lines(found).encode(),
        "results.csv": results_csv(found).encode(),
        "results.md": markdown(layout, found).encode(),
        "paired.csv": comparisons_csv(comparisons(layout, found)).encode(),
        "times.csv": times_csv(layout).encode(),
    }
    if pretrained := encoders_csv(layout).strip():
        files["encoders.csv"] = f"{pretrained}\n".encode()
    try:
        from meddistill.bench.plots import plots

        files |= plots(layout, found)
    except ImportError:
        progress.note("no pictures: they need matplotlib (pip install 'meddistill[plot]')")
    for name, content in files.items():
        write_atomic(out / name, content)
    missing = sum(not is_done(layout, task) for task in tasks(layout))
    return Benchmark(
        out, tuple(found), tuple(ranking(layout, found)), tuple(out / name for name in files), tuple(failed), missing
    )
