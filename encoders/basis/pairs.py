"""The pairs that a basis is fitted to, checked."""

from dataclasses import dataclass, replace

import numpy as np

from encoders.basis.spec import Space
from encoders.errors import BasisMismatch, BasisUnfit

_COLLAPSED = 1e-6
"""Least share of the mean square that must remain when the mean is taken off."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Vectors of the same things in two spaces, row by row, float32.

    `sources` (n, d) as they are, `side` (n, k) with k = 0 if there is none, `targets` (n, m) of unit norm.
    """

    sources: np.ndarray
    side: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def inputs(self) -> np.ndarray:
        """Sources and side features in one row: float32 (n, d + k)."""
        return np.hstack([self.sources, self.side]) if self.side.shape[1] else self.sources

    def take(self, rows: np.ndarray) -> "Pairs":
        """Some of the pairs."""
        return replace(self, sources=self.sources[rows], side=self.side[rows], targets=self.targets[rows])

    def split(self, share: float, seed: int) -> tuple["Pairs", "Pairs"]:
        """All pairs in two parts at random: `share` of them, at least one, and the others."""
        order = np.random.default_rng(seed).permutation(len(self))
        at = max(1, round(share * len(self)))
        return self.take(order[:at]), self.take(order[at:])


def checked(sources: np.ndarray, targets: np.ndarray, side: np.ndarray | None, *, least: int) -> Pairs:
    """Pairs that something can be learned from. Raises `BasisUnfit`, which says what was found.

    There must be at least `least` distinct ones, all finite, none zero, and on both sides they must
    differ from each other.
    """
    count = len(sources)
    given = {"sources": sources, "targets": targets}
    if side is not None:
        given["side features"] = side
    finite = {name: as_vectors(name, array) for name, array in given.items()}
    for name, array in finite.items():
        if len(array) != count:
            raise BasisUnfit(f"{count} sources and {len(array)} {name}; give one of each to a pair")
    require_distinct("pairs", finite["sources"], least)
    for name in ("sources", "targets"):
        require_spread(name, finite[name])
    beside = finite.get("side features", np.empty((count, 0), np.float32))
    return Pairs(finite["sources"], beside, unit(finite["targets"]))


def as_vectors(name: str, array: np.ndarray) -> np.ndarray:
    """The array as float32 (n, dim); raises `BasisUnfit` unless it has two axes and is finite."""
    if array.ndim != 2:
        raise BasisUnfit(f"{name} have shape {array.shape}; give vectors in rows, (n, dims)")
    if bad := int((~np.isfinite(array).all(axis=1)).sum()):
        raise BasisUnfit(
            f"{bad} of {len(array)} {name} have numbers that are NaN or infinite; leave them out"
        )
    return np.ascontiguousarray(array, dtype=np.float32)


def require_dim(name: str, array: np.ndarray, space: Space) -> None:
    """Raise `BasisMismatch` for vectors of another length than the space's."""
    if array.ndim == 2 and array.shape[1] != space.dim:
        raise BasisMismatch(
            f"{name} have {array.shape[1]} dims, and are said to be of {space}; give vectors of it"
        )


def require_distinct(name: str, array: np.ndarray, least: int) -> None:
    """Raise `BasisUnfit` if there are fewer than `least` different rows."""
    distinct = len({row.tobytes() for row in array})
    if distinct < least:
        same = "" if distinct == len(array) else f", {len(array)} with repetitions"
        raise BasisUnfit(f"{distinct} {name}{same}; at least {least} are needed: raise --sample")


def require_spread(name: str, array: np.ndarray) -> None:
    """Raise `BasisUnfit` if a row is zero, or all are nearly the same."""
    squares = np.einsum("ij,ij->i", array, array, dtype=np.float64)
    if zeros := int((squares == 0).sum()):
        raise BasisUnfit(f"{zeros} of {len(array)} {name} are zero and have no direction; leave them out")
    spread = array.var(axis=0, dtype=np.float64).sum() / squares.mean()
    if spread < _COLLAPSED:
        raise BasisUnfit(
            f"all {len(array)} {name} are nearly the same vector (their variance is {spread:.1g} of their "
            "mean square): the encoder has collapsed, or has read the same text each time; check it"
        )


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of norm 1, in their own precision; none may be zero."""
    scaled: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled
