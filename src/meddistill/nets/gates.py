"""The first block's maps, which are as large as all others together, worked out where they are needed and never kept.

The first convolution sees 9 numbers a channel of the image, K in all, and puts out C maps of the image's size. A GPU
works a pixel out again faster than it fetches it from its memory. So these functions take images and weights, and
return what is left of the maps once they are pooled or summed. With A the K numbers that the convolution sees at a
pixel, z = A·W its output, f and t a factor and a threshold for every plane, and m = 1 where f z + t > 0, else 0:

``moments``   means Ā and covariances G of A over an image's pixels
``ahead``     pool(m (f z + t)), which is the pooled ReLU
``along``     pool(m (f A·V + f' z + t')), its tangent when W moves along V, f along f' and t along t'
``sums``      Σ over an image's pixels of (A, 1) ⊗ m g/4, where a pooled pixel's cotangent g stands at its four pixels
``onto``      m (f h + f' g)/4 · Wᵀ + m f g/4 · Vᵀ − A·B − b at every pixel: a cotangent of A

S networks stand side by side, each with n images of its own. ``images``: ``(S, n, channels, H, W)``. ``weight``,
``weight_along`` (W, V): ``(S, K, C)``. ``factor``, ``threshold`` and their tangents: ``(S, n, C)``. Pooled maps, which
are put out and taken: ``(n, S·C, h, w)`` with channels last; h and w are half of H and W, rounded down, and m = 0
where pooling leaves pixels over. They are operators of PyTorch, so that a compiled step stays one graph: on a GPU
kernels in Triton (:mod:`~meddistill.nets.gates_triton`, for float32), elsewhere the plain functions below, which keep
maps and are what the kernels are held against. Without ``exact`` a GPU may round what it multiplies to TF32, but not
what decides m, and tangents are put out in bfloat16.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.library.custom_op("meddistill::gates_moments", mutates_args=())
def moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Ā ``(S, n, 1, K)`` and G ``(S, n, K, K)`` in float64."""
    every = _patches(images.double())
    mean = every.mean(2, keepdim=True)
    every = every - mean
    return mean, every.transpose(2, 3) @ every / every.shape[2]


@torch.library.custom_op("meddistill::gates_ahead", mutates_args=())
def ahead(images: Tensor, weight: Tensor, factor: Tensor, threshold: Tensor) -> Tensor:
    """pool(m (f z + t))."""
    seen = _patches(images) @ weight[:, None]
    return _pooled((factor[:, :, None] * seen + threshold[:, :, None]).relu(), images)


@torch.library.custom_op("meddistill::gates_along", mutates_args=())
def along(
    images: Tensor,
    weight: Tensor,
    weight_along: Tensor,
    factor: Tensor,
    threshold: Tensor,
    factor_along: Tensor,
    threshold_along: Tensor,
    exact: bool,
) -> Tensor:
    """pool(m (f A·V + f' z + t'))."""
    every = _patches(images)
    seen = every @ weight[:, None]
    moved = factor[:, :, None] * (every @ weight_along[:, None]) + factor_along[:, :, None] * seen
    gated = _gate(seen, factor, threshold) * (moved + threshold_along[:, :, None])
    return _pooled(gated, images).to(dtype_of_tangents(images, exact))


@torch.library.custom_op("meddistill::gates_sums", mutates_args=())
def sums(images: Tensor, weight: Tensor, factor: Tensor, threshold: Tensor, slope: Tensor, exact: bool) -> Tensor:
    """Σ (A, 1) ⊗ m g/4, ``(S, n, K + 1, C)``; ``slope``: g."""
    every = _patches(images)
    gated = _gate(every @ weight[:, None], factor, threshold) * _spread(slope, images)
    return torch.cat((every.transpose(2, 3) @ gated, gated.sum(2, keepdim=True)), 2)


@torch.library.custom_op("meddistill::gates_onto", mutates_args=())
def onto(
    images: Tensor,
    weight: Tensor,
    weight_along: Tensor,
    factor: Tensor,
    threshold: Tensor,
    factor_along: Tensor,
    slope: Tensor,
    slope_along: Tensor,
    rest: Tensor,
    exact: bool,
) -> Tensor:
    """m (f h + f' g)/4 · Wᵀ + m f g/4 · Vᵀ − A·B − b, ``(S, n, K, H, W)``.

    ``slope``, ``slope_along``: g and h. ``rest``: ``(S, n, K + 1, K)``, B and below it b.
    """
    every = _patches(images)
    gate = _gate(every @ weight[:, None], factor, threshold)
    gated, gated_along = (gate * _spread(one, images) for one in (slope, slope_along))
    moved = factor[:, :, None] * gated_along + factor_along[:, :, None] * gated
    found = moved @ weight[:, None].mT + (factor[:, :, None] * gated) @ weight_along[:, None].mT
    found = (found - every @ rest[:, :, :-1] - rest[:, :, -1:]).transpose(2, 3)
    return torch.unflatten(found, 3, images.shape[3:]).contiguous()


def _patches(images: Tensor) -> Tensor:
    """What the convolution sees at every pixel, ``(S, n, H·W, K)``."""
    found = F.unfold(images.flatten(0, 1), 3, padding=1)
    return torch.unflatten(found, 0, images.shape[:2]).transpose(2, 3)


def _gate(seen: Tensor, factor: Tensor, threshold: Tensor) -> Tensor:
    return (factor[:, :, None] * seen + threshold[:, :, None] > 0).to(seen.dtype)


def _pooled(every: Tensor, images: Tensor) -> Tensor:
    """``(S, n, H·W, C)`` as a pooled map."""
    maps = every.permute(1, 0, 3, 2).flatten(1, 2).unflatten(2, images.shape[3:])
    return pooled_like(images, every.shape[3], every.dtype).copy_(F.avg_pool2d(maps, 2))


def _spread(low: Tensor, images: Tensor) -> Tensor:
    """A pooled map as ``(S, n, H·W, C)``: a quarter of a pooled pixel at each of its four, else 0."""
    networks, _, _, height, width = images.shape
    spread = F.interpolate(low.to(images.dtype) / 4, (2 * low.shape[2], 2 * low.shape[3]))
    whole = F.pad(spread, (0, width - spread.shape[3], 0, height - spread.shape[2]))
    return torch.unflatten(whole.flatten(2), 1, (networks, -1)).permute(1, 0, 3, 2)


def pooled_like(images: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """Room for a pooled map of so many channels a network."""
    networks, count, _, height, width = images.shape
    shape = (count, networks * channels, height // 2, width // 2)
    return torch.empty(shape, dtype=dtype, device=images.device, memory_format=torch.channels_last)


def dtype_of_tangents(images: Tensor, exact: bool) -> torch.dtype:
    """What :func:`along` puts out."""
    return images.dtype if exact else torch.bfloat16


@moments.register_fake
def _(images: Tensor) -> tuple[Tensor, Tensor]:
    networks, count, channels = images.shape[:3]
    one = images.new_empty((networks, count, 1, 9 * channels), dtype=torch.float64)
    return one, one.new_empty((networks, count, 9 * channels, 9 * channels))


@ahead.register_fake
def _(images: Tensor, weight: Tensor, *_: Tensor) -> Tensor:
    return pooled_like(images, weight.shape[2], images.dtype)


@along.register_fake
def _(images: Tensor, weight: Tensor, *others: Any) -> Tensor:
    return pooled_like(images, weight.shape[2], dtype_of_tangents(images, exact=others[-1]))


@sums.register_fake
def _(images: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return images.new_empty((*images.shape[:2], weight.shape[1] + 1, weight.shape[2]))


@onto.register_fake
def _(images: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return images.new_empty((*images.shape[:2], weight.shape[1], *images.shape[3:]))


def _kernel(name: str, *given: Any) -> Any:
    """The kernel of that name. They are imported where a GPU asks for them: they need Triton."""
    from meddistill.nets import gates_triton

    return getattr(gates_triton, name)(*given)


for _name, _operator in {"moments": moments, "ahead": ahead, "along": along, "sums": sums, "onto": onto}.items():
    _operator.register_kernel("cuda", partial(_kernel, _name))
