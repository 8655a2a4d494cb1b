"""Two noised sums of what untrained networks see; images are then made to look the same to them.

Every *look* is an untrained network and an augmentation, both drawn from the run's public seed. A patient contributes,
for each class, the share of the patient's images that are of it and the mean of their features under every look, as
one vector of length 1 at most. A sum over all patients gets normal noise once (the Gaussian mechanism), and nothing
but the noised sum is ever kept. Matching class means of features of random networks is distribution matching (Zhao &
Bilen 2023, arXiv 2110.04181); noise on sums of clipped features is that of Zheng & Li (2022), put on once, not in
every iteration.

Directions of features have much in common whatever an image shows: half of their squared length, which tells no class
from another and would take its part of every patient's length. So a tenth of the budget is spent on a first sum, over
all classes, and directions are those from its mean in the second. Normal noise of two deviations, the second sum chosen
by the first, is worth that of one release with 1/σ² = 1/σ₁² + 1/σ₂² (Gaussian differential privacy composes so: Dong,
Roth & Su 2022, arXiv 1905.02383), and the exact answer for a single Gaussian release holds.

More looks cost time, not accuracy: a patient's length is shared among them, so that noise in each grows with the root
of their number, and it falls by the same root in the mean over all that images follow.

Nothing else that a patient's contribution is computed from depends on other patients: looks and the zero point of
features follow from the seed, and intensities are normalised by fixed numbers.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.nets.augment import Augmentation, Draw
from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import Params
from meddistill.privacy import noise
from meddistill.privacy.accountant import ANALYTIC, Event, gaussian_noise
from meddistill.privacy.patients import Patients, clipped
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import write_atomic
from meddistill.runtime.progress import Progress, Silent
from meddistill.runtime.streams import stream
from meddistill.teachers.images import Normalisation

# What a contribution's squared length is made of: the class shares, and the features.
_COUNTS, _FEATURES = 0.1, 0.9
_BOUND = 1.0
_NOISE_IMAGES = 64
_REMEMBERED = 512  # looks that are not drawn anew in every iteration
_ROWS = 32  # images that are looked at together: what a network of width 32 makes of more does not stay in a cache
_CENTRE = 0.1  # share of the budget that the first sum takes: of many thousand numbers, what is left hardly feels it
WHOLE = "Gaussian mechanism on the sum of clipped feature statistics over all classes"
BY_CLASS = "Gaussian mechanism on the sum of clipped feature statistics and class shares"


def fixed_normalisation(channels: int) -> Normalisation:
    """The same for every cohort, so that it tells nothing of one."""
    return Normalisation((0.5,) * channels, (0.25,) * channels)


@dataclass(frozen=True)
class Looks:
    """``count`` untrained networks with an augmentation each, all from ``seed``.

    ``centre``: ``(count, D)``, from where the directions of features are looked at; from nowhere in particular without.
    """

    network: ConvNet
    augmentation: Augmentation
    seed: int
    count: int
    centre: Tensor | None = field(default=None, compare=False)

    @lru_cache(maxsize=_REMEMBERED)  # noqa: B019 (looks are small, and few runs are in a process)
    def draw(self, place: int, device: torch.device) -> tuple[Params, Draw, Tensor]:
        """A look: the network, what it does to every image alike, and the zero point of its features ``(D,)``.

        That is the mean feature of images of standard normal noise.
        """
        generator = stream(self.seed, "look", place)
        params = tuple(param.to(device) for param in self.network.init(generator))
        change = self.augmentation.draw(1, generator)
        shape = (_NOISE_IMAGES, self.network.channels, self.network.size, self.network.size)
        blank = torch.randn(shape, generator=generator).to(device)
        with torch.no_grad():
            return params, change, self.network.features(params, blank).mean(0)

    def features(self, place: int, images: Tensor) -> Tensor:
        """Directions ``(n, D)``, of length 1, of normalised images under a look; differentiable."""
        return self.through(self.draw(place, images.device), place, images)

    def through(self, look: tuple[Params, Draw, Tensor], place: int, images: Tensor) -> Tensor:
        """The same with what :meth:`draw` gave for ``place``: more looks are held by a caller than are remembered."""
        params, change, zero = look
        seen = change.repeated(len(images)).apply(images)
        found = F.normalize(self.network.features(params, seen) - zero, dim=1)
        return found if self.centre is None else F.normalize(found - self.centre[place].to(images.device), dim=1)


@dataclass(frozen=True)
class Release:
    """All that is known of the patients from here on.

    ``whole``: ``(looks · D + 1,)``, the first noised sum, features and number of patients, as noise was put on it.
    ``features``: ``(looks, classes, D)``, the noised sums by class, seen from the centre; ``counts``: ``(classes,)``,
    the noised numbers of patients. All float32 on the CPU.
    """

    whole: Tensor
    features: Tensor
    counts: Tensor
    events: tuple[Event, Event]
    epsilon: float
    delta: float

    accountant = ANALYTIC

    @property
    def looks(self) -> int:
        """How many looks there were."""
        return len(self.features)

    @property
    def vectors(self) -> tuple[Tensor, Tensor]:
        """Both sums as noise was put on them, float64: see :func:`over_classes` and :func:`clean_sum`."""
        features = self.features.double().transpose(0, 1) * (_FEATURES / len(self.features)) ** 0.5
        return self.whole.double(), torch.cat([features.flatten(), self.counts.double() * _COUNTS**0.5])

    @property
    def centre(self) -> Tensor:
        """The mean direction under every look ``(looks, D)``, shortened by as much as is noise, and to 1 at most."""
        scale = (self.looks / _FEATURES) ** 0.5
        patients = (self.whole[-1] / _COUNTS**0.5).clamp_min(1.0)
        mean = self.whole[:-1].view(self.looks, -1) * scale / patients
        noise_length = mean.numel() * (self.events[0].noise_multiplier * scale / patients).square()
        shown: Tensor = mean * (1 - noise_length / mean.square().sum()).clamp_min(0.0)
        return torch.renorm(shown, 2, 0, 1.0)

    @property
    def means(self) -> Tensor:
        """Class means of features ``(looks, classes, D)``, as far as noise allows."""
        return self.features / self.counts.clamp_min(1.0)[:, None]

    def save(self, path: Path) -> None:
        """Write the release, whole or not at all."""
        told = {"events": [asdict(event) for event in self.events], "epsilon": self.epsilon, "delta": self.delta}
        tensors = {"whole": self.whole, "features": self.features, "counts": self.counts}
        write_atomic(path, safetensors.torch.save(tensors, {"release": json.dumps(told)}))


def load_release(path: Path) -> Release:
    """A release that was saved. Raises :class:`InputError` for another file."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            told = json.loads(file.metadata()["release"])
            whole, features, counts = (file.get_tensor(name) for name in ("whole", "features", "counts"))
        first, second = (Event(**event) for event in told["events"])
        return Release(whole, features, counts, (first, second), told["epsilon"], told["delta"])
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise InputError(
            f"cannot read the release {path} ({error}). Deleting it means a second release, which spends epsilon again"
        ) from None


def release(
    patients: Patients,
    looks: Looks,
    epsilon: float,
    delta: float,
    *,
    source: noise.Source = noise.SYSTEM,
    progress: Progress = Silent(),
) -> Release:
    """The release, (ε, δ)-differentially private for every patient; every call spends ε and δ anew."""
    multiplier, classes = gaussian_noise(epsilon, delta), patients.images.classes
    events = Event(WHOLE, multiplier / _CENTRE**0.5), Event(BY_CLASS, multiplier / (1 - _CENTRE) ** 0.5)

    def noised(total: Tensor, event: Event) -> Tensor:
        drawn = torch.from_numpy(noise.normal(len(total), source))
        return (total + drawn * (event.noise_multiplier * _BOUND)).float()

    whole = noised(over_classes(clean_sum(patients, looks, progress), classes), events[0])
    found = Release(whole, torch.zeros(looks.count, classes, 1), torch.zeros(classes), events, epsilon, delta)
    by_class = noised(clean_sum(patients, replace(looks, centre=found.centre), progress), events[1])
    features = by_class[:-classes].view(classes, looks.count, -1).transpose(0, 1)
    return replace(
        found,
        features=(features * (looks.count / _FEATURES) ** 0.5).contiguous(),
        counts=by_class[-classes:] / _COUNTS**0.5,
    )


def over_classes(vectors: Tensor, classes: int) -> Tensor:
    """From vectors ``(…, classes · D + classes)`` to those of all classes together ``(…, D + 1)``.

    That makes none longer than 1: a patient's part of a class is no longer than the share of the patient's images that
    are of it.
    """
    features = vectors[..., :-classes].unflatten(-1, (classes, -1)).sum(-2)
    return torch.cat([features, vectors[..., -classes:].sum(-1, keepdim=True)], -1)


def clean_sum(patients: Patients, looks: Looks, progress: Progress = Silent()) -> Tensor:
    """What noise is put on, float64 on the CPU: the sum of all contributions. In a run only :func:`release` sees one.

    A patient more or less changes it by a vector of length 1 at most, but for the rounding of sums. A patient mostly
    has images of one class, so the rows of :func:`contributions`, zero in all others, are never made.
    """
    classes, total = patients.images.classes, torch.zeros(())
    with progress.stage("looking", patients.count) as stage:
        for seen, labels, owner in _looked_at(patients, looks):
            place, of_class = torch.unique(owner * classes + labels, return_inverse=True)
            rows = _summed(seen, of_class, len(place))
            whose, label = place // classes, place % classes
            lengths = _summed(rows.square().sum(1), whose, int(owner.max()) + 1).sqrt()
            within = (_BOUND / lengths.clamp_min(1e-300)).clamp_max(1.0)[whose]
            total = total + _summed(rows * within[:, None], label, classes)
            stage.advance(len(lengths))
    return _features_then_shares(total[None])[0]


def contributions(patients: Patients, looks: Looks) -> Iterator[Tensor]:
    """Each patient's vector, float64 on the CPU and of length 1 at most; some patients at a time, in order."""
    classes = patients.images.classes
    for seen, labels, owner in _looked_at(patients, looks):
        count = int(owner.max()) + 1
        rows = _summed(seen, owner * classes + labels, count * classes).view(count, classes, -1)
        yield clipped(_features_then_shares(rows), _BOUND)


@torch.no_grad()
def _looked_at(patients: Patients, looks: Looks) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What each image adds to its patient: rows ``(n, D + 1)`` of features and a share; its class; its patient."""
    drawn = [looks.draw(place, patients.images.device) for place in range(looks.count)]
    for rows, owner in patients.blocks(_ROWS):
        inputs = patients.images.inputs(rows)
        seen = torch.cat([_through(looks, look, place, inputs) for place, look in enumerate(drawn)], 1).double().cpu()
        seen = F.pad(seen * (_FEATURES / looks.count) ** 0.5, (0, 1), value=_COUNTS**0.5)
        labels = patients.images.labels[rows.to(patients.images.device)].cpu()
        yield seen / torch.bincount(owner).double()[owner, None], labels, owner


def _through(looks: Looks, look: tuple[Params, Draw, Tensor], place: int, inputs: Tensor) -> Tensor:
    """Directions of inputs, always so many at once: a network rounds an image differently beside more or fewer others.

    Else who is there would change, a little, what the others add.
    """
    found = []
    for part in inputs.split(_ROWS):
        filled = torch.cat([part, part.new_zeros(_ROWS - len(part), *part.shape[1:])])
        found.append(looks.through(look, place, filled)[: len(part)])
    return torch.cat(found)


def _summed(values: Tensor, place: Tensor, places: int) -> Tensor:
    return torch.zeros(places, *values.shape[1:], dtype=values.dtype).index_add(0, place, values)


def _features_then_shares(rows: Tensor) -> Tensor:
    """From ``(P, classes, D + 1)`` to vectors ``(P, classes · D + classes)``."""
    return torch.cat([rows[..., :-1].flatten(1), rows[..., -1]], 1)
