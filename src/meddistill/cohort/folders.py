"""Class folders (``class/…/image``) and split-and-class folders (``train/class/…/image``)."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from meddistill.cohort.files import KINDS, SUFFIXES, header_problems, is_picture, listed
from meddistill.cohort.options import ReadOptions
from meddistill.cohort.patients import nobody_named, patient_finder, whose
from meddistill.cohort.problems import Problem, number, problem
from meddistill.cohort.types import Frame, Listing, NoPictureError, Record, SplitName
from meddistill.runtime.errors import InputError

SPLIT_NAMES: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
HIDDEN = "hidden"
NO_PIXELS = "DICOM without pixels"
_SYSTEM = frozenset({"thumbs.db", "desktop.ini", "__macosx", "dicomdir"})
_LAYOUT = "expected folders named after the classes, or train, val and test folders with class folders in them"

Parts = tuple[str, ...]


@dataclass
class Found:
    """What lies beneath a folder: image files and folders as parts of relative paths, and what was left aside."""

    images: list[Parts] = field(default_factory=list)
    folders: list[Parts] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    loops: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)


def find_images(root: Path) -> Found:
    """All image files beneath ``root``, in the order of their names; links are followed, loops are not."""
    found = Found()
    _walk(root, (), frozenset(), found)
    return found


def read_folder(source: Path, options: ReadOptions) -> Listing:
    """List a folder. Raises :class:`~meddistill.runtime.errors.InputError` if its layout is not one of the two."""
    found = find_images(source)
    _require_images(source, found)
    split_folders = _split_folders(source, found)
    depth = 2 if split_folders else 1
    labelled = [parts for parts in found.images if len(parts) > depth]
    _require_classes(source, labelled, depth, split_folders)
    frames = _frames(source, labelled, options, found)
    asked = f"the pattern {options.patient_pattern!r}" if options.patient_pattern else None
    finder = patient_finder(options.patient_pattern)
    owners = [whose(frame, finder(parts[-1]), asked=asked is not None) for parts, frame in frames]
    records = tuple(
        Record(
            "/".join(parts) + frame.place,
            parts[depth - 1],
            SPLIT_NAMES[parts[0].lower()] if split_folders else None,
            patient,
            frame.load,
            frame.peek,
            stands_in,
        )
        for (parts, frame), (patient, stands_in) in zip(frames, owners, strict=True)
    )
    classes = tuple(sorted({record.label for record in records}))
    kind = "split folders" if split_folders else "class folders"
    told = header_problems([("/".join(parts), frame) for parts, frame in frames], options)
    problems = (*_problems(found, depth, set(classes)), *told, *nobody_named(records, asked))
    return Listing(_name(source), kind, records, classes, dict(found.ignored), problems)


def _frames(source: Path, labelled: list[Parts], options: ReadOptions, found: Found) -> list[tuple[Parts, Frame]]:
    """Every picture of every file; files that hold none are counted as left aside."""
    frames = [(parts, frame) for parts in labelled for frame in _listed(source.joinpath(*parts), options, found)]
    if not frames:
        raise InputError(f"{source} holds no image ({found.ignored[NO_PIXELS]} × {NO_PIXELS} found): {_LAYOUT}")
    return frames


def _listed(path: Path, options: ReadOptions, found: Found) -> tuple[Frame, ...]:
    try:
        return listed(path, options)
    except NoPictureError:
        found.ignored[NO_PIXELS] += 1
        return ()


def path_problems(found: Found) -> list[Problem]:
    """Folders that could not be entered and links that lead back to a folder above them."""
    problems = []
    if found.closed:
        what = f"{number(len(found.closed), 'folder or link', 'folders or links')} cannot be opened"
        problems.append(problem("closed-folder", "error", what, found.closed, "Allow reading, or remove them."))
    if found.loops:
        what = f"{number(len(found.loops), 'link')} leading back to a folder above, not followed"
        problems.append(problem("link-loop", "warning", what, found.loops, "Remove the links."))
    return problems


def ignored_problems(ignored: Counter[str]) -> list[Problem]:
    """Files that were left aside, hidden and system files excepted: nobody misses those."""
    kinds = [f"{count} × {suffix}" for suffix, count in sorted(ignored.items()) if suffix != HIDDEN]
    if not kinds:
        return []
    remedy = f"Save them as {KINDS} if they are images; otherwise nothing needs to be done."
    return [problem("ignored-files", "warning", "files that are not images were left aside", kinds, remedy)]


def _walk(folder: Path, parts: Parts, above: frozenset[tuple[int, int]], found: Found) -> None:
    try:
        state = folder.stat()
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        found.closed.append(_closed(parts or (str(folder),), error))
        return
    here = (state.st_dev, state.st_ino)
    if here in above:
        found.loops.append("/".join(parts))
        return
    for entry in ordered:
        _sort_in(entry, (*parts, entry.name), above | {here}, found)


def _closed(parts: Parts, error: OSError) -> str:
    return f"{'/'.join(parts)} ({error.strerror})"


def _sort_in(entry: os.DirEntry[str], parts: Parts, above: frozenset[tuple[int, int]], found: Found) -> None:
    suffix = PurePath(entry.name).suffix.lower()
    if entry.name.startswith(".") or entry.name.lower() in _SYSTEM:
        found.ignored[HIDDEN] += 1
        return
    try:
        folder = entry.is_dir()
    except OSError as error:  # of a link to itself, or to where nobody may look
        found.closed.append(_closed(parts, error))
        return
    if folder:
        found.folders.append(parts)
        _walk(Path(entry.path), parts, above, found)
    elif suffix in SUFFIXES or is_picture(Path(entry.path)):
        found.images.append(parts)
    else:
        found.ignored[suffix or "no suffix"] += 1


def _require_images(source: Path, found: Found) -> None:
    if found.images:
        return
    if found.closed:
        raise InputError(f"{source} cannot be read: {', '.join(found.closed[:3])}. Allow reading it")
    if not found.ignored and not found.folders:
        raise InputError(f"{source} is an empty folder: {_LAYOUT}")
    other = ", ".join(f"{count} × {suffix}" for suffix, count in sorted(found.ignored.items())) or "only empty folders"
    raise InputError(f"{source} holds no {KINDS} image ({other} found): {_LAYOUT}{_csv_hint(source)}")


def _split_folders(source: Path, found: Found) -> bool:
    top = sorted({parts[0] for parts in found.images if len(parts) > 1})
    splits = [name for name in top if name.lower() in SPLIT_NAMES]
    if splits and len(splits) < len(top):
        others = ", ".join(name for name in top if name not in splits)
        raise InputError(
            f"{source} mixes split folders ({', '.join(splits)}) and other folders with images ({others}): {_LAYOUT}. "
            "Move the others away, or name splits and classes in a CSV"
        )
    return bool(splits)


def _require_classes(source: Path, labelled: list[Parts], depth: int, split_folders: bool) -> None:
    if not labelled:
        where = "directly in the split folders" if split_folders else "directly in the folder"
        raise InputError(
            f"{source}: all images lie {where}, so their classes are not known: {_LAYOUT}{_csv_hint(source)}"
        )
    inner = {parts[1] for parts in labelled if len(parts) > 2}
    nested = not split_folders and inner and all(name.lower() in SPLIT_NAMES for name in inner)
    if nested and len({parts[0] for parts in labelled}) == 1:
        raise InputError(f"{source} holds one folder with the splits in it: give {source / labelled[0][0]} instead")
    if nested:
        raise InputError(f"{source} has split folders within class folders; put the split first: train/class/image.png")


def _csv_hint(source: Path) -> str:
    tables = sorted(path.name for path in source.glob("*.csv"))
    return f". The folder holds {', '.join(tables[:3])}: give that file if it names the images" if tables else ""


def _name(source: Path) -> str:
    return source.resolve().name or str(source)


def _problems(found: Found, depth: int, classes: set[str]) -> tuple[Problem, ...]:
    problems = path_problems(found) + ignored_problems(found.ignored)
    outside = ["/".join(parts) for parts in found.images if len(parts) <= depth]
    if outside:
        what = f"{number(len(outside), 'image')} outside any class folder, left aside"
        problems.append(problem("outside-class", "warning", what, outside, "Move them into a class folder."))
    filled = {parts[:depth] for parts in found.images if len(parts) > depth}
    empty = ["/".join(parts) for parts in found.folders if len(parts) == depth and parts not in filled]
    if empty:
        what = f"{number(len(empty), 'class folder')} without images"
        problems.append(problem("empty-class", "warning", what, empty, "Fill or remove them."))
    return tuple(problems)
