"""A mapping file: what the classes of other hospitals are called here.

A CSV (comma, semicolon or tab; UTF-8) with the columns ``class`` and ``becomes``, and if wanted ``package``::

    class,becomes,package
    NORMAL,normal,
    viral pneumonia,pneumonia,east.mdz
    bacterial pneumonia,pneumonia,east.mdz

A row without a package holds for all of them; one with a package (its file name, with or without the ending) goes
first. Classes that get the same name become one: an image's probabilities of them are added.
"""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meddistill.package.text import class_problems
from meddistill.runtime.errors import InputError

_DELIMITERS = ",;\t"
_CLASS, _BECOMES, _PACKAGE = "class", "becomes", "package"


@dataclass(frozen=True)
class Rule:
    """One row; ``package`` is empty for a rule that holds for all. ``where`` names the row for people."""

    name: str
    becomes: str
    package: str
    where: str

    def means(self, package: str) -> bool:
        """Whether the rule is about the package of that file name."""
        return self.package in ("", package, Path(package).stem)


@dataclass(frozen=True)
class Renaming:
    """The rules of a mapping file; none at all leaves every name as it is."""

    rules: tuple[Rule, ...] = ()

    def names(self, package: str, classes: Sequence[str]) -> tuple[str, ...]:
        """What the classes of the package are called here, in its order."""
        own = {rule.name: rule.becomes for rule in self.rules if not rule.package}
        own |= {rule.name: rule.becomes for rule in self.rules if rule.package and rule.means(package)}
        return tuple(own.get(name, name) for name in classes)

    def unused(self, packages: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
        """Rules about packages or classes that are not there: slips of the pen, told before they change a result."""
        known = [(rule, [classes for name, classes in packages if rule.means(name)]) for rule in self.rules]
        return [
            f"{rule.where}: no class {rule.name!r} in {rule.package or 'any package'}: correct or remove the row"
            if found
            else f"{rule.where}: there is no package {rule.package!r} among {', '.join(name for name, _ in packages)}"
            for rule, found in known
            if not any(rule.name in classes for classes in found)
        ]


NO_RENAMING = Renaming()


def read_renaming(path: Path) -> Renaming:
    """The rules in the file. Raises :class:`InputError` listing all that is wrong with it."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            file.seek(0)
            rows = list(csv.DictReader(file, delimiter=max(_DELIMITERS, key=head.count), restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the mapping file {path} ({error}): expected a CSV in UTF-8") from None
    if not rows or not {_CLASS, _BECOMES} <= rows[0].keys():
        raise InputError(f"{path} is not a mapping file: expected the columns class, becomes, and rows below them")
    rules = tuple(_rule(path, place, row) for place, row in enumerate(rows, 2))
    problems = _problems(rules)
    if problems:
        raise InputError(f"the mapping file {path} cannot be used:\n" + "\n".join(f"- {text}" for text in problems))
    return Renaming(rules)


def _rule(path: Path, line: int, row: dict[str, str]) -> Rule:
    cells = [(row.get(name) or "").strip() for name in (_CLASS, _BECOMES, _PACKAGE)]
    return Rule(cells[0], cells[1], cells[2], f"{path.name}:{line}")


def _problems(rules: Sequence[Rule]) -> list[str]:
    empty = [
        f"{rule.where}: class and becomes must both be filled" for rule in rules if not (rule.name and rule.becomes)
    ]
    counted = Counter((rule.name, rule.package) for rule in rules)
    twice = [f"class {name!r} is renamed more than once" for (name, _), count in counted.items() if count > 1]
    names = sorted({rule.becomes for rule in rules if rule.becomes})
    return empty + twice + (class_problems(names) if names else [])
