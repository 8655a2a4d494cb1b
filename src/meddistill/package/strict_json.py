"""JSON from strangers: bounded size and depth, no duplicate keys, no NaN or infinity, no endless numbers."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from meddistill.package import limits
from meddistill.package.text import quote

# A string without its closing quote is one token too, so that the scan stays linear whatever comes.
_TOKENS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)


def parse(data: bytes, limit: int) -> Any:
    """The value of a JSON document of at most ``limit`` bytes. Raises :class:`ValueError` with the reason."""
    if len(data) > limit:
        raise ValueError(f"{len(data)} bytes; at most {limit} are allowed")
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    _check_depth(text)
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos}") from None


def texts(value: object) -> Iterator[str]:
    """Every text in a JSON value, names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def _check_depth(text: str) -> None:
    depth = 0
    for token in _TOKENS.finditer(text):
        if token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
        if depth > limits.MAX_JSON_DEPTH:
            raise ValueError(f"nested more than {limits.MAX_JSON_DEPTH} deep at character {token.start()}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {quote(key)} is there twice")
        result[key] = value
    return result


def _integer(digits: str) -> int:
    if len(digits) > limits.MAX_JSON_NUMBER or abs(int(digits)) > limits.MAX_INTEGER:
        raise ValueError(f"the number {quote(digits)} is beyond ±{limits.MAX_INTEGER}")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits) if len(digits) <= limits.MAX_JSON_NUMBER else math.inf
    if not math.isfinite(value):
        raise ValueError(f"the number {quote(digits)} is too long or too large")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that a card may hold")
