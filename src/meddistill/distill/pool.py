"""Networks that are trained on the synthetic set while it is made: what an objective may look at instead of teachers.

Zhou, Nezhadarya & Ba 2022 (FRePo, arXiv 2206.00719), section 3.2: a few networks of different ages, each trained on the
images as they are at the moment and begun anew when it is old. Whoever trains on the finished set will meet networks
just like these, from the first step to the last, and no trajectory of a real one has to be made beforehand.

The pool is parameters, stacked, and ages, so that it goes through a checkpoint like anything else that is carried on.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from meddistill.distill.objective import Scene
from meddistill.distill.unroll import Learned
from meddistill.nets.gradient import gradient_of_one
from meddistill.nets.params import Params


@dataclass(frozen=True)
class Pool:
    """``networks``: stacked, every tensor with a leading dimension P. ``ages``: steps taken by each, ``(P,)`` int64."""

    networks: Params
    ages: Tensor

    @classmethod
    def of(cls, carried: Params) -> "Pool":
        """The pool that :attr:`carried` gave."""
        *networks, ages = carried
        return cls(tuple(networks), ages)

    @property
    def carried(self) -> Params:
        """As the loop carries it on."""
        return (*self.networks, self.ages)

    def network(self, place: int) -> Params:
        """One of them."""
        return tuple(param[place] for param in self.networks)

    def with_network(self, place: int, params: Params, age: int) -> "Pool":
        """The pool with another network, of that age, at a place."""
        networks = tuple(param.clone() for param in self.networks)
        for all_of_them, one in zip(networks, params, strict=True):
            all_of_them[place] = one
        ages = self.ages.clone()
        ages[place] = age
        return Pool(networks, ages)


@dataclass(frozen=True)
class Upbringing:
    """How the networks of a pool are trained: plain SGD of ``rate`` on up to ``batch`` augmented synthetic images.

    ``size``: how many networks there are. ``life``: steps after which one starts anew. They begin at different ages,
    evenly spread, so that the set meets all ages from its first iterations on.
    """

    size: int = 4
    life: int = 150
    rate: float = 0.03
    batch: int = 32

    def first(self, scene: Scene, learned: Learned) -> Pool:
        """The pool before the first iteration."""
        ages = [self.life * place // self.size for place in range(self.size)]
        grown = [self._grown(scene, learned, place, age) for place, age in enumerate(ages)]
        stacked = tuple(torch.stack(parts) for parts in zip(*grown, strict=True))
        return Pool(stacked, torch.tensor(ages))

    def older(self, pool: Pool, place: int, scene: Scene, learned: Learned, steps: int = 1, number: int = 0) -> Pool:
        """The pool whose network at ``place`` has taken some more steps, or is a new one if it was old.

        ``number``: how many networks of the pool were looked at before in this iteration. One that is looked at again
        takes its steps on other images than the first time.
        """
        again = (number,) if number else ()  # an iteration's first draw is named as it always was
        age, generator = int(pool.ages[place]), scene.stream("pool", place, *again)
        if age + steps > self.life:
            return pool.with_network(place, scene.random_network(generator), 0)
        params = self._trained(scene, learned, pool.network(place), steps, generator)
        return pool.with_network(place, params, age + steps)

    def _grown(self, scene: Scene, learned: Learned, place: int, age: int) -> Params:
        generator = scene.stream("pool", "first", place)
        return self._trained(scene, learned, scene.random_network(generator), age, generator)

    def _trained(
        self, scene: Scene, learned: Learned, params: Params, steps: int, generator: torch.Generator
    ) -> Params:
        labels = learned.label_logits.softmax(1)
        for _ in range(steps):
            rows = torch.randperm(len(labels), generator=generator)[: self.batch].to(labels.device)
            seen = scene.augmentation.draw(len(rows), generator).apply(learned.images[rows])
            slopes = gradient_of_one(scene.network, params, seen, labels[rows])
            params = tuple(param - self.rate * slope for param, slope in zip(params, slopes, strict=True))
        return params
