"""The family "scarce real labels": ways to an encoder by name, and the settings that a grid may give them.

A name alone: the encoder is fine-tuned on few labelled real images; with ``-probe`` only a linear layer learns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from meddistill.pretrain.byol import Byol
from meddistill.pretrain.loop import Schedule
from meddistill.pretrain.mae import Mae
from meddistill.pretrain.objective import Objective
from meddistill.pretrain.simclr import SimClr
from meddistill.pretrain.simsiam import SimSiam
from meddistill.pretrain.skd import Skd
from meddistill.pretrain.views import views
from meddistill.runtime.errors import InputError

SCRATCH, IMAGENET, PROBE = "scratch", "imagenet", "-probe"
_STEPS_AT = 28  # pixels, for which the numbers of steps were found


@dataclass(frozen=True)
class Way:
    """A way to an encoder.

    ``objective``: None where nothing is pretrained here. ``network``: its own, in the place of the evaluation network.
    ``steps`` (at 28 pixels) and ``learning_rate`` are what it takes where nothing else is said.
    """

    name: str
    summary: str
    source: str
    objective: Objective | None = None
    network: str = ""
    steps: int = 600
    learning_rate: float = 3e-3


WAYS: dict[str, Way] = {
    way.name: way
    for way in (
        Way(
            SCRATCH,
            "no pretraining: a fresh network; with -probe a linear layer on random features",
            "the reference of the others",
        ),
        Way(
            "skd",
            "byol, and what similar images of a batch have in common is distilled",
            "Li et al. 2022, arXiv 2206.03009; with Ge et al. 2021, arXiv 2104.13298",
            Skd(),
        ),
        Way(
            "byol",
            "predict what a slow average of the network sees in another view",
            "Grill et al. 2020, arXiv 2006.07733",
            Byol(),
        ),
        Way("simsiam", "byol without the slow average", "Chen & He 2021, arXiv 2011.10566", SimSiam()),
        Way(
            "simclr",
            "find an image's other view among all views of the batch",
            "Chen et al. 2020, arXiv 2002.05709",
            SimClr(),
        ),
        Way(
            "mae",
            "draw the patches that a vision transformer was not shown",
            "He et al. 2022, arXiv 2111.06377",
            Mae(),
            network="vit-d4-w64-mean",
            steps=2400,
            learning_rate=1e-3,
        ),
        Way(
            IMAGENET,
            "a ResNet-18 with weights from a local file",
            "He et al. 2016, arXiv 1512.03385",
            network="resnet18-affine",
        ),
    )
}
ROWS = (*WAYS, *(name + PROBE for name in WAYS))


def _setting(default: Any, low: float | None = None, high: float | None = None) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True)
class PretrainPlan:
    """How an encoder is pretrained; docs/scarce-labels.md tells what was found for which size.

    ``steps``: 0 for the method's own, in proportion to the side above 28 pixels. ``learning_rate``: 0 for the method's
    own. ``smallest``: least area of a view's square. ``encoders``: how many there are, of which seed i takes number
    i mod ``encoders``; 0 for one for every seed. ``network``: the encoder, where it is not the evaluation network.
    ``weights``: the file of public weights.
    """

    steps: int = _setting(0, 0, 10_000_000)
    batch: int = _setting(64, 2, 65_536)
    learning_rate: float = _setting(0.0, 0, 100)
    weight_decay: float = _setting(1e-4, 0, 100)
    smallest: float = _setting(0.5, 0.01, 1)
    encoders: int = _setting(0, 0, 10_000)
    network: str = _setting("")
    weights: str = _setting("")

    def schedule(self, way: Way, size: int, *, flip: bool = True) -> Schedule:
        """What the loop takes, for images of ``size`` pixels a side; ``flip``: whether views are mirrored."""
        steps = self.steps or round(way.steps * max(1.0, size / _STEPS_AT))
        rate = self.learning_rate or way.learning_rate
        return Schedule(steps, self.batch, rate, self.weight_decay, views(self.smallest, flip))


def way_of(row: str) -> Way:
    """The way of a row's name."""
    return WAYS[row.removesuffix(PROBE)]


def plan_of(way: Way, settings: Mapping[str, Any]) -> PretrainPlan:
    """The plan with these settings. Raises :class:`InputError` listing every one that cannot be."""
    problems = [text for name, value in settings.items() if (text := _problem(name, value))]
    if way.name == IMAGENET and not settings.get("weights"):
        problems.append('weights is missing: name the file of a ResNet-18, as in [methods.imagenet] weights = "…"')
    if problems:
        raise InputError("; ".join(f"pretraining of {way.name}: {text}" for text in problems))
    plan = PretrainPlan(**settings)
    return replace(plan, network=plan.network or way.network)


def _problem(name: str, value: Any) -> str | None:
    known = {one.name: one for one in fields(PretrainPlan)}
    if name not in known:
        return f"{name} is not a setting: expected one of {', '.join(known)}"
    default, rule = known[name].default, known[name].metadata
    if type(value) is not type(default) and not (isinstance(default, float) and type(value) is int):
        return f"{name} is {value!r}: expected a {'text' if isinstance(default, str) else 'number'}"
    if rule["low"] is not None and not rule["low"] <= value <= rule["high"]:
        return f"{name} is {value}: expected {rule['low']:g} to {rule['high']:g}"
    return None
