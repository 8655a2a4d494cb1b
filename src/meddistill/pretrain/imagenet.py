"""Public weights from a local file: a ResNet-18 as torchvision and timm name its tensors, made this project's own.

Nothing is downloaded, and nothing in the file is executed: it is read as safetensors, or as a state dict by PyTorch's
reader of weights alone. Batch norms, which no longer measure anything, become scales and shifts.
"""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meddistill.nets.classics import AffineResNet18
from meddistill.nets.network import NORM_EPSILON, Network
from meddistill.nets.params import Params
from meddistill.runtime.errors import InputError

MAX_BYTES = 2**29  # a ResNet-18 has 47 MB
_WRAPPED = ("state_dict", "model")
_PREFIX = "module."
_SHOWN = 3
_EXPECTED = "expected a ResNet-18 as torchvision or timm save it (state dict, or safetensors)"


def read_encoder(path: Path, network: Network) -> Params:
    """The encoder of ``network`` with the weights in the file, float32 on the CPU.

    Grey images of one channel get the sum of the first layer's kernels over the file's channels, which is what a grey
    image would see in all of them. Raises :class:`InputError` for a file that cannot be read, that lacks a tensor, or
    has one of another shape or with numbers that are none.
    """
    if not isinstance(network, AffineResNet18):
        raise InputError(
            f"weights of a ResNet-18 do not fit {network.name}: choose resnet18-affine, or resnet18-w32-affine "
            "where the file's first layer has 32 channels"
        )
    found = _tensors(path)
    missing = [name for name, _ in _wanted(network) if name not in found]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise InputError(f"{path} has no {', '.join(missing[:_SHOWN])}{more}: {_EXPECTED}")
    first = "conv1.weight"
    found[first] = _for_channels(found[first], network.channels)
    problems = [text for name, shape in _wanted(network) if (text := _misfit(name, found[name], shape))]
    if problems:
        raise InputError(f"{path} does not fit {network.name}: {'; '.join(problems[:_SHOWN])}. {_EXPECTED}")
    return tuple(param for layer in _layers(network) for param in _layer(found, *layer))


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"there is no file {path}: {_EXPECTED}")
    if _unpacked(path) > MAX_BYTES:
        raise InputError(f"{path} holds more than {MAX_BYTES} bytes: {_EXPECTED}")
    try:
        found = _read(path)
    except Exception as error:  # a hostile file can make the readers raise anything
        first = str(error).strip().partition("\n")[0][:200]
        raise InputError(f"cannot read weights from {path} ({type(error).__name__}: {first}): {_EXPECTED}") from None
    while wrapped := [name for name in _WRAPPED if isinstance(found, Mapping) and isinstance(found.get(name), Mapping)]:
        found = found[wrapped[0]]
    if not isinstance(found, Mapping):
        raise InputError(f"{path} holds a {type(found).__name__}: {_EXPECTED}")
    return {
        str(name).removeprefix(_PREFIX): value.detach() for name, value in found.items() if isinstance(value, Tensor)
    }


def _unpacked(path: Path) -> int:
    """Bytes of the file, or of what it would unpack to."""
    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        return size
    try:
        with zipfile.ZipFile(path) as archive:
            return max(size, sum(member.file_size for member in archive.infolist()))
    except (zipfile.BadZipFile, OSError, ValueError):
        return size


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        import safetensors.torch

        return safetensors.torch.load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _layers(network: AffineResNet18) -> Iterator[tuple[str, str]]:
    """The names of each convolution and the norm after it, in the order of the network's own tensors."""
    yield "conv1", "bn1"
    for place, (_, stride) in enumerate(network.blocks):
        block = f"layer{place // 2 + 1}.{place % 2}"
        yield f"{block}.conv1", f"{block}.bn1"
        yield f"{block}.conv2", f"{block}.bn2"
        if stride > 1:
            yield f"{block}.downsample.0", f"{block}.downsample.1"


def _wanted(network: AffineResNet18) -> Iterator[tuple[str, torch.Size]]:
    """Every tensor that the file must have, and its shape."""
    shapes = iter(network.shapes)
    for convolution, norm in _layers(network):
        yield f"{convolution}.weight", next(shapes)
        scale = next(shapes)
        next(shapes)
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{norm}.{part}", scale


def _for_channels(kernels: Tensor, channels: int) -> Tensor:
    if kernels.ndim == 4 and channels == 1:
        return kernels.sum(1, keepdim=True)
    return kernels


def _misfit(name: str, tensor: Tensor, shape: torch.Size) -> str | None:
    if tensor.shape != shape:
        return f"{name} has the shape {list(tensor.shape)}, not {list(shape)}"
    if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
        return f"{name} has numbers that are none"
    if name.endswith("running_var") and bool((tensor < 0).any()):
        return f"{name} has a negative variance"
    return None


def _layer(found: Mapping[str, Tensor], convolution: str, norm: str) -> Params:
    """Kernels, scale and shift: w·(x − mean)/√(variance + ε) + b, as one scale and one shift."""
    scale, shift, mean, variance = (
        found[f"{norm}.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = scale / (variance + NORM_EPSILON).sqrt()
    kernels = found[f"{convolution}.weight"]
    return tuple(part.float().contiguous().clone() for part in (kernels, scale, shift - mean * scale))
