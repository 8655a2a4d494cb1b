"""What ``meddistill show`` says of a compressed model, as one JSON document."""

import math
from typing import Any

from meddistill.compress.card import WARNINGS, ModelCard
from meddistill.compress.file import tensor_shapes


def summary(card: ModelCard, file_size: int) -> dict[str, Any]:
    """The card's fields without levels, tensors, answers; ``bytes`` (the file's), ``factor``, ``stored``, ``warning``.

    ``stored``: how many weights the file holds, None for a recipe. ``warning``: what is to be told of weights that may
    have seen patients' images. Strings come from the sender, as in :func:`meddistill.package.show.summary`.
    """
    told = {key: value for key, value in card.to_dict().items() if key not in ("levels", "tensors", "answers")}
    stored = sum(math.prod(shape) for shape in tensor_shapes(card))
    return told | {
        "bytes": file_size,
        "factor": card.original / file_size,
        "stored": None if card.kind == "recipe" else stored,
        "warning": WARNINGS[card.saw],
    }
