"""The sentence that may be used about a package, or a model, after an audit; or the one that says what may not be said.

It is made from the figures of ``audit.json`` and never taken from there: a package is a stranger's, and so are its
texts. What is no figure or no outcome of an audit of ours allows nothing.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from meddistill.report.runlog import number

# What an audit has attacked that passed, in the words of the sentence; of which the first two are of packages alone.
_WORDS = {"copies": "copies", "linkage": "linkage", "membership": "membership", "labels": "recorded classes"}
_OF_IMAGES = ("copies", "linkage")
# What passes though there were too few synthetic images to decide it, by the codes of an audit.
_WANTING = {
    "copies": {
        "share": "the share of images that are close to members, for want of images",
        "order": "whether images are nearer to members on the whole, for want of images",
    },
    "linkage": {"retrieved": "how often images retrieve members, for want of images"},
}
_IN_CLASSES = {
    "membership": "membership in single classes, for want of patients",
    "shadows": "membership by packages made anew in single classes, for want of patients",
}
_KNOWN = (*_WORDS, "hygiene", "population", "marks", "shadows", "canaries", "release")
_WORSE = {"fail": "failed", "alarm": "alarm", "inconclusive": "undecided"}  # the worst first
_FOLLOWS = {
    "fail": "It should not leave.",
    "alarm": "Something is told of single patients, beyond chance: have it judged before anything leaves.",
    "inconclusive": "Neither a leak nor its absence follows.",
}
_NUMBERLESS = "members and control patients whose numbers are withheld"
Findings = Mapping[str, Mapping[str, Any]]
Rates = list[tuple[float, float]]
_VERSION = re.compile(r"\d{1,4}(\.\d{1,4}){0,3}((a|b|rc|\.dev|\.post)\d{1,8})?")

PROVED = (
    "Nothing of this audit may be told outside: the package states an epsilon, and the audit is made of its patients "
    "without noise. What may be said is the statement of differential privacy on its card, with epsilon, delta, unit."
)
_PLANTED = (
    "Nothing may be said for this package: canaries were planted in it, and it is not to be shared. What the audit "
    "measured holds for the same run without them, as far as one run is like another."
)
_MISSING = "Nothing may be said: this is no whole audit, or one whose outcome and figures cannot be read."


def sentence(audit: Mapping[str, Any]) -> str:
    """What may be said after an ``audit`` as ``audit.json`` has it.

    Without figures, as where counts are withheld, it has no numbers and says that more was left undecided.
    """
    found = _findings(audit)
    is_model = "weights_sha256" in audit
    worse = {one: [attack for attack, finding in found if finding.get("outcome") == one] for one in _WORSE}
    if any(worse.values()):
        return _nothing(_version(audit), worse, "these weights" if is_model else "this package")
    findings, rates = dict(found), _rates(audit)
    wanted = [attack for attack in _WORDS if not (is_model and attack in _OF_IMAGES)]
    passed = all(one.get("outcome") == "pass" for one in (audit, *findings.values()))
    if not passed or not rates or not set(wanted) <= set(findings):
        return _MISSING
    if "canaries" in findings:
        return _PLANTED
    return _passed(audit, findings, wanted, rates, is_model=is_model)


def _passed(
    audit: Mapping[str, Any], findings: Findings, wanted: Sequence[str], rates: Rates, *, is_model: bool
) -> str:
    attacks = [_WORDS[attack] for attack in wanted]
    repeated = " and for membership by packages made anew" if "shadows" in findings else ""
    which = f"{', '.join(attacks[:-1])} and {attacks[-1]}{repeated}"
    if isinstance(audit.get("groups"), Mapping):
        whom, left, undecided = _groups(audit), "Left undecided", list(_undecided(audit, findings, rates))
    else:
        whom, left, undecided = _NUMBERLESS, "Left undecided, or withheld", _withheld(rates)
    return (
        f"Attacks for {which} by version {_version(audit)} of meddistill{' on these weights' * is_model}, on {whom}, "
        f"found no excess above the gates in the report. {left}: {'; '.join(undecided) or 'nothing of these'}. Not "
        f"tried: {'; '.join(_untried(findings, is_model=is_model))}. No protection against other attacks has been "
        "measured or proved."
    )


def _nothing(version: str, worse: Mapping[str, Sequence[str]], what: str) -> str:
    """What may not be said after an audit that did not pass."""
    each = "; ".join(
        f"{_WORSE[outcome]}: {', '.join(name if name in _KNOWN else 'another attack' for name in names)}"
        for outcome, names in worse.items()
        if names
    )
    follows = next(_FOLLOWS[outcome] for outcome, names in worse.items() if names)
    return (
        f"It may not be said of {what} that no excess was found. Of the audit by version {version} of meddistill: "
        f"{each}. {follows}"
    )


def _withheld(rates: Rates) -> list[str]:
    """What may have been left undecided, and is not told where figures would tell the number of patients."""
    return [
        *(f"excess at {100 * rate:g} % false alarms" for rate, _ in rates[:-1]),
        "excess of close images, of what they retrieve and in single classes",
        "text too small to be found",
        "whether these members are those of the package",
        "how strong the attack on membership is on these data",
    ]


def _undecided(audit: Mapping[str, Any], findings: Findings, rates: Rates) -> Iterator[str]:
    """What an audit that passed did not decide."""
    for rate, passes in rates:
        if names := [name for name, found in findings.items() if not _decided(found, rate, passes)]:
            yield f"excess at {100 * rate:g} % false alarms ({', '.join(names)}), for want of patients"
    for attack, codes in _WANTING.items():
        if attack in findings:
            told = _mapping(findings[attack].get("figures")).get("undecided")
            # An audit of before they were told may have left any of them undecided.
            yield from (words for code, words in codes.items() if not isinstance(told, list) or code in told)
    for attack, words in _IN_CLASSES.items():
        # Nor do audits of before tell of classes, which then may all be undecided.
        if attack in findings and number(_mapping(findings[attack].get("figures")).get("undecided_classes")) != 0:
            yield words
    marks = _mapping(findings.get("marks", {}).get("figures"))
    side, letters = number(marks.get("side")), number(marks.get("letters_from"))
    if side is not None and letters is not None:
        yield f"text lower than {letters:g} of the images' {side:g} pixels"
    if _mapping(audit["groups"]).get("members_agree_with_card") != "agree":
        yield "whether these members are those of the package"
    direct = _mapping(_mapping(findings["membership"].get("figures")).get("network_trained_on_members"))
    area, limit = number(direct.get("value")), number(_mapping(audit.get("gates")).get("area_passes"))
    if area is not None and limit is not None and area <= limit:
        yield (
            "membership by stronger attacks, for this one hardly finds the members of a network trained on their own "
            f"images (area {area:.2f})"
        )


def _decided(found: Mapping[str, Any], rate: float, passes: float) -> bool:
    """Whether the excess at this rate lies surely below what passes, by every score that there is."""
    figures = _mapping(found.get("figures"))
    scores = [figures, *map(_mapping, _mapping(figures.get("scores")).values())]
    told = [_mapping(one[name]) for one in scores if (name := f"excess_at_{rate:g}") in one]
    highest = [number(one.get("high")) for one in told]
    return all(high is not None and high <= passes for high in highest)


def _untried(findings: Findings, *, is_model: bool) -> list[str]:
    """What was not attacked at all."""
    if is_model:
        return [
            "references made in the very way of the model",
            "inference of attributes other than the recorded class",
            "reconstruction of images",
        ]
    repeated = () if "shadows" in findings else ("membership by packages made anew (shadows)",)
    return [
        *repeated,
        "planted canaries",
        "linkage with other images of the same patients",
        "inference of attributes other than the recorded class",
        "reconstruction of images by optimisation",
    ]


def _groups(audit: Mapping[str, Any]) -> str:
    """How many people were compared."""
    groups = _mapping(audit["groups"])
    members, control = (number(_mapping(groups.get(side)).get("patients")) for side in ("members", "control"))
    if members is None or control is None:
        return _NUMBERLESS
    unit = "" if groups.get("unit") == "patient" else ", each image taken for a patient"
    return f"{members:,.0f} members and {control:,.0f} control patients{unit}"


def _rates(audit: Mapping[str, Any]) -> Rates:
    """The shares of false alarms that were looked at, the strictest first, and the excess below which each passes."""
    gates = _mapping(audit.get("gates"))
    rates, passes = gates.get("rates"), gates.get("passes")
    if not isinstance(rates, list) or not isinstance(passes, list) or len(rates) != len(passes):
        return []
    pairs = [(number(rate), number(limit)) for rate, limit in zip(rates, passes, strict=True)]
    return [(rate, limit) for rate, limit in pairs if rate is not None and limit is not None]


def _findings(audit: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """All findings beside the names of their attacks, of which a stranger may have written one twice."""
    listed = audit.get("findings")
    return [(str(one.get("attack")), one) for one in (listed if isinstance(listed, list) else []) if _mapping(one)]


def _version(audit: Mapping[str, Any]) -> str:
    version = _mapping(audit.get("software")).get("version")
    return version if isinstance(version, str) and _VERSION.fullmatch(version) else "unknown"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
