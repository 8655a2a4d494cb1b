"""Randomness that protects: from the operating system's cryptographic generator, never from a run's seed.

A seed stands on the card. Noise that follows from it could be drawn again and taken away, and so could the choice of
who was looked at; hence nothing here can be repeated, and two runs of one command differ.

Noise is normal in floating point, not in the reals, and the spacing of floating-point numbers can tell what was added
to what (Mironov 2012, 10.1145/2382196.2382264). Each number is therefore the scaled sum of four independent normal
numbers, for which that inversion is out of reach (Holohan & Braghin 2021, arXiv 2107.10138). That makes the attack
impractical; the proof stays one about real numbers.
"""

import os
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

# From a number of bytes to so many random ones.
Source = Callable[[int], bytes]
SYSTEM: Source = os.urandom
_SUMMED = 4


def uniform(count: int, source: Source = SYSTEM) -> npt.NDArray[np.float64]:
    """``(count,)`` independent numbers strictly between 0 and 1, odd multiples of 2^-53.

    With one bit more the largest would be rounded to 1.
    """
    bits = np.frombuffer(source(8 * count), np.uint64) >> np.uint64(12)
    return np.asarray((bits.astype(np.float64) + 0.5) * 2.0**-52)


def normal(count: int, source: Source = SYSTEM) -> npt.NDArray[np.float64]:
    """``(count,)`` independent standard normal numbers, by Box and Muller's method."""
    pairs = (_SUMMED * count + 1) // 2
    radius = np.sqrt(-2 * np.log(uniform(pairs, source)))
    angle = 2 * np.pi * uniform(pairs, source)
    parts = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[: _SUMMED * count]
    return np.asarray(parts.reshape(_SUMMED, count).sum(0) / np.sqrt(_SUMMED))
