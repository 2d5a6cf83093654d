"""What a basis is, and how it carries vectors from its source space to its target space."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np

from encoders.basis.apply import carry, predict_residuals, require_shapes
from encoders.errors import BasisMismatch, BasisUnfit

Direction = Literal["rows", "queries"]
"""`rows`: stored vectors of the old space into the new; `queries`: query vectors of the new into the old."""

_CARRIES: dict[Direction, str] = {
    "rows": "stored rows of an old space into a new one",
    "queries": "queries of a new space into an old one",
}


@dataclass(frozen=True)
class Space:
    """A vector space: its readable name, the fingerprint of the encoder that writes into it, its length."""

    space_id: str
    fingerprint: str
    dim: int

    def __str__(self) -> str:
        return f"{self.space_id} ({self.dim} dims, fingerprint {self.fingerprint[:12]})"


@dataclass(frozen=True, eq=False)
class Basis:
    """A fitted transformation from one space to another, in one direction.

    `side` is the fingerprint of the side features that join every vector ("" if none do) and `side_dim`
    their length. `pairs` and `seed` say how it was fitted, `metrics` how well it did on held-out pairs.
    `tensors` are float32 and read-only, and mean what `apply.py` says. Raises `BasisUnfit` unless all this
    fits together.
    """

    family: str
    direction: Direction
    source: Space
    target: Space
    side: str
    side_dim: int
    pairs: int
    seed: int
    metrics: Mapping[str, float] = field(repr=False)
    tensors: Mapping[str, np.ndarray] = field(repr=False)

    def __post_init__(self) -> None:
        if self.direction not in get_args(Direction):
            raise BasisUnfit(
                f"direction is {self.direction!r}; there are {' and '.join(get_args(Direction))}"
            )
        if bool(self.side) != bool(self.side_dim):
            raise BasisUnfit(f"side features {self.side!r} of {self.side_dim} dims: give both, or neither")
        tensors = {name: _frozen(name, tensor) for name, tensor in sorted(self.tensors.items())}
        object.__setattr__(self, "tensors", MappingProxyType(tensors))
        object.__setattr__(self, "metrics", MappingProxyType(dict(self.metrics)))
        require_shapes(self.tensors, self.source.dim, self.side_dim, self.target.dim)

    @cached_property
    def basis_id(self) -> str:
        """SHA-256, in hex, of all but the metrics: bases of equal ids give equal vectors."""
        said = {
            "family": self.family,
            "direction": self.direction,
            "source": dataclasses.astuple(self.source),
            "target": dataclasses.astuple(self.target),
            "side": [self.side, self.side_dim],
            "fitted": [self.pairs, self.seed],
            "tensors": [[name, tensor.shape] for name, tensor in self.tensors.items()],
        }
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
        for tensor in self.tensors.values():
            digest.update(tensor.astype("<f4", copy=False).tobytes())
        return digest.hexdigest()

    @property
    def parameters(self) -> int:
        """Numbers that were fitted, those of the predicted residuals left out."""
        return sum(t.size for name, t in self.tensors.items() if not name.startswith("residual"))

    def apply(
        self,
        vectors: np.ndarray,
        side: np.ndarray | None = None,
        *,
        space: Space,
        direction: Direction,
    ) -> np.ndarray:
        """Carry vectors (n, source.dim) of `space` over: float32 (n, target.dim) of unit norm.

        `side` are their side features, (n, side_dim), where the basis takes some. A row of zeros stays
        zero, one with NaN or infinity becomes NaN. Raises `BasisMismatch` for vectors of another space,
        for the other direction, and where lengths or side features are not those that it was fitted for.
        """
        if space.fingerprint != self.source.fingerprint:
            raise BasisMismatch(
                f"basis {self._name} leads from {self.source} to {self.target}, and is given vectors of "
                f"{space}; use a basis fitted from {space.space_id}: fit one with `evervec probe`"
            )
        if direction != self.direction:
            raise BasisMismatch(
                f"basis {self._name} carries {_CARRIES[self.direction]} (direction {self.direction!r}), and "
                f"is asked for {direction!r}; use a basis fitted with direction={direction!r}"
            )
        self._require_lengths(vectors, side)
        return carry(self.tensors, vectors, side, self.target.dim)

    def residuals(self, vectors: np.ndarray, side: np.ndarray | None = None) -> np.ndarray:
        """Predicted 1 − cos between the mapped and the true vectors, float32 (n,), in [0, 2].

        Raises `BasisMismatch` where lengths or side features are not those that it was fitted for.
        """
        self._require_lengths(vectors, side)
        return predict_residuals(self.tensors, vectors, side)

    def measured(self, metrics: Mapping[str, float]) -> "Basis":
        """The same basis, with the same id, and these metrics added to those of the fit."""
        return dataclasses.replace(self, metrics={**self.metrics, **metrics})

    @property
    def _name(self) -> str:
        return f"{self.family} {self.basis_id[:12]}"

    def _require_lengths(self, vectors: np.ndarray, side: np.ndarray | None) -> None:
        if vectors.ndim != 2 or vectors.shape[1] != self.source.dim:
            raise BasisMismatch(
                f"basis {self._name} leads from {self.source} to {self.target}, and is given an array of "
                f"shape {vectors.shape}; give vectors as (n, {self.source.dim})"
            )
        if side is None and self.side_dim:
            raise BasisMismatch(
                f"basis {self._name} needs {self.side_dim} side features a vector (of {self.side[:12]}), and "
                "is given none; encode the texts with encoders.basis.side.open_side of the new encoder"
            )
        wanted = (len(vectors), self.side_dim)
        if side is not None and (side.ndim != 2 or side.shape != wanted):
            raise BasisMismatch(
                f"basis {self._name} takes side features of shape {wanted}, and is given {side.shape}; "
                + ("give one row of them a vector" if self.side_dim else "leave them out")
            )


def _frozen(name: str, tensor: np.ndarray) -> np.ndarray:
    if tensor.dtype != np.float32:
        raise BasisUnfit(f"tensor {name!r} is {tensor.dtype}, and should be float32")
    if not np.isfinite(tensor).all():
        raise BasisUnfit(f"tensor {name!r} has numbers that are NaN or infinite; fit the basis again")
    frozen = np.array(tensor, order="C", copy=True)
    frozen.flags.writeable = False
    return frozen
