"""A bootstrap of patients: its figures are those of the audit, and trials that are alike count as one."""

import numpy as np
import pytest

from meddistill.audit import resampled
from meddistill.audit.apart import tell_apart
from meddistill.audit.finding import Gates
from meddistill.audit.resampled import Whose, deviations, reaching
from meddistill.audit.statistics import Interval, area, threshold

RATES = (0.01, 0.1)


def test_figures_of_every_patient_once_are_those_that_are_told():
    rng = np.random.default_rng(0)
    members, control = rng.integers(0, 40, 150) / 4, rng.integers(0, 30, 90) / 4  # with ties
    values, place = np.unique(np.concatenate([members, control]), return_inverse=True)
    inside, outside = (np.bincount(part, minlength=len(values)) for part in (place[:150], place[150:]))
    found = resampled._figures(inside, outside, RATES)
    limits = [threshold(control, rate) for rate in RATES]
    shares = [(members > limit).mean() for limit in limits]
    excess = [share - (control > limit).mean() for share, limit in zip(shares, limits, strict=True)]
    assert found == pytest.approx([area(members, control).value, *shares, *excess])


def test_trials_of_one_patient_that_are_alike_count_as_one():
    """A hundred patients, eight trials on either side: by trials the interval is narrower by the root of eight."""
    rng, patients = np.random.default_rng(1), np.repeat(np.arange(100), 8)
    one, other = rng.normal(size=100), rng.normal(size=100)
    alone = deviations(one, other, Whose(np.arange(100), 100 + np.arange(100)), RATES)
    again = deviations(np.repeat(one, 8), np.repeat(other, 8), Whose(patients, 100 + patients), RATES)
    assert again.area == pytest.approx(alone.area, rel=1e-6)
    assert alone.area == pytest.approx(np.sqrt(201 / 12 / 100**2), rel=0.2)
    both = np.repeat(one, 8), np.repeat(other, 8)
    narrow, wide = (tell_apart(*both, Gates(), whose=whose) for whose in (None, Whose(patients, 100 + patients)))
    assert wide.area.high - wide.area.low > 2 * (narrow.area.high - narrow.area.low)
    assert wide.area.value == narrow.area.value


def test_no_interval_becomes_narrower():
    exact = Interval(0.0, 0.0, 0.03)
    assert reaching(exact, 0.0, 0.95) == exact
    assert reaching(Interval(0.5, 0.4, 0.6), 0.1, 0.95) == Interval(
        0.5, pytest.approx(0.304, abs=1e-3), pytest.approx(0.696, abs=1e-3)
    )
    assert reaching(Interval(0.01, 0.005, 0.02), 1.0, 0.95) == Interval(0.01, 0.0, 1.0)
