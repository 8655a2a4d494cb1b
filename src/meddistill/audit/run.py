"""An audit of a package from beginning to end: read it and both groups, make every attack, say the worst outcome."""

import time
from dataclasses import replace
from pathlib import Path

from meddistill.audit import (
    attempt,
    canaries,
    copies,
    hygiene,
    labels,
    linkage,
    marks,
    membership,
    population,
    released,
    shadows,
)
from meddistill.audit.attempt import Samples
from meddistill.audit.case import Case, Effort
from meddistill.audit.finding import Finding, Gates
from meddistill.audit.people import Groups, making_of_package, without
from meddistill.audit.recognise import DIMENSIONS, train_recogniser
from meddistill.audit.report import Report, counts, write
from meddistill.cohort.read import ReadOptions
from meddistill.nets.convnet import parse
from meddistill.package.attach import attach, require_unsigned
from meddistill.package.members import TENSORS
from meddistill.package.read import open_sound, read_judged
from meddistill.pipeline.canaries import Canaries, load
from meddistill.pipeline.folder import RunFolder
from meddistill.runtime.device import choose
from meddistill.runtime.errors import InputError
from meddistill.runtime.progress import Progress, Silent
from meddistill.teachers.images import Normalisation


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
        _require_nothing_proved(package)
    if out is not None:
        attempt.require_own_place(out, members, control, options, (package, planted))
    secret = _canaries(package, planted)
    case, groups, samples = _open(package, members, control, secret, effort, gates, seed, device, options, progress)
    card = case.package.card
    named = attempt.look_for_names(hygiene.prepare(package, card), groups, samples, options)
    found = attempt.unless_others(groups, named, _compared(case, groups, secret))
    report = Report(
        kind="package",
        file=package,
        digest=open_sound(package)[1][TENSORS],
        withheld=isinstance(card.cohort.counts, str),
        proved=card.privacy is not None,
        findings=(*found, *_released(case, secret, planted)),
        groups=counts(groups),
        gates=gates,
        effort=effort,
        seed=seed,
        seconds=time.monotonic() - begun,
        attached=attached,
    )
    if attached:
        attach(package, report.shared())
    write(report, out)
    return report


def audit_canaries(
    package: Path,
    members: str,
    planted: Path,
    *,
    effort: Effort = Effort(),
    seed: int = 0,
    device: str = "auto",
    progress: Progress = Silent(),
) -> tuple[Finding, ...]:
    """What an audit finds by the planted records of a package alone, without the attacks on its patients."""
    secret = _canaries(package, planted)
    if secret is None:
        raise InputError(f"{package} was distilled without canaries: there is nothing to audit it by here")
    case, _, _ = _open(package, members, None, secret, effort, Gates(), seed, device, ReadOptions(), progress)
    found = attempt.judged(canaries, canaries.prepare(membership.prepare(case), secret), case)
    return found, *_released(case, secret, planted)


def _require_nothing_proved(package: Path) -> None:
    """Raises :class:`InputError` where a report, which is made without noise, would go past a card's epsilon."""
    if read_judged(package)[0].card.privacy is not None:
        raise InputError(
            f"{package} states an epsilon, and a report that is made of its patients without noise would tell more: "
            "leave --attach out and keep the report in the house"
        )


def _released(case: Case, secret: Canaries | None, planted: Path | None) -> list[Finding]:
    """What canaries tell of the noised release in the folder that they lie in, where there is one."""
    if secret is None or planted is None or case.package.card.privacy is None:
        return []
    try:
        prepared = released.prepare(case, secret, RunFolder(planted.parent))
    except InputError as error:
        case.progress.warn(str(error))
        unread = "the run folder of the canaries could not be read: the noised release was not attacked"
        return [Finding(released.NAME, released.ASKS, "inconclusive", warnings=(unread,))]
    return [attempt.judged(released, prepared, case)]


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
) -> tuple[Case, Groups, Samples]:
    where = choose(device)
    attempt.require_sense(effort)
    if effort.shadow_iterations is not None and not effort.shadows:
        raise InputError("a number of iterations was given for shadows, and no shadows are asked for: give --shadows")
    package, _ = read_judged(file)
    card = package.card
    if effort.shadows:  # what cannot be repeated is told now, not after the other attacks
        shadows.plan_for(card, effort)
    groups, samples = attempt.meet(members, control, making_of_package(card), options, progress)
    if secret is not None:
        # Their patients are neither surely members nor surely not; and no network of the audit may have seen a canary.
        groups = replace(groups, members=without(groups.members, secret.images))
    attempt.require_enough(groups)
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
        classes=card.task.classes,
        network=network,
        normalisation=normalisation,
        recogniser=recogniser,
        gates=gates,
        effort=effort,
        seed=seed,
        device=where,
        progress=progress,
        flip=card.flip,
    )
    return case, groups, samples


def _compared(case: Case, groups: Groups, secret: Canaries | None = None) -> list[Finding]:
    """The findings of all attacks that compare people, and what makes them less than they seem."""
    differ = attempt.found(population, case)
    trained, planted = _by_networks(case, secret)
    comparing = attempt.unless_different(differ, [*(attempt.found(one, case) for one in (copies, linkage)), *trained])
    # Halves are drawn by lot, whoever the patients are; so are coins.
    repeated = [attempt.found(shadows, case)] if case.effort.shadows else []
    found = [differ, attempt.found(marks, case), *comparing, *repeated]
    return [*attempt.unless_few(groups, case.gates, found), *planted]


def _by_networks(case: Case, secret: Canaries | None) -> tuple[list[Finding], list[Finding]]:
    """What the same trained networks tell of members and control patients; and of canaries, where there are any."""
    if not case.effort.references:
        left = [attempt.left_out(one) for one in (membership, labels)]
        return left, [] if secret is None else [attempt.left_out(canaries)]
    attacked = membership.prepare(case)
    found = [attempt.judged(membership, attacked, case), attempt.judged(labels, labels.prepare(attacked), case)]
    if secret is None:
        return found, []
    return found, [attempt.judged(canaries, canaries.prepare(attacked, secret), case)]
