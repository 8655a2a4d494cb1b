"""Train, validation and test: stratified by class; a patient and all copies of an image stay on one side."""

import warnings
from collections.abc import Hashable, Iterable

import numpy as np
import numpy.typing as npt

from meddistill.cohort.scan import UNSPLIT, Scan
from meddistill.cohort.types import SPLITS
from meddistill.runtime.streams import derive

FRACTIONS = (0.7, 0.1, 0.2)
_TRAIN, _VAL, _TEST = range(len(SPLITS))
_FEW, _ABOUT = 0.05, 0.1  # of a fold's images: what a group without weight has; of its share: how near folds are alike


def split(scan: Scan, seed: int, fractions: tuple[float, float, float] = FRACTIONS) -> npt.NDArray[np.int8]:
    """A split for every image of the scan, ``(N,)`` indices into ``SPLITS``, whatever splits the source gives."""
    return assign(scan.labels, groups(scan), seed, fractions)


def complete(scan: Scan, splits: npt.NDArray[np.int8], seed: int) -> npt.NDArray[np.int8]:
    """``splits`` with those that no image has yet (validation, test) taken out of the training images.

    ``splits`` ``(N,)``: indices into ``SPLITS``, or all ``UNSPLIT``. What is taken keeps the proportions of
    ``FRACTIONS`` to what stays. Without any training image nothing is changed.
    """
    if (splits == UNSPLIT).all():
        return split(scan, seed)
    present = set(splits.tolist())
    rows = np.flatnonzero(splits == _TRAIN)
    wanted = tuple(0.0 if index in present and index != _TRAIN else part for index, part in enumerate(FRACTIONS))
    if not len(rows) or sum(wanted) == wanted[_TRAIN]:
        return splits
    part = assign(scan.labels[rows], groups(scan)[rows], seed, (wanted[0], wanted[1], wanted[2]))
    result: npt.NDArray[np.int8] = splits.copy()
    result[rows] = part
    return result


def assign(
    labels: npt.NDArray[np.int64],
    group: npt.NDArray[np.int64],
    seed: int,
    fractions: tuple[float, float, float] = FRACTIONS,
) -> npt.NDArray[np.int8]:
    """Splits for images with ``labels`` ``(N,)`` so that no ``group`` ``(N,)`` is in two; a function of its arguments.

    The test images are taken first, then the validation images from the rest. Where every image is a group of its own
    this is scikit-learn's ``StratifiedShuffleSplit`` (exact shares); otherwise a fold of its
    ``StratifiedGroupKFold``, with as many folds as the share asks for (the nearest shares that groups allow): the first
    one, or, where a group is large, one drawn from the seed.
    The last group that holds a class is never taken, so that every class stays in training.
    """
    result = np.zeros(len(labels), np.int8)
    rest = np.arange(len(labels))
    for index in (_TEST, _VAL):
        share = fractions[index] / sum(fractions[: index + 1])
        taken = _take(labels[rest], group[rest], share, derive(seed, "split", SPLITS[index]) % 2**32)
        result[rest[taken]] = index
        rest = np.delete(rest, taken)
    return result


def groups(scan: Scan) -> npt.NDArray[np.int64]:
    """``(N,)`` numbers, equal for images that must stay together: one patient or equal pixels, however linked.

    Constant images are equal without being copies, and would link patients who have nothing to do with each other.
    """
    patients = ((row, ("patient", record.patient)) for row, record in enumerate(scan.records) if record.patient)
    pixels = ((row, ("pixels", facts.pixel_digest)) for row, facts in enumerate(scan.facts) if not facts.constant)
    return _linked(len(scan.records), [*patients, *pixels])


def _linked(count: int, keys: Iterable[tuple[int, Hashable]]) -> npt.NDArray[np.int64]:
    """Union-find: rows that share a key, directly or through others, get the smallest row number among them."""
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[Hashable, int] = {}
    for row, key in keys:
        one, other = root(first.setdefault(key, row)), root(row)
        parent[max(one, other)] = min(one, other)
    return np.array([root(row) for row in range(count)], np.int64)


def _take(
    labels: npt.NDArray[np.int64], group: npt.NDArray[np.int64], share: float, state: int
) -> npt.NDArray[np.intp]:
    """Rows to take out so that they are ``share`` of all, of each class, and whole groups."""
    free = np.flatnonzero(~_last_of_a_class(labels, group))
    if share <= 0 or not len(free):
        return np.empty(0, np.intp)
    labels, group = labels[free], group[free]
    if len(np.unique(group)) == len(group) and _can_shuffle(labels, share):
        return free[_shuffled(labels, round(share * len(labels)), state)]
    return free[_folded(labels, group, share, state)]


def _last_of_a_class(labels: npt.NDArray[np.int64], group: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """``(N,)``: whether the image's group is the only one that holds some class."""
    held = [np.unique(group[labels == label]) for label in np.unique(labels)]
    return np.isin(group, [found[0] for found in held if len(found) == 1])


def _can_shuffle(labels: npt.NDArray[np.int64], share: float) -> bool:
    counts = np.unique(labels, return_counts=True)[1]
    taken = round(share * len(labels))
    return bool(counts.min() >= 2 and min(taken, len(labels) - taken) >= len(counts))


def _shuffled(labels: npt.NDArray[np.int64], count: int, state: int) -> npt.NDArray[np.intp]:
    from sklearn.model_selection import StratifiedShuffleSplit

    splitter = StratifiedShuffleSplit(n_splits=1, test_size=count, random_state=state)
    _, taken = next(splitter.split(labels, labels))
    return np.sort(taken).astype(np.intp)


def _folded(
    labels: npt.NDArray[np.int64], group: npt.NDArray[np.int64], share: float, state: int
) -> npt.NDArray[np.intp]:
    from sklearn.model_selection import StratifiedGroupKFold

    largest = int(np.unique(labels, return_counts=True)[1].max())
    folds = min(round(1 / share), largest, len(np.unique(group)))
    if folds < 2:
        return np.empty(0, np.intp)
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=state)
    with warnings.catch_warnings():
        # It warns of classes with fewer images than folds; the check of the result says which split lacks which class.
        warnings.simplefilter("ignore", UserWarning)
        drawn = [np.sort(taken).astype(np.intp) for _, taken in splitter.split(labels, labels, group)]
    if np.bincount(group).max() <= _FEW * len(drawn[0]):
        return drawn[0]
    # The splitter places large groups first, whatever the seed: the first fold would always be theirs.
    away = [abs(len(taken) / len(labels) - share) for taken in drawn]
    near = [taken for taken, far in zip(drawn, away, strict=True) if far <= min(away) + _ABOUT * share]
    return near[state % len(near)]
