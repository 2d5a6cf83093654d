"""The commit protocol: one window of a run becomes one version, wholly or not at all.

Order, each step durable before the next: Parquet files, LanceDB tables, commit record. The record is
the commit; files and index rows that no record names do not exist for any reader.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import arrays, indexing, parquet
from storage.commits import Commit, Counts, IndexVersion, Modality, Origins, Release, succeeding
from storage.drafting import discard, drafting
from storage.errors import CommitConflict, Damaged
from storage.locks import Lease
from storage.parquet import DataFile
from storage.places import Place
from storage.schemas import DELETES, index_schema
from storage.snapshot import Snapshot
from storage.vectors import Index
from storage.verified import Verified

logger = logging.getLogger(__name__)

Positions = list[tuple[str, np.ndarray]]
"""Rows by the path of their file."""


@dataclass(frozen=True)
class Window:
    """The rows committed together.

    `items` replace every earlier row of their items, in all spaces; `refreshed` (items whose content
    stands: only attributes or `stale_since` changed) replace item rows alone; `deleted` items go.
    `vectors` are rows by space, of items of this window or of items that stand already; the latter are
    named in `made_from` (`item_id`, `content_hash`), and must still have that content.
    `resolved` names items (or, where there is no id, uris) whose earlier rejects no longer hold.
    `index` are LanceDB rows by space: of all items in `items` and `vectors`, and of those in
    `refreshed` whose attributes changed; a space that is being built needs none. `release` is added if the
    collection does not have it yet.
    """

    verb: str
    run_id: str
    started_at: datetime
    release: Release
    attributes: pa.StructType
    modality: Modality = "text"
    items: pa.Table | None = None
    vectors: dict[str, pa.Table] = field(default_factory=dict)
    refreshed: pa.Table | None = None
    rejects: pa.Table | None = None
    index: dict[str, pa.Table] = field(default_factory=dict)
    made_from: pa.Table | None = None
    deleted: list[str] = field(default_factory=list)
    resolved: list[str] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    encode_seconds: float = 0.0
    offset: str | None = None


def commit(
    lake: Place,
    collection: str,
    window: Window,
    *,
    known: Snapshot | None = None,
    lease: Lease | None = None,
) -> Snapshot:
    """Make `window` the next version and return it; durable on return.

    Raises `LakeBusy` if another writer holds the commit lock, `CommitConflict` if the index, the log or
    the items moved underneath: then nothing of the window is visible, and running again is safe.
    """
    twice = set(_ids(window.items)) & set(_ids(window.refreshed))
    if twice:
        raise ValueError(f"{sorted(twice)[0]!r} is among the new and the refreshed items of one window")
    _require_made_from(window)
    root = lake / collection
    written: list[DataFile] = []
    record: Commit | None = None
    try:
        items = _write(written, root, "data/items", window.items, window.refreshed)
        vectors = {s: _write(written, root, f"data/vectors/{s}", t) for s, t in window.vectors.items()}
        rejects = _write(written, root, "data/rejects", window.rejects)
        with drafting(root, known, lease) as draft:
            masks = _masks(draft.before, window)
            record = _record(draft.before, window, masks).model_copy(
                update={
                    "items": items,
                    "vectors": {space: files for space, files in vectors.items() if files},
                    "rejects": rejects,
                    "deletes": _write(written, root, "data/deletes", deletes_table(masks.all)),
                    "indexes": _write_indexes(lake, draft.before, window),
                }
            )
            return draft.publish(record)
    except BaseException:
        discard(root, written, unless=record)
        raise


def _write(
    written: list[DataFile], root: Place, folder: str, *tables: pa.Table | None
) -> tuple[DataFile, ...]:
    files = []
    for table in tables:
        for file in parquet.write_some(root, folder, table):
            files.append(file)
            written.append(file)
    return tuple(files)


@dataclass(frozen=True)
class _Masks:
    """Rows that the window masks, by kind; vectors by space."""

    items: Positions
    vectors: dict[str, Positions]
    rejects: Positions

    @property
    def all(self) -> Positions:
        of_vectors = (part for positions in self.vectors.values() for part in positions)
        return [*self.items, *of_vectors, *self.rejects]


def _masks(before: Snapshot, window: Window) -> _Masks:
    new = _ids(window.items)
    refreshed = _ids(window.refreshed)
    old_items = pa.array([*new, *refreshed, *window.deleted], pa.string())
    tried = _reject_keys(window.rejects)
    cleared = pa.array([*new, *refreshed, *window.deleted, *window.resolved, *tried], pa.string())
    _require_unchanged(before, window)
    return _Masks(
        items=list(before.positions_of("items", old_items)),
        vectors={
            space: list(before.positions_of("vectors", pa.array(ids, pa.string()), space))
            for space in (before.head.spaces if before.head else ())
            if (ids := [*new, *window.deleted, *_made(window, space)])
        },
        rejects=list(before.positions_of_rejects(cleared)),
    )


def _made(window: Window, space: str) -> list[str]:
    """Standing items that get vectors of a space."""
    if window.made_from is None or space not in window.vectors:
        return []
    return list(dict.fromkeys(_ids(window.vectors[space])))


def _require_made_from(window: Window) -> None:
    """Every vector is of an item of the window, or says what it was made from."""
    named = set(_ids(window.items)) | set(_ids(window.made_from))
    for space, vectors in window.vectors.items():
        if stray := set(_ids(vectors)) - named:
            raise ValueError(f"vectors of {min(stray)!r} in {space}, which the window neither has nor names")


def _require_unchanged(before: Snapshot, window: Window) -> None:
    """Raise `CommitConflict` if an item is not what its new vectors, or its new row, were made from."""
    named = [
        t.select(["item_id", "content_hash"]) for t in (window.made_from, window.refreshed) if t is not None
    ]
    expected = pa.concat_tables(named, promote_options="permissive") if named else None
    if expected is None or not expected.num_rows:
        return
    wanted = expected["item_id"].combine_chunks()
    found = before.rows_of("items", wanted, ["content_hash"])
    have = (
        {}
        if found is None
        else dict(zip(found["item_id"].to_pylist(), found["content_hash"].to_pylist(), strict=True))
    )
    for item_id, content in zip(wanted.to_pylist(), expected["content_hash"].to_pylist(), strict=True):
        if have.get(item_id) != content:
            raise CommitConflict(
                f"item {item_id!r} of collection {before.root.name!r} was changed while vectors were made "
                "for it; nothing of this window was kept. Run the command again"
            )


def deletes_table(parts: Positions) -> pa.Table | None:
    """Rows of a deletes file that mask these; None if there are none."""
    if not parts:
        return None
    paths = [path for path, positions in parts for _ in range(len(positions))]
    rows = np.concatenate([positions for _, positions in parts])
    return pa.table({"path": paths, "row": rows}, schema=DELETES)


def _write_indexes(lake: Place, before: Snapshot, window: Window) -> dict[str, IndexVersion]:
    """The index of every space, holding what the window makes of it.

    A space that is being built has none, and gets none here: `building.index` makes it of all its rows.
    """
    head = before.head
    named = dict(head.indexes) if head else {}
    releases = {r.space_id: r for r in (window.release, *(head.releases if head else ())) if not r.retired}
    written = {}
    for space, release in releases.items():
        rows = window.index.get(space)
        gone = [*window.deleted, *_ids(window.items), *_ids(rows)] if space in named else []
        if space in named and not gone:
            written[space] = named[space].model_copy(update={"files": ()})
            continue
        if head is not None and space in head.spaces and space not in named:
            continue
        schema = index_schema(release.dim, window.attributes)
        if rows is None:
            rows = schema.empty_table()
        written[space] = _write_index(
            lake, before, space, named.get(space), schema, list(dict.fromkeys(gone)), rows
        )
    return written


def _write_index(
    lake: Place,
    before: Snapshot,
    space: str,
    named: IndexVersion | None,
    schema: pa.Schema,
    gone: list[str],
    rows: pa.Table,
) -> IndexVersion:
    if named is None:
        return Index(lake, indexing.next_table(lake, before, space)).write(None, schema, gone, rows)
    index = Index(lake, named.table)
    try:
        return index.write(named, schema, gone, rows)
    except Damaged as error:
        logger.warning("%s. A new generation was made from Parquet", error)
    except (RuntimeError, ValueError, OSError):
        # the table may be damaged where opening it did not look; if it is whole, this is another matter
        try:
            Verified().require(index.directory, before.index_files(named))
        except Damaged as error:
            logger.warning("%s. A new generation of the index was made from Parquet", error)
        else:
            raise
    built = indexing.build(lake, before, space)
    after = Index(lake, built.table).write(built, schema, gone, rows)
    return after.model_copy(update={"files": (*built.files, *after.files)})


def _record(before: Snapshot, window: Window, masks: _Masks) -> Commit:
    head = before.head
    record = succeeding(head, verb=window.verb, run_id=window.run_id, started_at=window.started_at)
    items = record.total_items + _rows(window.items) + _rows(window.refreshed) - _count(masks.items)
    rejects = record.total_rejects + _rows(window.rejects) - _count(masks.rejects)
    releases = _releases(before, window)
    return record.model_copy(
        update={
            "encode_seconds": window.encode_seconds,
            "counts": window.counts,
            "total_items": items,
            "total_rejects": rejects,
            "spaces": _origins(before, window, masks),
            "attributes": {f.name: str(f.type) for f in window.attributes},
            "modality": head.modality if head else window.modality,
            "releases": releases,
            "live_release": head.live_release if head else window.release.release,
            "offset": window.offset if window.offset is not None or head is None else head.offset,
        }
    )


def _releases(before: Snapshot, window: Window) -> tuple[Release, ...]:
    head, own = before.head, window.release
    if head is None:
        return (own.model_copy(update={"version": 1}),)
    known = next((r for r in head.releases if r.release == own.release), None)
    if known is None and own.release == len(head.releases) + 1:
        return (*head.releases, own)
    if known is None or known.retired or known.space_id != own.space_id:
        raise CommitConflict(
            f"release {own.release} of collection {before.root.name!r} is not there any more; nothing of "
            "this window was kept. Run the command again"
        )
    return head.releases


def _origins(before: Snapshot, window: Window, masks: _Masks) -> dict[str, Origins]:
    """Rows by space and origin once the window is in."""
    head = before.head
    spaces = dict(head.spaces) if head else {}
    for space in {window.release.space_id, *window.vectors, *spaces}:
        counts = spaces.get(space, Origins()).model_dump()
        for origin, sign in _changes(before, window.vectors.get(space), masks.vectors.get(space, [])):
            for entry in pc.value_counts(origin).to_pylist():
                counts[entry["values"]] += sign * entry["counts"]
        spaces[space] = Origins(**counts)
    return spaces


def _changes(
    before: Snapshot, new: pa.Table | None, masked: Positions
) -> Iterator[tuple[pa.ChunkedArray, int]]:
    """Origins that come (+1) and go (-1)."""
    if new is not None:
        yield new["origin"], 1
    files = {f.path: f for f in before.all_files()} if masked else {}
    for path, positions in masked:
        column = parquet.read(before.root, files[path], ["origin"])["origin"]
        yield column.take(arrays.from_numpy(positions, pa.int64())), -1


def _ids(table: pa.Table | None) -> list[str]:
    return [] if table is None else table["item_id"].to_pylist()


def _reject_keys(table: pa.Table | None) -> list[str]:
    """What a reject replaces earlier ones by: its item, or where that is unknown its place."""
    return [] if table is None else pc.coalesce(table["item_id"], table["uri"]).to_pylist()


def _rows(table: pa.Table | None) -> int:
    return 0 if table is None else int(table.num_rows)


def _count(parts: Positions) -> int:
    return sum(len(positions) for _, positions in parts)
