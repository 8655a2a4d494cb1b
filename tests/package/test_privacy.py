"""Differential privacy on a card: what is written is read again, contradictions are refused, people are told."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from meddistill.package import container
from meddistill.package.glance import facts
from meddistill.package.readme import readme
from meddistill.package.types import Card, CohortCounts, Look, Package, Privacy, Sizes
from meddistill.package.write import encode
from meddistill.runtime.errors import VerificationError

Make = Callable[..., Package]
STATED = Privacy(
    epsilon=2.0,
    delta=1e-9,
    unit="patient",
    route="teachers",
    accountant="Rényi divergences",
    history=(
        Look(mechanism="counts", noise_multiplier=7.9, sampling_rate=1.0, steps=1, groups=1),
        Look(mechanism="gradients", noise_multiplier=1.25, sampling_rate=0.05, steps=200, groups=3),
    ),
    outside=("names of the classes",),
)


@pytest.fixture
def stated(make: Make) -> Package:
    package = make()
    card = replace(
        package.card,
        cohort=CohortCounts(counts="withheld"),
        bytes=Sizes(cohort_train=None),
        recipe=replace(package.card.recipe, start="noise"),
        results=None,
        privacy=STATED,
    )
    return replace(package, card=card)


def test_what_is_stated_is_read_again_to_the_last_digit(stated: Package) -> None:
    written = json.loads(bytes(container.unpack(encode(stated), [])["card.json"]))
    assert Card.from_dict(written).privacy == STATED


def test_without_a_statement_the_field_is_not_there(make: Make) -> None:
    told = make().card.to_dict()
    assert "privacy" not in told
    assert Card.from_dict(told).privacy is None


def test_people_are_told(stated: Package) -> None:
    told = readme(stated.card)
    for part in (
        "(2, 1e-09)-differentially private",
        "one patient of the training",
        "gradients: 200 times",
        "names of the",
    ):
        assert part in told
    assert "in each of 3 groups of patients" in told
    assert ("differential privacy", "epsilon 2, delta 1e-09, to add or remove one patient") in facts(stated)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("epsilon", 0, "privacy.epsilon: found 0"),
        ("epsilon", "2", "privacy.epsilon"),
        ("delta", 2, "privacy.delta"),
        ("unit", "hospital", "expected one of patient, image"),
        ("route", "luck", "expected one of statistics, teachers"),
        ("history", [], "privacy.history: expected a list of 1 to 64"),
        ("history", [{}] * 65, "privacy.history: expected a list of 1 to 64"),
        ("history", [{"mechanism": "x"}], "privacy.history[0].steps: missing"),
        ("outside", ["/home/jane/x"], "privacy.outside[0]: '/home/jane/x' looks like a path"),
        ("outside", "nothing", "privacy.outside: expected a list"),
        ("accountant", "<script>", "a viewer might run"),
        ("anonymous", True, "unknown field 'anonymous'"),
    ],
)
def test_a_statement_that_is_none(stated: Package, field: str, value: object, problem: str) -> None:
    told = stated.card.to_dict()
    told["privacy"][field] = value
    with pytest.raises(VerificationError) as caught:
        Card.from_dict(told)
    assert problem in str(caught.value)


def test_a_statement_is_an_object(stated: Package) -> None:
    with pytest.raises(VerificationError, match="privacy: expected an object"):
        Card.from_dict(stated.card.to_dict() | {"privacy": None})


def test_what_no_epsilon_covers_contradicts_it(stated: Package, make: Make) -> None:
    plain = make().card
    for changes, problem in (
        ({"cohort": plain.cohort}, "cohort.counts"),
        ({"recipe": replace(plain.recipe, start="prototypes")}, "recipe.start"),
        ({"results": plain.results}, "rows of networks trained on real images"),
    ):
        with pytest.raises(VerificationError, match=problem):
            Card.from_dict(replace(stated.card, **changes).to_dict())
