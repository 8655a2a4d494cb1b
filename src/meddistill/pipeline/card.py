"""The card of a package: what a receiver is told, from the plan, the cohort and the scores."""

from dataclasses import replace

from meddistill import __version__
from meddistill.cohort.types import SPLITS, Cohort, Leak
from meddistill.distill.methods import find
from meddistill.package.limits import MAX_TEXT
from meddistill.package.text import problem
from meddistill.package.types import (
    Card,
    CohortCounts,
    Images,
    Privacy,
    Recipe,
    Score,
    Sizes,
    Software,
    Task,
    Terms,
)
from meddistill.package.types import Normalisation as CardNormalisation
from meddistill.package.types import Results as CardResults
from meddistill.pipeline.evaluate import Judged, Results
from meddistill.pipeline.plan import Plan
from meddistill.runtime.errors import InputError
from meddistill.teachers.images import Normalisation
from meddistill.train.metrics import CARD_METRICS
from meddistill.train.protocol import PROTOCOL_VERSION

_INTENDED_USE = "research: training image classifiers for the task named on this card"
_LIMITS = "not for clinical use; no privacy guarantee has been measured or proved for this file"
_PROVED = "not for clinical use; nothing is proved about patients but the differential privacy that this card states"
_AUDITED = "{0} canaries were offered to this run, each by a coin: made to be audited, not to be shared or used; "
TERMS = (_INTENDED_USE, _LIMITS, _PROVED, _AUDITED)  # what a card says of its use where nobody says more
# What a recipe has fields of its own for; the rest of the plan is told under its names.
_RECIPE_FIELDS = ("method", "seed", "start", "network")


def make_card(
    plan: Plan, leak: Leak, cohort: Cohort, normalisation: Normalisation, judged: Judged, results: Results
) -> Card:
    """The card; it holds no file name, no patient id, no date."""
    return Card(
        software=Software(name="meddistill", version=__version__),
        task=Task(classes=cohort.classes, labels="hard" if find(plan.method).labels == "hard" else "soft"),
        images=Images(
            count=plan.count(len(cohort.classes)),
            per_class=0 if plan.total_images else plan.images_per_class * plan.formed**2,
            size=cohort.size,
            channels=cohort.channels,
            stored=plan.stored_size if plan.stored_size < cohort.size else None,
        ),
        normalisation=CardNormalisation(mean=normalisation.mean, std=normalisation.std),
        recipe=_recipe(plan, len(cohort.classes), leak),
        cohort=CohortCounts(counts={split: cohort.counts(split) for split in SPLITS}),
        contains_real_images=plan.start == "real",
        results=card_results(judged, results) if judged.seeds else None,
        bytes=Sizes(cohort_train=training_bytes(cohort)),
        terms=make_terms(),
    )


def make_terms(licence: str = "", terms_of_use: str = "") -> Terms:
    """What the sender allows, beside what holds for every package. Raises :class:`InputError` for unfit texts."""
    for option, said in (("--licence", licence), ("--terms", terms_of_use)):
        if found := problem(said, MAX_TEXT, blank=True, urls=True):
            raise InputError(f"{option}: {found}")
    return Terms(licence=licence, terms_of_use=terms_of_use, intended_use=_INTENDED_USE, limits=_LIMITS)


def training_bytes(cohort: Cohort) -> int:
    """Bytes of the training split at working size."""
    return cohort.image_bytes * len(cohort.indices("train"))


def withholding_counts(card: Card) -> Card:
    """The card without how many images the cohort has, nor the size from which their number follows."""
    return replace(card, cohort=CohortCounts(counts="withheld"), bytes=Sizes(cohort_train=None))


def withholding_results(card: Card) -> Card:
    """The card without a score of any split."""
    return replace(card, results=None)


def proving(card: Card, statement: Privacy) -> Card:
    """The card of a run under differential privacy."""
    return replace(card, privacy=statement, terms=replace(card.terms, limits=_PROVED))


def announcing(card: Card, canaries: int) -> Card:
    """The card of a run that ``canaries`` were offered to; nothing on it tells how many were taken in, nor which."""
    recipe = replace(card.recipe, plan={**card.recipe.plan, "canaries": canaries})
    limits = _AUDITED.format(canaries) + card.terms.limits
    return replace(withholding_counts(card), recipe=recipe, terms=replace(card.terms, limits=limits))


def _recipe(plan: Plan, classes: int, leak: Leak) -> Recipe:
    told = {name: value for name, value in plan.flat(classes).items() if name not in _RECIPE_FIELDS}
    return Recipe(
        method=plan.method, seed=plan.seed, start=plan.start, network=plan.network, plan=told | {"leak": leak}
    )


def card_results(judged: Judged, results: Results) -> CardResults:
    """The scores as a card has them."""
    splits: dict[str, dict[str, dict[str, Score]]] = {
        split: {row: {name: Score(**vars(summaries[name])) for name in CARD_METRICS} for row, summaries in rows.items()}
        for split, rows in results.items()
    }
    return CardResults(protocol=PROTOCOL_VERSION, network=judged.network.name, seeds=len(judged.seeds), splits=splits)
