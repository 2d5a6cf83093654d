"""Native vectors that take their place in a space: encoded now, or kept from what was encoded in passing."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import arrays, kept, transaction
from storage.commits import Counts, Release
from storage.indexing import index_table
from storage.locks import Lease
from storage.schemas import VECTOR_COLUMNS, vectors_schema
from storage.snapshot import Snapshot
from tasks import rows
from tasks.commit import encode_seconds, gathered
from tasks.encode import encode_stream
from tasks.originals import job_of, spooled
from tasks.progress import Landed, Progress
from tasks.project import Project
from tasks.releases import encoder_of

WORTH_FOLDING = 1_000
"""Kept vectors that are worth a commit of their own."""

_ITEMS_AT_ONCE = 20_000


def encode_items(
    project: Project,
    snapshot: Snapshot,
    release: Release,
    item_ids: pa.Array,
    folder: Path,
    run_id: str,
    verb: str,
    lease: Lease,
    progress: Progress,
    *,
    until: float | None = None,
) -> Landed:
    """Encode stored items into a release's space, in place of what stands there; durable window by window.

    Ends with the batch during which the monotonic time `until` came. Items that the encoder rejects become
    rejects. Raises `RunFailed`, `EncoderChanged`, and `CommitConflict` if an item was changed meanwhile.
    """
    landed = Landed(snapshot.version)
    if not len(item_ids):
        return landed
    name = snapshot.root.name
    spec, facts = encoder_of(project, name, release)
    job = job_of(project, snapshot, release, spec, facts)
    parts = spooled(snapshot, item_ids, release.chunking_id, folder)
    total = sum(part.items for part in parts)
    none = np.empty(0, "S16")
    stream = encode_stream(project, project.collection(name).resources, job, parts, none)
    done = 0
    with contextlib.closing(stream):
        for piece in gathered(_until(stream, until)):
            window = window_of(snapshot, release, piece, run_id, verb)
            snapshot = transaction.commit(project.lake, name, window, known=snapshot, lease=lease)
            landed.version = snapshot.version
            landed.counts += window.counts
            landed.encode_seconds += window.encode_seconds
            done += piece.num_rows
            progress(done, total, done)
    return landed


def _until(stream: Iterable[pa.Table], until: float | None) -> Iterator[pa.Table]:
    for batch in stream:
        yield batch
        if until is not None and time.monotonic() >= until:
            return


def rejected(snapshot: Snapshot) -> pa.Array:
    """Items that stand, and were rejected for one of the spaces with the very content that they have."""
    tables = [t for _, _, t in snapshot.read("rejects", ["item_id", "content_hash"])]
    said = {
        item_id: content
        for table in tables
        for item_id, content in zip(*(table[n].to_pylist() for n in ("item_id", "content_hash")), strict=True)
        if item_id is not None and content is not None
    }
    items = snapshot.rows_of("items", pa.array(list(said), pa.string()), ["content_hash"])
    rows = [] if items is None else items.to_pylist()
    return pa.array([r["item_id"] for r in rows if said[r["item_id"]] == r["content_hash"]], pa.string())


def window_of(
    snapshot: Snapshot, release: Release, done: pa.Table, run_id: str, verb: str
) -> transaction.Window:
    """What becomes of a piece of the encode stream: rows of a release's space, rejects, index rows."""
    now = datetime.now(UTC)
    attributes = snapshot.attributes()
    good = done.filter(pc.is_null(done["reject"]))
    bad = done.filter(pc.is_valid(done["reject"]))
    matrix = good["vectors"].combine_chunks().flatten().flatten().to_numpy(zero_copy_only=False)
    vectors = rows.vectors_table(good, matrix.reshape(-1, release.dim), run_id=run_id)
    return transaction.Window(
        verb=verb,
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


def fold_kept(
    project: Project,
    snapshot: Snapshot,
    release: Release,
    cut: Release,
    run_id: str,
    lease: Lease,
    *,
    least: int = WORTH_FOLDING,
) -> Landed:
    """Take vectors that were kept in passing into a release's space, if there are at least so many.

    `cut` is a release whose space has all chunks of the items. An item goes in whole: with its chunks of
    that space where it stands there already, else only if all of them were kept.
    """
    landed = Landed(snapshot.version)
    names = kept.files(snapshot.root, release.space_id)
    spool = kept.Kept(snapshot.root, release.space_id, release.dim)
    spool.refresh()
    if not names or len(spool) < least:
        return landed
    tables = [t.select(["item_id"]) for t in kept.rows(snapshot.root, release.space_id, names)]
    ids = pc.unique(pa.concat_tables(tables)["item_id"])
    head = snapshot
    for at in range(0, len(ids), _ITEMS_AT_ONCE):
        window = _folded(head, release, cut, spool, ids.slice(at, _ITEMS_AT_ONCE), run_id)
        if window is not None:
            head = transaction.commit(project.lake, snapshot.root.name, window, known=head, lease=lease)
            landed.version = head.version
            landed.counts += window.counts
    kept.discard(snapshot.root, release.space_id, names)
    return landed


def _folded(
    snapshot: Snapshot, release: Release, cut: Release, spool: "kept.Kept", ids: pa.Array, run_id: str
) -> transaction.Window | None:
    columns = [c for c in VECTOR_COLUMNS if c != "item_id"]
    standing = snapshot.rows_of("vectors", ids, columns, release.space_id)
    here = standing["item_id"] if standing is not None else pa.array([], pa.string())
    absent = ids.filter(pc.invert(pc.is_in(ids, value_set=pc.unique(here))))
    spans = None
    if cut.space_id != release.space_id and cut.chunking_id == release.chunking_id:
        spans = snapshot.rows_of("vectors", absent, columns, cut.space_id)
    parts = [
        _replaced(t, release, spool, run_id, whole=t is spans) for t in (standing, spans) if t is not None
    ]
    vectors = pa.concat_tables(parts) if parts else None
    if vectors is None or not vectors.num_rows:
        return None
    items = snapshot.rows_of(
        "items", pc.unique(vectors["item_id"]), ["uri", "text", "content_hash", "attributes"]
    )
    if items is None:
        return None
    attributes = snapshot.attributes()
    encoded = pc.unique(vectors.filter(pc.equal(vectors["origin"], "encoded"))["item_id"])
    return transaction.Window(
        verb="fold",
        run_id=run_id,
        started_at=datetime.now(UTC),
        release=release,
        attributes=attributes,
        vectors={release.space_id: vectors},
        index={release.space_id: index_table(items, vectors, dim=release.dim, attributes=attributes)},
        made_from=items.select(["item_id", "content_hash"]),
        counts=Counts(encoded=len(encoded), chunks=vectors.num_rows),
    )


def _replaced(
    rows_of: pa.Table, release: Release, spool: "kept.Kept", run_id: str, *, whole: bool
) -> pa.Table:
    """Rows of items with kept vectors in place of theirs; items that nothing is kept for are left out.

    With `whole` the others have no vectors in this space at all, so that all of an item must be kept.
    """
    hashes = rows_of["chunk_hash"].to_pylist()
    found = spool.find(hashes)
    origins = rows_of["origin"].to_pylist()
    new = np.array([h in found and (whole or o != "encoded") for h, o in zip(hashes, origins, strict=True)])
    ids = rows_of["item_id"]
    touched = pc.unique(ids.filter(pa.array(new)))
    if whole:
        lacking = pc.unique(ids.filter(pa.array(~new)))
        touched = touched.filter(pc.invert(pc.is_in(touched, value_set=lacking)))
    chosen = arrays.to_numpy(pc.is_in(ids, value_set=touched).combine_chunks())
    table, native = rows_of.filter(pa.array(chosen)), new[chosen]
    keys = [h for h, there in zip(hashes, chosen.tolist(), strict=True) if there]
    dim = release.dim
    matrix = np.zeros((len(keys), dim), np.float32)
    if not whole:
        matrix[:] = arrays.to_numpy(table["vector"].combine_chunks().flatten()).reshape(-1, dim)
    for at in np.flatnonzero(native).tolist():
        matrix[at] = found[keys[at]]
    mask = pa.array(native)
    columns = {
        **{n: table[n] for n in ("item_id", "chunk_no", "chunk_start", "chunk_end", "chunk_hash")},
        "origin": pc.if_else(mask, "encoded", table["origin"].combine_chunks()),
        "basis_id": pc.if_else(mask, None, table["basis_id"].combine_chunks()),
        "residual": pc.if_else(mask, None, table["residual"].combine_chunks()),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), dim),
        "run_id": pa.array([run_id] * len(keys)),
    }
    schema = vectors_schema(dim)
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)
