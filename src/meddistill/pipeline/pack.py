"""The end of a run: the package as a receiver will read it, and scores of networks that are trained on just that."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from meddistill.distill.unroll import Learned
from meddistill.package.limits import MAX_INTENSITY, MAX_STEP_SIZE, MIN_STEP_SIZE
from meddistill.package.types import Package
from meddistill.package.write import round_trip
from meddistill.pipeline.card import (
    announcing,
    card_results,
    make_card,
    make_terms,
    proving,
    withholding_counts,
    withholding_results,
)
from meddistill.pipeline.dp import Protected
from meddistill.pipeline.evaluate import Evaluated, Judged, evaluate_rows, evaluation_seeds, rows_of, with_own
from meddistill.pipeline.folder import RunFolder
from meddistill.pipeline.plan import Plan
from meddistill.pipeline.request import Request
from meddistill.pipeline.splits import SCORED, SplitImages, network_of, told_coarsely
from meddistill.runtime.enlarge import enlarge
from meddistill.runtime.progress import Progress
from meddistill.teachers.images import Normalisation
from meddistill.train.protocol import protocol_for
from meddistill.train.received import received
from meddistill.train.recipe import has_recipe, rebuild, with_fingerprint


def pack(
    request: Request,
    plan: Plan,
    data: SplitImages,
    proved: Protected | None,
    learned: Learned,
    folder: RunFolder,
    progress: Progress,
) -> tuple[Package, Evaluated]:
    """The package, and the scores of networks trained on what a receiver will read from it."""
    images = round_trip(_intensities(learned, data.normalisation))
    withheld = request.withhold_counts or proved is not None or request.canaries > 0
    data = told_coarsely(data) if withheld else data  # from here on everything is as a receiver has it
    train = data.splits["train"]
    labels = learned.label_logits.softmax(1).cpu().numpy()
    network = network_of(plan.network, data.cohort)
    judged = Judged(
        network=network,
        protocol=protocol_for(network, flip=plan.flip),
        scored={split: data.splits[split] for split in SCORED},
        seeds=evaluation_seeds(plan.seed, plan.evaluation.seeds),
    )
    each, more = divmod(plan.asked(train.classes), train.classes)
    rows = rows_of(
        received(enlarge(images, plan.size), labels, data.normalisation, train.device),
        train,
        each,
        more=more,
        random_sets=plan.evaluation.random_sets,
        full_row=plan.evaluation.full_data,
    )
    evaluated = Evaluated({}, {})
    if judged.seeds:
        evaluated = evaluate_rows(rows, judged, saved=folder.scores, events=folder.events, progress=progress)
    card = make_card(plan, request.leak, data.cohort, data.normalisation, judged, evaluated.results)
    card = replace(card, terms=make_terms(request.licence, request.terms))
    card = withholding_counts(card) if withheld else card
    card = proving(card, proved.statement) if proved else card
    card = announcing(card, request.canaries) if request.canaries else card
    # At extreme rates a step size may end as 0 or infinity, which a package does not hold.
    steps = learned.log_steps.exp().clamp(MIN_STEP_SIZE, MAX_STEP_SIZE).cpu().numpy()
    package = Package(images=images, labels=labels, step_sizes=steps, card=card)
    package, evaluated = _with_own_recipe(package, judged, evaluated)
    if request.withhold_results:  # who made it is told them, and has them in the run folder
        package = replace(package, card=withholding_results(package.card))
    return package, evaluated


def _with_own_recipe(package: Package, judged: Judged, evaluated: Evaluated) -> tuple[Package, Evaluated]:
    """A package that has a recipe of its own is trained by it, too: scores and fingerprint go on the card."""
    if not has_recipe(package.card):
        return package, evaluated
    params = rebuild(package)
    device = next(iter(judged.scored.values())).device
    card = with_fingerprint(package.card, params)
    if judged.seeds:
        evaluated = with_own(evaluated, judged, tuple(param.to(device) for param in params))
        card = replace(card, results=card_results(judged, evaluated.results))
    return replace(package, card=card), evaluated


def _intensities(learned: Learned, normalisation: Normalisation) -> npt.NDArray[np.float32]:
    """What the package stores: 0 black to 1 white, within what its format holds."""
    values = normalisation.undo(learned.images).cpu().numpy()
    return np.asarray(np.clip(values, -MAX_INTENSITY, MAX_INTENSITY), dtype=np.float32)
