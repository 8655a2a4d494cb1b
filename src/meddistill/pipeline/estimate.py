"""What a plan will cost on this device, from a few real steps; and the plan that fits a given time."""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch

from meddistill.distill.distance import normalised_l2
from meddistill.distill.labels import classes_of, first_logits
from meddistill.distill.loop import student_batches
from meddistill.distill.matching.distribution import match_features
from meddistill.distill.objective import Objective, Scene
from meddistill.distill.unroll import Learned, unroll
from meddistill.distill.unroll.memory import SHARE_OF_SLOPES, SHARE_OF_TRACE, room_for, traces_at_once
from meddistill.nets.convnet import ConvNet, parse
from meddistill.nets.params import Params
from meddistill.pipeline.plan import Plan
from meddistill.runtime.crew import processes_for
from meddistill.runtime.device import as_one_process, give_back, is_out_of_memory
from meddistill.runtime.streams import stream
from meddistill.teachers.images import LabelledImages, Normalisation
from meddistill.teachers.train import State, side_by_side, too_large, train_teachers
from meddistill.train.protocol import Protocol, probabilities, real_set, scored_at_once, synthetic_set, train_network

_REPEATS = 3
# Shares of the time that is left after evaluation.
_TEACHING_SHARE = 0.35
_WARMING_SHARE = 0.5
_MOST_TEACHERS = 20
# Fewer are neither planned nor, when the time is up, done.
LEAST_ITERATIONS = 20
# Processes share caches and memory, and take seconds to start: together they do less than each would alone.
_HELPED = 0.75
_WIDTHS = {"cpu": (64, 32, 16), "cuda": (128, 64, 32), "mps": (128, 64, 32)}
# A wider network must be given at least this many times the standard plan's work before it pays.
_ENOUGH_FOR_WIDE, _ENOUGH = 4.0, 0.5
_MUCH = 1.25


@dataclass(frozen=True)
class Shape:
    """Of a cohort, what determines the cost of a plan."""

    channels: int
    classes: int
    train: int
    scored: int


@dataclass(frozen=True)
class Costs:
    """Seconds of one teacher step, one warm-up iteration, one of matching, one evaluated network, one on all images.

    That of teachers is a share of the time that several take at once: ``at_once`` of them take a step in ``at_once``
    times ``teacher_step``, and so do fewer. Networks are trained and scored by as many ``processes``, of which those
    that help hold ``helper_mb`` each at most, beside the images.
    """

    teacher_step: float
    warm_up: float
    iteration: float
    evaluation: float
    full: float
    at_once: int = 1
    processes: int = 1
    helper_mb: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """Seconds by stage, and the memory of all processes at its peak; not a number where the system does not tell it."""

    stages: dict[str, float]
    memory_mb: float

    @property
    def seconds(self) -> float:
        """All stages together."""
        return sum(self.stages.values())

    def as_dict(self) -> dict[str, object]:
        """JSON-able."""
        stages = {name: round(seconds, 1) for name, seconds in self.stages.items()}
        memory = round(self.memory_mb) if math.isfinite(self.memory_mb) else None
        return {"seconds": round(self.seconds, 1), "memory_mb": memory, "stages": stages}


def measure_costs(plan: Plan, shape: Shape, device: torch.device) -> Costs:
    """Take a few real steps of every stage on random images of the cohort's shape."""
    network = parse(plan.network, channels=shape.channels, size=plan.size, classes=shape.classes)
    images = _random_images(plan, shape, device)
    short = Protocol(steps=2, epochs=0)
    learned = _random_learned(plan, images)
    synthetic = synthetic_set(learned.images, learned.label_logits.softmax(1))
    with as_one_process(device):
        per_step = _seconds(lambda: train_network(network, synthetic, short, 0)) / 2
        full_step = _seconds(lambda: train_network(network, real_set(images), short, 0)) / 2
        score = _seconds(lambda: probabilities(network, _params(network, device), images)) / len(images)
    protocol = Protocol()
    count = plan.count(shape.classes)
    scoring = score * shape.scored
    at_once = max(1, min(plan.teachers.count, _at_once(plan, network, device)))
    teacher_step = _teacher_seconds(plan, network, images, at_once) if plan.teachers.count else 0.0
    helper_mb = _peak_memory_mb()  # by now this process has done all that helpers do, and nothing else
    return Costs(
        teacher_step=teacher_step,
        warm_up=_warm_up_seconds(plan, network, learned, images),
        iteration=_iteration_seconds(plan, network, learned, images),
        evaluation=protocol.steps_for(count) * per_step + scoring,
        full=protocol.steps_for(shape.train) * full_step + scoring,
        at_once=at_once,
        processes=processes_for(device),
        helper_mb=helper_mb,
    )


def too_long(expected: Estimate, seconds: float) -> str | None:
    """What to tell where even the smallest plan takes much longer than the ``seconds`` that there are."""
    if expected.seconds <= _MUCH * seconds:
        return None
    return (
        f"the smallest plan takes about {expected.seconds:.0f} s, of which {expected.stages['evaluating']:.0f} s to "
        f"evaluate, and {seconds:.0f} s are left: give it more time, or evaluate fewer networks (--seeds)"
    )


def estimate(plan: Plan, costs: Costs, shape: Shape) -> Estimate:
    """Time and memory of the whole plan."""
    rows = plan.evaluation.seeds * (1 + plan.evaluation.random_sets)
    networks = [costs.evaluation] * rows + [costs.full] * (plan.evaluation.full_data * plan.evaluation.seeds)
    rounds = math.ceil(plan.teachers.count / costs.at_once)
    stages = {
        "teaching": rounds * costs.at_once * plan.teachers.steps * costs.teacher_step,
        "warming up": plan.matching.warm_up * costs.warm_up,
        "distilling": plan.matching.iterations * costs.iteration,
        "evaluating": _side_by_side(networks, costs.processes),
    }
    pixels = (shape.train + shape.scored) * shape.channels * plan.size**2
    helpers = min(costs.processes, max(1, plan.teachers.count, len(networks))) - 1
    return Estimate(stages, _peak_memory_mb() + pixels / 1e6 + helpers * (costs.helper_mb + pixels / 1e6))


def fit_to_time(
    plan: Plan, seconds: float, shape: Shape, device: torch.device, *, named: bool = False
) -> tuple[Plan, Costs]:
    """The plan with as wide a network, as many teachers and as many iterations as ``seconds`` allow.

    The narrowest network with a tenth of the standard work is the least that is planned, whatever the time. ``named``:
    the user chose the network, which stays as it is.
    """
    network = parse(plan.network, channels=shape.channels, size=plan.size, classes=shape.classes)
    widths = (network.width,) if named else _WIDTHS.get(device.type, _WIDTHS["cpu"])
    for width in widths:
        candidate = replace(plan, network=replace(network, width=width).name)
        costs = measure_costs(candidate, shape, device)
        scale = _scale(candidate, costs, seconds, shape)
        if scale >= (_ENOUGH_FOR_WIDE if width == widths[0] else _ENOUGH) or width == widths[-1]:
            break
    return _scaled(candidate, max(scale, 0.1), costs), costs


def _scale(plan: Plan, costs: Costs, seconds: float, shape: Shape) -> float:
    """How many times the standard work of teaching and distilling fits."""
    stages = estimate(plan, costs, shape).stages
    return (seconds - stages.pop("evaluating")) / sum(stages.values())


def _scaled(plan: Plan, scale: float, costs: Costs) -> Plan:
    """Teachers get at most a third of the work, and there are more than the standard number only where there is more
    than the standard work; warming up gets at most half of what is left, for its iterations do most where there is
    little time; matching gets the rest.
    """
    one_teacher = plan.teachers.steps * costs.teacher_step
    standard = plan.matching
    warming = standard.warm_up * costs.warm_up
    work = scale * (plan.teachers.count * one_teacher + warming + standard.iterations * costs.iteration)
    wanted = min(_MOST_TEACHERS, round(plan.teachers.count * max(1.0, scale)))
    teachers = max(1, min(wanted, round(_TEACHING_SHARE * work / one_teacher))) if wanted else 0
    left = max(0.0, work - teachers * one_teacher)
    warm_up = min(standard.warm_up, int(_WARMING_SHARE * left / costs.warm_up)) if standard.warm_up else 0
    iterations = max(LEAST_ITERATIONS, int((left - warm_up * costs.warm_up) / costs.iteration))
    matching = replace(standard, warm_up=warm_up, iterations=min(iterations, 20_000))
    return replace(plan, teachers=replace(plan.teachers, count=teachers), matching=matching)


def _random_images(plan: Plan, shape: Shape, device: torch.device) -> LabelledImages:
    generator = stream(0, "estimate")
    count = max(plan.teachers.batch, 64, shape.classes, scored_at_once(plan.size, device))
    pixels = torch.randint(
        0, 256, (count, shape.channels, plan.size, plan.size), generator=generator, dtype=torch.uint8
    )
    labels = torch.arange(count) % shape.classes
    normalisation = Normalisation((0.5,) * shape.channels, (0.25,) * shape.channels)
    return LabelledImages(pixels.to(device), labels.to(device), 255, shape.classes, normalisation)


def _random_learned(plan: Plan, images: LabelledImages) -> Learned:
    labels = classes_of(plan.count(images.classes), images.classes)
    shape = (len(labels), *images.pixels.shape[1:])
    pictures = torch.randn(shape, generator=stream(0, "estimate", "synthetic"))
    logits = first_logits(labels, images.classes, "learned")
    steps = torch.full((plan.step_sizes(images.classes),), plan.matching.step_size).log()
    return Learned(*(tensor.to(images.device) for tensor in (pictures, logits, steps)))


def _at_once(plan: Plan, network: ConvNet, device: torch.device) -> int:
    """Teachers that are trained at the same time: in as many processes, or side by side on a GPU."""
    return max(processes_for(device), side_by_side(network, plan.teacher_plan(), device))


def _teacher_seconds(plan: Plan, network: ConvNet, images: LabelledImages, at_once: int) -> float:
    """One step of one teacher, a share of the time that ``at_once`` take; on a CPU from one that trains alone.

    Where memory runs out, of half as many, as the run will train them.
    """
    teaching, device = replace(plan.teacher_plan(), steps=2, snapshot_every=2), images.device
    on_cpu = device.type == "cpu"

    def of(count: int) -> float | None:
        """Seconds for a step of so many side by side; None where they do not fit."""
        try:
            return _seconds(lambda: train_teachers(network, images, teaching, 0, range(count), keep=_forget)) / 2
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    count = 1 if on_cpu else at_once
    with as_one_process(device):
        while (seconds := of(count)) is None:
            if count == 1:
                raise too_large(teaching, device)
            give_back(device)
            count //= 2
    return seconds / (together(at_once) if on_cpu else count)


def _forget(_state: State) -> None:
    return


def _side_by_side(seconds: Sequence[float], processes: int) -> float:
    """What jobs take that each take so many ``seconds`` alone: no less than the longest."""
    return max([sum(seconds) / together(min(processes, len(seconds))), *seconds])


def together(processes: int) -> float:
    """How many times as much as one process alone they do."""
    return max(1.0, _HELPED * processes)


def _warm_up_seconds(plan: Plan, network: ConvNet, learned: Learned, images: LabelledImages) -> float:
    params, augmentation, real = _params(network, images.device), plan.augmentation, plan.matching.real_images

    def one() -> None:
        match_features(network, params, learned, images, augmentation, stream(0, "estimate", "features"), real)

    return _seconds(one)


def _iteration_seconds(plan: Plan, network: ConvNet, learned: Learned, images: LabelledImages) -> float:
    objective = plan.objective()
    if objective is None:
        return _segment_seconds(plan, network, learned)
    return _objective_seconds(objective, plan, network, learned, images)


def _objective_seconds(
    objective: Objective, plan: Plan, network: ConvNet, learned: Learned, images: LabelledImages
) -> float:
    """A whole iteration, and not the first, which has nothing to carry on: the second carries on what that left."""
    ends = _params(network, images.device), _params(network, images.device, "target")
    loop = plan.loop_plan((0, 0))
    scene = Scene(
        network=network,
        images=images,
        augmentation=loop.augmentation,
        rule=replace(loop.rule, compiled=False, kernels=False),
        real_images=loop.real_images,
        at_once=loop.segments_at_once,
        together=loop.together,
        seed=0,
        iteration=1,
        teacher=lambda generator: ends,
    )
    carried = objective.outcome(replace(scene, iteration=0), learned, ()).carried
    return _seconds(lambda: objective.outcome(scene, learned, carried))


def _segment_seconds(plan: Plan, network: ConvNet, learned: Learned) -> float:
    """One iteration takes S unrolls of N steps; two are timed, which cost what others do but for those taken twice.

    And for those that leave no trace where these two do.
    """
    steps = min(2, plan.matching.student_steps)
    loop, every = plan.loop_plan((0, 0)), plan.matching.student_steps
    batch = loop.batch_of(len(learned.images))
    loop = replace(loop, student_steps=steps, batch=batch)  # a usual batch depends on the steps: the run's is timed
    start, target = _params(network, learned.images.device), _params(network, learned.images.device, "target")

    def score(states: Mapping[int, Params]) -> torch.Tensor:
        return normalised_l2(states[steps], target, start)

    def one() -> None:
        batches = student_batches(len(learned.images), loop, stream(0, "estimate", "batches"))
        unroll(network, start, learned, batches, score, rule=replace(loop.rule, compiled=False, kernels=False))

    asked = len(loop.distance.looks_at(every))
    traces = traces_at_once(network, loop.rule, batch, learned.images.device)
    whole = room_for(network, loop.rule, batch, every, asked, traces)
    more = SHARE_OF_SLOPES * whole.taken_twice + (SHARE_OF_TRACE * whole.untraced if traces >= steps else 0)
    return _seconds(one) * (every + more) / steps * plan.matching.segments_at_once


def _params(network: ConvNet, device: torch.device, name: str = "start") -> Params:
    return tuple(param.to(device) for param in network.init(stream(0, "estimate", name)))


def _seconds(work: Callable[[], object]) -> float:
    """The median of a few runs after one to warm up."""
    work()
    times = []
    for _ in range(_REPEATS):
        _wait()
        begun = time.perf_counter()
        work()
        _wait()
        times.append(time.perf_counter() - begun)
    return median(times)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak_memory_mb() -> float:
    """The most memory this process has held, the measured steps included; on a GPU what its allocator has held too.

    Not a number on Windows.
    """
    try:
        import resource
    except ImportError:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return peak + (torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else 0)
