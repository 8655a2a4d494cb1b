"""One run from a source of images to a package, resumable at every point."""

import contextlib
import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from meddistill import __version__
from meddistill.cohort.prepare import Prepared
from meddistill.cohort.public import Intensities
from meddistill.distill.formation import Formation
from meddistill.distill.labels import classes_of, first_logits, shared_logits
from meddistill.distill.loop import Matching, distill
from meddistill.distill.methods import find
from meddistill.distill.start import first_images
from meddistill.distill.unroll import Learned
from meddistill.package.members import TENSORS
from meddistill.package.preview import grid
from meddistill.package.read import open_sound
from meddistill.package.write import write
from meddistill.pipeline.canaries import Canaries, coins, design, load, plant, tossed
from meddistill.pipeline.card import (
    make_terms,
    training_bytes,
)
from meddistill.pipeline.dp import (
    Protected,
    nobody,
    noisy_identity,
    protect,
    require_small_delta,
    train_patients,
    unit_of,
    whose,
)
from meddistill.pipeline.estimate import LEAST_ITERATIONS, Estimate, estimate, fit_to_time, too_long
from meddistill.pipeline.evaluate import Evaluated
from meddistill.pipeline.folder import RunFolder, identify, owned
from meddistill.pipeline.pack import pack
from meddistill.pipeline.plan import Plan, checked
from meddistill.pipeline.public import require_public, start_images
from meddistill.pipeline.request import (
    Request,
    base_plan,
    least_of_a_class,
    read_source,
    require_own_places,
    require_packable,
    sized,
)
from meddistill.pipeline.sides import mirrored_sides
from meddistill.pipeline.snapshots import Show, snapshots
from meddistill.pipeline.splits import SplitImages, load_splits, network_of, shape_of
from meddistill.pipeline.teach import describe, learning_window, taught
from meddistill.pipeline.tell import tell
from meddistill.pipeline.trackers import require_tracker, tracked
from meddistill.runtime.device import choose
from meddistill.runtime.files import remove_leftovers, require_writable, write_atomic
from meddistill.runtime.progress import Progress, Silent
from meddistill.runtime.watch import watched
from meddistill.teachers.store import TrajectoryStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


def run(request: Request, progress: Progress = Silent(), prepared: Prepared | None = None) -> Report:
    """Distil ``request.source`` into ``request.out``. The same request continues a run that was interrupted.

    ``prepared``: the source, where the caller has read it already, as the request asks and with what it has told.
    """
    begun = time.monotonic()
    device = choose(request.device)
    base = base_plan(request)
    require_own_places(request)
    make_terms(request.licence, request.terms)  # unfit texts are refused now, not after hours of work
    require_tracker(request.track, request.track_images)
    require_writable(request.out)
    if prepared is None:
        prepared = read_source(request, base, progress)
        tell(prepared, progress, request.untold)
    cohort = prepared.cohort
    require_packable(cohort, base)
    base = sized(request, base, cohort)
    require_small_delta(base, prepared)
    for found in mirrored_sides(base, cohort.classes):
        progress.warn(found.message)
    public = None
    if request.start_images is not None:  # beside the whole cohort: canaries would leave patients out of it
        require_public(request.start_images, base)
        public = start_images(request.start_images, prepared, base.fit, request.options, progress)
    preview, place = request.preview, request.place
    with owned(place) as folder, contextlib.ExitStack() as opened:
        for written in (request.out, preview):
            remove_leftovers(written.parent, of=written.name)
        planted = None
        if request.canaries:
            prepared, planted = _plant(request, base, prepared, folder)
            cohort = prepared.cohort
        plan, budget = _settle_plan(request, base, prepared, public, device, folder, begun, progress)
        # Not before: a request that does not belong to this folder leaves no trace in it.
        watch = opened.enter_context(watched(place, progress))
        tracker = opened.enter_context(tracked(request.track, place, request.track_images, watch.warn))
        if tracker is not None:
            folder = replace(folder, listener=tracker.event)  # noqa: PLW2901
        show = tracker.images if tracker is not None and tracker.wants_images else None
        data, proved = load_splits(plan, cohort, device), None
        if plan.privacy.epsilon:
            data, proved = _protect(request, plan, prepared, data, folder, watch)
        first = _first(plan, data, public)
        learned = _distil(request, plan, first, data, proved, folder, budget, watch, show)
        if budget is not None and budget.is_up and budget.matched < plan.matching.iterations:
            done, planned = budget.matched, plan.matching.iterations
            watch.note(f"the time is up: matching stopped after {done} of {planned} iterations")
            plan = replace(plan, matching=replace(plan.matching, iterations=done))
            folder.amend(plan)
        making_seconds = time.monotonic() - begun
        package, evaluated = pack(request, plan, data, proved, learned, folder, watch)
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
    chosen = design(prepared, request.canaries, plan.seed, least_of_a_class(plan))
    kept = load(folder.canaries).included if folder.canaries.exists() else ()
    if len(kept) == request.canaries:
        planted = tossed(chosen, np.asarray(kept))
    else:
        planted = tossed(chosen, coins(request.canaries))
        if not folder.identity_file.exists():  # another run's folder: it is refused by its identity, without a trace
            planted.save(folder.canaries)
    return plant(prepared, chosen, planted.included), planted


def _settle_plan(
    request: Request,
    base: Plan,
    prepared: Prepared,
    public: Intensities | None,
    device: torch.device,
    folder: RunFolder,
    begun: float,
    progress: Progress,
) -> tuple[Plan, _Budget | None]:
    """The plan of the run that the folder holds, or a new one, fitted to the time if one was given.

    A run that is continued does all that its plan says, so that it ends with the bytes of an uninterrupted one.
    """
    cohort = prepared.cohort
    asked = {"plan": base.identity(), "seconds": request.seconds, "device": device.type, "leak": request.leak}
    if base.privacy.epsilon:
        asked |= whose(prepared)
    if public is not None:
        asked["start_images"] = hashlib.sha256(public.data).hexdigest()
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
            plan, costs = fit_to_time(base, left, shape_of(cohort), device, named=request.network is not None)
        expected = estimate(plan, costs, shape_of(cohort))
        if late := too_long(expected, left):
            progress.warn(late)
        budget = _Budget(begun + request.seconds, expected)
    plan = checked(plan)
    folder.begin(identity, plan)
    made_with = {"version": __version__, "torch": torch.__version__, "device": device.type}
    folder.events.write("begun", **made_with, classes=list(cohort.classes), plan=plan.in_force(len(cohort.classes)))
    return plan, budget


def _protect(
    request: Request, plan: Plan, prepared: Prepared, data: SplitImages, folder: RunFolder, progress: Progress
) -> tuple[SplitImages, Protected]:
    """Look at the patients under noise; from here on there are no training images."""
    train = data.splits["train"]
    patients, unit = train_patients(prepared, train), unit_of(prepared)
    network, place = network_of(plan.network, data.cohort), request.teachers or folder.teachers
    asked = noisy_identity(plan) | {"network": plan.network, "seed": plan.seed} | whose(prepared)
    identity = identify(asked, data.cohort)
    proved = protect(plan, network, patients, unit, folder, place, identity, progress)
    return replace(data, splits={**data.splits, "train": nobody(train)}), proved


def _distil(
    request: Request,
    plan: Plan,
    first: Learned,
    data: SplitImages,
    proved: Protected | None,
    folder: RunFolder,
    budget: _Budget | None,
    progress: Progress,
    show: Show | None,
) -> Learned:
    """Teach where the method needs teachers, then distil."""
    network, train = network_of(plan.network, data.cohort), data.splits["train"]
    matching, window, method = Matching(network, None, 0, train), (0, 0), find(plan.method)
    if proved is not None:
        matching, window, method = proved.matching, proved.window, proved.method
    elif plan.teachers.count:
        store, window = _teach(request, plan, data, folder, budget, progress)
        matching = replace(matching, store=store, teachers=plan.teachers.count, smoothing=plan.smoothed)
    elif budget is not None:
        budget.leave_time_to_evaluate(0.0)
    return distill(
        first,
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
    data: SplitImages,
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


def _first(plan: Plan, data: SplitImages, public: Intensities | None) -> Learned:
    """The synthetic set before the first iteration."""
    train = data.splits["train"]
    count, classes = plan.count(train.classes), train.classes
    labels = classes_of(count, classes)
    given = None if public is None else data.normalisation.apply(torch.from_numpy(public))
    images = first_images(plan.start, train, labels, plan.augmentation, plan.seed, given)
    images = Formation(plan.stored_size, plan.size).shrunk(images)
    hard = first_logits(labels, classes, find(plan.method).labels)
    logits = shared_logits(count, classes) if count < classes else hard
    steps = torch.full((plan.step_sizes(classes),), plan.matching.step_size).log()
    return Learned(*(tensor.to(train.device) for tensor in (images, logits, steps)))
