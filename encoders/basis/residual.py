"""Predicted errors of a basis: which mapped vectors are far from the true ones."""

from collections.abc import Callable, Mapping

import numpy as np

from encoders.basis.apply import carry
from encoders.basis.pairs import Pairs

_LEAST = 1e-7
"""Of 1 − cos, which rounding makes negative."""

_PENALTIES = np.logspace(-4, 4, 33)
"""Over the mean eigenvalue of the inputs' covariance."""

_MOST_LEVERAGE = 0.95
"""Of a row on its own prediction: beyond it, leaving one out is a division by nothing."""

_FEW = 64


def residual_tensors(
    fit: Callable[[Pairs], Mapping[str, np.ndarray]], pairs: Pairs, seed: int
) -> tuple[dict[str, np.ndarray], float]:
    """The tensors that predict 1 − cos, and how well: Spearman's correlation with the true errors.

    Three quarters of the pairs are fitted to; on the others log(1 − cos) is regressed on the inputs by ridge
    regression, its penalty and the correlation by leaving one out. With few pairs it is their mean, and
    the correlation 0.
    """
    fitted, held = pairs.split(0.75, seed)
    side = held.side if held.side.shape[1] else None
    mapped = carry(fit(fitted), held.sources, side, held.targets.shape[1])
    errors = np.log(np.maximum(1 - (mapped * held.targets).sum(axis=1), _LEAST)).astype(np.float64)
    inputs = held.inputs.astype(np.float64)
    weight, spearman = np.zeros(inputs.shape[1]), 0.0
    centre = inputs.mean(axis=0)
    if len(held) >= _FEW:
        weight, left_out = _regressed(inputs - centre, errors - errors.mean())
        spearman = rank_correlation(left_out, errors)
    offset = errors.mean() - centre @ weight
    tensors = {
        "residual_weight": weight.astype(np.float32),
        "residual_offset": np.array([offset], dtype=np.float32),
    }
    return tensors, spearman


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation; 0 where one of the two is constant."""
    first, second = (np.unique(x, return_inverse=True)[1].astype(np.float64) for x in (a, b))
    first, second = first - first.mean(), second - second.mean()
    scale = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / scale) if scale else 0.0


def _regressed(inputs: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of a ridge regression of centred values on centred inputs; its leave-one-out predictions."""
    left, scales, right = np.linalg.svd(inputs, full_matrices=False)
    rotated, best = left.T @ values, (np.inf, np.zeros(inputs.shape[1]), values)
    for penalty in _PENALTIES * (scales**2).mean():
        kept = scales**2 / (scales**2 + penalty)
        leverage = left**2 @ kept + 1 / len(values)
        if leverage.max() > _MOST_LEVERAGE:
            continue
        left_out = (left @ (kept * rotated) - leverage * values) / (1 - leverage)
        error = float(((left_out - values) ** 2).mean())
        if error < best[0]:
            best = error, right.T @ (scales / (scales**2 + penalty) * rotated), left_out
    return best[1], best[2]
