"""Load a model whatever form it has on disk: as trained, compressed, or as the recipe to train it again."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from meddistill.compress.card import ModelCard
from meddistill.compress.file import is_archive, network_shapes, read
from meddistill.compress.recreate import answers, difference, recreate
from meddistill.nets.params import Params
from meddistill.package.members import TENSORS
from meddistill.package.read import read as read_package
from meddistill.package.types import Package
from meddistill.runtime.errors import InputError, MeddistillError, VerificationError
from meddistill.runtime.files import is_there
from meddistill.runtime.progress import Progress, Silent
from meddistill.train.model import Model, described_model, params_digest
from meddistill.train.model import load_model as load_trained

__all__ = ["load_model"]

TOLERANCE = 0.01  # by which a probability may differ where the same weights cannot be had


def load_model(path: Path, progress: Progress = Silent()) -> Model:
    """The model in the file; one that is a recipe is trained again from the package beside the file.

    Raises :class:`InputError` if there is none, it is a package, or the package of a recipe is not there, and
    :class:`VerificationError` if the file is broken, or a recipe gives another model than it says.
    """
    if not is_there(path):
        raise InputError(f"{path} is not a file: expected a model written by meddistill train or compress")
    if not is_archive(path):
        return load_trained(path)
    held = read(path)
    if held.card.kind == "module":
        raise InputError(f"{path} holds a module of somebody's own: load it with meddistill.api.load_module")
    if held.card.kind == "recipe":
        return _recreated(path, held.card, progress)
    return _described(path, held.card, tuple(torch.from_numpy(one.values()) for one in held.tensors))


def _described(path: Path, card: ModelCard, params: Params) -> Model:
    try:
        return described_model(dict(card.model or {}), params)
    except (ValueError, KeyError, TypeError, ArithmeticError, MeddistillError) as error:
        raise VerificationError(f"{path} is not a sound model: {error}. Ask for the file anew") from None


def _recreated(path: Path, card: ModelCard, progress: Progress) -> Model:
    described = card.model or {}
    model = _described(path, card, tuple(torch.zeros(shape) for shape in network_shapes(described)))
    package = next(_packages(path.parent, described["origin"]["packages"][0]), None)
    if package is None:
        raise InputError(
            f"{path} is the recipe of a model; the package that it is trained from (SHA-256 of its "
            f"{TENSORS}: {described['origin']['packages'][0]}) is not in {path.parent}: put the .mdz file there"
        )
    with progress.stage("training by the recipe"):
        model = replace(model, params=recreate(model, package))
    if params_digest(model.params) != card.weights:
        _require_close(path, difference(answers(model, package), card.answers), progress)
    return model


def _require_close(path: Path, found: float, progress: Progress) -> None:
    if found > TOLERANCE:
        raise VerificationError(
            f"{path}: training by the recipe gives another model here than where it was written (probabilities differ "
            f"by up to {found:.2g}; at most {TOLERANCE:g} are allowed). Ask for the weights themselves"
        )
    progress.warn(
        f"{path.name}: training by the recipe does not give the same bits here; its answers to the package's images "
        f"differ from the original's by up to {found:.2g}"
    )


def _packages(folder: Path, wanted: str) -> Iterator[Package]:
    for file in sorted(folder.glob("*.mdz")):
        try:
            package = read_package(file)
        except MeddistillError:
            continue
        if package.card.digests[TENSORS] == wanted:
            yield package
