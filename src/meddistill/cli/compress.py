"""``meddistill compress``: a trained model at a few hundredths of its size."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, Token, validators

from meddistill.cli.common import Answer, Output, Reading
from meddistill.cli.text import receiving

GOAL = Group("Goal (one of)", sort_key=1, validator=validators.LimitedChoice())


class Share(float):
    """A part of a whole; its name is what the help shows as the option's value."""


def _share(_: Any, tokens: Sequence[Token]) -> Share:
    try:
        return Share(Fraction(tokens[0].value))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"'{tokens[0].value}' is not a share: write 1/100 or 0.01") from None


def compress(
    model: Path,
    /,
    *,
    data: Path,
    out: Path,
    size: Annotated[Share | None, Parameter(group=GOAL, converter=_share)] = None,
    drop: Annotated[float | None, Parameter(group=GOAL)] = None,
    route: Literal["essential", "small", "recreate"] | None = None,
    test: Path | None = None,
    seed: int = 0,
    reading: Reading = Reading(),
    output: Output = Output(),
) -> Answer:
    """Compress a trained model to a few hundredths of its size; predict, evaluate and export-model take the result.

    Weights that were trained on patients' images stay so, however small the file is.

    Args:
        model: Model that `meddistill train` wrote.
        data: What to retrain with: a source of images, or the package (FILE.mdz) that the model was trained from.
        out: Where to write the compressed model.
        size: Size of the file as a share of the model's, such as 1/100.
        drop: Points of balanced accuracy that may be lost on validation data for the smallest file [default: 1].
        route: essential: prune, quantise, code; small: the same of a small network that the model teaches; recreate:
            the recipe to train it again [default: recreate where that gives the same weights, else essential].
        test: With a package: source of images to measure on, once.
        seed: Seed of all random draws.
    """
    from meddistill import api

    result = api.compress(
        model,
        data,
        out,
        size=size,
        drop=drop,
        route=route,
        test=test,
        seed=seed,
        options=reading.options(),
        progress=output.progress(),
    )
    return Answer(result.as_dict(), receiving.compression)
