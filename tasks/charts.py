"""Charts as inline SVG: no script, no font, colours from the page, so that they are right in the dark too.

Each chart is an image with a title; its numbers stand in a table beside it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tasks import labels
from tasks.labels import Box, Label, Wish
from tasks.markup import classed, escaped
from tasks.probed import Interval, Scores
from tasks.wording import count, duration, percent, score

_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 14.0, 14.0, 42.0
_POINT, _RING, _FEW = 6.0, 10.0, 12
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_TIMES = (
    *(0.001, 0.01, 0.1, 1, 2, 5, 10, 20, 30),
    *(m * _MINUTE for m in (1, 2, 5, 10, 20, 30)),
    *(h * _HOUR for h in (1, 2, 5, 10)),
    *(d * _DAY for d in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)),
)


@dataclass(frozen=True)
class Axis:
    """A range of values with the ticks to show; a logarithmic one holds positive values only."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...] = ()
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, from 0 to 1; what is outside lies at the end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def spaced(self, ticks: Sequence[tuple[float, str]], apart: float) -> "Axis":
        """The same with those of the ticks that are at least so far (a share of it) from the one before."""
        kept: list[tuple[float, str]] = []
        for value, text in ticks:
            inside = self.low <= value <= self.high
            if inside and (not kept or self.share(value) - self.share(kept[-1][0]) >= apart):
                kept.append((value, text))
        return replace(self, ticks=tuple(kept))


@dataclass(frozen=True)
class Level:
    """A score to compare with, as a line across a chart."""

    name: str
    value: float
    interval: Interval


@dataclass(frozen=True)
class Line:
    """Points of one curve, ascending in x; `intervals` is empty or has one for each."""

    xs: Sequence[float]
    ys: Sequence[float]
    intervals: Sequence[Interval] = ()


@dataclass(frozen=True)
class Spot:
    """An option in the plane of cost and quality; `far` lets a line lead to its label."""

    kind: str
    seconds: float
    score: float
    interval: Interval
    passes: bool
    chosen: bool
    texts: tuple[str, ...]
    far: bool
    title: str


def score_axis(label: str, values: Sequence[float]) -> Axis:
    """An axis that holds all values with some room above and below."""
    low, high = min(values), max(values)
    room = 0.09 * (high - low) or 0.05
    low, high = low - room, high + room
    step = _step((high - low) / 7)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    marks = (i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1))
    return Axis(label, low, high, tuple((m, f"{m:.{digits}f}".replace("-", "−")) for m in marks))


def focused_axis(label: str, values: Sequence[float], levels: Sequence[Level]) -> Axis:
    """An axis around the levels and their intervals; what lies far off stands at its end."""
    ends = [end for level in levels for end in level.interval]
    low, high = min(ends), max(ends)
    reach = 0.4 * (high - low) or math.inf
    near = [v for v in values if low - reach <= v <= high + reach]
    return score_axis(label, [low, high, *near])


def share_axis(label: str) -> Axis:
    """From nothing to all."""
    return Axis(label, 0.0, 1.0, tuple((tick / 4, percent(tick / 4)) for tick in range(5)))


def count_axis(label: str, counts: Sequence[int]) -> Axis:
    """A logarithmic axis whose ticks are the counts themselves, less those that would touch."""
    axis = Axis(label, max(1, min(counts)) * 0.9, max(*counts, 2) * 1.1, log=True)
    return axis.spaced([(float(c), count(c)) for c in sorted(set(counts))], 0.13)


def time_axis(label: str, seconds: Sequence[float], apart: float) -> Axis:
    """A logarithmic axis in units that people use; what takes no time stands at its start, as 0 s."""
    positive = [s for s in seconds if s >= _TIMES[0]] or [1.0]
    some = len(positive) == len(seconds)
    axis = Axis(label, min(positive) / (1.4 if some else 3), max(positive) * 1.4, log=True)
    ticks = [(float(t), duration(t)) for t in _TIMES]
    return axis.spaced(ticks if some else [(axis.low, "0 s"), *ticks], apart)


class _Plot:
    """The frame of a chart: axes, grid and levels, and where values lie in pixels."""

    def __init__(self, x: Axis, y: Axis, size: tuple[int, int]) -> None:
        self.x_axis, self.y_axis = x, y
        self.inside = Box(_LEFT, _TOP, size[0] - _RIGHT, size[1] - _BOTTOM)

    def x(self, value: float) -> float:
        return self.inside.left + self.x_axis.share(value) * (self.inside.right - self.inside.left)

    def y(self, value: float) -> float:
        return self.inside.bottom - self.y_axis.share(value) * (self.inside.bottom - self.inside.top)

    def at(self, xs: Sequence[float], ys: Sequence[float]) -> list[tuple[float, float]]:
        return [(self.x(x), self.y(y)) for x, y in zip(xs, ys, strict=True)]

    def across(self, kind: str, y: float) -> str:
        return _segment(kind, (self.inside.left, y), (self.inside.right, y))

    def frame(self) -> str:
        parts = [
            self.across("grid", self.y(v)) + _text(text, (self.inside.left - 7, self.y(v) + 4), "end")
            for v, text in self.y_axis.ticks
        ]
        return "".join(parts) + self.foot()

    def foot(self) -> str:
        """The axis below."""
        floor, right = self.inside.bottom, self.inside.right
        parts = [
            _segment("tick", (self.x(v), floor), (self.x(v), floor + 4))
            + _text(text, (self.x(v), floor + 17), "middle")
            for v, text in self.x_axis.ticks
        ]
        name = _text(self.x_axis.label, (right, floor + 35), "end", "name")
        return "".join(parts) + self.across("axis", floor) + name

    def levels(self, levels: Sequence[Level], points: Sequence[Box] = ()) -> tuple[str, list[Box]]:
        """Lines across with their bands, and what they cover.

        The highest has its name above it, the others below: at the left, unless points are in the way.
        """
        parts, boxes, left, right = [], [], self.inside.left, self.inside.right
        for place, level in enumerate(sorted(levels, key=lambda level: -level.value)):
            y, top, bottom = (self.y(v) for v in (level.value, level.interval[1], level.interval[0]))
            under, text = y - 5 if place == 0 else y + 14, f"{level.name} {score(level.value)}"
            wide = labels.width(text) + 5
            starts = (left, right - wide, left + (right - left - wide) / 2)
            places = [Box(x, under - 12, x + wide, under + 4) for x in starts]
            box = next((b for b in places if not any(b.meets(p) for p in points)), places[0])
            parts.append(
                f'<rect class="band" x="{left:.1f}" width="{right - left:.1f}" y="{top:.1f}" '
                f'height="{max(0.0, bottom - top):.1f}"/>{self.across("level", y)}'
                + _text(text, (box.left + 5, under), "start", "level")
            )
            boxes += [box, Box(left, y - 1, right, y + 1)]
        return "".join(parts), boxes


def curves(title: str, lines: Sequence[Line], x: Axis, levels: Sequence[Level]) -> str:
    """Scores over something, with what to compare them with; see `line_class` for how lines look."""
    size = (470, 300)
    ends = [end for line in lines for i in line.intervals for end in i]
    ends += [end for level in levels for end in level.interval]
    plot = _Plot(x, score_axis("", [*(y for line in lines for y in line.ys), *ends]), size)
    parts = [plot.frame(), plot.levels(levels)[0]]
    for number, line in enumerate(lines):
        at, kind = plot.at(line.xs, line.ys), line_class(number)
        if line.intervals:
            lower = plot.at(line.xs, [low for low, _ in line.intervals])
            upper = plot.at(line.xs, [high for _, high in line.intervals])
            parts.append(f'<polygon class="area {kind}" points="{_points([*upper, *lower[::-1]])}"/>')
        parts.append(f'<polyline class="line {kind}" points="{_points(at)}"/>')
        parts += [f'<circle class="dot {kind}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in at]
    return _svg(title, size, "".join(parts))


def line_class(number: int) -> str:
    """The class of the style sheet for the colour and the dashes of a line, counted from 0."""
    return f"line-{number % 6}"


def scatter(title: str, spots: Sequence[Spot], levels: Sequence[Level], size: tuple[int, int]) -> str:
    """Quality over the time it takes to get it; earlier spots get the better places for their labels.

    A score far below the levels stands at the lower edge, its label says so.
    """
    values = [value for spot in spots for value in (spot.score, *spot.interval)]
    times = time_axis("time to build (logarithmic)", [s.seconds for s in spots], 62 / size[0])
    plot = _Plot(times, focused_axis("", values, levels), size)
    at = plot.at([s.seconds for s in spots], [s.score for s in spots])
    wishes = [
        Wish(point, _RING if s.chosen else _POINT, [_with_score(t, s, plot.y_axis) for t in s.texts], s.far)
        for s, point in zip(spots, at, strict=True)
    ]
    across, busy = plot.levels(levels, [wish.covered for wish in wishes])
    whiskers, marks, names = [], [], []
    for spot, (x, y), label in zip(spots, at, labels.placed(wishes, plot.inside, busy), strict=True):
        low, high = (plot.y(end) for end in spot.interval)
        faint = " faint" if len(spots) > _FEW and not spot.far else ""
        whiskers.append(_segment(f"whisker {spot.kind}{faint}", (x, low), (x, high)))
        ring = f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="{_RING}"/>' if spot.chosen else ""
        shown = mark(spot.kind, (x, y), hollow=not spot.passes)
        marks.append(f"{ring}<g>{shown}<title>{escaped(spot.title)}</title></g>")
        names.append(_named(label, (x, y), spot.chosen) if label else "")
    return _svg(title, size, plot.frame() + across + "".join([*whiskers, *marks, *names]))


def _with_score(text: str, spot: Spot, axis: Axis) -> str:
    return f"{text} ↓ {score(spot.score)}" if spot.score < axis.low else text


def _named(label: Label, point: tuple[float, float], chosen: bool) -> str:
    box = label.box
    x = {"start": box.left, "middle": (box.left + box.right) / 2, "end": box.right}[label.anchor]
    near = (x, min(max(point[1], box.top), box.bottom))
    lead = _segment("lead", point, near) if label.far else ""
    return lead + _text(label.text, (x, box.bottom - 4), label.anchor, "chosen" if chosen else "")


def mark(kind: str, at: tuple[float, float], *, hollow: bool = False, form: str = "") -> str:
    """The sign of a strategy: told apart by its form, not by its colour alone; `form` shows another."""
    x, y = at
    path = {
        "bridge": f"M{x - 5:.1f} {y + 4.5:.1f}h10l-5 -9.5z",
        "reencode": f"M{x - 4.5:.1f} {y - 4.5:.1f}h9v9h-9z",
        "reuse": f"M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z",
        "left": f"M{x + 4:.1f} {y - 4.5:.1f}v9l-7 -4.5z",
        "right": f"M{x - 4:.1f} {y - 4.5:.1f}v9l7 -4.5z",
    }.get(form or kind, f"M{x - 4.8:.1f} {y:.1f}a4.8 4.8 0 1 0 9.6 0a4.8 4.8 0 1 0 -9.6 0z")
    return f'<path class="mark {kind}{" hollow" if hollow else ""}" d="{path}"/>'


def strip(value: float, interval: Interval, axis: Axis, levels: Sequence[Level], kind: str) -> str:
    """A score with its interval between the levels, for a cell of a table; the numbers stand beside it."""

    def x(v: float) -> float:
        return 6 + axis.share(v) * 108

    middle = 9.0
    lines = [_segment("level", (x(level.value), 0), (x(level.value), 18)) for level in levels]
    form = "left" if value < axis.low else "right" if value > axis.high else ""
    whisker = _segment(f"whisker {kind}", (x(interval[0]), middle), (x(interval[1]), middle))
    drawn = "".join(lines) + ("" if form else whisker) + mark(kind, (x(value), middle), form=form)
    return f'<svg class="strip" viewBox="0 0 120 18" aria-hidden="true">{drawn}</svg>'


def histograms(title: str, scores: Sequence[Scores]) -> str:
    """Distributions one under another on one axis, each by its own height, with its median."""
    row, tall, shown = 76.0, 48.0, [_trimmed(one) for one in scores]
    size = (470, int(_TOP + row * len(shown) + _BOTTOM))
    x = score_axis("raw score of a hit among the first ten", [edge for one in shown for edge in one.edges])
    plot = _Plot(x, x, size)
    parts = [plot.foot()]
    for number, one in enumerate(shown, 1):
        base, most, middle = _TOP + row * number, max(one.counts), plot.x(median(one))
        floor = plot.across("axis", base)
        steps = [(plot.x(one.edges[0]), base)]
        for n, left, right in zip(one.counts, one.edges, one.edges[1:], strict=False):
            steps += [(plot.x(left), base - tall * n / most), (plot.x(right), base - tall * n / most)]
        steps.append((plot.x(one.edges[-1]), base))
        parts.append(
            f'<polygon class="histogram {_origin(one)}" points="{_points(steps)}"/>{floor}'
            + _segment("median", (middle, base - tall - 4), (middle, base))
            + _text(one.origin, (_LEFT, base - tall + 2), "start", "chosen")
            + _text(f"median {score(median(one))}", (_LEFT, base - tall + 17), "start", "name")
        )
    return _svg(title, size, "".join(parts))


def median(scores: Scores) -> float:
    """The score that half of the hits exceed, linear inside a bin; not a number if there are none."""
    half, seen = sum(scores.counts) / 2, 0.0
    for n, left, right in zip(scores.counts, scores.edges, scores.edges[1:], strict=False):
        if n and seen + n >= half:
            return left + (right - left) * (half - seen) / n
        seen += n
    return math.nan


def above(scores: Scores, value: float) -> float:
    """The share of hits whose score is above a value, linear inside a bin."""
    total = 0.0
    for n, left, right in zip(scores.counts, scores.edges, scores.edges[1:], strict=False):
        total += n * min(1.0, max(0.0, (right - value) / (right - left)))
    return total / max(1, sum(scores.counts))


def _trimmed(scores: Scores) -> Scores:
    """Without empty bins at both ends."""
    filled = [i for i, n in enumerate(scores.counts) if n]
    first, last = filled[0], filled[-1] + 1
    return Scores(scores.origin, scores.edges[first : last + 1], scores.counts[first:last])


def _origin(scores: Scores) -> str:
    """A class of the style sheet; whatever else an origin is called looks like none of them."""
    return scores.origin if scores.origin in ("old", "encoded", "mapped", "bridged") else "other"


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _segment(kind: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    ends = f'x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
    return f"<line{classed(kind)} {ends}/>"


def _text(text: str, at: tuple[float, float], anchor: str, kind: str = "") -> str:
    place = f'x="{at[0]:.1f}" y="{at[1]:.1f}" text-anchor="{anchor}"'
    return f"<text{classed(kind)} {place}>{escaped(text, 100)}</text>"


def _step(rough: float) -> float:
    """The next larger of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)


def _svg(title: str, size: tuple[int, int], content: str) -> str:
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {size[0]} {size[1]}" style="max-width: {size[0]}px">'
        f"<title>{escaped(title)}</title>{content}</svg>"
    )
