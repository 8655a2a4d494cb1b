"""A plan as a file: commented TOML that a user may edit, read with everything that is wrong listed at once."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_origin, get_type_hints

from meddistill.pipeline.plan import Plan, checked, sections
from meddistill.runtime.errors import InputError

_Part = TypeVar("_Part")


def to_toml(plan: Plan) -> str:
    """The plan as a commented file."""
    import tomlkit

    document = tomlkit.document()
    document.add(tomlkit.comment("A plan of meddistill. Edit it, then: meddistill distill SOURCE --plan FILE --out …"))
    _add_settings(document, plan)
    for name, part in sections(plan):
        if name:
            table = tomlkit.table()
            _add_settings(table, part)
            document.add(tomlkit.nl())
            document.add(name, table)
    return tomlkit.dumps(document)


def from_toml(text: str, where: str) -> Plan:
    """The plan in a file's ``text``; settings that are left out have their defaults. Raises :class:`InputError`."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        values = tomlkit.parse(text).unwrap()
    except TOMLKitError as error:
        raise InputError(
            f"{where} is not a TOML file: {error}. Write a new one with: meddistill inspect SOURCE"
        ) from None
    return from_mapping(values, where)


def from_mapping(values: Mapping[str, Any], where: str) -> Plan:
    """The plan with these settings, nested as in a file; the others have their defaults. Raises :class:`InputError`."""
    problems: list[str] = []
    return checked(_build(Plan, values, "", problems), where, problems)


def unchecked(values: Mapping[str, Any], where: str) -> Plan:
    """The same before its values are checked against each other: for who has more to settle, and then checks.

    Raises :class:`InputError` for what is no setting, or not of its kind.
    """
    problems: list[str] = []
    plan = _build(Plan, values, "", problems)
    if problems:
        checked(plan, where, problems)
    return plan


def read_plan(path: Path) -> Plan:
    """The plan in a file. Raises :class:`InputError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"cannot read the plan {path}: {reason}. Write one with: meddistill inspect SOURCE") from None
    return from_toml(text, str(path))


def _add_settings(table: Any, part: Any) -> None:
    import tomlkit

    for setting in fields(part):
        value = getattr(part, setting.name)
        if is_dataclass(value):
            continue
        item = tomlkit.item(value)
        if setting.metadata["doc"]:
            item.comment(setting.metadata["doc"])
        table.add(setting.name, item)


def _build(kind: type[_Part], values: Mapping[str, Any], section: str, problems: list[str]) -> _Part:
    types = get_type_hints(kind)
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name not in types:
            problems.append(f"{section}{name} is not a setting: expected one of {', '.join(types)}")
        elif is_dataclass(types[name]):
            if isinstance(value, Mapping):
                given[name] = _build(types[name], value, f"{section}{name}.", problems)
            else:
                problems.append(f"{section}{name} is {value!r}: expected a section, [{name}]")
        elif (problem := _misfit(value, types[name])) is not None:
            problems.append(f"{section}{name} is {value!r}: expected {problem}")
        else:
            given[name] = float(value) if types[name] is float else value
    return kind(**given)


def _misfit(value: Any, kind: Any) -> str | None:
    """What was expected instead of ``value``, or None where it is of the right kind."""
    if get_origin(kind) is Literal:
        kind = str
    if type(value) is kind or (kind is float and type(value) is int and abs(value) < 2**1000):
        return None
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return words[kind]
