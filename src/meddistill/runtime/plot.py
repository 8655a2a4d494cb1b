"""Where pictures for notebooks begin: one figure of matplotlib, which is an extra."""

from typing import TYPE_CHECKING, Any

from meddistill.runtime.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def panels(rows: int, columns: int, width: float, height: float) -> "tuple[Figure, list[Any]]":
    """A figure of ``width`` × ``height`` inches with its axes, row by row; no global state is used.

    Raises :class:`InputError` without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("pictures need matplotlib: pip install 'meddistill[plot]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)
