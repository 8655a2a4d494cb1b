"""Measure the teachers: several at once against one after another, and what their store keeps in how many bytes.

    .venv/bin/python benchmarks/teachers.py
    .venv/bin/python benchmarks/teachers.py --device cuda --at-once 32 --teachers 32
    .venv/bin/python benchmarks/teachers.py --device cuda --arithmetic bfloat16 --rounds 0 --target --data FOLDER

Correctness comes first: teachers trained at once are compared with teachers trained alone, and both with teachers that
a CPU trains in float64; nothing is timed if they differ. Times are taken side by side, in turns (one after another, at
once, one after another, at once); the ratio is that of the smallest ones. ``plainly`` is
one after another as public code trains them: by automatic differentiation, with ``F.instance_norm`` and
``torch.optim.SGD``, on the same batches. ``--target`` also trains 100 teachers for 50 epochs on ``--data`` with a
ConvNet-D5 of width 128 at 112 pixels, as many side by side as the plan chooses. Every part is added to
``benchmarks/records/teachers.json``, under the device and the network, as soon as it is there.
"""

import argparse
import datetime
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from engine import plain_logits
from torch import Tensor

from meddistill.cohort.prepare import prepare
from meddistill.nets.convnet import ConvNet, parse
from meddistill.pipeline.teach import teach
from meddistill.runtime.device import choose, keep_freed_memory, one_thread
from meddistill.runtime.errors import MeddistillError
from meddistill.runtime.events import EventLog
from meddistill.runtime.progress import Silent
from meddistill.runtime.streams import stream
from meddistill.teachers.images import LabelledImages, measure_normalisation, split_images
from meddistill.teachers.storage import STORAGES
from meddistill.teachers.store import TrajectoryStore
from meddistill.teachers.train import (
    Batches,
    State,
    TeacherPlan,
    first_state,
    side_by_side,
    train_teacher,
    train_teachers,
)

RECORD = Path(__file__).parent / "records" / "teachers.json"
EMBEDDED = Path(__file__).parents[1] / "src" / "meddistill" / "data" / "pneumoniamnist.npz"


Groups = tuple[tuple[int, ...], ...]
# What units near their kink that switch with a rounding may make of one step in float32, and what bfloat16 may.
SWITCHES, ROUNDED = 2e-3, 0.3


def load(source: Path, size: int, device: torch.device) -> LabelledImages:
    """The training images of a source."""
    cohort = prepare(source, size=size, leak="drop").cohort
    return split_images(cohort, "train", measure_normalisation(cohort), device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long ``work`` takes, the device's own work included."""
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def check(network: ConvNet, images: LabelledImages, plan: TeacherPlan, steps: int = 10) -> dict[str, float]:
    """How far teachers trained at once are from those trained alone, over the way they went. Stops if that is far.

    In float64 after ten steps; in float32 after one, for a unit that switches makes more of a rounding with every step:
    what ten steps make of it is told beside how far a teacher alone in float32 is from itself in float64. One step is
    compared with a CPU's in float64 too, in every arithmetic; float32 may be a few times as far as the CPU's own is.
    """
    together, alone = ((0, 1, 2),), ((0,), (1,), (2,))
    start, cpu = first_state(network, plan, 0, together[0]).params.double(), on_cpu(images)
    single, double = torch.float32, torch.float64

    def ends(
        steps: int, groups: Groups, dtype: torch.dtype, *, at: LabelledImages = images, arithmetic: str = "float32"
    ) -> Tensor:
        short = replace(plan, steps=steps, snapshot_every=steps, arithmetic=arithmetic)  # type: ignore[arg-type]
        return end_points(network, at, short, groups, dtype).double()

    def apart(one: Tensor, other: Tensor) -> float:
        return float(((one - other).norm(dim=1) / (other - start).norm(dim=1)).max())

    exact, one_step = ends(1, alone, double, at=cpu), ends(1, together, single)
    singly, doubly = ends(steps, alone, single), ends(steps, alone, double)
    own = apart(ends(1, alone, single, at=cpu), exact)
    limits = {
        f"float64, {steps} steps": (apart(ends(steps, together, double), doubly), 1e-9),
        "float32, 1 step": (apart(one_step, ends(1, alone, single)), 3 * own + SWITCHES),
        f"float32, {steps} steps": (apart(ends(steps, together, single), singly), math.inf),
        f"alone, float32 to float64, {steps} steps": (apart(singly, doubly), math.inf),
        "CPU's float64, float64, 1 step": (apart(ends(1, together, double), exact), 1e-9),
        "CPU's float64, float32, 1 step": (apart(one_step, exact), 3 * own + SWITCHES),
        "CPU's float64, CPU's float32, 1 step": (own, math.inf),
        "CPU's float64, bfloat16, 1 step": (apart(ends(1, together, single, arithmetic="bfloat16"), exact), ROUNDED),
    }
    wrong = {name: f"{found:.2g} > {highest:.2g}" for name, (found, highest) in limits.items() if not found <= highest}
    if wrong:
        raise SystemExit(f"teachers at once differ from teachers alone, or from the CPU's: {wrong}: nothing is timed")
    return {name: found for name, (found, _) in limits.items()}


def on_cpu(images: LabelledImages) -> LabelledImages:
    """The same images there."""
    return replace(images, pixels=images.pixels.cpu(), labels=images.labels.cpu())


def end_points(
    network: ConvNet, images: LabelledImages, plan: TeacherPlan, groups: Groups, dtype: torch.dtype
) -> Tensor:
    """The ends of trajectories ``(K, P)``, trained in these groups."""
    ends: list[State] = []
    for group in groups:
        state = replace(
            first_state(network, plan, 0, group), params=first_state(network, plan, 0, group).params.to(dtype)
        )
        kept: list[State] = []
        train_teachers(network, images, plan, 0, group, state=state, keep=kept.append)
        ends.append(kept[-1])
    return torch.cat([state.params for state in ends])


def at_once(network: ConvNet, images: LabelledImages, plan: TeacherPlan, folder: Path, processes: int) -> bool | None:
    """All teachers as a run trains them; whether by a GPU's kernels, the trial of which is part of it."""
    store = TrajectoryStore(folder, plan.snapshots, network.parameters)
    teach(network, images, plan, 0, store, events=EventLog(), progress=Silent(), processes=processes, kernels=True)
    return store.kernels


def plainly(network: ConvNet, images: LabelledImages, plan: TeacherPlan) -> None:
    """All teachers as public code trains them, one after another."""
    for teacher in range(plan.count):
        params = [p.to(images.device).requires_grad_() for p in network.init(stream(0, "teacher", teacher, "init"))]
        batches, optimiser = Batches(images, plan, 0, [teacher]), torch.optim.SGD(params, plan.learning_rate)
        for step in range(plan.steps):
            (seen,), (labels,) = batches.draw(step, torch.float32)
            optimiser.zero_grad()
            F.cross_entropy(plain_logits(network, tuple(params), seen), labels).backward()
            optimiser.step()


def race(network: ConvNet, images: LabelledImages, plan: TeacherPlan, processes: int, rounds: int) -> dict[str, Any]:
    """Seconds for all teachers one after another and at once, in turns.

    On a CPU one after another is taken twice: with all threads, and with one. The ratio is over the faster of the two.
    """

    def one_after_another() -> None:
        for teacher in range(plan.count):
            train_teacher(network, images, plan, 0, teacher)

    def on_one_thread() -> None:
        with one_thread():
            one_after_another()

    taken: list[bool | None] = []

    def together() -> None:
        with tempfile.TemporaryDirectory() as folder:
            taken.append(at_once(network, images, plan, Path(folder), processes))

    works = {
        "one_after_another": one_after_another,
        "at_once": together,
        "plainly": lambda: plainly(network, images, plan),
    }
    if images.device.type == "cpu":
        works["one_after_another_on_one_thread"] = on_one_thread
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(round(seconds(work, images.device), 2))
    best = min(min(values) for name, values in times.items() if name.startswith("one_after_another"))
    ratios = {"ratio": best, "ratio_to_plainly": min(times["plainly"])}
    found = {name: round(other / min(times["at_once"]), 2) for name, other in ratios.items()}
    return times | found | {"kernels": taken}


def storages(trajectory: Tensor, network: ConvNet) -> dict[str, Any]:
    """Of every storage: bytes, and the error of the way between snapshots (vector and normalised distance)."""
    way = trajectory - trajectory[0]
    scale = way.abs().amax(1, keepdim=True).clamp_min(torch.finfo(way.dtype).tiny)
    found: dict[str, Any] = {
        "float16, plain (not offered)": errors(trajectory.half().float(), trajectory),
        "bfloat16, plain (not offered)": errors(trajectory.bfloat16().float(), trajectory),
        "float16, way from the start, scaled (not offered)": errors(
            trajectory[0] + scale * (way / scale).half().float(), trajectory
        ),
    }
    sizes = tuple(shape.numel() for shape in network.shapes)
    for storage in STORAGES:
        with tempfile.TemporaryDirectory() as folder:
            store = TrajectoryStore(Path(folder), len(trajectory), network.parameters, storage, sizes=sizes)
            store.save(0, trajectory)
            found[storage] = {"bytes": store.path(0).stat().st_size} | errors(store.trajectory(0), trajectory)
    return found


def errors(kept: Tensor, exact: Tensor) -> dict[str, float]:
    """Medians over all segments of 1 and of 4 snapshots; ``distance`` is what a score of 1 becomes, less 1."""
    found = {}
    for length in (1, 4):
        ways, true = (points.double()[length:] - points.double()[:-length] for points in (kept, exact))
        found[f"way_{length}"] = median(((ways - true).norm(dim=1) / true.norm(dim=1)).tolist())
        found[f"distance_{length}"] = median((ways.norm(dim=1) / true.norm(dim=1)).square().sub(1).abs().tolist())
    return {name: float(f"{value:.2g}") for name, value in found.items()}


def target(
    data: Path,
    plan: TeacherPlan,
    device: torch.device,
    *,
    size: int = 112,
    network: str = "convnet-d5-w128",
    count: int = 100,
    epochs: int = 50,
) -> dict[str, Any]:
    """100 teachers, 50 epochs of ``data`` at 112 pixels, ConvNet-D5: seconds, and the share of operations a second.

    As many go side by side as the plan chooses for that network and batch. Correctness comes first here too, on few
    images a step.
    """
    images = load(data, size, device)
    built = parse(network, channels=images.pixels.shape[1], size=size, classes=images.classes)
    epoch = max(1, len(images) // plan.batch)
    whole = replace(plan, count=count, steps=epochs * epoch, snapshot_every=epoch, at_once=0)
    done: dict[str, Any] = {"network": built.name, "images": len(images), "arithmetic": whole.arithmetic}
    done |= {"teachers": count, "steps": whole.steps, "batch": whole.batch}
    done["side_by_side"] = side_by_side(built, whole, device)
    done["difference_from_alone"] = check(built, images, replace(whole, batch=min(8, whole.batch)), steps=2)
    kernels: list[bool | None] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            taken = seconds(lambda: kernels.append(at_once(built, images, whole, Path(folder), 1)), device)
    except (MeddistillError, RuntimeError, MemoryError) as error:  # what was measured before is not lost
        return done | {"failed": f"{type(error).__name__}: {error}"}
    flops = 6 * multiplications(built) * whole.count * whole.steps * whole.batch
    done |= {"seconds": round(taken, 1), "kernels": kernels[0]}
    return done | {"operations": f"{flops:.3g}", "tera_operations_a_second": round(flops / taken / 1e12, 2)}


def multiplications(network: ConvNet) -> int:
    """Of one image on the way forward; training takes about three times as many, and as many additions."""
    sides = [(network.size >> block) ** 2 for block in range(network.depth)]
    inputs = [network.channels] + [network.width] * (network.depth - 1)
    return sum(9 * network.width * channels * side for channels, side in zip(inputs, sides, strict=True))


def describe(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def main() -> None:
    """Check, measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--network", default="convnet-d3-w32")
    parser.add_argument("--teachers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=360)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument(
        "--at-once", type=int, default=0, help="teachers side by side on a GPU in the race; 0: the plan's choice"
    )
    parser.add_argument("--arithmetic", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=2, help="of the race; 0 for none")
    parser.add_argument("--data", type=Path, help="the images of --target")
    parser.add_argument("--target", action="store_true", help="also 100 teachers, 50 epochs, ConvNet-D5, 112 pixels")
    asked = parser.parse_args()
    if asked.target and asked.data is None:
        parser.error("--target needs --data")
    keep_freed_memory()
    measure(asked, choose(asked.device))


def measure(asked: argparse.Namespace, device: torch.device) -> None:
    """Every part that was asked for, each of them recorded at once."""
    plan = TeacherPlan(asked.teachers, asked.steps, 10, asked.batch, 0.05, "balanced")
    images = load(EMBEDDED, 28, device)
    network = parse(asked.network, channels=1, size=28, classes=images.classes)
    found: dict[str, Any] = {"date": str(datetime.date.today()), "torch": torch.__version__, "device": describe(device)}
    found |= {"network": network.name, "teachers": plan.count, "steps": plan.steps, "batch": plan.batch}
    known = {name: found[name] for name in ("date", "torch", "device")}
    place = f"cpu {network.name}" if device.type == "cpu" else f"{device.type} {describe(device)} {network.name}"
    if asked.rounds or not asked.target:
        found["difference_from_alone"] = check(network, images, plan)
        plan = replace(plan, at_once=asked.at_once, arithmetic=asked.arithmetic)
        processes = torch.get_num_threads() if device.type == "cpu" else 1
        found |= {
            "processes": processes,
            "side_by_side": side_by_side(network, plan, device),
            "arithmetic": plan.arithmetic,
        }
        load_before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        found["load_before"] = load_before  # of other processes: with more than none, times say little
        if asked.rounds:
            found["race"] = race(network, images, plan, processes, asked.rounds)
            keep(place, found)
        found["storage"] = storages(train_teacher(network, images, replace(plan, arithmetic="float32"), 0, 0), network)
        keep(place, found)
    if asked.target:
        aimed = replace(plan, batch=256, learning_rate=0.01, arithmetic=asked.arithmetic)
        reached = known | target(asked.data, aimed, device)
        keep(f"{place.removesuffix(network.name)}target {asked.arithmetic}", reached)
        if "failed" in reached:
            raise SystemExit(f"the target was not measured: {reached['failed']}")


def keep(part: str, found: dict[str, Any]) -> None:
    """Add a part to the record, or what is known of it now."""
    print(json.dumps(found, indent=2), flush=True)
    records = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    records[part] = found
    RECORD.write_text(json.dumps(records, indent=2) + "\n")


if __name__ == "__main__":
    main()
