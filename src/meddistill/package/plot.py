"""A package as a matplotlib figure, for notebooks: the synthetic images under what their labels say."""

from typing import TYPE_CHECKING

import numpy as np

from meddistill.package.types import Package
from meddistill.runtime.plot import panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST, _COLUMNS = 60, 10


def images(package: Package) -> "Figure":
    """At most 60 images in the package's order, above each its likeliest class and that class's probability."""
    shown = min(len(package.images), _MOST)
    columns = min(shown, _COLUMNS)
    rows = -(-shown // columns)
    figure, axes = panels(rows, columns, 1.3 * columns, 1.55 * rows)
    for panel in axes:
        panel.set_axis_off()
    for panel, pixels, label in zip(axes, package.images[:shown], package.labels[:shown], strict=False):
        likeliest = int(label.argmax())
        panel.imshow(np.clip(pixels, 0, 1).transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=1)
        # A name may hold a $, which matplotlib would take for a formula.
        title = f"{package.card.task.classes[likeliest]}\n{label[likeliest]:.3f}"
        panel.set_title(title, fontsize=7, parse_math=False)
    return figure
