"""How the points of a trajectory are written: exactly, in half the bytes, or as a few points and the ways between them.

What matters is not a point but the way between two near ones, which is a small part of either: plain float16 keeps it
to a few percent. Half the bytes are therefore spent on the way from the start, as 16-bit whole numbers with one scale a
point, which keeps it ten times better (measured in ``docs/teachers.md``).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Storage = Literal["float32", "int16", "convex2", "convex3", "convex4"]
STORAGES: tuple[Storage, ...] = ("float32", "int16", "convex2", "convex3", "convex4")
Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]
_LARGEST = 32767


def is_convex(storage: Storage) -> bool:
    """Whether only some points are kept; such a trajectory cannot be continued."""
    return storage.startswith("convex")


def layout(storage: Storage, snapshots: int, parameters: int, tensors: int, states: int) -> Layout:
    """The tensors of a trajectory's file in order: types and shapes.

    ``parameters`` numbers a point, of ``tensors`` tensors. ``states``: 1, or 2 with momentum.
    """
    state: Layout = {"state": (torch.float32, (states, parameters))}
    if storage == "float32":
        return state | {"trajectory": (torch.float32, (snapshots, parameters))}
    if storage == "int16":
        return state | {
            "start": (torch.float32, (parameters,)),
            "scales": (torch.float32, (snapshots,)),
            "trajectory": (torch.int16, (snapshots, parameters)),
        }
    points = min(int(storage[-1]), snapshots)
    places: Layout = {"places": (torch.int64, (points,))}  # first, for its eight bytes a number to be aligned
    return (
        places
        | state
        | {
            "shares": (torch.float32, (snapshots, tensors)),
            "points": (torch.float32, (points, parameters)),
        }
    )


def shrink(point: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """A point as the way from ``start``: int16 ``(P,)`` and what one unit of it is, float32."""
    way = point - start
    scale = way.abs().max() / _LARGEST
    # Where nothing moved, or so little that the unit vanishes, the way is zero.
    units = way / scale if scale > 0 else torch.zeros_like(way)
    # A unit so small that it is itself rounded could go beyond.
    return units.round().clamp(-_LARGEST, _LARGEST).to(torch.int16), scale


def grow(units: Tensor, scale: Tensor, start: Tensor) -> Tensor:
    """The inverse of :func:`shrink`, to half a unit."""
    return start + scale * units.float()


def convexify(trajectory: Tensor, count: int, sizes: Sequence[int]) -> dict[str, Tensor]:
    """``count`` points of a trajectory and how far each snapshot is on the straight way between two of them.

    Zhong et al. 2025 (arXiv 2406.19827): every tensor of the network goes straight, and is as far at a snapshot as the
    share of its path that it had covered by then. With more than two points the path is cut into pieces of about equal
    length, each of which goes straight. ``places``: snapshots of the points; ``shares``: ``(snapshots, tensors)``.
    """
    lengths = [(after - before).norm(dim=1) for before, after in _steps(trajectory, sizes)]
    paths = torch.stack([torch.cat([length.new_zeros(1), length.cumsum(0)]) for length in lengths], 1)
    places = _places((trajectory[1:] - trajectory[:-1]).norm(dim=1).cumsum(0), count)
    shares = torch.zeros_like(paths)
    for first, last in pairwise(places):
        piece = paths[first : last + 1] - paths[first]
        # A tensor that does not move has no path to have a share of.
        shares[first : last + 1] = piece / piece[-1].clamp_min(torch.finfo(piece.dtype).tiny)
    return {"places": torch.tensor(places), "shares": shares, "points": trajectory[places]}


def on_the_way(before: Tensor, after: Tensor, shares: Tensor, sizes: Sequence[int]) -> Tensor:
    """The point between two, ``shares`` ``(tensors,)`` of the way; exact at both ends."""
    return torch.lerp(before, after, shares.repeat_interleave(torch.tensor(sizes)))


def _steps(trajectory: Tensor, sizes: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    return [(tensor[:-1], tensor[1:]) for tensor in trajectory.split(list(sizes), dim=1)]


def _places(path: Tensor, count: int) -> list[int]:
    """The start, the end, and between them the snapshots that cut the path into equal lengths best; ascending."""
    last, places = len(path), [0]
    for cut in range(1, count - 1):
        nearest = 1 + int((path - path[-1] * cut / (count - 1)).abs().argmin())
        # Room for itself after the one before, and for those to come.
        places.append(min(max(nearest, places[-1] + 1), last - (count - 1 - cut)))
    return [*places, last]
