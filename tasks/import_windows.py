"""Items with vectors made elsewhere go in by windows, each compared with what the collection has."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from encoders.chunking import chunk_hash
from storage import arrays, foreign, ordered, transaction
from storage.commits import Counts
from storage.indexing import index_table
from storage.locks import Lease
from storage.schemas import ITEM_COLUMNS, SHORT_HASH, items_schema
from storage.snapshot import Snapshot
from tasks import canaries, rows
from tasks.diff import attributes_hashes
from tasks.encoded import CHUNKS
from tasks.errors import RunFailed
from tasks.import_items import Assembler, Batch
from tasks.import_rejects import Rejects
from tasks.import_rows import Gathered
from tasks.imports import Job
from tasks.progress import Progress
from tasks.project import Project

WINDOW_CHUNKS = 50_000
_OF_EXPORTS = ("modality", "stale_since", "observed_at")


@dataclass
class Landed:
    """What became durable (in a dry run: what would). Counts are of items, but `chunks`."""

    version: int
    items: int = 0
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    chunks: int = 0
    encoded_kept: int = 0


def land(
    project: Project,
    job: Job,
    gathered: Gathered,
    lease: Lease,
    run_id: str,
    progress: Progress,
    *,
    dry_run: bool,
) -> Landed:
    """Commit what was put aside, window by window; with `dry_run` only count.

    An item that stands with the same content keeps a vector that was encoded here, and one that equals the
    given; others get theirs. An item with other content is replaced, where the vectors are of the live
    space. Elsewhere only items that stand get vectors. Raises `RunFailed` if nothing fits the collection.
    """
    snapshot = Snapshot.open(project.lake / job.collection)
    known = {r.release for r in snapshot.head.releases} if snapshot.head else set()
    if job.encoder is not None and job.release.release not in known and not dry_run:
        job = replace(job, release=canaries.noted(snapshot.root, job.release, *job.encoder))
    landed = Landed(snapshot.version)
    pending = Rejects(snapshot, run_id)
    total = gathered.aside.count("good")
    done = 0
    for items, chunks in _pieces(job, gathered):
        batch = Assembler(job, gathered, pending.add).assemble(items, chunks)
        done += chunks.num_rows
        window = _Comparison(job, snapshot, batch, pending, landed, run_id).window()
        if window is not None and not dry_run:
            window = pending.put_into(window)
            snapshot = transaction.commit(project.lake, job.collection, window, known=snapshot, lease=lease)
            landed.version = snapshot.version
        progress(done, total, done)
    for refused in gathered.aside.rows("refused"):
        pending.add_table(refused)
    landed.rejected = pending.count
    if not (landed.added or landed.updated or landed.unchanged):
        raise RunFailed(
            f"none of the {landed.items:,} items of {job.given.path} could be imported, mostly because "
            f"{pending.reasons.most_common(1)[0][0]}"
        )
    if pending.any_new and not dry_run:
        window = pending.put_into(_empty_window(job, snapshot, run_id))
        snapshot = transaction.commit(project.lake, job.collection, window, known=snapshot, lease=lease)
        landed.version = snapshot.version
    return landed


def _pieces(job: Job, gathered: Gathered) -> Iterator[tuple[pa.Table | None, pa.Table]]:
    """Chunks of whole items, about a window of them; of an export with their items."""
    aside = gathered.aside
    if job.is_export:
        yield from ordered.aligned(foreign.export_items(job.given.path), aside.rows("good"), WINDOW_CHUNKS)
    else:
        found = aside.sorted("good") if job.given.chunk else aside.rows("good")
        for chunks in ordered.whole_items(found, WINDOW_CHUNKS):
            yield None, chunks.sort_by([("item_id", "ascending"), ("chunk", "ascending")])


class _Comparison:
    """One window: what the collection has already, and what it gets."""

    def __init__(
        self, job: Job, snapshot: Snapshot, batch: Batch, rejects: Rejects, landed: Landed, run_id: str
    ) -> None:
        self._job, self._snapshot, self._batch = job, snapshot, batch
        self._rejects, self._landed, self._run_id = rejects, landed, run_id
        self._ids: list[str] = batch.items["item_id"].to_pylist()
        self._attributes = _all_attributes(job, batch.items)
        self._stored: dict[str, int] = {}
        self._old: pa.Table | None = None
        if snapshot.head is not None and self._ids:
            text = job.modality == "text"
            columns = [c for c in ITEM_COLUMNS if c != "item_id" and not (c == "media" and text)]
            self._old = snapshot.rows_of("items", pa.array(self._ids, pa.string()), columns)
        if self._old is not None:
            self._stored = {i: row for row, i in enumerate(self._old["item_id"].to_pylist())}

    def window(self) -> transaction.Window | None:
        """What to commit; None if nothing."""
        new, other, same = self._sorted_out()
        revectored, unchanged = self._compared(same)
        refreshed = self._refreshed(same)
        changed = {*other, *revectored, *refreshed}
        tally = self._landed
        tally.items += len(self._ids)
        tally.added += len(new)
        tally.updated += len(changed)
        tally.unchanged += len(set(unchanged) - set(refreshed))
        resolved = self._rejects.resolved([self._ids[row] for row in same])
        if not (new or changed or resolved):
            return None
        window = _empty_window(self._job, self._snapshot, self._run_id, self._attributes)
        index: dict[str, list[pa.Table]] = {}
        vectors: list[pa.Table] = []
        items = renewed = made_from = None
        if fresh := sorted([*new, *other]):
            items = self._item_rows(fresh, window.started_at)
            vectors.append(self._vector_rows(fresh))
            self._add_index(index, items, vectors[-1])
        if revectored:
            old = self._stored_rows(revectored, refreshed)
            vectors.append(self._vector_rows(revectored))
            self._add_index(index, old, vectors[-1])
            made_from = old.select(["item_id", "content_hash"])
        if refreshed:
            renewed = self._stored_rows(list(refreshed), refreshed)
            self._add_index_of_refreshed(index, renewed, revectored)
        chunks = sum(v.num_rows for v in vectors)
        tally.chunks += chunks
        return replace(
            window,
            items=items,
            vectors={self._job.release.space_id: pa.concat_tables(vectors)} if vectors else {},
            refreshed=renewed,
            index={space: pa.concat_tables(parts) for space, parts in index.items()},
            made_from=made_from,
            resolved=resolved,
            counts=Counts(added=len(new), updated=len(changed), chunks=chunks),
        )

    def _sorted_out(self) -> tuple[list[int], list[int], list[int]]:
        """Rows of items that are new, that stand with other content, and that stand with the same."""
        new, other, same = [], [], []
        hashes = self._batch.items["content_hash"].to_pylist()
        stored = [] if self._old is None else self._old["content_hash"].to_pylist()
        where = str(self._job.given.path)
        for row, item_id in enumerate(self._ids):
            known = item_id in self._stored
            if not known and self._job.live:
                new.append(row)
            elif not known:
                reason = "the item is not in the collection, and these are not vectors of its live space"
                self._rejects.add(item_id, where, "pull", reason, "NotInCollection")
            elif self._job.given.uri or stored[self._stored[item_id]] == hashes[row]:
                same.append(row)
            elif self._job.live:
                other.append(row)
            else:
                reason = "the collection has other content under this id than the vector was made from"
                self._rejects.add(item_id, where, "pull", reason, "OtherContent")
        return new, other, same

    def _compared(self, same: list[int]) -> tuple[list[int], list[int]]:
        """Of items whose content stands those that get other vectors, and those that keep theirs."""
        held = self._held_vectors([self._ids[r] for r in same])
        revectored: list[int] = []
        unchanged: list[int] = []
        batch, dim = self._batch, self._job.release.dim
        for row in same:
            own = held.get(self._ids[row], [])
            if own and own[0][1] == "encoded":
                self._landed.encoded_kept += 1
                unchanged.append(row)
                continue
            given = batch.chunks_of(row)
            numbers = [number for number, _, _ in own]
            before = np.array([vector for _, _, vector in own], np.float32).reshape(-1, dim)
            equal = numbers == batch.numbers[given].tolist() and np.array_equal(before, batch.matrix[given])
            (unchanged if equal else revectored).append(row)
        return revectored, unchanged

    def _held_vectors(self, item_ids: list[str]) -> dict[str, list[tuple[int, str, np.ndarray]]]:
        """Number, origin and vector of the chunks that these items have in the space, in order."""
        held: dict[str, list[tuple[int, str, np.ndarray]]] = {}
        release = self._job.release
        if not item_ids or self._snapshot.head is None or release.space_id not in self._snapshot.head.spaces:
            return held
        columns = ["chunk_no", "origin", "vector"]
        found = self._snapshot.rows_of("vectors", pa.array(item_ids, pa.string()), columns, release.space_id)
        if found is None:
            return held
        flat = found["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        rows_of = zip(
            found["item_id"].to_pylist(),
            found["chunk_no"].to_pylist(),
            found["origin"].to_pylist(),
            flat.reshape(-1, release.dim),
            strict=True,
        )
        for item_id, number, origin, vector in rows_of:
            held.setdefault(item_id, []).append((number, origin, vector))
        for chunks in held.values():
            chunks.sort(key=lambda chunk: chunk[0])
        return held

    def _refreshed(self, same: list[int]) -> dict[int, pa.Table]:
        """Of items whose content stands those whose attributes do not; row by row, as they are now."""
        given = self._batch.items
        if not same or self._old is None or "attributes" not in given.column_names or not self._job.live:
            return {}
        places = [self._stored[self._ids[row]] for row in same]
        before = arrays.conformed(self._old.take(pa.array(places, pa.int64())), self._attributes)
        overlay = given.take(pa.array(same, pa.int64()))["attributes"].combine_chunks()
        values = dict(zip((f.name for f in self._attributes), before.flatten(), strict=True))
        values |= dict(zip((f.name for f in overlay.type), overlay.flatten(), strict=True))
        merged = pa.StructArray.from_arrays(
            [values[f.name] for f in self._attributes], fields=list(self._attributes)
        )
        table = pa.table({"attributes": merged})
        hashes = attributes_hashes(table)
        old = self._old["attributes_hash"].to_pylist()
        changed = {}
        for at, (row, place) in enumerate(zip(same, places, strict=True)):
            if hashes[at].tobytes() != old[place]:
                hashed = pa.array([hashes[at].tobytes()], SHORT_HASH)
                changed[row] = table.slice(at, 1).append_column("attributes_hash", hashed)
        return changed

    def _stored_rows(self, chosen: list[int], refreshed: dict[int, pa.Table]) -> pa.Table:
        """The stored rows of items, in today's columns; with other attributes those that are refreshed."""
        if self._old is None:
            raise ValueError("no item of this window stands")
        schema = items_schema(self._attributes, self._job.modality)
        old = self._old.take(pa.array([self._stored[self._ids[row]] for row in chosen], pa.int64()))
        columns = {name: old[name] for name in schema.names if name in old.column_names}
        if self._attributes.num_fields:
            kept = pa.table({"attributes": arrays.conformed(old, self._attributes)})
            kept = kept.append_column("attributes_hash", old["attributes_hash"])
            shown = [refreshed.get(row, kept.slice(at, 1)) for at, row in enumerate(chosen)]
            now = pa.concat_tables(t.select(kept.column_names) for t in shown)
            columns |= {name: now[name] for name in now.column_names}
        return pa.table([columns[name] for name in schema.names], schema=schema)

    def _item_rows(self, chosen: list[int], now: datetime) -> pa.Table:
        """Rows of new or changed items."""
        done = self._batch.items.take(pa.array(chosen, pa.int64()))
        if self._attributes.num_fields:
            attributes = arrays.conformed(done, self._attributes)
            done = done.drop_columns([n for n in ("attributes",) if n in done.column_names])
            done = done.append_column("attributes", attributes)
        hashes = [value.tobytes() for value in attributes_hashes(done)]
        done = done.append_column("attributes_hash", pa.array(hashes, SHORT_HASH))
        items = rows.items_table(
            done, modality=self._job.modality, attributes=self._attributes, now=now, run_id=self._run_id
        )
        as_it_was = {n: done[n] for n in _OF_EXPORTS if n in done.column_names}
        return _with(items, as_it_was)

    def _vector_rows(self, chosen: list[int]) -> pa.Table:
        batch = self._batch.taken(chosen)
        items = batch.items
        if self._job.given.uri:
            items = _with(items, {"chunks": self._whole_texts(items)})
        table = rows.vectors_table(items, batch.matrix, run_id=self._run_id)
        origin = pa.array(["imported"] * table.num_rows, pa.string())
        return _with(table, {"chunk_no": pa.array(batch.numbers, pa.int32()), "origin": origin})

    def _whole_texts(self, items: pa.Table) -> pa.Array:
        """Spans where only the place of an item was given: all of its text, if one is stored."""
        texts = self._old["text"].to_pylist() if self._old is not None else []
        spans = items["chunks"].to_pylist()
        for at, item_id in enumerate(items["item_id"].to_pylist()):
            text = texts[self._stored[item_id]] if item_id in self._stored else None
            if text is not None and len(spans[at]) == 1 and spans[at][0]["end"] == 0:
                spans[at] = [{"start": 0, "end": len(text), "hash": chunk_hash(text)}]
        return pa.array(spans, CHUNKS)

    def _add_index(self, index: dict[str, list[pa.Table]], items: pa.Table, vectors: pa.Table) -> None:
        release = self._job.release
        index.setdefault(release.space_id, []).append(self._index(items, vectors, release.dim))

    def _add_index_of_refreshed(
        self, index: dict[str, list[pa.Table]], items: pa.Table, revectored: list[int]
    ) -> None:
        """Index rows, in every space, of items that only got other attributes."""
        columns = ["chunk_no", "chunk_start", "chunk_end", "origin", "vector"]
        done = pa.array([self._ids[row] for row in revectored], pa.string())
        head = self._snapshot.head
        for release in head.releases if head else ():
            if release.retired:
                continue
            ids = items["item_id"].combine_chunks()
            if release.space_id == self._job.release.space_id:
                ids = ids.filter(pc.invert(pc.is_in(ids, value_set=done)))
            vectors = self._snapshot.rows_of("vectors", ids, columns, release.space_id)
            if vectors is not None:
                index.setdefault(release.space_id, []).append(self._index(items, vectors, release.dim))

    def _index(self, items: pa.Table, vectors: pa.Table, dim: int) -> pa.Table:
        shown = _with(items, {"text": pc.fill_null(items["text"], "")})
        return index_table(shown, vectors, dim=dim, attributes=self._attributes)


def _with(table: pa.Table, columns: dict[str, pa.Array]) -> pa.Table:
    """The table with other values in some of its columns."""
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), values)
    return table


def _all_attributes(job: Job, items: pa.Table) -> pa.StructType:
    """The attributes of the collection once these items are in it: its own, then what they bring."""
    if "attributes" not in items.column_names or not job.live:
        return job.kept
    own = {f.name for f in job.kept}
    return pa.struct([*job.kept, *(f for f in items.schema.field("attributes").type if f.name not in own)])


def _empty_window(
    job: Job, snapshot: Snapshot, run_id: str, attributes: pa.StructType | None = None
) -> transaction.Window:
    if attributes is None:
        attributes = snapshot.attributes()
    return transaction.Window(
        verb="import",
        run_id=run_id,
        started_at=datetime.now(UTC),
        release=job.release,
        attributes=attributes,
        modality=job.modality,
    )
