"""Compress a trained model: choose a route, judge every attempt on validation data, measure the last one once."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from meddistill import __version__
from meddistill.cohort.read import ReadOptions, places
from meddistill.compress import file
from meddistill.compress.card import WARNINGS, ModelCard, Saw
from meddistill.compress.essential import Effort, Essential, essential
from meddistill.compress.limits import MAX_WEIGHTS
from meddistill.compress.load import load_model
from meddistill.compress.measure import Cost, Difference, compare, cost
from meddistill.compress.recreate import Answers, answers, recreate
from meddistill.compress.retrain import Course
from meddistill.package.types import Software
from meddistill.pipeline.material import Material, material
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import require_another, require_writable
from meddistill.runtime.progress import Progress, Silent
from meddistill.teachers.images import LabelledImages
from meddistill.train.model import Model, describe, params_digest
from meddistill.train.protocol import probabilities

Route = Literal["essential", "small", "recreate"]
DEFAULT_DROP = 1.0  # points of balanced accuracy
_FIRST, _STEP = 25.0, 2.0  # the factor of the first attempt, and how much smaller the next one is
_MOST = 8  # attempts


@dataclass(frozen=True)
class Attempt:
    """A size that was tried: bytes of the weights, network, and balanced accuracy on validation data."""

    bytes: int
    network: str
    balanced_accuracy: float


@dataclass(frozen=True)
class CompressReport:
    """What compressing gave.

    ``stages``: bytes of the weights after each. ``judged_on``: what ``attempts`` were chosen by; ``judged``: the
    original's balanced accuracy there. ``scores``: on test images, None without any.
    """

    out: Path
    route: Route
    saw: Saw
    network: str
    bytes_before: int
    bytes_after: int
    stages: Sequence[tuple[str, int]]
    judged_on: str
    judged: float
    attempts: Sequence[Attempt]
    test_images: int | None
    scores: dict[str, Difference] | None
    cost_before: Cost
    cost_after: Cost
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        told = ("route", "saw", "network", "bytes_before", "bytes_after", "judged_on", "judged", "test_images")
        document: dict[str, Any] = {"model": str(self.out)} | {name: getattr(self, name) for name in told}
        return document | {
            "warning": WARNINGS[self.saw],
            "factor": self.bytes_before / self.bytes_after,
            "stages": [{"stage": name, "bytes": count} for name, count in self.stages],
            "attempts": [dict(vars(one)) for one in self.attempts],
            "scores": None if self.scores is None else {name: one.as_dict() for name, one in self.scores.items()},
            "cost_before": self.cost_before.as_dict(),
            "cost_after": self.cost_after.as_dict(),
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True)
class _Made:
    """A compressed model: what is written of it, and the model that a reader will have."""

    route: Route
    saw: Saw
    model: Model
    essential: Essential | None
    answers: Answers = ()
    attempts: tuple[Attempt, ...] = ()


def compress(
    model_file: Path,
    data: Path,
    out: Path,
    *,
    size: float | None = None,
    drop: float | None = None,
    route: Route | None = None,
    test: Path | None = None,
    seed: int = 0,
    effort: Effort = Effort(),
    options: ReadOptions = ReadOptions(),
    progress: Progress = Silent(),
) -> CompressReport:
    """Compress the model in ``model_file`` into ``out`` with the help of ``data``, a source or a package.

    ``size``: the file's share of the model's bytes, such as 0.01; else the smallest file is sought that loses at most
    ``drop`` points of balanced accuracy on validation data. ``route``: None is ``recreate`` where that works, else
    ``essential``. ``test``: with a package, a source to measure on; a source is measured on its own test split.

    Raises :class:`InputError` where no size loses as little as asked, and whatever reading may raise.
    """
    begun = time.monotonic()
    _require_sense(size, drop)
    require_another(out, (model_file, *places(data, options), *places(test, options)))
    model = load_model(model_file)
    _require_storable(model)
    require_writable(out)
    held = material(model, data, test, options, progress)
    before = model_file.stat().st_size
    made = _recreated(model, held, route, progress)
    if made is None:
        search = _Search(model, held, route or "essential", seed, effort, progress)
        made = search.smallest(before, drop) if size is None else search.at(int(before * size))
    if shouted := WARNINGS[made.saw]:
        progress.warn(shouted)
    after = file.write(out, _card(made, model), () if made.essential is None else made.essential.tensors)
    if size is not None and after > before * size:  # only a recipe, which is as small as it is
        progress.warn(f"the recipe takes {after} bytes, more than the {int(before * size)} that were asked for")
    return CompressReport(
        out=out,
        route=made.route,
        saw=made.saw,
        network=made.model.network.name,
        bytes_before=before,
        bytes_after=after,
        stages=() if made.essential is None else [(stage.name, stage.bytes) for stage in made.essential.stages],
        judged_on=held.judged_on,
        judged=held.judged_by(model),
        attempts=made.attempts,
        test_images=None if held.test is None else len(held.test),
        scores=None if held.test is None else _compared(model, made.model, held.test),
        cost_before=cost(model.network, model.params),
        cost_after=cost(made.model.network, made.model.params),
        seconds=time.monotonic() - begun,
    )


def _require_storable(model: Model) -> None:
    network = model.network
    if network.statistics:
        raise InputError(
            f"the model is a {network.name}: networks with batch norm are not compressed, their statistics would have "
            "to be measured anew. In Python, meddistill.api.compress_module does so for any PyTorch module"
        )
    if network.parameters > MAX_WEIGHTS:
        raise InputError(
            f"the model is a {network.name} of {network.parameters} weights: a compressed one has {MAX_WEIGHTS} at most"
        )


def _require_sense(size: float | None, drop: float | None) -> None:
    if size is not None and drop is not None:
        raise InputError("both a size and a drop were given: fix the one or the other")
    if size is not None and not 0 < size < 1:
        raise InputError(f"a size of {size:g} was asked for: expected a share of the model's bytes, such as 1/100")
    if drop is not None and not 0 <= drop < 100:
        raise InputError(f"a drop of {drop:g} was asked for: expected points of balanced accuracy, such as 0.5")


def _recreated(model: Model, held: Material, route: Route | None, progress: Progress) -> _Made | None:
    """The recipe, if it was asked for, or nothing was and it gives the same weights to the last bit."""
    if route not in (None, "recreate") or (route is None and (held.package is None or model.origin is None)):
        return None
    if held.package is None:
        raise InputError("a model is recreated from the package that it was trained from: give --data FILE.mdz")
    with progress.stage("recreating"):
        params = recreate(model, held.package)
    if all(torch.equal(a, b) for a, b in zip(params, model.params, strict=True)):
        return _Made("recreate", held.saw, model, None, answers(model, held.package))
    worst = max(float((a - b).abs().max()) for a, b in zip(params, model.params, strict=True))
    problem = (
        f"training again from the package does not give the same weights (largest difference {worst:.2g}): the model "
        "was trained from another package, or on another kind of machine"
    )
    if route == "recreate":
        raise InputError(f"{problem}. Take --route essential, or train the model again on this machine")
    progress.note(problem)
    return None


class _TooSmallError(InputError):
    """No file is as small as asked."""


@dataclass
class _Search:
    """Attempts at smaller and smaller files, each from the original."""

    model: Model
    held: Material
    route: Route
    seed: int
    effort: Effort
    progress: Progress

    def __post_init__(self) -> None:
        network, params = self.model.network, self.model.params
        held = self.held
        self._course = Course(
            held.data, lambda inputs: network.apply(params, inputs).softmax(1), self.seed, held.augmentation
        )
        self._attempts: list[Attempt] = []
        like = replace(self.model, origin=None)
        self._around = file.overhead(_card(_Made(self.route, self.held.saw, like, None), self.model))

    def at(self, target: int) -> _Made:
        """The model in a file of at most ``target`` bytes. Raises :class:`InputError` where the card alone has more."""
        if target <= self._around:
            raise _TooSmallError(
                f"{target} bytes were asked for, and the card alone takes {self._around}: ask for more"
            )
        made = essential(
            self.model.network,
            self.model.params,
            self._course,
            target - self._around,
            self.seed,
            fresh=self.route == "small",
            effort=self.effort,
            progress=self.progress,
        )
        if made.stages[-1].bytes > target - self._around:
            raise _TooSmallError(
                f"{target} bytes were asked for; levels and norms of {made.network.name} alone take "
                f"{made.stages[-1].bytes + self._around}: ask for more"
            )
        model = replace(self.model, network=made.network, params=made.params, origin=None)
        found = Attempt(made.stages[-1].bytes, made.network.name, self.held.judged_by(model))
        self._attempts.append(found)
        self.progress.note(
            f"{found.network}, {found.bytes} bytes of weights: balanced accuracy {100 * found.balanced_accuracy:.1f} % "
            f"({self.held.judged_on})"
        )
        return _Made(self.route, self.held.saw, model, made, attempts=tuple(self._attempts))

    def smallest(self, before: int, drop: float | None) -> _Made:
        """The smallest that loses at most ``drop`` points: halved until it loses more, and then once in between."""
        floor = self.held.judged_by(self.model) - (DEFAULT_DROP if drop is None else drop) / 100
        for factor in (_FIRST, _FIRST / 2, _FIRST / 4, _FIRST / 8):
            best = self._within(before / factor, floor)
            if best is not None:
                break
        if best is None:
            reached = 100 * max((one.balanced_accuracy for one in self._attempts), default=0)
            raise InputError(
                f"no size lost as little as asked: the best attempt has {reached:.1f} % where {100 * floor:.1f} % were "
                "wanted. Allow a larger --drop, or fix the --size"
            )
        while factor >= _FIRST and len(self._attempts) < _MOST:
            smaller = self._within(before / (factor * _STEP), floor)
            if smaller is None:
                best = self._within(before / (factor * _STEP**0.5), floor) or best
                break
            best, factor = smaller, factor * _STEP
        return replace(best, attempts=tuple(self._attempts))

    def _within(self, target: float, floor: float) -> _Made | None:
        """The model in so many bytes, if there can be one and it is as good as ``floor``."""
        try:
            made = self.at(int(target))
        except _TooSmallError:
            return None
        return made if self._attempts[-1].balanced_accuracy >= floor else None


def _card(made: _Made, original: Model) -> ModelCard:
    model = made.model
    return ModelCard(
        software=Software(name="meddistill", version=__version__),
        kind="recipe" if made.route == "recreate" else "network",
        route=made.route,
        saw=made.saw,
        model=describe(model),
        answers=made.answers,
        weights=params_digest(model.params),
        original=4 * original.network.parameters,
    )


def _compared(before: Model, after: Model, images: LabelledImages) -> dict[str, Difference]:
    found = [probabilities(model.network, model.params, images) for model in (before, after)]
    return compare(found[0], found[1], images.labels.numpy())
