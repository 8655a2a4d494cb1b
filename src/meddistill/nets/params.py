"""Parameters of a stateless network: a tuple of tensors, and its flat form for storage."""

import torch
from torch import Tensor

Params = tuple[Tensor, ...]
Shapes = tuple[torch.Size, ...]


def flatten(params: Params) -> Tensor:
    """All parameters as one copied vector ``(P,)``, in order."""
    return torch.cat([param.detach().reshape(-1) for param in params])


def unflatten(flat: Tensor, shapes: Shapes) -> Params:
    """The inverse of :func:`flatten`: views into ``flat``."""
    pieces = flat.split([shape.numel() for shape in shapes])
    return tuple(piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True))


def leaves(params: Params) -> Params:
    """The same values as fresh leaves that require a gradient."""
    return tuple(param.detach().requires_grad_() for param in params)
