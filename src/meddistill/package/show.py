"""What ``meddistill show`` says of a package, as one JSON document."""

from typing import Any

from meddistill.package.types import Package


def summary(package: Package, file_size: int) -> dict[str, Any]:
    """The card's fields, and ``bytes`` (the file's), ``bytes_per_class``, ``cohort_bytes``, ``factor``, ``step_sizes``.

    ``factor`` is how many times smaller the file is than the cohort's training split at working size; None where the
    sender withholds that size. The strings come from the sender and are plain text: whoever displays them escapes what
    the display would act upon.
    """
    card = package.card.to_dict()
    steps = package.step_sizes
    cohort_bytes = package.card.bytes.cohort_train
    return card | {
        "bytes": file_size,
        "bytes_per_class": file_size / len(package.card.task.classes),
        "cohort_bytes": cohort_bytes,
        "factor": None if cohort_bytes is None else cohort_bytes / file_size,
        "step_sizes": {"count": len(steps), "smallest": float(steps.min()), "largest": float(steps.max())},
    }
