"""What differential privacy costs: balanced accuracy against epsilon, both routes beside the noised network itself.

    .venv/bin/python benchmarks/private.py --data ../shared/data --out runs [--sets pneumonia] [--epsilons 1 8]

A cell is a set, a route, an epsilon and a seed; ``benchmarks/records/private.json`` is written after each, and what is
in it is not measured again. Rows: ``statistics`` and ``teachers`` are packages (10 images a class) on which networks
are trained; ``direct`` is the noised teacher of the second route, used as it is: DP-SGD on the real images, for the
same epsilon. Epsilon ``inf`` is the same method, start and budget of iterations without noise or clipping. All are
scored on the test split, which chose nothing: settings are the defaults, which were chosen on the COVID set, by
validation images. ``--sets covid`` is therefore no test of them.

``--canaries 400`` measures instead what can be shown of every cell with an epsilon: the same command once more, with so
many planted records, and the audit of its package and of its noised release.

``--looks 8 32 128`` measures packages of the first route with so many untrained networks, on validation images: that
is how their number was chosen, with ``--sets covid``.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from shared import markdown, read_record, write_record

from meddistill.audit.case import Effort
from meddistill.audit.run import audit_canaries
from meddistill.cohort.prepare import prepare
from meddistill.cohort.types import Leak
from meddistill.nets.convnet import parse
from meddistill.nets.params import unflatten
from meddistill.package.read import read
from meddistill.pipeline.dp import COUNTS
from meddistill.pipeline.plan import Plan, override, protected
from meddistill.pipeline.plan_file import to_toml
from meddistill.pipeline.request import Request
from meddistill.pipeline.run import run
from meddistill.privacy.sgd import TRAINING, load_counts
from meddistill.privacy.statistics import fixed_normalisation
from meddistill.runtime.progress import Silent
from meddistill.teachers.images import measure_normalisation, split_images
from meddistill.teachers.store import TrajectoryStore
from meddistill.train.metrics import measure
from meddistill.train.protocol import probabilities

RECORD = Path(__file__).parent / "records" / "private.json"
SETS: dict[str, tuple[str, int, Leak]] = {
    "pneumonia": ("pneumoniamnist.npz", 28, "drop"),
    "blood": ("pbc_blood_64", 32, "stop"),
    "covid": ("covid_cxr3_112", 32, "stop"),
}
TITLES = {"pneumonia": "PneumoniaMNIST", "blood": "PBC blood cells", "covid": "COVID-19 radiography"}
ROUTES = ("statistics", "teachers")
EPSILONS = (1.0, 2.0, 4.0, 8.0, math.inf)
NETWORKS = 2  # trained on each package


def plan_of(route: str, epsilon: float, size: int, seed: int) -> Plan:
    """The default plan of the route; without an epsilon the same but for noise."""
    plan = override(Plan(), size=size, seed=seed)
    noised = math.isfinite(epsilon)
    plan = replace(plan, privacy=replace(plan.privacy, route=route, epsilon=epsilon if noised else 0.0))
    plan = protected(plan, 1)
    return replace(plan, evaluation=replace(plan.evaluation, seeds=NETWORKS))


def request_for(plan: Plan, name: str, data: Path, base: Path) -> Request:
    """To distil a set by the plan, which is written beside the package ``base``."""
    source, _, leak = SETS[name]
    base.parent.mkdir(parents=True, exist_ok=True)
    written = base.with_name(f"{base.name}.toml")
    written.write_text(to_toml(plan))
    package = base.with_name(f"{base.name}.mdz")
    return Request(source=data / source, out=package, plan=written, leak=leak, device="cpu")


def cell(name: str, route: str, epsilon: float, seed: int, data: Path, out: Path) -> dict[str, Any]:
    """Balanced accuracies of one cell, in per cent."""
    source, size, leak = SETS[name]
    plan, begun = plan_of(route, epsilon, size, seed), time.monotonic()
    request = request_for(plan, name, data, out / f"{name}-{route}-{epsilon:g}-{seed}")
    prepared = prepare(data / source, size=size, leak=leak, images_per_class=plan.images_per_class, seed=seed)
    report = run(request, Silent(), prepared)
    found = {route: 100 * report.evaluated.results["test"]["distilled"]["balanced_accuracy"].mean}
    if route == "teachers":
        found["direct"] = direct(plan, prepared.cohort, report.run / "teachers", math.isfinite(epsilon))
        if math.isfinite(epsilon):
            found["noise"] = 100 * noise_share(plan, report.package, report.run / "teachers")
    rounded = {row: round(value, 2) for row, value in found.items()}
    return rounded | {"seconds": round(time.monotonic() - begun, 1)}


def looked(name: str, epsilon: float, seed: int, data: Path, out: Path, looks: int) -> dict[str, float]:
    """Balanced accuracy, in per cent of validation images, by statistics of so many looks."""
    plan = plan_of("statistics", epsilon, SETS[name][1], seed)
    plan = replace(plan, privacy=replace(plan.privacy, looks=looks))
    request = request_for(plan, name, data, out / f"{name}-{epsilon:g}-{seed}-{looks}-looks")
    evaluated = run(request, Silent()).evaluated
    return {"validation": round(100 * evaluated.results["val"]["distilled"]["balanced_accuracy"].mean, 2)}


def audited(name: str, route: str, epsilon: float, seed: int, data: Path, out: Path, count: int) -> dict[str, Any]:
    """What canaries show of epsilon at least: by the package, and by the noised release in the run folder."""
    source, size, _ = SETS[name]
    plan = plan_of(route, epsilon, size, seed)
    plan = replace(plan, evaluation=replace(plan.evaluation, seeds=0))
    request = request_for(plan, name, data, out / f"{name}-{route}-{epsilon:g}-{seed}-canaries")
    made = run(replace(request, canaries=count), Silent())
    assert made.canaries is not None
    findings = audit_canaries(
        made.package, str(data / source), made.canaries, effort=Effort(references=4), device="cpu"
    )
    found = {one.attack: one.figures for one in findings}
    return {
        "package": found["canaries"]["epsilon_at_least"],
        "release": found["release"]["epsilon_at_least"],
        "largest": found["release"]["largest_epsilon_that_can_be_shown"],
        "canaries": count,
    }


def direct(plan: Plan, cohort: Any, folder: Path, noised: bool) -> float:
    """Of the teacher itself, at the end of its trajectory."""
    network = parse(plan.network, channels=cohort.channels, size=cohort.size, classes=len(cohort.classes))
    normalisation = fixed_normalisation(cohort.channels) if noised else measure_normalisation(cohort)
    test = split_images(cohort, "test", normalisation, torch.device("cpu"))
    store = TrajectoryStore(folder, plan.teacher_plan().snapshots, network.parameters)
    params = unflatten(store.snapshot(0, store.snapshots - 1), network.shapes)
    return 100 * measure(probabilities(network, params, test), test.labels.numpy()).balanced_accuracy


def noise_share(plan: Plan, package: Path, folder: Path) -> float:
    """Of the squared length of what trajectory matching has to match, how much is noise in the mean; about."""
    card = read(package).card
    assert card.privacy is not None
    network = parse(plan.network, channels=card.images.channels, size=card.images.size, classes=len(card.task.classes))
    store = TrajectoryStore(folder, plan.teacher_plan().snapshots, network.parameters)
    (training,) = (look for look in card.privacy.history if look.mechanism == TRAINING)
    counts = load_counts(folder / COUNTS)
    expected = len(counts) * plan.privacy.sampling_rate * float(counts.clamp_min(1).min())
    step = plan.privacy.learning_rate / expected * training.noise_multiplier * plan.privacy.clip
    steps = plan.matching.segment * plan.teachers.snapshot_every
    points, ahead = store.trajectory(0).double(), plan.matching.segment
    moved = (points[ahead:] - points[:-ahead]).square().sum(1)
    return float((step**2 * steps * network.parameters / moved).clamp(max=1).mean())


def curves(cells: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds, by set, row and epsilon."""
    grouped: dict[tuple[str, str, str], list[float]] = {}
    for key, found in cells.items():
        name, _, epsilon, _ = key.split(" ")
        for row in (row for row in found if row in (*ROUTES, "direct")):
            grouped.setdefault((name, row, epsilon), []).append(found[row])
    told: dict[str, Any] = {}
    for (name, row, epsilon), values in sorted(grouped.items()):
        spread = round(statistics.stdev(values), 2) if len(values) > 1 else None
        at = {"mean": round(statistics.fmean(values), 2), "sd": spread, "seeds": len(values)}
        told.setdefault(name, {}).setdefault(row, {})[epsilon] = at
    return told


def table(record: dict[str, Any]) -> str:
    """The record as Markdown, a line for each set and epsilon; in brackets the packages that a mean is of, if several.

    Of what canaries show: by the package, and by the noised release, of the most that they could have shown.
    """
    heads = (
        "set",
        "ε",
        *(f"`{route}`" for route in ROUTES),
        "noised network itself",
        *(f"shown of `{route}`" for route in ROUTES),
    )
    lines = list[tuple[str, ...]]()
    for name, at in record["balanced_accuracy_percent"].items():
        for epsilon in EPSILONS:
            where = (name, f"{epsilon:g}")
            told = [score(record["cells"], *where, row) if row in at else "–" for row in (*ROUTES, "direct")]
            seen = [shown(record["audited"], *where, route) for route in ROUTES]
            if any(one != "–" for one in told):
                lines.append((TITLES[name], "none" if math.isinf(epsilon) else where[1], *told, *seen))
    return markdown(heads, lines)


def score(cells: dict[str, dict[str, float]], name: str, epsilon: str, row: str) -> str:
    """The mean over seeds, and each."""
    found = [one[row] for key, one in cells.items() if row in one and _at(key, name, epsilon)]
    each = f" ({', '.join(f'{one:.1f}' for one in found)})" if len(found) > 1 else ""
    return f"{statistics.fmean(found):.1f}{each}" if found else "–"


def shown(audits: dict[str, dict[str, float]], name: str, epsilon: str, route: str) -> str:
    """The largest over seeds of what the package and what the release shows."""
    found = [one for key, one in audits.items() if _at(key, name, epsilon) and key.split(" ")[1] == route]
    if not found:
        return "–"
    package, release, most = (max(one[kind] for one in found) for kind in ("package", "release", "largest"))
    return f"{package:.2f} and {release:.2f} of {most:.1f}"


def _at(key: str, name: str, epsilon: str) -> bool:
    return key.startswith(f"{name} ") and key.split(" ")[2] == epsilon


Job = tuple[str, str, Callable[[], dict[str, Any]]]


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    """All that was asked for: the part of the record, the key in it, and what measures it."""
    for seed, name, epsilon in product(range(options.seeds), options.sets, options.epsilons):
        where, folders = (name, epsilon, seed), (options.data, options.out)
        if options.looks:
            for looks in options.looks:
                yield "looks", f"{name} {epsilon:g} {seed} {looks}", partial(looked, *where, *folders, looks)
            continue
        for route in options.routes:
            key, cells = f"{name} {route} {epsilon:g} {seed}", (name, route, epsilon, seed, *folders)
            if not options.canaries:
                yield "cells", key, partial(cell, *cells)
            elif math.isfinite(epsilon):
                yield "audited", key, partial(audited, *cells, options.canaries)


def main() -> None:
    """Measure what is not in the record yet, and write it after every cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("private"))
    parser.add_argument("--table", action="store_true", help="print the record as Markdown and stop")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["pneumonia", "blood"])
    parser.add_argument("--routes", nargs="+", choices=ROUTES, default=list(ROUTES))
    parser.add_argument("--epsilons", type=float, nargs="+", default=list(EPSILONS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--canaries", type=int, default=0, help="plant so many, and audit instead of scoring")
    parser.add_argument("--looks", type=int, nargs="+", default=[], help="score statistics of so many, on validation")
    options = parser.parse_args()
    if options.table:
        print(table(read_record(RECORD)))
        return
    for part, key, measured in jobs(options):
        record: dict[str, Any] = {"balanced_accuracy_percent": {}, "cells": {}, "audited": {}, "looks": {}}
        record |= read_record(RECORD)
        if key in record[part]:
            continue
        record[part][key] = measured()
        record["balanced_accuracy_percent"] = curves(record["cells"])
        write_record(RECORD, record)
        print(part, key, record[part][key], flush=True)


if __name__ == "__main__":
    main()
