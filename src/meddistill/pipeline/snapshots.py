"""Pictures of the synthetic set on its way, for those who watch a run: a few, small, and in the run folder alone.

``snapshots/ITERATION.safetensors`` holds ``images`` ``(n, C, S, S)`` uint8 from 0 black to 255 white, ``labels``
``(n, K)`` float32 and ``rows`` ``(n,)`` int32, the images' places in the set. At most :data:`MOST` are kept, each of at
most :data:`MOST_BYTES` of pixels: large sets are shown in part, large images reduced. With real images as start, the
first ones show patients' images, as the checkpoint does.
"""

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from meddistill.distill.unroll import Learned
from meddistill.runtime.events import EventLog
from meddistill.runtime.watch import memory
from meddistill.teachers.images import Normalisation

MOST, MOST_IMAGES, MOST_BYTES = 40, 200, 2**20
Look = Callable[[int, Learned], None]
# What trackers are shown if they ask for images: iteration, images.
Show = Callable[[int, npt.NDArray[np.uint8]], None]


def snapshots(
    folder: Path,
    normalisation: Normalisation,
    classes: Sequence[str],
    iterations: int,
    events: EventLog,
    show: Show | None = None,
) -> Look:
    """What keeps a picture of the set now and then, and logs the memory in use, as the loop goes on.

    ``iterations``: how many there will be. A picture that cannot be written is left out.
    """
    every = max(1, -(-iterations // MOST))
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "classes.json").write_text(json.dumps(list(classes)))

    def look(iteration: int, learned: Learned) -> None:
        if iteration % every and iteration != iterations:
            return
        images, rows = _shown(normalisation.undo(learned.images).cpu().numpy())
        labels = learned.label_logits.softmax(1).cpu().numpy()[rows].astype(np.float32)
        _write(folder / f"{iteration:08}.safetensors", {"images": images, "labels": labels, "rows": rows})
        events.write("resources", iteration=iteration, **memory())
        if show is not None:
            show(iteration, images)

    return look


def _shown(values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """The images ``(n, C, S, S)`` of 0 to 1 that there is room for, as bytes, and which they are."""
    rows = np.unique(np.linspace(0, len(values) - 1, min(len(values), MOST_IMAGES)).astype(np.int32))
    chosen, side = np.clip(values[rows], 0, 1), values.shape[-1]
    by = next(r for r in range(1, side + 1) if chosen.size // r**2 <= MOST_BYTES or r == side)
    kept = chosen[..., : side // by * by, : side // by * by]
    blocks = kept.reshape(*kept.shape[:2], side // by, by, side // by, by)
    return np.round(blocks.mean((3, 5)) * 255).astype(np.uint8), rows


def _write(path: Path, arrays: dict[str, npt.NDArray[np.generic]]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        temporary.write_bytes(safetensors.numpy.save({name: np.ascontiguousarray(a) for name, a in arrays.items()}))
        os.replace(temporary, path)
