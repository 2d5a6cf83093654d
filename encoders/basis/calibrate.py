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
    order = np.argsort(scores, kind="stable")
    fitted = isotonic_regression(relevant[order].astype(np.float64)).x
    at = np.unique(np.linspace(0, len(order) - 1, _KNOTS).round().astype(int))
    knots = np.unique(scores[order][at].astype(np.float64))
    if len(knots) < 2:
        return None
    shares = np.maximum.accumulate(np.interp(knots, scores[order].astype(np.float64), fitted))
    return Calibration(tuple(map(float, knots)), tuple(map(float, shares)))
