"""Characteristic functions: all moments of a class's features at once, not their means alone.

Wang et al. 2025 (NCFM, arXiv 2502.20653). Features, scaled to length one, of real images have the characteristic
function Φ(t) = E exp(i t·f), those of synthetic ones Φ̃. At frequencies t drawn from a standard normal distribution
amplitudes and phases a are compared,

    c(t) = α (|Φ| − |Φ̃|)² + (1 − α) 2 |Φ| |Φ̃| (1 − cos(a − ã)),

and the score is the mean of √c over frequencies and classes. What the source adds is left out: a network that looks for
the worst frequencies (its released settings do without), four small images in one, and a classification term.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from meddistill.distill.matching.pairs import mean_of, of_images, pairs
from meddistill.distill.objective import Family, Found, Scene
from meddistill.distill.unroll import Learned, Outcome
from meddistill.nets.params import Params

# Under the root: its slope would be infinite where the functions agree.
_TINY = 1e-8


@dataclass(frozen=True)
class CharacteristicFunctions:
    """As the source: under blends of an untrained teacher and what became of it, in random proportion.

    ``frequencies``: how many are drawn in an iteration. ``amplitude``: α, the share of amplitudes.
    """

    family: ClassVar[Family] = "distributions"
    needs_teachers: ClassVar[bool] = True
    warms_up: ClassVar[bool] = False
    cost: ClassVar[str] = "teachers; an iteration: 3 forward passes of the synthetic images, 1 of real ones"

    frequencies: int = 1024
    amplitude: float = 0.5

    def step_sizes(self, images: int, classes: int) -> int:
        return 1

    def outcome(self, scene: Scene, learned: Learned, carried: Params) -> Found:
        return Found(mean_of([self._under_one(scene, learned, place) for place in range(scene.at_once)]))

    def _under_one(self, scene: Scene, learned: Learned, place: int) -> Outcome:
        generator, variable = scene.stream(place), learned.images.detach().requires_grad_()
        params = _blend(scene, generator)
        size = params[-2].shape[1]
        frequencies = torch.randn(size, self.frequencies, generator=generator).to(variable)
        found = []
        for pair in pairs(scene, learned, variable, generator):
            with torch.no_grad():
                real = F.normalize(scene.network.features(params, pair.real), dim=1)
            made = F.normalize(scene.network.features(params, pair.made), dim=1)
            found.append(characteristic_distance(made, real, frequencies, self.amplitude))
        return of_images(torch.stack(found).mean(), variable, learned)


def characteristic_distance(made: Tensor, real: Tensor, frequencies: Tensor, amplitude: float) -> Tensor:
    """Of samples ``(n, D)`` and ``(m, D)`` at ``frequencies`` ``(D, T)``, a scalar: the mean of √c."""
    (cos_a, sin_a), (cos_b, sin_b) = (_function(made @ frequencies), _function(real @ frequencies))
    sizes = (cos_a**2 + sin_a**2 + _TINY).sqrt() - (cos_b**2 + sin_b**2 + _TINY).sqrt()
    apart = (cos_a - cos_b) ** 2 + (sin_a - sin_b) ** 2
    # As |Φ − Φ̃|² = (|Φ| − |Φ̃|)² + 2 |Φ| |Φ̃| (1 − cos(a − ã)). The last term alone would be a difference of two numbers
    # that are nearly alike, and negative by rounding.
    score = (1 - amplitude) * apart + (2 * amplitude - 1) * sizes**2
    return (score.clamp_min(0) + _TINY).sqrt().mean()


def _function(products: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part ``(T,)`` of the characteristic function of ``(n, T)`` products t·f."""
    return products.cos().mean(0), products.sin().mean(0)


def _blend(scene: Scene, generator: torch.Generator) -> Params:
    if scene.teacher is None:
        raise ValueError("characteristic functions are compared under teachers: pass their trajectories")
    first, last = scene.teacher(generator)
    share = float(torch.rand((), generator=generator))
    return tuple(a.lerp(b, share) for a, b in zip(first, last, strict=True))
