"""What is asked of whole runs of a method."""

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from operator import le

import numpy as np
import torch
from torch import Tensor

from meddistill.distill.loop import distill
from meddistill.distill.unroll import Learned
from meddistill.runtime.events import told
from meddistill.testing.slopes import NAMES
from meddistill.testing.trial import SEED, Trial

# After so many iterations of matching runs are interrupted.
_STOPS = (1, 4)


def ends(trial: Trial) -> Iterator[str]:
    """With finite numbers, no iteration skipped, and nothing moved but what is learned."""
    found = trial.whole
    for name, before, after in zip(NAMES, trial.first.tensors(), found.tensors(), strict=True):
        if before.shape != after.shape or not torch.isfinite(after).all():
            yield f"the {name} it ends with are not finite or of another shape"
    skipped = list(_skipped(trial))
    yield from skipped
    if torch.equal(found.images, _warmed_up(trial)) and not skipped:
        yield "no iteration moved the images"
    learns = trial.method.learns
    for name, before, after, learned in (
        ("labels", trial.first.label_logits, found.label_logits, "soft labels" in learns),
        ("step sizes", trial.first.log_steps, found.log_steps, bool({"step size", "step sizes"} & set(learns))),
    ):
        moved = not torch.equal(before, after)
        if moved and not learned:
            yield f"{name} moved that it does not learn"
        if learned and not moved and not skipped:
            yield f"the {name} that it learns did not move"


def _skipped(trial: Trial) -> Iterator[str]:
    """Iterations of the whole run that changed nothing; some may be left out for their high score, but not all."""
    scores = [event["score"] for event in told(trial.told) if event["event"] == "skipped"]
    total, highest = trial.plan.warm_up + trial.plan.iterations, trial.plan.highest
    runaways = sum(score is not None and score > highest for score in scores)
    if len(scores) > runaways:
        yield f"{len(scores) - runaways} of {total} iterations were skipped: score or gradient not finite"
    if runaways == trial.plan.iterations:
        yield f"every iteration was skipped: its score was above {highest:g}"


def _warmed_up(trial: Trial) -> Tensor:
    """The images when matching begins: those of a run that learns nothing from then on."""
    still = replace(trial.plan, iterations=1, image_rate=0.0, averaging=0.0)
    return distill(trial.first, trial.matching, still, SEED).images


def repeats(trial: Trial) -> Iterator[str]:
    """The same seed gives the same bytes, another one others."""
    if not _same(trial.whole, trial.run()):
        yield "the same seed gives different bytes"
    if _same(trial.whole, trial.run(SEED + 1)):
        yield "another seed gives the same bytes"


def resumes(trial: Trial) -> Iterator[str]:
    """Interrupted, with the bytes of a run that was not."""
    for stop in _STOPS:
        kept = trial.folder / f"stopped-{stop}"
        distill(trial.first, trial.matching, trial.plan, SEED, is_enough=partial(le, stop), checkpoint=kept)
        if not _same(distill(trial.first, trial.matching, trial.plan, SEED, checkpoint=kept), trial.whole):
            yield f"a run that is interrupted after {stop} iterations and continued ends with other bytes"


def leaves_global_generators(trial: Trial) -> Iterator[str]:
    """As they were."""
    before = _global_states()
    distill(trial.first, trial.matching, replace(trial.plan, iterations=2), SEED)
    for name, state in _global_states().items():
        if state != before[name]:
            yield f"it draws from the global generator of {name}: draw from meddistill.runtime.streams"


def _global_states() -> dict[str, object]:
    return {  # numpy's text is abridged, but ends with how far the generator has come
        "torch": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),
        "random": random.getstate(),
    }


def _same(one: Learned, other: Learned) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.tensors(), other.tensors(), strict=True))
