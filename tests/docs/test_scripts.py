"""Benchmarks of a GPU go the way that they would go there, on a CPU: they must not fail on their first day."""

import argparse
import json
from dataclasses import replace

import pytest
import torch
from test_tables import loaded

from meddistill.distill.methods import METHODS
from meddistill.distill.unroll import Rule
from meddistill.nets.convnet import ConvNet
from meddistill.runtime.errors import MeddistillError

TINY = ConvNet(4, 2, 3, 8, 3)
CPU = torch.device("cpu")


@pytest.fixture
def gpu():
    return loaded("benchmarks/gpu.py")


@pytest.mark.parametrize(
    "rule",
    [Rule(), Rule(traces=2), Rule(compiled=True), Rule(kernels=True)],
    ids=["plain", "traces", "compiled", "kernels"],
)
def test_a_published_recipe_is_measured_row_by_row(gpu, rule, monkeypatch):
    monkeypatch.setattr("meddistill.nets.compiled.has_compiler", lambda device: False)
    told = []
    found = gpu.recipe_rows("tiny", TINY, [1, 3], rule, "cpu", steps=3, told=lambda so: told.append(so["rows"][:]))
    assert [(row["precision"], row["students"], row["together"]) for row in found["rows"]] == [
        (precision, size, size) for precision in ("full", "bfloat16") for size in (1, 3)
    ]
    assert [len(rows) for rows in told] == [1, 2, 3, 4]
    assert all(value > 0 for row in found["rows"] for value in row.values() if not isinstance(value, str | bool))


def test_sizes_that_cannot_fit_are_left_out(gpu, monkeypatch):
    monkeypatch.setattr(gpu, "free_bytes", lambda device: 2 * gpu.bytes_each(TINY, Rule(), 1, 3, "cpu"))
    rows = gpu.recipe_rows("tiny", TINY, [1, 2, 64], Rule(), "cpu", steps=3)["rows"]
    assert {row["students"] for row in rows} == {1, 2}


def test_a_yardstick_without_memory_is_measured_with_fewer_steps(gpu, monkeypatch):
    plain = gpu.yardstick

    def scarce(network, student, learned):
        if len(student.batches) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(network, student, learned)

    monkeypatch.setattr(gpu, "yardstick", scarce)
    found = gpu.recipe_rows("tiny", TINY, [1], Rule(), "cpu", steps=8)
    assert (found["steps"], found["steps_of_yardstick"]) == (8, 2)


def test_the_yardstick_computes_as_pytorch_does_by_default(gpu, monkeypatch):
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "allow_tf32", False)
    monkeypatch.setattr(cudnn, "deterministic", True)
    seen = []
    monkeypatch.setattr(gpu, "yardstick", lambda *_: seen.append((cudnn.allow_tf32, cudnn.deterministic)))
    gpu.plainly(TINY, None, None)
    assert seen == [(True, False)]
    assert (cudnn.allow_tf32, cudnn.deterministic) == (False, True)


@pytest.mark.parametrize("part", ["images", "label_logits", "log_steps"])
def test_a_wrong_gradient_is_not_measured(gpu, monkeypatch, part):
    """A factor alone is enough: sums for means, say."""
    many, right = gpu.unroll_many, []

    def wrong(network, students, learned, **named):
        found = many(network, students, learned, **named)
        right.append(students)
        if len(right) <= 2:  # the CPU's own
            return found
        return replace(found, gradient=replace(found.gradient, **{part: 1.01 * getattr(found.gradient, part)}))

    monkeypatch.setattr(gpu, "unroll_many", wrong)
    with pytest.raises(SystemExit, match="the gradient on cpu is wrong"):
        gpu.check_on("cpu", TINY, Rule(), batch=4)


def test_every_recipe_is_checked_before_anything_is_measured(gpu, monkeypatch):
    done = []
    monkeypatch.setattr(gpu, "keep", lambda part, found: done.append(part))
    monkeypatch.setattr(gpu, "device_of", lambda device: {"device": "a card", "date": "today", "torch": "2"})
    monkeypatch.setattr(gpu, "memory_rows", lambda device, batches: [])
    monkeypatch.setattr(gpu, "SMALL", TINY)
    recipes = {"d3-32": TINY, "d5-112": replace(TINY, width=3)}
    which = {"only": None, "compiled": False, "kernels": False, "traces": None}
    asked = argparse.Namespace(**which, recipes=list(recipes), students=[1, 2])
    gpu.measure("cpu", asked, recipes, steps=2)
    names = [part.removeprefix("cpu a card ") for part in done]
    assert names[:3] == ["check", "check of kernels", "memory"]
    assert names[3:9] == [f"variants {name} students {size}" for name in ("d3-28", *recipes) for size in (1, 8)]
    assert names[9:] == ["d3-32"] * 4 + ["d5-112"] * 4


def test_kernels_are_checked_before_they_are_measured(gpu, monkeypatch):
    done = []
    monkeypatch.setattr(gpu, "keep", lambda part, found: done.append((part, found["found"])))
    monkeypatch.setattr(gpu, "device_of", lambda device: {"device": "a card"})
    asked = argparse.Namespace(only="kernels", recipes=["tiny"], compiled=False, kernels=True, traces=None)
    gpu.measure("cpu", asked, {"tiny": TINY})
    assert [part for part, _ in done] == ["cpu a card check kernels", "cpu a card kernels tiny kernels"]
    assert [(row["precision"], row["students"]) for row in done[1][1]] == [
        (precision, size) for precision in ("full", "bfloat16") for size in (1, 8, 23)
    ]
    monkeypatch.setattr(gpu.trial, "error_of", lambda found, exact: 1 + len(done))
    monkeypatch.setattr("meddistill.nets.trial._TIMES", 0.1)
    with pytest.raises(SystemExit, match="the kernels do not serve convnet-d2-w4 in full: they are wrong"):
        gpu.kernel_rows(TINY, Rule(), "cpu")


def test_what_a_child_says_of_its_end_is_seen(monkeypatch, capfd):
    script = loaded("benchmarks/engine.py")
    monkeypatch.setattr(script, "__file__", "no such file.py")
    with pytest.raises(SystemExit, match="measuring the memory of adjoint"):
        script.memory_rows("cpu", [2])
    assert "no such file" in capfd.readouterr().err


@pytest.mark.parametrize("compiled", [False, True])
def test_whole_runs_are_begun_as_they_would_be_and_stopped(monkeypatch, compiled):
    script, runs = loaded("benchmarks/whole_run.py"), []
    distilled = script.distill

    def watched(first, matching, plan, seed, **how):
        done = []
        enough = how["is_enough"]
        found = distilled(first, matching, plan, seed, is_enough=lambda count: done.append(count) or enough(count))
        runs.append((plan.iterations, plan.compiled, plan.segments_at_once, plan.student_steps, len(done)))
        return found

    monkeypatch.setattr(script, "distill", watched)
    monkeypatch.setattr("meddistill.distill.loop.pays", lambda *_: False)
    rows = script.rows_of(TINY, [1, 3], device="cpu", compiled=compiled, steps=4)
    assert [(row["precision"], row["segments_at_once"]) for row in rows] == [
        (precision, size) for precision in ("full", "bfloat16") for size in (1, 3)
    ]
    once = [(10_000 if size == 1 else 3334, compiled, size, 4, count) for size in (1, 3) for count in (2, 2, 6)]
    assert runs == 2 * once


@pytest.fixture
def teachers(monkeypatch, tmp_path):
    script = loaded("benchmarks/teachers.py")
    monkeypatch.setattr(script, "RECORD", tmp_path / "teachers.json")
    whole = script.load
    monkeypatch.setattr(script, "load", lambda source, size, device: first(whole(source, 8, device)))
    monkeypatch.setattr(script, "target", small_target(script.target))
    return script


def first(images):
    return images.subset(torch.cat([images.rows_of(label)[:8] for label in range(images.classes)]))


def small_target(whole):
    return lambda data, plan, device: whole(
        data, replace(plan, batch=4), device, size=8, network="convnet-d2-w4", count=2, epochs=1
    )


def asked_of(teachers, **how):
    asked = {"network": "convnet-d2-w4", "teachers": 3, "steps": 40, "batch": 4, "at_once": 3, "arithmetic": "float32"}
    asked |= {"rounds": 1, "data": teachers.EMBEDDED, "target": True}
    return argparse.Namespace(**asked | how)


@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_teachers_are_checked_raced_and_aimed(teachers, arithmetic, monkeypatch):
    planned = []
    monkeypatch.setattr(teachers, "side_by_side", lambda network, plan, device: planned.append(plan) or 1)
    monkeypatch.setattr(teachers, "parse", lambda name, **kind: ConvNet(4, 2, kind["channels"], 8, kind["classes"]))
    teachers.measure(asked_of(teachers, arithmetic=arithmetic), CPU)
    kept = json.loads(teachers.RECORD.read_text())
    assert list(kept) == ["cpu convnet-d2-w4", f"cpu target {arithmetic}"]
    assert kept["cpu convnet-d2-w4"]["race"]["at_once"]
    reached = kept[f"cpu target {arithmetic}"]
    assert reached["seconds"] >= 0 and reached["arithmetic"] == arithmetic
    assert reached["difference_from_alone"]["float64, 2 steps"] < 1e-9
    # What is said of the race is not said of the target, whose network and batch are far larger.
    assert [plan.at_once for plan in planned] == [3, 0]


def test_a_target_without_memory_loses_no_other_part(teachers, monkeypatch):
    monkeypatch.setattr(teachers, "parse", lambda name, **kind: ConvNet(4, 2, kind["channels"], 8, kind["classes"]))
    at_once = teachers.at_once

    def scarce(network, images, plan, *rest):
        if plan.at_once == 0:
            raise MeddistillError("teachers do not fit: set at_once lower")
        at_once(network, images, plan, *rest)

    monkeypatch.setattr(teachers, "at_once", scarce)
    with pytest.raises(SystemExit, match="set at_once lower"):
        teachers.measure(asked_of(teachers), CPU)
    kept = json.loads(teachers.RECORD.read_text())
    assert "race" in kept["cpu convnet-d2-w4"] and "set at_once lower" in kept["cpu target float32"]["failed"]


def test_costs_are_counted_by_launches_bytes_and_operations():
    script = loaded("benchmarks/counted.py")
    maps, weight = torch.empty(2, 3, 8, 8, device="meta"), torch.empty(5, 3, 3, 3, device="meta")
    found = script.counted(lambda: torch.nn.functional.conv2d(maps, weight, padding=1).flatten(1).relu())
    put_out = 2 * 5 * 64
    read = maps.numel() + weight.numel()
    assert found == script.Cost(2, 4 * (read + 3 * put_out), float32=2 * put_out * 27)


def test_a_recipe_is_counted():
    """A segment takes what the documentation says of a step: 3 F for slopes, 8 F for their curvature."""
    script = loaded("benchmarks/counted.py")
    network = replace(TINY, depth=3, width=32, size=16)
    short, long = (script.segment(network, Rule(states=9), steps) for steps in (2, 3))
    step = long.plus(short, -1)
    one = script.operations(network, script.BATCH)
    assert 10 * one < step.float32 < 11 * one  # the first layer has no tangent of its own
    assert step.launches < 700 and step.bytes > 0
    half = script.segment(network, Rule(precision="bfloat16", states=9), 3)
    assert half.float32 / long.float32 == pytest.approx(2 / 11, rel=0.1)
    assert half.float32 + half.bfloat16 == long.float32


def test_kernels_are_counted_by_what_they_read_and_put_out_and_multiply():
    """Of the maps of the first block nothing goes to memory, and of its convolutions nothing is left but products."""
    script = loaded("benchmarks/counted.py")
    network = replace(TINY, depth=1, width=32, size=16)
    plain, kernels = (
        script.segment(network, Rule(precision="bfloat16", states=9, kernels=kernels), 2) for kernels in (False, True)
    )
    assert plain.float32 and plain.bfloat16 and not plain.tf32
    pixels, made_up = script.BATCH * 16 * 16, 32  # of 27
    assert kernels == replace(kernels, float32=0, bfloat16=0, tf32=2 * 27 * 2 * pixels * made_up * 32)
    assert kernels.bytes < plain.bytes / 3


def test_a_teacher_by_kernels_is_counted(monkeypatch):
    """Compiled, its gradient is one launch of fewer bytes; in bfloat16 nothing is left to float32."""
    script = loaded("benchmarks/counted.py")
    monkeypatch.setitem(script.TEACHERS, "tiny", replace(TINY, depth=2, width=32, size=16))
    monkeypatch.setitem(script.TEACHER_BATCH, "tiny", 8)
    plain, exact, half = (
        script.teacher("tiny", half=half, kernels=kernels)
        for half, kernels in ((False, False), (False, True), (True, True))
    )
    assert exact.launches == half.launches < plain.launches / 2
    assert half.bytes < exact.bytes < plain.bytes
    assert half.float32 == 0 < half.bfloat16 < half.tf32 + half.bfloat16 == exact.float32 + exact.tf32


def test_a_bound_is_the_longest_of_three():
    script = loaded("benchmarks/counted.py")
    card = script.Card(memory=10, float32=1, tf32=2, bfloat16=4, launch=1)
    cost = script.Cost(launches=8, bytes=30, float32=1, tf32=1, bfloat16=2)
    assert cost.seconds(card) == (8, "launches")
    assert cost.seconds(card, together=4) == (3, "bytes")
    assert replace(cost, bytes=0).seconds(card, together=8) == (2, "operations")


def test_readings_begin_with_what_the_methods_have():
    script = loaded("benchmarks/readings.py")
    made = script.variants()
    assert len(made) == sum(len(values) - 1 for _, _, values in script.READINGS.values())
    assert all(made[name].name == name for name in made)
    for reading, (_, read, values) in script.READINGS.items():
        method = METHODS[script.method_of(reading)]
        own, *others = (read(method, value) for value in values)
        rules = [one.segments(4, 0, 8) for one in (own, method)]
        assert (own.distance, rules[0]) == (method.distance, rules[1])
        assert all((one.distance, one.segments(4, 0, 8)) != (own.distance, rules[0]) for one in others)
