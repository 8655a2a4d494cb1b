"""The receiver's verbs: train on packages, evaluate a model on images of one's own."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from unicodedata import normalize

import numpy as np
import numpy.typing as npt
import torch

from meddistill.cohort.prepare import prepare
from meddistill.cohort.read import ReadOptions, places
from meddistill.cohort.types import SPLITS, Cohort
from meddistill.compress.load import load_model
from meddistill.nets.find import find
from meddistill.package.read import read_judged
from meddistill.package.text import quote
from meddistill.package.trust import judge, warning
from meddistill.pipeline.sides import received_sides
from meddistill.pipeline.tell import tell
from meddistill.runtime.crew import News, Tell, do_all
from meddistill.runtime.device import as_one_process, choose
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import require_another, require_writable
from meddistill.runtime.progress import Progress, Silent
from meddistill.teachers.images import LabelledImages, pixels_of
from meddistill.train.combine import Combined, Part, Share, combine
from meddistill.train.memory import memory_for
from meddistill.train.metrics import (
    METRICS,
    Answers,
    Scores,
    Summary,
    count_answers,
    measure,
    summarise,
    summarise_scores,
)
from meddistill.train.model import Model, Origin, params_digest, save_model
from meddistill.train.protocol import PROTOCOL_VERSION, probabilities
from meddistill.train.received import received
from meddistill.train.recipe import is_the_senders, rebuild
from meddistill.train.renaming import NO_RENAMING, read_renaming
from meddistill.train.splits import require_given
from meddistill.train.tutored import TUTORED_VERSION, train_as

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Scored = Literal["train", "val", "test", "all"]
_PLANTED = (
    "canaries were planted to audit this package: some of its training images were nobody's or had wrong labels. It is "
    "not to be shared or used; use the one that was distilled without them"
)
RecipeName = Literal["protocol", "tutored", "own"]


@dataclass(frozen=True)
class Contribution:
    """What one of several packages is worth: the scores without it, and paired by seed what it adds to them."""

    package: Path
    images: int
    without: dict[str, Summary] | None
    gain: dict[str, Summary] | None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        document: dict[str, Any] = {"package": str(self.package), "images": self.images}
        if self.without is not None and self.gain is not None:
            document["without"] = {name: score.as_dict() for name, score in self.without.items()}
            document["gain"] = {name: score.as_dict() for name, score in self.gain.items()}
        return document


@dataclass(frozen=True)
class TrainReport:
    """A trained model, and its scores over seeds where test images were given.

    ``recipe``: how networks learned. ``senders``: by a package's own recipe, whether the model is the sender's to the
    last bit; None by another one.
    ``contributions`` and ``reconciled``: of several packages, what each gave and what had to be reconciled.
    """

    model: Path
    network: str
    seeds: int
    seconds: float
    test_images: int | None
    scores: dict[str, Summary] | None
    contributions: tuple[Contribution, ...] = ()
    reconciled: tuple[str, ...] = ()
    senders: bool | None = None
    recipe: RecipeName = "protocol"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        document: dict[str, Any] = {
            "model": str(self.model),
            "network": self.network,
            "recipe": self.recipe,
            "seeds": self.seeds,
            "seconds": round(self.seconds, 1),
        }
        if self.scores is not None:
            document["test_images"] = self.test_images
            document |= {name: score.as_dict() for name, score in self.scores.items()}
        if self.senders is not None:
            document["senders"] = self.senders
        if self.contributions:
            document["packages"] = [share.as_dict() for share in self.contributions]
            document["reconciled"] = list(self.reconciled)
        return document

    def _repr_html_(self) -> str:
        from meddistill.report.notebook import scores

        figures = {} if self.scores is None else {name: score.as_dict() for name, score in self.scores.items()}
        return scores({f"{self.network}, {self.seeds} seeds": figures})


@dataclass(frozen=True)
class EvaluateReport:
    """Scores of one model on one split of a source, each class's recall, and its answers, counted."""

    scores: Scores
    images: int
    per_class: dict[str, dict[str, float | int | None]]
    answers: Answers

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        counted = {"images": self.images, "per_class": self.per_class}
        return vars(self.scores) | counted | self.answers.as_dict()

    def plot(self) -> "Figure":
        """The confusion matrix and the reliability diagram, as a matplotlib figure; needs the extra ``plot``."""
        from meddistill.train.plots import answers

        return answers(self.answers, tuple(self.per_class), self.scores.expected_calibration_error)

    def _repr_html_(self) -> str:
        from meddistill.report.notebook import scores

        return scores({f"{self.images} images": vars(self.scores)})


def train(
    packages: Sequence[Path],
    out: Path,
    *,
    net: str | None = None,
    recipe: RecipeName = "protocol",
    classes: Path | None = None,
    test: Path | None = None,
    test_split: Scored = "test",
    seeds: int = 5,
    seed: int = 0,
    device: str = "auto",
    options: ReadOptions = ReadOptions(),
    progress: Progress = Silent(),
) -> TrainReport:
    """Train ``seeds`` networks on the packages, keep the first, and score all on ``test_split`` of ``test``.

    ``recipe``: ``tutored`` has every network tutored by one of the kind that the (first) package was made with
    (:mod:`~meddistill.train.tutored`); by a package's ``own`` recipe there is one network, whatever the seeds.
    ``classes``: a mapping file of class names. With several packages and test images every seed is trained again
    without each of them, to tell what it contributed. Test images are read after everything has been chosen; nothing is
    chosen by them.
    """
    begun = time.monotonic()
    if seeds < 1:
        raise InputError(f"{seeds} seeds were asked for: expected 1 or more")
    require_another(out, (*packages, classes, *places(test, options)))
    where = choose(device)
    if not packages:
        raise InputError("no package was given: expected one or more files (NAME.mdz)")
    parts = open_parts(packages, progress)
    combined = combine(parts, NO_RENAMING if classes is None else read_renaming(classes))
    for found in received_sides(combined.flip, combined.classes):
        progress.warn(found.message)
    require_writable(out)
    untrained = _untrained(combined, net)
    if recipe == "tutored":
        _untrained(combined, None)  # which has to be a network that is known here
    if recipe == "own":
        _require_one_as_it_is(parts, net, classes)
        model, senders = _rebuilt(untrained, parts[0], progress)
        save_model(out, model)
        images = None if test is None else read_images(test, model, test_split, options, where, progress)
        return TrainReport(
            model=out,
            network=model.network.name,
            seeds=1,
            seconds=time.monotonic() - begun,
            test_images=None if images is None else len(images),
            scores=None if images is None else summarise_scores([score(model, images)[0]]),
            senders=senders,
            recipe=recipe,
        )
    for note in combined.notes:
        progress.note(note)
    if recipe == "protocol" and combined.network != untrained.network.name:
        progress.note(
            f"the images were made for {quote(combined.network)}: with --recipe tutored {untrained.network.name} may "
            "learn more from them"
        )
    images = None if test is None else read_images(test, untrained, test_split, options, where, progress)
    several = range(len(packages)) if len(packages) > 1 else range(0)
    fewer = [combined.without(place) for place in several] if images is not None else []
    trials = _Trials(untrained, recipe == "tutored", (combined, *fewer), images, where)
    scores = _train_all(trials, range(seed, seed + seeds), out, progress)
    return TrainReport(
        model=out,
        network=untrained.network.name,
        seeds=seeds,
        seconds=time.monotonic() - begun,
        test_images=None if images is None else len(images),
        scores=summarise_scores(scores[0]) if images is not None else None,
        contributions=tuple(
            _contribution(packages[place], combined.shares[place], scores[0], scores[1 + place] if fewer else None)
            for place in several
        ),
        reconciled=combined.notes,
        recipe=recipe,
    )


def evaluate(
    model_file: Path,
    source: Path,
    *,
    split: Scored = "test",
    device: str = "auto",
    options: ReadOptions = ReadOptions(),
    progress: Progress = Silent(),
) -> EvaluateReport:
    """Score a model on a split of a source, or on ``all`` its images."""
    where = choose(device)
    model = load_model(model_file, progress)
    images = read_images(source, model, split, options, where, progress)
    found = answered(model, images)
    labels = images.labels.cpu().numpy()
    return EvaluateReport(
        measure(found, labels), len(images), _per_class(model, images, found.argmax(1)), count_answers(found, labels)
    )


def open_parts(files: Sequence[Path], progress: Progress = Silent()) -> list[Part]:
    """The packages in the files, every one checked.

    Warns of each that nobody whom the user trusts has signed, and that was made to be audited alone.
    """
    parts = []
    for file in files:
        package, found = read_judged(file)
        for doubt in (warning(judge(found)), _PLANTED if package.card.canaries else None):
            if doubt:
                progress.warn(f"{file.name}: {doubt}" if len(files) > 1 else doubt)
        parts.append(Part(file.name, package))
    return parts


def _untrained(combined: Combined, net: str | None) -> Model:
    """The model that the packages ask for, without parameters."""
    network = find(
        net or combined.network, channels=combined.channels, size=combined.size, classes=len(combined.classes)
    )
    return Model(
        network=network,
        params=(),
        classes=combined.classes,
        normalisation=combined.normalisation,
        fit=combined.fit,
        leak=combined.leak,
        seed=combined.seed,
        mixed_splits=combined.mixed_splits,
        flip=combined.flip,
    )


def _require_one_as_it_is(parts: Sequence[Part], net: str | None, classes: Path | None) -> None:
    """Raises :class:`InputError` where a recipe of a package's own does not go with what else was asked for."""
    if len(parts) > 1 or net is not None or classes is not None:
        raise InputError(
            "a package's own recipe makes one certain network of it alone: give one package, without --net and "
            "--classes, or leave --recipe out"
        )


def _rebuilt(untrained: Model, part: Part, progress: Progress) -> tuple[Model, bool]:
    """The model that a package makes by its own recipe, and whether it is the sender's to the last bit."""
    with memory_for(untrained.network):
        params = rebuild(part.package)
    senders = is_the_senders(part.package.card, params)
    if not senders:
        progress.warn(
            f"{part.name}: this is not the sender's network to the last bit: another version of PyTorch or another "
            "processor rounds differently. Measure it with --test"
        )
    return replace(untrained, params=params), senders


@dataclass(frozen=True)
class _Trials:
    """The :class:`~meddistill.runtime.crew.Work` of training and scoring on one of several sets with one seed.

    ``tutored``: by a network of the kind that the packages were made with.
    """

    untrained: Model
    tutored: bool
    sets: tuple[Combined, ...]
    images: LabelledImages | None
    device: torch.device

    def train(self, place: int, seed: int) -> Model:
        part = self.sets[place]
        model = replace(self.untrained, normalisation=part.normalisation)
        version = TUTORED_VERSION if self.tutored else PROTOCOL_VERSION
        with memory_for(model.network):
            data = received(part.images, part.labels, part.normalisation, self.device)
            params = train_as(version, model.network, part.network, data, seed, flip=model.flip)
        digests = tuple(share.digest for share in part.shares)
        return replace(model, params=params, origin=Origin(digests, version, seed, params_digest(params)))

    def score(self, model: Model) -> dict[str, float]:
        return {} if self.images is None else asdict(score(model, self.images)[0])

    def do(self, task: tuple[int, int], tell: Tell) -> None:
        tell((*task, self.score(self.train(*task))))


def _train_all(trials: _Trials, seeds: Sequence[int], out: Path, progress: Progress) -> list[list[Scores]]:
    """Scores by set and seed, empty without images; the network of the first set and seed is kept.

    On a CPU every network is trained in one thread, and by as many processes as there would be threads.
    """
    tasks = [(place, seed) for seed in seeds for place in range(len(trials.sets))]
    found: dict[tuple[int, int], dict[str, float]] = {}

    def report(news: News) -> None:
        if news.told is not None:
            place, seed, found[place, seed] = news.told
            stage.advance()

    with progress.stage("training", len(tasks)) as stage:
        # As all others are trained: on a CPU in one thread.
        with as_one_process(trials.device):
            model = trials.train(*tasks[0])
            save_model(out, model)
            report(News(told=(*tasks[0], trials.score(model))))
        do_all(trials, tasks[1:], trials.device, report)
    if trials.images is None:
        return [[] for _ in trials.sets]
    return [[Scores(**found[place, seed]) for seed in seeds] for place in range(len(trials.sets))]


def _contribution(file: Path, share: Share, scores: list[Scores], without: list[Scores] | None) -> Contribution:
    if without is None:
        return Contribution(file, len(share.images), None, None)
    gain = {
        metric: summarise([getattr(a, metric) - getattr(b, metric) for a, b in zip(scores, without, strict=True)])
        for metric in METRICS
    }
    return Contribution(file, len(share.images), summarise_scores(without), gain)


def read_images(
    source: Path, model: Model, split: Scored, options: ReadOptions, device: torch.device, progress: Progress
) -> LabelledImages:
    """The images of a split as the model takes them, labelled with the model's classes."""
    cohort = read_cohort(source, model, options, progress, evaluation=True, by_split=split != "all")
    return labelled(cohort, model, split, source, device)


def read_cohort(
    source: Path,
    model: Model,
    options: ReadOptions,
    progress: Progress,
    *,
    evaluation: bool,
    by_split: bool = True,
    leak_remedy: str | None = None,
) -> Cohort:
    """A source at the model's size; splits and leaks are treated as they were when the model was trained.

    ``evaluation``, ``leak_remedy``: as of :func:`~meddistill.cohort.prepare.prepare`. ``by_split``: its splits matter;
    raises :class:`InputError` where they would be drawn by a seed and the model has none to tell.
    """
    prepared = prepare(
        source,
        size=model.network.size,
        fit=model.fit,
        options=options,
        leak=model.leak,
        seed=model.seed,
        evaluation=evaluation,
        leak_remedy=leak_remedy,
        progress=progress,
    )
    if model.mixed_splits and by_split:
        require_given(source, prepared.fingerprint.split_origin, model.leak)
    tell(prepared, progress)
    return prepared.cohort


def labelled(cohort: Cohort, model: Model, split: Scored, source: Path, device: torch.device) -> LabelledImages:
    """The images of a split of a cohort at the model's size, as the model takes them, labelled with its classes.

    Raises :class:`InputError` for an empty split, a class that the model does not know, and colour for a grey model.
    """
    rows = _rows(cohort, split, source)
    labels = _relabel(cohort, model.classes, source)[rows]
    pixels = _as_channels(cohort.images[rows], model.network.channels, source)
    tensor = pixels_of(pixels)
    return LabelledImages(
        tensor.to(device), torch.from_numpy(labels).to(device), cohort.peak, len(model.classes), model.normalisation
    )


def _rows(cohort: Cohort, split: Scored, source: Path) -> npt.NDArray[np.intp]:
    rows = np.arange(len(cohort.labels)) if split == "all" else cohort.indices(split)
    if not len(rows):
        found = ", ".join(f"{name} {len(cohort.indices(name))}" for name in SPLITS)
        raise InputError(f"{source} has no images in its {split} split (it has {found}): choose another split, or all")
    return rows


def _relabel(cohort: Cohort, classes: Sequence[str], source: Path) -> npt.NDArray[np.int64]:
    # A letter with its mark may be written as one sign or as two: as file systems please.
    known = [normalize("NFC", name) for name in classes]
    own = [normalize("NFC", name) for name in cohort.classes]
    unknown = sorted(set(own) - set(known))
    if unknown:
        raise InputError(
            f"{source} has the classes {', '.join(unknown)}, which the model does not know: it was trained for "
            f"{', '.join(classes)}. Rename the classes or leave those images out"
        )
    places = np.array([known.index(name) for name in own], dtype=np.int64)
    return places[cohort.labels]


def _as_channels(images: npt.NDArray[Any], channels: int, source: Path) -> npt.NDArray[Any]:
    """Grey images for a colour model are repeated; colour images for a grey model are refused."""
    if images.shape[1] == channels:
        return images
    if channels == 1:
        raise InputError(f"{source} has colour images, the model was trained on grey ones: convert them to grey first")
    return np.repeat(images, channels, axis=1)


def score(model: Model, images: LabelledImages) -> tuple[Scores, npt.NDArray[np.int64]]:
    """The scores of a model on images, and the class that it gives each."""
    found = answered(model, images)
    return measure(found, images.labels.cpu().numpy()), found.argmax(1)


def answered(model: Model, images: LabelledImages) -> npt.NDArray[np.float64]:
    """The probability ``(N, K)`` of each class that a model gives each image."""
    images = replace(images, normalisation=model.normalisation)
    with memory_for(model.network):
        return probabilities(model.network, tuple(param.to(images.device) for param in model.params), images)


def _per_class(
    model: Model, images: LabelledImages, predicted: npt.NDArray[np.int64]
) -> dict[str, dict[str, float | int | None]]:
    labels = images.labels.cpu().numpy()
    table: dict[str, dict[str, float | int | None]] = {}
    for place, name in enumerate(model.classes):
        mine = labels == place
        recall = float((predicted[mine] == place).mean()) if mine.any() else None
        table[name] = {"recall": recall, "images": int(mine.sum())}
    return table
