"""What a package is: the tensors that a receiver trains on, and the card that explains them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from meddistill.package.limits import FORMAT_VERSION
from meddistill.runtime.enlarge import enlarge
from meddistill.runtime.errors import VerificationError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LabelKind = Literal["soft", "hard"]
Start = Literal["noise", "prototypes", "public", "real"]
Counts = Mapping[str, Mapping[str, int]]

BLACK_TO_WHITE = "0 is black and 1 is white in the source images"


@dataclass(frozen=True, kw_only=True)
class Software:
    """What wrote the package."""

    name: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """Class names, in the order of the label columns, and whether labels are probabilities or one-hot."""

    classes: tuple[str, ...]
    labels: LabelKind


@dataclass(frozen=True, kw_only=True)
class Images:
    """How many images there are, the side in pixels that networks take, and what a value means.

    ``count = per_class * classes``; ``per_class`` is 0 where images are not counted by class. ``stored``: the side that
    they are stored with, and enlarged from, where that is smaller than ``size``; else None.
    """

    count: int
    per_class: int
    size: int
    channels: int
    intensity: str = BLACK_TO_WHITE
    stored: int | None = None

    @property
    def stored_size(self) -> int:
        """The side that images are stored with."""
        return self.stored or self.size

    @property
    def pixels(self) -> str:
        """The size in words, for example ``28 x 28 pixels (stored with 14 x 14)``."""
        stored = "" if self.stored is None else f" (stored with {self.stored} x {self.stored})"
        return f"{self.size} x {self.size} pixels{stored}"


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Mean and standard deviation per channel of the training split, applied as ``(x - mean) / std``."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the images were made; ``plan`` holds plain numbers, texts and truth values by name."""

    method: str
    seed: int
    start: Start
    network: str
    plan: Mapping[str, int | float | str | bool] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CohortCounts:
    """Images per split and class of the cohort, unless the sender withholds them."""

    counts: Counts | Literal["withheld"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric over seeds: mean, 95 % interval, and each seed's value (0 to 1)."""

    mean: float
    low: float
    high: float
    per_seed: tuple[float, ...]

    @property
    def has_interval(self) -> bool:
        """Whether the ends are those of an interval: of a single network they are its score."""
        return len(self.per_seed) > 1


@dataclass(frozen=True, kw_only=True)
class Results:
    """Scores by split (``val``, ``test``), training data (``distilled``, ``own``, ``random``, ``full``) and metric."""

    protocol: str
    network: str
    seeds: int
    splits: Mapping[str, Mapping[str, Mapping[str, Score]]]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """``cohort_train``: bytes of the training split at working size, to compare the package with; None if withheld."""

    cohort_train: int | None


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the sender says; each may be empty. Web addresses are allowed, line breaks are not."""

    licence: str = ""
    terms_of_use: str = ""
    intended_use: str = ""
    limits: str = ""


@dataclass(frozen=True, kw_only=True)
class Look:
    """``steps`` noised looks at the patients, each taken with probability ``sampling_rate`` for every one of them.

    ``noise_multiplier``: the noise's standard deviation over the most that one patient can add. ``groups``: of how many
    groups of patients, of which each patient is in one, this was done for every group.
    """

    mechanism: str
    noise_multiplier: float
    sampling_rate: float
    steps: int
    groups: int


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """(``epsilon``, ``delta``) differential privacy, for what and for whom.

    ``unit``: what may be added or removed: a patient with all images, or an image where the source names no patients.
    ``route``: by which the images were made. ``accountant``: how epsilon follows from the ``history``. ``outside``:
    what was learned from the cohort and is not accounted for.
    """

    epsilon: float
    delta: float
    unit: Literal["patient", "image"]
    route: Literal["statistics", "teachers"]
    accountant: str
    history: tuple[Look, ...]
    outside: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Card:
    """All that a package says of itself. ``digests`` (SHA-256 by member) are filled in when it is written.

    ``privacy``: the differential privacy of the images and labels; None, and left out of the file, where there is none.
    """

    format: int = FORMAT_VERSION
    software: Software
    task: Task
    images: Images
    normalisation: Normalisation
    recipe: Recipe
    cohort: CohortCounts
    contains_real_images: bool
    results: Results | None = None
    privacy: Privacy | None = None
    bytes: Sizes
    terms: Terms = field(default_factory=Terms)
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def canaries(self) -> int:
        """How many records were planted, or left out, by coins: with any it is made for an audit, not to be shared."""
        told = self.recipe.plan.get("canaries", 0)
        return told if isinstance(told, int) and not isinstance(told, bool) else 0

    @property
    def flip(self) -> bool:
        """Whether networks that are trained from it see half of the images mirrored: unless it says otherwise."""
        return self.recipe.plan.get("flip") is not False

    def to_dict(self) -> dict[str, Any]:
        """The card as JSON has it: dictionaries, lists, texts, numbers."""
        told = {name: _plain(value) for name, value in vars(self).items()}
        return {name: value for name, value in told.items() if name != "privacy" or value is not None}

    @classmethod
    def from_dict(cls, value: object) -> "Card":
        """The card that ``value`` (parsed JSON) describes. Raises :class:`VerificationError` listing all problems."""
        from meddistill.package.schema import read_card

        problems: list[str] = []
        card = read_card(value, problems)
        if card is None or problems:
            raise VerificationError("the card is not valid:\n" + "\n".join(f"- {text}" for text in problems))
        return card


@dataclass(frozen=True, kw_only=True)
class Package:
    """``images``: (n, C, s, s) float32 as stored, 0 black to 1 white of the source (may exceed that range).

    ``labels``: (n, K) float32, rows are probabilities. ``step_sizes``: (m,) float32, positive. ``audit``: what was
    measured of what the package tells about patients, as JSON; ``None`` where nothing was.
    """

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    step_sizes: npt.NDArray[np.float32]
    card: Card
    audit: Mapping[str, Any] | None = None

    @cached_property
    def enlarged(self) -> npt.NDArray[np.float32]:
        """The images as networks take them, (n, C, S, S): the same array where they are stored so."""
        return enlarge(self.images, self.card.images.size)

    def _repr_html_(self) -> str:
        from meddistill.package.glance import notebook

        return notebook(self)

    def plot(self) -> "Figure":
        """The synthetic images with their labels, as a matplotlib figure; needs the extra ``plot``."""
        from meddistill.package.plot import images

        return images(self)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: _plain(entry) for name, entry in vars(value).items()}
    return value
