"""An audit of a model from beginning to end: what its own weights tell of the patients that they were trained on.

A compressed model is audited as its receiver has it, and so is a model of ``meddistill train``. There are no images
that could be copies; the attacks are those that ask the model: is it surer of members than of others (membership), and
right of members where others would be wrong (labels).
"""

import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

from meddistill.audit import attempt, hygiene, labels, population, weights
from meddistill.audit.case import Effort, ModelCase
from meddistill.audit.finding import Finding, Gates
from meddistill.audit.people import Groups, making_of_model
from meddistill.audit.recognise import DIMENSIONS, train_recogniser
from meddistill.audit.report import Report, counts, write
from meddistill.cohort.read import ReadOptions
from meddistill.compress import file
from meddistill.compress.card import KINDS, SAW, ModelCard, Saw
from meddistill.compress.load import load_model
from meddistill.nets.convnet import ConvNet
from meddistill.package.types import Software
from meddistill.runtime.device import choose
from meddistill.runtime.errors import InputError
from meddistill.runtime.progress import Progress, Silent
from meddistill.train.model import Model, Origin, describe, params_digest

_SUFFIXES = (".mdw", ".safetensors")
_OWN = ("meddistill", "essential", "origin", "__metadata__", "dtype", "F32", "shape", "data_offsets", "weights.bin")
_WIDTH, _DEEPEST, _LEAST_SIDE = 32, 3, 3  # of the recogniser, whatever network the model is; side in pixels


@dataclass(frozen=True)
class Opened:
    """A model that holds weights, what its file says in words, and whose images it says these have seen."""

    model: Model
    text: str
    saw: Saw


def is_model(path: Path) -> bool:
    """Whether a file is a model rather than a package; a broken one is what its name says."""
    return file.is_compressed(path) if file.is_archive(path) else path.suffix in _SUFFIXES


def audit_model(
    path: Path,
    members: str,
    control: str | None = None,
    *,
    out: Path | None = None,
    effort: Effort = Effort(),
    gates: Gates = Gates(),
    seed: int = 0,
    device: str = "auto",
    options: ReadOptions = ReadOptions(),
    progress: Progress = Silent(),
) -> Report:
    """Audit the model in ``path``, and write the report to ``out`` if given; else as an audit of a package.

    Raises :class:`InputError` for a recipe, which holds no weights of its own, for a module that somebody brought, and
    where shadows are wanted; :class:`VerificationError` for a broken file.
    """
    begun = time.monotonic()
    if out is not None:
        attempt.require_own_place(out, members, control, options, [path])
    attempt.require_sense(effort)
    if effort.shadows:
        raise InputError("shadows repeat a distillation, and a model has none: leave --shadows out")
    opened, where = _opened(path), choose(device)
    model = opened.model
    groups, samples = attempt.meet(members, control, making_of_model(model), options, progress)
    attempt.require_enough(groups)
    recogniser = train_recogniser(
        groups.members,
        groups.control,
        _recognising(model),
        model.normalisation,
        steps=effort.recogniser_steps,
        seed=seed,
        device=where,
        progress=progress,
    )
    case = ModelCase(
        file=path,
        params=tuple(param.to(where) for param in model.params),
        saw=opened.saw,
        members=groups.members,
        control=groups.control,
        classes=model.classes,
        network=model.network,
        normalisation=model.normalisation,
        recogniser=recogniser,
        gates=gates,
        effort=effort,
        seed=seed,
        device=where,
        progress=progress,
        flip=model.flip,
    )
    texts = hygiene.prepare_model([opened.text], model.classes, opened.saw, _own_texts(model))
    named = attempt.look_for_names(texts, groups, samples, options)
    report = Report(
        kind="model",
        file=path,
        digest=params_digest(model.params),
        withheld=False,
        findings=(named, *_compared(case, groups)),
        groups=counts(groups),
        gates=gates,
        effort=effort,
        seed=seed,
        seconds=time.monotonic() - begun,
    )
    write(report, out)
    return report


def _opened(path: Path) -> Opened:
    """The model; of one that ``meddistill train`` wrote, nobody knows what it has seen unless it tells its packages."""
    if not file.is_archive(path):
        model = load_model(path)
        return Opened(model, _header(path), "packages" if "origin" in describe(model) else "unknown")
    card = file.read(path).card
    if card.kind == "recipe":
        raise InputError(f"{path} is the recipe of a model and holds no weights of its own: audit the package (.mdz)")
    if card.kind == "module":
        raise InputError(f"{path} holds a module of somebody's own, which cannot be asked here without its code")
    return Opened(load_model(path), json.dumps(card.to_dict()), card.saw)


def _header(path: Path) -> str:
    """All that a sound safetensors file says in words."""
    with open(path, "rb") as data:
        return data.read(int.from_bytes(data.read(8), "little")).decode(errors="replace")


def _own_texts(model: Model) -> tuple[str, ...]:
    """What a file says of every such model, whatever software and route wrote it."""
    fields = (*ModelCard.__dataclass_fields__, *Software.__dataclass_fields__, *Origin.__dataclass_fields__)
    return json.dumps(describe(replace(model, origin=None))), *fields, *KINDS, *SAW, *_OWN


def _recognising(model: Model) -> ConvNet:
    """The network that learns to tell whether members and control patients are alike."""
    network = model.network
    depth = min(_DEEPEST, max(1, int(math.log2(network.size / _LEAST_SIDE))))
    return ConvNet(_WIDTH, depth, network.channels, network.size, DIMENSIONS)


def _compared(case: ModelCase, groups: Groups) -> list[Finding]:
    differ = attempt.found(population, case)
    found = [differ, *attempt.unless_different(differ, _by_networks(case))]
    return attempt.unless_few(groups, case.gates, found)


def _by_networks(case: ModelCase) -> list[Finding]:
    if not case.effort.references:
        return [attempt.left_out(one) for one in (weights, labels)]
    attacked = weights.prepare(case)
    return [
        attempt.judged(weights, attacked, case),
        attempt.judged(labels, labels.Prepared(attacked, ()), case),
    ]
