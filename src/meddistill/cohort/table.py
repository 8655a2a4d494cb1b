"""A CSV with one image a row: path, label, and if there are any patient and split.

Instead of a path a row may have an identifier of DICOM headers (SOPInstanceUID, SeriesInstanceUID, StudyInstanceUID or
PatientID); it then labels every file that has it.
"""

import csv
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from meddistill.cohort.dicom import KEYS, is_dicom, keys_of
from meddistill.cohort.files import SUFFIXES, header_problems, listed
from meddistill.cohort.folders import SPLIT_NAMES, find_images
from meddistill.cohort.options import ReadOptions
from meddistill.cohort.patients import nobody_named, patient_finder, whose
from meddistill.cohort.problems import Problem, number, problem
from meddistill.cohort.types import Frame, Listing, NoPictureError, Record, SplitName
from meddistill.runtime.errors import InputError

_DELIMITERS = ",;\t"
_MULTI_LABEL = "|;"


@dataclass(frozen=True)
class _Row:
    line: int
    cells: dict[str, str]
    too_long: bool = False  # more cells than the header has columns, and not all of these empty


@dataclass(frozen=True)
class _Columns:
    path: str
    label: str
    patient: str | None
    split: str | None


@dataclass
class _Faults:
    """Rows that cannot become records, by what is wrong with them."""

    empty_path: list[str] = field(default_factory=list)
    empty_label: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    ambiguous: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    too_long: list[str] = field(default_factory=list)
    no_pixels: list[str] = field(default_factory=list)


def read_table(source: Path, options: ReadOptions) -> Listing:
    """List a CSV (comma, semicolon or tab; UTF-8). Paths are relative to ``options.images`` or the CSV's folder.

    A path without a suffix (HAM10000's ``image_id``) stands for the one image file of that name. A file that is not
    at its path is looked for by name in all folders beneath. Faulty rows are in the listing's problems. Raises
    :class:`~meddistill.runtime.errors.InputError` if the file cannot be read or lacks a column.
    """
    header, rows = _read_rows(source)
    columns = _columns(source, header, options)
    root = options.images if options.images is not None else source.parent
    if not root.is_dir():
        raise InputError(
            f"the images folder {root} does not exist or is not a folder: give the one that holds the images"
        )
    faults = _Faults()
    locate = _Header(root, columns.path) if columns.path in KEYS else _Locator(root)
    found = [entry for row in rows for entry in _entries(source, columns, locate, options, faults, row)]
    if not rows:
        raise InputError(f"{source} has a header but no rows: expected one row an image")
    records = tuple(record for record, _, _ in found)
    classes = tuple(sorted({record.label for record in records}))
    told = header_problems([(name, frame) for _, name, frame in found], options)
    unnamed = nobody_named(records, _asked(columns, options))
    problems = (*_problems(faults, rows, columns, root), *locate.problems(), *told, *unnamed)
    return Listing(source.stem, "csv", records, classes, {}, problems)


class _Locator:
    """Finds the file that a path cell means."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[Path, dict[str, list[Path]]] = {}

    def __call__(self, cell: str) -> list[Path]:
        """The files that ``cell`` may mean: one if all is well, none, or several of the same name."""
        direct = self._root / cell
        if _is_file(direct):
            return [direct]
        if not {"/", "\\", os.sep}.isdisjoint(cell):
            return [path for path in self._beside(direct.parent).get(direct.name, []) if _is_file(path)]
        return self._by_name.get(cell, [])

    several = False

    def problems(self) -> list[Problem]:
        """Files that no row names are nobody's business."""
        return []

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        return _by_names(self._root.joinpath(*parts) for parts in find_images(self._root).images)

    def _beside(self, folder: Path) -> dict[str, list[Path]]:
        if folder not in self._folders:
            try:
                self._folders[folder] = _by_names(sorted(folder.iterdir()))
            except (OSError, ValueError):  # as below
                self._folders[folder] = {}
        return self._folders[folder]


def _by_names(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """By their names, with and without the suffix of a kind that is read."""
    names: dict[str, list[Path]] = {}
    for path in paths:
        for name in {path.name, _without_suffix(path.name)}:
            names.setdefault(name, []).append(path)
    return names


def _without_suffix(name: str) -> str:
    return next((name[: -len(suffix)] for suffix in SUFFIXES if name.lower().endswith(suffix)), name)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, a folder that may not be entered, a NUL
        return False


class _Header:
    """Finds the DICOM files whose header has the value of a cell."""

    several = True

    def __init__(self, root: Path, keyword: str) -> None:
        self._keyword = keyword
        self._files: dict[str, list[Path]] = {}
        self._without: list[str] = []
        self._named: set[str] = set()
        for parts in find_images(root).images:
            path = root.joinpath(*parts)
            key = keys_of(path, keyword) if is_dicom(path) else None
            if key is None:
                self._without.append("/".join(parts))
            else:
                self._files.setdefault(key, []).append(path)

    def __call__(self, cell: str) -> list[Path]:
        """All files of the identifier, none if there are none."""
        self._named.add(cell)
        return self._files.get(cell, [])

    def problems(self) -> list[Problem]:
        """Files that no row labels, told because an identifier may be misspelt."""
        unnamed = [path.name for key, paths in self._files.items() if key not in self._named for path in paths]
        found = unnamed + self._without
        if not found:
            return []
        what = f"{number(len(found), 'file')} whose {self._keyword} no row names, left aside"
        return [problem("unlabelled", "warning", what, found, "Add rows for them if they belong to the set.")]


def _entries(
    source: Path, columns: _Columns, locate: "_Locator | _Header", options: ReadOptions, faults: _Faults, row: _Row
) -> list[tuple[Record, str, Frame]]:
    """The records of a row: one a picture of its file or files, each with the file's name and the picture."""
    where = f"{source.name}:{row.line}"
    if row.too_long:
        faults.too_long.append(where)
        return []
    cell, label = row.cells[columns.path], row.cells[columns.label]
    paths = _paths(locate, cell, where, faults)
    split = _split(row, columns, where, faults)
    if not label:
        faults.empty_label.append(where)
        return []
    entries = []
    finder = patient_finder(options.patient_pattern)
    for path in paths:
        name = f"{where} ({path.name if locate.several else cell})"
        for frame in _frames(path, name, options, faults):
            named = row.cells[columns.patient] if columns.patient else finder(path.name)
            patient, stands_in = whose(frame, named, asked=_asked(columns, options) is not None)
            record = Record(name + frame.place, label, split, patient, frame.load, frame.peek, stands_in)
            entries.append((record, name, frame))
    return entries


def _frames(path: Path, name: str, options: ReadOptions, faults: _Faults) -> tuple[Frame, ...]:
    try:
        return listed(path, options)
    except NoPictureError:
        faults.no_pixels.append(name)
        return ()


def _asked(columns: _Columns, options: ReadOptions) -> str | None:
    """What names the patients, for people, if anything but the files does."""
    if columns.patient:
        return f"the column {columns.patient}"
    return f"the pattern {options.patient_pattern!r}" if options.patient_pattern else None


def _paths(locate: "_Locator | _Header", cell: str, where: str, faults: _Faults) -> list[Path]:
    if not cell:
        faults.empty_path.append(where)
        return []
    found = locate(cell)
    if len(found) > 1 and not locate.several:
        faults.ambiguous.append(f"{where} ({cell}: {len(found)} files)")
        return []
    if not found:
        faults.missing.append(f"{where} ({cell})")
    return found


def _split(row: _Row, columns: _Columns, where: str, faults: _Faults) -> SplitName | None:
    cell = row.cells[columns.split] if columns.split else ""
    if not cell:
        return None
    if cell.lower() not in SPLIT_NAMES:
        faults.split.append(f"{where} ({cell})")
    return SPLIT_NAMES.get(cell.lower())


def _read_rows(source: Path) -> tuple[list[str], list[_Row]]:
    try:
        with open(source, encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            delimiter = max(_DELIMITERS, key=head.count)
            lines = _lines(file, delimiter)
            header = [name.strip() for name in next(lines, (0, []))[1]]
            _require_header(source, header)
            return header, [_row(line, header, cells) for line, cells in lines]
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source} is not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8"
        ) from error
    except (csv.Error, OSError) as error:
        raise InputError(f"{source} cannot be read as a CSV: {error}") from error


def _lines(file: "Iterator[str]", delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(file, delimiter=delimiter)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield reader.line_num, cells


def _row(line: int, header: list[str], cells: list[str]) -> _Row:
    filled = [cell.strip() for cell in cells] + [""] * (len(header) - len(cells))
    return _Row(line, dict(zip(header, filled, strict=False)), any(filled[len(header) :]))


def _require_header(source: Path, header: list[str]) -> None:
    if not header:
        raise InputError(f"{source} is empty: expected a header such as path,label and one row an image")
    twice = sorted(name for name, count in Counter(header).items() if count > 1 and name)
    if twice:
        raise InputError(f"{source} has more than one column called {', '.join(twice)}: rename all but one")


def _columns(source: Path, header: list[str], options: ReadOptions) -> _Columns:
    if options.patient_column and options.patient_pattern:
        raise InputError("patients come from a column or from a pattern, not both: leave out one of the two")
    path = _path_column(header, options)
    wanted = [path, options.label_column, options.patient_column, options.split_column]
    missing = [name for name in wanted if name is not None and name not in header]
    if missing:
        raise InputError(
            f"{source} has no column {' and no column '.join(missing)}; its columns are {', '.join(header)}. "
            f"Name the columns for path and label{_ham_hint(header)}"
        )
    patient = options.patient_column or ("patient" if "patient" in header and not options.patient_pattern else None)
    split = options.split_column or ("split" if "split" in header else None)
    return _Columns(path, options.label_column, patient, split)


def _path_column(header: list[str], options: ReadOptions) -> str:
    """The column asked for; where the default one is missing, the first that identifies DICOM files."""
    default = options.path_column == ReadOptions.path_column
    keys = [key for key in KEYS if key in header]
    return keys[0] if default and keys and options.path_column not in header else options.path_column


def _ham_hint(header: list[str]) -> str:
    if not {"image_id", "dx", "lesion_id"} <= set(header):
        return ""
    return " (HAM10000's own file: path image_id, label dx, patient lesion_id, and the folder of the images)"


def _problems(faults: _Faults, rows: list[_Row], columns: _Columns, root: Path) -> tuple[Problem, ...]:
    found = [
        (faults.too_long, "too-many-cells", "with more cells than the header", "Put quotes around cells with commas."),
        (faults.empty_path, "empty-path", f"without a {columns.path}", "Fill the column or remove the rows."),
        (faults.empty_label, "empty-label", f"without a {columns.label}", "Fill the column or remove the rows."),
        (faults.missing, "missing-file", f"naming an image that is not in {root}", _missing_remedy(faults.missing)),
        (faults.ambiguous, "ambiguous-file", "naming several files", "Write the path with its folder and suffix."),
        (faults.no_pixels, "no-pixels", "naming a DICOM file that holds no picture", "Remove the rows."),
        (faults.split, "unknown-split", "with an unknown split", "Write train, val or test."),
    ]
    problems = [
        problem(code, "error", f"{number(len(places), 'row')} {what}", places, remedy)
        for places, code, what, remedy in found
        if places
    ]
    return (*problems, *_half_split(rows, columns), *_multi_label(rows, columns))


def _missing_remedy(places: list[str]) -> str:
    if os.sep == "/" and any("\\" in place for place in places):
        return "Write / in the place of \\ in paths, and name the folder with the images."
    return "Name the folder with the images."


def _half_split(rows: list[_Row], columns: _Columns) -> list[Problem]:
    empty = [f"row {row.line}" for row in rows if columns.split and not row.cells[columns.split]]
    if not empty or len(empty) == len(rows):
        return []
    what = f"{number(len(empty), 'row')} without a split while others have one"
    return [problem("missing-split", "error", what, empty, f"Fill the column {columns.split}, or empty it everywhere.")]


def _multi_label(rows: list[_Row], columns: _Columns) -> list[Problem]:
    """A cell such as ``effusion|mass`` is several labels if one of its parts is a label of its own elsewhere."""
    labels = {row.cells[columns.label] for row in rows}
    several = sorted(
        label
        for label in labels
        for mark in _MULTI_LABEL
        if mark in label and any(part.strip() in labels for part in label.split(mark))
    )
    if not several:
        return []
    what = f"{number(len(several), 'label')} that combine others; multi-label sets are not supported"
    return [problem("multi-label", "error", what, several, "Give each image one label.")]
