"""An audit from beginning to end: read the package and both groups, make every attack, say the worst outcome."""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from meddistill import __version__
from meddistill.audit import canaries, copies, hygiene, labels, linkage, membership, population, shadows
from meddistill.audit.case import SIDES, Case, Effort
from meddistill.audit.finding import EXIT_CODES, Finding, Gates, Outcome, worst
from meddistill.audit.people import Groups, Part, Sample, read_groups, sample, without
from meddistill.audit.recognise import DIMENSIONS, train_recogniser
from meddistill.audit.statistics import Interval
from meddistill.cohort.read import ReadOptions, read
from meddistill.nets.convnet import parse
from meddistill.package.attach import attach, require_unsigned
from meddistill.package.members import TENSORS
from meddistill.package.read import open_sound, read_judged
from meddistill.package.types import Card
from meddistill.pipeline.canaries import Canaries, load
from meddistill.runtime.device import choose
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import require_writable, write_atomic
from meddistill.runtime.progress import Progress, Silent
from meddistill.teachers.images import Normalisation

_LEAST = 10  # patients of a group


@dataclass(frozen=True)
class Report:
    """What an audit found; ``groups``: patients and images of both groups, and how many were left out as members."""

    package: Path
    digest: str
    card: Card
    findings: tuple[Finding, ...]
    groups: dict[str, Any]
    gates: Gates
    effort: Effort
    seed: int
    seconds: float
    attached: bool

    @property
    def outcome(self) -> Outcome:
        """The worst of all findings."""
        return worst(found.outcome for found in self.findings)

    @property
    def exit_code(self) -> int:
        """What ``meddistill audit`` ends with."""
        return EXIT_CODES[self.outcome]

    def as_dict(self) -> dict[str, Any]:
        """The whole report, for the owner of the data."""
        place = {"package": str(self.package), "seconds": round(self.seconds, 1), "attached": self.attached}
        return place | self._said([found.as_dict() for found in self.findings]) | {"groups": self.groups}

    def _repr_html_(self) -> str:
        from meddistill.report.notebook import table

        rows = [(one.attack, one.asks, _shares(one.main), _shares(one.control), one.outcome) for one in self.findings]
        headers = ("attack", "asks", "members %", "control %", "outcome")
        return table(headers, [*rows, ("all", "the worst of them", "", "", self.outcome)])

    def shared(self) -> dict[str, Any]:
        """What goes into the package: no path; and where counts are withheld, nothing that they follow from."""
        if isinstance(self.card.cohort.counts, str):
            told = ("attack", "asks", "outcome")
            return self._said([{name: getattr(found, name) for name in told} for found in self.findings])
        return self._said([found.as_dict() for found in self.findings]) | {"groups": self.groups}

    def _said(self, findings: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "audit": 1,
            "software": {"name": "meddistill", "version": __version__},
            "tensors_sha256": self.digest,
            "outcome": self.outcome,
            "findings": findings,
            "gates": self.gates.as_dict(),
            "effort": asdict(self.effort),
            "seed": self.seed,
        }


def _shares(found: Interval | None) -> str:
    """For a table: per cent."""
    return "–" if found is None else f"{100 * found.value:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def audit(
    package: Path,
    members: str,
    control: str | None = None,
    *,
    out: Path | None = None,
    attached: bool = False,
    planted: Path | None = None,
    effort: Effort = Effort(),
    gates: Gates = Gates(),
    seed: int = 0,
    device: str = "auto",
    options: ReadOptions = ReadOptions(),
    progress: Progress = Silent(),
) -> Report:
    """Audit ``package`` and write the report to ``out`` if given, and into the package if it is to be ``attached``.

    ``members``, ``control``: ``SOURCE`` or ``SOURCE:SPLIT``. Members without a split are the training images; a control
    group without one is the test images of the members' source, or all images of another. Without ``effort.references``
    membership is not attacked, and the audit does not pass. ``planted``: the file of the package's canaries, without
    which a package that was distilled with canaries is refused.
    """
    begun = time.monotonic()
    if attached:
        require_unsigned(package)
    if out is not None:
        require_writable(out)
    secret = _canaries(package, planted)
    case, groups, samples = _open(package, members, control, secret, effort, gates, seed, device, options, progress)
    findings = [_hygiene(case, samples, options), *_compared(case, groups, secret)]
    report = Report(
        package=package,
        digest=open_sound(package)[1][TENSORS],
        card=case.package.card,
        findings=tuple(findings),
        groups=_counts(groups),
        gates=gates,
        effort=effort,
        seed=seed,
        seconds=time.monotonic() - begun,
        attached=attached,
    )
    if attached:
        attach(package, report.shared())
    if out is not None:
        write_atomic(out, (json.dumps(report.as_dict(), indent=2, allow_nan=False) + "\n").encode())
    return report


def _canaries(file: Path, planted: Path | None) -> Canaries | None:
    """The canaries of this package. Raises :class:`InputError` for those of another, and where they are not given."""
    package, _ = read_judged(file)
    if planted is None:
        if not package.card.canaries:
            return None
        raise InputError(
            f"{file} was distilled with canaries, for which patients were left out of the training split: give the "
            "file canaries.safetensors of its run folder with --canaries"
        )
    found = load(planted)
    if found.package != open_sound(file)[1][TENSORS]:
        raise InputError(
            f"the canaries in {planted} are not those of {file}: give the file of the run folder that it was made in"
        )
    return found


def _open(
    file: Path,
    members: str,
    control: str | None,
    secret: Canaries | None,
    effort: Effort,
    gates: Gates,
    seed: int,
    device: str,
    options: ReadOptions,
    progress: Progress,
) -> tuple[Case, Groups, tuple[Sample, Sample]]:
    where = choose(device)
    if effort.references % 2 or effort.references < 0:
        raise InputError(f"{effort.references} references were asked for: expected an even number, or 0 for none")
    if effort.shadows and (effort.shadows % 2 or effort.shadows < shadows.LEAST):
        raise InputError(f"{effort.shadows} shadows were asked for: expected an even number from {shadows.LEAST}, or 0")
    package, _ = read_judged(file)
    card = package.card
    inside = sample(members, "train")
    default: Part = "test" if control is None or sample(control, "all").source == inside.source else "all"
    outside = sample(str(inside.source) if control is None else control, default)
    groups = read_groups(inside, outside, card, options, progress)
    if secret is not None:
        # Their patients are neither surely members nor surely not; and no network of the audit may have seen a canary.
        groups = replace(groups, members=without(groups.members, secret.images))
    if min(groups.members.count, groups.control.count) < _LEAST:
        raise InputError(
            f"{groups.members.count} members and {groups.control.count} control patients were found: at least {_LEAST} "
            "of each are needed to compare them"
        )
    if groups.overlap:
        progress.warn(f"{groups.overlap} patients of the control group are members too and were left out of it")
    classes = len(card.task.classes)
    network = parse(card.recipe.network, channels=card.images.channels, size=card.images.size, classes=classes)
    normalisation = Normalisation(card.normalisation.mean, card.normalisation.std)
    recogniser = train_recogniser(
        groups.members,
        groups.control,
        replace(network, classes=DIMENSIONS),
        normalisation,
        steps=effort.recogniser_steps,
        seed=seed,
        device=where,
        progress=progress,
    )
    case = Case(
        file=file,
        package=package,
        members=groups.members,
        control=groups.control,
        network=network,
        normalisation=normalisation,
        recogniser=recogniser,
        gates=gates,
        effort=effort,
        seed=seed,
        device=where,
        progress=progress,
    )
    return case, groups, (inside, outside)


def _hygiene(case: Case, samples: tuple[Sample, Sample], options: ReadOptions) -> Finding:
    prepared = hygiene.prepare(case.file, case.package.card)
    names = [hygiene.names_of(read(one.source, options)) for one in samples]
    members, control = (hygiene.attack(prepared, some) for some in names)
    return hygiene.judge(members, control, len(names[0] | names[1]), prepared)


def _compared(case: Case, groups: Groups, secret: Canaries | None = None) -> list[Finding]:
    """The findings of all attacks that compare people, and what makes them less than they seem."""
    differ, fewest = _found(population, case), min(groups.members.count, groups.control.count)
    trained, planted = _by_networks(case, secret)
    comparing = [_found(linkage, case), *trained]
    if differ.outcome != "pass":
        doubt = "the groups differ anyway (see population): neither a leak nor its absence follows"
        comparing = [_qualified(one, "inconclusive", doubt) for one in comparing]
    # Halves are drawn by lot, whoever the patients are; so are coins.
    repeated = [_found(shadows, case)] if case.effort.shadows else []
    found = [differ, _found(copies, case), *comparing, *repeated]
    if fewest < case.gates.patients:
        few = f"{fewest} patients in a group: {case.gates.patients} are the least for a pass"
        found = [_qualified(one, worst([one.outcome, "inconclusive"]), few) for one in found]
    return [*found, *planted]


def _by_networks(case: Case, secret: Canaries | None) -> tuple[list[Finding], list[Finding]]:
    """What the same trained networks tell of members and control patients; and of canaries, where there are any."""
    if not case.effort.references:
        return [_left_out(membership), _left_out(labels)], [] if secret is None else [_left_out(canaries)]
    attacked = membership.prepare(case)
    found = [_judged(membership, attacked, case), _judged(labels, labels.prepare(attacked), case)]
    return found, [] if secret is None else [_judged(canaries, canaries.prepare(attacked, secret), case)]


def _found(attack: Any, case: Case) -> Finding:
    """The three verbs of an attack, one after the other."""
    return _judged(attack, attack.prepare(case), case)


def _judged(attack: Any, prepared: Any, case: Case) -> Finding:
    finding: Finding = attack.judge(*(attack.attack(prepared, side) for side in SIDES), case)
    return finding


def _left_out(attack: Any) -> Finding:
    return Finding(attack.NAME, attack.ASKS, "inconclusive", warnings=("not attacked, as asked",))


def _qualified(found: Finding, outcome: Outcome, warning: str) -> Finding:
    return replace(found, outcome=outcome, warnings=(*found.warnings, warning))


def _counts(groups: Groups) -> dict[str, Any]:
    told: dict[str, Any] = {
        side: {"patients": people.count, "images": len(people.labels)}
        for side, people in (("members", groups.members), ("control", groups.control))
    }
    return told | {"unit": groups.unit, "left_out_of_control": groups.overlap}
