"""One task of a benchmark after the other, in one process: teach, label, make a set, pretrain, train and score.

Nothing is chosen here by test images: they are scored after a set is made, once for every trained network.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.bench.grid import FULL, SOFT, Source, cohort_path, reading
from meddistill.bench.tasks import Cell, EncoderId, Layout, Task, is_taught, read_outcome, weights_of
from meddistill.cohort.prepare import Prepared, prepare
from meddistill.cohort.types import SPLITS, SplitName
from meddistill.nets.augment import Augmentation
from meddistill.nets.find import find as find_network
from meddistill.nets.network import Network
from meddistill.nets.params import Params, unflatten
from meddistill.package.read import read
from meddistill.pipeline.evaluate import Judged, Learn, evaluate_rows
from meddistill.pipeline.folder import identify
from meddistill.pipeline.plan import Plan
from meddistill.pipeline.plan_file import to_toml
from meddistill.pipeline.request import Request
from meddistill.pipeline.run import run
from meddistill.pipeline.teach import Taught, taught
from meddistill.pipeline.tell import tell
from meddistill.pretrain.imagenet import read_encoder
from meddistill.pretrain.look import effective_rank, features_of, is_collapsed, read_by_line, spread
from meddistill.pretrain.loop import Pretrained, encoder_of, pretrain
from meddistill.pretrain.store import load_encoder, save_encoder
from meddistill.pretrain.transfer import fine_tune, measured, probe
from meddistill.pretrain.ways import PROBE, SCRATCH, way_of
from meddistill.runtime.errors import InputError
from meddistill.runtime.events import EventLog
from meddistill.runtime.files import write_atomic
from meddistill.runtime.progress import Progress, Silent
from meddistill.runtime.streams import derive, stream
from meddistill.teachers.images import LabelledImages, measure_normalisation, split_images
from meddistill.train.baselines import herding, k_center, random_real
from meddistill.train.metrics import measure
from meddistill.train.protocol import (
    Protocol,
    TrainingSet,
    probabilities,
    protocol_for,
    real_set,
    synthetic_set,
    train_network,
)
from meddistill.train.received import received
from meddistill.train.tutored import train_tutored

NO_AUGMENTATION = Augmentation(shift=0, scale=0, rotate=0, flip=0, brightness=0, contrast=0)
_SCORED: tuple[SplitName, ...] = ("val", "test")
# Labels may come from teachers that have learned for so many quarters of their time.
_QUARTERS = (1, 2, 3, 4)
_BATCH = 256


@dataclass(frozen=True)
class Data:
    """A cohort on the device, as it is split for one distillation."""

    prepared: Prepared
    splits: dict[SplitName, LabelledImages]


class Worker:
    """Carries out tasks; what it has read it keeps for the next one."""

    def __init__(self, layout: Layout, data: Path, device: torch.device, progress: Progress = Silent()) -> None:
        self._layout, self._folder, self._device, self._progress = layout, data, device, progress
        # A score looks at all distillations' splits one after the other.
        self._data = lru_cache(maxsize=max(2, len(layout.distillations)))(self._read)

    def perform(self, task: Task) -> None:
        """Do the task and write its outcome, whole or not at all."""
        self._check_amount(task)
        kinds = {"teach": self._teach, "label": self._label, "make": self._make}
        kinds |= {"pretrain": self._pretrain, "score": self._score}
        kinds[task.kind](task)

    def _read(self, source: Source, distillation: int) -> Data:
        layout = self._layout
        prepared = prepare(
            cohort_path(source, self._folder),
            size=source.size,
            fit=source.fit,
            options=reading(source, self._folder),
            leak=source.leak,
            seed=layout.grid.seed + distillation,
            leak_remedy=f'Set leak = "resplit", "drop" or "allow" in [cohorts.{source.name}] of the grid.',
            progress=self._progress,
        )
        cohort = prepared.cohort
        facts = {
            "digest": identify({}, cohort),
            "classes": list(cohort.classes),
            "image_bytes": cohort.image_bytes,
            "train": len(cohort.indices("train")),
        }
        place = layout.facts(source, distillation)
        if not place.exists():
            tell(prepared, self._progress)
            write_atomic(place, json.dumps(facts).encode())
        elif read_outcome(place) != facts:
            raise InputError(
                f"the images of cohort {source.name} are no longer those that {layout.out} has figures of: choose "
                "another folder with --out"
            )
        normalisation = measure_normalisation(cohort)
        splits = {split: split_images(cohort, split, normalisation, self._device) for split in SPLITS}
        return Data(prepared, splits)

    def _check_amount(self, task: Task) -> None:
        """Whether there are as many real images as the task's set has, whichever those of the set are."""
        asked = task.cell or task.plan
        if asked is None or task.kind == "teach":
            return
        for distillation in self._layout.distillations if task.cell else (task.distillation,):
            train = self._data(task.source, distillation).splits["train"]
            _check_amount(task.source, train, 0 if asked.total_images else asked.images_per_class, asked.total_images)

    def _teach(self, task: Task) -> None:
        teachers = self._taught(task.source, task.distillation, task.plan)
        curve = {str(point): value for point, value in teachers.curve.items()}
        write_atomic(task.outcome, json.dumps({"seconds": round(teachers.seconds, 1), "curve": curve}).encode())

    def _taught(self, source: Source, distillation: int, plan: Plan | None) -> Taught:
        """The teachers; those that somebody deleted are trained again."""
        assert plan is not None
        data, folder = self._data(source, distillation), self._layout.teachers(source, plan)
        splits, events = data.splits, EventLog(folder.with_name(f"{folder.name}.events.jsonl"))
        cohort = data.prepared.cohort
        return taught(plan, cohort, splits["train"], splits["val"], folder, events=events, progress=self._progress)

    def _label(self, task: Task) -> None:
        """Choose the point at which teachers label best: for a network trained on random images, on validation."""
        teachers = self._taught(task.source, task.distillation, task.plan)
        assert task.plan is not None
        splits = self._data(task.source, task.distillation).splits
        seed = self._layout.seeds_of(task.distillation)[0]
        images = _random(splits["train"], task.plan.asked(splits["train"].classes), seed)
        last = teachers.store.snapshots - 1
        scores: dict[int, float] = {}
        for point in sorted({max(1, round(last * quarter / _QUARTERS[-1])) for quarter in _QUARTERS}):
            labelled = _labelled(images, teachers, task.plan.teachers.count, point)
            params = train_network(
                teachers.network, labelled, protocol_for(teachers.network, flip=task.plan.flip), seed
            )
            found = probabilities(teachers.network, params, splits["val"])
            scores[point] = measure(found, splits["val"].labels.cpu().numpy()).balanced_accuracy
        best = max(scores, key=lambda point: scores[point])
        write_atomic(task.outcome, json.dumps({"point": best, "val": {str(k): v for k, v in scores.items()}}).encode())

    def _make(self, task: Task) -> None:
        source, plan, layout = task.source, task.plan, self._layout
        assert plan is not None
        out = layout.package(source, plan)
        plan_file = out.with_suffix(".toml")
        write_atomic(plan_file, to_toml(plan).encode())
        request = Request(
            source=cohort_path(source, self._folder),
            out=out,
            plan=plan_file,
            device=str(self._device),
            teachers=layout.teachers(source, plan) if is_taught(plan) else None,
            leak=source.leak,
            options=reading(source, self._folder),
        )
        is_new = not out.with_suffix(".run").exists()
        report = run(request, self._progress, self._data(source, task.distillation).prepared)
        # A run that was interrupted does not know how long the part before took.
        seconds = round(report.making_seconds, 1) if is_new else None
        write_atomic(task.outcome, json.dumps({"bytes": report.bytes, "seconds": seconds}).encode())

    def _pretrain(self, task: Task) -> None:
        """Make an encoder, and look at what became of it on validation images."""
        encoder = task.encoder
        assert encoder is not None
        splits = self._data(task.source, task.distillation).splits
        train, val = splits["train"], splits["val"]
        network, begun = _network(encoder.network, train), time.monotonic()
        made = self._pretrained(encoder, network, train)
        seconds = round(time.monotonic() - begun, 1)
        fresh = tuple(param.to(train.device) for param in encoder_of(network, network.init(self._stream(encoder))))
        looks = {"pretrained": _look(network, made.encoder, train, val), "fresh": _look(network, fresh, train, val)}
        if looks["pretrained"]["collapsed"]:
            self._progress.warn(f"{task.name}: the encoder has collapsed, all images look alike to it")
        size = save_encoder(weights_of(task.outcome), made.encoder)
        told = {"seconds": seconds, "losses": made.losses, "bytes": size, **looks}
        write_atomic(task.outcome, json.dumps(told).encode())

    def _pretrained(self, encoder: EncoderId, network: Network, train: LabelledImages) -> Pretrained:
        way, plan = way_of(encoder.row), encoder.plan
        if way.objective is None:
            params = read_encoder(self._folder / plan.weights, network)
            return Pretrained(tuple(param.to(train.device) for param in params), ())
        seed = derive(self._layout.grid.seed, "encoder", encoder.distillation, encoder.number)
        return pretrain(way.objective, network, train, plan.schedule(way, encoder.source.size, flip=encoder.flip), seed)

    def _stream(self, encoder: EncoderId) -> torch.Generator:
        return stream(self._layout.grid.seed, "fresh encoder", encoder.distillation, encoder.number)

    def _learning(self, cell: Cell, train: LabelledImages) -> Learn | None:
        """How networks learn that are tutored or of the family "scarce real labels"; None for the protocol's way."""
        if cell.is_tutored:
            tutor = _network(self._layout.tutor(cell), train)
            return lambda network, data, protocol, seed: train_tutored(network, tutor, data, protocol, seed)
        if not cell.has_few_labels or cell.method == SCRATCH:
            return None

        def learn(network: Network, data: TrainingSet, protocol: Protocol, seed: int) -> Params:
            if cell.has_encoder:
                path = weights_of(self._layout.pretrained(self._layout.encoder(cell, seed)))
                params = tuple(param.to(train.device) for param in load_encoder(path, network))
            else:
                fresh = network.init(stream(seed, "train", "init"))
                params = tuple(param.to(train.device) for param in encoder_of(network, fresh))
            if not cell.method.endswith(PROBE):
                return fine_tune(network, params, data, protocol, seed)
            return probe(network, measured(network, params, train), data, protocol, seed)

        return learn

    def _score(self, task: Task) -> None:
        cell, layout = task.cell, self._layout
        assert cell is not None
        for distillation in layout.distillations:
            splits = self._data(cell.source, distillation).splits
            train = splits["train"]
            network = _network(cell.network, train)
            scored = {split: splits[split] for split in _SCORED}
            learn, protocol = self._learning(cell, train), protocol_for(network, flip=layout.flip(cell))
            judged = Judged(network, protocol, scored, layout.seeds_of(distillation), learn)
            plain = replace(judged, protocol=replace(judged.protocol, augmentation=NO_AUGMENTATION))
            drawn = self._drawn(cell, distillation)
            for row in layout.rows(cell):
                sets = _each(drawn, hardened if row == "hard" else None)
                how = plain if row == "plain" else judged
                evaluate_rows({row: sets}, how, saved=task.outcome, progress=self._progress)

    def _drawn(self, cell: Cell, distillation: int) -> Callable[[int], TrainingSet]:
        """The set that a seed trains on."""
        data = self._data(cell.source, distillation)
        train = data.splits["train"]
        if cell.method == FULL:
            return lambda seed: real_set(train)
        if cell.method == "random" or cell.has_few_labels:
            return lambda seed: real_set(_random(train, cell.asked(train.classes), seed))
        plan = self._layout.plan(cell, distillation)
        if cell.is_distilled:
            package = read(self._layout.package(cell.source, plan))
            made = received(package.enlarged, package.labels, train.normalisation, train.device)
            return lambda seed: made
        teachers = self._taught(cell.source, distillation, plan)
        count, seeds = plan.teachers.count, self._layout.seeds_of(distillation)

        @cache
        def select(seed: int) -> LabelledImages:
            return _selected(train, cell, teachers, seeds.index(seed) % count, seed)

        if not cell.has_soft_labels:
            return lambda seed: real_set(select(seed))
        point = int(read_outcome(self._layout.labels(cell.source, plan))["point"])
        return lambda seed: _labelled(select(seed), teachers, count, point)


def hardened(data: TrainingSet) -> TrainingSet:
    """The same images, each with the one class that its label finds most probable."""
    return replace(data, labels=F.one_hot(data.labels.argmax(1), data.labels.shape[1]).float())


def _network(name: str, images: LabelledImages) -> Network:
    channels, size = images.pixels.shape[1], images.pixels.shape[-1]
    return find_network(name, channels=channels, size=size, classes=images.classes)


def _look(network: Network, encoder: Params, train: LabelledImages, val: LabelledImages) -> dict[str, float | bool]:
    """How many directions the features of validation images have, and what a line reads from them given all labels."""
    features, seen = features_of(network, encoder, train), features_of(network, encoder, val)
    scores = read_by_line(features, train.labels, seen, train.classes).softmax(1).cpu().numpy()
    return {
        "features": seen.shape[1],
        "rank": effective_rank(seen),
        "spread": spread(seen),
        "collapsed": is_collapsed(seen),
        "read by a line": measure(scores, val.labels.cpu().numpy()).balanced_accuracy,
    }


def _each(
    drawn: Callable[[int], TrainingSet], change: Callable[[TrainingSet], TrainingSet] | None
) -> Callable[[int], Iterable[TrainingSet]]:
    return lambda seed: [drawn(seed) if change is None else change(drawn(seed))]


def _check_amount(source: Source, train: LabelledImages, images_per_class: int, total: int) -> None:
    """So many random real images of each class, or in all, are to be had: these are as even over classes as can be."""
    fewest = int(torch.bincount(train.labels, minlength=train.classes).min())
    few = f"cohort {source.name} has a class of {fewest} training images"
    if images_per_class > fewest:
        raise InputError(f"{few}: images_per_class = {images_per_class} are not to be had; ask for at most {fewest}")
    if total > fewest * train.classes:
        raise InputError(
            f"{few}: as many random real images as total_images = {total} are not to be had evenly from "
            f"{train.classes} classes; ask for fewer"
        )


def _random(train: LabelledImages, asked: int, seed: int) -> LabelledImages:
    """``asked`` random real images of all classes together, as even as can be."""
    each, more = divmod(asked, train.classes)
    return random_real(train, each, seed, more)


def _selected(train: LabelledImages, cell: Cell, teachers: Taught, teacher: int, seed: int) -> LabelledImages:
    """Real images: at random, or by what a trained teacher sees; every seed asks another teacher, while there are."""
    method = cell.method.removesuffix(SOFT)
    if method == "random":
        return _random(train, cell.asked(train.classes), seed)
    params = _params(teachers, teacher, teachers.store.snapshots - 1, train.device)
    with torch.no_grad():
        blocks = torch.arange(len(train)).split(_BATCH)
        features = torch.cat([teachers.network.features(params, train.inputs(block)) for block in blocks])
    choose = {"herding": herding, "k-center": k_center}[method]
    return choose(train, features, cell.images_per_class)


def _labelled(images: LabelledImages, teachers: Taught, count: int, point: int) -> TrainingSet:
    """The images with the mean of what ``count`` teachers say of them at a point of their trajectories."""
    inputs = images.inputs(torch.arange(len(images)))
    said: list[Tensor] = []
    with torch.no_grad():
        for teacher in range(count):
            params = _params(teachers, teacher, point, images.device)
            said.append(teachers.network.apply(params, inputs).softmax(1))
    return synthetic_set(inputs, torch.stack(said).mean(0))


def _params(teachers: Taught, teacher: int, point: int, device: torch.device) -> Params:
    return unflatten(teachers.store.snapshot(teacher, point).to(device), teachers.network.shapes)
