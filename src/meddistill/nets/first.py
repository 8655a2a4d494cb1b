"""The first block of the ConvNet for :mod:`~meddistill.nets.curvature`, without its maps.

Three quarters of what a step's maps take are the first block's, those of the image's full size. But its convolution
sees only K = 9 numbers a channel of the image. So what instance norm and its derivatives ask of whole planes follows
from the K means Ā and K × K covariances G of the image's patches A. With z = A·W, and z' = A·W' along a direction:

    mean z = Ā·W        var z = W·GW        mean(x̂ z') = r W'·GW        Σ A x̂ = area · r GW

where x̂ = r (z − mean z) = r z + c. What is left are products with the ReLU's mask, m = 1 where γ x̂ + δ = f z + t > 0;
:mod:`~meddistill.nets.gates` pools or sums them where they are worked out. Formulas and words are those of
``curvature``; images have no tangent. A factor a plane is ``(S, n, C)`` here, maps are ``(n, S·C, h, w)`` as there.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets import gates
from meddistill.nets.network import NORM_EPSILON


class Seen(NamedTuple):
    """The block on its way ahead: images, W ``(S, K, C)``, f and t; Ā ``(S, n, 1, K)``, G ``(S, n, K, K)``; r and c."""

    gate: tuple[Tensor, Tensor, Tensor, Tensor]
    mean: Tensor
    covariance: Tensor
    rate: Tensor
    centre: Tensor
    work: torch.dtype

    @property
    def exact(self) -> bool:
        """Whether kernels round nothing."""
        return self.work == self.rate.dtype


class Traced(NamedTuple):
    """The block with the cotangent ``arriving`` of its output.

    ``sums``: Σ A m g ``(S, n, K, C)``, g being that cotangent at the pixels. ``by_shift``, ``by_scale``: Σ m g and
    Σ m g x̂.
    """

    seen: Seen
    arriving: Tensor
    sums: Tensor
    by_shift: Tensor
    by_scale: Tensor


class Bent(NamedTuple):
    """How the block moves along the direction: W'; mean z' and mean(x̂ z'); f'."""

    weight: Tensor
    mean: Tensor
    stretch: Tensor
    factor: Tensor


def ahead(images: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, work: torch.dtype) -> tuple[Tensor, Seen]:
    """What the block makes of images ``(S, n, channels, H, W)`` by weights ``(S, C, channels, 3, 3)`` and its norm."""
    images, weight, scale, shift = images.contiguous(), _by_patch(weight), scale[:, None], shift[:, None]
    mean, covariance = gates.moments(images)
    # In float64: neighbours are alike, and what a filter makes of their difference is small beside the moments.
    wide = weight[:, None].double()
    variance = (wide * (covariance @ wide)).sum(2).clamp(min=0)
    rate = torch.rsqrt(variance + NORM_EPSILON)
    centre = -rate * (mean @ wide).squeeze(2)
    mean, covariance, rate, centre = (one.to(images.dtype) for one in (mean, covariance, rate, centre))
    seen = Seen((images, weight, scale * rate, scale * centre + shift), mean, covariance, rate, centre, work)
    return gates.ahead(*seen.gate), seen


def reached(seen: Seen, arriving: Tensor) -> Traced:
    """The block, once the cotangent of its output has arrived."""
    arriving = arriving.to(seen.work)
    found = gates.sums(*seen.gate, arriving, seen.exact)
    by_patch, by_shift = found[:, :, :-1], found[:, :, -1]
    return Traced(seen, arriving, by_patch, by_shift, _by_scale(seen, by_patch, by_shift))


def slopes(kept: Traced) -> list[Tensor]:
    """Those with respect to weight, the norm's scale and its shift, ``(S, C, K)`` and twice ``(S, C)``."""
    seen, (_, weight, factor, _) = kept.seen, kept.seen.gate
    stretch, centre = _of_norm(kept)
    by_weight = _to_weight(seen, factor[:, :, None] * kept.sums, stretch[:, :, None] * weight[:, None], centre)
    return [by_weight, kept.by_scale.sum(1), kept.by_shift.sum(1)]


def along(kept: Traced, weight: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Bent]:
    """The output's tangent, when the block's weight, norm's scale and shift move along these, shaped as in ``ahead``.

    As r' = −r² mean(x̂ z'), f = γr and t = γc + δ move along f' = r (γ' − f mean(x̂ z')) and
    t' = c (γ' − f mean(x̂ z')) + δ' − f mean z'.
    """
    seen, (images, held, factor, threshold) = kept.seen, kept.seen.gate
    weight = _by_patch(weight)
    mean = (seen.mean @ weight[:, None]).squeeze(2)
    stretch = seen.rate * (weight[:, None] * (seen.covariance @ held[:, None])).sum(2)
    scale = scale[:, None] - factor * stretch
    factor_along, threshold_along = seen.rate * scale, seen.centre * scale + shift[:, None] - factor * mean
    moved = gates.along(images, held, weight, factor, threshold, factor_along, threshold_along, seen.exact)
    return moved, Bent(weight, mean, stretch, factor_along)


def back(arriving: Tensor, kept: Traced, bent: Bent, hessian: bool) -> tuple[Tensor, list[Tensor]]:
    """The tangents of cotangents ``arriving``: those of the images ``(n, S·channels, H, W)``, and the share of Hv.

    The norm takes ((A − Ā)·T + b)/area off the cotangent of z, with T = s W, see :func:`_of_norm`; off its tangent the
    same with T' = s' W + s W' and b'.
    """
    seen, (images, weight, factor, threshold) = kept.seen, kept.seen.gate
    arriving = arriving.to(seen.work)
    found = gates.sums(*seen.gate, arriving, seen.exact)
    sums_along, by_shift_along = found[:, :, :-1], found[:, :, -1]
    crossed = (bent.weight[:, None] * kept.sums).sum(2) - bent.mean * kept.by_shift - bent.stretch * kept.by_scale
    by_scale_along = _by_scale(seen, sums_along, by_shift_along) + seen.rate * crossed
    stretch, centre = _of_norm(kept)
    stretch_along = seen.rate * (bent.factor * kept.by_scale + factor * by_scale_along - bent.stretch * stretch)
    centre_along = bent.factor * kept.by_shift + factor * by_shift_along
    taken = stretch[:, :, None] * weight[:, None], centre[:, :, None]
    taken_along = stretch_along[:, :, None] * weight[:, None] + stretch[:, :, None] * bent.weight[:, None]
    rest = _off_patches(seen, bent, taken, (taken_along, centre_along[:, :, None]))
    slopes = bent.factor, kept.arriving, arriving
    by_image = _at_pixels(gates.onto(images, weight, bent.weight, factor, threshold, *slopes, rest, seen.exact))
    if not hessian:
        return by_image, []
    masked = bent.factor[:, :, None] * kept.sums + factor[:, :, None] * sums_along
    by_weight = _to_weight(seen, masked, taken_along, centre_along)
    return by_image, [by_weight, by_scale_along.sum(1), by_shift_along.sum(1)]


def _by_scale(seen: Seen, by_patch: Tensor, by_shift: Tensor) -> Tensor:
    """Σ m g x̂ of Σ A m g and Σ m g."""
    return seen.rate * (seen.gate[1][:, None] * by_patch).sum(2) + seen.centre * by_shift


def _of_norm(kept: Traced) -> tuple[Tensor, Tensor]:
    """Of ((A − Ā)·T + b)/area, which the norm takes off the cotangent of z: T = ``stretch`` · W, and b."""
    factor = kept.seen.gate[2]
    return kept.seen.rate * factor * kept.by_scale, factor * kept.by_shift


def _off_patches(seen: Seen, bent: Bent, taken: tuple[Tensor, Tensor], along: tuple[Tensor, Tensor]) -> Tensor:
    """What is taken off the tangent of A's cotangent, A·B + b, as B and below it b: ``(S, n, K + 1, K)``.

    That is W times what is taken off z's tangent, and W' times what is taken off z's; ``taken``, ``along``: T and b.
    """
    images, weight = seen.gate[0], seen.gate[1][:, None].mT
    moved = bent.weight[:, None].mT
    by_patch, constant = (
        of_tangent @ weight + of_value @ moved for of_tangent, of_value in zip(along, taken, strict=True)
    )
    return torch.cat((by_patch, constant - seen.mean @ by_patch), 2) / images.shape[3:].numel()


def _to_weight(seen: Seen, masked: Tensor, taken: Tensor, centre: Tensor) -> Tensor:
    """Σ A times z's cotangent over all images, ``(S, C, K)``; ``taken`` and ``centre``: T and b."""
    return (masked - seen.covariance @ taken - seen.mean.mT * centre[:, :, None]).sum(1).mT


def _at_pixels(by_patch: Tensor) -> Tensor:
    """What falls to each pixel ``(n, S·channels, H, W)`` from the patches that it is in, ``(S, n, K, H, W)``.

    A sum of nine shifted maps, whose order is fixed, on a GPU too.
    """
    height, width = by_patch.shape[3:]
    nine = F.pad(by_patch.transpose(0, 1).unflatten(2, (-1, 3, 3)).flatten(1, 2), (1, 1, 1, 1))
    found = torch.zeros_like(nine[:, :, 0, 0, :height, :width])
    for row in range(3):
        for column in range(3):
            found = found + nine[:, :, row, column, 2 - row : 2 - row + height, 2 - column : 2 - column + width]
    return found


def _by_patch(weight: Tensor) -> Tensor:
    """``(S, C, channels, 3, 3)`` as ``(S, K, C)``."""
    return weight.flatten(2).mT.contiguous()
