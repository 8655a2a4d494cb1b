"""One noised release of what untrained networks see in every class; images are then made to look the same to them.

Every *look* is an untrained network and an augmentation, both drawn from the run's public seed. A patient contributes,
for each class, the share of the patient's images that are of it and the mean of their features under every look, as
one vector of length 1 at most. The sum over all patients gets normal noise once (the Gaussian mechanism), and nothing
but the noised sum is ever kept. Matching class means of features of random networks is distribution matching (Zhao &
Bilen 2023, arXiv 2110.04181); noise on sums of clipped features is that of Zheng & Li (2022), put on once, not in
every iteration.

More looks cost time, not accuracy: a patient's length is shared among them, so that noise in each grows with the root
of their number, and it falls by the same root in the mean over all that images follow.

Nothing that a patient's contribution is computed from depends on other patients: looks and the zero point of
features follow from the seed, and intensities are normalised by fixed numbers.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
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
MECHANISM = "Gaussian mechanism on the sum of clipped feature statistics and class shares"


def fixed_normalisation(channels: int) -> Normalisation:
    """The same for every cohort, so that it tells nothing of one."""
    return Normalisation((0.5,) * channels, (0.25,) * channels)


@dataclass(frozen=True)
class Looks:
    """``count`` untrained networks with an augmentation each, all from ``seed``."""

    network: ConvNet
    augmentation: Augmentation
    seed: int
    count: int

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

    def features(self, look: tuple[Params, Draw, Tensor], images: Tensor) -> Tensor:
        """Directions ``(n, D)``, of length 1, of normalised images under a look; differentiable."""
        params, change, zero = look
        seen = change.repeated(len(images)).apply(images)
        return F.normalize(self.network.features(params, seen) - zero, dim=1)


@dataclass(frozen=True)
class Release:
    """All that is known of the patients from here on.

    ``features``: ``(looks, classes, D)``, the noised sums; ``counts``: ``(classes,)``, the noised numbers of patients,
    both float32 on the CPU.
    """

    features: Tensor
    counts: Tensor
    event: Event
    epsilon: float
    delta: float

    accountant = ANALYTIC

    @property
    def looks(self) -> int:
        """How many looks there were."""
        return len(self.features)

    @property
    def vector(self) -> Tensor:
        """The sum as noise was put on it, float64 ``(classes · looks · D + classes,)``: see :func:`clean_sum`."""
        features = self.features.double().transpose(0, 1) * (_FEATURES / len(self.features)) ** 0.5
        return torch.cat([features.flatten(), self.counts.double() * _COUNTS**0.5])

    @property
    def means(self) -> Tensor:
        """Class means of features ``(looks, classes, D)``, as far as noise allows."""
        return self.features / self.counts.clamp_min(1.0)[:, None]

    def save(self, path: Path) -> None:
        """Write the release, whole or not at all."""
        told = {"event": vars(self.event), "epsilon": self.epsilon, "delta": self.delta}
        tensors = {"features": self.features, "counts": self.counts}
        write_atomic(path, safetensors.torch.save(tensors, {"release": json.dumps(told)}))


def load_release(path: Path) -> Release:
    """A release that was saved. Raises :class:`InputError` for another file."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            told = json.loads(file.metadata()["release"])
            features, counts = file.get_tensor("features"), file.get_tensor("counts")
        return Release(features, counts, Event(**told["event"]), told["epsilon"], told["delta"])
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
    multiplier = gaussian_noise(epsilon, delta)
    total = clean_sum(patients, looks, progress)
    total += torch.from_numpy(noise.normal(len(total), source)) * (multiplier * _BOUND)
    classes = patients.images.classes
    features, counts = total[:-classes].view(classes, looks.count, -1), total[-classes:]
    return Release(
        features=(features.transpose(0, 1) * (looks.count / _FEATURES) ** 0.5).float().contiguous(),
        counts=(counts / _COUNTS**0.5).float(),
        event=Event(MECHANISM, multiplier),
        epsilon=epsilon,
        delta=delta,
    )


def clean_sum(patients: Patients, looks: Looks, progress: Progress = Silent()) -> Tensor:
    """What noise is put on, float64 on the CPU: the sum of all contributions. In a run only :func:`release` sees it.

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
        seen = torch.cat([looks.features(look, inputs) for look in drawn], 1).double().cpu()
        seen = F.pad(seen * (_FEATURES / looks.count) ** 0.5, (0, 1), value=_COUNTS**0.5)
        labels = patients.images.labels[rows.to(patients.images.device)].cpu()
        yield seen / torch.bincount(owner).double()[owner, None], labels, owner


def _summed(values: Tensor, place: Tensor, places: int) -> Tensor:
    return torch.zeros(places, *values.shape[1:], dtype=values.dtype).index_add(0, place, values)


def _features_then_shares(rows: Tensor) -> Tensor:
    """From ``(P, classes, D + 1)`` to vectors ``(P, classes · D + classes)``."""
    return torch.cat([rows[..., :-1].flatten(1), rows[..., -1]], 1)
