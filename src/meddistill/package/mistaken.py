"""A model given where a package is expected: no broken package, and its user is told what takes it."""

from pathlib import Path

from meddistill.package import container, limits, strict_json
from meddistill.package.members import CARD, MEMBERS, SIGNATURE
from meddistill.runtime.errors import InputError

_TRAINED = "meddistill model "  # what the format in a trained model's header begins with, before its version
_MAX_HEADER_BYTES = 2**20
_WEIGHTS = "weights.bin"  # the member of a compressed model; a recipe has none


def refuse_model(path: Path, data: bytes) -> None:
    """Raises :class:`InputError` if the bytes of a file that is no sound package are a model's."""
    if _is_trained(data):
        kind, more = "trained", "; `meddistill compress` makes a file of it that can be signed and verified"
    elif _is_compressed(data):
        kind, more = "compressed", ""
    else:
        return
    raise InputError(
        f"{path} is a {kind} model, not a package (NAME.mdz): use it with `meddistill predict {path} IMAGES` or "
        f"`meddistill evaluate {path} SOURCE`{more}"
    )


def _is_trained(data: bytes) -> bool:
    """Whether it begins as a safetensors file of ``meddistill train``: the header's length, then its JSON."""
    length = int.from_bytes(data[:8], "little")
    if length > _MAX_HEADER_BYTES:
        return False
    header = _object(data[8 : 8 + length], _MAX_HEADER_BYTES)
    metadata = header.get("__metadata__")
    return isinstance(metadata, dict) and str(metadata.get("format")).startswith(_TRAINED)


def _is_compressed(data: bytes) -> bool:
    """Whether it has a compressed model's members alone, and a card that says what the weights have seen."""
    members = container.unpack(data, [], MEMBERS | {_WEIGHTS: limits.MAX_TENSORS_BYTES})
    if not members.keys() <= {CARD, _WEIGHTS, SIGNATURE}:
        return False
    return "saw" in _object(bytes(members.get(CARD, b"")), limits.MAX_CARD_BYTES)


def _object(data: bytes, limit: int) -> dict[str, object]:
    try:
        found = strict_json.parse(data, limit)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
