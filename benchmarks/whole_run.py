"""How long whole runs of a published recipe take on a GPU: the loop itself, by hop-tm, not its gradient alone.

    python benchmarks/whole_run.py                       both recipes, steps as they are
    python benchmarks/whole_run.py --compiled            with compiled steps, which are captured
    python benchmarks/whole_run.py --recipes d5-112 --students 16 23

Reads points of trajectories from files, draws segments, batches and augmentations, unrolls N = 80 steps, scores states
at the start, in the middle and at the end, and moves images and step size. Trajectories are random walks: what they
hold changes no time. A run of 10,000 segments is begun and stopped, three times: once to warm up, which compiles, and
after few and after more iterations, whose difference is what is told: what happens once does not count. Each
gradient's correctness is the matter of ``benchmarks/gpu.py``, whose check comes first.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from operator import le
from pathlib import Path
from typing import Any

import torch
from engine import RECIPES, device_of, held, keep
from gpu import BATCH, GIGABYTES, STEPS, check_on, freed

from meddistill.distill.loop import Matching, distill
from meddistill.distill.unroll import Learned, Precision, Rule
from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import flatten
from meddistill.pipeline import plan as plans
from meddistill.runtime.device import choose
from meddistill.runtime.streams import stream
from meddistill.teachers.store import TrajectoryStore

SEGMENTS = 10_000  # of the goal
TEACHERS, SNAPSHOTS, SEGMENT = 4, 8, 2
SHORT, LONG = 2, 6  # iterations


def trajectories(network: ConvNet, folder: Path) -> TrajectoryStore:
    """Random walks of the network's parameters, on disk as a run's teachers are."""
    store = TrajectoryStore(folder, SNAPSHOTS, network.parameters)
    for teacher in range(TEACHERS):
        start = flatten(network.init(stream(teacher, "walk")))
        walk = 0.02 * torch.randn(SNAPSHOTS, len(start), generator=stream(teacher, "steps")) * start.std()
        store.save(teacher, start + walk.cumsum(0))
    return store


def seconds_of(matching: Matching, plan: plans.Plan, device: str, compiled: bool) -> tuple[float, float]:
    """Seconds of an iteration, and gigabytes at the peak."""
    network, generator = matching.network, stream(0, "set")
    count = 2 * network.classes
    images = torch.randn(count, network.channels, network.size, network.size, generator=generator)
    logits = 10.0 * torch.eye(network.classes).repeat(2, 1)
    first = Learned(*(one.to(device) for one in (images, logits, torch.tensor([0.01]).log())))
    asked, taken = replace(plan.loop_plan((0, SNAPSHOTS - 1 - SEGMENT)), compiled=compiled), {}
    for iterations in (SHORT, SHORT, LONG):
        begun = time.perf_counter()
        distill(first, matching, asked, 0, is_enough=partial(le, iterations))
        if device == "cuda":
            torch.cuda.synchronize()
        taken[iterations] = time.perf_counter() - begun
    return (taken[LONG] - taken[SHORT]) / (LONG - SHORT), held(device) / 1e3


def rows_of(
    network: ConvNet, sizes: Sequence[int], *, device: str, compiled: bool, steps: int = STEPS
) -> list[dict[str, Any]]:
    """Every precision with every number of segments at once."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        matching = Matching(network, trajectories(network, Path(folder)), TEACHERS)
        for precision in ("full", "bfloat16"):
            for size in sizes:
                freed(device)
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                seconds, peak = seconds_of(matching, _plan(network, precision, size, steps), device, compiled)
                row = {"precision": precision, "segments_at_once": size, "segments_per_second": size / seconds}
                row |= {"minutes_for_10000": SEGMENTS * seconds / size / 60, "peak_gigabytes": peak}
                found.append(row | {"within_24_gigabytes": peak <= GIGABYTES})
                print(network.name, json.dumps(found[-1]), flush=True)
    return found


def _plan(network: ConvNet, precision: Precision, size: int, steps: int) -> plans.Plan:
    matching = plans.Matching(
        warm_up=0,
        iterations=math.ceil(SEGMENTS / size),
        student_steps=steps,
        segment=SEGMENT,
        batch=BATCH,
        segments_at_once=size,
        precision=precision,
    )
    teachers = plans.Teachers(count=TEACHERS, steps=SNAPSHOTS - 1, snapshot_every=1)
    return plans.Plan(
        "hop-tm", images_per_class=2, size=network.size, network=network.name, teachers=teachers, matching=matching
    )


def main() -> None:
    """Check, then measure what was asked for and keep the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--students", type=int, nargs="+", default=[8, 23])
    parser.add_argument("--compiled", action="store_true", help="compiled steps, in rows of their own")
    asked = parser.parse_args()
    choose("cuda")  # computes as in a run
    known = device_of("cuda")
    for name in asked.recipes:
        check_on("cuda", RECIPES[name], Rule(compiled=asked.compiled))
        rows = rows_of(RECIPES[name], asked.students, device="cuda", compiled=asked.compiled)
        part = f"cuda {known['device']} whole run {name}{' compiled' * asked.compiled}"
        keep(part, {"on": known, "found": rows})


if __name__ == "__main__":
    main()
