"""Use a model: probabilities of single files, and the model in another form."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from meddistill.cohort.files import pictures
from meddistill.cohort.folders import NO_PIXELS, find_images
from meddistill.cohort.problems import CohortError, number, problem
from meddistill.cohort.read import ReadOptions
from meddistill.cohort.resize import resize
from meddistill.cohort.types import NoPictureError, Picture
from meddistill.compress.load import load_model
from meddistill.runtime.device import choose
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import is_folder, require_another, write_atomic
from meddistill.runtime.progress import Progress, Silent
from meddistill.train.memory import memory_for
from meddistill.train.model import Model
from meddistill.train.protocol import answers, scored_at_once
from meddistill.train.to_onnx import onnx_model


@dataclass(frozen=True)
class Prediction:
    """One image: where it is (a file, or a file and a frame or slice), and the probability of each class."""

    image: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that could not be used, and why."""

    file: str
    problem: str


@dataclass(frozen=True)
class Predictions:
    """What a model says of some images, in the order of the files; and what was given and left out, as asked."""

    classes: tuple[str, ...]
    images: tuple[Prediction, ...]
    left_out: tuple[LeftOut, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "classes": list(self.classes),
            "predictions": [
                {
                    "image": one.image,
                    "class": self.classes[int(np.argmax(one.probabilities))],
                    "probabilities": dict(zip(self.classes, one.probabilities, strict=True)),
                }
                for one in self.images
            ],
            "left_out": [asdict(one) for one in self.left_out],
        }

    def _repr_html_(self) -> str:
        from meddistill.report.notebook import table

        rows = [
            (
                one.image,
                self.classes[int(np.argmax(one.probabilities))],
                *(f"{value:.3f}" for value in one.probabilities),
            )
            for one in self.images
        ]
        rows += [(one.file, "", *("" for _ in self.classes)) for one in self.left_out]
        return table(("image", "class", *(f"p({name})" for name in self.classes)), rows)


@dataclass(frozen=True)
class ModelExport:
    """A model in another form; ``input``: the shape that it takes, images first."""

    out: Path
    to: str
    bytes: int
    input: tuple[str | int, ...]
    classes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "out": str(self.out),
            "to": self.to,
            "bytes": self.bytes,
            "input": list(self.input),
            "classes": list(self.classes),
        }


def predict(
    model_file: Path,
    files: Sequence[Path],
    *,
    device: str = "auto",
    options: ReadOptions = ReadOptions(),
    progress: Progress = Silent(),
) -> Predictions:
    """The model's probabilities for every image in the files; of a folder, all images beneath it.

    DICOM files beneath a folder that hold no picture are left aside, and ``progress`` is told how many.
    Raises :class:`CohortError` listing every file that cannot be read; with ``options.skip_unreadable`` that is a
    warning, and the answer has all of them, unless there is no other file.
    """
    where = choose(device)
    model = load_model(model_file, progress)
    model = replace(model, params=tuple(param.to(where) for param in model.params))
    found: list[Prediction] = []
    wrong: list[LeftOut] = []
    aside = 0
    paths = list(_files(files, wrong))
    with progress.stage("predicting", len(paths)) as stage:
        for path in paths:
            try:
                found += _of_file(model, path, options, where)
            except NoPictureError as error:
                if path in files:
                    wrong.append(LeftOut(str(path), str(error)))
                else:
                    aside += 1
            except (OSError, ValueError) as error:
                wrong.append(LeftOut(str(path), str(getattr(error, "strerror", None) or error)))
            stage.advance()
    if wrong:
        what = f"{number(len(wrong), 'file or folder', 'files or folders')} cannot be used"
        places = [f"{one.file}: {one.problem}" for one in wrong]
        if not (options.skip_unreadable and found):
            remedy = "Replace or leave them out."
            raise CohortError("what was given", [problem("unreadable", "error", what, places, remedy)])
        progress.warn(problem("unreadable", "warning", what, places, "Left out as asked.").message)
    if aside:
        progress.note(f"{aside} × {NO_PIXELS} left aside")
    return Predictions(model.classes, tuple(found), tuple(wrong))


def export_model(model_file: Path, out: Path, *, to: Literal["onnx"] = "onnx") -> ModelExport:
    """Write a model in another form. Raises :class:`InputError` if the library for it is not installed."""
    require_another(out, [model_file])
    model = load_model(model_file)
    data = onnx_model(model)
    write_atomic(out, data)
    network = model.network
    shape = ("images", network.channels, network.size, network.size)
    return ModelExport(out, to, len(data), shape, model.classes)


def _files(files: Sequence[Path], wrong: list[LeftOut]) -> Iterable[Path]:
    """The files, and all images beneath the folders; what cannot be looked into is appended to ``wrong``."""
    if not files:
        raise InputError("no image was given: expected files, or folders of images")
    for path in files:
        if is_folder(path):
            found = find_images(path)
            wrong += [LeftOut(str(path), place) for place in found.closed]
            yield from (path.joinpath(*parts) for parts in found.images)
        else:
            yield path


def _of_file(model: Model, path: Path, options: ReadOptions, device: torch.device) -> list[Prediction]:
    """A file's images, some at a time: a volume or a film may have hundreds."""
    found: list[Prediction] = []
    frames = pictures(path, options)
    at_once = scored_at_once(model.network.size, device)
    for begin in range(0, len(frames), at_once):
        block = frames[begin : begin + at_once]
        inputs = torch.from_numpy(np.stack([_intensities(frame.load(), model) for frame in block])).to(device)
        with memory_for(model.network):
            rows = answers(model.network, model.params, model.normalisation.apply(inputs)).tolist()
        found += [Prediction(f"{path}{frame.place}", tuple(row)) for frame, row in zip(block, rows, strict=True)]
    return found


def _intensities(picture: Picture, model: Model) -> npt.NDArray[np.float32]:
    """``(C, S, S)`` float32 from 0 to 1, as the model was trained to take images."""
    pixels = resize(picture.pixels, model.network.size, model.fit)
    planes = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    if len(planes) > model.network.channels:
        raise ValueError("a colour image, and the model was trained on grey ones: convert it to grey first")
    planes = np.repeat(planes, model.network.channels // len(planes), axis=0)
    return np.asarray(planes.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max))  # type: ignore[type-var]
