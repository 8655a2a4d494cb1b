"""Numbers as people read them, and words that can do no harm where they are shown."""

import re
import unicodedata

_WITHIN = re.compile(r"(?<=[^\W\d_])[-_]+(?=[^\W_])|(?<=\d)[-_]+(?=[^\W\d_])")
_JOINERS = "\u200c\u200d"


def size(count: float) -> str:
    """Bytes for people: ``812 B``, ``12.3 kB``, ``124 kB``, ``4.2 MB``."""
    for unit in ("B", "kB", "MB"):
        if round(count) < 1000:
            return f"{count:.1f} {unit}" if unit != "B" and round(count, 1) < 100 else f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def duration(seconds: float) -> str:
    """Seconds for people: ``4.2 s``, ``75 s``, ``12 min``, ``1 h 20 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def spelling(name: str) -> str:
    """Equal for names that differ in case, spaces, or hyphens and underscores within a word alone.

    What stands behind a word, or between two numbers, tells classes apart: HER2- is not HER2, nor grade 1-2 grade 12.
    """
    return _WITHIN.sub("", "".join(unicodedata.normalize("NFC", name).casefold().split()))


def visible(text: str) -> str:
    """The same text with characters that a terminal or a page would act upon shown as escapes.

    Packages and file names come from others: nothing in them may move the cursor or turn the direction of writing.
    """
    return "".join(sign if _is_harmless(sign) else _escape(sign) for sign in text)


def _is_harmless(sign: str) -> bool:
    """Spaces of any width are, and the two joiners without which Persian or Hindi words fall apart."""
    return sign == "\n" or sign.isprintable() or sign in _JOINERS or unicodedata.category(sign) == "Zs"


def _escape(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")
