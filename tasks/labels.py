"""Labels beside points of a chart, where there is room for them."""

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

LINE = 15.0
"""Pixels from one line of text to the next."""

_AROUND = [(math.cos(turn), math.sin(turn)) for turn in (math.tau * i / 16 for i in range(16))]
_NEAREST_FIRST = [_AROUND[i] for i in (0, 8, 12, 4, 14, 2, 10, 6, 15, 1, 9, 7, 13, 11, 3, 5)]
_NEAR, _FAR = (3.0, 8.0), (18.0, 30.0, 46.0, 66.0, 90.0, 118.0)
"""Pixels from the edge of a point to its label, without and with a line between them."""


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        """Whether the two have a point in common, edges apart."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom

    def holds(self, other: "Box") -> bool:
        """Whether the other lies inside."""
        wide = self.left <= other.left and other.right <= self.right
        return wide and self.top <= other.top and other.bottom <= self.bottom


@dataclass(frozen=True)
class Wish:
    """What a point wants to be called, the preferred text first; `far` lets a line lead to its label."""

    point: tuple[float, float]
    radius: float
    texts: Sequence[str]
    far: bool

    @property
    def covered(self) -> Box:
        """What the point itself covers."""
        (x, y), r = self.point, self.radius
        return Box(x - r, y - r, x + r, y + r)


@dataclass(frozen=True)
class Label:
    """A text that found its place; `far` if a line must lead to its point."""

    text: str
    box: Box
    anchor: Literal["start", "middle", "end"]
    far: bool


def width(text: str) -> float:
    """An upper estimate of how wide a text of 12 pixels is, whatever sans-serif the reader has."""
    return sum(13.0 if unicodedata.east_asian_width(c) in "WF" else 7.4 for c in text)


def placed(wishes: Sequence[Wish], within: Box, taken: Iterable[Box]) -> list[Label | None]:
    """A label for each point, or None where none has room; earlier wishes choose first.

    No label meets another, a point or a taken box, and all lie within the given box.
    """
    busy = [*taken, *(wish.covered for wish in wishes)]
    labels: list[Label | None] = []
    for wish in wishes:
        tried = (_free(wish, text, within, busy) for text in wish.texts)
        label = next((found for found in tried if found), None)
        labels.append(label)
        if label:
            busy.append(label.box)
    return labels


def _free(wish: Wish, text: str, within: Box, busy: list[Box]) -> Label | None:
    for gap in _NEAR + (_FAR if wish.far else ()):
        for across, down in _NEAREST_FIRST:
            label = _at(wish, text, gap, across, down)
            if within.holds(label.box) and not any(label.box.meets(box) for box in busy):
                return label
    return None


def _at(wish: Wish, text: str, gap: float, across: float, down: float) -> Label:
    wide, off = width(text), wish.radius + gap
    x, y = wish.point[0] + off * across, wish.point[1] + off * down
    anchor: Literal["start", "middle", "end"] = (
        "start" if across > 0.1 else "end" if across < -0.1 else "middle"
    )
    left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
    # The nearer the direction is to straight up or down, the more the box must stand off by its own height.
    top = y - LINE / 2 + down * LINE / 2
    return Label(text, Box(left, top, left + wide, top + LINE), anchor, gap > _NEAR[-1])
