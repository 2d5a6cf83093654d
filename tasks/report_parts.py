"""What the sections of the report have in common."""

from tasks import charts, wording
from tasks.charts import Axis, Level
from tasks.markup import dim, isolated
from tasks.probed import Interval, Probed
from tasks.wording import score, span

STRATEGIES = {
    "bridge": "bridge: queries mapped into the old space",
    "map": "map: stored rows mapped into the new space",
    "reuse": "reuse: new queries, old rows",
    "reencode": "reencode: everything encoded again",
}


def measured_on(probed: Probed) -> str:
    """Sample size and tier in small print, to stand under numbers."""
    return dim(isolated(wording.measured_on(probed)))


def levels(probed: Probed) -> list[Level]:
    """What every chart compares with."""
    return [
        Level("status quo", probed.status_quo, probed.intervals["status_quo"]),
        Level("ceiling", probed.ceiling, probed.intervals["ceiling"]),
    ]


def scored(value: float, interval: Interval, axis: Axis, probed: Probed, kind: str) -> list[str]:
    """Two cells: the score with its interval, and the same as a strip."""
    number = f"<strong>{score(value)}</strong> {dim(span(interval))}"
    return [number, charts.strip(value, interval, axis, levels(probed), kind)]


def scrolled(content: str, label: str) -> str:
    """A wide table that scrolls by itself on a small screen, with the keyboard too."""
    return f'<div class="scroll" role="region" aria-label="{label}" tabindex="0">{content}</div>'


def figure(content: str, caption: str, probed: Probed) -> str:
    """A figure whose caption ends with what it was measured on."""
    return f"<figure>{content}<figcaption>{caption}{measured_on(probed)}</figcaption></figure>"
