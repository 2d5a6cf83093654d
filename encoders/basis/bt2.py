"""The head of BT² over frozen encoders: a new vector whose leading numbers stand in the old space.

BT² (arXiv 2211.03989) trains an encoder with this head. Here both encoders stay as they are, and the new
vector b itself takes the place of what it trains towards. With p = unit(b P + c) of a numbers, B₁ and B₂
orthogonal, and C = 2:

    z = [p ; C b B₁]        compatible = [z[:m] B₂ ; z[m:]]        of d + a numbers, for m old dims

The leading m numbers are compared with old rows (this is the bridged query), all of them with each other:
their products are C² b · b' + p · p', their square norm is C² + 1, and b can be had back exactly.
"""

from typing import Any

import numpy as np

from encoders.basis.apply import evaluate
from encoders.basis.orthogonal import nearest_orthogonal
from encoders.basis.pairs import Pairs
from encoders.basis.ranking import Lists
from encoders.basis.spec import Basis
from encoders.basis.training import one_thread, rates
from encoders.errors import BasisMismatch

SCALE = 2.0
"""C: by how much the new vector outweighs what is added to it."""

_ADDED = 0.25
"""Numbers added, a, over the old dims (BT² adds 32 to 128); more if the new space has that many less."""

_STEPS, _BATCH, _RATE = 150, 256, 2e-3


@one_thread()
def head(pairs: Pairs, seed: int, seconds: float) -> dict[str, np.ndarray]:
    """The head whose compatible block is closest to the old vectors and orders old rows best, by Adam.

    Minimises 1 − cos and the loss of `ranking.Lists`. B₁ and B₂ are kept orthogonal by Cayley transforms;
    they begin where the block is the orthogonal map of the pairs in all but the least shared directions.
    """
    import torch  # seconds to import, and only fits by gradient need it
    from torch.nn.functional import normalize
    from torch.nn.utils import parametrizations

    lists = Lists(pairs, seed)
    dim, old = lists.new.shape[1], lists.old.shape[1]
    added = max(round(_ADDED * old), old - dim + 1)
    begin = _begin(lists.new.numpy(), lists.old.numpy(), added)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        free = torch.empty(dim, added).normal_(std=dim**-0.5).requires_grad_()
        turns: list[Any] = [torch.nn.Linear(len(start), len(start), bias=False) for start in begin]
        for turn, start in zip(turns, begin, strict=True):
            parametrizations.orthogonal(turn, orthogonal_map="cayley")
            turn.weight = torch.from_numpy(start)
    shift = torch.zeros(added, requires_grad=True)
    growth = torch.zeros((), requires_grad=True)
    first, second = turns
    optimizer = torch.optim.Adam([free, shift, growth, *first.parameters(), *second.parameters()])
    scale = lists.scale_of(
        lists.new @ torch.from_numpy(nearest_orthogonal((lists.new.T @ lists.old).numpy()))
    )
    for share in rates(_STEPS, seconds):
        optimizer.param_groups[0]["lr"] = _RATE * share
        queries = lists.draw(_BATCH)
        vectors = lists.new[queries]
        helper = normalize(vectors @ free + shift, dim=1)
        rotated = SCALE * vectors @ first.weight[:, : old - added]
        block = normalize(torch.cat([helper, rotated], dim=1) @ second.weight, dim=1)
        loss = 1 - (block * lists.old[queries]).sum(dim=1).mean()
        loss = loss + lists.loss(queries, block * scale * growth.exp())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    with torch.no_grad():
        exact = [nearest_orthogonal(turn.weight.double().numpy()) for turn in turns]
    return _tensors(free.detach().numpy(), shift.detach().numpy(), exact[0], exact[1])


def compatible(basis: Basis, vectors: np.ndarray) -> np.ndarray:
    """The whole new vectors, float32 (n, d + a), all of norm √(C² + 1); the leading m numbers are old.

    Takes unit vectors of the basis' source space. Raises `BasisMismatch` if the basis is of another family.
    """
    _require(basis)
    return evaluate(basis.tensors, vectors, len(basis.tensors["offset"]))


def recovered(basis: Basis, vectors: np.ndarray) -> np.ndarray:
    """The new encoder's own vectors out of compatible ones, float32 (n, d)."""
    _require(basis)
    weight = basis.tensors["weight"]  # its rows are orthogonal, of norm C, and orthogonal to those of p
    own: np.ndarray = vectors @ weight.T / np.float32(SCALE**2)
    return own


def _require(basis: Basis) -> None:
    if basis.family != "bt2-head":
        raise BasisMismatch(f"basis {basis.basis_id[:12]} is of family {basis.family}; give one of bt2-head")


def _begin(sources: np.ndarray, targets: np.ndarray, added: int) -> tuple[np.ndarray, np.ndarray]:
    """B₁ (d, d) and B₂ (m, m): new directions to the old that agree with them, added numbers to the rest."""
    left, _, right = np.linalg.svd(sources.astype(np.float64).T @ targets.astype(np.float64))
    kept = targets.shape[1] - added
    return left.astype(np.float32), np.vstack([right[kept:], right[:kept]]).astype(np.float32)


def _tensors(
    free: np.ndarray, shift: np.ndarray, first: np.ndarray, second: np.ndarray
) -> dict[str, np.ndarray]:
    """As `apply.py` evaluates them, at full width."""
    dim, added, old = len(first), len(shift), len(second)
    rotated = SCALE * first
    weight = np.hstack([rotated[:, : old - added] @ second[added:], rotated[:, old - added :]])
    out = np.hstack([second[:added], np.zeros((added, dim + added - old))])
    tensors = {
        "weight": weight,
        "offset": np.zeros(dim + added),
        "unit_weight": free,
        "unit_offset": shift,
        "unit_out": out,
    }
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
