"""The gate: what was measured becomes options, and permission for at most one of them."""

from dataclasses import dataclass

import numpy as np

from encoders.basis import measure
from encoders.basis.measure import Bootstrap
from tasks.probed import Cost, Option, Strategy, Verdict
from tasks.trial import Tried

QUERY_MS = 500.0
"""What an option may add to a query, if nobody says otherwise: people notice half a second."""


@dataclass(frozen=True)
class Limits:
    """What an upgrade may cost: in `seconds` or in `money` to build, and in milliseconds a query."""

    seconds: float | None = None
    money: float | None = None
    query_ms: float = QUERY_MS
    min_gap_closed: float = 0.5

    def excess(self, cost: Cost) -> str | None:
        """What of a cost is over the limits, in words; None if nothing is."""
        if self.seconds is not None and cost.seconds > self.seconds:
            return f"takes {cost.seconds:,.0f} s, {self.seconds:,.0f} are allowed"
        if self.money is not None and (cost.money is None or cost.money > self.money):
            return "its price is not known" if cost.money is None else f"costs more than {self.money:,.2f}"
        if cost.query_ms > self.query_ms:
            return f"adds up to {cost.query_ms:,.0f} ms to a query, {self.query_ms:,.0f} are allowed"
        return None


@dataclass(frozen=True)
class Way:
    """One way to carry rows over, as measured: `scores` are float64 (queries,)."""

    strategy: Strategy
    tried: Tried | None
    cascade: int
    scores: np.ndarray
    cost: Cost

    @property
    def named(self) -> str:
        """As a person would call it."""
        parts = [self.strategy, f"by {self.tried.name}" if self.tried else ""]
        parts.append(f"with a cascade of {self.cascade}" if self.cascade else "")
        return " ".join(p for p in parts if p)


class Gate:
    """What passes, beside the status quo and the ceiling (float64 (queries,) each)."""

    def __init__(
        self, status_quo: np.ndarray, ceiling: np.ndarray, bootstrap: Bootstrap, limits: Limits
    ) -> None:
        self._status_quo, self._ceiling = status_quo, ceiling
        self._bootstrap, self._limits = bootstrap, limits

    def option(self, way: Way) -> Option:
        """A way with its intervals, and whether it passes."""
        gain = way.scores - self._status_quo
        low, high = self._bootstrap.interval(gain)
        mean, score = float(gain.mean()), float(way.scores.mean())
        excess = self._limits.excess(way.cost)
        passes = low > 0 and excess is None
        if low <= 0:
            why = f"no better than the status quo with confidence: {mean:+.3f} [{low:+.3f}, {high:+.3f}]"
        else:
            why = excess or f"better than the status quo by {mean:.3f} [{low:.3f}, {high:.3f}]"
        return Option(
            strategy=way.strategy,
            basis=way.tried.basis.family if way.tried else None,
            side=bool(way.tried and way.tried.with_side),
            cascade=way.cascade,
            score=score,
            interval=self._bootstrap.interval(way.scores),
            gain=(mean, low, high),
            gap_closed=measure.gap_closed(score, float(self._status_quo.mean()), float(self._ceiling.mean())),
            cost=way.cost,
            passes=passes,
            why=why,
        )

    def verdict(self, ways: list[Way]) -> Verdict:
        """The best way that passes; of those that it does not clearly beat the cheapest, then the simplest.

        Only those that close enough of the gap. If none does, to encode everything anew is the answer if it
        may be afforded, else to stay.
        """
        options = [(way, self.option(way)) for way in ways]
        carried = [(w, o) for w, o in options if o.passes and (w.strategy != "reencode" or _is_free(w))]
        full = next((o for w, o in options if w.strategy == "reencode"), None)
        if carried:
            best = max(carried, key=lambda pair: pair[1].score)
            near = [pair for pair in carried if self._no_worse(pair[0], best[0])]
            enough = [pair for pair in near if self._closes_enough(pair[1])]
            if enough:
                way, option = min(enough, key=lambda pair: (pair[1].cost.seconds, *_simplicity(pair[0])))
                closed = option.gap_closed
                share = "" if closed is None else f", {closed:.0%} of the way to encoding everything anew"
                return _verdict(way, f"{way.named} is {option.why}{share}")
            short = f"the best that passes, {best[0].named}, closes only {best[1].gap_closed:.0%} of the gap"
        else:
            short = "no way to carry the stored vectors over passes"
        if full is None:
            return Verdict("stay", 0, None, f"{short}, and the originals are not there to be encoded anew")
        if full.passes:
            return Verdict("reencode", 0, None, f"{short}; encoding everything anew is {full.why}")
        if full.gain[1] <= 0:
            low, high = full.gain[1:]
            return Verdict(
                "stay",
                0,
                None,
                "the new encoder is no better than the old one on these data, even with everything encoded "
                f"anew: {full.gain[0]:+.3f} [{low:+.3f}, {high:+.3f}]",
            )
        return Verdict("stay", 0, None, f"{short}, and encoding everything anew {full.why}")

    def _closes_enough(self, option: Option) -> bool:
        return option.gap_closed is None or option.gap_closed >= self._limits.min_gap_closed

    def _no_worse(self, way: Way, best: Way) -> bool:
        return way is best or self._bootstrap.interval(best.scores - way.scores)[0] <= 0


def smallest(tried: list[Tried], bootstrap: Bootstrap) -> Tried | None:
    """Of the bases that the best one does not clearly beat, the one with the fewest parameters."""
    if not tried:
        return None
    best = max(tried, key=lambda one: float(one.scores.mean()))
    near = [one for one in tried if one is best or bootstrap.interval(best.scores - one.scores)[0] <= 0]
    return min(near, key=lambda one: (one.basis.parameters, -float(one.scores.mean())))


def _is_free(way: Way) -> bool:
    """Nothing is left to encode: the probe has seen it all."""
    return way.cost.encode_rows == 0


def _simplicity(way: Way) -> tuple[int, int]:
    order: tuple[Strategy, ...] = ("reuse", "bridge", "map", "reencode")
    return way.cascade, order.index(way.strategy)


def _verdict(way: Way, reason: str) -> Verdict:
    return Verdict(way.strategy, way.cascade, way.tried.basis.family if way.tried else None, reason)
