"""The lower bound of epsilon against its definition, and played against mechanisms whose epsilon is known."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meddistill.privacy.one_run import chance, convicts, guess, largest_epsilon, least_epsilon


def right_answers(made: int, truth: float) -> list[float]:
    """The distribution of the number of right answers, by counting all outcomes."""
    found = [0.0] * (made + 1)
    for outcome in itertools.product((0, 1), repeat=made):
        found[sum(outcome)] += math.prod(truth if right else 1 - truth for right in outcome)
    return found


@pytest.mark.parametrize("epsilon", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("delta", [0.0, 1e-3])
def test_the_chance_is_that_of_the_theorem_by_counting_all_outcomes(epsilon, delta):
    made, records = 9, 30
    answers = right_answers(made, math.exp(epsilon) / (1 + math.exp(epsilon)))
    for right in range(made + 1):
        alpha = max((sum(answers[right - i : right]) / i for i in range(1, right + 1)), default=0.0)
        expected = min(1.0, sum(answers[right:]) + 2 * records * delta * alpha)
        assert chance(records, made, right, epsilon, delta) == pytest.approx(expected)


@given(st.integers(1, 80), st.data(), st.sampled_from([0.0, 1e-5, 1e-3]), st.sampled_from([0.05, 0.004]))
def test_below_the_bound_the_guesses_are_unlikely_and_above_they_are_not(made, data, delta, error):
    right = data.draw(st.integers(0, made))
    found = least_epsilon(2 * made, made, right, delta, error)
    below = np.linspace(0, found, 20, endpoint=False) if found else ()
    assert all(chance(2 * made, made, right, epsilon, delta) < error for epsilon in below)
    assert chance(2 * made, made, right, found + 1e-6, delta) >= error


def test_bounds_that_were_computed_elsewhere():
    """By a public implementation of the theorem, at 95 % and a delta of 1e-5, to two digits."""
    told = {(1000, 1000): 5.78, (1000, 900): 2.02, (1000, 700): 0.73, (1000, 550): 0.09}
    for (made, right), epsilon in told.items():
        assert least_epsilon(1000, made, right, 1e-5, 0.05) == pytest.approx(epsilon, abs=0.012)
    assert least_epsilon(500, 100, 100, 1e-5, 0.05) == pytest.approx(3.48, abs=0.012)


def randomised_response(rng, records: int, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores of those that were in and of those that were out: the coin itself, told truly as epsilon allows."""
    coins = rng.random(records) < 0.5
    told = coins ^ (rng.random(records) > math.exp(epsilon) / (1 + math.exp(epsilon)))
    scores = told + 0.1 * rng.random(records)
    return scores[coins], scores[~coins]


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_randomised_response_is_seldom_convicted_of_more_than_its_epsilon(epsilon):
    rng, bound = np.random.default_rng(7), cache(lambda right: least_epsilon(200, 100, right, 0.0, 0.05))
    found = [bound(guess(*randomised_response(rng, 200, epsilon), 0.25).right) for _ in range(2000)]
    assert (np.array(found) > epsilon).mean() <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 2000)
    assert max(found) > 0


def test_with_many_records_the_bound_comes_close():
    rng = np.random.default_rng(3)
    guesses = guess(*randomised_response(rng, 40_000, 1.0), 0.25)
    assert 0.9 < least_epsilon(40_000, guesses.made, guesses.right, 1e-5, 0.05) <= 1.0


def test_a_mechanism_that_fails_with_probability_delta_is_within_its_bound():
    """With probability delta everything is told: the bound for that delta holds, the pure one may not."""
    rng, delta, epsilon = np.random.default_rng(5), 0.001, 0.5
    bound = cache(lambda right: least_epsilon(60, 30, right, delta, 0.05))
    told = [50.0 if rng.random() < delta else epsilon for _ in range(4000)]
    found = [bound(guess(*randomised_response(rng, 60, one), 0.25).right) for one in told]
    assert (np.array(found) > epsilon).mean() <= 0.05
    assert max(found) > epsilon


def test_guesses_are_the_highest_and_the_lowest_and_ties_never_help():
    included, excluded = np.array([5.0, 4.0, 1.0, 3.0]), np.array([0.0, 2.0, 6.0, -1.0])
    found = guess(included, excluded, 0.25)
    assert (found.records, found.each, found.found, found.left) == (8, 2, 1, 2)
    level = guess(np.zeros(10), np.zeros(10), 0.25)
    assert level.right == 0


def test_few_records_show_little_and_cannot_convict():
    assert largest_epsilon(8, 1e-5, 4, 0.05) == 0.0
    assert largest_epsilon(100, 1e-5, 4, 0.05) > largest_epsilon(40, 1e-5, 4, 0.05) > 0
    assert not convicts(40, 1.6, 0.5, 1e-5, 4, 0.05)
    assert convicts(200, 1.6, 0.5, 1e-5, 4, 0.05)
