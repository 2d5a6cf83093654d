"""The sample of a probe: items whose vectors are known in the old space and in the new one.

Which items are drawn follows from their ids alone, so that a second probe draws the same ones and finds their
native vectors in the spool; which of them are held out as well.
"""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import arrays
from storage.commits import Release
from storage.snapshot import Snapshot
from tasks.native import Chunks, Native

HELD_OUT = 0.4
"""Of the items drawn: they are measured with, and no basis sees them."""

_SHOWN = ["item_id", "chunk_no", "chunk_start", "chunk_end", "chunk_hash", "origin"]
_CHUNKS_PER_ITEM = 2
"""Chunks drawn for every item asked for, at most: long items would make a probe as dear as an upgrade."""


@dataclass(frozen=True)
class Stored:
    """Stored chunks of some items in one space, the rows of an item together and in order."""

    rows: pa.Table
    """item_id, chunk_no, chunk_start, chunk_end, chunk_hash, origin"""
    vectors: np.ndarray
    """float32 (rows, dim)"""

    def of_items(self) -> dict[str, list[int]]:
        """The rows of each item."""
        found: dict[str, list[int]] = {}
        for row, item_id in enumerate(self.rows["item_id"].to_pylist()):
            found.setdefault(item_id, []).append(row)
        return found


@dataclass(frozen=True)
class Sample:
    """Chunks of the drawn items that have all their vectors, an item's rows together and in order.

    `first` (items,) is where the rows of each item begin; `old` (rows, d) are the stored vectors that a
    basis would map, `served` those that readers get now, `new` the native ones of the new encoder, all
    float32. `rows` says which chunks these are, `texts` are theirs (none for media). `held` (items,) says
    which items are held out.
    """

    item_ids: list[str]
    first: np.ndarray
    old: np.ndarray
    served: np.ndarray
    new: np.ndarray
    rows: pa.Table
    texts: list[str]
    held: np.ndarray

    @property
    def item_of(self) -> np.ndarray:
        """The item of each row, int64 (rows,)."""
        lengths = np.diff(np.append(self.first, len(self.old)))
        return np.repeat(np.arange(len(self.first)), lengths)


def drawn(snapshot: Snapshot, space_id: str, count: int, needed: Collection[str]) -> list[str]:
    """`count` items that have native (or imported) rows in a space, and those `needed`, in a fixed order.

    Which ones `count` gives does not depend on what is needed, so that another probe finds them encoded.
    They are fewer where items are cut into many chunks: at most twice `count` chunks.
    """
    chunks: dict[str, int] = {}
    mapped: set[str] = set()
    for _, _, table in snapshot.read("vectors", ["item_id", "origin"], space_id):
        for entry in pc.value_counts(table["item_id"]).to_pylist():
            chunks[entry["values"]] = chunks.get(entry["values"], 0) + entry["counts"]
        mapped.update(table.filter(pc.equal(table["origin"], "mapped"))["item_id"].to_pylist())
    able = chunks.keys() - mapped
    chosen = sorted((i for i in needed if i in able), key=_draw)
    first = sorted(able, key=_draw)[:count]
    size = np.cumsum([chunks[item_id] for item_id in first])
    fit = int(np.searchsorted(size, _CHUNKS_PER_ITEM * count, side="right"))
    return list(dict.fromkeys([*chosen, *first[:fit]]))


def is_held(item_id: str) -> bool:
    """Whether an item is held out: a share of `HELD_OUT` of all, by a draw of its own."""
    return int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=8, key=b"held").digest()) < int(
        HELD_OUT * 2**64
    )


def _draw(item_id: str) -> bytes:
    return hashlib.blake2b(item_id.encode(), digest_size=8, key=b"drawn").digest()


def stored(snapshot: Snapshot, release: Release, item_ids: Iterable[str]) -> Stored:
    """What a release's space holds of these items, in the order given; items without rows are left out."""
    wanted = pa.array(list(item_ids), pa.string())
    columns = [*_SHOWN, "vector"]
    parts = []
    for _, _, table in snapshot.batches("vectors", columns, release.space_id):
        found = table.filter(pc.is_in(table["item_id"], value_set=wanted))
        if found.num_rows:
            parts.append(found)
    if not parts:
        none = {n: pa.array([], pa.string()) for n in _SHOWN}
        return Stored(pa.table(none), np.empty((0, release.dim), np.float32))
    table = pa.concat_tables(parts)
    place = arrays.to_numpy(pc.index_in(table["item_id"], value_set=wanted).combine_chunks())
    order = np.lexsort((arrays.to_numpy(table["chunk_no"].combine_chunks()), place))
    table = table.take(arrays.from_numpy(order, pa.int64()))
    flat = arrays.to_numpy(table["vector"].combine_chunks().flatten())
    return Stored(table.select(_SHOWN), flat.reshape(-1, release.dim))


def paired(stored: Stored) -> Sample:
    """Stored rows as their own native vectors: what a sample is where two encoders share a space."""
    rows = stored.of_items()
    hashes = stored.rows["chunk_hash"].to_pylist()
    items = {i: Chunks([hashes[r] for r in at], stored.vectors[at], []) for i, at in rows.items()}
    return joined(stored, stored, Native(items), ())


def joined(old: Stored, served: Stored, native: Native, held: Collection[str]) -> Sample:
    """Items that have the same chunks everywhere; `held` are held out whatever their own draw says."""
    by_old, by_served = old.of_items(), served.of_items()
    hashes_old, hashes_served = (s.rows["chunk_hash"].to_pylist() for s in (old, served))
    chosen: list[str] = []
    rows_old: list[int] = []
    rows_served: list[int] = []
    new: list[np.ndarray] = []
    texts: list[str] = []
    first: list[int] = []
    for item_id in sorted(by_old, key=_draw):  # neighbours in the source must not be neighbours in a tie
        rows = by_old[item_id]
        chunks, beside = native.items.get(item_id), by_served.get(item_id, [])
        hashes = [hashes_old[r] for r in rows]
        if chunks is None or chunks.hashes != hashes or [hashes_served[r] for r in beside] != hashes:
            continue
        first.append(len(rows_old))
        chosen.append(item_id)
        rows_old += rows
        rows_served += beside
        new.append(chunks.vectors)
        texts += chunks.texts
    matrix = np.concatenate(new) if new else np.empty((0, 0), np.float32)
    return Sample(
        chosen,
        np.array(first, np.int64),
        old.vectors[rows_old],
        served.vectors[rows_served],
        matrix,
        old.rows.take(pa.array(rows_old, pa.int64())),
        texts,
        np.array([i in held or is_held(i) for i in chosen], bool),
    )
