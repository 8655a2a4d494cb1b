"""Published methods, each a short named combination of parts."""

from dataclasses import dataclass, field
from typing import Literal

from meddistill.distill.distance import Adaptive, Distance, NormalisedL2, Pruned
from meddistill.distill.labels import Labels
from meddistill.distill.unroll import Strategy
from meddistill.runtime.errors import InputError

Segments = Literal["random", "progressive"]


@dataclass(frozen=True)
class Method:
    """A named combination of parts, and where it comes from.

    ``strategy``: how the gradient is computed, where the method says so; else the plan does. ``averaging``: see
    :class:`~meddistill.distill.loop.LoopPlan`. ``flat_teachers``: they must be trained with SAM or GSAM.
    ``mitigates_overlap``: images of a class that become too similar start anew.
    """

    name: str
    summary: str
    source: str
    labels: Labels = "hard"
    segments: Segments = "random"
    distance: Distance = field(default_factory=NormalisedL2)
    strategy: Strategy | None = None
    averaging: float = 0.0
    flat_teachers: bool = False
    mitigates_overlap: bool = False

    @property
    def learns(self) -> tuple[str, ...]:
        """What the method learns."""
        return ("images", *(["soft labels"] if self.labels == "learned" else []), "step size")


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="mtt",
            summary="matching training trajectories: random segments, normalised L2 distance, hard labels",
            source="Cazenavette et al. 2022, arXiv 2203.11932",
        ),
        Method(
            name="mtt-soft",
            summary="mtt with soft labels that are learned together with the images",
            source="Cazenavette et al. 2022, arXiv 2203.11932; soft labels after Sucholutsky & Schonlau 2019, "
            "arXiv 1910.02551",
            labels="learned",
        ),
        Method(
            name="pruned",
            summary="mtt whose distance leaves out parameters that are hard to match (similarity below 0.1)",
            source="Li et al. 2022, arXiv 2209.14603 and 2209.14609",
            distance=Pruned(threshold=0.1),
        ),
        Method(
            name="progressive",
            summary="segments from the start of the trajectory that grow in stages; images that overlap start anew",
            source="Yu et al. 2024, arXiv 2403.13469",
            segments="progressive",
            mitigates_overlap=True,
        ),
        Method(
            name="tesla",
            summary="mtt with the gradient that leaves out how one student step changes the slopes of the next",
            source="Cui et al. 2023, arXiv 2211.10586",
            strategy="two-pass",
        ),
        Method(
            name="ftd",
            summary="mtt with flat teachers (SAM or GSAM) and averaged images",
            source="Du et al. 2023, arXiv 2211.11004",
            averaging=0.999,
            flat_teachers=True,
        ),
        Method(
            name="att",
            summary="mtt that matches at the student step that came closest to the teacher",
            source="Liu et al. 2024, arXiv 2407.14245",
            distance=Adaptive(),
        ),
    )
}
DEFAULT_METHOD = "mtt-soft"


def find(name: str) -> Method:
    """The method of that name. Raises :class:`InputError` naming all methods."""
    if name not in METHODS:
        raise InputError(f"unknown method '{name}': expected one of {', '.join(METHODS)} (see: meddistill methods)")
    return METHODS[name]
