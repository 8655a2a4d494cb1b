"""Start images that are nobody's of the cohort: a folder of public images, or the images of a package."""

import hashlib
from pathlib import Path

import numpy as np

from meddistill.cohort.options import ReadOptions
from meddistill.cohort.prepare import Prepared
from meddistill.cohort.problems import number
from meddistill.cohort.public import Intensities, PublicImages, in_channels, intensities, public_images
from meddistill.cohort.resize import resize_intensities
from meddistill.cohort.types import Cohort, Fit
from meddistill.package.read import read
from meddistill.pipeline.plan import Plan
from meddistill.runtime.errors import InputError
from meddistill.runtime.progress import Progress, Silent


def require_public(source: Path, plan: Plan) -> None:
    """Raises :class:`InputError` where a run under differential privacy would start from the images of a package.

    They may be of the same patients, as any other release about them, and no epsilon is paid for that here.
    """
    if plan.privacy.epsilon and source.suffix.lower() == ".mdz":
        raise InputError(
            f"an epsilon and the package {source} as start images were given: images that were distilled from these "
            "patients would come past the noise. Start from noise (leave --start-images out) or from public images"
        )


def start_images(
    source: Path,
    prepared: Prepared,
    fit: Fit,
    options: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
    progress: Progress = Silent(),
) -> Intensities:
    """Images ``(n, C, S, S)`` from 0 to 1 in the shape of the cohort's; ``options``: how the cohort was read.

    Raises :class:`InputError` where one of them is an image of the cohort, or of the source it comes from: that would
    be a start from patients' images which the package does not declare.
    """
    cohort = prepared.cohort
    if source.suffix.lower() == ".mdz" and not source.is_dir():
        found = PublicImages(images := _of_package(source, cohort), (frozenset(),) * len(images))
    else:
        found = public_images(source, cohort.size, cohort.channels, fit, options, progress)
    own = {_digest(intensities(image)) for image in cohort.images} | prepared.digests
    pairs = zip(found.images, found.digests, strict=True)
    shared = sum(not own.isdisjoint(digests | {_digest(image)}) for image, digests in pairs)
    if shared:
        raise InputError(
            f"{number(shared, 'image')} of {source} {'is' if shared == 1 else 'are'} in the cohort: patients' images "
            "are no public ones. Leave them out, or use --start real, which marks the package"
        )
    return found.images


def _of_package(source: Path, cohort: Cohort) -> Intensities:
    package = read(source)
    if package.card.contains_real_images:
        raise InputError(f"{source} says that it contains real images of patients: they are no public ones")
    images = resize_intensities(package.enlarged, cohort.size).clip(0, 1)
    return np.stack([in_channels(image, cohort.channels) for image in images])


def _digest(image: Intensities) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image).data).digest()
