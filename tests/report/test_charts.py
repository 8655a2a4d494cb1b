"""Charts: what is drawn stands where its axis says."""

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meddistill.report.charts import Band, Bin, Curve, Interval, bar, curves, intervals, reliability, smoothed, ticks

finite = st.floats(-1e6, 1e6).map(lambda value: value if abs(value) >= 1e-30 else 0.0)  # as logs are read


def places(svg, kind):
    return [element for element in ElementTree.fromstring(svg).iter() if kind in element.get("class", "").split()]


@given(finite, finite, st.integers(2, 6))
def test_ticks_span_what_they_are_for(one, other, about):
    low, high = sorted((one, other))
    found = ticks(low, high, about)
    assert found == sorted(set(found))
    assert 2 <= len(found) <= 2 * about + 3
    step = found[1] - found[0]
    assert found[0] <= low + 1e-6 * step
    assert found[-1] >= high - 1e-6 * step


def test_an_interval_stands_between_its_ticks():
    svg = intervals("t", [Interval("a", 0.75, 0.7, 0.8, (0.7, 0.8))], (0.5, 1.0), mark=0.5)
    (dot,) = places(svg, "dot")
    (whisker,) = places(svg, "whisker")
    ends = float(whisker.get("x1")), float(whisker.get("x2"))
    lines = sorted(float(line.get("x1")) for line in places(svg, "grid"))
    middle = (lines[0] + lines[-1]) / 2
    assert math.isclose(float(dot.get("cx")), middle, abs_tol=0.1)
    assert math.isclose(sum(ends) / 2, middle, abs_tol=0.1)
    assert math.isclose((ends[1] - ends[0]) / (lines[-1] - lines[0]), 0.1 / 0.5, abs_tol=0.01)
    assert [round(float(circle.get("cx"))) for circle in places(svg, "each")] == [round(end) for end in ends]


def test_a_single_measurement_has_no_interval():
    single, several = (
        intervals("t", [Interval("a", 0.6, 0.6, 0.6, each)], (0.5, 1.0)) for each in ((0.6,), (0.6, 0.6))
    )
    assert "60.0 to 60.0" not in single
    assert several.count("60.0 to 60.0") == 2


def test_what_lies_outside_the_axis_is_cut_off():
    (whisker,) = places(intervals("t", [Interval("a", 0.6, -3.0, 4.0)], (0.5, 1.0)), "whisker")
    assert 0 <= float(whisker.get("x1")) < float(whisker.get("x2")) <= 300


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=40), st.booleans())
def test_any_curve_stays_within_its_picture(points, as_smoothed):
    svg = curves("t", "x", [Curve("a", tuple(sorted(points)), smoothed=as_smoothed)], [Band("b", -5.0, 5.0)])
    for line in places(svg, "curve"):
        for pair in (line.get("points") or "").split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= 360
            assert 0 <= y <= 220


def test_values_of_many_sizes_get_a_logarithmic_axis():
    line = Curve("a", ((0.0, 0.01), (1.0, 1.0), (2.0, 100.0)))
    heights = [float(dot.get("cy")) for dot in places(curves("t", "x", [line]), "dot")]
    assert math.isclose(heights[0] - heights[1], heights[1] - heights[2], abs_tol=0.2)
    straight = [float(dot.get("cy")) for dot in places(curves("t", "x", [line], logarithmic=False), "dot")]
    assert straight[0] - straight[1] < 0.1 * (straight[1] - straight[2])


def test_a_single_outlier_does_not_move_the_smoothed_curve():
    points = [(float(x), 1.0) for x in range(20)]
    points[10] = (10.0, 99.0)
    assert smoothed(points) == [(float(x), 1.0) for x in range(20)]


def test_a_bar_is_cut_by_shares():
    parts = places(bar([0.75, 0.25], "t"), "fill")
    assert [float(part.get("width")) for part in parts] == [75.0, 25.0]
    assert [float(part.get("x")) for part in parts] == [0.0, 75.0]


def test_bars_of_a_reliability_diagram_are_as_high_as_what_was_right():
    drawn = ElementTree.fromstring(str(reliability("told", [None, Bin(0.75, 0.5, 0.25), Bin(0.9, 1.0, 0.75)], "s1")))
    bars = [one for one in drawn if one.get("class") == "bar s1"]
    heights = [float(one.get("height")) for one in bars]
    assert heights[1] == pytest.approx(2 * heights[0])
    assert float(bars[0].get("x")) + float(bars[0].get("width")) < float(bars[1].get("x"))
    strip = [float(one.get("height")) for one in drawn if one.get("class") == "count"]
    assert strip[1] == pytest.approx(3 * strip[0])
    assert "75% sure, 50% right" in drawn.get("aria-label")
