"""What audits of packages and of models have in common: whom they compare, how an attack is made, what qualifies it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from meddistill.audit import hygiene
from meddistill.audit.case import SIDES, Effort, Trial
from meddistill.audit.finding import Finding, Gates, Outcome, worst
from meddistill.audit.people import Groups, Making, Part, Sample, read_groups, sample
from meddistill.cohort.read import ReadOptions, places, read
from meddistill.runtime.errors import InputError
from meddistill.runtime.files import require_another, require_writable
from meddistill.runtime.progress import Progress

_LEAST = 10  # patients of a group

Samples = tuple[Sample, Sample]


def require_sense(effort: Effort) -> None:
    """Raises :class:`InputError` for a number of references that cannot be."""
    if effort.references % 2 or effort.references < 0:
        raise InputError(f"{effort.references} references were asked for: expected an even number, or 0 for none")


def meet(
    members: str, control: str | None, making: Making, options: ReadOptions, progress: Progress
) -> tuple[Groups, Samples]:
    """Read members and control patients. ``control``: None for the test images of the members' source."""
    inside = sample(members, "train")
    default: Part = "test" if control is None or sample(control, "all").source == inside.source else "all"
    outside = sample(str(inside.source) if control is None else control, default)
    groups = read_groups(inside, outside, making, options, progress)
    if groups.overlap:
        progress.warn(f"{groups.overlap} patients of the control group are members too and were left out of it")
    if groups.origin.checked == "differ":
        progress.warn(f"{groups.origin.said}. Nothing can pass")
    return groups, (inside, outside)


def require_own_place(
    out: Path, members: str, control: str | None, options: ReadOptions, used: Sequence[Path | None]
) -> None:
    """Raises :class:`InputError` where the report would replace something of both sources, or what else is ``used``."""
    sources = [sample(text, "all").source for text in (members, control) if text is not None]
    require_another(out, [*used, *(place for source in sources for place in places(source, options))])
    require_writable(out)


def require_enough(groups: Groups) -> None:
    """Raises :class:`InputError` where there are too few patients to compare anything."""
    if min(groups.members.count, groups.control.count) < _LEAST:
        raise InputError(
            f"{groups.members.count} members and {groups.control.count} control patients were found: at least {_LEAST} "
            "of each are needed to compare them"
        )


def look_for_names(prepared: hygiene.Prepared, groups: Groups, samples: Samples, options: ReadOptions) -> Finding:
    """Names of both sources, in the texts of what is audited; and what was not checked of the members."""
    names = [hygiene.names_of(read(one.source, options)) for one in samples]
    members, control = (hygiene.attack(prepared, some.words) for some in names)
    found = hygiene.judge(members, control, names[0] | names[1], prepared)
    unchecked = groups.origin.said if groups.origin.checked in ("part", "no") else ""
    return replace(found, warnings=(*found.warnings, unchecked)) if unchecked else found


def found(attack: Any, case: Trial) -> Finding:
    """The three verbs of an attack, one after the other."""
    return judged(attack, attack.prepare(case), case)


def judged(attack: Any, prepared: Any, case: Trial) -> Finding:
    """The two last verbs of an attack that is prepared."""
    finding: Finding = attack.judge(*(attack.attack(prepared, side) for side in SIDES), case)
    return finding


def left_out(attack: Any) -> Finding:
    """Of an attack that nobody wanted: without it nothing passes."""
    return Finding(attack.NAME, attack.ASKS, "inconclusive", warnings=("not attacked, as asked",))


def unless_different(differ: Finding, comparing: Sequence[Finding]) -> list[Finding]:
    """Findings that compare the groups, as far as the groups can be compared: ``differ`` is that of population.

    Where the groups differ, what rests on no comparison is left of a finding. Where that is not known, none passes.
    """
    if differ.outcome == "pass":
        return list(comparing)
    if differ.figures["groups"] == "undecided":
        unknown = "the groups may differ (see population): no absence of a leak follows, and a leak may be that"
        return [_qualified(one, worst([one.outcome, "inconclusive"]), unknown) for one in comparing]
    doubt = "the groups differ anyway (see population): neither a leak nor its absence follows"
    alone = "the groups differ anyway (see population): from what compares them nothing follows"
    return [
        _qualified(one, worst([one.anyway, "inconclusive"]), alone if one.anyway == "fail" else doubt)
        for one in comparing
    ]


def unless_few(groups: Groups, gates: Gates, findings: Sequence[Finding]) -> list[Finding]:
    """Findings, none of which passes where a group is too small."""
    fewest = min(groups.members.count, groups.control.count)
    if fewest >= gates.patients:
        return list(findings)
    few = f"{fewest} patients in a group: {gates.patients} are the least for a pass"
    return [_qualified(one, worst([one.outcome, "inconclusive"]), few) for one in findings]


def unless_others(groups: Groups, named: Finding, findings: Sequence[Finding]) -> list[Finding]:
    """All findings, none of which passes where the members are others than those that the package was made from.

    ``named``: the finding of hygiene, which says so at length.
    """
    if groups.origin.checked != "differ":
        return [named, *findings]
    doubts = (groups.origin.said, *("the members are not those on the card (see hygiene)" for _ in findings))
    pairs = zip((named, *findings), doubts, strict=True)
    return [_qualified(one, worst([one.outcome, "inconclusive"]), doubt) for one, doubt in pairs]


def _qualified(finding: Finding, outcome: Outcome, warning: str) -> Finding:
    return replace(finding, outcome=outcome, warnings=(*finding.warnings, warning))
