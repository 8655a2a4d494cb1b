"""How fast the gradient of an unrolled student is, beside the literature's way of computing it.

    python benchmarks/engine.py                    the CPU's rows
    python benchmarks/engine.py --only accuracy    sets distilled in float32 and in bfloat16, minutes

The GPU's rows are those of ``benchmarks/gpu.py``, and what bounds them is counted by ``benchmarks/counted.py``.

The yardstick is the inner loop of public trajectory-matching code, written plainly: one segment, parameters re-packed
from a flat vector, ``F.instance_norm``, ``create_graph=True``, eager. Ratios are taken side by side in one run, in
turns (A B A B …), as medians and as ratios of minima; on a busy machine, minima of processor seconds with one thread
are the steadiest. Operations are counted: 2 a multiplication and addition of convolutions and the linear layer, nine
forward passes a step for the yardstick. Records go to ``benchmarks/records/engine.json``.
"""

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from shared import read_record, today, write_record
from torch import Tensor

from meddistill import api
from meddistill.distill.distance import normalised_l2
from meddistill.distill.unroll import Batch, Learned, Rule, Student, step, unroll
from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import Params, flatten, unflatten
from meddistill.runtime.device import choose
from meddistill.runtime.streams import stream

RECORD = Path(__file__).parent / "records" / "engine.json"
SMALL = ConvNet(128, 3, 1, 28, 2)
# The recipes of HoP-TM (arXiv 2509.24177): PathMNIST at 32 pixels and COVID-19 chest X-rays at 112, N = 80, batch 10.
RECIPES = {"d3-32": ConvNet(128, 3, 3, 32, 9), "d5-112": ConvNet(128, 5, 3, 112, 4)}
FORWARD_PASSES = 9  # of one step of the yardstick
RULES = {
    "adjoint": Rule(),
    "full": Rule("full"),
    "two-pass": Rule("two-pass"),
    "bfloat16": Rule(precision="bfloat16"),
    "adjoint-all-states": Rule(states=100),  # no step is taken twice, at the price of memory
    "bfloat16-all-states": Rule(precision="bfloat16", states=100),
    "adjoint-no-traces": Rule(traces=0),  # as on a GPU
    "compiled": Rule(compiled=True),
    "bfloat16-compiled": Rule(precision="bfloat16", compiled=True),
}


def learned_of(network: ConvNet, count: int, device: str, dtype: torch.dtype = torch.float32) -> Learned:
    """Random images and labels, one step size of 0.01."""
    generator = stream(0, "learned")
    images = torch.randn(count, network.channels, network.size, network.size, generator=generator)
    logits = torch.randn(count, network.classes, generator=generator)
    return Learned(*(t.to(device, dtype) for t in (images, logits, torch.tensor([math.log(0.01)]))))


def student_of(
    network: ConvNet,
    batch: int,
    steps: int,
    device: str,
    dtype: torch.dtype = torch.float32,
    place: int = 0,
    *,
    augmentation: Augmentation | None = None,
) -> Student:
    """A random start whose target lies nearby, and batches of ``2 · batch`` images in random order."""
    start = tuple(p.to(device, dtype) for p in network.init(stream(place, "start")))
    noise = network.init(stream(place, "target"))
    target = tuple(p + 0.1 * n.to(device, dtype) for p, n in zip(start, noise, strict=True))
    batches = [
        Batch(
            torch.randperm(2 * batch, generator=stream(place, "rows", step))[:batch].to(device),
            None if augmentation is None else augmentation.draw(batch, stream(place, "draw", step)),
        )
        for step in range(steps)
    ]
    return Student(start, batches, lambda states: normalised_l2(states[steps], target, start))


def yardstick(network: ConvNet, student: Student, learned: Learned) -> Learned:
    """The gradient as public code computes it."""
    images, logits, log_step = (tensor.detach().requires_grad_() for tensor in learned.tensors())
    flat = flatten(student.start).requires_grad_()
    for batch in student.batches:
        out = plain_logits(network, unflatten(flat, network.shapes), images[batch.rows])
        loss = F.cross_entropy(out, logits[batch.rows].softmax(1))
        (slope,) = torch.autograd.grad(loss, flat, create_graph=True)
        flat = flat - log_step.exp() * slope
    score = student.score({len(student.batches): unflatten(flat, network.shapes)})
    return Learned(*torch.autograd.grad(score, (images, logits, log_step)))


def plain_logits(network: ConvNet, params: Params, maps: Tensor) -> Tensor:
    """The ConvNet as public code writes it."""
    for block in range(network.depth):
        weight, bias, scale, shift = params[4 * block : 4 * block + 4]
        maps = F.instance_norm(F.conv2d(maps, weight, bias, padding=1), weight=scale, bias=shift)
        maps = F.avg_pool2d(F.relu(maps), 2)
    return F.linear(maps.flatten(1), params[-2], params[-1])


def operations(network: ConvNet, images: int) -> int:
    """Of one forward pass, counted: two a multiplication and addition."""
    total, inputs, side = 0, network.channels, network.size
    for _ in range(network.depth):
        total += 9 * inputs * network.width * side * side
        inputs, side = network.width, side // 2
    return 2 * images * (total + inputs * side * side * network.classes)


def in_turns(
    ways: Mapping[str, Callable[[], object]], rounds: int, device: str, warm_up: int = 1
) -> dict[str, dict[str, float]]:
    """Seconds of every way, taken in turns after runs to warm up: on the wall and of the processor."""
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for one in range(rounds + warm_up):
        for name, way in ways.items():
            _wait(device)
            begun, begun_cpu = time.perf_counter(), time.process_time()
            way()
            _wait(device)
            if one >= warm_up:
                wall[name].append(time.perf_counter() - begun)
                cpu[name].append(time.process_time() - begun_cpu)
    return {
        name: {"wall_median": median(wall[name]), "wall_min": min(wall[name]), "cpu_min": min(cpu[name])}
        for name in ways
    }


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product on random data."""
    size = 8192 if device == "cuda" else 1024
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = in_turns({"product": lambda: one @ other}, 20, device)
    return 2 * size**3 / times["product"]["wall_min"]


def cosine(one: Tensor, other: Tensor) -> float:
    """Between two gradients of images."""
    return float(torch.cosine_similarity(one.double().flatten(), other.double().flatten().to(one.device), dim=0))


def side_by_side(batch: int, steps: int, rounds: int, names: list[str]) -> dict[str, object]:
    """The CPU's rows of time: every way on the same work, with the cosine of its gradient to float64."""
    student, learned = student_of(SMALL, batch, steps, "cpu"), learned_of(SMALL, 2 * batch, "cpu")
    ways: dict[str, Callable[[], Learned]] = {"yardstick": lambda: yardstick(SMALL, student, learned)}
    for name in names:
        ways[name] = partial(_gradient, student, learned, RULES[name])
    wide = student_of(SMALL, batch, steps, "cpu", torch.float64)
    exact = _gradient(wide, learned_of(SMALL, 2 * batch, "cpu", torch.float64), Rule())
    cosines = {name: cosine(way().images, exact.images) for name, way in ways.items()}
    times = in_turns(ways, rounds, "cpu", warm_up=0)  # they have run for the cosines
    work = steps * FORWARD_PASSES * operations(SMALL, batch)
    rates = {dtype: matrix_rate("cpu", dtype) for dtype in (torch.float32, torch.bfloat16)}
    rows = {
        name: {
            **{key: round(value, 4) for key, value in figures.items()},
            "over_yardstick_median": round(figures["wall_median"] / times["yardstick"]["wall_median"], 3),
            "over_yardstick_min": round(figures["wall_min"] / times["yardstick"]["wall_min"], 3),
            "over_yardstick_cpu": round(figures["cpu_min"] / times["yardstick"]["cpu_min"], 3),
            "rate_gflops": round(work / figures["wall_min"] / 1e9, 1),
            "share_of_matrix_rate": round(work / figures["wall_min"] / rates[_multiplies(name)], 3),
            "cosine_to_float64": round(cosines[name], 6),
        }
        for name, figures in times.items()
    }
    load = round(os.getloadavg()[0], 1)
    known: dict[str, object] = {"device": _processor(), "date": today(), "torch": torch.__version__}
    known |= {"batch": batch, "steps": steps, "rounds": rounds, "load": load}
    return known | {"operations": work, "ways": rows}


def _multiplies(name: str) -> torch.dtype:
    """What most convolutions of that way are in."""
    return torch.bfloat16 if RULES.get(name, Rule()).precision == "bfloat16" else torch.float32


def variants(network: ConvNet, batch: int, rounds: int, device: str = "cpu", students: int = 1) -> dict[str, object]:
    """Seconds of one step's curvature, however it is computed, and of one step's slopes, of students side by side."""
    starts = [student_of(network, batch, 1, device, place=place).start for place in range(students)]
    learned = learned_of(network, batch, device)
    params = tuple(torch.stack(several) for several in zip(*starts, strict=True))
    images, labels = (one.expand(students, *one.shape) for one in (learned.images, learned.label_logits.softmax(1)))
    ways: dict[str, Callable[[], object]] = {
        "slopes automatic": lambda: step.automatic(network, "full", params, images, labels),
        "slopes written": lambda: step.written_slopes(network, "full", params, images, labels),
    }
    for by in (step.reverse, step.forward, step.written):
        ways[by.__name__] = partial(by, network, "full", params, params, images, labels)
    ways["written bfloat16"] = lambda: step.written(network, "bfloat16", params, params, images, labels)
    if device == "cuda":  # teachers may take either there
        ways["slopes automatic bfloat16"] = lambda: step.automatic(network, "bfloat16", params, images, labels)
        ways["slopes written bfloat16"] = lambda: step.written_slopes(network, "bfloat16", params, images, labels)

    def apart() -> None:
        step.written_slopes(network, "full", params, images, labels)
        step.written(network, "full", params, params, images, labels)

    def traced() -> None:
        step.traced_curvature(params, params, step.traced_slopes(network, "full", params, images, labels)[1])

    ways |= {"slopes and curvature": apart, "slopes and curvature, traced": traced}
    taken = {"network": network.name, "batch": batch, "rounds": rounds, "seconds": in_turns(ways, rounds, device)}
    return taken if device == "cpu" else taken | {"students": students}


def distilled(precision: str, size: int) -> dict[str, object]:
    """PneumoniaMNIST distilled in that precision by the standard plan: the scores of five networks trained on it."""
    with tempfile.TemporaryDirectory() as folder, as_file(files("meddistill") / "data" / "pneumoniamnist.npz") as data:
        plan, out = Path(folder, "plan.toml"), Path(folder, "out.mdz")
        plan.write_text(f'images_per_class = {size}\n[matching]\nprecision = "{precision}"\n')
        made = api.distill(data, out, plan=plan, leak="drop")
        scores = made.evaluated.results["test"]["distilled"]
        kept = {metric: scores[metric].as_dict() for metric in ("balanced_accuracy", "auroc")}
        return {"precision": precision, "images_per_class": size, "making_seconds": made.making_seconds, **kept}


def _gradient(student: Student, learned: Learned, rule: Rule) -> Learned:
    return unroll(SMALL, student.start, learned, student.batches, student.score, rule=rule).gradient


def peak_of(way: str, batch: int, steps: int, device: str) -> float:
    """Extra megabytes at the peak of one gradient; for a process of its own."""
    student, learned = student_of(SMALL, batch, steps, device), learned_of(SMALL, 2 * batch, device)
    short = Student(student.start, student.batches[:1], lambda states: (states[1][0] ** 2).sum())
    unroll(SMALL, short.start, _small(learned), [Batch(torch.arange(1, device=device))], short.score)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()  # to what is allocated now
    before = held(device)
    if way == "yardstick":
        yardstick(SMALL, student, learned)
    else:
        _gradient(student, learned, RULES[way])
    return held(device) - before


def _small(learned: Learned) -> Learned:
    return Learned(learned.images[:1], learned.label_logits[:1], learned.log_steps)


def held(device: str) -> float:
    """Megabytes at the peak so far."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def memory_rows(device: str, batches: list[int]) -> list[dict[str, object]]:
    """Peak extra memory for N = 10 and 80, each in a process of its own."""
    rows = []
    # Traces are as many for both N on a CPU, which flatters the ratio; a GPU keeps none.
    adjoint = ("adjoint", "adjoint-no-traces") if device == "cpu" else ("adjoint",)
    asked = [(way, batch) for way in adjoint for batch in batches]
    for way, batch in (*asked, ("yardstick", batches[0])):
        lengths = (10,) if way == "yardstick" else (10, 80)
        peaks = {steps: _peak_alone(device, way, batch, steps) for steps in lengths}
        row = {"way": way, "batch": batch, "megabytes": peaks}
        rows.append({**row, "ratio": round(peaks[80] / peaks[10], 3)} if 80 in peaks else row)
    return rows


def _peak_alone(device: str, way: str, batch: int, steps: int) -> float:
    """Of a process of its own, whose errors are seen."""
    call = [sys.executable, __file__, "--device", device, "--peak", way, str(batch), str(steps)]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"measuring the memory of {way} on {device}, batch {batch}, N = {steps}, failed (see above)")
    return float(done.stdout)


def device_of(device: str) -> dict[str, object]:
    """What was measured on."""
    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    rates = {str(dtype): matrix_rate(device, dtype) / 1e9 for dtype in (torch.float32, torch.bfloat16)}
    return {
        "device": name,
        "date": today(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "matrix_rate_gflops": {key: round(value, 1) for key, value in rates.items()},
        "load": None if device == "cuda" else os.getloadavg()[0],
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def keep(part: str, value: object) -> None:
    """Add one part to the record."""
    write_record(RECORD, {**read_record(RECORD), part: value})
    print(part, json.dumps(value, indent=1), flush=True)


def main() -> None:
    """Measure what was asked for and keep the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[10, 64])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 40])
    parser.add_argument("--ways", nargs="+", choices=RULES, default=["adjoint", "full", "two-pass", "bfloat16"])
    parser.add_argument("--only", choices=["time", "memory", "variants", "accuracy"], help="one part alone")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help=argparse.SUPPRESS)  # of --peak
    parser.add_argument("--peak", nargs=3, metavar=("WAY", "BATCH", "N"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    choose(asked.device)  # a GPU computes as in a run
    if asked.peak:
        print(peak_of(asked.peak[0], int(asked.peak[1]), int(asked.peak[2]), asked.device))
        return
    device = device_of("cpu")
    keep(f"cpu device: {device['device']}", device)
    if asked.only in (None, "memory"):
        keep("cpu memory", memory_rows("cpu", asked.batches))
    if asked.only in (None, "variants"):
        for network in (SMALL, replace(SMALL, width=32)):
            for batch in asked.batches:
                name = f"cpu variants {network.name} batch {batch} threads {asked.threads}"
                keep(name, variants(network, batch, asked.rounds))
    if asked.only == "accuracy":
        keep("cpu accuracy", [distilled(precision, 10) for precision in ("full", "bfloat16")])
    if asked.only in ("memory", "variants", "accuracy"):
        return
    for batch in asked.batches:
        for steps in asked.steps:
            part = f"cpu batch {batch} N {steps} threads {asked.threads} {' '.join(asked.ways)}"
            keep(part, side_by_side(batch, steps, asked.rounds, asked.ways))


if __name__ == "__main__":
    main()
