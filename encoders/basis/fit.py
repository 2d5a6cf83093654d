"""Fitting a basis of any family to pairs of vectors."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from encoders.basis import bt2, neural, orthogonal, ranking, regression
from encoders.basis.families import FAMILIES, Family
from encoders.basis.pairs import Pairs, checked, require_dim
from encoders.basis.residual import residual_tensors
from encoders.basis.spec import Basis, Direction, Space
from encoders.errors import BasisUnfit

__all__ = ["FAMILIES", "Family", "fit"]

_Fit = Callable[[Pairs, int, float], Mapping[str, np.ndarray]]
"""Tensors from pairs, a seed, and the seconds that it may take."""

_FITS: dict[str, _Fit] = {
    "mean-shift": lambda pairs, seed, seconds: regression.mean_shift(pairs),
    "procrustes": lambda pairs, seed, seconds: orthogonal.procrustes(pairs),
    "centred-procrustes": lambda pairs, seed, seconds: orthogonal.centred_procrustes(pairs),
    "relative": lambda pairs, seed, seconds: regression.relative(pairs, seed),
    "lambda-orthogonal": lambda pairs, seed, seconds: orthogonal.lambda_orthogonal(pairs, seed),
    "low-rank": lambda pairs, seed, seconds: regression.low_rank(pairs, seed),
    "ridge": lambda pairs, seed, seconds: regression.ridge(pairs).tensors(),
    "adjoint": lambda pairs, seed, seconds: ranking.adjoint(pairs),
    "listwise": ranking.listwise,
    "bt2-head": bt2.head,
    "mlp": partial(neural.network, relational=False),
    "mlp-relational": partial(neural.network, relational=True),
}


def fit(
    family: str,
    sources: np.ndarray,
    targets: np.ndarray,
    *,
    source: Space,
    target: Space,
    direction: Direction,
    side: np.ndarray | None = None,
    side_fingerprint: str = "",
    seed: int = 0,
    seconds: float = 60.0,
) -> Basis:
    """Fit a basis of a family to pairs: vectors of the same things in two spaces, row by row.

    `sources` (n, source.dim) and `targets` (n, target.dim); `side` (n, k) are side features of the things,
    from what has `side_fingerprint`. Settings of a family, as penalties, are chosen on these pairs alone.
    Equal pairs and an equal seed give equal tensors, unless a fit would take more than about `seconds` and
    is cut short. The metric `residual_spearman` is the correlation of predicted with true errors, on pairs
    that were held back.

    Raises `BasisUnfit` if the pairs are too few, not finite or all alike, and if the family cannot do what
    is asked; `BasisMismatch` if vectors are not of the length that their space says.
    """
    kind = _admitted(family, source, target, direction, side, side_fingerprint)
    require_dim("sources", sources, source)
    require_dim("targets", targets, target)
    pairs = checked(sources, targets, side, least=kind.least_pairs)
    tensors = dict(_FITS[family](pairs, seed, seconds / 2))
    residual, spearman = residual_tensors(lambda some: _FITS[family](some, seed, seconds / 2), pairs, seed)
    return Basis(
        family=family,
        direction=direction,
        source=source,
        target=target,
        side=side_fingerprint,
        side_dim=pairs.side.shape[1],
        pairs=len(pairs),
        seed=seed,
        metrics={"residual_spearman": spearman},
        tensors=tensors | residual,
    )


def _admitted(
    family: str,
    source: Space,
    target: Space,
    direction: Direction,
    side: np.ndarray | None,
    side_fingerprint: str,
) -> Family:
    if family not in FAMILIES:
        raise BasisUnfit(f"there is no family {family!r}; there are {', '.join(FAMILIES)}")
    kind = FAMILIES[family]
    if direction not in kind.directions:
        raise BasisUnfit(f"{family} carries {' and '.join(kind.directions)} only, not {direction}")
    if kind.equal_dims and source.dim != target.dim:
        raise BasisUnfit(
            f"{family} needs spaces of equal dims, and leads here from {source} to {target}; use another"
        )
    if side is not None and not kind.takes_side:
        takers = ", ".join(name for name, other in FAMILIES.items() if other.takes_side)
        raise BasisUnfit(f"{family} takes no side features; leave them out, or use one of {takers}")
    if (side is None) == bool(side_fingerprint):
        raise BasisUnfit("give side features together with the fingerprint of what made them")
    return kind
