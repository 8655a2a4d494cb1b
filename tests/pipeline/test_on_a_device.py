"""The engine, the teachers and a whole distillation on every kind of device at hand: a CPU, and CUDA where it is.

``make gpu`` runs these before it measures anything.
"""

import pytest
import torch

from meddistill import api
from meddistill.distill.unroll import Batch, Learned, Rule, Student, unroll_many
from meddistill.distill.unroll.step import why_not_compiled
from meddistill.nets.augment import Augmentation
from meddistill.nets.convnet import ConvNet
from meddistill.nets.gradient import Kernels
from meddistill.runtime.device import choose
from meddistill.runtime.streams import stream
from meddistill.teachers.images import LabelledImages, Normalisation
from meddistill.teachers.train import TeacherPlan, train_teacher, train_teachers

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))
NETWORK = ConvNet(4, 2, 3, 8, 3)
# The least that goes through every stage.
SHORT = """
images_per_class = 2
size = 10
network = "convnet-d2-w4"
[teachers]
count = 2
steps = 9
snapshot_every = 3
batch = 8
arithmetic = "{arithmetic}"
[matching]
warm_up = 2
iterations = 3
student_steps = 2
segments_at_once = 3
segment = 1
batch = 4
precision = "{precision}"
[evaluation]
seeds = 2
"""


@pytest.fixture(params=["cpu", CUDA])
def device(request):
    """The settings of CUDA are those of the process: they are put back."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark
    yield choose(request.param)
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark = before


def gradient(where, rule, dtype=torch.float64):
    """Of three students with augmentation, scored in the middle and at the end."""
    generator = stream(0, "learned")
    learned = Learned(
        *(
            part.to(where, dtype)
            for part in (
                torch.randn(8, 3, 8, 8, generator=generator),
                torch.randn(8, 3, generator=generator),
                torch.tensor([-2.0]),
            )
        )
    )
    students = []
    for place in range(3):
        start = tuple(part.to(where, dtype) for part in NETWORK.init(stream(place, "start")))
        draws = stream(place, "batches")
        rows = [torch.randperm(8, generator=draws)[:4] for _ in range(4)]
        batches = [Batch(some, Augmentation().draw(4, draws)) for some in rows]
        students.append(
            Student(start, batches, lambda states: sum(p.square().sum() for s in (2, 4) for p in states[s]))
        )
    return unroll_many(NETWORK, students, learned, at=(2, 4), rule=rule, together=3).gradient


def squares(states):
    return sum(param.square().sum() for step in (2, 4) for param in states[step])


def apart(one, other):
    return max(
        float((a.cpu().double() - b).norm() / b.norm()) for a, b in zip(one.tensors(), other.tensors(), strict=True)
    )


@pytest.mark.parametrize("rule", [Rule(), Rule(momentum=0.9, states=2), Rule("two-pass"), Rule(traces=2)], ids=str)
def test_a_gradient_is_that_of_the_whole_graph_on_a_cpu(device, rule):
    plain = Rule("full" if rule.strategy == "adjoint" else "two-pass", momentum=rule.momentum)
    assert apart(gradient(device, rule), gradient("cpu", plain)) < 1e-9


@pytest.mark.parametrize("precision", ["full", "bfloat16"])
def test_a_rounded_gradient_is_near_it(device, precision):
    found = gradient(device, Rule(precision=precision), torch.float32)
    assert apart(found, gradient("cpu", Rule("full"))) < (1e-3 if precision == "full" else 0.1)


@pytest.mark.parametrize("precision", ["full", "bfloat16"])
def test_a_gradient_by_kernels_is_near_it(device, precision):
    """On a CPU by the plain functions in their place."""
    if device.type == "cuda":
        pytest.importorskip("triton")
    for compiled in (False, device.type == "cuda"):
        found = gradient(device, Rule(precision=precision, compiled=compiled, kernels=True), torch.float32)
        assert apart(found, gradient("cpu", Rule("full"))) < (1e-3 if precision == "full" else 0.1)
    assert device.type == "cpu" or why_not_compiled(NETWORK, precision, True) is None


@pytest.mark.parametrize("device", [CUDA], indirect=True)
def test_a_captured_step_is_the_step(device):
    found = gradient(device, Rule(compiled=True))
    assert why_not_compiled(NETWORK, "full") is None
    assert apart(found, gradient("cpu", Rule("full"))) < 1e-9


@pytest.mark.parametrize("kernels", [None, Kernels(), Kernels(compiled=True)], ids=["plain", "kernels", "compiled"])
def test_teachers_at_once_are_those_of_a_cpu(device, kernels):
    if kernels is not None and device.type == "cuda":
        pytest.importorskip("triton")
    if kernels is not None and kernels.compiled and device.type == "cpu":
        pytest.skip("takes a minute, for what a CPU never does")
    generator = stream(0, "images")
    pixels = torch.randint(256, (30, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(30) % 3
    plan = TeacherPlan(3, 6, 3, 5, 0.05, "balanced")

    def images(where):
        return LabelledImages(pixels.to(where), labels.to(where), 255, 3, Normalisation((0.5,) * 3, (0.25,) * 3))

    ends = []
    teachers = [0, 1, 2]
    train_teachers(
        NETWORK, images(device), plan, 0, teachers, keep=lambda state: ends.append(state.params), kernels=kernels
    )
    for teacher, end in enumerate(ends[-1]):
        alone = train_teacher(NETWORK, images("cpu"), plan, 0, teacher)
        assert float((end - alone[-1]).norm() / (alone[-1] - alone[0]).norm()) < 1e-2


@pytest.mark.parametrize(("precision", "arithmetic"), [("full", "float32"), ("bfloat16", "bfloat16")])
def test_a_whole_distillation_ends_with_a_package(device, source, precision, arithmetic, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text(SHORT.format(precision=precision, arithmetic=arithmetic))
    made = api.distill(source, tmp_path / "x.mdz", plan=plan, device=device.type)
    assert made.evaluated.results["test"]["distilled"]["balanced_accuracy"].mean > 0
