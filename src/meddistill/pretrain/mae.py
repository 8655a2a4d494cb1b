"""MAE: see a quarter of an image's patches, draw the others (He et al. 2022, arXiv 2111.06377)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.network import Network, Part
from meddistill.nets.vit import ViT, block, block_parts, layer_parts, norm_parts, normed
from meddistill.pretrain.objective import Side
from meddistill.runtime.errors import InputError

_EPSILON = 1e-6
_LEAST_PATCH = 2  # pixels a side: a single one has no mean and spread of its own


@dataclass(frozen=True)
class Mae:
    """A vision transformer as encoder, and a narrow one as decoder.

    ``hidden``: share of the patches that the encoder does not see. ``width``, ``depth``: of the decoder.
    ``standardises``: every patch is drawn with mean 0 and variance 1, which the source found a little better; in
    patches of four pixels little is left of an image then.
    """

    hidden: float = 0.75
    width: int = 64
    depth: int = 1
    standardises: bool = False
    momentum: float | None = None

    def heads(self, network: Network) -> dict[str, list[Part]]:
        """The decoder: a layer, the token of hidden patches, positions, blocks, a norm, a layer to pixels."""
        vit = _vit(network)
        pixels = vit.channels * vit.patch**2
        parts = [*layer_parts(vit.width, self.width), Part((1, 1, self.width), "token")]
        parts.append(Part((1, 1 + vit.patches, self.width), "token"))
        parts += [part for _ in range(self.depth) for part in block_parts(self.width)]
        return {"decoder": [*parts, *norm_parts(self.width), *layer_parts(self.width, pixels)]}

    def loss(self, online: Side, target: Side, view: Callable[[], Tensor], generator: torch.Generator) -> Tensor:
        """The mean squared error of the hidden patches (their section 3)."""
        vit, images = _vit(online.network), view()
        order = torch.rand(len(images), vit.patches, generator=generator).argsort(1).to(images.device)
        shown, hidden = order.tensor_split([round(vit.patches * (1 - self.hidden))], 1)
        tokens = vit.tokens(online.encoder, images)
        seen = vit.encode(online.encoder, torch.cat([tokens[:, :1], chosen(tokens[:, 1:], shown)], 1))
        drawn = self._decode(online.heads["decoder"], seen, order)
        aims = cut(vit.whole(images), vit.patch)
        aims = standardised(aims) if self.standardises else aims
        return F.mse_loss(chosen(drawn, hidden), chosen(aims, hidden))

    def _decode(self, params: tuple[Tensor, ...], seen: Tensor, order: Tensor) -> Tensor:
        """All patches in their places, ``(N, patches, pixels)``; ``order`` has those that were seen first."""
        weight, bias, empty, positions, *rest = params
        tokens = F.linear(seen, weight, bias)
        missing = order.shape[1] + 1 - seen.shape[1]
        shuffled = torch.cat([tokens[:, 1:], empty.expand(len(seen), missing, -1)], 1)
        placed = chosen(shuffled, order.argsort(1))
        tokens, following = torch.cat([tokens[:, :1], placed], 1) + positions, iter(rest)
        for _ in range(self.depth):
            tokens = block(tokens, following)
        return F.linear(normed(tokens, following)[:, 1:], next(following), next(following))


def chosen(rows: Tensor, places: Tensor) -> Tensor:
    """Of every image the rows at its ``places`` ``(N, k)``: ``(N, k, D)`` of ``(N, T, D)``."""
    return rows.gather(1, places[:, :, None].expand(-1, -1, rows.shape[2]))


def cut(images: Tensor, patch: int) -> Tensor:
    """The patches row by row, ``(N, T, C·patch²)``, of images ``(N, C, H, W)``."""
    return F.unfold(images, patch, stride=patch).transpose(1, 2)


def standardised(patches: Tensor) -> Tensor:
    """Every patch to mean 0 and variance 1, unless it is constant."""
    variance, mean = torch.var_mean(patches, 2, keepdim=True)
    return (patches - mean) / (variance + _EPSILON).sqrt()


def _vit(network: Network) -> ViT:
    if not isinstance(network, ViT):
        raise InputError(
            f"mae hides patches, which {network.name} does not have: give it a vision transformer, for example "
            'network = "vit-d4-w64-mean"'
        )
    if network.patch < _LEAST_PATCH:
        raise InputError(f"mae needs images of 14 pixels or more: patches of {network.size} have a single pixel")
    return network
