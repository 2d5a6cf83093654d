"""Vectors to fit bases to, of known relation."""

import numpy as np

from encoders.basis.fit import FAMILIES, fit
from encoders.basis.spec import Basis, Space


def space(name: str, dim: int) -> Space:
    return Space(f"{name}_{dim}", f"{name}{dim}".ljust(64, "0"), dim)


def clustered(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """Unit vectors around 40 centres that share a direction, as those of encoders do: float32 (rows, dim)."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((40, dim)) + 1.5 * rng.standard_normal(dim)
    spread = rng.standard_normal((rows, dim)) * np.linspace(1.2, 0.2, dim)
    return unit(centres[rng.integers(0, 40, rows)] + spread)


def rotation(dim: int, seed: int = 1) -> np.ndarray:
    """A random rotation or reflection, float64 (dim, dim)."""
    turned, scale = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))
    return turned * np.sign(np.diag(scale))


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (unit(a) * unit(b)).sum(axis=1)


def fitted(family: str, sources: np.ndarray, targets: np.ndarray, **settings: object) -> Basis:
    """A basis between spaces named after their dims, in the first direction that the family has."""
    direction = FAMILIES[family].directions[0]
    source, target = ("old", "new") if direction == "rows" else ("new", "old")
    return fit(
        family,
        sources,
        targets,
        source=space(source, sources.shape[1]),
        target=space(target, targets.shape[1]),
        direction=direction,
        **settings,
    )


def mapped(basis: Basis, vectors: np.ndarray, side: np.ndarray | None = None) -> np.ndarray:
    return basis.apply(vectors, side, space=basis.source, direction=basis.direction)
