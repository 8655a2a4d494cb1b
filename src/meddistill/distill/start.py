"""Initial synthetic images. Real images are used only where the caller asks for them by name."""

from typing import Literal

import torch
from torch import Tensor

from meddistill.nets.augment import Augmentation
from meddistill.runtime.streams import stream
from meddistill.teachers.images import LabelledImages

Start = Literal["prototypes", "noise", "public", "real"]
STARTS: tuple[Start, ...] = ("prototypes", "noise", "public", "real")

# A prototype averages up to this many images; with fewer than the minimum in a class it would resemble one patient.
PROTOTYPE_IMAGES = 32
MIN_PROTOTYPE_IMAGES = 8


def first_images(
    kind: Start,
    images: LabelledImages,
    labels: Tensor,
    augmentation: Augmentation,
    seed: int,
    public: Tensor | None = None,
    averaged: int = PROTOTYPE_IMAGES,
) -> Tensor:
    """Normalised images ``(n, C, H, W)`` on the CPU, one for each of the class ``labels`` ``(n,)``.

    ``noise``: standard normal. ``prototypes``: each the mean of up to ``averaged`` augmented training images of the
    class, at least :data:`MIN_PROTOTYPE_IMAGES`, with the contrast of a single image given back to it; a class with
    fewer images than that starts from noise. ``real``: training images of the class, as they are.
    ``public``: images of the normalised ``public`` ones ``(m, C, H, W)``, whatever they show, in a random order.
    """
    if kind == "public":
        assert public is not None, "public start images are to be given"
        order = torch.randperm(len(public), generator=stream(seed, "start", kind))
        return public[order[torch.arange(len(labels)) % len(public)]].clone()
    many = max(averaged, MIN_PROTOTYPE_IMAGES)
    made = [
        _first_image(kind, images, int(label), augmentation, seed, place, many) for place, label in enumerate(labels)
    ]
    return torch.stack(made)


def _first_image(
    kind: Start, images: LabelledImages, label: int, augmentation: Augmentation, seed: int, place: int, averaged: int
) -> Tensor:
    generator = stream(seed, "start", kind, place)
    rows = images.rows_of(label)
    if kind == "noise" or (kind == "prototypes" and len(rows) < MIN_PROTOTYPE_IMAGES):
        return torch.randn(images.pixels.shape[1:], generator=generator)
    if kind == "real":
        order = rows[torch.randperm(len(rows), generator=stream(seed, "start", kind, "class", label))]
        return images.inputs(order[place % len(order)][None])[0].cpu()
    chosen = rows[torch.randperm(len(rows), generator=generator)[:averaged]]
    return _prototype(augmentation.draw(len(chosen), generator).apply(images.inputs(chosen))).cpu()


def _prototype(group: Tensor) -> Tensor:
    """The mean of ``(n, C, H, W)``, spread about its channel means until it is as contrasted as one of them."""
    mean = group.mean(0)
    centre = mean.mean(dim=(1, 2), keepdim=True)
    single = (group - group.mean(dim=(2, 3), keepdim=True)).std()
    return centre + (mean - centre) * (single / (mean - centre).std().clamp_min(1e-6))
