"""Orthogonal maps, and one that is nearly so. All are stored as weight (d, m) and offset (m,).

Where the spaces differ in length the shorter vectors are padded with zeros and the map is cut to the
lengths that there are: its rows are orthonormal on the way up, its columns on the way down.
"""

import numpy as np

from encoders.basis.pairs import Pairs

SLACKS = (0.0, 0.1, 0.3, 0.9)
"""Tried by `lambda_orthogonal`: the norm of the deviation from orthogonality, over √min(d, m)."""

_STEPS, _RATE, _STEEPNESS = 150, 0.01, 20.0


def procrustes(pairs: Pairs) -> dict[str, np.ndarray]:
    """The orthogonal map closest to the pairs (Schönemann 1966): R = UVᵀ of the SVD of SᵀT."""
    rotation = nearest_orthogonal(_product(pairs.sources, pairs.targets))
    return _float32(rotation, np.zeros(rotation.shape[1]))


def centred_procrustes(pairs: Pairs) -> dict[str, np.ndarray]:
    """(x − mean of sources) R + mean of targets, R orthogonal and closest to the centred pairs."""
    centred = _Centred(pairs)
    rotation = nearest_orthogonal(centred.cross)
    return _float32(rotation, centred.offset(rotation))


def lambda_orthogonal(pairs: Pairs, seed: int) -> dict[str, np.ndarray]:
    """Affine map that may leave orthogonality by λ, where that pays (arXiv 2509.16664, §3).

    λ is chosen among `SLACKS` by the cosine on a quarter of the pairs.
    """
    fitted, held = pairs.split(0.75, seed)
    centred = _Centred(fitted)
    cosines = []
    for slack in SLACKS:
        weight = relaxed(centred.gram, centred.cross, slack)
        mapped = held.sources @ weight + centred.offset(weight)
        mapped /= np.linalg.norm(mapped, axis=1, keepdims=True)
        cosines.append(float((mapped * held.targets).sum(axis=1).mean()))
    centred = _Centred(pairs)
    weight = relaxed(centred.gram, centred.cross, SLACKS[int(np.argmax(cosines))])
    return _float32(weight, centred.offset(weight))


def nearest_orthogonal(cross: np.ndarray) -> np.ndarray:
    """UVᵀ of the thin SVD: the matrix of orthonormal rows or columns closest to `cross` (d, m)."""
    left, _, right = np.linalg.svd(cross, full_matrices=False)
    nearest: np.ndarray = left @ right
    return nearest


def relaxed(gram: np.ndarray, cross: np.ndarray, slack: float) -> np.ndarray:
    """The weight W of least squared error whose deviation from orthogonality is about λ or less.

    Minimises tr(WᵀGW) − 2 tr(WᵀC) + sigmoid(α(δ − λ)) δ, where δ is the Frobenius norm of WᵀW − I (of
    WWᵀ − I where W is wide) and λ = slack · √min(d, m), by Adam from the orthogonal solution, which is the
    answer where slack is 0.
    """
    weight = nearest_orthogonal(cross)
    if slack == 0:
        return weight
    wide = weight.shape[0] < weight.shape[1]
    size = min(weight.shape)
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for step in range(1, _STEPS + 1):
        gradient = 2 * (gram @ weight - cross)
        tall = weight.T if wide else weight
        excess = tall.T @ tall - np.eye(size)
        deviation = np.linalg.norm(excess)
        if deviation > 0:
            over = np.clip(_STEEPNESS * (deviation / np.sqrt(size) - slack), -50, 50)
            gate = 1 / (1 + np.exp(-over))
            slope = gate + _STEEPNESS * gate * (1 - gate) * deviation / np.sqrt(size)
            pull = slope * 2 * (tall @ excess) / deviation
            gradient += pull.T if wide else pull
        first += 0.1 * (gradient - first)
        second += 0.001 * (gradient**2 - second)
        rate = _RATE * (1 - step / _STEPS)
        weight = weight - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-12)
    return weight


class _Centred:
    """Means and second moments, in float64: all that these fits need of the pairs."""

    def __init__(self, pairs: Pairs) -> None:
        self._source = pairs.sources.mean(axis=0, dtype=np.float64)
        self._target = pairs.targets.mean(axis=0, dtype=np.float64)
        sources, targets = pairs.sources - self._source, pairs.targets - self._target
        self.gram: np.ndarray = sources.T @ sources / len(pairs)
        self.cross: np.ndarray = sources.T @ targets / len(pairs)

    def offset(self, weight: np.ndarray) -> np.ndarray:
        offset: np.ndarray = self._target - self._source @ weight
        return offset


def _product(sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    product: np.ndarray = sources.astype(np.float64).T @ targets.astype(np.float64)
    return product


def _float32(weight: np.ndarray, offset: np.ndarray) -> dict[str, np.ndarray]:
    return {"weight": weight.astype(np.float32), "offset": offset.astype(np.float32)}
