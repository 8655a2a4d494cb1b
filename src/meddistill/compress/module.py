"""Compress any ``torch.nn.Module`` from Python: its parameters are pruned, quantised and coded, as a network's are.

What is stored is the module's ``state_dict``, never its code: whoever loads it brings the same module. Parameters of
two dimensions or more are pruned and get few levels, the others 15, buffers 255. Limits: 2^24 numbers in 2048 tensors
of the dtypes in ``DTYPES``; whole numbers below 2^24; no tensor of which several names share the memory; a module that
gives class logits ``(N, K)`` of one tensor.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from meddistill import __version__
from meddistill.compress import card, file, limits
from meddistill.compress.card import DTYPES, WARNINGS, ModelCard, Saw
from meddistill.compress.codebook import Coded, Floats, code
from meddistill.compress.coding import MAX_LEVELS
from meddistill.compress.essential import Effort, reduced
from meddistill.compress.retrain import Course, automatic_slopes
from meddistill.nets.augment import Augmentation
from meddistill.nets.params import Params
from meddistill.package.types import Software
from meddistill.runtime.errors import InputError, VerificationError
from meddistill.runtime.files import write_atomic
from meddistill.runtime.progress import Progress, Silent
from meddistill.train.protocol import TrainingSet

_MOST_WHOLE = 2**24  # beyond it, float32 skips whole numbers
_CALIBRATION, _BATCH = 16, 64  # batches, and inputs in one, from which running statistics are measured anew


@dataclass(frozen=True)
class ModuleReport:
    """A compressed module: bytes of its tensors before, of the file after, and of the weights alone."""

    out: Path
    bytes_before: int
    bytes_after: int
    weights: int

    def as_dict(self) -> dict[str, str | int]:
        """JSON-able."""
        return vars(self) | {"out": str(self.out)}


def compress_module(
    module: nn.Module,
    out: Path,
    inputs: Tensor,
    labels: Tensor,
    *,
    classes: int,
    size: float,
    saw: Saw,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    effort: Effort = Effort(),
    progress: Progress = Silent(),
) -> ModuleReport:
    """Write a module into a file of ``size`` times the bytes of its tensors; the module itself is left as it is.

    ``inputs`` ``(N, …)``: what the module takes, to retrain with; ``labels`` ``(N,)`` int64 below ``classes``.
    ``saw``: ``patients`` if the module or ``inputs`` have anything of patients' images, ``packages`` if they surely
    have not, else ``unknown``. ``augmentation``: of inputs that are images ``(N, C, H, W)``. Everything happens on the
    CPU. Raises :class:`InputError` for a module beyond the limits and a size that cannot be reached.
    """
    if not 0 < size < 1:
        raise InputError(f"a size of {size:g} was asked for: expected a share of the module's bytes, such as 1/40")
    state = copy.deepcopy(module).cpu().state_dict()
    _require_storable(module, state)
    original = copy.deepcopy(module).cpu().float().eval()
    pupil = copy.deepcopy(original).train()
    names = [name for name, _ in pupil.named_parameters()]
    data = TrainingSet(inputs.cpu(), nn.functional.one_hot(labels.cpu(), classes).float())
    course = Course(data, lambda images: original(images).softmax(1), seed, augmentation)
    before = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    around = file.overhead(_card(state, saw)) + sum(
        4 + tensor.numel() + 2 * min(tensor.numel(), MAX_LEVELS) for name, tensor in state.items() if name not in names
    )
    target = int(before * size) - around
    if target <= 0:
        raise InputError(f"{int(before * size)} bytes were asked for; names and buffers alone take about {around}")

    def apply(params: Params, images: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(pupil, dict(zip(names, params, strict=True)), (images,))
        return found

    params = tuple(param.detach().float() for param in pupil.parameters())
    with progress.stage("retraining", effort.steps(narrow=False, fresh=False)) as shown:
        tensors, _ = reduced(automatic_slopes(apply), params, course, target, seed, effort, shown)
    coded = dict(zip(names, tensors, strict=True))
    _measure_anew(pupil, {name: torch.from_numpy(one.values()) for name, one in coded.items()}, course)
    coded |= {name: _buffer(tensor) for name, tensor in pupil.state_dict().items() if name not in coded}
    ordered = [coded[name] for name in state]
    data_bytes = file.encode(_card(state, saw, ordered), ordered)
    if len(data_bytes) > before * size:
        raise InputError(
            f"{int(before * size)} bytes were asked for; the fewest are about {len(data_bytes)}: ask for more"
        )
    if shouted := WARNINGS[saw]:
        progress.warn(shouted)
    write_atomic(out, data_bytes)
    return ModuleReport(out, before, len(data_bytes), sum(tensor.numel() for tensor in state.values()))


def load_module(path: Path, module: nn.Module) -> nn.Module:
    """Put the tensors in the file into ``module``, which must have the same names and shapes; gives it back.

    Raises :class:`InputError` for another module, and :class:`VerificationError` for a broken file.
    """
    held = file.read(path)
    if held.card.kind != "module":
        raise InputError(f"{path} holds a model of this project, not a module: load it with meddistill predict")
    state = {
        tensor.name: torch.from_numpy(coded.values()).to(getattr(torch, tensor.dtype))
        for tensor, coded in zip(held.card.tensors, held.tensors, strict=True)
    }
    if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
        raise VerificationError(f"{path} holds numbers beyond what their type can hold")
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{path} is of another module: {str(error).splitlines()[-1].strip()}") from None
    return module


def _require_storable(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    parameters = [name for name, _ in module.named_parameters()]
    stored = sum(tensor.numel() for tensor in state.values())
    problems = [
        f"{name} is of {str(tensor.dtype).removeprefix('torch.')}: expected {', '.join(DTYPES)}"
        for name, tensor in state.items()
        if str(tensor.dtype).removeprefix("torch.") not in DTYPES
    ]
    problems += [f"{name} is not in the state_dict, or shares its memory" for name in parameters if name not in state]
    if stored > limits.MAX_WEIGHTS or len(state) > limits.MAX_TENSORS:
        most = f"at most {limits.MAX_WEIGHTS} in {limits.MAX_TENSORS}"
        problems.append(f"{stored} numbers in {len(state)} tensors: {most}")
    there = [tensor.data_ptr() for tensor in state.values() if tensor.numel()]
    if len(set(there)) < len(there):
        problems.append("several names share one tensor")
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            problems.append(f"{name} holds numbers that are not finite")
        if not tensor.is_floating_point() and tensor.numel() and float(tensor.double().abs().max()) >= _MOST_WHOLE:
            problems.append(f"{name} holds whole numbers of {_MOST_WHOLE} or more")
        if not tensor.numel():
            problems.append(f"{name} is empty")
    if problems:
        raise InputError("the module cannot be stored:\n" + "\n".join(f"- {problem}" for problem in problems))


def _measure_anew(pupil: nn.Module, params: Mapping[str, Tensor], course: Course) -> None:
    """Give the pupil its last parameters, and its running statistics those of inputs that go through these.

    They are means over batches of about one size, none of which is a single input where there are more: a batch norm
    refuses one.
    """
    pupil.load_state_dict(params, strict=False)
    norms = [norm for norm in pupil.modules() if isinstance(norm, _NormBase) and norm.track_running_stats]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    batches = torch.arange(len(course.data)).tensor_split(math.ceil(len(course.data) / _BATCH))[:_CALIBRATION]
    with torch.no_grad():
        for rows in batches:
            pupil(course.data.inputs(rows))


def _buffer(tensor: Tensor) -> Coded:
    values: Floats = np.asarray(tensor.detach().float().numpy())
    return code(values, MAX_LEVELS, crowded=True)


def _card(state: Mapping[str, Tensor], saw: Saw, tensors: Sequence[Coded] = ()) -> ModelCard:
    described = tuple(
        card.Tensor(name=name, shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))
        for name, tensor in state.items()
    )
    return ModelCard(
        software=Software(name="meddistill", version=__version__),
        kind="module",
        route="essential",
        saw=saw,
        tensors=described,
        weights=file.values_digest(tensors),
        original=sum(math.prod(tensor.shape) * 4 for tensor in described),
    )
