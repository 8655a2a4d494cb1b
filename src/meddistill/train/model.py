"""A trained model on disk: safetensors, with all that is needed to use it in its header."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import safetensors
import safetensors.torch
import torch

from meddistill.cohort.types import Fit, Leak
from meddistill.nets.find import find
from meddistill.nets.network import Network
from meddistill.nets.params import Params, sound
from meddistill.package.limits import MAX_INTENSITY, MAX_SIZE, MIN_STD
from meddistill.package.text import class_problems, quote
from meddistill.runtime.errors import InputError, MeddistillError, VerificationError
from meddistill.runtime.files import write_atomic
from meddistill.teachers.images import Normalisation

_FORMAT, _ENTRY = "meddistill model 1", "model"
_CHANNELS = (1, 3)
_SHOWN = 5  # of the problems of class names
_DIGEST = re.compile("[0-9a-f]{64}")
MAX_MODEL_BYTES = 512 * 2**20
# What reading a broken or hostile file can raise: numbers too large and brackets too deep included.
_UNSOUND = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    ArithmeticError,
    RecursionError,
    safetensors.SafetensorError,
    MeddistillError,
)


@dataclass(frozen=True)
class Origin:
    """What a model was trained from: packages (SHA-256 of their tensors, in order), by which protocol and seed.

    From one package that is all it takes to train the same model again, on the same kind of processor to the last bit.
    ``weights``: :func:`params_digest` of what came out. Weights that were changed since have no such origin: they may
    have seen patients' images, and the origin is not written.
    """

    packages: tuple[str, ...]
    protocol: str
    seed: int
    weights: str


@dataclass(frozen=True)
class Model:
    """A network, its parameters, and how its inputs are made: size, fit to a square, normalisation, class names.

    ``leak`` and ``seed`` are those of the package that it was trained on: with them a source without splits, or with
    leaking ones, is split again as it was for distilling, so that evaluation sees no image that went into the package.
    ``mixed_splits``: it was trained on packages that differ in them, and no seed promises that; sources are then
    evaluated on by splits of their own alone (:mod:`~meddistill.train.splits`).
    ``flip``: whether it saw images mirrored, and may see them so wherever it is trained on.
    ``origin``: None where it is not known, as of a model that was trained on patients' images.
    """

    network: Network
    params: Params
    classes: tuple[str, ...]
    normalisation: Normalisation
    fit: Fit
    leak: Leak
    seed: int
    origin: Origin | None = None
    mixed_splits: bool = False
    flip: bool = True


def save_model(path: Path, model: Model) -> None:
    """Write the model atomically. Raises :class:`~meddistill.runtime.errors.OutputError`."""
    tensors = {f"{place:04d}": param.detach().cpu().contiguous() for place, param in enumerate(model.params)}
    metadata = {"format": _FORMAT, "model": json.dumps(describe(model), sort_keys=True)}
    write_atomic(path, _in_order(safetensors.torch.save(tensors, metadata)))


def describe(model: Model) -> dict[str, Any]:
    """All of a model but its parameters, JSON-able; :func:`described_model` reads it."""
    described = {
        "format": _FORMAT,
        "network": model.network.name,
        "channels": model.network.channels,
        "size": model.network.size,
        "classes": list(model.classes),
        "normalisation": asdict(model.normalisation),
        "fit": model.fit,
        "leak": model.leak,
        "seed": model.seed,
    }
    if model.mixed_splits:
        described["mixed_splits"] = True
    if not model.flip:
        described["flip"] = False
    if model.origin is None or model.origin.weights != params_digest(model.params):
        return described
    return described | {"origin": asdict(model.origin)}


def params_digest(params: Params) -> str:
    """SHA-256 of parameters, in order, as little-endian float32, in hexadecimal."""
    found = hashlib.sha256()
    for param in params:
        found.update(np.ascontiguousarray(param.detach().cpu().numpy(), dtype="<f4").tobytes())
    return found.hexdigest()


def _in_order(data: bytes) -> bytes:
    """The same file with a sorted header: safetensors writes metadata in an order that differs from call to call."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def load_model(path: Path) -> Model:
    """Read a model. Raises :class:`InputError` if there is none, :class:`VerificationError` if it is broken."""
    if not path.is_file():
        raise InputError(f"{path} is not a file: expected a model written by meddistill train")
    if path.stat().st_size > MAX_MODEL_BYTES:
        raise VerificationError(f"{path} is larger than {MAX_MODEL_BYTES} bytes: no model of this format is")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        described = json.loads(metadata.get(_ENTRY, "{}"))
        found = described.get("format") if isinstance(described, dict) else None
        if found != _FORMAT:
            raise VerificationError(f"{path} is not a meddistill model: its header says {found!r}")
        return described_model(described, tuple(tensors.values()))
    except VerificationError:
        raise
    except _UNSOUND as error:
        raise VerificationError(
            f"{path} is not a sound model: {error}. Train it again, or ask for the file anew"
        ) from None


def described_model(described: dict[str, Any], params: Params) -> Model:
    """The model of that description and those parameters, each checked; raises one of many errors if it cannot be."""
    classes = _classes(described["classes"])
    channels, size = int(described["channels"]), int(described["size"])
    if channels not in _CHANNELS or not 1 <= size <= MAX_SIZE:  # some networks have weights that fit any size
        raise ValueError(
            f"its images have {channels} channels and {size} pixels a side, expected 1 or 3 channels and 1 to "
            f"{MAX_SIZE} pixels"
        )
    network = find(str(described["network"]), channels=channels, size=size, classes=len(classes))
    shapes = tuple(param.shape for param in params)
    if shapes != network.shapes or any(param.dtype != torch.float32 for param in params):
        raise ValueError(f"its tensors do not fit the network {network.name}")
    if not all(bool(sound(param).all()) for param in params):
        raise ValueError("it holds numbers that are not finite, or too large to compute with")
    norm = described["normalisation"]
    normalisation = Normalisation(tuple(map(float, norm["mean"])), tuple(map(float, norm["std"])))
    if not len(normalisation.mean) == len(normalisation.std) == network.channels:
        raise ValueError("its normalisation does not fit its channels")
    # The bounds that a package's has.
    means, stds = normalisation.mean, normalisation.std
    if not all(abs(mean) <= MAX_INTENSITY for mean in means) or not all(
        MIN_STD <= std <= MAX_INTENSITY for std in stds
    ):
        raise ValueError("its normalisation cannot be computed with")
    fit, leak = fit_named(described["fit"]), leak_named(described["leak"])
    origin = _origin(described["origin"]) if "origin" in described else None
    mixed = bool(described.get("mixed_splits", False))  # files of before have none
    flip = described.get("flip") is not False
    return Model(network, params, classes, normalisation, fit, leak, int(described["seed"]), origin, mixed, flip)


def _classes(described: object) -> tuple[str, ...]:
    if not isinstance(described, list):
        raise ValueError(f"its classes are {quote(described)}, expected a list of names")
    if problems := class_problems(described):
        raise ValueError("; ".join(problems[:_SHOWN]))
    return tuple(described)


def _origin(described: dict[str, Any]) -> Origin:
    packages = described["packages"]
    if not isinstance(packages, list) or not all(isinstance(one, str) and _DIGEST.fullmatch(one) for one in packages):
        raise ValueError("its origin does not name packages by their SHA-256")
    if not isinstance(described["weights"], str) or not _DIGEST.fullmatch(described["weights"]):
        raise ValueError("its origin does not name the weights by their SHA-256")
    return Origin(tuple(packages), str(described["protocol"]), int(described["seed"]), described["weights"])


def fit_named(name: object) -> Fit:
    """The way of making images square that has this name. Raises :class:`VerificationError`."""
    fits: tuple[Fit, ...] = get_args(Fit)
    for known in fits:
        if name == known:
            return known
    raise VerificationError(f"images are made square in a way that is not known: {name!r}")


def leak_named(name: object) -> Leak:
    """The way of treating leaking splits that has this name. Raises :class:`VerificationError`."""
    leaks: tuple[Leak, ...] = get_args(Leak)
    for known in leaks:
        if name == known:
            return known
    raise VerificationError(f"leaking splits are treated in a way that is not known: {name!r}")
