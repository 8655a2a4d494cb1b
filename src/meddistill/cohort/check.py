"""Everything that can be wrong with a scanned source, found at once: errors, leaks and warnings.

The codes are stable; ``docs/cohorts.md`` lists them with their meaning and remedy.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from meddistill.cohort.patients import hint
from meddistill.cohort.problems import CohortError, Level, Problem, in_order, number, problem
from meddistill.cohort.scan import UNSPLIT, Facts, Scan
from meddistill.cohort.types import SPLITS, Record
from meddistill.runtime.words import spelling

__all__ = ["CohortError", "Problem", "check"]

_DARK = 8
_LONG = 2
_LEAK_REMEDY = (
    "Let distill split anew by patient (--resplit), drop the copies from the less protected split (--drop-leak), "
    "or keep them knowing that results will look too good (--allow-leak)."
)
_LEAK_REMEDY_EVALUATION = "Mend the splits: results on one look too good for a model that was trained on the other."
Splits = npt.NDArray[np.int8]


def check(
    scan: Scan,
    images_per_class: int | None = None,
    splits: Splits | None = None,
    *,
    evaluation: bool = False,
    leak_remedy: str | None = None,
) -> tuple[Problem, ...]:
    """All problems of ``scan``, errors first, then leaks, then warnings.

    ``splits`` ``(N,)``: the splits that will be used, for the checks of classes in splits; by default those that the
    source gives. Leaks are always looked for in what the source gives. ``images_per_class``: how many images a class
    will be distilled into. ``evaluation``: a source that is only evaluated on may lack training images and classes.
    ``leak_remedy``: what to advise about leaks in the place of the options of ``distill``.
    """
    used = scan.given_splits if splits is None else splits
    advice = leak_remedy or (_LEAK_REMEDY_EVALUATION if evaluation else _LEAK_REMEDY)
    found = [
        *scan.listing.problems,
        *_unreadable(scan),
        *leaks(scan, advice),
        *images(scan),
        *classes(scan, used, images_per_class, evaluation=evaluation),
    ]
    return in_order(found)


def leaks(scan: Scan, remedy: str) -> list[Problem]:
    """Patients and identical images that stand in more than one of the given splits: one problem a pair of splits."""
    return [
        *_across(scan, _patients(scan), "patient-across-splits", _patient_leak, remedy),
        *_across(scan, _identical(scan), "duplicate-across-splits", _duplicate_leak, remedy),
    ]


def images(scan: Scan) -> list[Problem]:
    """What is odd about single images, copies within a split, and patients."""
    checks = (_constant, _duplicates, _conflicts, _modes, _reduced, _dark, _long, _upscaled, _patient_ids)
    return [found for look in checks for found in look(scan)]


def classes(scan: Scan, splits: Splits, images_per_class: int | None, *, evaluation: bool = False) -> list[Problem]:
    """Classes that are missing or too small, in the splits that will be used."""
    if not scan.records:
        return []
    found = [*_one_class(scan, evaluation), *_similar_names(scan)]
    if (splits != UNSPLIT).any():
        found += [*_absent(scan, splits, evaluation), *_too_few(scan, splits, images_per_class)]
    return found


def _unreadable(scan: Scan) -> list[Problem]:
    if not scan.unreadable:
        return []
    what = f"{number(len(scan.unreadable), 'image')} cannot be read"
    remedy = "Replace or remove them, or leave them out with --skip-unreadable."
    return [problem("unreadable", "error", what, scan.unreadable, remedy)]


def _across(
    scan: Scan,
    members: dict[Hashable, list[int]],
    code: str,
    describe: Callable[[Scan, list[tuple[Hashable, list[int]]], str], tuple[str, list[str]]],
    remedy: str,
) -> list[Problem]:
    given = scan.given_splits
    spread = {key: rows for key, rows in members.items() if len({*given[rows].tolist()} - {UNSPLIT}) > 1}
    found = []
    # Test with train first: the leak that makes published numbers wrong.
    for first, second in ((0, 2), (1, 2), (0, 1)):
        both = [(key, rows) for key, rows in spread.items() if {first, second} <= set(given[rows].tolist())]
        inside = [(key, [row for row in rows if given[row] in (first, second)]) for key, rows in both]
        if inside:
            what, places = describe(scan, inside, f"both {SPLITS[first]} and {SPLITS[second]}")
            found.append(problem(code, "leak", what, places, remedy))
    return found


def _patient_leak(scan: Scan, groups: list[tuple[Hashable, list[int]]], where: str) -> tuple[str, list[str]]:
    count = sum(len(rows) for _, rows in groups)
    verb = "is" if len(groups) == 1 else "are"
    what = f"{number(len(groups), 'patient')} {verb} in {where} ({number(count, 'image')})"
    return what, [str(key) for key, _ in groups]


def _duplicate_leak(scan: Scan, groups: list[tuple[Hashable, list[int]]], where: str) -> tuple[str, list[str]]:
    copies = number(sum(len(rows) for _, rows in groups), "copy", "copies")
    what = f"{number(len(groups), 'image')} in {where}, pixel for pixel ({copies}{_bytewise(scan, groups)})"
    return what, [_equation(scan, rows) for _, rows in groups]


def _bytewise(scan: Scan, groups: list[tuple[Hashable, list[int]]]) -> str:
    files = sum(_same_file(scan, rows) for _, rows in groups)
    return f"; {files} of them byte for byte" if files else ""


def _same_file(scan: Scan, rows: list[int]) -> bool:
    digests = {scan.facts[row].file_digest for row in rows}
    return len(digests) == 1 and None not in digests


def _equation(scan: Scan, rows: list[int]) -> str:
    return " = ".join(scan.records[row].where for row in rows[:3]) + (" = …" if len(rows) > 3 else "")


def _patients(scan: Scan) -> dict[Hashable, list[int]]:
    return _members((row, record.patient) for row, record in enumerate(scan.records) if record.patient)


def _identical(scan: Scan) -> dict[Hashable, list[int]]:
    # Constant images are equal without being copies of each other; they have a problem of their own.
    rows = ((row, facts.pixel_digest) for row, facts in enumerate(scan.facts) if not facts.constant)
    return {key: rows for key, rows in _members(rows).items() if len(rows) > 1}


def _members(keys: Iterable[tuple[int, Hashable]]) -> dict[Hashable, list[int]]:
    members: defaultdict[Hashable, list[int]] = defaultdict(list)
    for row, key in keys:
        members[key].append(row)
    return dict(members)


def _duplicates(scan: Scan) -> list[Problem]:
    given = scan.given_splits
    within = [
        (key, same)
        for key, rows in _identical(scan).items()
        for split in sorted(set(given[rows].tolist()))
        if len(same := [row for row in rows if given[row] == split]) > 1
    ]
    if not within:
        return []
    place = "in the same split" if (given != UNSPLIT).any() else "in the source"
    what = f"{number(len(within), 'image')} more than once {place}{_bytewise(scan, within)}"
    return [problem("duplicate", "warning", what, [_equation(scan, rows) for _, rows in within], "Remove the copies.")]


def _conflicts(scan: Scan) -> list[Problem]:
    conflicts = [rows for rows in _identical(scan).values() if len({scan.records[row].label for row in rows}) > 1]
    if not conflicts:
        return []
    what = f"{number(len(conflicts), 'image')} under more than one class, pixel for pixel"
    remedy = "Decide which class is right and remove the other copy."
    return [problem("label-conflict", "warning", what, [_equation(scan, rows) for rows in conflicts], remedy)]


def _where(scan: Scan, condition: Callable[[Facts], bool]) -> list[str]:
    return [record.where for record, facts in zip(scan.records, scan.facts, strict=True) if condition(facts)]


def _constant(scan: Scan) -> list[Problem]:
    places = _where(scan, lambda facts: facts.constant)
    if not places:
        return []
    what = f"{number(len(places), 'image')} with a single value all over"
    return [problem("constant", "warning", what, places, "Remove them unless they are meant.")]


def _modes(scan: Scan) -> list[Problem]:
    found = []
    for name, values in (("grey and colour", _values(scan, "colour")), ("8-bit and 16-bit", _values(scan, "bits"))):
        if len(values) > 1:
            few = min(values, key=lambda key: len(values[key]))
            what = f"{name} images are mixed; {number(len(values[few]), 'image')} of the rarer kind"
            remedy = "All are converted to the richer kind; remove them if they are strays."
            found.append(problem("mixed-modes", "warning", what, values[few], remedy))
    return found


def _values(scan: Scan, fact: str) -> dict[Hashable, list[str]]:
    values: defaultdict[Hashable, list[str]] = defaultdict(list)
    for record, facts in zip(scan.records, scan.facts, strict=True):
        values[getattr(facts, fact)].append(record.where)
    return values


def _reduced(scan: Scan) -> list[Problem]:
    places = _where(scan, lambda facts: "stored" in facts.mode)
    if not places:
        return []
    what = f"{number(len(places), 'image')} stored with more bits than are read"
    return [problem("reduced-depth", "warning", what, places, "16-bit colour is read at 8 bits; grey keeps its 16.")]


def _dark(scan: Scan) -> list[Problem]:
    wide = [facts for facts in scan.facts if facts.bits == 16]
    brightest = max((facts.brightest for facts in wide), default=0)
    if not wide or brightest * _DARK > 65535:
        return []
    what = f"16-bit images whose largest value is {brightest} of 65535 (perhaps 12 bits stored in 16)"
    remedy = "Rescale them so that white is 65535; previews will be black otherwise."
    return [problem("dark", "warning", what, (), remedy)]


def _long(scan: Scan) -> list[Problem]:
    if scan.fit != "crop":
        return []
    places = _where(scan, lambda facts: max(facts.width, facts.height) > _LONG * min(facts.width, facts.height))
    if not places:
        return []
    what = f"{number(len(places), 'image')} of which the central square is less than half"
    return [problem("much-cropped", "warning", what, places, "Use fit 'pad' or 'stretch' if the ends matter.")]


def _upscaled(scan: Scan) -> list[Problem]:
    size = scan.size
    if size is None:
        return []
    places = _where(scan, lambda facts: min(facts.width, facts.height) < size)
    if not places:
        return []
    what = f"{number(len(places), 'image')} smaller than the working size of {size} pixels"
    return [problem("upscaled", "warning", what, places, "They are enlarged; a smaller size would lose nothing.")]


def _patient_ids(scan: Scan) -> list[Problem]:
    unknown = [record for record in scan.records if not record.names_patient]
    if len(unknown) < len(scan.records):
        return _unnamed(unknown)
    if any(record.patient for record in unknown):
        return []
    names = [PurePosixPath(record.where.rstrip(")")).name for record in scan.records]
    pattern = hint(names)
    if pattern is None:
        return []
    what = "no patient ids were given, but the file names look as if they held some"
    remedy = f"Try --patient-pattern '{pattern}' if that is the patient, so that leaks can be seen."
    return [problem("patient-hint", "warning", what, (), remedy)]


def _unnamed(unknown: list[Record]) -> list[Problem]:
    if not unknown:
        return []
    alone = sum(record.patient is None for record in unknown)
    held = len(unknown) - alone
    told = [f"{held} held together by PatientID, study or volume"] * (held > 0)
    told += [f"{alone} taken each for a patient of its own"] * (alone > 0)
    what = f"{number(len(unknown), 'image')} without a patient id ({', '.join(told)})"
    places = [record.where for record in unknown]
    return [problem("patient-unknown", "warning", what, places, "Widen the pattern, fill the column, or give one.")]


def _one_class(scan: Scan, evaluation: bool) -> list[Problem]:
    names = scan.listing.classes
    if len(names) > 1:
        return []
    what = f"only one class, {', '.join(names)}: at least two are needed"
    remedy = "Check that the source is the folder above the class folders."
    return [problem("one-class", "warning" if evaluation else "error", what, (), remedy)]


def _similar_names(scan: Scan) -> list[Problem]:
    spellings: defaultdict[str, list[str]] = defaultdict(list)
    for name in scan.listing.classes:
        spellings[spelling(name)].append(name)
    places = [" / ".join(names) for names in spellings.values() if len(names) > 1]
    if not places:
        return []
    what = "classes whose names differ only in case, spaces or hyphens"
    return [problem("similar-classes", "warning", what, places, "Give them one name if they are one class.")]


def _absent(scan: Scan, splits: Splits, evaluation: bool) -> list[Problem]:
    found = []
    shared = _shared_patient(scan) if (splits != scan.given_splits).any() else ""
    for index, split in enumerate(SPLITS):
        counts = np.bincount(scan.labels[splits == index], minlength=len(scan.listing.classes))
        missing = [name for name, count in zip(scan.listing.classes, counts, strict=True) if not count]
        if len(missing) == len(counts) and not evaluation:
            remedy = shared or f"Give some {split} images of every class, or leave the splitting to meddistill."
            found.append(problem("empty-split", "error", f"no image is left in {split}", (), remedy))
        elif missing and (counts.any() or not evaluation):
            level: Level = "error" if split == "train" and not evaluation else "warning"
            what = f"{number(len(missing), 'class', 'classes')} without any image in {split}"
            remedy = shared or "Add images of the class, or remove it from all splits."
            found.append(problem("class-absent", level, what, missing, remedy))
    return found


def _shared_patient(scan: Scan) -> str:
    """A remedy where most images have one patient id, perhaps a placeholder: no split that is assigned parts them."""
    most = max(map(len, _patients(scan).values()), default=0)
    if 2 * most <= len(scan.records):
        return ""
    told = f"{most} of {len(scan.records)} images have one patient id, study or volume, and stay in one split"
    return f"{told}: if they are not one patient's, name the patients with --patient-column or --patient-pattern."


def _too_few(scan: Scan, splits: Splits, images_per_class: int | None) -> list[Problem]:
    if images_per_class is None:
        return []
    counts = np.bincount(scan.labels[splits == 0], minlength=len(scan.listing.classes))
    short = [
        f"{name} ({count})"
        for name, count in zip(scan.listing.classes, counts, strict=True)
        if 0 < count < images_per_class
    ]
    if not short:
        return []
    what = f"{number(len(short), 'class', 'classes')} with fewer than {images_per_class} training images"
    remedy = f"Ask for at most {min(count for count in counts if count)} images per class, or add images."
    return [problem("too-few-images", "error", what, short, remedy)]
