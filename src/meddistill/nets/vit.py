"""A small vision transformer."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.network import OfParts, Part
from meddistill.nets.params import Params
from meddistill.runtime.errors import InputError

MAX_WIDTH, MAX_DEPTH = 768, 24
_EPSILON = 1e-6
_HEAD = 64  # channels of one head
_LARGEST_PATCH, _PATCHES = 16, 7
_EMBEDDING = 4  # tensors before the first block: patches' weight and bias, class token, positions
_GROWTH = 4  # the hidden layer of a block is so many times as wide


@dataclass(frozen=True)
class ViT(OfParts):
    """Dosovitskiy et al. 2021 (arXiv 2010.11929): class token, learned positions, norm before each half of a block.

    Heads have 64 channels, or all where there are fewer. Patches have the largest power of two of pixels, up to 16,
    that leaves at least seven a side: 4 at 28 and 32 pixels, 8 at 64, 16 from 112 on; images are padded with zeros to
    whole patches. At 224 pixels ``vit-d12-w192`` is DeiT-Ti (Touvron et al. 2021, arXiv 2012.12877). ``averages``: its
    features are the mean of all patches in the place of the class token.
    """

    width: int
    depth: int
    channels: int
    size: int
    classes: int
    averages: bool = False

    def __post_init__(self) -> None:
        if not (1 <= self.width <= MAX_WIDTH and 1 <= self.depth <= MAX_DEPTH) or self._is_uneven:
            raise InputError(
                f"network {self.name}: depth must be 1 to {MAX_DEPTH} and width 1 to {MAX_WIDTH}, above {_HEAD} a "
                f"multiple of {_HEAD}; change the name"
            )

    @property
    def name(self) -> str:
        """The name that :func:`meddistill.nets.find.find` reads."""
        return f"vit-d{self.depth}-w{self.width}{'-mean' * self.averages}"

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return int(min(_LARGEST_PATCH, 2 ** int(math.log2(max(1, self.size // _PATCHES)))))

    @property
    def patches(self) -> int:
        """How many patches an image has."""
        return math.ceil(self.size / self.patch) ** 2

    @property
    def parts(self) -> list[Part]:
        """Patches, class token, positions, blocks, norm, linear layer."""
        width, tokens = self.width, 1 + self.patches
        parts = [Part((width, self.channels, self.patch, self.patch), "token"), Part((width,), "zeros")]
        parts += [Part((1, 1, width), "token"), Part((1, tokens, width), "token")]
        for _ in range(self.depth):
            parts += block_parts(width)
        return [*parts, *norm_parts(width), *layer_parts(width, self.classes)]

    def features(self, params: Params, images: Tensor) -> Tensor:
        """The class token at the end, or the mean of the patches, ``(N, width)``."""
        tokens = self.encode(params, self.tokens(params, images))
        return tokens[:, 1:].mean(1) if self.averages else tokens[:, 0]

    def tokens(self, params: Params, images: Tensor) -> Tensor:
        """Class token and patches with their positions, ``(N, 1 + patches, width)``."""
        weight, bias, token, positions = params[:_EMBEDDING]
        maps = F.conv2d(self.whole(images), weight, bias, stride=self.patch)
        patches = maps.flatten(2).transpose(1, 2)
        return torch.cat([token.expand(len(images), -1, -1), patches], 1) + positions

    def encode(self, params: Params, tokens: Tensor) -> Tensor:
        """What the blocks and the last norm make of any number of tokens, ``(N, T, width)``."""
        following = iter(params[_EMBEDDING:])
        for _ in range(self.depth):
            tokens = block(tokens, following)
        return normed(tokens, following)

    def whole(self, images: Tensor) -> Tensor:
        """Images padded with zeros, below and on the right, to whole patches."""
        missing = -images.shape[-1] % self.patch
        return F.pad(images, (0, missing, 0, missing))

    @property
    def _is_uneven(self) -> bool:
        return self.width > _HEAD and self.width % _HEAD > 0


def norm_parts(width: int) -> list[Part]:
    """Scale and shift of a norm."""
    return [Part((width,), "ones"), Part((width,), "zeros")]


def layer_parts(inputs: int, outputs: int) -> list[Part]:
    """Weight and bias of a linear layer."""
    return [Part((outputs, inputs), "token"), Part((outputs,), "zeros")]


def block_parts(width: int) -> list[Part]:
    """A block: norm and attention, norm and two linear layers."""
    parts = [*norm_parts(width), *layer_parts(width, 3 * width), *layer_parts(width, width)]
    return [*parts, *norm_parts(width), *layer_parts(width, _GROWTH * width), *layer_parts(_GROWTH * width, width)]


def block(tokens: Tensor, following: Iterator[Tensor]) -> Tensor:
    """``(N, T, width)`` through a block whose parameters come next."""
    tokens = tokens + _attend(normed(tokens, following), following)
    hidden = F.gelu(F.linear(normed(tokens, following), next(following), next(following)))
    return tokens + F.linear(hidden, next(following), next(following))


def normed(tokens: Tensor, following: Iterator[Tensor]) -> Tensor:
    """Every token to mean 0 and variance 1, then the next two parameters as scale and shift."""
    return F.layer_norm(tokens, tokens.shape[-1:], next(following), next(following), _EPSILON)


def _attend(tokens: Tensor, following: Iterator[Tensor]) -> Tensor:
    heads = max(1, tokens.shape[-1] // _HEAD)
    mixed = F.linear(tokens, next(following), next(following))
    queries, keys, values = mixed.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    seen = F.scaled_dot_product_attention(queries, keys, values)
    return F.linear(seen.transpose(1, 2).flatten(2), next(following), next(following))
