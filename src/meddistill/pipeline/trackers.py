"""Trackers: small optional companions of the event log, which draw its figures where a team looks at all its runs.

One is there, ``tensorboard[:FOLDER]``: it writes files, by default into ``tensorboard`` in the run folder, and sends
nothing. It writes through tensorboardX, which is 1 MB and needs no torch; TensorBoard itself is only to look at them.
Images go there only if they are asked for. What a run computes does not depend on it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from meddistill.runtime.errors import InputError
from meddistill.runtime.files import write_error

NAME = "tensorboard"
# Event → field that counts its steps, and the fields that are drawn.
_DRAWN = {
    "teachers": ("snapshot", ("balanced_accuracy", "auroc")),
    "overlap": ("iteration", ("share", "diversity")),
    "resources": ("iteration", ("resident", "gpu")),
}


class TensorBoard:
    """The figures of a run as TensorBoard's scalars, and, if asked for, its images."""

    def __init__(self, folder: Path, wants_images: bool) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder))
        self._networks: Counter[str] = Counter()
        self.wants_images = wants_images

    def event(self, event: Mapping[str, Any]) -> None:
        """Draw the numbers of one event."""
        if event["event"] == "evaluated":
            self._networks[event["row"]] += 1
        for step, name, value in scalars(event, self._networks):
            self._writer.add_scalar(name, value, step)

    def images(self, iteration: int, images: npt.NDArray[np.uint8]) -> None:
        """Draw the synthetic images ``(n, C, S, S)`` of an iteration."""
        self._writer.add_images("synthetic_images", images, iteration)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


def scalars(event: Mapping[str, Any], networks: Mapping[str, int]) -> Iterator[tuple[int, str, float]]:
    """Step, name and value of every figure of an event; ``networks``: how many of each row were evaluated by now."""
    kind = event["event"]
    if kind == "distilled":
        yield event["iteration"], f"loss/{event['phase']}", event["score"]
        yield event["iteration"], "step_size", event["step_size"]
    elif kind == "evaluated":
        for split, scores in event["scores"].items():
            for metric, value in scores.items():
                yield networks[event["row"]], f"{split}/{event['row']}/{metric}", value
    elif kind in _DRAWN:
        counted, names = _DRAWN[kind]
        yield from ((event[counted], f"{kind}/{name}", event[name]) for name in names if name in event)


def require_tracker(asked: str) -> None:
    """Raise :class:`InputError` now, before hours of work, for a tracker that is not there."""
    if not asked:
        return
    if asked.partition(":")[0] != NAME:
        raise InputError(f"there is no tracker '{asked}': write {NAME}, or {NAME}:FOLDER")
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise InputError(
            f"--track {NAME} needs another package: pip install 'meddistill[{NAME}]', or leave --track out"
        ) from None


@contextmanager
def tracked(asked: str, run: Path, wants_images: bool) -> Iterator[TensorBoard | None]:
    """The tracker that was asked for, or None; closed in the end, however that comes."""
    if not asked:
        yield None
        return
    folder = Path(asked.partition(":")[2] or run / NAME)
    try:
        tracker = TensorBoard(folder, wants_images)
    except OSError as error:
        raise write_error(folder, error) from error
    try:
        yield tracker
    finally:
        tracker.close()
