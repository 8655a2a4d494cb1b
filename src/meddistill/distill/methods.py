"""Published methods, each a short named combination of parts."""

from dataclasses import dataclass

from meddistill.distill.labels import Labels
from meddistill.runtime.errors import InputError


@dataclass(frozen=True)
class Method:
    """A named combination: how labels are made, and where the method comes from."""

    name: str
    summary: str
    source: str
    labels: Labels


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="mtt",
            summary="matching training trajectories: random segments, normalised L2 distance, hard labels",
            source="Cazenavette et al. 2022, arXiv 2203.11932",
            labels="hard",
        ),
        Method(
            name="mtt-soft",
            summary="mtt with soft labels that are learned together with the images",
            source="Cazenavette et al. 2022, arXiv 2203.11932; soft labels after Sucholutsky & Schonlau 2019, "
            "arXiv 1910.02551",
            labels="learned",
        ),
    )
}
DEFAULT_METHOD = "mtt-soft"


def find(name: str) -> Method:
    """The method of that name. Raises :class:`InputError` naming all methods."""
    if name not in METHODS:
        raise InputError(f"unknown method '{name}': expected one of {', '.join(METHODS)} (see: meddistill methods)")
    return METHODS[name]
