"""One run from a source of images to a package, resumable at every point."""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from meddistill import __version__
from meddistill.cohort.prepare import Prepared, prepare
from meddistill.cohort.read import ReadOptions
from meddistill.cohort.types import SPLITS, Cohort, Fit, Leak, SplitName
from meddistill.distill.formation import Formation
from meddistill.distill.labels import classes_of, first_logits, shared_logits
from meddistill.distill.loop import Matching, distill
from meddistill.distill.methods import find
from meddistill.distill.start import first_images
from meddistill.distill.unroll import Learned
from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet, parse
from meddistill.package.limits import MAX_INTENSITY, MAX_STEP_SIZE, MIN_STEP_SIZE, limits_problems
from meddistill.package.members import TENSORS
from meddistill.package.preview import grid
from meddistill.package.read import open_sound
from meddistill.package.text import class_problems
from meddistill.package.types import Package
from meddistill.package.write import round_trip, write
from meddistill.pipeline.canaries import Canaries, coins, design, load, plant, tossed
from meddistill.pipeline.card import (
    announcing,
    card_results,
    make_card,
    make_terms,
    proving,
    training_bytes,
    withholding_counts,
)
from meddistill.pipeline.dp import Protected, nobody, noisy_identity, protect, train_patients
from meddistill.pipeline.estimate import LEAST_ITERATIONS, Estimate, Shape, estimate, fit_to_time
from meddistill.pipeline.evaluate import Evaluated, Judged, evaluate_rows, evaluation_seeds, rows_of, with_own
from meddistill.pipeline.folder import RunFolder, identify, owned
from meddistill.pipeline.plan import Plan, checked, override, protected, read_plan
from meddistill.pipeline.snapshots import Show, snapshots
from meddistill.pipeline.teach import describe, learning_window, taught
from meddistill.pipeline.tell import tell
from meddistill.pipeline.trackers import require_tracker, tracked
from meddistill.privacy.statistics import fixed_normalisation
from meddistill.runtime.device import choose
from meddistill.runtime.enlarge import enlarge
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import remove_leftovers, require_writable, write_atomic
from meddistill.runtime.progress import Progress, Silent
from meddistill.runtime.watch import watched
from meddistill.teachers.images import LabelledImages, Normalisation, measure_normalisation, split_images
from meddistill.teachers.store import TrajectoryStore
from meddistill.train.protocol import protocol_for
from meddistill.train.received import received
from meddistill.train.recipe import has_recipe, rebuild, with_fingerprint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SCORED: tuple[SplitName, ...] = ("val", "test")


@dataclass(frozen=True)
class Request:
    """What a user asks of a run; ``None`` leaves a choice to the plan file or to the defaults."""

    source: Path
    out: Path
    plan: Path | None = None
    method: str | None = None
    images_per_class: int | None = None
    total_images: int | None = None
    size: int | None = None
    network: str | None = None
    start: str | None = None
    seed: int | None = None
    seconds: float | None = None
    iterations: int | None = None
    device: str = "auto"
    run: Path | None = None
    teachers: Path | None = None
    leak: Leak = "stop"
    skip_unreadable: bool = False
    full_row: bool | None = None
    fit: Fit | None = None
    seeds: int | None = None
    random_sets: int | None = None
    licence: str = ""
    terms: str = ""
    track: str = ""
    track_images: bool = False
    withhold_counts: bool = False
    options: ReadOptions = ReadOptions()
    epsilon: float | None = None
    delta: float | None = None
    dp_route: str | None = None
    canaries: int = 0
    untold: frozenset[str] = frozenset()  # codes of problems that the caller knows of: they are not shown


@dataclass(frozen=True)
class Report:
    """What a run left: files, sizes and scores. ``canaries``: the secret file of planted records, if there are any."""

    package: Path
    preview: Path
    run: Path
    canaries: Path | None
    bytes: int
    classes: int
    cohort_bytes: int
    random_bytes: int
    seconds: float
    making_seconds: float
    evaluated: Evaluated
    plan: Plan

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        results = {
            split: {row: {name: score.as_dict() for name, score in scores.items()} for row, scores in rows.items()}
            for split, rows in self.evaluated.results.items()
        }
        return {
            "package": str(self.package),
            "bytes": self.bytes,
            "bytes_per_class": self.bytes / self.classes,
            "factor": self.cohort_bytes / self.bytes,
            "preview": str(self.preview),
            "run": str(self.run),
            "canaries": None if self.canaries is None else str(self.canaries),
            "seconds": round(self.seconds, 1),
            "making_seconds": round(self.making_seconds, 1),
            "results": results,
            "plan": self.plan.as_dict(),
        }

    def _repr_html_(self) -> str:
        from meddistill.report.notebook import scores

        return scores(self.as_dict()["results"].get("test", {}))

    def plot(self) -> "Figure":
        """The rows on the test split with their intervals, as a matplotlib figure; needs the extra ``plot``."""
        from meddistill.train.plots import scores

        return scores(self.evaluated.results.get("test", {}))


@dataclass
class _Budget:
    """When matching must stop so that the evaluation still ends in time, on a machine as slow as teaching showed."""

    ends: float
    planned: Estimate
    matched: int = 0
    is_up: bool = False

    def leave_time_to_evaluate(self, taught_seconds: float) -> None:
        slowness = max(1.0, taught_seconds / max(self.planned.stages["teaching"], 1e-3))
        self.ends -= slowness * self.planned.stages["evaluating"]

    def is_spent(self, matched: int) -> bool:
        """Whether to stop after ``matched`` iterations."""
        self.matched = matched
        self.is_up = matched >= LEAST_ITERATIONS and time.monotonic() >= self.ends
        return self.is_up


@dataclass(frozen=True)
class _Data:
    """The cohort on the device, split by split."""

    cohort: Cohort
    normalisation: Normalisation
    splits: Mapping[SplitName, LabelledImages]


def run(request: Request, progress: Progress = Silent(), prepared: Prepared | None = None) -> Report:
    """Distil ``request.source`` into ``request.out``. The same request continues a run that was interrupted.

    ``prepared``: the source, where the caller has read it already, as the request asks and with what it has told.
    """
    begun = time.monotonic()
    device = choose(request.device)
    base = _base_plan(request)
    _require_own_places(request)
    make_terms(request.licence, request.terms)  # unfit texts are refused now, not after hours of work
    require_tracker(request.track, request.track_images)
    require_writable(request.out)
    if prepared is None:
        prepared = _prepare(request, base, progress)
        tell(prepared, progress, request.untold)
    cohort = prepared.cohort
    _require_packable(cohort, base)
    base = _sized(request, base, cohort)
    preview = request.out.with_suffix(".png")
    place = request.run or request.out.with_suffix(".run")
    with owned(place) as folder, contextlib.ExitStack() as opened:
        for written in (request.out, preview):
            remove_leftovers(written.parent, of=written.name)
        planted = None
        if request.canaries:
            prepared, planted = _plant(request, base, prepared, folder)
            cohort = prepared.cohort
        plan, budget = _settle_plan(request, base, cohort, device, folder, begun, progress)
        # Not before: a request that does not belong to this folder leaves no trace in it.
        watch = opened.enter_context(watched(place, progress))
        tracker = opened.enter_context(tracked(request.track, place, request.track_images, watch.warn))
        if tracker is not None:
            folder = replace(folder, listener=tracker.event)  # noqa: PLW2901
        show = tracker.images if tracker is not None and tracker.wants_images else None
        data, proved = _load(plan, cohort, device), None
        if plan.privacy.epsilon:
            data, proved = _protect(request, plan, prepared, data, folder, watch)
        learned = _distil(request, plan, data, proved, folder, budget, watch, show)
        if budget is not None and budget.is_up:
            plan = replace(plan, matching=replace(plan.matching, iterations=budget.matched))
            folder.amend(plan)
            watch.note(f"the time is up: stopped after {budget.matched} iterations")
        making_seconds = time.monotonic() - begun
        package, evaluated = _evaluate(request, plan, data, proved, learned, folder, watch)
        size = write(request.out, package)
        if planted is not None:
            replace(planted, package=open_sound(request.out)[1][TENSORS]).save(folder.canaries)
        write_atomic(preview, grid(package.images, package.labels, cohort.classes))
        folder.events.write("written", bytes=size)
    return Report(
        package=request.out,
        preview=preview,
        run=folder.path,
        canaries=folder.canaries if request.canaries else None,
        bytes=size,
        classes=len(cohort.classes),
        cohort_bytes=training_bytes(cohort),
        random_bytes=cohort.image_bytes * plan.asked(len(cohort.classes)),
        seconds=time.monotonic() - begun,
        making_seconds=making_seconds,
        evaluated=evaluated,
        plan=plan,
    )


def _plant(request: Request, plan: Plan, prepared: Prepared, folder: RunFolder) -> tuple[Prepared, Canaries]:
    """The source with canaries, by the coins that the folder keeps, or by new ones where no run has begun there."""
    chosen = design(prepared, request.canaries, plan.seed, _least_of_a_class(plan))
    kept = load(folder.canaries).included if folder.canaries.exists() else ()
    if len(kept) == request.canaries:
        planted = tossed(chosen, np.asarray(kept))
    else:
        planted = tossed(chosen, coins(request.canaries))
        if not folder.identity_file.exists():  # another run's folder: it is refused by its identity, without a trace
            planted.save(folder.canaries)
    return plant(prepared, chosen, planted.included), planted


def _least_of_a_class(plan: Plan) -> int:
    """How many training images of each class a run asks for."""
    return 1 if plan.total_images else plan.images_per_class


def _require_own_places(request: Request) -> None:
    """The preview and the run folder stand beside the package under its name and must not take its place."""
    if request.out.suffix in (".png", ".run"):
        raise InputError(
            f"the package cannot be named {request.out.name}: the preview picture and the run folder get its name with "
            ".png and .run; give the package the ending .mdz"
        )


def shape_of(cohort: Cohort) -> Shape:
    """What of a cohort determines a plan's cost."""
    scored = sum(len(cohort.indices(split)) for split in _SCORED)
    return Shape(cohort.channels, len(cohort.classes), len(cohort.indices("train")), scored)


def _base_plan(request: Request) -> Plan:
    """The plan before the images are seen: the file's or the default, with the request's own choices."""
    if request.plan is not None and request.seconds is not None:
        raise InputError("a plan and a time were given: a plan says how much is done; give one of --plan and --time")
    if request.total_images is not None and request.images_per_class is not None:
        raise InputError(
            "images in all and images per class were given: give one of --total-images and --images-per-class"
        )
    plan = read_plan(request.plan) if request.plan is not None else Plan()
    plan = _with_privacy(request, plan)
    plan = override(
        plan,
        method=request.method,
        images_per_class=request.images_per_class,
        total_images=request.total_images,
        size=request.size,
        fit=request.fit,
        start=request.start,
        seed=request.seed,
    )
    evaluation = plan.evaluation
    if request.seeds is not None:
        evaluation = replace(evaluation, seeds=request.seeds)
    if request.random_sets is not None:
        evaluation = replace(evaluation, random_sets=request.random_sets)
    if request.full_row is not None:
        evaluation = replace(evaluation, full_data=request.full_row)
    matching = plan.matching
    if request.iterations is not None:
        matching = replace(matching, iterations=request.iterations)
    # A network is checked against the size, which may still be open.
    network = None if _leaves_size_open(request) else request.network
    return override(plan, network=network, matching=matching, evaluation=evaluation)


def _with_privacy(request: Request, plan: Plan) -> Plan:
    """The plan with epsilon, delta and route as asked for. Raises :class:`InputError` for what no accountant covers."""
    given = any(value is not None for value in (request.epsilon, request.delta, request.dp_route))
    if given and not (request.epsilon or plan.privacy.epsilon):
        raise InputError("--delta and --dp-route need an --epsilon above 0, such as --epsilon 2")
    part = plan.privacy
    part = part if request.epsilon is None else replace(part, epsilon=request.epsilon)
    part = part if request.delta is None else replace(part, delta=request.delta)
    part = part if request.dp_route is None else replace(part, route=request.dp_route)
    plan = replace(plan, privacy=part)
    if plan.privacy.epsilon and request.seconds is not None:
        raise InputError(
            "--time and an epsilon were given: how far a run comes in a time may tell of patients; leave --time out"
        )
    if plan.privacy.epsilon and request.leak == "allow":
        raise InputError(
            "--allow-leak and an epsilon were given: scores would tell of patients who are in the training split, "
            "too; use --drop-leak or --resplit"
        )
    teachers = 1 if request.plan is None else plan.teachers.count
    return protected(plan, teachers) if given else plan


def _leaves_size_open(request: Request) -> bool:
    return request.size is None and request.plan is None


def _sized(request: Request, plan: Plan, cohort: Cohort) -> Plan:
    """The plan with the size that the images proposed, and the network depth that goes with it unless one was named."""
    if not _leaves_size_open(request):
        return plan
    return override(plan, size=cohort.size, network=request.network)


def _prepare(request: Request, plan: Plan, progress: Progress) -> Prepared:
    return prepare(
        request.source,
        size=None if _leaves_size_open(request) else plan.size,
        fit=plan.fit,
        options=request.options,
        leak=request.leak,
        images_per_class=_least_of_a_class(plan),
        seed=plan.seed,
        skip_unreadable=request.skip_unreadable,
        progress=progress,
    )


def _require_packable(cohort: Cohort, plan: Plan) -> None:
    """What a package refuses (class names like a path, a date or an id; too many pixels): say so before hours."""
    count, classes = plan.count(len(cohort.classes)), len(cohort.classes)
    problems = class_problems(cohort.classes) + limits_problems(count, cohort.channels, cohort.size, classes)
    if count < classes and find(plan.method).labels == "hard":
        problems.append(
            f"{count} images for {classes} classes: the method {plan.method} has hard labels and needs one image of "
            "every class at least; ask for more, or choose a method that learns soft labels"
        )
    if problems:
        raise InputError("this cannot stand in a package:\n" + "\n".join(f"- {text}" for text in problems))


def _settle_plan(
    request: Request,
    base: Plan,
    cohort: Cohort,
    device: torch.device,
    folder: RunFolder,
    begun: float,
    progress: Progress,
) -> tuple[Plan, _Budget | None]:
    """The plan of the run that the folder holds, or a new one, fitted to the time if one was given.

    A run that is continued does all that its plan says, so that it ends with the bytes of an uninterrupted one.
    """
    asked = {"plan": base.as_dict(), "seconds": request.seconds, "device": device.type, "leak": request.leak}
    identity = identify(asked | {"version": __version__}, cohort)
    plan = folder.resume(identity)
    if plan is not None:
        folder.events.write("continued", version=__version__, torch=torch.__version__, device=device.type)
        progress.note(f"continuing the run in {folder.path}")
        return plan, None
    plan, budget = base, None
    if request.seconds is not None:
        with progress.stage("planning"):
            left = request.seconds - (time.monotonic() - begun)
            plan, costs = fit_to_time(base, left, shape_of(cohort), device)
        budget = _Budget(begun + request.seconds, estimate(plan, costs, shape_of(cohort)))
    plan = checked(plan)
    folder.begin(identity, plan)
    made_with = {"version": __version__, "torch": torch.__version__, "device": device.type}
    folder.events.write("begun", **made_with, classes=list(cohort.classes), plan=plan.as_dict())
    return plan, budget


def _load(plan: Plan, cohort: Cohort, device: torch.device) -> _Data:
    fixed = plan.privacy.epsilon > 0
    normalisation = fixed_normalisation(cohort.channels) if fixed else measure_normalisation(cohort)
    splits = {split: split_images(cohort, split, normalisation, device) for split in SPLITS}
    return _Data(cohort, normalisation, splits)


def _network(name: str, cohort: Cohort) -> ConvNet:
    return parse(name, channels=cohort.channels, size=cohort.size, classes=len(cohort.classes))


def _protect(
    request: Request, plan: Plan, prepared: Prepared, data: _Data, folder: RunFolder, progress: Progress
) -> tuple[_Data, Protected]:
    """Look at the patients under noise; from here on there are no training images."""
    train = data.splits["train"]
    patients, unit = train_patients(prepared, train)
    network, place = _network(plan.network, data.cohort), request.teachers or folder.teachers
    identity = identify(noisy_identity(plan) | {"network": plan.network, "seed": plan.seed}, data.cohort)
    proved = protect(plan, network, patients, unit, folder, place, identity, progress)
    return replace(data, splits={**data.splits, "train": nobody(train)}), proved


def _distil(
    request: Request,
    plan: Plan,
    data: _Data,
    proved: Protected | None,
    folder: RunFolder,
    budget: _Budget | None,
    progress: Progress,
    show: Show | None,
) -> Learned:
    """Teach where the method needs teachers, then distil."""
    network, train = _network(plan.network, data.cohort), data.splits["train"]
    matching, window, method = Matching(network, None, 0, train), (0, 0), find(plan.method)
    if proved is not None:
        matching, window, method = proved.matching, proved.window, proved.method
    elif plan.teachers.count:
        store, window = _teach(request, plan, data, folder, budget, progress)
        matching = replace(matching, store=store, teachers=plan.teachers.count)
    elif budget is not None:
        budget.leave_time_to_evaluate(0.0)
    return distill(
        _first(plan, train),
        matching,
        plan.loop_plan(window, method),
        plan.seed,
        is_enough=None if budget is None else budget.is_spent,
        checkpoint=folder.checkpoint,
        events=folder.events,
        progress=progress,
        look=snapshots(
            folder.snapshots,
            data.normalisation,
            data.cohort.classes,
            plan.matching.warm_up + plan.matching.iterations,
            folder.events,
            show,
        ),
    )


def _teach(
    request: Request,
    plan: Plan,
    data: _Data,
    folder: RunFolder,
    budget: _Budget | None,
    progress: Progress,
) -> tuple[TrajectoryStore, tuple[int, int]]:
    """The teachers' trajectories, and between which points segments start."""
    place, splits = request.teachers or folder.teachers, data.splits
    teachers = taught(plan, data.cohort, splits["train"], splits["val"], place, events=folder.events, progress=progress)
    if budget is not None:
        budget.leave_time_to_evaluate(teachers.seconds)
    progress.note(describe(teachers.curve))
    earliest, latest = plan.window(learning_window(teachers.curve))
    folder.events.write("window", earliest_start=earliest, latest_start=latest)
    return teachers.store, (earliest, latest)


def _first(plan: Plan, train: LabelledImages) -> Learned:
    """The synthetic set before the first iteration."""
    count, classes = plan.count(train.classes), train.classes
    labels = classes_of(count, classes)
    images = first_images(plan.start, train, labels, Augmentation(), plan.seed)
    images = Formation(plan.stored_size, plan.size).shrunk(images)
    hard = first_logits(labels, classes, find(plan.method).labels)
    logits = shared_logits(count, classes) if count < classes else hard
    steps = torch.full((plan.step_sizes(classes),), plan.matching.step_size).log()
    return Learned(*(tensor.to(train.device) for tensor in (images, logits, steps)))


def _evaluate(
    request: Request,
    plan: Plan,
    data: _Data,
    proved: Protected | None,
    learned: Learned,
    folder: RunFolder,
    progress: Progress,
) -> tuple[Package, Evaluated]:
    """The package, and the scores of networks trained on what a receiver will read from it."""
    train = data.splits["train"]
    images = round_trip(_intensities(learned, data.normalisation))
    labels = learned.label_logits.softmax(1).cpu().numpy()
    network = _network(plan.network, data.cohort)
    judged = Judged(
        network=network,
        protocol=protocol_for(network),
        scored={split: data.splits[split] for split in _SCORED},
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
    card = withholding_counts(card) if request.withhold_counts or proved else card
    card = proving(card, proved.statement) if proved else card
    card = announcing(card, request.canaries) if request.canaries else card
    # At extreme rates a step size may end as 0 or infinity, which a package does not hold.
    steps = learned.log_steps.exp().clamp(MIN_STEP_SIZE, MAX_STEP_SIZE).cpu().numpy()
    package = Package(images=images, labels=labels, step_sizes=steps, card=card)
    return _with_own_recipe(package, judged, evaluated)


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
