"""How a cohort shows itself in a notebook: its counts. Patients' images are drawn only where they are asked for."""

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from meddistill.cohort.types import SPLITS, Cohort, SplitName
from meddistill.runtime.plot import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 8
_MOST_CLASSES = 12


def notebook(cohort: Cohort) -> str:
    """HTML: images by class and split. A notebook that is sent around holds no image by this."""
    counts = {split: cohort.counts(split) for split in SPLITS}
    head = "".join(f"<th>{escape(name)}</th>" for name in ("", *SPLITS))
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        + "".join(f"<td>{counts[split][name]:,}</td>" for split in SPLITS)
        + "</tr>"
        for name in cohort.classes
    )
    colour = "grey" if cohort.channels == 1 else "colour"
    said = f"{len(cohort.labels):,} {colour} images of {cohort.size} × {cohort.size} pixels"
    return f"<div><p>{said}</p><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def images(cohort: Cohort, split: SplitName, seed: int) -> "Figure":
    """A row a class (at most 12) of up to eight images of a split, drawn by ``seed``: real images of patients."""
    names = cohort.classes[:_MOST_CLASSES]
    figure, axes = panels(len(names), _COLUMNS, 1.2 * _COLUMNS, 1.3 * len(names))
    for panel in axes:
        panel.set_axis_off()
    generator, rows = np.random.default_rng(seed), cohort.indices(split)
    for place, name in enumerate(names):
        mine = rows[cohort.labels[rows] == place]
        chosen = generator.permutation(mine)[:_COLUMNS]
        axes[place * _COLUMNS].set_title(name, fontsize=8, loc="left", parse_math=False)
        for panel, row in zip(axes[place * _COLUMNS :], chosen, strict=False):
            pixels = cohort.images[row].astype(np.float32) / cohort.peak
            panel.imshow(pixels.transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=1)
    return figure
