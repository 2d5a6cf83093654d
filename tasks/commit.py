"""From the stream to versions: rows are gathered into windows, each committed whole."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import transaction
from storage.commits import Counts, Modality, Release
from storage.indexing import index_table
from storage.locks import Lease
from storage.places import Place
from storage.schemas import ITEM_COLUMNS, REJECTS, VECTOR_COLUMNS, items_schema
from storage.snapshot import Snapshot
from tasks import rows
from tasks.diff import Plan
from tasks.encoded import covered
from tasks.errors import RunFailed
from tasks.progress import Landed, Progress
from tasks.spool import Part, read_part

WINDOW_CHUNKS = 50_000
WINDOW_SECONDS = 60.0
"""A window is committed at whichever comes first: what a killed run loses at most."""


@dataclass(frozen=True)
class Target:
    """Where a run writes to."""

    lake: Place
    collection: str
    modality: Modality
    release: Release
    lease: Lease


def land(
    target: Target, base: Snapshot, plan: Plan, stream: Iterable[pa.Table], progress: Progress
) -> Landed:
    """Commit everything that `plan` asks for, window by window; deletions come with the last.

    A window holds at most 50,000 chunks or 60 s of the stream, but never a part of an item. Nothing
    is counted before its commit is durable. `base` is the version that the plan was made against: what
    the stream left out as stored already is taken from there. Raises `RunFailed` if the stream ends
    before every item of the plan came out of it.
    """
    landed = Landed(base.version)
    head = base
    pending = _Pending(target, base, plan, head)
    done = 0
    for piece in _pieces(stream):
        chunks = _chunks(piece)
        if pending.chunks and (pending.chunks + chunks > WINDOW_CHUNKS or pending.age > WINDOW_SECONDS):
            head = _commit(pending, landed, head)
            progress(done, plan.to_encode, done)
            pending = _Pending(target, base, plan, head)
        pending.add(piece, chunks)
        done += piece.num_rows
        progress(done, plan.to_encode, done - pending.items)
    if done != plan.to_encode:
        raise RunFailed(
            f"the encoders gave back {done:,} of {plan.to_encode:,} items; nothing was deleted. What was "
            "committed stays, and the same command goes on from there"
        )
    for refreshed in _windows(plan.refreshed, base):
        if pending.items:
            head = _commit(pending, landed, head)
            pending = _Pending(target, base, plan, head)
        pending.refresh(refreshed)
    pending.finish()
    _commit(pending, landed, head)
    progress(done, plan.to_encode, done)
    return landed


def _pieces(stream: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The stream's batches, cut where one holds more chunks than a window."""
    for batch in stream:
        lengths = np.cumsum(pc.list_value_length(batch["chunks"]).to_numpy())
        first = 0
        while first < batch.num_rows:
            before = lengths[first - 1] if first else 0
            stop = max(first + 1, int(np.searchsorted(lengths, before + WINDOW_CHUNKS, side="right")))
            yield batch.slice(first, stop - first)
            first = stop


def gathered(stream: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The stream's rows in tables of a window each: at most 50,000 chunks or 60 s, whole items."""
    held: list[pa.Table] = []
    chunks, since = 0, time.monotonic()
    for piece in _pieces(stream):
        more = _chunks(piece)
        if held and (chunks + more > WINDOW_CHUNKS or time.monotonic() - since > WINDOW_SECONDS):
            yield pa.concat_tables(held)
            held, chunks, since = [], 0, time.monotonic()
        held.append(piece)
        chunks += more
    if held:
        yield pa.concat_tables(held)


def _chunks(piece: pa.Table) -> int:
    return int(pc.sum(pc.list_value_length(piece["chunks"])).as_py() or 0)


def _windows(parts: tuple[Part, ...], base: Snapshot) -> Iterator[pa.Table]:
    """Refreshed items together, about as many as make a window of chunks."""
    head = base.head
    chunks = sum(o.rows for o in head.spaces.values()) / max(1, head.total_items) if head else 1.0
    most = WINDOW_CHUNKS / max(1.0, chunks)
    held: list[pa.Table] = []
    for part in parts:
        if held and sum(t.num_rows for t in held) + part.items > most:
            yield pa.concat_tables(held)
            held = []
        held.append(read_part(part))
    if held:
        yield pa.concat_tables(held)


def _commit(pending: "_Pending", landed: Landed, head: Snapshot) -> Snapshot:
    window, target = pending.window(), pending.target
    after = transaction.commit(target.lake, target.collection, window, known=head, lease=target.lease)
    landed.version = after.version
    landed.counts += window.counts
    landed.encode_seconds += window.encode_seconds
    return after


class _Pending:
    """A window that is being filled; it goes on from the version `head`."""

    def __init__(self, target: Target, base: Snapshot, plan: Plan, head: Snapshot) -> None:
        self.target, self._base, self._plan, self.snapshot = target, base, plan, head
        self.chunks = 0
        self.items = 0
        self._since = time.monotonic()
        self._now = datetime.now(UTC)
        self._done: list[pa.Table] = []
        self._refreshed: list[pa.Table] = []
        self._index: dict[str, list[pa.Table]] = {}
        self._rejects: list[pa.Table] = []
        self._stale: list[str] = []
        self._updated = 0
        self._last = False

    @property
    def age(self) -> float:
        return time.monotonic() - self._since

    def add(self, piece: pa.Table, chunks: int) -> None:
        self._done.append(piece)
        self.items += piece.num_rows
        self.chunks += chunks

    def refresh(self, changed: pa.Table) -> None:
        """New attributes (and a clean record) for items whose content stands."""
        old = self._stored_items(changed["item_id"])
        order = pc.index_in(old["item_id"], value_set=changed["item_id"].combine_chunks())
        fresh = {name: changed[name].take(order) for name in ("attributes_hash", "uri")}
        if self._plan.attributes.num_fields:
            fresh["attributes"] = changed["attributes"].take(order)
        items = self._renewed(old, fresh, stale_since=None)
        self._refreshed.append(items)
        for space, found in self._index_rows_of(items):
            self._index.setdefault(space, []).append(found)
        self._updated += items.num_rows
        self.items += items.num_rows

    def finish(self) -> None:
        """What belongs to the last window: rejects of the pull, deletions."""
        self._last = True
        if self._plan.rejects:
            self._rejects.append(
                rows.pull_rejects_table(self._plan.rejects, run_id=self._plan.run_id, now=self._now)
            )
        self._stale.extend(self._plan.stale)

    def window(self) -> transaction.Window:
        release, plan = self.target.release, self._plan
        # in the order of ids: their statistics then prune row groups, and the next diff runs along
        done = pa.concat_tables(self._done).sort_by("item_id") if self._done else None
        good = done.filter(pc.is_null(done["reject"])) if done is not None else None
        items = vectors = None
        encoded = added = 0
        if done is not None and good is not None:
            bad = done.filter(pc.is_valid(done["reject"]))
            if bad.num_rows:
                self._rejects.append(rows.rejects_table(bad, run_id=plan.run_id, now=self._now))
                self._stale.extend(bad.filter(bad["known"])["item_id"].to_pylist())
        if good is not None and good.num_rows:
            items = rows.items_table(
                good,
                modality=self.target.modality,
                attributes=plan.attributes,
                now=self._now,
                run_id=plan.run_id,
            )
            vectors = rows.vectors_table(good, self._matrix(good), run_id=plan.run_id)
            made = index_table(items, vectors, dim=release.dim, attributes=plan.attributes)
            self._index.setdefault(release.space_id, []).append(made)
            encoded = int(pc.sum(pc.greater(good["fresh"], 0)).as_py())
            added = int(pc.sum(pc.invert(good["known"])).as_py())
            self._updated += good.num_rows - added
        self._mark_stale()
        rejects = pa.concat_tables(self._rejects) if self._rejects else REJECTS.empty_table()
        deleted = list(plan.deleted) if self._last else []
        return transaction.Window(
            verb="ingest",
            run_id=plan.run_id,
            started_at=plan.started_at,
            release=release,
            attributes=plan.attributes,
            modality=self.target.modality,
            items=items,
            vectors={} if vectors is None else {release.space_id: vectors},
            refreshed=_concatenated(self._refreshed),
            rejects=rejects,
            index={space: pa.concat_tables(parts) for space, parts in self._index.items()},
            deleted=deleted,
            resolved=list(plan.resolved) if self._last else [],
            counts=Counts(
                added=added,
                updated=self._updated,
                deleted=len(deleted),
                rejected=rejects.num_rows,
                encoded=encoded,
                chunks=vectors.num_rows if vectors is not None else 0,
            ),
            encode_seconds=encode_seconds(done),
            offset=plan.offset if self._last else None,
        )

    def _matrix(self, good: pa.Table) -> np.ndarray:
        """Vectors of all chunks, float32; those that were not encoded again come from the lake."""
        dim = self.target.release.dim
        vectors = good["vectors"].combine_chunks().flatten()
        matrix: np.ndarray = vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
        missing = ~matrix.any(axis=1)
        if missing.any():
            hashes = good["chunks"].combine_chunks().flatten().field("hash").filter(pa.array(missing))
            matrix = matrix.copy()
            matrix[missing] = self._base.vectors_of_chunks(self.target.release.space_id, hashes, dim)
        return matrix

    def _mark_stale(self) -> None:
        """Items whose newest content was rejected keep their last good rows, marked with the time."""
        if not self._stale:
            return
        old = self._stored_items(pa.chunked_array([pa.array(self._stale, pa.string())]))
        fresh_marks = old.filter(pc.is_null(old["stale_since"]))
        if fresh_marks.num_rows:
            self._refreshed.append(self._renewed(fresh_marks, {}, stale_since=self._now))

    def _stored_items(self, ids: pa.ChunkedArray) -> pa.Table:
        text = self.target.modality == "text"
        columns = [c for c in ITEM_COLUMNS if c != "item_id" and not (c == "media" and text)]
        found = self.snapshot.rows_of("items", ids.combine_chunks(), columns)
        return self._schema().empty_table() if found is None else found

    def _schema(self) -> pa.Schema:
        return items_schema(self._plan.attributes, self.target.modality)

    def _renewed(
        self, old: pa.Table, fresh: dict[str, pa.ChunkedArray], *, stale_since: datetime | None
    ) -> pa.Table:
        schema = self._schema()
        columns = {name: old[name] for name in old.column_names}
        columns |= fresh
        columns["stale_since"] = pa.array([stale_since] * old.num_rows, schema.field("stale_since").type)
        if "attributes" in schema.names and "attributes" not in columns:
            columns["attributes"] = pa.nulls(old.num_rows, self._plan.attributes)
        return pa.table({name: columns[name] for name in schema.names}, schema=schema)

    def _index_rows_of(self, items: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        """The index rows of these standing items, by space."""
        head = self.snapshot.head
        for release in {r.space_id: r for r in (head.releases if head else ()) if not r.retired}.values():
            vectors = self.snapshot.rows_of(
                "vectors",
                items["item_id"].combine_chunks(),
                [c for c in VECTOR_COLUMNS if c != "item_id"],
                release.space_id,
            )
            if vectors is not None:
                attributes = self._plan.attributes
                yield release.space_id, index_table(items, vectors, dim=release.dim, attributes=attributes)


def _concatenated(tables: list[pa.Table]) -> pa.Table | None:
    return pa.concat_tables(tables) if tables else None


def encode_seconds(done: pa.Table | None) -> float:
    """Seconds in which at least one encoder was at work on these rows."""
    if done is None:
        return 0.0
    return covered(list(zip(done["began"].to_pylist(), done["ended"].to_pylist(), strict=True)))
