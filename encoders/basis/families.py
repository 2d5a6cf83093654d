"""The families of bases, from the simplest to the richest."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from encoders.basis.spec import Direction

_BOTH: tuple[Direction, ...] = ("rows", "queries")
_ROWS: tuple[Direction, ...] = ("rows",)
_QUERIES: tuple[Direction, ...] = ("queries",)


@dataclass(frozen=True)
class Family:
    """A kind of basis, and what it can be fitted to.

    `linear`: one matrix and an offset. `takes_side`: side features may join. `least_pairs`: with fewer
    distinct ones it is refused. `equal_dims`: both spaces must have as many.
    """

    name: str
    linear: bool
    takes_side: bool
    least_pairs: int
    directions: tuple[Direction, ...] = _BOTH
    equal_dims: bool = False
    closed_form: bool = True
    """Fitted in a moment, by a decomposition; others are trained."""


_ALL = (
    Family("mean-shift", linear=True, takes_side=False, least_pairs=2, equal_dims=True),
    Family("procrustes", linear=True, takes_side=False, least_pairs=16),
    Family("centred-procrustes", linear=True, takes_side=False, least_pairs=16),
    Family("relative", linear=True, takes_side=False, least_pairs=16),
    Family("lambda-orthogonal", linear=True, takes_side=False, least_pairs=64, closed_form=False),
    Family("adjoint", linear=True, takes_side=False, least_pairs=16, directions=_QUERIES),
    Family("low-rank", linear=True, takes_side=True, least_pairs=64),
    Family("ridge", linear=True, takes_side=True, least_pairs=16),
    Family(
        "listwise", linear=True, takes_side=False, least_pairs=256, directions=_QUERIES, closed_form=False
    ),
    Family(
        "bt2-head", linear=False, takes_side=False, least_pairs=256, directions=_QUERIES, closed_form=False
    ),
    Family("mlp", linear=False, takes_side=True, least_pairs=256, directions=_ROWS, closed_form=False),
    Family(
        "mlp-relational", linear=False, takes_side=True, least_pairs=256, directions=_ROWS, closed_form=False
    ),
)

FAMILIES: Mapping[str, Family] = MappingProxyType({family.name: family for family in _ALL})
"""By name, in the order of simplicity."""
