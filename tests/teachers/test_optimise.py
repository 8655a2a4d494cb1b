"""Steps against their definitions, written out for one teacher at a time in float64 with the unbatched network."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from meddistill.nets.params import leaves, unflatten
from meddistill.runtime.streams import stream
from meddistill.teachers.optimise import climb
from meddistill.teachers.train import State, TeacherPlan, first_state, sampler, train_teachers

PLAN = TeacherPlan(count=3, steps=6, snapshot_every=2, batch=8, learning_rate=0.2, sampling="balanced")
TEACHERS = (4, 0, 7)
RULES = {
    "sgd": {"optimiser": "sgd"},
    "momentum and decay": {"momentum": 0.9, "decay": True},
    "sam": {"optimiser": "sam", "rho": 0.5},
    "adaptive sam": {"optimiser": "sam", "rho": 0.5, "adaptive": True},
    "gsam": {"optimiser": "gsam", "rho": 0.5, "alpha": 0.7},
    "adaptive gsam with momentum": {"optimiser": "gsam", "rho": 0.5, "alpha": 0.4, "adaptive": True, "momentum": 0.5},
}


def in_float64(network, plan):
    state = first_state(network, plan, 0, TEACHERS)
    return State(1, state.params.double(), None if state.velocity is None else state.velocity.double())


def points(network, images, plan, state):
    kept = [state.params]
    train_teachers(network, images, plan, 0, TEACHERS, state=state, keep=lambda new: kept.append(new.params))
    return torch.stack(kept, 1)


def written_out(network, images, plan, teacher, start):
    """One teacher, one tensor after another, as the papers have it."""
    params = [tensor.clone() for tensor in unflatten(start, network.shapes)]
    velocity = [torch.zeros_like(tensor) for tensor in params]
    kept, draw = [start], sampler(images, plan.sampling)

    def slope(at, inputs, labels):
        variables = leaves(tuple(at))
        return torch.autograd.grad(F.cross_entropy(network.apply(variables, inputs), labels), variables)

    def dot(one, other):
        return sum(float((a * b).sum()) for a, b in zip(one, other, strict=True))

    for step in range(plan.steps):
        generator = stream(0, "teacher", teacher, "step", step)
        rows = draw(plan.batch, generator)
        inputs = plan.augmentation.draw(plan.batch, generator).apply(images.inputs(rows).double())
        move = here = slope(params, inputs, images.labels[rows])
        if plan.optimiser != "sgd":
            weights = [tensor.abs() if plan.adaptive else torch.ones_like(tensor) for tensor in params]
            weighted = [w * g for w, g in zip(weights, here, strict=True)]
            length = math.sqrt(dot(weighted, weighted))
            top = [p + plan.rho * w * g / length for p, w, g in zip(params, weights, weighted, strict=True)]
            move = above = slope(top, inputs, images.labels[rows])
        if plan.optimiser == "gsam":
            along = dot(here, above) / dot(above, above)
            across = [h - along * a for h, a in zip(here, above, strict=True)]
            assert abs(dot(across, above)) < 1e-9
            move = [a - plan.alpha * c for a, c in zip(above, across, strict=True)]
        rate = plan.learning_rate * (0.5 * (1 + math.cos(math.pi * step / plan.steps)) if plan.decay else 1)
        velocity = [plan.momentum * v + m for v, m in zip(velocity, move, strict=True)]
        params = [p - rate * v for p, v in zip(params, velocity, strict=True)]
        if (step + 1) % plan.snapshot_every == 0:
            kept.append(torch.cat([tensor.reshape(-1) for tensor in params]))
    return torch.stack(kept)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_teachers_side_by_side_take_the_steps_of_the_papers(images, network, rule):
    plan = replace(PLAN, **rule)
    state = in_float64(network, plan)
    found = points(network, images, plan, state)
    for place, teacher in enumerate(TEACHERS):
        expected = written_out(network, images, plan, teacher, state.params[place])
        assert float((expected[-1] - expected[0]).norm()) > 0.01
        torch.testing.assert_close(found[place], expected, rtol=1e-9, atol=1e-11)


def test_every_rule_goes_elsewhere(images, network):
    state = in_float64(network, PLAN)
    with_velocity = replace(state, velocity=torch.zeros_like(state.params))
    ends = []
    for rule in RULES.values():
        plan = replace(PLAN, **rule)
        ends.append(points(network, images, plan, with_velocity if plan.momentum else state)[0, -1])
    assert all(float((one - other).norm()) > 1e-4 for k, one in enumerate(ends) for other in ends[:k])


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_climb_has_its_length_and_goes_up(adaptive):
    generator = stream(0, "climb")
    params, slope = torch.randn(2, 3, 50, generator=generator, dtype=torch.float64)
    way = climb(params, slope, 0.3, adaptive)
    lengths = (way / params if adaptive else way).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((3,), 0.3, dtype=torch.float64))
    assert ((way * slope).sum(1) > 0).all()


def test_nowhere_to_climb_is_no_climb():
    params = torch.randn(2, 5, generator=stream(0, "climb"))
    assert torch.equal(climb(params, torch.zeros_like(params), 0.1, False), torch.zeros_like(params))
