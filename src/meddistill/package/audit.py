"""``audit.json``: what was measured of what a package tells about patients; any JSON object of bounded size and depth.

Its fields are those of the program that measured. A reader checks only that no text in it deceives or acts.
"""

from meddistill.package import limits, strict_json
from meddistill.package.text import quote, trace, unsafe


def audit_problems(data: bytes) -> list[str]:
    """What an ``audit.json`` must not hold; empty if it is harmless."""
    try:
        document = strict_json.parse(data, limits.MAX_AUDIT_BYTES)
    except ValueError as error:
        return [str(error)]
    if not isinstance(document, dict):
        return [f"expected an object, found {quote(document)}"]
    texts = list(strict_json.texts(document))
    found = {problem for text in texts if (problem := unsafe(text))}
    found |= {f"what looks like {kind}" for text in texts if (kind := trace(text))}
    return [f"a text holds {problem}" for problem in sorted(found)]
