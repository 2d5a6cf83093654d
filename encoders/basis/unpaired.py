"""A basis without pairs: from two sets of vectors whose texts are of the same kind, but not the same.

After mini-vec2vec (arXiv 2510.02348). Both sets are centred and clustered; centroids are matched so that
their mutual similarities agree; matched centroids are anchors, in relation to which vectors of both sets
can be compared; each vector's neighbours there stand for the missing partner. From these pseudo-pairs an
orthogonal map is fitted, and refined by neighbours found through the map itself.

That works only where the spaces have nearly the same shape: it finds a rotation of MiniLM's vectors of other
texts, and fails from its fifth layer to its sixth, where matching clusters have similarities that hardly
correlate. A wrong map looks as good to itself as a right one: hence two independent fits, which must agree.
"""

import time

import numpy as np

from encoders.basis.orthogonal import nearest_orthogonal
from encoders.basis.pairs import as_vectors, require_dim, require_distinct, require_spread
from encoders.basis.spec import Basis, Direction, Space
from encoders.errors import BasisUnfit

LEAST = 1_000
"""Vectors of each set below which clusters do not repeat from one set to the other."""

AGREEMENT = 0.5
"""Least mean cosine between what two independent fits make of the same vectors."""

_ROUNDS, _CLUSTERS, _RESTARTS = 30, 20, 10
_NEIGHBOURS, _REFINEMENTS, _REFINED = 50, 40, 1_000
_MOST = 10_000
"""Vectors that a step draws from a set."""


def unpaired(
    sources: np.ndarray,
    targets: np.ndarray,
    *,
    source: Space,
    target: Space,
    direction: Direction,
    seed: int = 0,
    seconds: float = 300.0,
) -> Basis:
    """Fit an orthogonal map about the means to two sets of vectors, (n, source.dim) and (m, target.dim).

    The rows of the two have nothing to do with each other; 5,000 to 20,000 of each serve well, and take
    a minute or two. Equal sets and an equal seed give equal tensors, unless refining would last beyond
    `seconds`. The metric `agreement` is the mean cosine of two independent fits, of which the basis is the
    mean. Residuals are the same for every row: the mean of 1 − cos to the nearest target.

    Raises `BasisUnfit` if the two fits disagree, and for sets that are too small, not finite or all alike;
    `BasisMismatch` for other dims than the spaces'.
    """
    here, there = _Set("sources", sources, source), _Set("targets", targets, target)
    began = time.perf_counter()
    fits = []
    for part, stream in enumerate(np.random.SeedSequence(seed).spawn(2)):
        rng = np.random.default_rng(stream)
        rotation = _first(here.directions, there.directions, rng)
        for _ in range(_REFINEMENTS):
            if time.perf_counter() - began > seconds * (part + 1) / 2:
                break
            rotation = _refined(rotation, here.directions, there.directions, rng)
        fits.append(rotation)
    one, other = (here.directions[:_MOST] @ rotation for rotation in fits)
    agreement = float((_unit(one) * _unit(other)).sum(axis=1).mean())
    if agreement < AGREEMENT:
        raise BasisUnfit(
            f"two independent fits of {source.space_id} to {target.space_id} disagree (mean cosine "
            f"{agreement:.2f}, at least {AGREEMENT} is needed): without pairs these spaces cannot be laid on "
            "each other; encode a few hundred of the same texts with both encoders and fit to those pairs"
        )
    rotation = nearest_orthogonal(fits[0] + fits[1])
    similar = here.directions[:_MOST] @ rotation @ there.directions[:_MOST].T
    gap = max(1 - float(similar.max(axis=1).mean()), 1e-7)
    return Basis(
        family="unpaired",
        direction=direction,
        source=source,
        target=target,
        side="",
        side_dim=0,
        pairs=0,
        seed=seed,
        metrics={"agreement": agreement},
        tensors={
            "weight": rotation.astype(np.float32),
            "offset": (there.mean - here.mean @ rotation).astype(np.float32),
            "residual_weight": np.zeros(source.dim, np.float32),
            "residual_offset": np.log([gap]).astype(np.float32),
        },
    )


class _Set:
    """A set of vectors about its mean: unit directions, float64 (n, dim)."""

    def __init__(self, name: str, vectors: np.ndarray, space: Space) -> None:
        require_dim(name, vectors, space)
        finite = as_vectors(name, vectors)
        require_distinct(name, finite, LEAST)
        require_spread(name, finite)
        self.mean: np.ndarray = finite.mean(axis=0, dtype=np.float64)
        self.directions = _unit(finite - self.mean)


def _first(here: np.ndarray, there: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The orthogonal map between pseudo-pairs that matched clusters suggest."""
    matched = [_matched(here, there, rng) for _ in range(_ROUNDS)]
    near, far = np.concatenate([m[0] for m in matched]), np.concatenate([m[1] for m in matched])
    rows, columns = _drawn(here, rng), _drawn(there, rng)
    partners = _neighbours_mean(_unit(rows @ near.T), _unit(columns @ far.T), columns)
    return nearest_orthogonal(rows.T @ partners)


def _matched(here: np.ndarray, there: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Centroids of both sets, in the order in which their mutual similarities agree best."""
    from scipy.optimize import quadratic_assignment  # half a second to import, and only needed here

    near = _centroids(_drawn(here, rng), _some(here, _CLUSTERS, rng))
    far = _centroids(_drawn(there, rng), _some(there, _CLUSTERS, rng))
    best, order = -np.inf, np.arange(_CLUSTERS)
    for _ in range(_RESTARTS):
        found = quadratic_assignment(
            near @ near.T, far @ far.T, method="2opt", options={"maximize": True, "rng": rng}
        )
        if found.fun > best:
            best, order = found.fun, found.col_ind
    return near, far[order]


def _refined(
    rotation: np.ndarray, here: np.ndarray, there: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Half way to the orthogonal map between some sources and the targets that they fall among."""
    rows, columns = _some(here, _REFINED, rng), _drawn(there, rng)
    partners = _neighbours_mean(rows @ rotation, columns, columns)
    return nearest_orthogonal(rotation + nearest_orthogonal(rows.T @ partners))


def _centroids(vectors: np.ndarray, centroids: np.ndarray, steps: int = 10) -> np.ndarray:
    """Spherical k-means from these centroids; one that loses all its vectors stays where it was."""
    for _ in range(steps):
        nearest = (vectors @ centroids.T).argmax(axis=1)
        order = np.argsort(nearest, kind="stable")
        present, starts = np.unique(nearest[order], return_index=True)
        centroids = centroids.copy()
        centroids[present] = _unit(np.add.reduceat(vectors[order], starts))
    return centroids


def _neighbours_mean(rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mean of the values of each row's nearest columns."""
    similar = rows @ columns.T
    nearest = np.argpartition(-similar, _NEIGHBOURS, axis=1)[:, :_NEIGHBOURS]
    mean: np.ndarray = values[nearest].mean(axis=1)
    return mean


def _drawn(vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _some(vectors, _MOST, rng)


def _some(vectors: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    chosen: np.ndarray = vectors[rng.choice(len(vectors), min(count, len(vectors)), replace=False)]
    return chosen


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: np.ndarray = vectors / np.maximum(norms, np.finfo(np.float64).tiny)
    return scaled
