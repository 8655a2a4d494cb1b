"""Small charts as inline SVG: intervals beside each other, curves, and how far confidence is to be believed.

Elements are built as a tree and serialised by the standard library, so no text can become markup. Colours come from the
page's style sheet by class names, so that dark mode and print change them; nothing carries a style of its own. All
lengths are in the units of the view box; the page scales it to the width there is. Values are 0, or
from 1e-30 to 1e30 in size.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

from meddistill.runtime.words import visible

Element = ElementTree.Element
Point = tuple[float, float]
# From a value to a place along an axis.
Scale = Callable[[float], float]

_WIDTH, _ROW, _AXIS = 300, 40, 24
_CURVE_WIDTH, _CURVE_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 360, 220, 46, 12, 26, 38
_SQUARE, _STRIP = 190, 24  # of a reliability diagram: its plot, and the strip below that tells how many answers
_LOG_SPAN = 50.0  # a curve whose largest value is so many times its smallest one gets a logarithmic axis
_NEAR = 9  # points around each that its smoothed curve is the median of


@dataclass(frozen=True)
class Interval:
    """A value, what it may be, and the single measurements it comes from; ``kind`` is a class of the style sheet."""

    name: str
    value: float
    low: float
    high: float
    each: tuple[float, ...] = ()
    kind: str = "s0"

    @property
    def has_interval(self) -> bool:
        """Whether the ends are those of an interval: of a single measurement they are the value."""
        return len(self.each) != 1


@dataclass(frozen=True)
class Curve:
    """Points from left to right; ``smoothed``: the median of its neighbours is drawn over every point."""

    name: str
    points: tuple[Point, ...]
    smoothed: bool = False


@dataclass(frozen=True)
class Band:
    """A stretch of the horizontal axis that means something."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True)
class Bin:
    """Answers of about one confidence: the mean of it, the share of them that is right, and their share of all."""

    confidence: float
    right: float
    share: float


def intervals(
    title: str, rows: Sequence[Interval], span: tuple[float, float], *, mark: float | None = None, scale: float = 100.0
) -> Markup:
    """One line for each row over a common axis from ``span[0]`` to ``span[1]``; a dashed line at ``mark``.

    What lies outside the span is cut off at its ends. Numbers are shown ``scale`` times as large.
    """
    height = len(rows) * _ROW + _AXIS
    svg = _svg(f"{title}. " + "; ".join(_spoken(row, scale) for row in rows), _WIDTH, height)
    low, high = span
    across: Scale = lambda value: 6 + (min(max(value, low), high) - low) / (high - low) * (_WIDTH - 12)  # noqa: E731
    bottom = height - _AXIS + 4
    for tick in ticks(low * scale, high * scale, 5):
        x = across(tick / scale)
        _line(svg, x, 4, x, bottom, "grid")
        _text(svg, min(max(x, 10), _WIDTH - 14), height - 5, _number(tick), "tick", "middle")
    if mark is not None:
        _line(svg, across(mark), 0, across(mark), bottom, "mark")
    for place, row in enumerate(rows):
        _interval(svg, row, place * _ROW + 4, across, scale)
    return _markup(svg)


def curves(
    title: str, across: str, lines: Sequence[Curve], bands: Sequence[Band] = (), *, logarithmic: bool | None = None
) -> Markup:
    """Curves over a common axis that is called ``across``; a logarithmic scale where the values span a wide range."""
    lines = [line for line in lines if line.points]
    every = [point for line in lines for point in line.points]
    values = [value for _, value in every]
    logs = min(values) > 0 and max(values) / min(values) > _LOG_SPAN if logarithmic is None else logarithmic
    svg = _svg(f"{title}. " + "; ".join(map(_told, lines)), _CURVE_WIDTH, _CURVE_HEIGHT)
    x_ticks = ticks(min(x for x, _ in every), max(x for x, _ in every), 5)
    y_ticks = _decades(values) if logs else ticks(min(values), max(values), 4)
    x_ends, y_ends = _ends(x_ticks, [x for x, _ in every]), _ends(y_ticks, values)
    x_of = _linear(x_ends, (_LEFT, _CURVE_WIDTH - _RIGHT))
    y_of = _scale(y_ends, (_CURVE_HEIGHT - _BOTTOM, _TOP), logs)
    _bands(svg, bands, x_of, x_ends)
    _axes(svg, x_ticks, y_ticks, x_of, y_of, across)
    for place, line in enumerate(lines):
        _curve(svg, line, f"s{place}", x_of, y_of)
    _legend(svg, lines)
    return _markup(svg)


def reliability(title: str, bins: Sequence[Bin | None], kind: str = "s0") -> Markup:
    """A bar for each bin, as high as the share that is right; dashed: as high as confidence that can be believed.

    ``bins`` cut confidence from 0 to 1 into equal parts; None is an empty one. The strip below shows shares of answers.
    """
    said = [f"{one.confidence:.0%} sure, {one.right:.0%} right" for one in bins if one is not None]
    left, top = 40, 8
    bottom, side = top + _SQUARE, 1.3 * _SQUARE
    svg = _svg(f"{title}. " + "; ".join(said), left + side + 12, bottom + _STRIP + 42)
    across, up = _linear((0, 1), (left, left + side)), _linear((0, 1), (bottom, top))
    for tick in ticks(0, 1, 5):
        _line(svg, left, up(tick), left + side, up(tick), "grid")
        _text(svg, left - 6, up(tick) + 4, f"{100 * tick:.0f}", "tick", "end")
        _text(svg, across(tick), bottom + _STRIP + 20, f"{100 * tick:.0f}", "tick", "middle")
    _text(svg, left + side / 2, bottom + _STRIP + 37, "confidence, per cent", "tick", "middle")
    most = max((one.share for one in bins if one is not None), default=1.0)
    for place, one in enumerate(bins):
        if one is not None:
            begin, end = across(place / len(bins)) + 1, across((place + 1) / len(bins)) - 1
            _bar(svg, (begin, end), up(one.right), bottom, f"bar {kind}")
            strip = bottom + 5
            _bar(svg, (begin, end), strip, strip + max(1.0, one.share / most * (_STRIP - 6)), "count")
    _line(svg, across(0), up(0), across(1), up(1), "mark")
    return _markup(svg)


def bar(shares: Sequence[float], title: str) -> Markup:
    """A bar cut into the shares, which sum to at most 1."""
    svg, begin = _svg(title, 100, 6), 0.0
    _add(svg, "rect", x=0, y=0, width=100, height=6, **{"class": "rest"})
    for place, share in enumerate(shares):
        _add(svg, "rect", x=begin, y=0, width=max(0.0, 100 * share), height=6, **{"class": f"fill c{place}"})
        begin += 100 * share
    return _markup(svg)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers that span ``low`` to ``high``: about so many, by steps of 1, 2 or 5 times a power of ten."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{place * step:.12g}") for place in range(first, last + 1)]


def smoothed(points: Sequence[Point], near: int = _NEAR) -> list[Point]:
    """Each point at the median of the ``near`` values around it, fewer at the ends."""
    half = near // 2
    found = []
    for place, (x, _) in enumerate(points):
        around = sorted(value for _, value in points[max(0, place - half) : place + half + 1])
        found.append((x, around[len(around) // 2]))
    return found


def _spoken(row: Interval, scale: float) -> str:
    low, value, high = (_figure(scale * number) for number in (row.low, row.value, row.high))
    return f"{row.name}: {value}" + (f", interval {low} to {high}" if row.has_interval else "")


def _told(line: Curve) -> str:
    (first, begin), (last, end) = line.points[0], line.points[-1]
    return f"{line.name}: {_number(begin)} at {_number(first)}, {_number(end)} at {_number(last)}"


def _interval(svg: Element, row: Interval, top: float, across: Scale, scale: float) -> None:
    y = top + 25
    _text(svg, 6, top + 13, row.name, "name", "start")
    low, value, high = (_figure(scale * number) for number in (row.low, row.value, row.high))
    _text(svg, _WIDTH - 6, top + 13, f"{value} ({low} to {high})" if row.has_interval else value, "value", "end")
    _line(svg, across(row.low), y, across(row.high), y, f"whisker {row.kind}")
    for one in row.each:
        _add(svg, "circle", cx=across(one), cy=y, r=2.4, **{"class": f"each {row.kind}"})
    _add(svg, "circle", cx=across(row.value), cy=y, r=5, **{"class": f"dot {row.kind}"})


def _curve(svg: Element, line: Curve, kind: str, x_of: Scale, y_of: Scale) -> None:
    if line.smoothed:
        _path(svg, line.points, f"raw {kind}", x_of, y_of)
    _path(svg, smoothed(line.points) if line.smoothed else line.points, f"curve {kind}", x_of, y_of)
    if len(line.points) <= 3 * _NEAR:
        for x, y in line.points:
            _add(svg, "circle", cx=x_of(x), cy=y_of(y), r=2.6, **{"class": f"dot {kind}"})


def _path(svg: Element, points: Iterable[Point], kind: str, x_of: Scale, y_of: Scale) -> None:
    places = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points)
    _add(svg, "polyline", points=places, **{"class": kind})


def _bar(svg: Element, ends: tuple[float, float], top: float, bottom: float, kind: str) -> None:
    _add(svg, "rect", x=ends[0], y=top, width=ends[1] - ends[0], height=bottom - top, **{"class": kind})


def _bands(svg: Element, bands: Sequence[Band], x_of: Scale, ends: tuple[float, float]) -> None:
    for band in bands:
        begin, end = (x_of(min(max(place, ends[0]), ends[1])) for place in (band.begin, band.end))
        _add(
            svg, "rect", x=begin, y=_TOP, width=end - begin, height=_CURVE_HEIGHT - _BOTTOM - _TOP, **{"class": "band"}
        )
        _text(svg, begin + 4, _CURVE_HEIGHT - _BOTTOM - 6, band.name, "tick", "start")


def _axes(
    svg: Element, x_ticks: Sequence[float], y_ticks: Sequence[float], x_of: Scale, y_of: Scale, across: str
) -> None:
    bottom = _CURVE_HEIGHT - _BOTTOM
    for tick in y_ticks:
        _line(svg, _LEFT, y_of(tick), _CURVE_WIDTH - _RIGHT, y_of(tick), "grid")
        _text(svg, _LEFT - 6, y_of(tick) + 4, _number(tick), "tick", "end")
    for tick in x_ticks:
        _line(svg, x_of(tick), bottom, x_of(tick), bottom + 4, "grid")
        _text(svg, x_of(tick), bottom + 16, _number(tick), "tick", "middle")
    _text(svg, (_LEFT + _CURVE_WIDTH - _RIGHT) / 2, _CURVE_HEIGHT - 5, across, "tick", "middle")


def _legend(svg: Element, lines: Sequence[Curve]) -> None:
    x = float(_LEFT)
    for place, line in enumerate(lines):
        _line(svg, x, 11, x + 18, 11, f"curve s{place}")
        _text(svg, x + 23, 15, line.name, "name", "start")
        x += 23 + 7.0 * len(line.name) + 14


def _decades(values: Sequence[float]) -> list[float]:
    """Powers of ten around positive values."""
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def _ends(marks: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    return min(*marks, *values), max(*marks, *values)


def _linear(values: tuple[float, float], places: tuple[float, float]) -> Scale:
    share = (places[1] - places[0]) / (values[1] - values[0])
    return lambda value: places[0] + (value - values[0]) * share


def _scale(values: tuple[float, float], places: tuple[float, float], logs: bool) -> Scale:
    if not logs:
        return _linear(values, places)
    linear = _linear((math.log10(values[0]), math.log10(values[1])), places)
    return lambda value: linear(math.log10(value))


def _svg(label: str, width: float, height: float) -> Element:
    """The root; what it says aloud is its label, which browsers that hover show as well."""
    shown = visible(label)
    return Element("svg", {"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": shown})


def _line(svg: Element, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
    _add(svg, "line", x1=x1, y1=y1, x2=x2, y2=y2, **{"class": kind})


def _text(svg: Element, x: float, y: float, text: str, kind: str, anchor: str) -> None:
    _add(svg, "text", x=x, y=y, **{"class": kind, "text-anchor": anchor}).text = visible(text)


def _add(parent: Element, tag: str, **attributes: float | str) -> Element:
    told = {name: value if isinstance(value, str) else f"{value:.4g}" for name, value in attributes.items()}
    return ElementTree.SubElement(parent, tag, told)


def _markup(svg: Element) -> Markup:
    return Markup(ElementTree.tostring(svg, encoding="unicode"))


def _number(value: float) -> str:
    """Of an axis."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"


def _figure(value: float) -> str:
    """Of an interval: as many digits as tell something."""
    return f"{value:.1f}" if abs(value) >= 1 or not value else f"{value:.2g}"
