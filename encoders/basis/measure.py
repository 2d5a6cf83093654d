"""Retrieval, measured: what each query finds, and how sure a mean or a difference of means is.

Everything is exact and per query: scores are cosines of all queries with all rows, an item ranks by its best
row, and a query that is itself among the items does not find itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

K = 10
"""How deep a result is looked at."""

_RESAMPLES = 2_000
_LEVEL = 0.95


@dataclass(frozen=True)
class Truth:
    """What each query should find: `relevant`, bool (queries, items); `own`, each query's item, or -1.

    The score is recall at ten, of what is relevant or of ten if more is; or else precision at ten.
    """

    relevant: np.ndarray
    own: np.ndarray
    recall: bool

    @cached_property
    def _most(self) -> np.ndarray:
        """What a perfect result of each query holds: ten, or for recall what is relevant if that is less."""
        most: np.ndarray = np.full(len(self.relevant), K)
        return np.clip(self.relevant.sum(axis=1), 1, K) if self.recall else most

    def score(self, similarities: np.ndarray) -> np.ndarray:
        """Precision or recall at ten of each query, float64 (queries,), from scores (queries, items).

        Items of score -inf are not in the result at all.
        """
        held = _without_own(similarities, self.own)
        found = top(held, K)
        there = np.take_along_axis(held, found, axis=1) > -np.inf
        hits = (np.take_along_axis(self.relevant, found, axis=1) & there).sum(axis=1)
        return np.asarray(hits / self._most)


def same_label(queries: np.ndarray, items: np.ndarray, own: np.ndarray) -> Truth:
    """Items of the query's label are relevant; precision at ten."""
    return Truth(queries[:, None] == items[None, :], own, recall=False)


def judged(relevant: Sequence[np.ndarray], items: int) -> Truth:
    """Items that somebody named for each query are relevant; recall at ten."""
    matrix = np.zeros((len(relevant), items), bool)
    for row, found in enumerate(relevant):
        matrix[row, found] = True
    return Truth(matrix, np.full(len(relevant), -1), recall=True)


def neighbours(similarities: np.ndarray, own: np.ndarray) -> Truth:
    """The first ten by these scores are relevant; recall at ten."""
    held = _without_own(similarities, own)
    matrix = np.zeros(similarities.shape, bool)
    np.put_along_axis(matrix, top(held, K), True, axis=1)
    return Truth(matrix & (held > -np.inf), own, recall=True)


def cosines(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Cosines of every query with every row, float32 (queries, rows); 0 for a zero vector."""
    scores: np.ndarray = _unit(queries) @ _unit(rows).T
    return scores


def best_of_items(scores: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The best row of each item: `first` is where the rows of each item begin, which lie together."""
    return scores if len(first) == scores.shape[1] else np.maximum.reduceat(scores, first, axis=1)


def cascaded(recall: np.ndarray, native: np.ndarray, depth: int) -> np.ndarray:
    """`native` scores of the `depth` rows that `recall` ranks first, -inf for the others."""
    if depth >= recall.shape[1]:
        return native
    chosen = top(recall, depth)
    out = np.full(native.shape, -np.inf, native.dtype)
    np.put_along_axis(out, chosen, np.take_along_axis(native, chosen, axis=1), axis=1)
    return out


def top(scores: np.ndarray, k: int) -> np.ndarray:
    """Columns of the `k` highest scores of each row, best first; equal ones in their order."""
    k = min(k, scores.shape[1])
    if k < scores.shape[1]:
        some = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        least = np.take_along_axis(scores, some, axis=1).min(axis=1, keepdims=True)
        torn = np.flatnonzero((scores >= least).sum(axis=1) > k)  # equal ones on both sides of the edge
        some[torn] = np.argsort(-scores[torn], axis=1, kind="stable")[:, :k]
        some.sort(axis=1)
    else:
        some = np.broadcast_to(np.arange(k), scores.shape)
    order = np.argsort(-np.take_along_axis(scores, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


class Bootstrap:
    """Means of resampled queries: the same resamples for every score, so that differences are paired.

    Percentile intervals of 95 % (Efron & Tibshirani 1993, ch. 13) from 2,000 resamples.
    """

    def __init__(self, queries: int, seed: int = 0) -> None:
        drawn = np.random.default_rng(seed).multinomial(queries, np.full(queries, 1 / queries), _RESAMPLES)
        self._weights = (drawn / queries).astype(np.float64)

    def interval(self, values: np.ndarray) -> tuple[float, float]:
        """Where the mean of `values` (queries,) lies."""
        tail = (1 - _LEVEL) / 2
        low, high = np.quantile(self._weights @ values, (tail, 1 - tail))
        return float(low), float(high)


def gap_closed(score: float, status_quo: float, ceiling: float) -> float | None:
    """The share of the way from the status quo to the ceiling; None where there is no way to go."""
    return None if ceiling <= status_quo else (score - status_quo) / (ceiling - status_quo)


def _without_own(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    has = np.flatnonzero(own >= 0)
    if not len(has):
        return scores
    held = scores.copy()
    held[has, own[has]] = -np.inf
    return held


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, np.finfo(np.float32).tiny), dtype=np.float32)
