"""The member ``tensors.safetensors``: five small arrays, every shape, type and number checked on the way in and out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from meddistill.package import limits, strict_json
from meddistill.package.quantise import dequantise, quantise
from meddistill.package.text import quote
from meddistill.package.types import Card, Package

Array = npt.NDArray[Any]

_DTYPES = {"images": "U8", "scale": "F32", "offset": "F32", "labels": "F32", "step_sizes": "F32"}
_ITEM_BYTES = {"U8": 1, "F32": 4}


def encode(package: Package) -> bytes:
    """The member's bytes; the same package gives the same bytes. Raises :class:`InputError` as :func:`quantise`."""
    levels, scale, offset = quantise(package.images)
    arrays: dict[str, Array] = {"images": levels, "scale": scale, "offset": offset}
    arrays |= {"labels": package.labels, "step_sizes": package.step_sizes}
    return safetensors.numpy.save(
        {name: np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")) for name, array in arrays.items()}
    )


def decode(data: memoryview, card: Card | None, problems: list[str]) -> dict[str, Array]:
    """The arrays in ``data``, or ``{}``; what is wrong, also against the card, is appended to ``problems``.

    The header is checked here, against the bytes that are really there, before anything is allocated; the
    safetensors library then reads it once more with rules of its own.
    """
    before = len(problems)
    shapes = _header(data, problems)
    if len(problems) > before:
        return {}
    _shape_problems(shapes, card, problems)
    if len(problems) > before:  # numbers of shapes that do not belong together cannot be computed with
        return {}
    try:
        arrays = safetensors.numpy.load(bytes(data))
    except (SafetensorError, ValueError) as error:
        problems.append(f"tensors: not a safetensors file: {quote(str(error), 200)}")
        return {}
    _number_problems(arrays, card, problems)
    return arrays if len(problems) == before else {}


def images(arrays: Mapping[str, Array]) -> npt.NDArray[np.float32]:
    """The intensities of decoded arrays."""
    return dequantise(arrays["images"], arrays["scale"], arrays["offset"])


def package_problems(package: Package) -> list[str]:
    """What forbids writing these arrays under this card."""
    problems: list[str] = []
    arrays: dict[str, Array] = {name: getattr(package, name) for name in ("images", "labels", "step_sizes")}
    for name, array in arrays.items():
        if array.dtype != np.float32:
            problems.append(f"{name}: the type is {array.dtype}, expected float32")
    _shape_problems({name: array.shape for name, array in arrays.items()}, package.card, problems)
    if not problems:
        _label_problems(package.labels, package.card, problems)
        _step_problems(package.step_sizes, problems)
    return problems


def _header(data: memoryview, problems: list[str]) -> dict[str, tuple[int, ...]]:
    """Shapes by name, once names, types, shapes and offsets are what they must be."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(limits.MAX_TENSOR_HEADER_BYTES, len(data) - 8):
        problems.append(f"tensors: the header claims {length} bytes; at most {limits.MAX_TENSOR_HEADER_BYTES} may be")
        return {}
    try:
        header = strict_json.parse(bytes(data[8 : 8 + length]), limits.MAX_TENSOR_HEADER_BYTES)
    except ValueError as error:
        problems.append(f"tensors: the header is broken: {error}")
        return {}
    if not isinstance(header, dict) or header.keys() != _DTYPES.keys():
        names = sorted(header) if isinstance(header, dict) else header
        problems.append(f"tensors: found {quote(names, 200)}, expected exactly {', '.join(_DTYPES)}")
        return {}
    shapes = {name: _entry(name, entry, problems) for name, entry in header.items()}
    if all(shapes.values()):
        _offset_problems(header, len(data) - 8 - length, problems)
    return shapes


def _entry(name: str, entry: object, problems: list[str]) -> tuple[int, ...]:
    """The shape that one header entry states; ``()`` after a problem."""
    fields = entry if isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"} else None
    if fields is None or fields["dtype"] != _DTYPES[name]:
        problems.append(f"{name}: found {quote(entry, 120)}, expected dtype {_DTYPES[name]}, shape and data_offsets")
        return ()
    shape, span = fields["shape"], fields["data_offsets"]
    if not (_naturals(shape) and _naturals(span) and len(span) == 2 and 1 <= len(shape) <= 4 and 0 not in shape):
        problems.append(f"{name}: shape {quote(shape)} or data_offsets {quote(span)} is not possible")
        return ()
    size = _ITEM_BYTES[_DTYPES[name]]
    for side in shape:  # whole numbers of any size in Python: nothing overflows
        size *= side
    if span[1] - span[0] != size:
        problems.append(f"{name}: the shape {quote(shape)} needs {size} bytes, data_offsets {quote(span)} do not agree")
        return ()
    return tuple(shape)


def _naturals(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _offset_problems(header: Mapping[str, Any], size: int, problems: list[str]) -> None:
    position = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if entry["data_offsets"][0] != position:
            problems.append(f"{name}: its data overlaps another tensor's or leaves a gap at byte {position}")
            return
        position = entry["data_offsets"][1]
    if position != size:
        problems.append(f"tensors: the data take {size} bytes, the header accounts for {position}")


def _shape_problems(shapes: Mapping[str, tuple[int, ...]], card: Card | None, problems: list[str]) -> None:
    """What the card asks of the shapes; without a sound card, what the images ask of the others."""
    if card is None and len(shapes["images"]) != 4:
        problems.append(f"images: the shape is {quote(shapes['images'])}; expected images, channels, and two sides")
        return
    source, expected = ("images", _by_images(shapes["images"])) if card is None else ("card", _by_card(card))
    problems += [
        f"{name}: the shape is {quote(shapes[name])}; by the {source} it should be {wanted}"
        for name, wanted in expected.items()
        if shapes.get(name, wanted) != wanted
    ]
    steps = shapes["step_sizes"]
    if len(steps) != 1 or not 1 <= steps[0] <= limits.MAX_STEP_SIZES:
        problems.append(f"step_sizes: the shape is {quote(steps)}; expected 1 to {limits.MAX_STEP_SIZES} numbers")


def _by_card(card: Card) -> dict[str, tuple[int, ...]]:
    facts = card.images
    side = facts.stored_size
    shapes = _by_images((facts.count, facts.channels, side, side))
    return shapes | {"labels": (facts.count, len(card.task.classes))}


def _by_images(shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {"images": shape, "scale": shape[1:2], "offset": shape[1:2]}


def _number_problems(arrays: Mapping[str, Array], card: Card | None, problems: list[str]) -> None:
    scale, offset = arrays["scale"].astype(np.float64), arrays["offset"].astype(np.float64)
    unit, bound, top = limits.INTENSITY_UNIT, limits.MAX_INTENSITY, arrays["images"].max(axis=(0, 2, 3))
    if not (np.isfinite(scale).all() and np.isfinite(offset).all()):
        problems.append("scale, offset: not all numbers are finite")
    elif (
        (scale < limits.MIN_SCALE).any() or (abs(offset) > bound).any() or (offset + top * scale > limits.MAX_TOP).any()
    ):
        problems.append(
            f"scale, offset: expected scale >= 2**-10, offset within ±{bound:g}, "
            f"offset + largest number * scale <= {limits.MAX_TOP:g}"
        )
    elif np.fmod(scale, unit).any() or np.fmod(offset, unit).any():
        problems.append("scale, offset: not whole multiples of 2**-19")
    _label_problems(arrays["labels"], card, problems)
    _step_problems(arrays["step_sizes"], problems)


def _label_problems(labels: Array, card: Card | None, problems: list[str]) -> None:
    if not np.isfinite(labels).all() or (labels < 0).any() or (labels > 1).any():
        problems.append("labels: not all are probabilities, that is numbers from 0 to 1")
        return
    sums = labels.sum(axis=-1, dtype=np.float64)
    wrong = np.flatnonzero(np.abs(sums - 1) > limits.LABEL_SUM_TOLERANCE)
    if wrong.size:
        problems.append(
            f"labels: {wrong.size} rows do not sum to 1 within {limits.LABEL_SUM_TOLERANCE:g}; "
            f"row {wrong[0]} sums to {sums.flat[wrong[0]]:.6f}"
        )
    elif card is not None and card.task.labels == "hard" and ((labels != 0) & (labels != 1)).any():
        problems.append("labels: the card says hard labels, but not all are 0 or 1")


def _step_problems(steps: Array, problems: list[str]) -> None:
    low, high = limits.MIN_STEP_SIZE, limits.MAX_STEP_SIZE
    if not ((steps >= np.float32(low)) & (steps <= np.float32(high))).all():  # NaN fails this too
        problems.append(f"step_sizes: not all are numbers from {low:g} to {high:g}")
