"""Noise and epsilon: exact figures, other accountants, and the ways in which a budget is refused."""

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meddistill.privacy.accountant import Event, delta_of, gaussian_noise, noise_for, spent
from meddistill.privacy.sgd import NoisyPlan, budget
from meddistill.runtime.errors import InputError

# Of dp-accounting 0.6.0 (PLDAccountant), whose pins keep it from being installed beside this project's own.
PLD_ONE_RELEASE = {1: 3.74, 2: 2.00, 4: 1.08, 8: 0.60}


def plan(**changes) -> NoisyPlan:
    return NoisyPlan(
        **{"steps": 200, "snapshot_every": 10, "learning_rate": 0.5, "clip": 1.0, "sampling_rate": 0.05, "views": 1}
        | changes
    )


@pytest.mark.parametrize(("epsilon", "noise"), PLD_ONE_RELEASE.items())
def test_one_release_needs_the_noise_that_another_accountant_finds(epsilon, noise):
    assert gaussian_noise(epsilon, 1e-5) == pytest.approx(noise, abs=0.012)


@given(st.floats(0.01, 30), st.floats(1e-9, 1e-2))
def test_noise_is_enough_and_no_more_than_that(epsilon, delta):
    noise = gaussian_noise(epsilon, delta)
    assert delta_of(epsilon, noise) <= delta
    assert delta_of(epsilon, 0.999 * noise) > delta


def test_delta_is_the_largest_advantage_of_any_threshold():
    """From the definition: P(A) − e^ε P(B), over all events {x > t}, by the normal distribution function."""
    epsilon, noise = 1.0, 1.3

    def above(threshold: float, mean: float) -> float:
        return math.erfc((threshold - mean) / noise / math.sqrt(2)) / 2

    advantages = [above(t / 1000, 1) - math.exp(epsilon) * above(t / 1000, 0) for t in range(-5000, 10000)]
    assert delta_of(epsilon, noise) == pytest.approx(max(advantages), abs=1e-6)


@pytest.mark.parametrize("epsilon", [0.5, 1, 2, 4])
def test_renyi_bounds_the_exact_answer_from_above_and_closely(epsilon):
    found = spent([Event("", gaussian_noise(epsilon, 1e-5))], 1e-5)
    assert epsilon <= found <= 1.2 * epsilon


@pytest.mark.parametrize("epsilon", [1, 8])
def test_a_second_accountant_finds_no_more_than_is_claimed(epsilon):
    """Numerical composition (Gopi et al. 2021), by Opacus; it is tighter than the Rényi bound, by some ten per cent."""
    from opacus.accountants import PRVAccountant

    found = budget(plan(), epsilon, 1e-5, 1)
    other = PRVAccountant()
    other.history = [(event.noise_multiplier, event.sampling_rate, event.steps) for event in found.history]
    assert 0.8 * epsilon <= other.get_epsilon(1e-5) <= epsilon


def test_the_claimed_history_is_spent_up_to_the_claim():
    """The figures beside it are those of dp-accounting 0.6.0: 0.909 by its PLD, 1.000 by its RDP accountant."""
    found = budget(plan(), 1.0, 1e-5, 1)
    assert [event.steps for event in found.history] == [1, 200]
    assert 0.995 <= spent(found.history, 1e-5) <= 1.0
    assert found.training == pytest.approx(3.178, rel=2e-3)
    assert found.counting == pytest.approx(4 * gaussian_noise(1, 1e-5))


def test_more_teachers_on_the_same_patients_need_more_noise():
    one, three = (budget(plan(steps=50), 2.0, 1e-5, teachers) for teachers in (1, 3))
    assert three.training > 1.2 * one.training
    assert three.history[1].steps == 150


@pytest.mark.parametrize(("epsilon", "delta"), [(0, 1e-5), (math.inf, 1e-5), (math.nan, 1e-5), (1, 0), (1, 1)])
def test_no_budget(epsilon, delta):
    with pytest.raises(InputError, match="expected a number above 0"):
        gaussian_noise(epsilon, delta)


def test_a_budget_that_the_rest_has_used_up():
    rest = Event("", gaussian_noise(2.0, 1e-5))
    with pytest.raises(InputError, match="already take"):
        noise_for(lambda noise: [rest, Event("", noise)], 1.0, 1e-5)


def test_without_opacus(monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus.accountants.analysis", None)
    with pytest.raises(InputError, match=r"pip install .*\[dp\].*--dp-route statistics"):
        spent([Event("", 1.0)], 1e-5)
