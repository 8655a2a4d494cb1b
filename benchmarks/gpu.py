"""How fast the gradient of an unrolled student is on a GPU: correctness first, then memory, steps and whole recipes.

    python benchmarks/gpu.py                            all of it, steps as they are
    python benchmarks/gpu.py --only recipes --compiled  the recipes with compiled steps, which are captured
    python benchmarks/gpu.py --only recipes --traces 10 the recipes with steps that leave traces for the curvature
    python benchmarks/gpu.py --only kernels             the project's kernels: how far they are off, and their time
    python benchmarks/gpu.py --only recipes --kernels   the recipes with them

Nothing is measured unless all recipes' gradients are right, with kernels too where Triton is. Segments a second are
those of ``benchmarks/engine.py``'s yardstick and of the engine in turns; the yardstick computes as PyTorch does by
default, with TF32 and any kernels. Every row is kept in ``benchmarks/records/engine.json`` as soon as it is there,
under the card's name. What can be expected is counted by ``benchmarks/counted.py``.
"""

import argparse
import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from engine import (
    FORWARD_PASSES,
    RECIPES,
    SMALL,
    cosine,
    device_of,
    held,
    in_turns,
    keep,
    learned_of,
    matrix_rate,
    memory_rows,
    operations,
    student_of,
    variants,
    yardstick,
)
from torch import Tensor

from meddistill.distill.unroll import PRECISIONS, Learned, Outcomes, Rule, Student, trial, unroll_many
from meddistill.distill.unroll.memory import free_bytes, room_for, traces_at_once
from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet
from meddistill.nets.params import Params
from meddistill.nets.trial import why_wrong
from meddistill.runtime.device import choose, give_back, is_out_of_memory

BATCH, STEPS, ROUNDS = 10, 80, 3  # of HoP-TM's recipes; of every measurement
GIGABYTES = 24  # that the goal of the whole run allows
# float64 there is float64 here. Float32's error may be so many times the CPU's own, and a little more: units near their
# kink switch with any rounding. Bfloat16's is told by the cosine that is aimed at; a factor would show in the error.
FLOAT64, TIMES_FLOAT32, SWITCHES, COSINE, BFLOAT16 = 1e-9, 3.0, 1e-3, 0.998, 0.25
PARTS = ("images", "label_logits", "log_steps")


def check_on(device: str, network: ConvNet, rule: Rule, batch: int = BATCH) -> dict[str, Any]:
    """Gradients there against float64 on the CPU; stops the benchmark where one is wrong.

    Of three students with augmentation and momentum, scored by states at the start, in the middle and at the end, some
    of whose steps are taken twice. The error is that of the norm, relative, of images, labels and step size each.
    """
    full = replace(rule, momentum=0.9, states=2, precision="full")
    half, plain = replace(full, precision="bfloat16"), replace(full, compiled=False)
    exact = gradient_of(network, "cpu", torch.float64, plain, batch)
    own = errors(gradient_of(network, "cpu", torch.float32, plain, batch), exact)
    found: dict[str, Any] = {"float32 on the CPU": own}
    for name, dtype, by, highest in (
        ("float64", torch.float64, full, FLOAT64),
        ("float32", torch.float32, full, TIMES_FLOAT32 * max(own.values()) + SWITCHES),
        ("bfloat16", torch.float32, half, BFLOAT16),
    ):
        gradient = gradient_of(network, device, dtype, by, batch)
        near, apart = cosine(gradient.images.cpu(), exact.images), errors(gradient, exact)
        found[name] = apart | {"cosine of images": near}
        print(f"{network.name} {name} on {device}: {json.dumps(found[name])}", flush=True)
        if not (all(error <= highest for error in apart.values()) and (by is full or near >= COSINE)):
            raise SystemExit(f"the gradient on {device} is wrong: {name}: {found[name]}, errors at most {highest:.2g}")
    return found


def gradient_of(network: ConvNet, where: str, dtype: torch.dtype, rule: Rule, batch: int) -> Learned:
    """Of the students that :func:`check_on` compares."""
    steps, middle = 4, 2
    students = list[Student]()
    for place in range(3):
        one = student_of(network, batch, steps, where, dtype, place, augmentation=Augmentation())

        def score(states: Any, far: Callable[[dict[int, Params]], Tensor] = one.score) -> Tensor:
            return far({steps: states[steps]}) + 0.5 * far({steps: states[middle]}) + 0.1 * far({steps: states[0]})

        students.append(replace(one, score=score))
    learned = learned_of(network, 2 * batch, where, dtype)
    return unroll_many(network, students, learned, at=(0, middle, steps), rule=rule, together=3).gradient


def errors(found: Learned, exact: Learned) -> dict[str, float]:
    """Of each part, relative, by its norm."""
    pairs = zip(PARTS, found.tensors(), exact.tensors(), strict=True)
    return {part: float((one.cpu().double() - other).norm() / other.norm()) for part, one, other in pairs}


@contextmanager
def by_default() -> Iterator[None]:
    """What runs inside computes on a GPU as PyTorch does where nobody says otherwise, as public code does."""
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.deterministic
    cudnn.allow_tf32, cudnn.deterministic = True, False
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.deterministic = before


def plainly(network: ConvNet, student: Student, learned: Learned) -> None:
    """The yardstick, as it runs elsewhere."""
    with by_default():
        yardstick(network, student, learned)


def fitting(network: ConvNet, learned: Learned, device: str, steps: int) -> Student:
    """A student for the yardstick, of as many steps as it has memory for: halved until it runs."""
    while True:
        student = student_of(network, BATCH, steps, device)
        try:
            plainly(network, student, learned)
            return student
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or steps == 1:
                raise
        steps //= 2
        print(f"the yardstick runs out of memory: measured with N = {steps}, and its time multiplied", flush=True)
        freed(device)


def freed(device: str) -> None:
    """Memory that nothing holds any more is free for others."""
    gc.collect()
    give_back(torch.device(device))


def kernel_rows(network: ConvNet, rule: Rule, device: str, sizes: tuple[int, ...] = (1, 8, 23)) -> list[dict[str, Any]]:
    """One step's slopes and curvature with the project's kernels and without; stops where they are wrong."""
    rows = []
    for precision in PRECISIONS:
        for size in sizes:
            found = trial.compare(network, precision, rule.compiled, size, BATCH, torch.device(device))
            rows.append({"precision": precision, "students": size, "compiled": rule.compiled} | found._asdict())
            print(network.name, json.dumps(rows[-1]), flush=True)
            freed(device)
            if wrong := why_wrong(found, precision == "bfloat16"):
                raise SystemExit(f"the kernels do not serve {network.name} in {precision}: {wrong}")
    return rows


def recipe_rows(
    name: str,
    network: ConvNet,
    sizes: list[int],
    rule: Rule,
    device: str = "cuda",
    steps: int = STEPS,
    told: Callable[[dict[str, Any]], None] = lambda found: None,
) -> dict[str, Any]:
    """A published recipe: segments a second beside the yardstick's, in turns; ``told`` after every row."""
    learned = learned_of(network, 2 * BATCH, device)
    plain = fitting(network, learned, device, steps)
    rate = matrix_rate(device, torch.bfloat16)
    found: dict[str, Any] = {"recipe": name, "compiled": rule.compiled, "traces": rule.traces, "matrix_rate": rate}
    found["kernels"] = rule.kernels
    found |= {"steps": steps, "steps_of_yardstick": len(plain.batches), "rows": []}
    for precision in ("full", "bfloat16"):
        by = replace(rule, precision=precision)
        for size in sizes:
            each = bytes_each(network, by, size, steps, device)
            freed(device)
            if size > 1 and size * each > free_bytes(torch.device(device)):
                print(f"{name} {precision}: {size} students take {size * each / 1e9:.0f} GB: left out", flush=True)
                continue
            row = one_row(network, size, by, learned, plain, steps, device)
            row |= {"share_of_matrix_rate": row.pop("operations_a_second") / rate}
            found["rows"].append(
                {"precision": precision, "students": size, "gigabytes_counted": size * each / 1e9} | row
            )
            print(name, json.dumps(found["rows"][-1]), flush=True)
            told(found)
    return found


def bytes_each(network: ConvNet, rule: Rule, size: int, steps: int, device: str) -> int:
    """What a student takes, counted."""
    traces = traces_at_once(network, rule, BATCH * size, torch.device(device))
    return room_for(network, rule, BATCH, steps, traces=traces).bytes


def one_row(
    network: ConvNet, size: int, rule: Rule, learned: Learned, plain: Student, steps: int, device: str
) -> dict[str, Any]:
    """So many students side by side, in turns with the yardstick. ``together``: how many were in the end."""
    students = [
        student_of(network, BATCH, steps, device, place=place, augmentation=Augmentation()) for place in range(size)
    ]

    def many() -> Outcomes:
        return unroll_many(network, students, learned, rule=rule, together=size)

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    together, peak = many().together, held(device) / 1e3
    times = in_turns({"yardstick": lambda: plainly(network, plain, learned), "engine": many}, ROUNDS, device, warm_up=0)
    seconds, beside = (times[way]["wall_median"] for way in ("engine", "yardstick"))
    beside *= steps / len(plain.batches)
    return {
        "together": together,
        "segments_per_second": size / seconds,
        "yardstick_seconds": beside,
        "over_yardstick": size / seconds * beside,
        "operations_a_second": size * steps * FORWARD_PASSES * operations(network, BATCH) / seconds,
        "peak_gigabytes": peak,
        "within_24_gigabytes": peak <= GIGABYTES,
        "minutes_for_10000": 10_000 * seconds / size / 60,  # of gradients alone
    }


def main() -> None:
    """Check, measure what was asked for and keep the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parts = ["check", "memory", "variants", "kernels", "recipes"]
    parser.add_argument("--only", choices=parts, help="one part, behind the check")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--compiled", action="store_true", help="compiled steps, in rows of their own")
    parser.add_argument("--kernels", action="store_true", help="with the project's kernels, in rows of their own")
    parser.add_argument("--traces", type=int, help="of so many steps at once, in rows of their own")
    parser.add_argument("--students", type=int, nargs="+", default=[1, 8, 16, 23, 32, 64, 128])
    asked = parser.parse_args()
    choose("cuda")  # computes as in a run
    measure("cuda", asked, RECIPES)


def measure(device: str, asked: argparse.Namespace, recipes: dict[str, ConvNet], steps: int = STEPS) -> None:
    """Every part that was asked for; each is kept with where and when it was measured."""
    rule = Rule(compiled=asked.compiled, traces=asked.traces, kernels=asked.kernels)
    known, named = device_of(device), {"compiled": asked.compiled, "kernels": asked.kernels}
    how = [name for name, is_so in named.items() if is_so]
    how += [] if asked.traces is None else [f"{asked.traces} traces"]

    def part(name: str) -> Callable[[Any], None]:
        return lambda found: keep(" ".join((device, str(known["device"]), name, *how)), {"on": known, "found": found})

    part("check")({name: check_on(device, recipes[name], rule) for name in asked.recipes})
    if not asked.kernels and (device == "cpu" or find_spec("triton") is not None):
        with_them = replace(rule, kernels=True)
        part("check of kernels")({name: check_on(device, recipes[name], with_them) for name in asked.recipes})
    if asked.only in (None, "memory"):
        part("memory")(memory_rows(device, [BATCH]))
    if asked.only in (None, "variants"):
        networks = {"d3-28": SMALL, **{name: recipes[name] for name in asked.recipes}}
        for name, network in networks.items():
            for students in (1, 8):
                part(f"variants {name} students {students}")(variants(network, BATCH, ROUNDS, device, students))
    if asked.only == "kernels":  # not among all parts: they need Triton
        for name in asked.recipes:
            part(f"kernels {name}")(kernel_rows(recipes[name], rule, device))
    if asked.only in (None, "recipes"):
        for name in asked.recipes:
            recipe_rows(name, recipes[name], asked.students, rule, device, steps, told=part(name))


if __name__ == "__main__":
    main()
