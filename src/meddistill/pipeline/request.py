"""What a user asks of a run, the plan that follows from it, and what is refused before hours of work.

Told in the order of a run: the plan before any image is seen, the images, the size that they propose.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from meddistill.cohort.prepare import Prepared, prepare
from meddistill.cohort.read import ReadOptions, places
from meddistill.cohort.types import Cohort, Fit, Leak
from meddistill.distill.methods import find
from meddistill.package.limits import limits_problems
from meddistill.package.text import class_problems
from meddistill.package.write import require_ending
from meddistill.pipeline.folder import RunFolder
from meddistill.pipeline.plan import Plan, override, protected
from meddistill.pipeline.plan_file import read_plan
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import is_there, require_another
from meddistill.runtime.progress import Progress


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
    start_images: Path | None = None
    seed: int | None = None
    seconds: float | None = None
    iterations: int | None = None
    device: str = "auto"
    run: Path | None = None
    teachers: Path | None = None
    leak: Leak = "stop"
    full_row: bool | None = None
    fit: Fit | None = None
    flip: bool | None = None
    seeds: int | None = None
    random_sets: int | None = None
    licence: str = ""
    terms: str = ""
    track: str = ""
    track_images: bool = False
    withhold_counts: bool = False
    withhold_results: bool = False
    fixed_normalisation: bool | None = None
    options: ReadOptions = ReadOptions()
    epsilon: float | None = None
    delta: float | None = None
    dp_route: str | None = None
    canaries: int = 0
    untold: frozenset[str] = frozenset()  # codes of problems that the caller knows of: they are not shown

    @property
    def preview(self) -> Path:
        """The picture of the synthetic images, beside the package."""
        return self.out.parent / f"{self.out.stem}.png"

    @property
    def place(self) -> Path:
        """The run folder."""
        return self.run or self.out.parent / f"{self.out.stem}.run"


def base_plan(request: Request) -> Plan:
    """The plan before the images are seen: the file's or the default, with the request's own choices."""
    if request.plan is not None and request.seconds is not None:
        raise InputError("a plan and a time were given: a plan says how much is done; give one of --plan and --time")
    if request.total_images is not None and request.images_per_class is not None:
        raise InputError(
            "images in all and images per class were given: give one of --total-images and --images-per-class"
        )
    if request.start_images is not None and request.start not in (None, "public"):
        raise InputError(f"start images were given, and --start {request.start}: give one of the two")
    plan = read_plan(request.plan) if request.plan is not None else Plan()
    plan = _with_privacy(request, plan)
    plan = override(
        plan,
        method=request.method,
        images_per_class=request.images_per_class,
        total_images=request.total_images,
        size=request.size,
        fit=request.fit,
        flip=request.flip,
        fixed_normalisation=request.fixed_normalisation,
        start=request.start if request.start_images is None else "public",
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
    if plan.start == "public" and request.start_images is None:
        raise InputError("the start is public, and no images to start from were given: add --start-images SOURCE")
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


def sized(request: Request, plan: Plan, cohort: Cohort) -> Plan:
    """The plan with the size that the images proposed, and the network depth that goes with it unless one was named."""
    if not _leaves_size_open(request):
        return plan
    return override(plan, size=cohort.size, network=request.network)


def least_of_a_class(plan: Plan) -> int:
    """How many training images of each class a run asks for."""
    return 1 if plan.total_images else plan.images_per_class


def read_source(request: Request, plan: Plan, progress: Progress) -> Prepared:
    """The source's images, as the request reads them and at the plan's size, where that is not left open."""
    return prepare(
        request.source,
        size=None if _leaves_size_open(request) else plan.size,
        fit=plan.fit,
        options=request.options,
        leak=request.leak,
        images_per_class=least_of_a_class(plan),
        seed=plan.seed,
        progress=progress,
    )


def require_own_places(request: Request) -> None:
    """What is written must not take the place of what is read, nor of each other. Raises :class:`InputError`.

    The preview and the run folder stand beside the package under its name, with endings of their own.
    """
    require_ending(request.out)
    read = (*places(request.source, request.options), request.plan, request.start_images)
    folders = (request.place, request.teachers)
    require_another(request.out, (*read, *folders))
    require_another(request.preview, folders, "the preview")
    folder = RunFolder(request.place)
    if not is_there(folder.identity_file):  # else the plan is there already
        require_another(folder.plan_file, [request.plan], "--run: the plan")
    if not (is_there(request.out) or is_there(request.place)):  # else a picture of its name is the old preview
        require_another(request.preview, read, "the preview")


def require_packable(cohort: Cohort, plan: Plan) -> None:
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
