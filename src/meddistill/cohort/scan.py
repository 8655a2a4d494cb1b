"""Decode every image once: its facts, and its pixels at working size."""

import contextlib
import hashlib
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import numpy.typing as npt

from meddistill.cohort.decode import DIGEST_BYTES
from meddistill.cohort.resize import resize
from meddistill.cohort.types import SPLITS, Fit, Listing, Picture, Record
from meddistill.runtime.progress import Progress, Silent

Pixels = npt.NDArray[np.generic]
UNSPLIT = -1
_BATCH = 32
_MAX_WORKERS = 8


@dataclass(frozen=True, slots=True)
class Facts:
    """What the pixels of one image told, at native size.

    ``pixel_digest`` is equal for images that look the same: upright, grey if colourless, same dtype. ``file_digest``
    is ``None`` where an image has no file of its own. ``brightest``: the largest value, of 255 or 65535.
    """

    width: int
    height: int
    mode: str
    colour: bool
    bits: int
    constant: bool
    brightest: int
    pixel_digest: bytes
    file_digest: bytes | None

    @property
    def digests(self) -> frozenset[bytes]:
        """Of the pixels, and of the file where there is one."""
        return frozenset({self.pixel_digest} if self.file_digest is None else {self.pixel_digest, self.file_digest})


@dataclass(frozen=True)
class Scan:
    """A decoded source. ``records``, ``facts`` and, unless ``size`` is ``None``, ``pixels`` run in parallel.

    ``pixels``: one ``(size, size)`` or ``(size, size, 3)`` array an image, of its own dtype. ``unreadable``: where and
    why of the images that could not be decoded; these are in no other field.
    """

    listing: Listing
    records: tuple[Record, ...]
    facts: tuple[Facts, ...]
    pixels: tuple[Pixels, ...]
    unreadable: tuple[str, ...]
    size: int | None
    fit: Fit

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """``(N,)``, index into the listing's classes."""
        number = {name: label for label, name in enumerate(self.listing.classes)}
        return np.array([number[record.label] for record in self.records], np.int64)

    @property
    def given_splits(self) -> npt.NDArray[np.int8]:
        """``(N,)``, index into ``SPLITS``, or ``UNSPLIT`` where the source names none."""
        number = {name: index for index, name in enumerate(SPLITS)}
        return np.array([number[record.split] if record.split else UNSPLIT for record in self.records], np.int8)


def scan(listing: Listing, size: int | None, fit: Fit = "crop", progress: Progress = Silent()) -> Scan:
    """Decode every image of ``listing`` once, by a few threads, in the listing's order.

    ``size``: working size in pixels; ``None`` keeps no pixels. Never raises for a broken image.
    """
    outcomes: list[tuple[Facts, Pixels | None] | str] = []
    with progress.stage("reading images", len(listing.records)) as stage, ThreadPoolExecutor(_workers()) as pool:
        try:
            with warnings.catch_warnings():
                # Pillow warns of large images and odd tags; what matters of it is reported as a problem.
                warnings.simplefilter("ignore")
                for batch in pool.map(partial(_examine_all, size=size, fit=fit), _batches(listing.records)):
                    outcomes.extend(batch)
                    stage.advance(len(batch))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return _sorted_out(listing, outcomes, size, fit)


def native_sizes(listing: Listing) -> list[tuple[int, int]]:
    """``(width, height)`` of every image whose header can be read; nothing is decoded."""
    sizes = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for record in listing.records:
            with contextlib.suppress(OSError, ValueError, MemoryError):
                sizes.append(record.peek())
    return sizes


def _workers() -> int:
    return max(1, min(_MAX_WORKERS, os.cpu_count() or 1))


def _batches(records: Sequence[Record]) -> list[tuple[Record, ...]]:
    rest = iter(records)
    return list(iter(lambda: tuple(islice(rest, _BATCH)), ()))


def _examine_all(records: tuple[Record, ...], size: int | None, fit: Fit) -> list[tuple[Facts, Pixels | None] | str]:
    return [_examine(record, size, fit) for record in records]


def _examine(record: Record, size: int | None, fit: Fit) -> tuple[Facts, Pixels | None] | str:
    try:
        picture = record.load()
        return _facts(picture), None if size is None else resize(picture.pixels, size, fit)
    except OSError as error:
        return f"{record.where}: {error.strerror or error}"
    except (ValueError, MemoryError) as error:
        return f"{record.where}: {str(error) or 'not enough memory'}"


def _facts(picture: Picture) -> Facts:
    pixels = np.ascontiguousarray(picture.pixels)
    height, width = pixels.shape[:2]
    low, high = int(pixels.min()), int(pixels.max())
    return Facts(
        width=width,
        height=height,
        mode=picture.mode,
        colour=pixels.ndim == 3,
        bits=pixels.dtype.itemsize * 8,
        constant=bool(low == high or (pixels.ndim == 3 and (pixels == pixels[0, 0]).all())),
        brightest=high,
        pixel_digest=_digest(pixels),
        file_digest=picture.digest,
    )


def _digest(pixels: Pixels) -> bytes:
    state = hashlib.blake2b(f"{pixels.dtype.name}{pixels.shape}".encode(), digest_size=DIGEST_BYTES)
    state.update(pixels.data)
    return state.digest()


def _sorted_out(
    listing: Listing, outcomes: Sequence[tuple[Facts, Pixels | None] | str], size: int | None, fit: Fit
) -> Scan:
    pairs = zip(listing.records, outcomes, strict=True)
    good = [(record, *outcome) for record, outcome in pairs if not isinstance(outcome, str)]
    return Scan(
        listing=listing,
        records=tuple(record for record, _, _ in good),
        facts=tuple(facts for _, facts, _ in good),
        pixels=tuple(pixels for _, _, pixels in good if pixels is not None),
        unreadable=tuple(outcome for outcome in outcomes if isinstance(outcome, str)),
        size=size,
        fit=fit,
    )
