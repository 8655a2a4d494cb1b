"""First and second derivatives of the ConvNet's soft-label loss, written out by hand for S networks at once.

The second derivative along a direction v of the parameters is the directional derivative of the whole gradient:
``d/dε ∇ℓ(θ + εv, X, q)``, which holds ``Hv``, ``∂(g·v)/∂X`` and ``∂(g·v)/∂q`` together. It is worked out forward over
reverse: values and their tangents go through the network side by side, then cotangents and theirs come back.
Against automatic differentiation it saves

* the weights' own gradient, which nobody asks for here, and every gradient of a convolution's bias: the norm behind it
  takes the bias away again, so that its gradient is zero;
* all sums over full planes on the way back. The pooled maps of the ReLU's mask m, of m·x̂ and of its tangent m·x̂'
  are kept at a quarter of the resolution, and every sum that the norm's derivative needs is a product with one of them;
* launches: a value and its tangent stand in one batch, so that one convolution serves both;
* time of a CPU in everything but convolutions: maps lie with channels last, where pooling, sums over planes and
  products with a factor a plane run at the speed of memory.

A convolution costs as much as one forward pass of it, F: a gradient costs 3 F, its derivative along v 8 F, where
automatic differentiation of the gradient takes 9 F. 2 F of both are the same: whoever keeps the :class:`Trace` of the
gradient has its derivative for 6 F.

``work`` is the dtype of convolutions of tangents and cotangents. The convolutions of the values, and everything
that is not a convolution, have the parameters' dtype. With ``work=torch.bfloat16`` nearly all of the error would come
from rounded values: units near their kink then switch, in all students at once. Rounded tangents and cotangents are
harmless (measured in docs/engine.md), and make seven of eight, or two of three, convolutions.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets import first
from meddistill.nets.convnet import ConvNet
from meddistill.nets.network import NORM_EPSILON
from meddistill.nets.params import Params

_aten = torch.ops.aten


class Trace(NamedTuple):
    """All of a gradient but the products with what the weights saw: what its derivative begins with.

    ``blocks``: of every block what :class:`_Traced` says. ``flat``: what the linear layers see ``(S, n, C·h·w)``.
    ``chances``: the softmax of the logits, and ``slope``, the loss's gradient with respect to them, ``(S, n, K)``.
    ``opening``: the first block where it is gated; it is not among ``blocks`` then.
    """

    blocks: "tuple[_Traced, ...]"
    flat: Tensor
    chances: Tensor
    slope: Tensor
    opening: first.Traced | None = None


class _Traced(NamedTuple):
    """One block: its input, its weight, the norm's rate, x̂ and m; m and m·x̂ pooled; cotangents.

    ``arriving``: of its output. ``leaving``: of its convolution's. ``by_shift``, ``by_scale``: of the norm's two
    parameters, by image ``(n, S·C)``.
    """

    seen: Tensor
    weight: Tensor
    rate: Tensor
    normed: Tensor
    mask: Tensor
    pools: tuple[Tensor, Tensor]
    arriving: Tensor
    leaving: Tensor
    by_shift: Tensor
    by_scale: Tensor


class Curved(NamedTuple):
    """The derivative of the gradient along a direction.

    ``params``: Hv, stacked as the parameters are, or None where it was not asked for. ``images``: ``(S, n, C, H, W)``.
    ``labels``: ``(S, n, K)``, with respect to the soft label.
    """

    params: Params | None
    images: Tensor
    labels: Tensor


def slopes(
    network: ConvNet, params: Params, images: Tensor, labels: Tensor, work: torch.dtype, gated: bool = False
) -> Params:
    """The gradient of S losses with respect to S stacked networks, every tensor with a leading dimension S.

    ``images``: ``(S, n, C, H, W)``. ``labels``: soft labels ``(S, n, K)``. The loss is the mean cross-entropy of each.
    ``gated``: without the first block's maps (:mod:`~meddistill.nets.first`).
    """
    return slopes_of(params, trace(network, params, images, labels, work, gated))


def trace(
    network: ConvNet, params: Params, images: Tensor, labels: Tensor, work: torch.dtype, gated: bool = False
) -> Trace:
    """What :func:`slopes_of` and :func:`curvature_of` at the same parameters share; arguments as in :func:`slopes`."""
    networks, count = images.shape[:2]
    opening: first.Seen | None = None
    if gated:
        seen, opening = first.ahead(images, params[0], params[2], params[3], work)
    else:
        seen = _beside(images)
    ahead, others = [], range(int(gated), network.depth)
    for block in others:
        weight, _, scale, shift = (param.flatten(0, 1) for param in params[4 * block : 4 * block + 4])
        normed, rate = _normalise(_convolve(seen, weight, networks))
        mask = _mask(normed, scale, shift)
        pools = _pool(mask), _pool(mask * normed)
        ahead.append((seen.to(work), weight.to(work), rate, normed, mask, pools))
        seen = _flat(shift) * pools[0] + _flat(scale) * pools[1]
    flat = _per_network(seen, networks)
    chances = torch.baddbmm(params[-1][:, None], flat, params[-2].transpose(1, 2)).softmax(2)
    slope = (chances - labels) / count
    arriving = _side_by_side(torch.bmm(slope, params[-2]), seen.shape)
    blocks: list[_Traced] = []
    for block, passed in zip(reversed(others), reversed(ahead), strict=True):
        _, weight, rate, normed, mask, pools = passed
        by_shift, by_scale = (_dots(arriving, pool) for pool in pools)
        area, factor = mask.shape[2] * mask.shape[3], rate * params[4 * block + 2].flatten(0, 1)
        leaving = _spread(arriving * _flat(factor / 4), mask)
        leaving = _less(leaving, [(normed, factor * by_scale / area)], factor * by_shift / area).to(work)
        blocks.insert(0, _Traced(*passed, arriving, leaving, by_shift, by_scale))
        if block:
            arriving = _by_input(leaving, weight, networks).to(mask.dtype)
    opened = None if opening is None else first.reached(opening, arriving)
    return Trace(tuple(blocks), flat, chances, slope, opened)


def slopes_of(params: Params, traced: Trace) -> Params:
    """The gradient with respect to the parameters, once it is traced."""
    networks = len(params[0])
    found = [] if traced.opening is None else first.slopes(traced.opening)
    for kept in traced.blocks:
        by_weight = _by_weight(kept.seen, kept.leaving, kept.weight, networks)
        found += [by_weight, kept.by_scale.sum(0), kept.by_shift.sum(0)]
    found += [torch.bmm(traced.slope.transpose(1, 2), traced.flat), traced.slope.sum(1)]
    return _shaped(found, params)


def curvature(
    network: ConvNet,
    params: Params,
    along: Params,
    images: Tensor,
    labels: Tensor,
    work: torch.dtype,
    hessian: bool = True,
    gated: bool = False,
) -> Curved:
    """The derivative of :func:`slopes`, and of the gradient of images and labels, when parameters move along ``along``.

    Shapes as in :func:`slopes`; ``along`` is shaped as ``params``. Without ``hessian`` the parameters' part is None.
    """
    return curvature_of(params, along, trace(network, params, images, labels, work, gated), hessian)


def curvature_of(params: Params, along: Params, traced: Trace, hessian: bool = True) -> Curved:
    """The same, once the gradient at ``params`` is traced."""
    networks, count = traced.chances.shape[:2]
    tangent: Tensor | None = None
    opening, opened = traced.opening, None
    if opening is not None:
        tangent, opened = first.along(opening, along[0], *along[2:4])
    bent: list[_Bent] = []
    for block, kept in enumerate(traced.blocks, int(opening is not None)):
        tangent, bends = _block(kept, tangent, params, along, block, networks)
        bent.append(bends)
    assert tangent is not None
    moving, shape = _per_network(tangent.to(traced.flat.dtype), networks), tangent.shape
    last, last_along, bias_along = params[-2], *along[-2:]
    logits_along = torch.baddbmm(bias_along[:, None], traced.flat, last_along.transpose(1, 2))
    logits_along = logits_along + torch.bmm(moving, last.transpose(1, 2))
    centred = logits_along - (traced.chances * logits_along).sum(2, keepdim=True)
    slope, bending = traced.slope, traced.chances * centred / count
    found: list[Tensor] = []
    if hessian:
        by_last = torch.bmm(bending.transpose(1, 2), traced.flat) + torch.bmm(slope.transpose(1, 2), moving)
        found = [by_last, bending.sum(1)]
    arriving = _side_by_side(torch.bmm(bending, last) + torch.bmm(slope, last_along), shape)
    for kept, bends in zip(reversed(traced.blocks), reversed(bent), strict=True):
        arriving, part = _block_back(arriving, kept, bends, networks, hessian)
        found = part + found
    if opening is not None and opened is not None:
        arriving, part = first.back(arriving, opening, opened, hessian)
        found = part + found
    by_image = arriving.unflatten(1, (networks, -1)).transpose(0, 1).to(traced.flat.dtype)
    return Curved(_shaped(found, params) if hessian else None, by_image, -centred / count)


def _shaped(found: list[Tensor], params: Params) -> Params:
    """Weights', scales' and shifts' parts of every block, and the linear layer's two, as the parameters are."""
    for bias in range(1, len(params) - 2, 4):  # the norm behind it takes it away again
        found.insert(bias, torch.zeros_like(params[bias]))
    return tuple(one.reshape(param.shape).to(param.dtype) for one, param in zip(found, params, strict=True))


class _Bent(NamedTuple):
    """How a block's values move along the direction, see :func:`_block`; ``tangent``: of its input, if it has one."""

    tangent: Tensor | None
    weight_along: Tensor
    factor: Tensor
    factor_along: Tensor
    normed_along: Tensor
    pool_along: Tensor


def _block(
    kept: _Traced, tangent: Tensor | None, params: Params, along: Params, block: int, networks: int
) -> tuple[Tensor, _Bent]:
    """One block's tangents; the images have none.

    With x̂ = (z − μ)·r: x̂' = r·(z' − mean z' − x̂ mean(x̂ z')), and the rate of r is −r² mean(x̂ z').
    """
    scale = params[4 * block + 2].flatten(0, 1)
    weight_along, _, scale_along, shift_along = (param.flatten(0, 1) for param in along[4 * block : 4 * block + 4])
    normed, rate, mask, work = kept.normed, kept.rate, kept.mask, kept.seen.dtype
    weight_along = weight_along.to(work)
    moved = _convolve(kept.seen, weight_along, networks).to(normed.dtype)
    if tangent is not None:
        tangent = tangent.to(work)
        moved += _convolve(tangent, kept.weight, networks)
    area = normed.shape[2] * normed.shape[3]
    stretch = _dots(normed, moved) / area
    normed_along = _less(moved, [(normed, stretch)], moved.mean((2, 3))).mul_(_flat(rate))
    pool_along = _pool(mask * normed_along)
    onwards = _flat(shift_along) * kept.pools[0] + _flat(scale_along) * kept.pools[1] + _flat(scale) * pool_along
    factor = rate * scale
    factor_along = rate * (scale_along - stretch * factor)
    return onwards, _Bent(tangent, weight_along, factor, factor_along, normed_along, pool_along)


def _block_back(
    arriving: Tensor, kept: _Traced, bent: _Bent, networks: int, hessian: bool
) -> tuple[Tensor, list[Tensor]]:
    """The cotangents' tangents ``arriving`` through one block: those of its input, and its share of Hv.

    With f = rγ, a = m·g the cotangent behind the ReLU and a' its tangent: z̄ = f·a − x̂·f mean(a x̂) − f mean(a), and
    z̄' is the derivative of that.
    """
    work, area = kept.seen.dtype, kept.mask.shape[2] * kept.mask.shape[3]
    factor, factor_along, normed_along = bent.factor, bent.factor_along, bent.normed_along
    by_shift_along = _dots(arriving, kept.pools[0])
    by_scale_along = _dots(arriving, kept.pools[1]) + _dots(kept.arriving, bent.pool_along)
    low_along = kept.arriving * _flat(factor_along / 4) + arriving * _flat(factor / 4)
    stretch = factor * kept.by_scale / area
    stretch_along = (factor_along * kept.by_scale + factor * by_scale_along) / area
    centre_along = (factor_along * kept.by_shift + factor * by_shift_along) / area
    moved = [(kept.normed, stretch_along), (normed_along, stretch)]
    leaving_along = _less(_spread(low_along, kept.mask), moved, centre_along).to(work)
    by_input = _by_input(leaving_along, kept.weight, networks) + _by_input(kept.leaving, bent.weight_along, networks)
    by_input = by_input.to(kept.mask.dtype)
    if not hessian:
        return by_input, []
    seen, pair = kept.seen, leaving_along
    if bent.tangent is not None:  # a value meets the cotangent's tangent, and a tangent its value
        seen, pair = torch.cat([seen, bent.tangent]), torch.cat([pair, kept.leaving])
    by_weight = _by_weight(seen, pair, kept.weight, networks)
    return by_input, [by_weight, by_scale_along.sum(0), by_shift_along.sum(0)]


def _beside(images: Tensor) -> Tensor:
    """``(S, n, C, H, W)`` as ``(n, S·C, H, W)``, S groups of channels; channels last in memory."""
    maps = images.transpose(0, 1).flatten(1, 2)
    # Not contiguous(): it takes one channel for both layouts, and what comes of it would have the wrong one.
    return torch.empty_like(maps, memory_format=torch.channels_last).copy_(maps)


def _per_network(maps: Tensor, networks: int) -> Tensor:
    """``(n, S·C, h, w)`` as what S linear layers see: ``(S, n, C·h·w)``."""
    return maps.reshape(len(maps), networks, -1).transpose(0, 1)


def _side_by_side(features: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of :func:`_per_network`, channels last."""
    return features.transpose(0, 1).reshape(shape).contiguous(memory_format=torch.channels_last)


def _convolve(maps: Tensor, weight: Tensor, networks: int) -> Tensor:
    return F.conv2d(maps, weight, padding=1, groups=networks)


def _by_input(slope: Tensor, weight: Tensor, networks: int) -> Tensor:
    shape = (len(slope), networks * weight.shape[1], *slope.shape[2:])
    # Only the shape and the layout of the maps matter here.
    maps = torch.empty(shape, dtype=slope.dtype, device=slope.device, memory_format=torch.channels_last)
    return _convolution_backward(slope, maps, weight, networks, 0)


def _by_weight(maps: Tensor, slope: Tensor, weight: Tensor, networks: int) -> Tensor:
    return _convolution_backward(slope, maps, weight, networks, 1)


def _convolution_backward(slope: Tensor, maps: Tensor, weight: Tensor, networks: int, part: int) -> Tensor:
    wanted = [part == 0, part == 1, False]
    ones, zeros = [1, 1], [0, 0]
    found = _aten.convolution_backward(slope, maps, weight, None, ones, ones, ones, False, zeros, networks, wanted)
    gradient: Tensor = found[part]
    return gradient


def _normalise(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Every plane with mean 0 and variance 1, in place, and the factor r ``(n, S·C)`` that brought it there."""
    maps.sub_(_flat(maps.mean((2, 3))))
    rate = torch.rsqrt((maps * maps).mean((2, 3)) + NORM_EPSILON)
    return maps.mul_(_flat(rate)), rate


def _mask(normed: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """1 where the ReLU lets through, else 0."""
    return torch.addcmul(_flat(shift), normed, _flat(scale)).gt_(0)


def _pool(maps: Tensor) -> Tensor:
    return F.avg_pool2d(maps, 2)


def _spread(low: Tensor, mask: Tensor) -> Tensor:
    """``mask`` times every pooled pixel's value at each of its four pixels; what pooling left over gets nothing."""
    height, width = low.shape[2:]
    spread = F.interpolate(low, (2 * height, 2 * width))
    odd = (0, mask.shape[3] - 2 * width, 0, mask.shape[2] - 2 * height)
    return (F.pad(spread, odd) if any(odd) else spread).mul_(mask)


def _less(maps: Tensor, others: list[tuple[Tensor, Tensor]], constant: Tensor) -> Tensor:
    """``maps`` less other maps times a factor a plane, less a constant a plane; in place."""
    for other, factor in others:
        maps.addcmul_(other, _flat(factor), value=-1)
    return maps.sub_(_flat(constant))


def _dots(one: Tensor, other: Tensor) -> Tensor:
    """The product of two maps summed over each plane, ``(n, S·C)``."""
    return (one * other).sum((2, 3))


def _flat(factors: Tensor) -> Tensor:
    """One factor a plane, as a map of one pixel."""
    return factors[..., None, None]
