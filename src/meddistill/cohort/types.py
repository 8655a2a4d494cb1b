"""What a cohort is once it has been read, checked and split."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from meddistill.cohort.problems import Problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SplitName = Literal["train", "val", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
Fit = Literal["crop", "pad", "stretch"]
Leak = Literal["stop", "allow", "drop", "resplit"]


@dataclass(frozen=True)
class Picture:
    """One decoded image at its native size.

    ``pixels``: ``(H, W)`` grey or ``(H, W, 3)`` colour, uint8 or uint16; colour whose channels are all equal has become
    grey. ``mode``: how it was stored, for people (``grey 8-bit``, ``colour 8-bit``, …). ``digest``: of the file's
    bytes, ``None`` where the image has no file of its own.
    """

    pixels: npt.NDArray[np.generic]
    mode: str
    digest: bytes | None = None


class NoPictureError(ValueError):
    """A file of a kind that may hold pictures, but holds something else: left aside, not broken."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a file, not yet decoded.

    ``place``: where in the file, for people (`` (frame 3)``), empty if it is the only one. ``load`` and ``peek``: as of
    :class:`Record`. ``patient``: whose it is, as far as the file tells. ``burned_in``: the file says that text stands
    in the picture. ``no_window``: grey of more than 8 bits without a word on what is black and white. ``stands_in``:
    ``patient`` is a study or a file, which holds pictures together and names no person.
    """

    place: str
    load: Callable[[], Picture]
    peek: Callable[[], tuple[int, int]]
    patient: str | None = None
    burned_in: bool = False
    no_window: bool = False
    stands_in: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """One labelled image of a source, not yet decoded.

    ``where`` names it for people (a file, or ``file:row``); ``load`` decodes it and raises ``OSError`` or
    ``ValueError`` for an unreadable image; ``peek`` gives its native ``(width, height)`` without decoding, under the
    same errors. ``stands_in``: as of :class:`Frame`.
    """

    where: str
    label: str
    split: SplitName | None
    patient: str | None
    load: Callable[[], Picture]
    peek: Callable[[], tuple[int, int]]
    stands_in: bool = False

    @property
    def names_patient(self) -> bool:
        """Whether it is known whose it is."""
        return self.patient is not None and not self.stands_in

    def decode(self) -> npt.NDArray[np.generic]:
        """The pixels, as in :class:`Picture`."""
        return self.load().pixels


@dataclass(frozen=True)
class Listing:
    """A source as listed: every labelled image it names, before any is decoded.

    ``kind``: ``class folders``, ``split folders``, ``csv`` or ``medmnist``. ``ignored``: files left aside, counted by
    suffix (``hidden`` for hidden and system files). ``problems``: what listing alone could tell.
    """

    name: str
    kind: str
    records: tuple[Record, ...]
    classes: tuple[str, ...]
    ignored: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


def in_bits(pixels: npt.NDArray[Any], wide: bool) -> npt.NDArray[Any]:
    """Pixels as images of 16 bits have them if ``wide``: 8-bit values are scaled by 257, so that white stays white."""
    return pixels.astype(np.uint16) * np.uint16(257) if wide and pixels.dtype == np.uint8 else pixels


@dataclass(frozen=True)
class Cohort:
    """Labelled images at working size, checked and split; what teachers and distillation see.

    ``images``: ``(N, C, H, W)``, uint8 or uint16, square, C = 1 or 3. ``labels``: ``(N,)`` int64 in
    ``range(len(classes))``. ``splits``: ``(N,)`` uint8, index into :data:`SPLITS`.
    No file name and no patient id is kept here.
    """

    images: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    labels: npt.NDArray[np.int64]
    splits: npt.NDArray[np.uint8]
    classes: tuple[str, ...]

    @property
    def channels(self) -> int:
        return int(self.images.shape[1])

    @property
    def size(self) -> int:
        return int(self.images.shape[-1])

    @property
    def peak(self) -> int:
        """The largest value the dtype holds: 255 or 65535; ``images / peak`` is the intensity in [0, 1]."""
        return int(np.iinfo(self.images.dtype).max)

    @property
    def image_bytes(self) -> int:
        """What one image takes at working size, uncompressed."""
        return int(self.images[0].nbytes)

    def indices(self, split: SplitName) -> npt.NDArray[np.intp]:
        """Rows of the split, ascending."""
        return np.flatnonzero(self.splits == SPLITS.index(split))

    def counts(self, split: SplitName) -> dict[str, int]:
        """Images per class in the split, in class order."""
        found = np.bincount(self.labels[self.indices(split)], minlength=len(self.classes))
        return dict(zip(self.classes, map(int, found), strict=True))

    def _repr_html_(self) -> str:
        from meddistill.cohort.glance import notebook

        return notebook(self)

    def plot(self, split: SplitName = "train", seed: int = 0) -> "Figure":
        """Some images of each class, as a matplotlib figure: real images of patients. Needs the extra ``plot``."""
        from meddistill.cohort.glance import images

        return images(self, split, seed)
