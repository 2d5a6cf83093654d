"""The commit protocol: one window of a run becomes one version, wholly or not at all.

Order, each step durable before the next: Parquet files, LanceDB table, commit record. The record is
the commit; files and index rows that no record names do not exist for any reader.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import parquet
from storage.commits import Commit, Counts, IndexVersion, Log, Origins, Release
from storage.locks import lock
from storage.parquet import DataFile
from storage.schemas import DELETES, index_schema
from storage.snapshot import Snapshot


@dataclass(frozen=True)
class Window:
    """The rows committed together.

    `items` and `vectors` replace every earlier row of their items, `refreshed` (items whose content
    stands: only attributes or `stale_since` changed) replace item rows alone, `deleted` items go.
    `resolved` names items (or, where there is no id, uris) whose earlier rejects no longer hold.
    `index` are the LanceDB rows of all items in `items`, and of those in `refreshed` whose attributes
    changed.
    """

    verb: str
    run_id: str
    started_at: datetime
    release: Release
    attributes: pa.StructType
    items: pa.Table | None = None
    vectors: pa.Table | None = None
    refreshed: pa.Table | None = None
    rejects: pa.Table | None = None
    index: pa.Table | None = None
    deleted: list[str] = field(default_factory=list)
    resolved: list[str] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    encode_seconds: float = 0.0
    offset: str | None = None


def commit(lake: Path, collection: str, window: Window) -> Commit:
    """Make `window` the next version and return its record; durable on return.

    Raises `LakeBusy` if another writer holds the commit lock, `CommitConflict` if the index or the
    log moved underneath: then nothing of the window is visible, and running again is safe.
    """
    twice = set(_ids(window.items)) & set(_ids(window.refreshed))
    if twice:
        raise ValueError(f"{sorted(twice)[0]!r} is among the new and the refreshed items of one window")
    root = lake / collection
    space = window.release.space_id
    added_items = _write(root, "data/items", window.items, window.refreshed)
    added_vectors = _write(root, f"data/vectors/{space}", window.vectors)
    added_rejects = _write(root, "data/rejects", window.rejects)
    with lock(root, "commit", wait=60.0):
        before = Snapshot.open(root)
        masks = _masks(before, window)
        deletes = _write(root, "data/deletes", _deletes_table(masks))
        index = _write_index(lake, collection, before, window)
        record = _record(before, window, masks, index).model_copy(
            update={
                "items": added_items,
                "vectors": {space: added_vectors} if added_vectors else {},
                "rejects": added_rejects,
                "deletes": deletes,
            }
        )
        Log(root).append(record)
    return record


def _write(root: Path, folder: str, *tables: pa.Table | None) -> tuple[DataFile, ...]:
    return tuple(parquet.write(root, folder, t) for t in tables if t is not None and t.num_rows)


@dataclass(frozen=True)
class _Masks:
    """Rows that the window masks: (path, positions), by kind."""

    items: list[tuple[str, np.ndarray]]
    vectors: list[tuple[str, np.ndarray]]
    rejects: list[tuple[str, np.ndarray]]


def _masks(before: Snapshot, window: Window) -> _Masks:
    new = _ids(window.items)
    refreshed = _ids(window.refreshed)
    gone = pa.array([*new, *window.deleted], pa.string())
    old_items = pa.array([*new, *refreshed, *window.deleted], pa.string())
    tried = _reject_keys(window.rejects)
    cleared = pa.array([*new, *refreshed, *window.deleted, *window.resolved, *tried], pa.string())
    return _Masks(
        items=list(before.positions_of("items", old_items)),
        vectors=list(before.positions_of("vectors", gone, window.release.space_id)),
        rejects=list(before.positions_of_rejects(cleared)),
    )


def _deletes_table(masks: _Masks) -> pa.Table | None:
    parts = [*masks.items, *masks.vectors, *masks.rejects]
    if not parts:
        return None
    paths = [path for path, positions in parts for _ in range(len(positions))]
    rows = np.concatenate([positions for _, positions in parts])
    return pa.table({"path": paths, "row": rows}, schema=DELETES)


def _write_index(lake: Path, collection: str, before: Snapshot, window: Window) -> IndexVersion:
    named = before.head.index if before.head else None
    touched = _ids(window.index)
    gone = [*window.deleted, *dict.fromkeys(touched)] if named else []
    schema = index_schema(window.release.dim, window.attributes)
    rows = window.index if window.index is not None else schema.empty_table()
    if named is not None and not gone and not rows.num_rows:
        return named
    from storage import (
        vectors,
    )  # lancedb takes 1.5 s to import, which a run without changes must not pay

    table = named.table if named else vectors.table_name(collection, window.release.space_id)
    return vectors.Index(lake, table).write(named, schema, gone, rows)


def _record(before: Snapshot, window: Window, masks: _Masks, index: IndexVersion) -> Commit:
    head = before.head
    spaces = dict(head.spaces) if head else {}
    encoded = spaces.get(window.release.space_id, Origins()).encoded
    encoded += _rows(window.vectors) - _masked(masks.vectors)
    spaces[window.release.space_id] = Origins(encoded=encoded)
    items = (head.total_items if head else 0) + _rows(window.items) + _rows(window.refreshed)
    rejects = (head.total_rejects if head else 0) + _rows(window.rejects)
    return Commit(
        number=before.version + 1,
        parent=before.version,
        verb=window.verb,
        run_id=window.run_id,
        started_at=window.started_at,
        committed_at=datetime.now(UTC),
        encode_seconds=window.encode_seconds,
        counts=window.counts,
        total_items=items - _masked(masks.items),
        total_rejects=rejects - _masked(masks.rejects),
        spaces=spaces,
        attributes={f.name: str(f.type) for f in window.attributes},
        index=index,
        live=window.release,
        offset=window.offset,
    )


def _ids(table: pa.Table | None) -> list[str]:
    return [] if table is None else table["item_id"].to_pylist()


def _reject_keys(table: pa.Table | None) -> list[str]:
    """What a reject replaces earlier ones by: its item, or where that is unknown its place."""
    return [] if table is None else pc.coalesce(table["item_id"], table["uri"]).to_pylist()


def _rows(table: pa.Table | None) -> int:
    return 0 if table is None else int(table.num_rows)


def _masked(parts: Iterable[tuple[str, np.ndarray]]) -> int:
    return sum(len(positions) for _, positions in parts)
