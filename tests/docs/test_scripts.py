"""Benchmarks of a GPU go the way that they would go there, on a CPU: they must not fail on their first day."""

import pytest
from test_tables import loaded

from meddistill.distill.methods import METHODS
from meddistill.distill.unroll import Rule
from meddistill.nets.convnet import ConvNet

TINY = ConvNet(4, 2, 3, 8, 3)


@pytest.mark.parametrize("traces", [None, 2])
def test_a_published_recipe_is_checked_and_measured(traces):
    script = loaded("benchmarks/engine.py")
    found = script.recipe_rows("tiny", TINY, [1, 3], Rule(traces=traces), "cpu", steps=3)
    assert [(row["precision"], row["students"]) for row in found["rows"]] == [
        (precision, size) for precision in ("full", "bfloat16") for size in (1, 3)
    ]
    assert all(value > 0 for row in found["rows"] for value in row.values() if not isinstance(value, str))


def test_a_wrong_gradient_is_not_measured(monkeypatch):
    script, right = loaded("benchmarks/engine.py"), []
    many = script.unroll_many

    def wrong(network, students, *rest, **named):
        right.append(students)
        return many(network, students[: 1 + (len(right) == 1)], *rest, **named)

    monkeypatch.setattr(script, "unroll_many", wrong)
    with pytest.raises(SystemExit, match="the gradient on cpu is wrong"):
        script.recipe_rows("tiny", TINY, [1], Rule(), "cpu", steps=3)


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
