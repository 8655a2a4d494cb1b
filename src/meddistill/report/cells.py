"""The results of a benchmark, read cell by cell, and what becomes of sets on networks that they were not made with.

Read as a stranger's, like the log of a run: lines that are no cells are counted and passed over, and a figure that is
no score counts as missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meddistill.report.runlog import json_object
from meddistill.runtime.errors import InputError

RESULTS = "results.jsonl"
SETS = "sets"  # the folder of a benchmark that its packages are in
MOST_BYTES = 256 * 2**20
MOST_CELLS = 5000  # that are shown
# Rows without a matching network, beside which transfer is seen: random real images, and all of them.
RANDOM, FULL = "random", "full"
MAIN = "balanced_accuracy"
_METRICS = (MAIN, "auroc", "accuracy")
_COMPARED = ("gain", "drop")
_LARGEST = 100.0  # of what is made of scores between 0 and 1: intervals of two networks are wide


# Images of each class, or in all; neither of all there are.
Amount = tuple[int | None, int | None]
ALL: Amount = (None, None)


@dataclass(frozen=True)
class Spread:
    """A mean over networks, its 95 % interval, and the single networks' values, where they are known."""

    mean: float
    low: float
    high: float
    each: tuple[float, ...] = ()

    @property
    def has_interval(self) -> bool:
        """Whether the ends are those of an interval: of a single network they are its score."""
        return len(self.each) != 1


@dataclass(frozen=True)
class Cell:
    """One line of a benchmark: a set, the network that was trained on it, and its scores on test images.

    ``images_per_class``: None for all there are, and where ``total_images`` tells how many there are in all.
    ``matching``: the network that the set was made with; empty where there is none. ``figures``: scores by metric;
    ``gain`` over random real images; ``drop``, by how much worse it is than on the matching network. ``sets``: the
    packages, below the benchmark's folder. ``distillations``: how many sets made alike the intervals are over; of one,
    they are over the networks trained on it.
    """

    cohort: str
    images_per_class: int | None
    method: str
    matching: str
    evaluation: str
    contains_patients: bool
    bytes: float | None
    figures: Mapping[str, Spread]
    sets: tuple[str, ...]
    total_images: int | None = None
    distillations: int = 1

    @property
    def amount(self) -> Amount:
        """How many images there are."""
        return self.images_per_class, self.total_images

    @property
    def main(self) -> Spread:
        """Balanced accuracy."""
        return self.figures[MAIN]

    @property
    def is_elsewhere(self) -> bool:
        """Whether another network is trained than the one that the set was made with."""
        return bool(self.matching) and self.matching != self.evaluation


@dataclass(frozen=True)
class Results:
    """The cells of the benchmark in the folder of this name, and how many lines could not be read."""

    name: str
    cells: tuple[Cell, ...]
    unreadable: int


@dataclass(frozen=True)
class Transfer:
    """What sets of one cohort and size are worth on every network: a row for each method and matching network.

    ``rows``: of each network in ``networks`` the cell, None where it was not measured; the rows of random and of all
    real images come last.
    """

    cohort: str
    amount: Amount
    networks: tuple[str, ...]
    rows: tuple[tuple[Cell | None, ...], ...]


def is_benchmark(folder: Path) -> bool:
    """Whether a benchmark left its results there."""
    return (folder / RESULTS).is_file()


def read_results(folder: Path) -> Results:
    """The results in ``folder``. Raises :class:`InputError` where they cannot be read."""
    path = folder / RESULTS
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): give the folder that `bench` filled") from None
    if len(data) > MOST_BYTES:
        raise InputError(f"{path} has more than {MOST_BYTES} bytes: no benchmark writes so many; give another")
    read = [_cell(line) for line in data.split(b"\n") if line.strip()]
    cells = tuple(one for one in read if one is not None)
    return Results(folder.resolve().name, cells[:MOST_CELLS], len(read) - len(cells))


def beside(package: Path) -> tuple[Cell, ...]:
    """The cells of ``package``, if a benchmark made it and stands around it, and those that they are compared with."""
    folder = package.resolve().parent
    if folder.name != SETS or not is_benchmark(folder.parent):
        return ()
    try:
        cells = read_results(folder.parent).cells
    except InputError:
        return ()
    mine = [one for one in cells if f"{SETS}/{package.name}" in one.sets]
    places = {(one.cohort, amount) for one in mine for amount in (one.amount, ALL)}
    others = [one for one in cells if not one.matching and (one.cohort, one.amount) in places]
    return (*mine, *others) if mine else ()


def cell_of(told: Mapping[str, Any]) -> Cell | None:
    """The cell that a benchmark tells; None where that cannot be read."""
    names = [told.get(name) for name in ("cohort", "method", "evaluation")]
    matching, amount = told.get("matching") or "", (told.get("images_per_class"), told.get("total_images"))
    figures = _figures(told)
    if not all(isinstance(name, str) for name in (*names, matching)) or MAIN not in figures:
        return None
    repeated = told.get("distillations", 1)
    if not all(_is_count(count) for count in (repeated, *(one for one in amount if one is not None))):
        return None
    cohort, method, evaluation = map(str, names)
    size, sets = told.get("bytes"), told.get("sets")
    return Cell(
        cohort=cohort,
        images_per_class=amount[0],
        method=method,
        matching=matching,
        evaluation=evaluation,
        contains_patients=told.get("contains_patients") is not False,
        bytes=float(size) if isinstance(size, int | float) and 0 < size < 1e15 else None,
        figures=figures,
        sets=tuple(map(str, sets)) if isinstance(sets, list) else (),
        total_images=amount[1],
        distillations=repeated,
    )


def _is_count(value: object) -> bool:
    return type(value) is int and 0 < value < 10**9


def transfers(cells: Sequence[Cell]) -> tuple[Transfer, ...]:
    """A matrix for each cohort and size of which sets were tried on other networks than their own."""
    places = dict.fromkeys((one.cohort, one.amount) for one in cells if one.is_elsewhere)
    return tuple(_transfer(cells, cohort, amount) for cohort, amount in places if amount != ALL)


def _transfer(cells: Sequence[Cell], cohort: str, amount: Amount) -> Transfer:
    mine = [one for one in cells if one.cohort == cohort and one.amount in (amount, ALL)]
    networks = tuple(dict.fromkeys(one.evaluation for one in mine if one.matching))
    rows: dict[tuple[str, str], dict[str, Cell]] = {}
    for one in sorted(mine, key=_is_beside):
        if (one.matching or one.method in (RANDOM, FULL)) and one.evaluation in networks:
            rows.setdefault((one.method, one.matching), {})[one.evaluation] = one
    return Transfer(cohort, amount, networks, tuple(tuple(map(row.get, networks)) for row in rows.values()))


def _is_beside(cell: Cell) -> int:
    """What rows are sorted by: those that are compared with come last."""
    return 0 if cell.matching else 1 if cell.method == RANDOM else 2


def _cell(line: bytes) -> Cell | None:
    found = json_object(line)
    return None if found is None else cell_of(found)


def _figures(told: Mapping[str, Any]) -> dict[str, Spread]:
    """Scores on test images of networks that were trained on the set as it is, and what they are compared with."""
    scores: Any = told
    for key in ("scores", "test", "as is"):
        scores = scores.get(key) if isinstance(scores, dict) else None
    found = {name: _spread(scores.get(name)) for name in _METRICS} if isinstance(scores, dict) else {}
    found |= {name: _spread(told.get(name)) for name in _COMPARED}
    return {
        name: spread
        for name, spread in found.items()
        if spread is not None and (name in _COMPARED or 0 <= spread.mean <= 1)
    }


def _spread(told: object) -> Spread | None:
    if not isinstance(told, dict):
        return None
    each, values = told.get("per_seed"), _scores([told.get(name) for name in ("mean", "low", "high")])
    if values is None:
        return None
    mean, low, high = values
    if not low <= mean <= high:
        return None
    return Spread(mean, low, high, (_scores(each) or ()) if isinstance(each, list) else ())


def _scores(values: Sequence[object]) -> tuple[float, ...] | None:
    found = [one for one in values if isinstance(one, int | float) and not isinstance(one, bool)]
    sound = tuple(float(one) for one in found if abs(one) <= _LARGEST)
    return sound if len(sound) == len(values) else None
