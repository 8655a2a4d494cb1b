"""The state of the loop: what is learned, what the optimiser knows of it, and all that a checkpoint holds."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from meddistill.distill.distance import Remembering
from meddistill.distill.formation import Formation
from meddistill.distill.loop_plan import LoopPlan
from meddistill.distill.overlap import Mitigation
from meddistill.distill.segments import Pace
from meddistill.distill.unroll import Learned, Outcome
from meddistill.nets.params import Params
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import write_atomic

_SGD_MOMENTUM = 0.5
_WARM_UP_RATE = 0.05


class State:
    """What a checkpoint holds: learned tensors, their average and of how many iterations it is, optimiser, iteration,
    how many were skipped in a row, the pace of the segments, which images are being retrained, what an objective or
    a distance carries on, and where a GPU's kernels were tried whether they are taken.

    ``notes``: what the distance noted of the students of the present iteration. ``together``: how many segments go side
    by side on this machine. Neither is in a checkpoint.
    """

    def __init__(self, first: Learned, plan: LoopPlan, carried: Params, formation: Formation) -> None:
        self.iteration, self.skipped, self.averaged, self.pace = 0, 0, 0, Pace()
        self.carried, self.notes, self.together = carried, list[Params](), 0
        self.kernels: bool | None = None
        self._retrained = torch.ones(len(first.images), dtype=torch.bool)
        self._retrained_until = 0
        self._replaced = list[Tensor]()  # the learned tensors before images started anew
        self._plan, self.formation = plan, formation
        self._variables = [tensor.detach().clone() for tensor in first.tensors()]
        self._average = [tensor.clone() for tensor in self._variables] if plan.averaging else []
        self._optimiser = self._new_optimiser()

    def _new_optimiser(self) -> torch.optim.Optimizer:
        """Adam while warming up, on the images alone; then what the plan says, on everything that is learned."""
        plan, warm = self._plan, self.iteration < self._plan.warm_up
        label_rate = plan.label_rate if plan.learn_labels else 0.0
        rates = (_WARM_UP_RATE, 0.0, 0.0) if warm else (plan.image_rate, label_rate, plan.step_rate)
        groups = [{"params": [v], "lr": r, "full": r} for v, r in zip(self._variables, rates, strict=True)]
        if warm or plan.optimiser == "adam":
            return torch.optim.Adam(groups)
        return torch.optim.SGD(groups, momentum=_SGD_MOMENTUM)

    @property
    def learned(self) -> Learned:
        """The set as networks see it: images enlarged."""
        images, logits, steps = self._variables
        return Learned(self.formation.enlarged(images), logits, steps)

    @property
    def result(self) -> Learned:
        """What a run gives: the average where one is kept and matching has begun.

        While images are being retrained the set as it was before, so that a run that ends before its time does not give
        images that have only begun.
        """
        if self.averaged:
            return Learned(*self._average)
        if self._is_retraining and self._replaced:
            return Learned(*self._replaced)
        return Learned(*self._variables)

    @property
    def _is_retraining(self) -> bool:
        return self.iteration < self._retrained_until

    def restart(self, rows: Tensor, images: Tensor, rule: Mitigation) -> None:
        """Give the images of ``rows`` ``(k,)`` new pixels ``(k, C, s, s)``, as they are stored, and for a while train
        only them.

        They have no direction yet, but steps as long as those of all images: Adam's step count is common to them, so
        that a second moment of zero would not be corrected as in the beginning, and steps would be several times too
        long.
        """
        variable = self._variables[0]
        rows_there = rows.to(variable.device)
        self._replaced = [tensor.clone() for tensor in self._variables]
        variable[rows_there] = images
        moments = self._optimiser.state[variable]
        for name in moments.keys() & {"exp_avg", "momentum_buffer"}:
            moments[name][rows_there] = 0
        if "exp_avg_sq" in moments:
            moments["exp_avg_sq"][rows_there] = moments["exp_avg_sq"].mean(0)
        self._retrained = torch.zeros(len(variable), dtype=torch.bool).index_fill(0, rows, True)
        self._retrained_until = self.iteration + rule.retrained

    def update(self, outcome: Outcome, usable: bool) -> None:
        """Take one optimiser step, or none, and go on to the next iteration."""
        self.skipped = 0 if usable else self.skipped + 1
        if self.iteration == self._plan.warm_up:
            self._optimiser = self._new_optimiser()
        if usable:
            for group in self._optimiser.param_groups:
                group["lr"] = group["full"] * self._share_of_rate()
            images, *others = outcome.gradient.tensors()
            slopes = (self.formation.pulled_back(images), *others)
            for variable, slope in zip(self._variables, slopes, strict=True):
                variable.grad = slope
            self._step()
        self.iteration += 1
        matched = self.iteration - self._plan.warm_up
        if matched > 0 and usable:
            self.pace = self._plan.segments.paced(self.pace, outcome.score, matched / self._plan.iterations)
            self._add_to_average()
            if self._plan.objective is None and isinstance(self._plan.distance, Remembering):
                self.carried = self._plan.distance.remembered(self.carried, self.notes)

    def _step(self) -> None:
        """The optimiser's step, after which everything but the images being retrained is put back."""
        if not self._is_retraining:
            self._optimiser.step()
            return
        frozen = (~self._retrained).nonzero().flatten().to(self._variables[0].device)
        before = [variable.clone() for variable in self._variables]
        self._optimiser.step()
        images, logits, steps = self._variables
        images[frozen], logits[frozen] = before[0][frozen], before[1][frozen]
        steps.copy_(before[2])

    def _add_to_average(self) -> None:
        if not self._average:
            return
        # The first iterations weigh more than they would for ever, so that the start is forgotten (as Adam's moments).
        kept = min(self._plan.averaging, self.averaged / (self.averaged + 1))
        self.averaged += 1
        for mean, variable in zip(self._average, self._variables, strict=True):
            mean.lerp_(variable, 1 - kept)

    def _share_of_rate(self) -> float:
        matched = self.iteration - self._plan.warm_up
        if matched < 0 or not self._plan.decay:
            return 1.0
        return math.cos(math.pi / 2 * matched / self._plan.iterations) ** 2

    def save(self, path: Path) -> None:
        tensors = {f"learned.{place}": variable for place, variable in enumerate(self._variables)}
        for place, variable in enumerate(self._variables):
            for name, moment in self._optimiser.state[variable].items():
                if isinstance(moment, Tensor):
                    tensors[f"moment.{place}.{name}"] = moment
        tensors |= {f"average.{place}": mean for place, mean in enumerate(self._average)}
        tensors |= {f"carried.{place}": tensor for place, tensor in enumerate(self.carried)}
        tensors["retrained"] = self._retrained
        if self._is_retraining:
            tensors |= {f"replaced.{place}": tensor for place, tensor in enumerate(self._replaced)}
        numbers = {
            "iteration": self.iteration,
            "skipped": self.skipped,
            "averaged": self.averaged,
            "retrained_until": self._retrained_until,
            "pace": asdict(self.pace),
        }
        if self.kernels is not None:
            numbers["kernels"] = self.kernels
        metadata = {name: json.dumps(value) for name, value in numbers.items()}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_atomic(path, safetensors.torch.save(tensors, metadata))

    def load(self, path: Path) -> None:
        if not path.exists():
            return
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                numbers = {name: json.loads(text) for name, text in file.metadata().items()}
                self.iteration, self.skipped = int(numbers["iteration"]), int(numbers["skipped"])
                self.averaged, self.kernels = int(numbers["averaged"]), numbers.get("kernels")
                self.pace, self._retrained_until = Pace(**numbers["pace"]), int(numbers["retrained_until"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            for place, variable in enumerate(self._variables):
                if tensors[f"learned.{place}"].shape != variable.shape:
                    raise ValueError("it holds a synthetic set of another shape")
            self._retrained = tensors.pop("retrained")
            replaced = [name for name in sorted(tensors) if name.startswith("replaced.")]
            self._replaced = [tensors.pop(name).to(self._variables[0].device) for name in replaced]
            count = sum(name.startswith("carried.") for name in tensors)
            carried = [tensors.pop(f"carried.{place}") for place in range(count)]
            if count < len(self.carried):
                raise ValueError("it holds nothing that the distance remembers")
            self.carried = tuple(tensor.to(self._variables[0].device) for tensor in carried)
        except (OSError, AttributeError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
            raise InputError(
                f"cannot read the checkpoint {path} ({error}): delete it to start this stage anew"
            ) from None
        self._optimiser = self._new_optimiser()
        for name, tensor in tensors.items():
            kind, place, *rest = name.split(".")
            variable = self._variables[int(place)]
            if kind == "learned":
                variable.copy_(tensor)
            elif kind == "average":
                self._average[int(place)].copy_(tensor)
            else:
                # Adam counts its steps in a tensor that stays on the CPU.
                self._optimiser.state[variable][rest[0]] = tensor if rest[0] == "step" else tensor.to(variable.device)
