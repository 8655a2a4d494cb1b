"""What compressing a model learns from and is judged by: a cohort, or nothing but a package."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from meddistill.cohort.read import ReadOptions
from meddistill.compress.card import Saw
from meddistill.nets.augment import Augmentation, usual
from meddistill.package.members import TENSORS
from meddistill.package.types import Package
from meddistill.pipeline.receive import labelled, open_parts, read_cohort, read_images, score
from meddistill.runtime.errors import InputError
from meddistill.runtime.progress import Progress
from meddistill.runtime.streams import stream
from meddistill.teachers.images import LabelledImages
from meddistill.train.combine import combine
from meddistill.train.metrics import measure
from meddistill.train.model import Model, params_digest
from meddistill.train.protocol import TrainingSet, real_set
from meddistill.train.received import received

_CPU = torch.device("cpu")
_VIEWS = 16  # of every image of a package, in place of the validation images that a receiver does not have
_LEAK_REMEDY = (
    "Mend the splits of the source, or compress with the package that the model was trained from (--data FILE.mdz)."
)


@dataclass(frozen=True)
class Material:
    """What retraining sees, how candidates are judged, and the images that are measured once, at the end.

    ``judged_by``: balanced accuracy, on what ``judged_on`` names. ``saw``: whose images the model will have seen.
    ``augmentation``: of what retraining sees. ``test``: None where there are no real images.
    """

    data: TrainingSet
    judged_by: Callable[[Model], float]
    judged_on: str
    saw: Saw
    augmentation: Augmentation
    package: Package | None
    test: LabelledImages | None


def material(model: Model, data: Path, test: Path | None, options: ReadOptions, progress: Progress) -> Material:
    """Read a source or a package (NAME.mdz) to compress the model with. Raises :class:`InputError`."""
    if data.suffix.lower() == ".mdz":
        return _of_package(model, data, test, options, progress)
    if test is not None:
        raise InputError("--test is for packages: a source is measured on its own test split; leave --test out")
    cohort = read_cohort(data, model, options, progress, evaluation=False, leak_remedy=_LEAK_REMEDY)
    validation = labelled(cohort, model, "val", data, _CPU)
    return Material(
        data=real_set(labelled(cohort, model, "train", data, _CPU)),
        judged_by=lambda candidate: score(candidate, validation)[0].balanced_accuracy,
        judged_on="validation images",
        saw="patients",
        augmentation=usual(model.flip),
        package=None,
        test=labelled(cohort, model, "test", data, _CPU),
    )


def _of_package(model: Model, file: Path, test: Path | None, options: ReadOptions, progress: Progress) -> Material:
    (part,) = open_parts([file], progress)
    package, combined = part.package, combine([part])
    if (combined.classes, combined.size) != (model.classes, model.network.size):
        raise InputError(
            f"{file} has {combined.size} pixels a side and the classes {', '.join(combined.classes)}; the model takes "
            f"{model.network.size} and {', '.join(model.classes)}: give the package that the model was trained from"
        )
    data = received(combined.images, combined.labels, model.normalisation, _CPU)
    augmentation = usual(model.flip and combined.flip)
    return Material(
        data=data,
        judged_by=_agreement(model, data, augmentation),
        judged_on="agreement on augmented images of the package",
        saw=_seen(model, package),
        augmentation=augmentation,
        package=package,
        test=None if test is None else read_images(test, model, "test", options, _CPU, progress),
    )


def _seen(model: Model, package: Package) -> Saw:
    """What the weights have seen: of packages that are not at hand, nobody knows whether they hold real images."""
    if package.card.contains_real_images:
        return "patients"
    origin = model.origin
    if origin is None or origin.weights != params_digest(model.params):
        return "unknown"
    return "packages" if origin.packages == (package.card.digests[TENSORS],) else "unknown"


def _agreement(model: Model, data: TrainingSet, augmentation: Augmentation) -> Callable[[Model], float]:
    """How often another model gives the class that this one gives, averaged over classes."""
    rows = torch.arange(len(data)).repeat(_VIEWS)
    inputs = augmentation.draw(len(rows), stream(0, "agreement")).apply(data.inputs(rows))
    with torch.no_grad():
        answers = model.network.apply(model.params, inputs).argmax(1).numpy()

    def agreement(candidate: Model) -> float:
        with torch.no_grad():
            found = candidate.network.apply(candidate.params, inputs).double().softmax(1).numpy()
        return measure(np.asarray(found), answers).balanced_accuracy

    return agreement
