"""What noise costs: from the history of all noised looks at the patients to (ε, δ), and back to the noise that a
given (ε, δ) needs.

A single Gaussian release has an exact answer (Balle & Wang 2018, arXiv 1805.06530, theorem 8). Many steps on random
subsets of the patients are accounted for by Rényi divergences (Mironov, Talwar & Zhang 2019, arXiv 1908.10530), as
computed by Opacus, which the extra ``dp`` installs; that is an upper bound, some percent above the best known.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from meddistill.runtime.errors import InputError

ANALYTIC = "analytic Gaussian mechanism (Balle & Wang 2018)"
RENYI = "Rényi differential privacy of the Poisson-subsampled Gaussian (Mironov et al. 2019), by Opacus"
# Where the search for noise begins, and more than anybody needs.
_FIRST, _LARGEST = 0.5, 2.0**20
# Orders of Rényi divergences, from which the best is taken.
_ORDERS = (*(1 + place / 4 for place in range(1, 12)), *range(4, 64), *(2**power for power in range(6, 13)))


@dataclass(frozen=True)
class Event:
    """``steps`` looks at the patients, each taken with probability ``sampling_rate``, independently of all others.

    Normal noise of standard deviation ``noise_multiplier`` times the bound on what one patient adds is put on each.
    """

    mechanism: str
    noise_multiplier: float
    sampling_rate: float = 1.0
    steps: int = 1


def delta_of(epsilon: float, noise_multiplier: float) -> float:
    """The least δ of one Gaussian release at ε: Φ(1/2σ − εσ) − e^ε Φ(−1/2σ − εσ)."""
    from scipy.special import log_ndtr

    half, shift = 1 / (2 * noise_multiplier), epsilon * noise_multiplier
    first, second = float(log_ndtr(half - shift)), epsilon + float(log_ndtr(-half - shift))
    return math.exp(first) * -math.expm1(min(second - first, 0.0))


def gaussian_noise(epsilon: float, delta: float) -> float:
    """The least noise multiplier with which one Gaussian release is (ε, δ)-differentially private."""
    require_sense(epsilon, delta)
    return _least(lambda noise: delta_of(epsilon, noise) <= delta, 1e-12)


def spent(events: Sequence[Event], delta: float) -> float:
    """An upper bound of ε of all events together. Raises :class:`InputError` without the extra ``dp``."""
    try:
        from opacus.accountants.analysis import rdp
    except ImportError:
        raise InputError(
            "networks are trained under differential privacy with the accountant of Opacus, which is not installed: "
            'pip install "meddistill[dp]", or use --dp-route statistics, which does without'
        ) from None
    total = sum(
        rdp.compute_rdp(
            q=event.sampling_rate, noise_multiplier=event.noise_multiplier, steps=event.steps, orders=list(_ORDERS)
        )
        for event in events
    )
    with warnings.catch_warnings():
        # That a larger order might bound more closely: the bound holds all the same.
        warnings.filterwarnings("ignore", message="Optimal order")
        epsilon, _ = rdp.get_privacy_spent(orders=list(_ORDERS), rdp=total, delta=delta)
    return float(epsilon)


def noise_for(events: Callable[[float], Sequence[Event]], epsilon: float, delta: float) -> float:
    """The least noise multiplier with which the ``events`` of it stay within (ε, δ), by :func:`spent`.

    Raises :class:`InputError` if none does.
    """
    require_sense(epsilon, delta)
    if spent(events(_LARGEST), delta) > epsilon:
        raise InputError(
            f"no noise gives epsilon {epsilon:g} at delta {delta:g}, because other parts of the release already take "
            f"{spent(events(_LARGEST), delta):.3g}: ask for a larger epsilon"
        )
    return _least(lambda noise: spent(events(noise), delta) <= epsilon, 1e-4)


def require_sense(epsilon: float, delta: float) -> None:
    """Raises :class:`InputError` for what is no budget."""
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise InputError(f"an epsilon of {epsilon:g} was asked for: expected a number above 0, such as 2")
    if not 0 < delta < 1:
        raise InputError(f"a delta of {delta:g} was asked for: expected a number above 0 and below 1, such as 1e-5")


def _least(holds: Callable[[float], bool], precision: float) -> float:
    """The least number from which on ``holds`` is true, but for a relative ``precision``; never one where it is not."""
    low = high = _FIRST
    while not holds(high):
        low, high = high, 2 * high
    while low == high or holds(low):
        low, high = low / 2, low
    while high - low > precision * high:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
