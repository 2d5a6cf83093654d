"""What was built, verified before readers get it: an index must find what an exact search finds."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from storage import arrays, generations
from storage.commits import Release
from storage.locks import Lease
from storage.places import Place
from storage.snapshot import Snapshot
from storage.vectors import EXACT_BELOW, Index
from tasks.errors import GateRefused

LEAST_RECALL = 0.95
"""Of the exact first ten: maps that are no rotations tear graphs, though seldom those built after them."""

_QUERIES = 100
_K = 10

Key = tuple[str, int]


def require_recall(lake: Place, snapshot: Snapshot, release: Release, run_id: str, lease: Lease) -> Snapshot:
    """Raise `GateRefused` if the index of a release misses too much, even when made anew; the head."""
    found = recall(lake, snapshot, release)
    if found >= LEAST_RECALL:
        return snapshot
    started = datetime.now(UTC)
    snapshot = generations.make(
        lake, snapshot, release.space_id, verb="upgrade", run_id=run_id, started_at=started, lease=lease
    )
    found = recall(lake, snapshot, release)
    if found < LEAST_RECALL:
        raise GateRefused(
            f"the index of release {release.release} ({release.space_id}) finds {found:.0%} of the exact "
            f"first ten, at least {LEAST_RECALL:.0%} are asked for: its vectors lie badly for an index. The "
            "release is built and was not made live; another strategy, or reencode, may do"
        )
    return snapshot


def recall(lake: Place, snapshot: Snapshot, release: Release) -> float:
    """The share of the exact first ten that the index finds, over a hundred stored rows as queries."""
    head = snapshot.head
    if head is None or head.spaces[release.space_id].rows <= EXACT_BELOW:
        return 1.0  # searched exactly
    queries = _spread(snapshot, release)
    exact = _nearest(snapshot, release, queries)
    reading = Index(lake, head.indexes[release.space_id].table).open_at(head.indexes[release.space_id])
    hit = 0
    for query, expected in zip(queries, exact, strict=True):
        rows = reading.nearest(query, _K).rows
        found = set(zip(rows["item_id"].to_pylist(), rows["chunk_no"].to_pylist(), strict=True))
        hit += len(found & expected)
    return hit / (_K * len(queries))


def _spread(snapshot: Snapshot, release: Release) -> np.ndarray:
    """Stored vectors, some of every part of the space, float32 (n, dim)."""
    files = snapshot.files("vectors", release.space_id)
    each = max(1, _QUERIES // len(files))
    found = []
    for _, _, table in snapshot.batches("vectors", ["vector"], release.space_id):
        rows = np.unique(np.linspace(0, table.num_rows - 1, each).round().astype(np.int64))
        taken = table["vector"].take(arrays.from_numpy(rows, pa.int64())).combine_chunks().flatten()
        found.append(arrays.to_numpy(taken).reshape(-1, release.dim))
    every = np.concatenate(found)
    return every[np.unique(np.linspace(0, len(every) - 1, _QUERIES).round().astype(np.int64))]


def _nearest(snapshot: Snapshot, release: Release, queries: np.ndarray) -> list[set[Key]]:
    """Keys of the exact first ten of each query, in one pass over the space."""
    asked = _unit(queries)
    best = np.full((len(queries), _K), -np.inf, np.float32)
    keys = np.empty((len(queries), _K), dtype=object)
    columns = ["item_id", "chunk_no", "vector"]
    for _, _, table in snapshot.batches("vectors", columns, release.space_id):
        rows = arrays.to_numpy(table["vector"].combine_chunks().flatten()).reshape(-1, release.dim)
        scores = asked @ _unit(rows).T
        top = np.argpartition(-scores, min(_K, scores.shape[1] - 1), axis=1)[:, :_K]
        both = np.concatenate([best, np.take_along_axis(scores, top, axis=1)], axis=1)
        named = list(zip(table["item_id"].to_pylist(), table["chunk_no"].to_pylist(), strict=True))
        new = np.empty(top.shape, dtype=object)
        for at in np.ndindex(top.shape):
            new[at] = named[top[at]]
        order = np.argsort(-both, axis=1, kind="stable")[:, :_K]
        best = np.take_along_axis(both, order, axis=1)
        keys = np.take_along_axis(np.concatenate([keys, new], axis=1), order, axis=1)
    return [{key for key in row if key is not None} for row in keys]


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, np.finfo(np.float32).tiny), dtype=np.float32)
