"""The final evaluation: the rows of a card, each trained under one protocol; the only place that scores test images."""

import json
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from statistics import fmean
from typing import Any

from meddistill.cohort.types import SplitName
from meddistill.nets.network import Network
from meddistill.nets.params import Params
from meddistill.runtime.crew import News, Tell, do_all
from meddistill.runtime.errors import InputError
from meddistill.runtime.events import EventLog
from meddistill.runtime.files import write_atomic
from meddistill.runtime.progress import Progress, Silent
from meddistill.runtime.streams import derive
from meddistill.teachers.images import LabelledImages
from meddistill.train.baselines import random_real
from meddistill.train.metrics import METRICS, Answers, Scores, Summary, count_answers, measure, summarise_scores
from meddistill.train.protocol import Protocol, TrainingSet, probabilities, real_set, train_network

# What networks are trained on: "distilled", "own", "random", "full" on a card; a benchmark has more.
Row = str
# What a seed trains on: one set, or several whose scores are averaged; picklable where several processes train.
Drawn = Callable[[int], Iterable[TrainingSet]]
# How a network is trained on a set with a seed; the protocol's way, unless told otherwise.
Learn = Callable[[Network, TrainingSet, Protocol, int], Params]
Results = dict[str, dict[Row, dict[str, Summary]]]


@dataclass(frozen=True)
class Always:
    """Every seed trains on the same set."""

    data: TrainingSet

    def __call__(self, seed: int) -> Iterable[TrainingSet]:
        return [self.data]


@dataclass(frozen=True)
class RandomReal:
    """Every seed trains on ``sets`` draws of real images of its own."""

    train: LabelledImages
    images_per_class: int
    sets: int
    more: int = 0

    def __call__(self, seed: int) -> Iterable[TrainingSet]:
        for place in range(self.sets):
            chosen_by = derive(seed, "random set", place) if place else seed
            yield real_set(random_real(self.train, self.images_per_class, chosen_by, self.more))


@dataclass(frozen=True)
class Judged:
    """What every row shares: network, protocol, the splits that are scored, seeds; ``learn``: another way to train."""

    network: Network
    protocol: Protocol
    scored: dict[SplitName, LabelledImages]
    seeds: Sequence[int]
    learn: Learn | None = None


@dataclass(frozen=True)
class Evaluated:
    """Scores by split, row and metric; and the mean seconds that training one network of each row took."""

    results: Results
    seconds: dict[Row, float]


def evaluation_seeds(seed: int, count: int) -> list[int]:
    """The seeds of the evaluated networks: the same in every row."""
    return [derive(seed, "evaluation", place) for place in range(count)]


def rows_of(
    distilled: TrainingSet,
    train: LabelledImages,
    images_per_class: int,
    *,
    random_sets: int,
    full_row: bool,
    more: int = 0,
) -> dict[Row, Drawn]:
    """For each wanted row, the sets that a seed trains on: in the random row ``random_sets``; 0 is no such row.

    ``images_per_class`` and ``more``: how many a random set has, see :func:`~meddistill.train.baselines.random_real`.
    """
    rows: dict[Row, Drawn] = {"distilled": Always(distilled)}
    if random_sets:
        rows["random"] = RandomReal(train, images_per_class, random_sets, more)
    if full_row:
        rows["full"] = Always(real_set(train))
    return rows


def evaluate_rows(
    rows: dict[Row, Drawn],
    judged: Judged,
    *,
    saved: Path | None = None,
    events: EventLog | None = None,
    progress: Progress = Silent(),
) -> Evaluated:
    """Train and score every row with every seed. What is in ``saved`` already is not done again.

    On a CPU every network is trained in one thread, and by as many processes as there would be threads.
    """
    done = _load(saved, judged.scored)
    wanted = [(row, seed) for row in rows for seed in judged.seeds]
    waiting = _in_order([task for task in wanted if _key(*task) not in done])
    with progress.stage("evaluating", len(wanted)) as stage:
        stage.advance(len(wanted) - len(waiting))

        def report(news: News) -> None:
            if news.lost is not None:
                (events or EventLog()).write("helper lost", code=news.lost)
            if news.told is None:
                return
            row, seed, scored = news.told
            done[_key(row, seed)] = scored
            (events or EventLog()).write("evaluated", row=row, seed=seed, **scored)
            if saved is not None:
                write_atomic(saved, json.dumps(done).encode())
            stage.advance()

        (device,) = {images.device for images in judged.scored.values()}
        do_all(_Scoring(rows, judged), waiting, device, report)
    found = {row: [done[_key(row, seed)] for seed in judged.seeds] for row in rows}
    results: Results = {
        split: {row: summarise_scores([Scores(**one["scores"][split]) for one in found[row]]) for row in rows}
        for split in judged.scored
    }
    return Evaluated(results, {row: fmean(one["seconds"] for one in found[row]) for row in rows})


def with_own(evaluated: Evaluated, judged: Judged, params: Params) -> Evaluated:
    """A row more: the one network that a package makes by its own recipe."""
    results = {split: dict(rows) for split, rows in evaluated.results.items()}
    for split, images in judged.scored.items():
        results[split]["own"] = summarise_scores([_measure(judged, params, images)[0]])
    return Evaluated(results, evaluated.seconds)


@dataclass(frozen=True)
class _Scoring:
    """The :class:`~meddistill.runtime.crew.Work` of training and scoring one row with one seed."""

    rows: dict[Row, Drawn]
    judged: Judged

    def do(self, task: tuple[Row, int], tell: Tell) -> None:
        row, seed = task
        tell((row, seed, _score(self.rows[row](seed), self.judged, seed)))


def _in_order(tasks: list[tuple[Row, int]]) -> list[tuple[Row, int]]:
    """First a short one, which tells how long they take; then the longest first, so that none is left for the end."""
    longest: tuple[Row, ...] = ("full", "random", "distilled")
    ordered = sorted(tasks, key=lambda task: longest.index(task[0]) if task[0] in longest else len(longest))
    return ordered[-1:] + ordered[:-1]


def _key(row: str, seed: int) -> str:
    return f"{row} {seed}"


def _score(sets: Iterable[TrainingSet], judged: Judged, seed: int) -> dict[str, Any]:
    """Networks trained with this seed on each of the sets: their mean scores, all their answers, mean seconds of one.

    The answers are for the log of the run alone. A card does not hold them: a cell of few images would tell of those
    few patients.
    """
    seconds, found = [], []
    for data in sets:
        begun = time.monotonic()
        params = (judged.learn or train_network)(judged.network, data, judged.protocol, seed)
        seconds.append(time.monotonic() - begun)
        found.append({split: _measure(judged, params, images) for split, images in judged.scored.items()})
    means = {
        split: {metric: fmean(getattr(one[split][0], metric) for one in found) for metric in METRICS}
        for split in judged.scored
    }
    answers = {split: reduce(add, (one[split][1] for one in found)).as_dict() for split in judged.scored}
    return {"scores": means, "answers": answers, "networks": len(found), "seconds": round(fmean(seconds), 3)}


def _measure(judged: Judged, params: Params, images: LabelledImages) -> tuple[Scores, Answers]:
    found, labels = probabilities(judged.network, params, images), images.labels.cpu().numpy()
    return measure(found, labels), count_answers(found, labels)


def _load(saved: Path | None, splits: Collection[str]) -> dict[str, dict[str, Any]]:
    if saved is None or not saved.exists():
        return {}
    try:
        done = json.loads(saved.read_text())
        if not isinstance(done, dict) or not all(_is_scored(one, splits) for one in done.values()):
            raise ValueError("not the scores that a run writes")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read the scores {saved} ({error}): delete it to have them measured again") from None
    return done


def _is_scored(value: object, splits: Collection[str]) -> bool:
    """Whether a saved value has the shape of what :func:`_score` gives for these splits."""
    one = value if isinstance(value, dict) else {}
    scores = one.get("scores")
    if not isinstance(scores, dict) or not isinstance(one.get("seconds"), float | int):
        return False
    return set(splits) <= scores.keys() and all(
        isinstance(row, dict) and row.keys() == set(METRICS) and all(isinstance(x, float | int) for x in row.values())
        for row in scores.values()
    )
