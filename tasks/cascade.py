"""A cascade: the best candidates of a recall get native vectors, are ranked again by them, and keep them."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from encoders.chunking import chunk_hash
from storage import kept
from storage.commits import Release
from storage.errors import StorageError
from storage.snapshot import Snapshot
from storage.vectors import Hits, Reading
from tasks.native import kept_table, natively
from tasks.originals import job_of
from tasks.paths import QueryPath
from tasks.progress import quietly
from tasks.project import Project
from tasks.questions import Asker

logger = logging.getLogger(__name__)

Key = tuple[str, int]


class Cascade:
    """Native vectors of candidates of one release, from where they are: index, spool, or the encoder.

    What was encoded is kept, if the collection's `searches:` says so and the lake can be written to.
    """

    def __init__(self, project: Project, snapshot: Snapshot, path: QueryPath, asker: Asker) -> None:
        self._project, self._root, self._path, self._asker = project, snapshot.root, path, asker
        self._searches = project.collection(snapshot.root.name).searches
        native = path.native
        self._spool = kept.Kept(snapshot.root, native.space_id, native.dim)
        self._writable = True

    def rerank(self, snapshot: Snapshot, query: np.ndarray, pool: Hits, native: Reading | None) -> Hits:
        """The candidates with native scores: cosines to `query`, float32 (dim,), in the native space.

        By a bridge they come from another space; `native` is then the index of the native one, if it can be
        read. A candidate that cannot be encoded keeps a mapped score of the same space, and leaves the
        ranking where it has none.
        """
        if not pool.rows.num_rows:
            return pool
        keys = list(zip(pool.rows["item_id"].to_pylist(), pool.rows["chunk_no"].to_pylist(), strict=True))
        scores = np.full(len(keys), np.nan, np.float32)
        same_space = self._path.basis is None
        if same_space:
            there = np.array([origin != "mapped" for origin in pool.rows["origin"].to_pylist()], bool)
            scores[there] = pool.scores[there]
        elif native is not None:
            _score(scores, query, _in_index(native, keys), keys)
        lacking = np.flatnonzero(np.isnan(scores))
        if len(lacking):
            found = self._vectors(snapshot, pool.rows.take(pa.array(lacking)))
            _score(scores, query, found, keys)
        self._note([item_id for item_id, _ in keys])
        encoded = ~np.isnan(scores)
        if same_space:
            scores = np.where(encoded, scores, pool.scores)
        good = np.flatnonzero(~np.isnan(scores))
        rows = pool.rows.take(pa.array(good))
        origins = np.where(encoded[good], "encoded", np.array(rows["origin"].to_pylist(), dtype=object))
        at = rows.column_names.index("origin")
        return Hits(rows.set_column(at, "origin", pa.array(origins.tolist(), pa.string())), scores[good])

    def _vectors(self, snapshot: Snapshot, rows: pa.Table) -> dict[Key, np.ndarray]:
        """Native vectors of chunks that have none in the lake."""
        if snapshot.head is not None and snapshot.head.modality != "text":
            return self._of_media(snapshot, rows)
        keys = list(zip(rows["item_id"].to_pylist(), rows["chunk_no"].to_pylist(), strict=True))
        texts = {key: text for key, text in zip(keys, rows["text"].to_pylist(), strict=True) if text}
        hashes = {key: chunk_hash(text) for key, text in texts.items()}
        self._spool.refresh()
        found = self._spool.find(list(hashes.values()))
        vectors = {key: found[own] for key, own in hashes.items() if own in found}
        fresh = [key for key in texts if key not in vectors]
        if fresh:
            made = self._asker.documents([texts[key] for key in fresh])
            good = np.isfinite(made).all(axis=1) & made.any(axis=1)
            fresh, made = [key for key, ok in zip(fresh, good.tolist(), strict=True) if ok], made[good]
            vectors |= dict(zip(fresh, made, strict=True))
            self._keep(fresh, [hashes[key] for key in fresh], made)
        return vectors

    def _of_media(self, snapshot: Snapshot, rows: pa.Table) -> dict[Key, np.ndarray]:
        release: Release = self._path.asked_by
        job = job_of(self._project, snapshot, release, *self._asker.encoder)
        ids = list(dict.fromkeys(rows["item_id"].to_pylist()))
        keep = self._searches.keep_vectors and self._writable
        with tempfile.TemporaryDirectory(prefix="evervec-") as folder:
            native = natively(
                self._project, snapshot, job, release.chunking_id, ids, Path(folder), quietly, keep=keep
            )
        return {
            (item_id, number): vector
            for item_id, chunks in native.items.items()
            for number, vector in enumerate(chunks.vectors)
        }

    def _keep(self, keys: Sequence[Key], hashes: Sequence[bytes], vectors: np.ndarray) -> None:
        if not self._searches.keep_vectors or not self._writable or not len(keys):
            return
        table = kept_table([k[0] for k in keys], [k[1] for k in keys], hashes, vectors)
        try:
            kept.keep(self._root, self._path.native.space_id, table)
        except (OSError, StorageError) as error:
            self._cannot_write(error)

    def _note(self, item_ids: Sequence[str]) -> None:
        if not self._searches.note_candidates or not self._writable:
            return
        try:
            kept.note(self._root, list(dict.fromkeys(item_ids)))
        except (OSError, StorageError) as error:
            self._cannot_write(error)

    def _cannot_write(self, error: Exception) -> None:
        """Said once: a reader may go on for weeks."""
        self._writable = False
        logger.warning("searches keep nothing: the lake cannot be written to (%s)", error)


def _in_index(native: Reading, keys: Sequence[Key]) -> dict[Key, np.ndarray]:
    rows = native.vectors_of(list(dict.fromkeys(item_id for item_id, _ in keys)))
    matrix = np.stack(rows["vector"].to_numpy(zero_copy_only=False)) if rows.num_rows else np.empty((0, 0))
    named = zip(rows["item_id"].to_pylist(), rows["chunk_no"].to_pylist(), strict=True)
    return dict(zip(named, matrix, strict=True))


def _score(
    scores: np.ndarray, query: np.ndarray, vectors: dict[Key, np.ndarray], keys: Sequence[Key]
) -> None:
    """Put in the cosines of those candidates that have a vector."""
    there = [at for at, key in enumerate(keys) if key in vectors]
    if not there:
        return
    matrix = np.stack([vectors[keys[at]] for at in there])
    norms = np.linalg.norm(matrix, axis=1) * np.linalg.norm(query)
    scores[there] = (matrix @ query) / np.maximum(norms, np.finfo(np.float32).tiny)
