"""Named random streams: every draw comes from a generator that its purpose and the seed name.

A stream is a function of the seed and of what it is for (``stream(seed, "distill", iteration)``), not of how many
numbers were drawn before. A run that was killed therefore continues with the same draws without having to
store any generator's state, and adding a draw to one stage never shifts those of another.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Name = str | int


def derive(seed: int, *names: Name) -> int:
    """A 63-bit seed for the stream that ``names`` identify under ``seed``."""
    text = "\x1f".join(f"{type(name).__name__}:{name}" for name in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: Name) -> torch.Generator:
    """A torch generator on the CPU for the named stream."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))


def numpy_stream(seed: int, *names: Name) -> np.random.Generator:
    """A numpy generator for the named stream."""
    return np.random.default_rng(derive(seed, *names))
