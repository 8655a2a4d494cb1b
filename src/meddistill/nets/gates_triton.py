"""The operators of :mod:`~meddistill.nets.gates` as kernels for a GPU, in Triton.

Every program stands for one image of one network and tiles of its pixels and channels. It fetches the patches A of
pixels from the image, which the caches hold, multiplies them with the weights, decides which units are open, and puts
out what is left. A's K numbers are followed by a one, for what is added or summed beside them, and zeros up to a power
of two. Matrix units multiply tiles of 16 and more on each side, so that no tile is smaller.

Products are of TF32. Where they are to be ``exact``, and in z always, three of them keep nearly all of float32's
digits: a unit near its kink is open or shut as it should be. No program adds to what another puts out, so that no sum
depends on their order.

Pixels are numbered window by window of the pooling: number p is in window p // 4. What pooling leaves over stands in
windows that are cut off.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from meddistill.nets.gates import dtype_of_tangents, pooled_like

# Sizes of tiles, for which four warps have registers enough on cards from 2020 on (a test compiles them), and how many
# programs share an image whose pixels are summed.
_WINDOWS, _CHANNELS = 32, 64
_PIXELS, _SUMMED = 32, 32
_PARTS = 8
_LEAST = 16


@triton.jit
def _patches(image, rows, columns, height, width, K: tl.constexpr, WIDE: tl.constexpr):
    """``(pixels, WIDE)``: what the convolution sees at these pixels, zero outside of the image; then a one."""
    k = tl.arange(0, WIDE)[None, :]
    y, x = rows[:, None] + k % 9 // 3 - 1, columns[:, None] + k % 3 - 1
    inside = (k < K) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    found = tl.load(image + k // 9 * height * width + y * width + x, mask=inside, other=0.0)
    return tl.where(k == K, 1.0, found)


@triton.jit
def _matrix(numbers, channels, C, K: tl.constexpr, WIDE: tl.constexpr):
    """``(WIDE, channels)`` of one network's K × C numbers."""
    k = tl.arange(0, WIDE)[:, None]
    return tl.load(numbers + k * C + channels[None, :], mask=(k < K) & (channels < C)[None, :], other=0.0)


@triton.jit
def _plane(factors, place, channels, C):
    """``(1, channels)``: a factor for every plane of one image."""
    return tl.load(factors + place * C + channels, mask=channels < C, other=0.0)[None, :]


@triton.jit
def _pooled(maps, place, count, networks, windows, area, channels, C):
    """Where these windows and channels of one image stand in a pooled map of ``area`` windows, and which there are."""
    row = (place % count * area + windows) * networks + place // count
    return maps + row[:, None] * C + channels[None, :], (windows < area)[:, None] & (channels < C)[None, :]


@triton.jit
def ahead_kernel(
    images, weight, factor, threshold, out, count, networks, depth, height, width, C,
    K: tl.constexpr, WIDE: tl.constexpr, WINDOWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A tile of pool(m (f z + t))."""
    place, low = tl.program_id(0).to(tl.int64), width // 2
    windows = tl.program_id(1) * WINDOWS + tl.arange(0, WINDOWS)
    channels = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    image = images + place * depth * height * width
    weights = _matrix(weight + place // count * K * C, channels, C, K, WIDE)
    f, t = _plane(factor, place, channels, C), _plane(threshold, place, channels, C)
    total = tl.full((WINDOWS, CHANNELS), 0.0, tl.float32)
    for corner in range(4):
        rows, columns = windows // low * 2 + corner // 2, windows % low * 2 + corner % 2
        seen = _patches(image, rows, columns, height, width, K, WIDE)
        unit = f * tl.dot(seen, weights, input_precision="tf32x3") + t
        total += tl.where(unit < 0, 0.0, unit)  # what is not a number stays so, and tells that a student ran away
    where, there = _pooled(out, place, count, networks, windows, height // 2 * low, channels, C)
    tl.store(where, total / 4, mask=there)


@triton.jit
def along_kernel(
    images, weight, weight_along, factor, threshold, factor_along, threshold_along, out,
    count, networks, depth, height, width, C,
    K: tl.constexpr, WIDE: tl.constexpr, WINDOWS: tl.constexpr, CHANNELS: tl.constexpr,
    PRODUCT: tl.constexpr,
):  # fmt: skip
    """A tile of pool(m (f A·V + f' z + t'))."""
    place, low = tl.program_id(0).to(tl.int64), width // 2
    windows = tl.program_id(1) * WINDOWS + tl.arange(0, WINDOWS)
    channels = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    image, network = images + place * depth * height * width, place // count * K * C
    weights = _matrix(weight + network, channels, C, K, WIDE)
    moves = _matrix(weight_along + network, channels, C, K, WIDE)
    f, t = _plane(factor, place, channels, C), _plane(threshold, place, channels, C)
    f_along, t_along = _plane(factor_along, place, channels, C), _plane(threshold_along, place, channels, C)
    total = tl.full((WINDOWS, CHANNELS), 0.0, tl.float32)
    for corner in range(4):
        rows, columns = windows // low * 2 + corner // 2, windows % low * 2 + corner % 2
        seen = _patches(image, rows, columns, height, width, K, WIDE)
        z = tl.dot(seen, weights, input_precision="tf32x3")
        moved = f * tl.dot(seen, moves, input_precision=PRODUCT) + f_along * z + t_along
        total += tl.where(f * z + t > 0, moved, 0.0)
    where, there = _pooled(out, place, count, networks, windows, height // 2 * low, channels, C)
    tl.store(where, (total / 4).to(out.dtype.element_ty), mask=there)


@triton.jit
def sums_kernel(
    images, weight, factor, threshold, slope, out, count, networks, depth, height, width, C,
    K: tl.constexpr, WIDE: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr, PARTS: tl.constexpr,
    PRODUCT: tl.constexpr,
):  # fmt: skip
    """One part of Σ (A, 1) ⊗ m g/4: every eighth tile of an image's pixels."""
    place, part, low = tl.program_id(0).to(tl.int64), tl.program_id(1), width // 2
    channels, area = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS), height // 2 * low
    image = images + place * depth * height * width
    weights = _matrix(weight + place // count * K * C, channels, C, K, WIDE)
    f, t = _plane(factor, place, channels, C), _plane(threshold, place, channels, C)
    total = tl.full((WIDE, CHANNELS), 0.0, tl.float32)
    for start in range(part * PIXELS, 4 * area, PARTS * PIXELS):
        pixels = start + tl.arange(0, PIXELS)
        windows = pixels // 4
        rows, columns = windows // low * 2 + pixels % 4 // 2, windows % low * 2 + pixels % 2
        seen = _patches(image, rows, columns, height, width, K, WIDE)
        opened = f * tl.dot(seen, weights, input_precision="tf32x3") + t > 0
        where, there = _pooled(slope, place, count, networks, windows, area, channels, C)
        arriving = tl.load(where, mask=opened & there, other=0.0).to(tl.float32)
        total += tl.dot(tl.trans(seen), arriving, input_precision=PRODUCT)
    k = tl.arange(0, WIDE)[:, None]
    where = out + ((place * PARTS + part) * (K + 1) + k) * C + channels[None, :]
    tl.store(where, total / 4, mask=(k <= K) & (channels < C)[None, :])


@triton.jit
def onto_kernel(
    images, weight, weight_along, factor, threshold, factor_along, rest, slope, slope_along, out,
    count, networks, depth, height, width, C,
    K: tl.constexpr, WIDE: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
    PRODUCT: tl.constexpr,
):  # fmt: skip
    """A tile of pixels of m (f h + f' g)/4 · Wᵀ + m f g/4 · Vᵀ − A·B − b."""
    place, pixels = tl.program_id(0).to(tl.int64), tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    wide = (width + 1) // 2  # windows that are cut off are among them
    rows, columns = pixels // 4 // wide * 2 + pixels % 4 // 2, pixels // 4 % wide * 2 + pixels % 2
    whole = (rows // 2 < height // 2) & (columns // 2 < width // 2)
    windows, area = rows // 2 * (width // 2) + columns // 2, height // 2 * (width // 2)
    network = place // count * K * C
    seen = _patches(images + place * depth * height * width, rows, columns, height, width, K, WIDE)
    total = tl.full((PIXELS, WIDE), 0.0, tl.float32)
    for start in range(0, C, CHANNELS):
        channels = start + tl.arange(0, CHANNELS)
        weights = _matrix(weight + network, channels, C, K, WIDE)
        moves = _matrix(weight_along + network, channels, C, K, WIDE)
        f, t = _plane(factor, place, channels, C), _plane(threshold, place, channels, C)
        opened = f * tl.dot(seen, weights, input_precision="tf32x3") + t > 0
        where, there = _pooled(slope, place, count, networks, windows, area, channels, C)
        there = there & whole[:, None] & opened
        g = tl.load(where, mask=there, other=0.0).to(tl.float32)
        where, _ = _pooled(slope_along, place, count, networks, windows, area, channels, C)
        h = tl.load(where, mask=there, other=0.0).to(tl.float32)
        moved = f * h + _plane(factor_along, place, channels, C) * g
        total += tl.dot(moved, tl.trans(weights), input_precision=PRODUCT)
        total += tl.dot(f * g, tl.trans(moves), input_precision=PRODUCT)
    k, each = tl.arange(0, WIDE), height * width
    beside = _matrix(rest + place * (K + 1) * K, k, K, K + 1, WIDE)
    total = total / 4 - tl.dot(seen, beside, input_precision="tf32x3")
    where = out + place * K * each + k[None, :] * each + (rows * width + columns)[:, None]
    tl.store(where, total, mask=(k < K)[None, :] & ((rows < height) & (columns < width))[:, None])


@triton.jit
def moments_kernel(
    images, means, out, depth, height, width,
    K: tl.constexpr, WIDE: tl.constexpr, PIXELS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """One part of Σ (A − the image's mean, 1) ⊗ (A − the image's mean, 1): every eighth tile of its pixels."""
    place, part, k = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, WIDE)
    image, mean = images + place * depth * height * width, tl.load(means + place)
    total = tl.full((WIDE, WIDE), 0.0, tl.float32)
    for start in range(part * PIXELS, height * width, PARTS * PIXELS):
        pixels = start + tl.arange(0, PIXELS)
        seen = _patches(image, pixels // width, pixels % width, height, width, K, WIDE)
        seen = tl.where((k < K)[None, :], seen - mean, seen)
        seen = tl.where((pixels < height * width)[:, None], seen, 0.0)
        total += tl.dot(tl.trans(seen), seen, input_precision="ieee")
    where = out + ((place * PARTS + part) * WIDE + k[:, None]) * WIDE + k[None, :]
    tl.store(where, total)


def moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Means and covariances in float64; of sums in float32 of what differs from the image's mean."""
    networks, count, depth = images.shape[:3]
    numbers, area = 9 * depth, images.shape[3:].numel()
    wide = _wide(numbers)
    means = images.mean((2, 3, 4))
    parts = images.new_empty((networks, count, _PARTS, wide, wide))
    given = images.contiguous(), means.contiguous(), parts
    with torch.cuda.device_of(images):
        moments_kernel[networks * count, _PARTS](
            *given, *images.shape[2:], K=numbers, WIDE=wide, PIXELS=_PIXELS, PARTS=_PARTS
        )
    found = parts.sum(2, dtype=torch.float64) / area
    mean = found[:, :, numbers : numbers + 1, :numbers]
    return mean + means[:, :, None, None], found[:, :, :numbers, :numbers] - mean.mT * mean


def ahead(images: Tensor, weight: Tensor, factor: Tensor, threshold: Tensor) -> Tensor:
    """pool(m (f z + t))."""
    out, given = pooled_like(images, weight.shape[2], images.dtype), (images, weight, factor, threshold)
    tiles = triton.cdiv(out.shape[2:].numel(), _WINDOWS)
    _launch(ahead_kernel, given, out, tiles, _CHANNELS, WINDOWS=_WINDOWS)
    return out


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
    out = pooled_like(images, weight.shape[2], dtype_of_tangents(images, exact))
    given = (images, weight, weight_along, factor, threshold, factor_along, threshold_along)
    tiles = triton.cdiv(out.shape[2:].numel(), _WINDOWS)
    _launch(along_kernel, given, out, tiles, _CHANNELS, WINDOWS=_WINDOWS, PRODUCT=_product(exact))
    return out


def sums(images: Tensor, weight: Tensor, factor: Tensor, threshold: Tensor, slope: Tensor, exact: bool) -> Tensor:
    """Σ (A, 1) ⊗ m g/4."""
    shape = (*images.shape[:2], _PARTS, weight.shape[1] + 1, weight.shape[2])
    given, parts = (images, weight, factor, threshold), images.new_empty(shape)
    tile: dict[str, Any] = {"PIXELS": _PIXELS, "PARTS": _PARTS, "PRODUCT": _product(exact)}
    _launch(sums_kernel, given, parts, _PARTS, _SUMMED, maps=(slope,), **tile)
    return parts.sum(2)


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
    """m (f h + f' g)/4 · Wᵀ + m f g/4 · Vᵀ − A·B − b."""
    height, width = images.shape[3:]
    out = images.new_empty((*images.shape[:2], weight.shape[1], height, width))
    given = (images, weight, weight_along, factor, threshold, factor_along, rest)
    tiles = triton.cdiv(4 * ((height + 1) // 2) * ((width + 1) // 2), _PIXELS)
    tile: dict[str, Any] = {"PIXELS": _PIXELS, "PRODUCT": _product(exact)}
    _launch(onto_kernel, given, out, tiles, _SUMMED, maps=(slope, slope_along), each_channel=False, **tile)
    return out


def _launch(
    kernel: Any,
    given: tuple[Tensor, ...],
    out: Tensor,
    tiles: int,
    broad: int,
    *,
    maps: tuple[Tensor, ...] = (),
    each_channel: bool = True,
    **tile: Any,
) -> None:
    """One program for each image, each of so many ``tiles`` of its pixels, and each tile of ``broad`` channels.

    Without ``each_channel`` a program loops over the channels itself. A kernel takes what is ``given``, which begins
    with images and weight, then pooled ``maps``, then ``out``.
    """
    images, weight = given[:2]
    networks, count, *sides = images.shape
    numbers, channels = weight.shape[1:]
    broad = min(broad, max(_LEAST, 1 << (channels - 1).bit_length()))
    grid = (networks * count, tiles, triton.cdiv(channels, broad) if each_channel else 1)
    tensors = [*map(Tensor.contiguous, given), *(one.contiguous(memory_format=torch.channels_last) for one in maps)]
    sizes = {"K": numbers, "WIDE": _wide(numbers), "CHANNELS": broad}
    with torch.cuda.device_of(images):
        kernel[grid](*tensors, out, count, networks, *sides, channels, **sizes, **tile)


def _wide(numbers: int) -> int:
    """Room for so many numbers and a one behind them."""
    return max(_LEAST, 1 << numbers.bit_length())


def _product(exact: bool) -> str:
    return "tf32x3" if exact else "tf32"
