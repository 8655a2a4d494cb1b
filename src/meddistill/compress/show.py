"""What ``meddistill show`` says of a compressed model, as one JSON document."""

import math
from pathlib import Path
from typing import Any

from meddistill.compress import file
from meddistill.compress.card import WARNINGS


def summary(path: Path) -> dict[str, Any]:
    """The card's fields without levels, tensors, answers; ``bytes`` (the file's), ``factor``, ``stored``, ``warning``.

    ``stored``: how many weights the file holds, None for a recipe. ``warning``: what is to be told of weights that may
    have seen patients' images. Strings come from the sender, as in :func:`meddistill.package.show.summary`. Raises as
    :func:`meddistill.compress.file.read`.
    """
    card, size = file.read(path).card, path.stat().st_size
    told = {key: value for key, value in card.to_dict().items() if key not in ("levels", "tensors", "answers")}
    stored = sum(math.prod(shape) for shape in file.tensor_shapes(card))
    return told | {
        "bytes": size,
        "factor": card.original / size,
        "stored": None if card.kind == "recipe" else stored,
        "warning": WARNINGS[card.saw],
    }
