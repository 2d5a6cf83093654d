"""Linear maps by regression, stored as weight (d + k, m) and offset (m,); and the shift of means."""

import hashlib
from dataclasses import dataclass

import numpy as np

from encoders.basis.pairs import Pairs

_PENALTIES = np.logspace(-8, 2, 61)
"""Ridge penalties tried, over the mean eigenvalue of the inputs' covariance."""

_SIDE_SCALES = (0.25, 0.5, 1.0, 2.0)
"""Scales of the side features tried, next to sources whose variance is theirs: a penalty of their own."""


def mean_shift(pairs: Pairs) -> dict[str, np.ndarray]:
    """Vector + mean of targets − mean of sources (arXiv 2506.00037): an offset, and no weight."""
    shift = pairs.targets.mean(axis=0, dtype=np.float64) - pairs.sources.mean(axis=0, dtype=np.float64)
    return {"offset": shift.astype(np.float32)}


@dataclass(frozen=True, eq=False)
class Ridge:
    """A ridge regression with intercept: targets ≈ inputs · weight + offset, in float64.

    `penalty` is over the mean eigenvalue of the scaled inputs' covariance; `scales` (d + k,) are 1 for the
    sources and another number for the side features.
    """

    weight: np.ndarray
    offset: np.ndarray
    penalty: float
    scales: np.ndarray

    def tensors(self) -> dict[str, np.ndarray]:
        return {"weight": self.weight.astype(np.float32), "offset": self.offset.astype(np.float32)}


_KEPT = 8
_fitted: dict[bytes, "Ridge"] = {}
"""The last regressions, by the pairs that they are of: several families begin with the same one."""


def ridge(pairs: Pairs) -> Ridge:
    """Ridge regression whose penalty, one of each block, has the least generalised cross-validation error.

    GCV (Golub, Heath & Wahba 1979): n · RSS / (n − trace of the hat matrix)². Only moments of the pairs are
    used, so that the cost grows with their number only once.
    """
    key = _digest(pairs)
    if key not in _fitted:
        moments = _Moments(pairs)
        scales = _SIDE_SCALES if pairs.side.shape[1] else (1.0,)
        found = min((moments.best(scale) for scale in scales), key=lambda one: one[0])[1]
        while len(_fitted) >= _KEPT:
            _fitted.pop(next(iter(_fitted)))
        _fitted[key] = found
    return _fitted[key]


def _digest(pairs: Pairs) -> bytes:
    digest = hashlib.blake2b(repr([a.shape for a in (pairs.inputs, pairs.targets)]).encode())
    for array in (pairs.inputs, pairs.targets):
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def low_rank(pairs: Pairs, seed: int) -> dict[str, np.ndarray]:
    """Ridge regression of reduced rank (Izenman 1975): projected on the leading directions of its fit.

    The rank has the least squared error on a quarter of the pairs.
    """
    fitted, held = pairs.split(0.75, seed)
    whole = ridge(fitted)
    directions = _directions(fitted, whole)
    centre = fitted.targets.mean(axis=0, dtype=np.float64)
    predicted = (held.inputs @ whole.weight + whole.offset - centre) @ directions
    true = (held.targets - centre) @ directions
    # of rank r: the sum over the first r directions, up to a constant
    errors = np.cumsum((predicted * (predicted - 2 * true)).sum(axis=0))
    rank = int(np.argmin(errors)) + 1
    whole = ridge(pairs)
    leading = _directions(pairs, whole)[:, :rank]
    centre = pairs.targets.mean(axis=0, dtype=np.float64)
    weight = whole.weight @ leading @ leading.T
    offset = centre + (whole.offset - centre) @ leading @ leading.T
    return {"weight": weight.astype(np.float32), "offset": offset.astype(np.float32)}


def relative(pairs: Pairs, seed: int) -> dict[str, np.ndarray]:
    """Relative representations (arXiv 2209.15430) and back: all pairs are anchors.

    The vector of a thing is the one whose products with the targets' anchors T are closest, in least
    squares with a penalty, to those of its source with the sources' anchors S: x ↦ x SᵀT (TᵀT + λ)⁻¹. It
    is exact where the target space is a rotation of the source space. λ has the best cosine on a quarter of
    the pairs.
    """
    fitted, held = pairs.split(0.75, seed)
    gram, cross = _anchored(fitted)
    values, vectors = np.linalg.eigh(gram)
    penalties = np.logspace(-8, 1, 19) * values.mean()
    rotated, true = held.sources @ cross @ vectors, held.targets @ vectors
    cosines = []
    for penalty in penalties:
        mapped = rotated / (np.maximum(values, 0) + penalty)
        norms = np.maximum(np.linalg.norm(mapped, axis=1), np.finfo(np.float64).tiny)
        cosines.append(float(((mapped * true).sum(axis=1) / norms).mean()))
    penalty = penalties[int(np.argmax(cosines))] * len(pairs) / len(fitted)
    gram, cross = _anchored(pairs)
    weight = np.linalg.solve(gram + penalty * np.eye(len(gram)), cross.T).T
    return {"weight": weight.astype(np.float32), "offset": np.zeros(weight.shape[1], np.float32)}


def _anchored(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    targets = pairs.targets.astype(np.float64)
    return targets.T @ targets, pairs.sources.astype(np.float64).T @ targets


def _directions(pairs: Pairs, whole: Ridge) -> np.ndarray:
    """Orthonormal directions (m, m) of the target space, by falling variance of the fitted values."""
    fitted = pairs.inputs @ whole.weight
    fitted -= fitted.mean(axis=0)
    return np.linalg.svd(fitted.T @ fitted)[0]


class _Moments:
    """Means and second moments of sources, side features and targets, in float64."""

    def __init__(self, pairs: Pairs) -> None:
        inputs, targets = pairs.inputs.astype(np.float64), pairs.targets.astype(np.float64)
        self._pairs, self._sources = len(pairs), pairs.sources.shape[1]
        self._input_mean, self._target_mean = inputs.mean(axis=0), targets.mean(axis=0)
        inputs -= self._input_mean
        targets -= self._target_mean
        self._gram, self._cross = inputs.T @ inputs, inputs.T @ targets
        self._squares = float((targets**2).sum())

    def best(self, side_scale: float) -> tuple[float, Ridge]:
        """The least GCV error over the penalties, and the regression that has it."""
        scales = self._scales(side_scale)
        values, vectors = np.linalg.eigh(self._gram * np.outer(scales, scales))
        values = np.maximum(values, 0)
        rotated = vectors.T @ (self._cross * scales[:, None])
        powers = (rotated**2).sum(axis=1)
        penalties = _PENALTIES * values.mean()
        shrunk = 1 / (values + penalties[:, None])
        errors = self._squares - (powers * shrunk * (2 - values * shrunk)).sum(axis=1)
        freedom = self._pairs - 1 - (values * shrunk).sum(axis=1)
        # with less than a tenth of the pairs left over the estimate is no longer one
        gcv = np.where(freedom > 0.1 * self._pairs, errors / np.maximum(freedom, 1) ** 2, np.inf)
        at = int(np.argmin(gcv))
        weight = scales[:, None] * (vectors @ (shrunk[at][:, None] * rotated))
        offset = self._target_mean - self._input_mean @ weight
        return float(gcv[at]), Ridge(weight, offset, float(_PENALTIES[at]), scales)

    def _scales(self, side_scale: float) -> np.ndarray:
        scales = np.ones(len(self._gram))
        if self._sources < len(scales):
            variances = np.diag(self._gram)
            ratio = variances[: self._sources].sum() / variances[self._sources :].sum()
            scales[self._sources :] = side_scale * np.sqrt(ratio)
        return scales
