"""Change real images as somebody might who passes copies on, and see which of them `meddistill audit` finds.

    .venv/bin/python benchmarks/transforms.py --data ../shared/data [--cells "PBC blood cells 32"]

A set and a side of its images are one entry of ``benchmarks/records/transforms.json``, written as soon as it is
measured; what is in it is not measured again. Of images drawn by lot the first are members, the others control
patients; each change is made to the same few members, which stand in the place of packages of 20 images. What is usual
is learned from control images, as in an audit. ``--table`` prints the record.
"""

import math
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from shared import images_of, markdown, of_cells, today
from torch import Tensor

from meddistill.audit import copies, nearest
from meddistill.audit.people import People
from meddistill.audit.recognise import DIMENSIONS, Recogniser, train_recogniser
from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import parse
from meddistill.runtime.streams import stream
from meddistill.teachers.images import Normalisation

RECORD = Path(__file__).parent / "records" / "transforms.json"
CELLS = (("PneumoniaMNIST", 28), ("COVID-19 radiography", 32), ("HAM10000", 32), ("PBC blood cells", 32))
MEMBERS, CONTROL, USUAL, CHANGED, SET, STEPS, SEED = 1500, 1000, 300, 60, 20, 200, 0
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Stand:
    """What the attack has to know of an audit."""

    recogniser: Recogniser
    device: torch.device = CPU


def turned(degrees: float = 0, scale: float = 1) -> Callable[[Tensor], Tensor]:
    """Turn images about their middle, and show so large a part of them."""
    cos, sin = (part(math.radians(degrees)) * scale for part in (math.cos, math.sin))

    def change(images: Tensor) -> Tensor:
        moves = torch.tensor([[cos, -sin, 0], [sin, cos, 0]]).expand(len(images), 2, 3)
        grid = F.affine_grid(moves, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    return change


def blurred(width: int) -> Callable[[Tensor], Tensor]:
    """The mean of so many pixels around each."""
    return lambda images: F.avg_pool2d(F.pad(images, (width // 2,) * 4, mode="replicate"), width, 1)


def noisy(strength: float) -> Callable[[Tensor], Tensor]:
    """Noise of this deviation."""
    return lambda images: images + strength * torch.randn(images.shape, generator=stream(SEED, "noise"))


def mosaic(images: Tensor) -> Tensor:
    """Four images of half the side in one."""
    quarters = [F.adaptive_avg_pool2d(images.roll(step, 0), images.shape[-1] // 2) for step in range(4)]
    return torch.cat([torch.cat(quarters[:2], 3), torch.cat(quarters[2:], 3)], 2)


def pasted(images: Tensor) -> Tensor:
    """The left half of one image and the right half of the next."""
    half = images.shape[-1] // 2
    return torch.cat([images[..., :half], images.roll(1, 0)[..., half:]], 3)


def augmented(images: Tensor) -> Tensor:
    """What distilling itself may do: turned, scaled, moved, mirrored, brightened, all at once."""
    return Augmentation().draw(len(images), stream(SEED, "augmented")).apply(images)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda images: images,
    "mirrored": lambda images: images.flip(3),
    "upside down": lambda images: images.flip(2),
    "turned by 90 degrees": lambda images: images.rot90(1, (2, 3)),
    "turned by 180 degrees": lambda images: images.rot90(2, (2, 3)),
    "turned by 5 degrees": turned(5),
    "turned by 10 degrees": turned(10),
    "turned by 15 degrees": turned(15),
    "turned by 30 degrees": turned(30),
    "cut to 90 %": turned(scale=0.9),
    "cut to 80 %": turned(scale=0.8),
    "cut to 70 %": turned(scale=0.7),
    "reduced to 83 %": turned(scale=1.2),
    "moved by 3 pixels": lambda images: images.roll(3, 3),
    "moved by 4 pixels both ways": lambda images: images.roll((4, 4), (2, 3)),
    "as augmentation draws them": augmented,
    "inverted": lambda images: 1 - images,
    "brighter by 0.3, cut off at 1": lambda images: (images + 0.3).clamp(0, 1),
    "a tenth of the contrast": lambda images: 0.5 + 0.1 * (images - 0.5),
    "blurred over 3 pixels": blurred(3),
    "blurred over 5 pixels": blurred(5),
    "blurred over 7 pixels": blurred(7),
    "noise of 0.1": noisy(0.1),
    "noise of 0.2": noisy(0.2),
    "70 % of one, 30 % of another": lambda images: 0.7 * images + 0.3 * images.roll(1, 0),
    "mean of two": lambda images: 0.5 * images + 0.5 * images.roll(1, 0),
    "halves of two side by side": pasted,
    "mosaic of four": mosaic,
}


def measure(name: str, side: int, data: Path) -> dict[str, Any]:
    """One entry of the record."""
    pixels = images_of(data, name, side, MEMBERS + CONTROL, once=True)
    members, control = people(pixels[:MEMBERS]), people(pixels[MEMBERS:])
    colours = pixels.shape[1]
    scale = Normalisation(*(tuple(float(one) for one in part((0, 2, 3)) / 255) for part in (pixels.mean, pixels.std)))
    network = parse("convnet-d3-w32", channels=colours, size=side, classes=DIMENSIONS)
    stand = Stand(train_recogniser(members, control, network, scale, steps=STEPS, seed=SEED, device=CPU))
    found = attacked(stand, members, control)
    return {
        "command": shlex.join(["benchmarks/transforms.py", "--cells", f"{name} {side}"]),
        "date": today(),
        "seed": SEED,
        "members": MEMBERS,
        "control": CONTROL,
        "changed": CHANGED,
        "images_of_a_set": SET,
        "found": found,
    }


def attacked(stand: Any, members: People, control: People) -> dict[str, dict[str, int]]:
    """How many of the changed images are copies, and how many others likenesses, by change."""
    everybody = nearest.gallery_of(stand, members, control)
    inside = nearest.first_of(everybody, members)
    keep = nearest.listed(control.count, everybody.count)
    of_control = nearest.nearest(stand, control.images(slice(USUAL)), inside, keep)
    below = nearest.twin_distance(of_control["pixels"])
    strange = of_control["pixels"].distance[:, 0].numpy() >= below
    all_members = np.ones(members.count, bool)
    usual = {name: one.ratios(all_members)[strange] for name, one in nearest.near(of_control, inside, below).items()}
    limits = {name: float(np.quantile(one, copies.CLOSE_RATE)) for name, one in usual.items()}
    among = np.arange(everybody.count) < members.count
    told = {}
    for change, made in CHANGES.items():
        found = nearest.nearest(stand, made(members.images(slice(CHANGED))), everybody, keep)
        ratios = {name: one.ratios(among) for name, one in nearest.near(found, everybody, below).items()}
        sets = [{name: one[begin : begin + SET] for name, one in ratios.items()} for begin in range(0, CHANGED, SET)]
        told[change] = counted(
            copies.found_near(copies.Compared(some, usual, {}, copies.Twins(below, 0.0, 0.0)), limits) for some in sets
        )
    return told


def counted(found: Iterable[tuple[list[int], list[int]]]) -> dict[str, int]:
    """Copies and likenesses of all sets."""
    copied, alike = zip(*found, strict=True)
    return {"copies": sum(map(len, copied)), "likenesses": sum(map(len, alike))}


def people(pixels: Any) -> People:
    """Images of as many patients."""
    return People(pixels, 255, np.zeros(len(pixels), np.int64), np.arange(len(pixels)))


def table(record: dict[str, Any]) -> str:
    """The record as Markdown: per cent of changed images that are copies / likenesses."""
    lines = ((change, *(rates(one, change) for one in record.values())) for change in CHANGES)
    return markdown(("change", *record), lines)


def rates(one: dict[str, Any], change: str) -> str:
    """Both shares in per cent."""
    return " / ".join(f"{100 * one['found'][change][way] / one['changed']:.0f}" for way in ("copies", "likenesses"))


def main() -> None:
    """Measure what was asked for and is not in the record yet."""
    of_cells(__doc__.splitlines()[0], RECORD, CELLS, measure, table)


if __name__ == "__main__":
    main()
