"""The trial of a probe: every basis is fitted on some of the sampled items and measured on those held out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from encoders.basis import calibrate, measure
from encoders.basis.calibrate import Calibration
from encoders.basis.families import FAMILIES, Family
from encoders.basis.fit import fit
from encoders.basis.measure import Bootstrap, Truth
from encoders.basis.spec import Basis, Direction, Space
from encoders.errors import BasisUnfit
from tasks.progress import Progress

DEPTH_GROWS = 0.5
"""A cascade of N over a whole collection is measured at N × (gallery / collection) ^ this in the gallery."""

FIT_SECONDS = 60.0
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
_MIXED = (0.1, 0.5, 0.9)
_CURVE = (250, 500, 1_000, 2_000, 4_000, 8_000)
_SEED = 0
_TIE = 1e-6


@dataclass(frozen=True)
class Arrays:
    """Vectors of some chunks: of the old space, of the new, and side features (None without), float32."""

    old: np.ndarray
    new: np.ndarray
    side: np.ndarray | None

    def at(self, rows: np.ndarray) -> "Arrays":
        """Those of these rows."""
        return Arrays(self.old[rows], self.new[rows], None if self.side is None else self.side[rows])


@dataclass(frozen=True)
class Held:
    """What is measured with: the gallery's chunks, the queries, and what each should find.

    `first` (items,) is where the rows of each item begin. `served` are the vectors that readers get now,
    and `ask_served` the queries that they meet (None: nobody can ask); `ask_new` are the queries by the
    new encoder.
    """

    gallery: Arrays
    served: np.ndarray
    first: np.ndarray
    ask_served: np.ndarray | None
    ask_new: np.ndarray
    truth: Truth


@dataclass(frozen=True)
class Tried:
    """A basis as it was fitted and measured: `scores` float64 (queries,), alone and without a cascade."""

    basis: Basis
    with_side: bool
    seconds: float
    scores: np.ndarray

    @property
    def name(self) -> str:
        return self.basis.family + (" + side features" if self.with_side else "")


@dataclass(frozen=True)
class Mixed:
    """Rows of one space, mapped and encoded in one ranking, at several shares of encoded ones.

    `curves` are by order, at `SHARES`; `calibrations` by origin, where they were found to help.
    """

    curves: dict[str, tuple[float, ...]]
    calibrations: dict[str, Calibration]


class Trial:
    """Fits on `pairs`, measures on `held`. `rows` is the size of the collection, for the cascades."""

    def __init__(self, pairs: Arrays, held: Held, source: Space, target: Space, side: str, rows: int) -> None:
        self.pairs, self.held, self._side = pairs, held, side
        self._source, self._target, self._rows = source, target, rows
        self.bootstrap = Bootstrap(len(held.truth.relevant), _SEED)

    @cached_property
    def status_quo(self) -> np.ndarray:
        """Old queries, old rows: what readers get now; float64 (queries,). Zero where nobody can ask."""
        return np.zeros(len(self.held.truth.relevant)) if self.served is None else self._scored(self.served)

    @cached_property
    def served(self) -> np.ndarray | None:
        """Scores (queries, rows) of what readers get now; None where nobody can ask."""
        asked = self.held.ask_served
        return None if asked is None else measure.cosines(asked, self.held.served)

    @cached_property
    def naive_swap(self) -> np.ndarray:
        """New queries, old rows, as if the spaces were one; the longer vectors are cut to the shorter."""
        dim = min(self.held.ask_new.shape[1], self.held.served.shape[1])
        return self._scored(measure.cosines(self.held.ask_new[:, :dim], self.held.served[:, :dim]))

    @cached_property
    def ceiling(self) -> np.ndarray:
        """New queries, all rows encoded anew."""
        return self._scored(self.native)

    @cached_property
    def native(self) -> np.ndarray:
        """Scores (queries, rows) with all rows encoded anew."""
        return measure.cosines(self.held.ask_new, self.held.gallery.new)

    def families(
        self, names: Sequence[str], directions: Sequence[Direction], progress: Progress
    ) -> list[Tried]:
        """Every one of these families that can be fitted so, with side features and without."""
        wanted = [
            (family.name, direction, with_side)
            for direction in directions
            for family in (FAMILIES[name] for name in names)
            if direction in family.directions
            for with_side in self._sides(family, direction)
        ]
        tried = []
        for at, (name, direction, with_side) in enumerate(wanted, start=1):
            found = self.tried(name, direction, with_side=with_side)
            tried += [found] if found is not None else []
            progress(at, len(wanted), at, "bases fitted and measured")
        return tried

    def _sides(self, family: Family, direction: Direction) -> tuple[bool, ...]:
        able = self.pairs.side is not None and family.takes_side and direction == "rows"
        return (False, True) if able else (False,)

    def tried(self, family: str, direction: Direction, *, with_side: bool, pairs: int = 0) -> Tried | None:
        """A family, fitted on the first `pairs` pairs (0: all) and measured; None if it cannot be fitted."""
        arrays = self.pairs.at(np.arange(pairs)) if pairs else self.pairs
        started = time.monotonic()
        try:
            basis = self.fitted(arrays, family, direction, with_side=with_side)
        except BasisUnfit:
            return None
        seconds = time.monotonic() - started
        return Tried(basis, with_side, seconds, self._scored(self.recall(basis)))

    def fitted(self, arrays: Arrays, family: str, direction: Direction, *, with_side: bool) -> Basis:
        """A family fitted on these pairs. Raises `BasisUnfit`."""
        rows = direction == "rows"
        return fit(
            family,
            arrays.old if rows else arrays.new,
            arrays.new if rows else arrays.old,
            source=self._source if rows else self._target,
            target=self._target if rows else self._source,
            direction=direction,
            side=arrays.side if with_side else None,
            side_fingerprint=self._side if with_side else "",
            seed=_SEED,
            seconds=FIT_SECONDS,
        )

    def recall(self, basis: Basis) -> np.ndarray:
        """Scores (queries, rows) of the gallery by a basis: mapped queries or mapped rows."""
        gallery = self.held.gallery
        if basis.direction == "queries":
            asked = basis.apply(self.held.ask_new, space=self._target, direction="queries")
            return measure.cosines(asked, gallery.old)
        return measure.cosines(self.held.ask_new, self.mapped(basis))

    def mapped(self, basis: Basis) -> np.ndarray:
        """The gallery's old rows in the new space."""
        side = self.held.gallery.side if basis.side else None
        return basis.apply(self.held.gallery.old, side, space=self._source, direction="rows")

    def depth(self, cascade: int) -> int:
        """Rows of the gallery that stand for the candidates of a cascade over the whole collection."""
        rows = len(self.held.gallery.old)
        share: float = min(1.0, rows / max(self._rows, 1)) ** DEPTH_GROWS
        return min(rows, max(measure.K, round(cascade * share)))

    def cascaded(self, basis: Basis, cascade: int) -> np.ndarray:
        """Scores of the queries if the best candidates are encoded natively and ranked again."""
        return self._scored(measure.cascaded(self.recall(basis), self.native, self.depth(cascade)))

    def pair_curve(self, chosen: Tried) -> list[tuple[int, np.ndarray]]:
        """The chosen family on fewer pairs: (pairs, scores)."""
        counts = [n for n in _CURVE if n < len(self.pairs.old)]
        if not FAMILIES[chosen.basis.family].closed_form:
            counts = counts[1::2]  # each takes as long as the fit itself
        points = []
        for count in counts:
            found = self.tried(
                chosen.basis.family, chosen.basis.direction, with_side=chosen.with_side, pairs=count
            )
            points += [(count, found.scores)] if found is not None else []
        return [*points, (len(self.pairs.old), chosen.scores)]

    def mixed(self, basis: Basis) -> Mixed:
        """Rows by a basis with more and more encoded ones among them, in one ranking.

        Of a bridge these are rows of two spaces, so that there is no ranking, and no curve, of raw scores.
        """
        random = np.random.default_rng(_SEED).permutation(len(self.held.gallery.old))
        recall = self.recall(basis)
        if basis.direction == "queries":
            return Mixed({}, self._calibrations(recall, random, "bridged"))
        side = self.held.gallery.side if basis.side else None
        orders = {
            "random": random,
            "residual": np.argsort(-basis.residuals(self.held.gallery.old, side), kind="stable"),
        }
        curves = {
            name: tuple(float(self._scored(self._mixture(recall, order, s)).mean()) for s in SHARES)
            for name, order in orders.items()
        }
        return Mixed(curves, self._calibrations(recall, random, "mapped"))

    def _mixture(self, mapped: np.ndarray, order: np.ndarray, share: float) -> np.ndarray:
        native = order[: round(share * len(order))]
        mixed = mapped.copy()
        mixed[:, native] = self.native[:, native]
        return mixed

    def _calibrations(self, recall: np.ndarray, order: np.ndarray, origin: str) -> dict[str, Calibration]:
        """A calibration of each origin, if a half of the queries shows that they help the other half.

        What they are to beat: raw scores in one ranking, or by a bridge its own rows alone.
        """
        half = np.arange(len(recall)) % 2 == 0
        of_recall, of_native = self._isotonic(recall, half), self._isotonic(self.native, half)
        if of_recall is None or of_native is None:
            return {}
        gains = []
        for share in _MIXED:
            native = order[: round(share * len(order))]
            plain = recall if origin == "bridged" else self._mixture(recall, order, share)
            better = of_recall.apply(recall) + _TIE * recall
            better[:, native] = of_native.apply(self.native[:, native]) + _TIE * self.native[:, native]
            gains.append(self._scored(better) - self._scored(plain))
        gain = np.mean(gains, axis=0)[~half]
        if Bootstrap(len(gain), _SEED).interval(gain)[0] <= 0:
            return {}
        every = np.ones(len(recall), bool)
        final = {origin: self._isotonic(recall, every), "encoded": self._isotonic(self.native, every)}
        return {name: found for name, found in final.items() if found is not None}

    def _isotonic(self, scores: np.ndarray, queries: np.ndarray) -> Calibration | None:
        """Relevance by score, from the first fifty rows of each of some queries."""
        truth = self.held.truth
        lengths = np.diff(np.append(self.held.first, scores.shape[1]))
        relevant = np.repeat(truth.relevant, lengths, axis=1)
        own = np.repeat(truth.own[:, None] == np.arange(truth.relevant.shape[1])[None, :], lengths, axis=1)
        held = np.where(own, -np.inf, scores)[queries]
        best = measure.top(held, 50)
        found = np.take_along_axis(held, best, axis=1)
        there = found > -np.inf
        hits = np.take_along_axis(relevant[queries], best, axis=1)
        return calibrate.fit(found[there], hits[there])

    def _scored(self, similarities: np.ndarray) -> np.ndarray:
        return self.held.truth.score(measure.best_of_items(similarities, self.held.first))
