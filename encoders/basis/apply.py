"""Applying a basis: from its tensors and vectors to the vectors of the target space, block by block.

With z = [vector, side features] in a row, every basis of every family computes

    y = z · weight + offset + f(z · f_weight + f_offset) · f_out        of which the first `dim` numbers count

and gives y / ‖y‖. A missing `weight` is the identity. Linear families have no f; of networks f is `gelu`
(in its tanh form), of the head of BT² it is `unit`, which divides a row by its norm.

`residual_weight` and `residual_offset` predict log(1 − cos) to the true vector, linearly from z.
"""

from collections.abc import Mapping

import numpy as np

from encoders.errors import BasisUnfit

Tensors = Mapping[str, np.ndarray]

_BLOCK = 4096
"""Rows at a time: what lies between the products stays in the caches."""

_NAMES = {
    "weight",
    "offset",
    *(f"{f}_{part}" for f in ("gelu", "unit") for part in ("weight", "offset", "out")),
    "residual_weight",
    "residual_offset",
}


def require_shapes(tensors: Tensors, source: int, side: int, target: int) -> None:
    """Raise `BasisUnfit` unless the tensors are those of a basis between spaces of these dims."""
    if unknown := sorted(set(tensors) - _NAMES):
        raise BasisUnfit(f"a basis has no tensor {unknown[0]!r}; it has {', '.join(sorted(_NAMES))}")
    if "offset" not in tensors or tensors["offset"].ndim != 1:
        raise BasisUnfit("a basis needs a tensor 'offset' of one axis")
    width, inputs = len(tensors["offset"]), source + side
    if width < target:
        raise BasisUnfit(f"offset has {width} numbers, the target space {target} dims")
    wanted: dict[str, tuple[int, ...]] = {"residual_weight": (inputs,), "residual_offset": (1,)}
    if "weight" in tensors:
        wanted["weight"] = (inputs, width)
    elif (inputs, width) != (target, target):
        raise BasisUnfit(f"without a weight {inputs} inputs cannot become {target} dims")
    for f in ("gelu", "unit"):
        if f"{f}_offset" in tensors:
            hidden = tensors[f"{f}_offset"].size
            wanted |= {f"{f}_weight": (inputs, hidden), f"{f}_offset": (hidden,), f"{f}_out": (hidden, width)}
    for name, shape in wanted.items():
        if name not in tensors or tensors[name].shape != shape:
            found = tensors[name].shape if name in tensors else "missing"
            raise BasisUnfit(f"tensor {name!r} is {found}, and should be {shape}")


def carry(tensors: Tensors, vectors: np.ndarray, side: np.ndarray | None, dim: int) -> np.ndarray:
    """Unit vectors float32 (n, dim). A row of zeros stays zero, one with NaN or infinity becomes NaN."""
    out = np.empty((len(vectors), dim), dtype=np.float32)
    with np.errstate(all="ignore"):  # of rows that are NaN or infinite
        for at in range(0, len(vectors), _BLOCK):
            rows = slice(at, at + _BLOCK)
            given, into = _squares(vectors[rows].astype(np.float32, copy=False)), out[rows]
            _evaluate(tensors, vectors[rows], None if side is None else side[rows], into)
            norms = np.sqrt(_squares(into))
            norms[given == 0] = np.inf
            norms[~np.isfinite(given)] = np.nan
            into /= np.maximum(norms, np.finfo(np.float32).tiny)[:, None]
    return out


def evaluate(tensors: Tensors, vectors: np.ndarray, dim: int) -> np.ndarray:
    """The first `dim` numbers of y before they are scaled, float32 (n, dim), without side features."""
    out = np.empty((len(vectors), dim), dtype=np.float32)
    for at in range(0, len(vectors), _BLOCK):
        rows = slice(at, at + _BLOCK)
        _evaluate(tensors, vectors[rows], None, out[rows])
    return out


def predict_residuals(tensors: Tensors, vectors: np.ndarray, side: np.ndarray | None) -> np.ndarray:
    """Predicted 1 − cos between what `carry` gives and the true vectors, float32 (n,), in [0, 2]."""
    weight = tensors["residual_weight"]
    with np.errstate(all="ignore"):
        logarithm = vectors.astype(np.float32, copy=False) @ weight[: vectors.shape[1]]
        if side is not None:
            logarithm += side.astype(np.float32, copy=False) @ weight[vectors.shape[1] :]
        predicted: np.ndarray = np.minimum(np.exp(logarithm + tensors["residual_offset"]), np.float32(2))
    return predicted


def _evaluate(tensors: Tensors, vectors: np.ndarray, side: np.ndarray | None, into: np.ndarray) -> None:
    """Fill `into` with the leading numbers of y."""
    block, dim = vectors.astype(np.float32, copy=False), into.shape[1]
    beside = None if side is None else side.astype(np.float32, copy=False)
    if "weight" in tensors:
        _product(block, beside, tensors["weight"][:, :dim], into)
    else:
        into[:] = block
    into += tensors["offset"][:dim]
    for name, f in (("gelu", _gelu), ("unit", _unit)):
        if f"{name}_weight" in tensors:
            weight = tensors[f"{name}_weight"]
            hidden = np.empty((len(block), weight.shape[1]), dtype=np.float32)
            _product(block, beside, weight, hidden)
            hidden += tensors[f"{name}_offset"]
            f(hidden)
            into += hidden @ tensors[f"{name}_out"][:, :dim]


def _product(block: np.ndarray, side: np.ndarray | None, weight: np.ndarray, into: np.ndarray) -> None:
    np.matmul(block, weight[: block.shape[1]], out=into)
    if side is not None:
        into += side @ weight[block.shape[1] :]


def _gelu(values: np.ndarray) -> None:
    """In place, x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2 (Hendrycks & Gimpel, arXiv 1606.08415)."""
    inner = values * values
    inner *= np.float32(0.044715)
    inner += 1
    inner *= values
    inner *= np.float32(np.sqrt(2 / np.pi))
    np.tanh(inner, out=inner)
    inner += 1
    values *= inner
    values *= np.float32(0.5)


def _unit(values: np.ndarray) -> None:
    values /= np.maximum(np.sqrt(_squares(values)), np.finfo(np.float32).tiny)[:, None]


def _squares(values: np.ndarray) -> np.ndarray:
    squares: np.ndarray = np.einsum("ij,ij->i", values, values)
    return squares
