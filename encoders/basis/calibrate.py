"""Calibration: from scores of one origin to the share of relevant hits, so that origins can be compared.

Isotonic regression (Barlow et al. 1972) over held-out scores: monotone, so that no ranking within an origin
is turned around; what it makes equal keeps the order of the raw scores.
"""

from dataclasses import dataclass

import numpy as np

_KNOTS = 33
_LEAST = 50


@dataclass(frozen=True)
class Calibration:
    """Piecewise linear and monotone: `relevance` at `scores`, both ascending; constant beyond the ends."""

    scores: tuple[float, ...]
    relevance: tuple[float, ...]

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """The share of relevant hits at these scores, float64, of their shape."""
        shares: np.ndarray = np.interp(scores, self.scores, self.relevance)
        return shares


def fit(scores: np.ndarray, relevant: np.ndarray) -> Calibration | None:
    """Isotonic regression of relevance (bool) on scores; None if there are too few, or all are alike."""
    from scipy.optimize import isotonic_regression  # 0.3 s

    if len(scores) < _LEAST or relevant.all() or not relevant.any():
        return None
    levels, place = np.unique(scores.astype(np.float64), return_inverse=True)
    if len(levels) < 2:
        return None
    weights = np.bincount(place)  # equal scores are one: in which order they came says nothing
    fitted = isotonic_regression(np.bincount(place, relevant) / weights, weights=weights).x
    at = np.linspace(0, len(scores) - 1, _KNOTS).round().astype(int)
    knots = np.unique(np.sort(place)[at])
    shares = np.maximum.accumulate(fitted[knots])
    return Calibration(tuple(map(float, levels[knots])), tuple(map(float, shares)))
