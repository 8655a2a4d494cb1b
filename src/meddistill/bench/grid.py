"""What a benchmark compares: a TOML file that names cohorts, sizes, methods, networks and seeds, read and checked.

Paths of sources start from a folder that the user gives, so that a file can be handed on.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from meddistill.cohort.options import ReadOptions
from meddistill.cohort.types import Fit, Leak
from meddistill.distill.methods import find
from meddistill.distill.methods import names as method_names
from meddistill.nets.find import find as find_network
from meddistill.pipeline.plan import Evaluation, Plan, override
from meddistill.pipeline.plan_file import unchecked
from meddistill.pretrain.loop import encoder_of
from meddistill.pretrain.ways import ROWS, WAYS, PretrainPlan, plan_of, way_of
from meddistill.runtime.errors import InputError
from meddistill.train.baselines import CORESETS, RANDOM
from meddistill.train.protocol import TUTORED

# Behind the name of a coreset of real images: labels from teachers.
SOFT = "-soft"
FULL = "full"
SELECTIONS = (*CORESETS, *(name + SOFT for name in CORESETS))
_SECTIONS = ("grid", "cohorts", "plan", "pretraining", "methods", "subsets")
_COUNTS = ("images_per_class", "total_images")
_NAMES = ("cohorts", "methods", "matching", "evaluation")
_NUMBERS = ("seeds", "distillations", "seed")
_FLAGS = ("full", "robust")
_SETTINGS = (*_COUNTS, *_NAMES, *_NUMBERS, "reference", *_FLAGS)
_COHORT = ("source", "size", "fit", "leak", "matching", "reading", "plan", "pretraining")
# Among the evaluation networks, the one that the set was distilled with.
_SAME = "matching"
_NAME = re.compile(r"[\w.-]+")
_VARIANT = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
# What the grid says itself, so that a plan must not.
_OF_THE_GRID = ("method", "images_per_class", "total_images", "size", "fit", "network", "seed", "evaluation")


@dataclass(frozen=True)
class Source:
    """A cohort of the grid: where it is below the folder of data, and how it is read.

    ``matching``: its own matching networks, in the place of the grid's.
    """

    name: str
    source: str
    size: int
    fit: Fit = "crop"
    leak: Leak = "stop"
    options: ReadOptions = ReadOptions()  # noqa: RUF009 (frozen)
    matching: tuple[str, ...] = ()

    @property
    def identity(self) -> dict[str, Any]:
        """What determines its images and splits."""
        told = asdict(self)
        del told["matching"]
        if not self.options.skip_unreadable:  # folders that were filled before there was this option stay known
            del told["options"]["skip_unreadable"]
        return told


@dataclass(frozen=True)
class Grid:
    """All that a benchmark is made of.

    ``total_images``: further sizes, of so many images in all, for the rows that :meth:`takes_total` names.
    ``matching``: networks that sets are distilled with. ``evaluation``: networks that are trained on them, ``matching``
    among them the one that the set was distilled with; none is that one alone. One with ``-tutored`` behind its name
    learns by way of the matching network. ``distillations``: each method makes so
    many sets of a kind, number i from the seed ``seed`` + i, with teachers and, where the source has none, splits of
    its own; ``seeds`` networks are trained on each.
    ``reference``: the method that others are compared with. ``full``: whether networks are trained on all images, too.
    ``robust``: whether they are also trained without augmentation and with one class each, for LRS and ARS.
    ``plan``, ``by_cohort`` and ``by_method``: settings of plans, the later ones before the earlier ones, of a variant
    (``by_method`` says ``method``) those of its method before its own;
    ``pretraining``, ``pretraining_by_cohort`` and ``by_method``: the same of pretrained encoders.
    """

    cohorts: tuple[Source, ...]
    images_per_class: tuple[int, ...]
    total_images: tuple[int, ...]
    methods: tuple[str, ...]
    matching: tuple[str, ...]
    evaluation: tuple[str, ...]
    seeds: int
    distillations: int
    seed: int
    reference: str
    full: bool
    robust: bool
    plan: Mapping[str, Any]
    by_cohort: Mapping[str, Mapping[str, Any]]
    by_method: Mapping[str, Mapping[str, Any]]
    pretraining: Mapping[str, Any]
    pretraining_by_cohort: Mapping[str, Mapping[str, Any]]

    @property
    def variants(self) -> dict[str, str]:
        """Rows with a name of their own, and the method that each is with other settings."""
        return {name: part["method"] for name, part in self.by_method.items() if "method" in part}

    def settings_of(self, name: str) -> dict[str, Any]:
        """What a row of the grid has of its own among the settings of a plan."""
        return {key: value for key, value in self.by_method.get(name, {}).items() if key != "method"}

    def takes_total(self, method: str) -> bool:
        """Whether a row may have any number of images, and fewer than classes: soft labels, or random real images."""
        if method in SELECTIONS or method in ROWS:
            return method.removesuffix(SOFT) == RANDOM
        return find(self.variants.get(method, method)).labels != "hard"

    def plan_for(
        self,
        cohort: Source,
        method: str,
        images_per_class: int,
        matching: str,
        distillation: int,
        total_images: int = 0,
    ) -> Plan:
        """The plan of one distillation; of a set of real images, the plan of the teachers that look at it.

        ``total_images``: so many in all, in the place of ``images_per_class``.
        """
        made_by = self.variants.get(method, method)
        own = (self.settings_of(name) for name in dict.fromkeys((made_by, method)))
        settings = _merged(self.plan, self.by_cohort.get(cohort.name, {}), *own)
        where = f"the plan of {method}"
        plan = unchecked(settings, where)
        if plan.fixed_normalisation:
            raise InputError(f"{where} says fixed_normalisation: a benchmark normalises all rows alike: leave it out")
        return override(  # which checks it, as what it is by then
            replace(plan, evaluation=Evaluation(seeds=0, random_sets=0)),
            where,
            method=None if method in SELECTIONS else made_by,
            images_per_class=None if total_images else images_per_class,
            total_images=total_images or None,
            size=cohort.size,
            fit=cohort.fit,
            network=matching,
            seed=self.seed + distillation,
        )

    def flip_for(self, cohort: Source, row: str) -> bool:
        """Whether networks of a row without a plan see mirrored images; rows with a plan have it there."""
        parts = (self.plan, self.by_cohort.get(cohort.name, {}), self.settings_of(row))
        return bool(_merged(*parts).get("flip", True))

    def pretrain_plan(self, cohort: Source, row: str) -> PretrainPlan:
        """How the encoder of a row of the family "scarce real labels" is made."""
        way, of_cohort = way_of(row), self.pretraining_by_cohort.get(cohort.name, {})
        return plan_of(way, _merged(self.pretraining, of_cohort, self.by_method.get(way.name, {})))

    def own_networks(self, cohort: Source) -> dict[str, str]:
        """The rows of that family that have a network of their own in the place of the evaluation network."""
        rows = (row for row in self.methods if row in ROWS)
        return {row: plan.network for row in rows if (plan := self.pretrain_plan(cohort, row)).network}

    def matched_with(self, source: Source) -> tuple[str, ...]:
        """The networks that sets of this cohort are distilled with."""
        return source.matching or self.matching

    def evaluated_with(self, matching: str) -> tuple[str, ...]:
        """The networks that are trained on what was made with ``matching``."""
        names = (matching if name == _SAME else name for name in self.evaluation or (_SAME,))
        return tuple(dict.fromkeys(names))


def read_grid(text: str, where: str, subset: str | None = None) -> Grid:
    """The grid in a file's ``text``, or the ``subset`` of that name of it.

    Raises :class:`InputError` listing everything that is wrong.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text).unwrap()
    except TOMLKitError as error:
        raise InputError(f"{where} is not a TOML file: {error}") from None
    strange = [name for name in document if name not in _SECTIONS]
    problems = [f"{name} is not a section: expected {', '.join(_SECTIONS)}" for name in strange]
    problems += [f"[{name}] is not a section" for name in _SECTIONS if not isinstance(document.get(name, {}), dict)]
    problems = problems or [
        f"[{section}.{name}] is not a section"
        for section in ("cohorts", "methods", "subsets")
        for name, part in document.get(section, {}).items()
        if not isinstance(part, dict)
    ]
    if problems:
        raise _refusal(where, problems)
    settings, sources = _settings(document, subset, problems), _sources(document.get("cohorts", {}), problems)
    if problems:
        raise _refusal(where, problems)
    grid = _grid(document, settings, sources)
    problems = _misfits(grid)
    if problems:
        raise _refusal(where, problems)
    return grid


def _refusal(where: str, problems: Sequence[str]) -> InputError:
    return InputError(f"{where} cannot be used:\n" + "\n".join(f"- {text}" for text in problems))


def _settings(document: Mapping[str, Any], subset: str | None, problems: list[str]) -> dict[str, Any]:
    """The section grid with what the subset says in its place, every value of the right kind."""
    subsets = document.get("subsets", {})
    if subset is not None and subset not in subsets:
        problems.append(f"there is no subset '{subset}': it has {', '.join(subsets) or 'none'}")
    known: dict[str, Any] = {"cohorts": list(document.get("cohorts", {})), "matching": [Plan().network]}
    known |= {"total_images": [], "evaluation": [], "full": True, "robust": True}
    known |= {"seeds": 5, "distillations": 1, "seed": 0}
    given = {"grid": document.get("grid", {}), **{f"subsets.{name}": part for name, part in subsets.items()}}
    for section, part in given.items():
        for name, value in part.items():
            if name not in _SETTINGS:
                problems.append(f"{section}.{name} is not a setting: expected one of {', '.join(_SETTINGS)}")
            elif problem := _unlike(name, value):
                problems.append(f"{section}.{name} is {value!r}: expected {problem}")
    settings: dict[str, Any] = known | given["grid"] | (subsets.get(subset, {}) if subset else {})
    if settings["total_images"]:
        settings.setdefault("images_per_class", [])
    missing = [name for name in ("images_per_class", "methods") if name not in settings]
    problems += [f"grid.{name} is missing: list one or more" for name in missing]
    return settings


def _unlike(name: str, value: Any) -> str | None:
    """What was expected in the place of ``value``, None if it is of the right kind."""
    checks: dict[str, tuple[Callable[[Any], bool], str]] = {
        **{name: (_is_list(_is_positive), "a list of whole numbers of 1 or more") for name in _COUNTS},
        **{name: (_is_list(_is_text), "a list of names") for name in _NAMES},
        "seeds": (_is_positive, "a whole number of 1 or more"),
        "distillations": (_is_positive, "a whole number of 1 or more"),
        "seed": (lambda seed: type(seed) is int and 0 <= seed < 2**31, "a whole number of 0 or more"),
        "reference": (_is_text, "a method"),
        **{name: (lambda flag: type(flag) is bool, "true or false") for name in _FLAGS},
    }
    is_right, expected = checks[name]
    return None if is_right(value) else expected


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_positive(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 10_000


def _is_list(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def is_such(values: Any) -> bool:
        return isinstance(values, list) and all(map(of, values)) and len(set(values)) == len(values)

    return is_such


def _sources(sections: Mapping[str, Any], problems: list[str]) -> dict[str, Source]:
    if not sections:
        problems.append("there is no cohort: add a section [cohorts.NAME] with source and size")
    return {name: _source(name, part, problems) for name, part in sections.items()}


def _source(name: str, part: Any, problems: list[str]) -> Source:
    where, known = f"cohorts.{name}", {field.name for field in fields(ReadOptions)}
    reading = part.get("reading", {})
    if not _NAME.fullmatch(name):
        problems.append(f"[{where}]: a cohort's name takes letters, digits, '.', '_' and '-'")
    for key in ("reading", "plan", "pretraining"):
        if not isinstance(part.get(key, {}), dict):
            problems.append(f"{where}.{key} is {part[key]!r}: expected a section")
            return Source(name, "", 0)
    if not _is_list(_is_text)(part.get("matching", [])):
        problems.append(f"{where}.matching is {part['matching']!r}: expected a list of names")
        return Source(name, "", 0)
    problems += [f"{where}.{key} is not a setting: expected {', '.join(_COHORT)}" for key in set(part) - set(_COHORT)]
    strange = sorted(set(reading) - known)
    problems += [f"{where}.reading.{key} is not a setting: expected {', '.join(sorted(known))}" for key in strange]
    if not _is_text(part.get("source")):
        problems.append(f"{where}.source is missing: expected a path below the folder of data")
    if not _is_positive(part.get("size")):
        problems.append(f"{where}.size is missing: expected the side of the images in pixels")
    for key, kind in (("fit", Fit), ("leak", Leak)):
        if key in part and part[key] not in get_args(kind):
            problems.append(f"{where}.{key} is {part[key]!r}: expected one of {', '.join(get_args(kind))}")
    for key, value in reading.items():
        if key in known and not _is_reading(key, value):
            problems.append(f"{where}.reading.{key} is {value!r}: expected what the option of that name takes")
    told: dict[str, Any] = {"name": name, "source": "", "size": 0, "matching": tuple(part.get("matching", ()))}
    told |= {key: part[key] for key in ("source", "size", "fit", "leak") if key in part}
    options: dict[str, Any] = {key: value for key, value in reading.items() if key in known}
    if isinstance(options.get("window"), list):
        options["window"] = tuple(options["window"])
    return Source(**told, options=ReadOptions(**options))


def _is_reading(key: str, value: Any) -> bool:
    if key == "window":
        return isinstance(value, list) and len(value) == 2 and all(type(one) in (int, float) for one in value)
    return type(value) is bool if key in ("allow_burned_in", "skip_unreadable") else _is_text(value)


def _grid(document: Mapping[str, Any], settings: Mapping[str, Any], sources: Mapping[str, Source]) -> Grid:
    return Grid(
        cohorts=tuple(sources.get(name, Source(name, "", 0)) for name in settings["cohorts"]),
        images_per_class=tuple(settings["images_per_class"]),
        total_images=tuple(settings["total_images"]),
        methods=tuple(settings["methods"]),
        matching=tuple(settings["matching"]),
        evaluation=tuple(settings["evaluation"]),
        seeds=settings["seeds"],
        distillations=settings["distillations"],
        seed=settings["seed"],
        full=settings["full"],
        robust=settings["robust"],
        reference=settings.get("reference", next(iter(settings["methods"]), "")),
        plan=document.get("plan", {}),
        by_cohort={name: part.get("plan", {}) for name, part in document["cohorts"].items()},
        by_method=document.get("methods", {}),
        pretraining=document.get("pretraining", {}),
        pretraining_by_cohort={name: part.get("pretraining", {}) for name, part in document["cohorts"].items()},
    )


def _misfits(grid: Grid) -> list[str]:
    """Names that are not known, and plans that cannot be."""
    needed = ("cohorts", *(("images_per_class",) * (not grid.total_images)), "methods", "matching")
    problems = [f"grid.{name} is empty" for name in needed if not getattr(grid, name)]
    problems += [f"unknown cohort '{source.name}'" for source in grid.cohorts if not source.source]
    known = (*method_names(), *SELECTIONS, *ROWS)
    problems += _variant_problems(grid, (*known, *WAYS, FULL))
    known = (*known, *grid.variants)
    strange = [name for name in grid.methods if name not in known]
    problems += [f"unknown method '{name}': expected one of {', '.join(known)}" for name in strange]
    problems += [
        f"[methods.{name}] is not a method, nor says of which it is a variant"
        for name in grid.by_method
        if name not in (*known, *WAYS)
    ]
    if grid.methods and grid.reference not in grid.methods:
        problems.append(f"grid.reference is '{grid.reference}', which is not among grid.methods")
    for name in (name for name in grid.by_method if name in ROWS and name not in WAYS):
        problems.append(f"[methods.{name}] is a row of [methods.{way_of(name).name}]: say it there")
    if any(name in ROWS for name in grid.methods):
        tutored = [name for name in grid.evaluation if name.endswith(TUTORED)]
        problems += [f"grid.evaluation has {name}: rows of scarce real labels are not tutored" for name in tutored]
    plans = (grid.settings_of(name) for name in grid.by_method if name not in WAYS)
    for part in (grid.plan, *grid.by_cohort.values(), *plans):
        problems += [f"a plan says {name}: the grid does" for name in part if name in _OF_THE_GRID]
    if not problems and grid.total_images and not any(map(grid.takes_total, grid.methods)):
        problems.append("grid.total_images is for methods with soft labels, of which grid.methods has none")
    return problems or list(dict.fromkeys(_plan_problems(grid)))


def _variant_problems(grid: Grid, taken: Sequence[str]) -> Iterator[str]:
    for name, method in grid.variants.items():
        if name in taken:
            yield f"[methods.{name}] says method: {name} is a row already; give the variant another name"
        elif not _VARIANT.fullmatch(name):
            yield f"[methods.{name}]: a variant's name takes lower-case letters, digits and single hyphens"
        if method not in method_names():
            yield f"methods.{name}.method is {method!r}: expected one of {', '.join(method_names())}"


def _plan_problems(grid: Grid) -> list[str]:
    found: list[str | None] = []
    plans: list[Callable[[], object]]
    for source in grid.cohorts:
        for matching in grid.matched_with(source):
            methods = [method for method in grid.methods if method not in ROWS]
            plans = [partial(grid.plan_for, source, method, 1, matching, 0) for method in methods]
            names = grid.evaluated_with(matching)
            rows = [row for row in grid.methods if row in ROWS]
            plans += [partial(_pretrained, grid, source, row, name) for row in rows for name in names]
            kinds = [name.removesuffix(TUTORED) for name in names]
            networks = [partial(find_network, name, channels=1, size=source.size, classes=2) for name in kinds]
            found += [_refused(source, made) for made in plans]
            found += [_refused(source, made) for made in networks]
    return [problem for problem in found if problem]


def _pretrained(grid: Grid, source: Source, row: str, evaluation: str) -> None:
    """Raise :class:`InputError` if the row's encoder cannot be made."""
    plan, objective = grid.pretrain_plan(source, row), way_of(row).objective
    network = find_network(plan.network or evaluation, channels=1, size=source.size, classes=2)
    encoder_of(network, ())
    if objective is not None:
        objective.heads(network)


def _refused(source: Source, made: Callable[[], object]) -> str | None:
    try:
        made()
    except InputError as error:
        return f"cohort {source.name}: {error}"
    return None


def _merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Later values in the place of earlier ones, section by section."""
    merged: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            known = merged.get(name)
            merged[name] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def cohort_path(source: Source, data: Path) -> Path:
    """Where the cohort is."""
    return data / source.source


def reading(source: Source, data: Path) -> ReadOptions:
    """How it is read: a folder of images is below the folder of data as well."""
    images = source.options.images
    return source.options if images is None else replace(source.options, images=data / images)
