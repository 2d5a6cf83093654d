"""Complete a space: encode, from the stored texts and spans, the items that have no vector in it yet."""

import contextlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from encoders.spec import Chunking
from storage import arrays, parquet, releases, transaction
from storage.commits import Counts, Release
from storage.indexing import index_table
from storage.locks import Lease
from storage.snapshot import Snapshot
from tasks import rows
from tasks.commit import encode_seconds, gathered
from tasks.encode import CHUNKS, EncodeJob, encode_stream
from tasks.progress import Landed, Progress
from tasks.project import Project
from tasks.releases import encoder_of
from tasks.spool import Part, Spool

_COLUMNS = ("item_id", "uri", "text", "content_hash", "attributes_hash", "attributes")
_BATCH = 4_096


def complete(
    project: Project,
    collection: str,
    number: int,
    folder: Path,
    run_id: str,
    lease: Lease,
    progress: Progress,
    *,
    retry: bool = False,
) -> Landed:
    """Give every item with a text a vector in the space of a release; durable window by window.

    Chunks keep the spans that they have in another space, so that one `chunk_no` means one text
    everywhere. Items that the encoder rejects become rejects, which are left out later unless `retry`.
    Raises `RunFailed`, `EncoderChanged`.
    """
    snapshot = Snapshot.open(project.lake / collection)
    release = releases.find(snapshot, number)
    lacking = releases.missing(snapshot, release)
    if not retry:
        lacking = lacking.filter(pc.invert(pc.is_in(lacking, value_set=_rejected(snapshot))))
    landed = Landed(snapshot.version)
    if not len(lacking):
        return landed
    spec, facts = encoder_of(project, collection, release)
    settings = project.collection(collection)
    job = EncodeJob(spec, facts, Chunking.of(settings.chunk, facts), "utf-8")
    parts = _spooled(snapshot, release, lacking, folder / f"complete-{number}")
    total = sum(part.items for part in parts)
    stream = encode_stream(project, settings.resources, job, parts, np.empty(0, "S16"))
    done = 0
    with contextlib.closing(stream):
        for piece in gathered(stream):
            window = _window(snapshot, release, piece, run_id)
            snapshot = transaction.commit(project.lake, collection, window, known=snapshot, lease=lease)
            landed.version = snapshot.version
            landed.counts += window.counts
            landed.encode_seconds += window.encode_seconds
            done += piece.num_rows
            progress(done, total, done)
    return landed


def fill_retained(
    project: Project,
    collection: str,
    folder: Path,
    run_id: str,
    lease: Lease,
    progress: Progress,
    *,
    retry: bool = False,
) -> Landed:
    """Complete the spaces of all releases that are kept, so that a switch between them loses no item."""
    snapshot = Snapshot.open(project.lake / collection)
    head = snapshot.head
    landed = Landed(snapshot.version)
    if head is None:
        return landed
    for release in head.releases:
        if release.retired or not release.encoder:
            continue
        done = complete(project, collection, release.release, folder, run_id, lease, progress, retry=retry)
        landed.version = done.version
        landed.counts += done.counts
        landed.encode_seconds += done.encode_seconds
    return landed


def _rejected(snapshot: Snapshot) -> pa.Array:
    """Items that stand, and were rejected for one of the spaces with the content that they have."""
    found = [t for _, _, t in snapshot.read("rejects", ["item_id", "content_hash"])]
    ids = [i for t in found for i, c in zip(*(t[n].to_pylist() for n in t.column_names), strict=True) if c]
    return pa.array([i for i in ids if i is not None], pa.string())


def _spooled(snapshot: Snapshot, release: Release, item_ids: pa.Array, path: Path) -> tuple[Part, ...]:
    """The stored texts of these items, with their spans in another space where they have any."""
    spool = Spool(path)
    attributes = _attributes(snapshot)
    for file, positions, table in snapshot.read("items", ["item_id"]):
        wanted = arrays.to_numpy(pc.is_in(table["item_id"], value_set=item_ids).combine_chunks())
        rows_wanted = positions[wanted]
        at = 0
        for batch in parquet.batches(snapshot.root, file, _COLUMNS, _BATCH):
            chosen = rows_wanted[(rows_wanted >= at) & (rows_wanted < at + batch.num_rows)] - at
            at += batch.num_rows
            found = batch.take(arrays.from_numpy(chosen, pa.int64()))
            found = found.filter(pc.is_valid(found["text"]))
            if found.num_rows:
                spool.write(_as_changed(snapshot, release, found, attributes))
    return spool.close()


def _attributes(snapshot: Snapshot) -> pa.StructType:
    types = snapshot.attribute_types()
    return pa.struct(
        [(n, types.get(n, pa.string())) for n in (snapshot.head.attributes if snapshot.head else ())]
    )


def _conformed(items: pa.Table, attributes: pa.StructType) -> pa.Array:
    """The attributes of stored items with the columns of today: null where a file has none yet."""
    held: dict[str, pa.Array] = {}
    if "attributes" in items.column_names:
        column = items["attributes"].combine_chunks()
        held = dict(zip((f.name for f in column.type), column.flatten(), strict=True))
    arrays_ = [
        held[f.name].cast(f.type) if f.name in held else pa.nulls(items.num_rows, f.type) for f in attributes
    ]
    return pa.StructArray.from_arrays(arrays_, fields=list(attributes))


def _as_changed(snapshot: Snapshot, release: Release, items: pa.Table, attributes: pa.StructType) -> pa.Table:
    """Stored items as the spool of changed ones has them."""
    content = items["text"].cast(pa.large_string()).cast(pa.large_binary())
    kept = items.select(["item_id", "uri", "content_hash", "attributes_hash"])
    if attributes.num_fields:
        kept = kept.append_column("attributes", _conformed(items, attributes))
    return (
        kept.append_column("content", content)
        .append_column("known", pa.array([True] * items.num_rows))
        .append_column("spans", _spans(snapshot, release, items["item_id"].combine_chunks()))
    )


def _spans(snapshot: Snapshot, release: Release, item_ids: pa.Array) -> pa.Array:
    """The chunks of each item as another space has them; null where none has."""
    spans: dict[str, list[tuple[int, dict[str, object]]]] = {}
    for space in snapshot.spaces():
        lacking = pa.array([i for i in item_ids.to_pylist() if i not in spans], pa.string())
        columns = ["chunk_no", "chunk_start", "chunk_end", "chunk_hash"]
        found = snapshot.rows_of("vectors", lacking, columns, space) if space != release.space_id else None
        for row in found.to_pylist() if found is not None else ():
            chunk = {"start": row["chunk_start"], "end": row["chunk_end"], "hash": row["chunk_hash"]}
            spans.setdefault(row["item_id"], []).append((row["chunk_no"], chunk))
    ordered = [
        [chunk for _, chunk in sorted(spans[i], key=lambda c: c[0])] if i in spans else None
        for i in item_ids.to_pylist()
    ]
    return pa.array(ordered, CHUNKS)


def _window(snapshot: Snapshot, release: Release, done: pa.Table, run_id: str) -> transaction.Window:
    now = datetime.now(UTC)
    attributes = _attributes(snapshot)
    good = done.filter(pc.is_null(done["reject"]))
    bad = done.filter(pc.is_valid(done["reject"]))
    matrix = good["vectors"].combine_chunks().flatten().flatten().to_numpy(zero_copy_only=False)
    vectors = rows.vectors_table(good, matrix.reshape(-1, release.dim), run_id=run_id)
    return transaction.Window(
        verb="complete",
        run_id=run_id,
        started_at=now,
        release=release,
        attributes=attributes,
        vectors={release.space_id: vectors},
        rejects=rows.rejects_table(bad, run_id=run_id, now=now) if bad.num_rows else None,
        index={release.space_id: index_table(good, vectors, dim=release.dim, attributes=attributes)},
        resolved=good["item_id"].to_pylist(),
        made_from=good.select(["item_id", "content_hash"]),
        counts=Counts(rejected=bad.num_rows, encoded=good.num_rows, chunks=vectors.num_rows),
        encode_seconds=encode_seconds(done),
    )
