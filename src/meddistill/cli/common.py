"""What the verbs share: options, durations, and the answer that a verb hands back to be printed."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter, Token, validators

if TYPE_CHECKING:
    from rich.console import Console

    from meddistill.cohort.read import ReadOptions
    from meddistill.runtime.progress import Progress

READING = Group("Reading images", sort_key=2)
LEAKS = Group("Leaking splits (one of)", sort_key=3, validator=validators.LimitedChoice())
OUTPUT = Group("Output", sort_key=4)

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "": 1.0}
_DURATION = re.compile(r"(?=.)(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m)?(?:(?P<s>\d+(?:\.\d+)?)s?)?")


Flag = Annotated[bool, Parameter(negative=(), show_default=False)]


@dataclass(frozen=True)
class Answer:
    """What a verb found out: the JSON document, how to show it as text, and the exit code."""

    document: dict[str, Any]
    render: Callable[[dict[str, Any], Console], None]
    exit_code: int = 0


@Parameter(name="*", group=OUTPUT)
@dataclass(frozen=True)
class Output:
    """How a verb speaks."""

    json: Annotated[Flag, Parameter(help="Print one JSON document; everything else goes to standard error.")] = False
    quiet: Annotated[Flag, Parameter(help="No progress and no notes; results, warnings and errors only.")] = False

    def progress(self) -> Progress:
        """The display of the verb's stages, on standard error."""
        from meddistill.cli.display import display

        return display(self.quiet)

    def say(self, text: str) -> None:
        """Say what the user must know at once, quiet or not, on standard error."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201


@Parameter(name="*", group=READING)
@dataclass(frozen=True)
class Volumes:
    """How files become pictures."""

    window: Annotated[
        tuple[float, float] | None,
        Parameter(negative=(), help="Centre and width of the grey values to show [default: the file's own]."),
    ] = None
    slice_axis: Annotated[Literal["axial", "coronal", "sagittal"], Parameter(help="Slices of NIfTI volumes.")] = "axial"
    skip_unreadable: Annotated[Flag, Parameter(help="Leave out images that cannot be read instead of stopping.")] = (
        False
    )

    def options(self) -> ReadOptions:
        """The same as the cohort readers take it."""
        from meddistill.cohort.read import ReadOptions

        return ReadOptions(window=self.window, slice_axis=self.slice_axis, skip_unreadable=self.skip_unreadable)


@Parameter(name="*", group=READING)
@dataclass(frozen=True)
class Reading(Volumes):
    """How a source of images is read."""

    path_column: Annotated[str, Parameter(help="CSV column of the image paths.")] = "path"
    label_column: Annotated[str, Parameter(help="CSV column of the class names.")] = "label"
    patient_column: Annotated[
        str | None, Parameter(help="CSV column of the patient ids [default: patient, if there is one].")
    ] = None
    split_column: Annotated[
        str | None, Parameter(help="CSV column of train, val or test [default: split, if there is one].")
    ] = None
    images: Annotated[
        Path | None, Parameter(help="Folder that CSV paths start from [default: the folder of the CSV].")
    ] = None
    patient_pattern: Annotated[
        str | None,
        Parameter(help="Regular expression that finds the patient id in a file name: group 1, or the whole match."),
    ] = None
    allow_burned_in: Annotated[Flag, Parameter(help="Take DICOM images that say that text is burned into them.")] = (
        False
    )

    def options(self) -> ReadOptions:
        """The same as the cohort readers take it."""
        return replace(
            super().options(),
            path_column=self.path_column,
            label_column=self.label_column,
            patient_column=self.patient_column,
            split_column=self.split_column,
            images=self.images,
            patient_pattern=self.patient_pattern,
            allow_burned_in=self.allow_burned_in,
        )


class Duration(float):
    """Seconds; its name is what the help shows as the option's value."""


def parse_duration(text: str) -> Duration:
    """Seconds of ``90s``, ``5m``, ``1.5h``, ``1h30m`` or a bare number of seconds. Raises :class:`ValueError`."""
    match = _DURATION.fullmatch(text.strip().lower())
    seconds = sum(float(part) * _UNITS[unit] for unit, part in match.groupdict("0").items()) if match else 0.0
    if seconds <= 0:
        raise ValueError(f"'{text}' is not a duration: write 90s, 5m, 1h or 1h30m")
    return Duration(seconds)


def _duration(_: Any, tokens: Sequence[Token]) -> Duration:
    return parse_duration(tokens[0].value)


def _positive(_: Any, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError("It must be 1 or more.")


Fit = Literal["crop", "pad", "stretch"]
Split = Literal["test", "val", "train", "all"]
Budget = Annotated[Duration | None, Parameter(converter=_duration)]
Count = Annotated[int, Parameter(validator=_positive)]
