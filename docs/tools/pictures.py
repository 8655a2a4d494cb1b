"""Make the pictures of the documentation from the run that getting-started.md leaves in a folder.

    python docs/tools/console.py docs/getting-started.md --folder STARTED
    python docs/tools/pictures.py STARTED

``matching.png``    a teacher's trajectory with students on synthetic and on random real images
``synthetic.png``   where synthetic images start and where they end
``report.png``      the first screen of the report, taken by Debian's chromium (needs the extra ``browser``)
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from meddistill.cohort.prepare import prepare
from meddistill.distill.start import first_images
from meddistill.nets.augment import Augmentation
from meddistill.nets.find import find
from meddistill.nets.params import unflatten
from meddistill.package.read import read
from meddistill.pipeline.plan_file import read_plan
from meddistill.runtime.streams import stream
from meddistill.teachers.images import LabelledImages, Normalisation
from meddistill.teachers.store import TrajectoryStore

HERE = Path(__file__).parents[1] / "pictures"
SOURCE = "lungs/pneumoniamnist-north.npz"
CHROMIUM = "/usr/bin/chromium"
INK, BLUE, ORANGE, GREY = "#1d2327", "#0b6e8f", "#a8530f", "#8a9096"


class Started:
    """What getting-started.md leaves: the package, its plan, the teachers and the real images."""

    def __init__(self, folder: Path) -> None:
        self.package = read(folder / "lungs.mdz")
        self.plan = read_plan(folder / "lungs.run" / "plan.toml")
        card = self.package.card
        cohort = prepare(folder / SOURCE, size=card.images.size, leak="drop", seed=self.plan.seed).cohort
        rows = cohort.indices("train")
        normalisation = Normalisation(card.normalisation.mean, card.normalisation.std)
        pixels, labels = (torch.from_numpy(array[rows]) for array in (cohort.images, cohort.labels))
        self.train = LabelledImages(pixels, labels, cohort.peak, len(cohort.classes), normalisation)
        self.network = find(card.recipe.network, channels=1, size=card.images.size, classes=len(cohort.classes))
        snapshots = self.plan.teachers.steps // self.plan.teachers.snapshot_every + 1
        self.store = TrajectoryStore(folder / "lungs.run" / "teachers", snapshots, self.network.parameters)
        events = [json.loads(line) for line in (folder / "lungs.run" / "events.jsonl").read_text().splitlines()]
        self.window = next(one for one in events if one["event"] == "window")

    def walk(self, start: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """The student's parameters ``(N + 1, P)`` on its way: N plain gradient steps on all images at once."""
        size, way = float(self.package.step_sizes[0]), [start]
        for _ in range(self.plan.matching.student_steps):
            flat = way[-1].clone().requires_grad_()
            loss = F.cross_entropy(self.network.apply(unflatten(flat, self.network.shapes), images), labels)
            (slope,) = torch.autograd.grad(loss, flat)
            way.append((flat - size * slope).detach())
        return torch.stack(way)


def matching(started: Started) -> Figure:
    """Students that start on a teacher's trajectory, on synthetic and on as many random real images."""
    path, segment = started.store.trajectory(0), started.plan.matching.segment
    synthetic = started.train.normalisation.apply(torch.from_numpy(started.package.images))
    soft = torch.from_numpy(started.package.labels)
    order = torch.randperm(len(started.train), generator=stream(0, "picture"))
    chosen = torch.cat([order[started.train.labels[order] == label][:5] for label in range(started.train.classes)])
    real, hard = started.train.inputs(chosen), F.one_hot(started.train.labels[chosen]).float()
    first = started.window["earliest_start"]
    begins = [first + place * 3 * segment // 2 for place in range(3)]
    ways = {name: [started.walk(path[begin], *data) for begin in begins] for name, data in
            {"synthetic": (synthetic, soft), "real": (real, hard)}.items()}  # fmt: skip
    plane = _plane(path)
    figure = Figure(figsize=(7.4, 4.6), layout="constrained")
    panel = figure.subplots()
    teacher = plane(path)
    panel.plot(*teacher.T, "-", color=GREY, linewidth=1.2, zorder=1)
    panel.plot(*teacher.T, "o", color=GREY, markersize=3, zorder=1, label="the teacher, every ten steps")
    for place, begin in enumerate(begins):
        end = path[begin + segment]
        panel.plot(*plane(path[begin])[0], "o", color=INK, markersize=7, zorder=4, label=_first("start", place))
        panel.plot(*plane(end)[0], "*", color=INK, markersize=12, zorder=4, label=_first("to be reached", place))
        for name, colour in (("real", ORANGE), ("synthetic", BLUE)):
            way = ways[name][place]
            score = float((way[-1] - end).pow(2).sum() / (path[begin] - end).pow(2).sum())
            shown = plane(way)
            label = f"a student on ten {name} images"
            panel.plot(*shown.T, "-", color=colour, linewidth=2.4, zorder=3, label=_first(label, place))
            panel.annotate(
                f"{score:.2f}",
                shown[-1],
                color=colour,
                fontsize=9,
                xytext=(6, 5) if name == "synthetic" else (5, -12),
                textcoords="offset points",
            )
    panel.set(xlabel="parameters, along the direction of most motion", ylabel="and of second most")
    panel.legend(frameon=False, fontsize=9)
    return figure


def _first(label: str, place: int) -> str | None:
    """A label for the legend, once."""
    return label if place == 0 else None


def _plane(path: Tensor) -> Callable[[Tensor], Any]:
    """Projects parameters onto the two principal directions of a trajectory."""
    centre = path.mean(0)
    directions = torch.linalg.svd(path - centre, full_matrices=False).Vh[:2]
    return lambda points: ((torch.atleast_2d(points) - centre) @ directions.T).numpy()


def synthetic(started: Started) -> Figure:
    """For each class the start images above the images that became of them."""
    package, count = started.package, len(started.package.labels)
    classes = torch.from_numpy(package.labels.argmax(1))
    first = first_images("prototypes", started.train, classes, Augmentation(), started.plan.seed)
    begun = started.train.normalisation.undo(first).numpy()
    figure = Figure(figsize=(9.2, 2.5), layout="constrained")
    axes = figure.subplots(2, count)
    for row, images in enumerate((begun, package.images)):
        for column in range(count):
            axes[row, column].imshow(np.clip(images[column, 0], 0, 1), cmap="gray", vmin=0, vmax=1)
            axes[row, column].set(xticks=[], yticks=[])
        axes[row, 0].set_ylabel(("start", "distilled")[row], fontsize=9)
    for column in range(count):
        likeliest = int(classes[column])
        name = f"{package.card.task.classes[likeliest]}\n{package.labels[column, likeliest]:.2f}"
        axes[1, column].set_xlabel(name, fontsize=8)
    return figure


def screenshot(report: Path, out: Path) -> None:
    """The first screen of a report at the width of a desktop."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        page = browser.new_page(viewport={"width": 1040, "height": 760}, color_scheme="light")
        page.goto(report.resolve().as_uri())
        page.screenshot(path=out)
        browser.close()


def main() -> None:
    """Write all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    HERE.mkdir(exist_ok=True)
    started = Started(folder)
    for name, figure in (("matching.png", matching(started)), ("synthetic.png", synthetic(started))):
        figure.savefig(HERE / name, dpi=150, metadata={"Software": None})
    screenshot(folder / "report.html", HERE / "report.png")


if __name__ == "__main__":
    main()
