"""Rules for every string in a card: which characters, how long, and no trace of patients; and escaping for Markdown."""

import re
import unicodedata
from collections.abc import Sequence

from meddistill.package import limits

# Invisible or direction-changing characters with which a text can show as something else than it is: Unicode's
# Default_Ignorable_Code_Point but the two joiners (U+200C, U+200D), without which Persian or Hindi words fall apart;
# the braille cell without dots; and what marks annotations. By first and last.
_DECEPTIVE_RANGES = (
    *((0x00AD, 0x00AD), (0x034F, 0x034F), (0x061C, 0x061C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F)),
    *((0x200B, 0x200B), (0x200E, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x2800, 0x2800), (0x3164, 0x3164)),
    *((0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB), (0x1BCA0, 0x1BCA3)),
    *((0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
)
_DECEPTIVE = frozenset(code for first, last in _DECEPTIVE_RANGES for code in range(first, last + 1))
_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})

_URL = re.compile(r"https?://\S+")
_EXTENSIONS = (
    "png|jpe?g|tiff?|bmp|gif|webp|dcm|dicom|nii|nrrd|npz|npy|csv|tsv|xlsx?|json|parquet|h5|hdf5|zip|gz|mdz|pdf|txt"
)
# What a program that shows a text as a web page would run or fetch.
_ACTIVE = re.compile(r"<[a-z/!?]|\b(?:javascript|vbscript)\s*:|\bdata:[a-z]+/", re.IGNORECASE)
_FORMULA = re.compile(r"\s*(?:[=@]|[+-].*[(|!\[])", re.DOTALL)
_DAY, _MONTH, _YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:19|20)\d\d"
_TRACES = (
    ("a path", re.compile(r"""\\|~/|\.\./|(?:^|[\s"'(=:])(?:/[\w.-]+/|\./|[A-Za-z]:/)""")),
    ("a file name", re.compile(rf"[\w-]\.(?:{_EXTENSIONS})\b", re.IGNORECASE)),
    ("a date", re.compile(rf"\b{_YEAR}([-/.]){_MONTH}\1{_DAY}\b|\b{_DAY}([-/.]){_DAY}\2{_YEAR}\b")),
    ("a DICOM identifier", re.compile(r"(?<!\d)\d+(?:\.\d+){4,}")),
    ("a long number (8 digits or more), as identifiers have", re.compile(r"(?<![\w.])\d{8,}(?!\w)")),
)


def quote(value: object, length: int = 60) -> str:
    """``value`` for a message: printable ASCII, quoted, at most about ``length`` characters of it."""
    text = ascii(value[: length + 1] if isinstance(value, str) else value)
    return text if len(text) <= length + 2 else text[: length - 1] + "…" + text[:1] * isinstance(value, str)


def problem(text: object, limit: int, *, blank: bool = False, urls: bool = False) -> str | None:
    """What is wrong with a card's string, or ``None``.

    ``limit`` is in characters; ``blank`` allows an empty text; ``urls`` allows web addresses, whose paths and
    file names are then not taken for those of patients.
    """
    if not isinstance(text, str):
        return f"expected a text, found {quote(text)}"
    if len(text) > limit:
        return f"{len(text)} characters; at most {limit} are allowed"
    if not blank and not text.strip():
        return "the text is empty"
    if found := unsafe(text):
        return f"{found} in {quote(text)}; remove them"
    kind = trace(_URL.sub("", text) if urls else text)
    return f"{quote(text)} looks like {kind}; nothing that may point to a patient belongs in a card" if kind else None


def unsafe(text: str) -> str | None:
    """What in ``text`` may deceive its reader or be run by the program that shows it, or ``None``."""
    if found := refused(text):
        codes = ", ".join(f"U+{ord(character):04X}" for character in found[:5])
        return f"control, line-breaking or invisible characters ({codes})"
    return "tags or addresses that a viewer might run" if _ACTIVE.search(text) else None


def refused(text: str) -> list[str]:
    """The control, line-breaking, invisible and direction-changing characters in ``text``, each once, sorted."""
    if text.isascii() and text.isprintable():
        return []
    return sorted(character for character in set(text) if _refused(character))


def trace(text: str) -> str | None:
    """What in ``text`` might point to a patient or a file (a path, file name, date, identifier), or ``None``."""
    return next((name for name, pattern in _TRACES if pattern.search(text)), None)


def class_problems(classes: Sequence[object]) -> list[str]:
    """All that forbids these class names in a package; call it before hours of work. Empty if nothing does."""
    if not 1 <= len(classes) <= limits.MAX_CLASSES:
        return [f"{len(classes)} classes; expected 1 to {limits.MAX_CLASSES}"]
    found = [(index, problem(name, limits.MAX_CLASS_NAME)) for index, name in enumerate(classes)]
    problems = [f"class {index}: {text}" for index, text in found if text]
    names = [unicodedata.normalize("NFC", name) for name in classes if isinstance(name, str)]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    return problems + [f"class {quote(name)} is there more than once" for name in twice]


def escape(text: str) -> str:
    """``text`` for Markdown, within a line or a table cell: no markup, no HTML, no link of its own."""
    entities = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
    return re.sub(r"[\\`*_\[\]{}#|~$!&<>]", lambda match: entities.get(match[0], "\\" + match[0]), text)


def cell(text: str) -> str:
    """``text`` for a table that a spreadsheet may open: behind an apostrophe if it could be run there as a formula.

    A sign alone runs nothing, and classes are called ``+ve`` and ``-``: that takes a call, or a way to another program
    or file besides.
    """
    return f"'{text}" if _FORMULA.match(unicodedata.normalize("NFKC", text)) else text


def _refused(character: str) -> bool:
    return unicodedata.category(character) in _REFUSED_CATEGORIES or ord(character) in _DECEPTIVE
