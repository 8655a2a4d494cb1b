"""What bounds the GPU's goals of the engine and of the teachers: launches, bytes and operations, counted without a GPU.

    python benchmarks/counted.py            count the code as it is, minutes of a CPU, and keep the record
    python benchmarks/counted.py --table    print the record as Markdown

Step by step, the code runs on the ``meta`` device, where nothing is computed, and every operation that is no view is
one launch that reads and writes its tensors once. Compiled, the bytes of slopes and curvature are what inductor counts
behind its fusion, planned for a CPU. A kernel of the project's own is one launch, which reads what it is given and
writes what it puts out once. Operations are those of convolutions and of such kernels' products, two a multiplication
and addition. Times follow from a card's data sheet and an assumed time of a launch: the longest of launches, bytes and
operations, as if the other two cost nothing and everything reached its peak. That is a bound of what can be had, not a
forecast.
"""

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from engine import FORWARD_PASSES, RECIPES, SMALL, learned_of, operations, student_of, yardstick
from shared import markdown, read_record, today, write_record
from torch import Tensor
from torch._inductor import config
from torch._inductor.graph import GraphLowering
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from meddistill.distill.unroll import Rule
from meddistill.distill.unroll.adjoint import carried_back
from meddistill.distill.unroll.memory import Room, room_for, states_at_once
from meddistill.distill.unroll.stacked import stack
from meddistill.distill.unroll.step import step_of
from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet
from meddistill.nets.curvature import slopes
from meddistill.nets.gradient import automatic_gradient
from meddistill.runtime.streams import stream
from meddistill.teachers.images import LabelledImages, Normalisation

RECORD = Path(__file__).parent / "records" / "counted.json"
BATCH, STEPS, BYTES = 10, 80, 24e9  # of HoP-TM's recipes, and what the goal of the whole run allows
TEACHERS = {"covid": ConvNet(128, 5, 1, 112, 3), "pneumonia": ConvNet(32, 3, 1, 28, 2)}
TEACHER_BATCH = {"covid": 256, "pneumonia": 64}
TEACHER_STEPS = 100 * 50 * 28  # 100 teachers, 50 epochs of 7,199 images
TEACHER_WAYS = ("float32", "bfloat16", "compiled float32, with kernels", "compiled bfloat16, with kernels")
AT_ONCE = 32
# How often the project's kernels multiply patches with a matrix of weights, in TF32: three times where exactly.
_PRODUCTS = {"gates_ahead": 3, "gates_along": 4, "gates_sums": 4, "gates_onto": 5}
# Launched by nothing, though no view: tensors without values.
_NOTHING = {"_unsafe_view", "_reshape_alias", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


@dataclass(frozen=True)
class Card:
    """A GPU's data sheet (NVIDIA H200): bytes and operations a second, dense; and a launch's seconds, an assumption."""

    memory: float = 4.8e12
    float32: float = 67e12
    tf32: float = 495e12
    bfloat16: float = 989e12
    launch: float = 8e-6


@dataclass(frozen=True)
class Cost:
    """What some work costs: launches, bytes, and operations of convolutions in float32, TF32 and bfloat16."""

    launches: float = 0
    bytes: float = 0
    float32: float = 0
    tf32: float = 0
    bfloat16: float = 0

    def plus(self, other: "Cost", times: float = 1) -> "Cost":
        """Both, the other one so many times."""
        return Cost(*(getattr(self, one.name) + times * getattr(other, one.name) for one in fields(Cost)))

    def in_tf32(self) -> "Cost":
        """The same where convolutions of float32 take TF32."""
        return replace(self, float32=0, tf32=self.float32 + self.tf32)

    def seconds(self, card: Card, together: int = 1) -> tuple[float, str]:
        """At least, where so many share every launch, and what bounds it."""
        busy = self.float32 / card.float32 + self.tf32 / card.tf32 + self.bfloat16 / card.bfloat16
        launched = self.launches * card.launch / together
        return max((launched, "launches"), (self.bytes / card.memory, "bytes"), (busy, "operations"))


class Counting(TorchDispatchMode):
    """Counts what is launched on a kind of device."""

    def __init__(self, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device, self._launches, self._bytes, self._operations = device, 0, 0, Counter[str]()

    @property
    def cost(self) -> Cost:
        """So far."""
        return Cost(self._launches, self._bytes, **self._operations)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation."""
        found = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if function.is_view or function.namespace == "prim" or name in _NOTHING:
            return found
        given: Any = (args, kwargs)
        if name == "convolution_backward":  # the maps' cotangent needs no maps, the weights' no weights
            (slope, maps, weight), wanted = args[:3], args[10]
            given = [slope, *([weight] if wanted[0] else []), *([maps] if wanted[1] else [])]
            self._convolved(slope, weight, sum(wanted[:2]))
        elif name == "convolution":
            self._convolved(found, args[1], 1)
        elif name in _PRODUCTS:
            self._operations["tf32"] += 2 * _PRODUCTS[name] * _multiplied(*args[:2])
        tensors = [one for one in tree_leaves((given, found)) if isinstance(one, Tensor) and self._has(one)]
        self._launches += bool(tensors)
        self._bytes += sum(one.numel() * one.element_size() for one in tensors)
        return found

    def _has(self, tensor: Tensor) -> bool:
        return tensor.device.type == self._device

    def _convolved(self, maps: Tensor, weight: Tensor, times: int) -> None:
        kind = str(maps.dtype).removeprefix("torch.")
        self._operations[kind] += 2 * times * maps.numel() * weight[0].numel()


def _multiplied(images: Tensor, weight: Tensor) -> int:
    """Multiplications of every patch of the images with the weights, made up to a power of two."""
    _, numbers, channels = weight.shape
    return images[:, :, 0].numel() * (1 << numbers.bit_length()) * channels


def counted(work: Callable[[], object], device: str = "meta") -> Cost:
    """Of ``work``, step by step."""
    counting = Counting(device)
    with counting:
        work()
    return counting.cost


def segment(network: ConvNet, rule: Rule, steps: int) -> Cost:
    """One student's unroll and its gradient, with all that is done beside the steps."""
    student = student_of(network, BATCH, steps, "meta", augmentation=Augmentation())
    learned = learned_of(network, 2 * BATCH, "meta")
    at_once = rule.states or states_at_once(network, BATCH)
    whole, wanted = frozenset(range(steps)), frozenset([steps])

    def work() -> None:
        students = stack([student], steps, torch.device("meta"))
        carried_back(network, students, learned, wanted, rule, through=whole, hessian=True, at_once=at_once, traces=0)

    return counted(work)


def plain(network: ConvNet, steps: int) -> Cost:
    """The yardstick's segment."""
    student = student_of(network, BATCH, steps, "meta")
    return counted(lambda: yardstick(network, student, learned_of(network, 2 * BATCH, "meta")))


def parts(network: ConvNet, rule: Rule, device: str, students: int) -> dict[str, tuple[Callable[..., Any], Any]]:
    """Slopes and curvature of a step, and what they are called with."""
    step = step_of(network, rule.precision, kernels=rule.kernels)
    params = tuple(torch.randn(students, *shape, device=device) for shape in network.shapes)
    images = torch.randn(students, BATCH, network.channels, network.size, network.size, device=device)
    labels = torch.rand(students, BATCH, network.classes, device=device).softmax(2)
    return {
        "slopes": (step.slopes, (params, images, labels)),
        "curvature": (step.curvature, (params, params, images, labels, True)),
    }


def fused(function: Callable[..., Any], arguments: Any) -> dict[str, int]:
    """Bytes behind inductor's fusion, and kernels, those of convolutions and products included."""
    found: list[dict[str, int]] = []

    def planned(graph: GraphLowering) -> None:
        graph.codegen()
        found.append({"bytes": graph.count_bytes()[0], "kernels": len(graph.scheduler.nodes)})
        raise RuntimeError("planned")  # nothing is built, which would take minutes

    torch._dynamo.reset()
    with _replaced(planned), config.patch(fx_graph_cache=False):
        try:
            torch.compile(function, dynamic=False, fullgraph=True)(*arguments)
        except Exception:
            if not found:
                raise
    return found[0]


@contextmanager
def _replaced(planned: Callable[[GraphLowering], None]) -> Iterator[None]:
    """Inductor ends where it would build a module."""
    before = GraphLowering.compile_to_module
    GraphLowering.compile_to_module = planned  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        GraphLowering.compile_to_module = before  # type: ignore[method-assign]


def recipe(network: ConvNet, steps: int = STEPS, students: int = 2) -> dict[str, Any]:
    """A published recipe: one segment of the yardstick and of the engine, step by step and compiled."""
    ways: dict[str, Any] = {}
    ways["step by step, float32"] = _way(segment(network, Rule(), steps), room_for(network, Rule(), BATCH, steps))
    for how, kernels in (("", False), (", with kernels", True)):
        for name, states in (("", None), (", no step taken twice", steps)):
            rule = Rule(precision="bfloat16", states=states, kernels=kernels)
            room = room_for(network, rule, BATCH, steps)
            eager = segment(network, rule, steps).in_tf32()
            if not name:
                ways["step by step" + how] = _way(eager, room)
            ways["compiled" + how + name] = _way(_compiled(network, rule, eager, steps, room, students), room)
    return {
        "network": network.name,
        "side": network.size,
        "steps": steps,
        "batch": BATCH,
        "operations_told": steps * FORWARD_PASSES * operations(network, BATCH),
        "yardstick": asdict(plain(network, steps).in_tf32()),
        "ways": ways,
    }


def _way(cost: Cost, room: Room) -> dict[str, Any]:
    students = max(1, int(BYTES // room.bytes))
    return {**asdict(cost), "taken_twice": room.taken_twice, "bytes_each": room.bytes, "students": students}


def _compiled(network: ConvNet, rule: Rule, eager: Cost, steps: int, room: Room, students: int) -> Cost:
    """The eager segment with every step's slopes and curvature fused, each of them one launch."""
    times = {"slopes": steps + room.taken_twice, "curvature": steps}
    alone, several = parts(network, rule, "meta", 1), parts(network, rule, "cpu", students)
    found = eager
    for name, (function, arguments) in alone.items():
        apart = counted(lambda function=function, arguments=arguments: function(*arguments))  # type: ignore[misc]
        by = fused(*several[name])
        found = found.plus(Cost(1 - apart.launches, by["bytes"] / students - apart.bytes), times[name])
    return found


def teacher(name: str, *, half: bool, kernels: bool = False) -> Cost:
    """One step of one teacher: its batch, its gradient, its parameters; without the drawing, which the host does.

    ``kernels``: the gradient by hand, compiled; what ``half`` leaves in float32 is rounded to TF32 then.
    """
    network, count = TEACHERS[name], TEACHER_BATCH[name]
    every = LabelledImages(
        torch.empty(2 * count, network.channels, network.size, network.size, dtype=torch.uint8, device="meta"),
        torch.empty(2 * count, dtype=torch.int64, device="meta"),
        255,
        network.classes,
        Normalisation((0.5,), (0.25,)),
    )
    rows, draw = torch.arange(count), Augmentation().draw(count, stream(0, "draw"))
    flat = torch.empty(1, network.parameters, device="meta")

    def beside() -> None:
        F.one_hot(every.labels[rows], network.classes).to(draw.apply(every.inputs(rows)))
        found = [piece.unflatten(1, shape) for piece, shape in _pieces(flat, network)]
        flat.sub_(torch.cat([one.flatten(1) for one in found], 1), alpha=0.01)

    gradient = _by_kernels(network, count, half=half) if kernels else _gradient(network, count, half=half)
    return counted(beside).plus(gradient)


def _pieces(flat: Tensor, network: ConvNet) -> Iterator[tuple[Tensor, torch.Size]]:
    return zip(flat.split([shape.numel() for shape in network.shapes], 1), network.shapes, strict=True)


def _gradient(network: ConvNet, count: int, *, half: bool) -> Cost:
    with FakeTensorMode():  # not meta, which has no autocast; a CPU's and a GPU's round the same operations here
        params = tuple(torch.empty(1, *shape) for shape in network.shapes)
        images = torch.empty(1, count, network.channels, network.size, network.size)
        labels = torch.empty(1, count, network.classes)
        return counted(lambda: automatic_gradient(network, params, images, labels, autocast=half), "cpu")


def _by_kernels(network: ConvNet, count: int, *, half: bool) -> Cost:
    """One launch, as it is captured."""

    def work(params: Any, images: Tensor, labels: Tensor) -> Any:
        with torch.no_grad():
            return slopes(network, params, images, labels, torch.bfloat16 if half else torch.float32, gated=True)

    def arguments(device: str) -> Any:
        params = tuple(torch.randn(1, *shape, device=device) for shape in network.shapes)
        images = torch.randn(1, count, network.channels, network.size, network.size, device=device)
        return params, images, torch.rand(1, count, network.classes, device=device).softmax(2)

    given = arguments("meta")
    eager = counted(lambda: work(*given))
    found = replace(eager, launches=1, bytes=fused(work, arguments("cpu"))["bytes"])
    return found.in_tf32() if half else found


def goals(kept: dict[str, Any], card: Card) -> list[dict[str, Any]]:
    """Every goal, what the counts allow at most for each way, what bounds it, and whether that is enough."""
    small = kept["memory"]["80"] / kept["memory"]["10"]
    found = [
        _against("peak memory, N = 80 over N = 10, D3 28×28", 1.2, {"any": (small, "states")}, most=True),
        _against("segments a second over the yardstick, D3 32×32", 50, _ratios(kept["d3-32"], card)),
        _against("the same, D5 112×112", 15, _ratios(kept["d5-112"], card)),
        _against("share of the bf16 matrix rate, D5 112×112, in %", 35, _shares(kept["d5-112"], card)),
    ]
    whole = _minutes(kept["d5-112"], card)
    found.append(_against("10,000 segments of D5 112×112 within 24 GB, in minutes", 10, whole, most=True))
    covid = {way: Cost(**kept["teachers"]["covid"][way]) for way in TEACHER_WAYS}
    minutes = {way: _times(cost.seconds(card), TEACHER_STEPS / 60) for way, cost in covid.items()}
    found.append(_against("100 teachers × 50 epochs, D5 112×112, in minutes", 10, minutes, most=True))
    singly = {way: Cost(**kept["teachers"]["pneumonia"][way]) for way in TEACHER_WAYS if "float32" in way}
    at_once = {way: _gained(one, card) for way, one in singly.items()}
    found.append(_against(f"{AT_ONCE} teachers at once over one after another, PneumoniaMNIST", 20, at_once))
    return found


def _gained(one: Cost, card: Card) -> tuple[float, str]:
    """How many times faster so many at once are than one after another in the same way."""
    (alone, _), (many, bound) = one.seconds(card), one.seconds(card, AT_ONCE)
    return alone / many, bound


def _against(goal: str, reach: float, ways: dict[str, tuple[float, str]], *, most: bool = False) -> dict[str, Any]:
    rows = {way: {"figure": round(figure, 2), "bound": bound} for way, (figure, bound) in ways.items()}
    enough = [way for way, (figure, _) in ways.items() if (figure <= reach if most else figure >= reach)]
    return {"goal": goal, "reach": reach, "most": most, "ways": rows, "enough": enough}


def _times(bounded: tuple[float, str], factor: float) -> tuple[float, str]:
    return bounded[0] * factor, bounded[1]


def _of_segments(kept: dict[str, Any], card: Card) -> dict[str, tuple[float, str]]:
    """Seconds of a segment, as many side by side as 24 GB hold."""
    names = {one.name for one in fields(Cost)}
    return {
        way: Cost(**{name: row[name] for name in names}).seconds(card, row["students"])
        for way, row in kept["ways"].items()
    }


def _ratios(kept: dict[str, Any], card: Card) -> dict[str, tuple[float, str]]:
    beside, _ = Cost(**kept["yardstick"]).seconds(card)
    return {way: (beside / seconds, bound) for way, (seconds, bound) in _of_segments(kept, card).items()}


def _shares(kept: dict[str, Any], card: Card) -> dict[str, tuple[float, str]]:
    work = kept["operations_told"] / card.bfloat16
    return {way: (100 * work / seconds, bound) for way, (seconds, bound) in _of_segments(kept, card).items()}


def _minutes(kept: dict[str, Any], card: Card) -> dict[str, tuple[float, str]]:
    return {way: _times(bounded, 10_000 / 60) for way, bounded in _of_segments(kept, card).items()}


def table(kept: dict[str, Any]) -> str:
    """The record: what a segment costs, and the goals."""
    costs = [
        line
        for name, title in (("d3-32", "D3 32×32"), ("d5-112", "D5 112×112"))
        for line in (
            _line(f"{title}: yardstick", kept[name]["yardstick"], "", ""),
            *(
                _line(f"{title}: {way}", row, str(row["taken_twice"]), str(row["students"]))
                for way, row in kept[name]["ways"].items()
            ),
        )
    ]
    heads = ("one segment", "launches", "GB", "float32, TF32, bf16 in TFLOP", "steps taken twice", "students in 24 GB")
    rows = [
        (
            one["goal"],
            f"{'≤' if one['most'] else '≥'} {one['reach']}",
            "; ".join(f"{way}: {_figure(row['figure'])} ({row['bound']})" for way, row in one["ways"].items()),
            "; ".join(one["enough"]) or "out of reach",
        )
        for one in kept["goals"]
    ]
    return markdown(heads, costs) + "\n\n" + markdown(("goal", "reach", "at best (what bounds it)", "enough"), rows)


def _line(name: str, row: dict[str, float], twice: str, students: str) -> tuple[str, ...]:
    work = ", ".join(f"{row[kind] / 1e12:.2f}" for kind in ("float32", "tf32", "bfloat16"))
    return name, f"{row['launches']:,.0f}", f"{row['bytes'] / 1e9:,.1f}", work, twice, students


def _figure(value: float) -> str:
    """Two digits at least."""
    return f"{value:.0f}" if value >= 10 else f"{value:.{1 - math.floor(math.log10(value))}f}"


def measure(card: Card) -> dict[str, Any]:
    """The record."""
    kept: dict[str, Any] = {"date": today(), "torch": torch.__version__, "card": asdict(card)}
    for name, network in RECIPES.items():
        kept[name] = recipe(network)
    kept["teachers"] = {
        name: {
            "network": network.name,
            "batch": TEACHER_BATCH[name],
            **{way: asdict(teacher(name, half="bfloat16" in way, kernels="kernels" in way)) for way in TEACHER_WAYS},
        }
        for name, network in TEACHERS.items()
    }
    kept["memory"] = {str(steps): room_for(SMALL, Rule(), BATCH, steps).bytes for steps in (10, STEPS)}
    return kept | {"goals": goals(kept, card)}


def main() -> None:
    """Count, keep the record and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for field in fields(Card):
        parser.add_argument(f"--{field.name}", type=float, default=field.default, help="of the card, a second")
    parser.add_argument("--table", action="store_true", help="print the record as Markdown and stop")
    asked = parser.parse_args()
    if not asked.table:
        card = Card(*(getattr(asked, field.name) for field in fields(Card)))
        write_record(RECORD, measure(card))
    print(table(read_record(RECORD)))


if __name__ == "__main__":
    main()
