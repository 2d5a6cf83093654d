"""Complete a space: encode, from stored texts or raw media, the items that have no vector in it yet."""

import contextlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from encoders.errors import EncoderError
from storage import releases, transaction
from storage.commits import Counts, Release
from storage.indexing import index_table
from storage.locks import Lease
from storage.snapshot import Snapshot
from tasks import rows
from tasks.commit import encode_seconds, gathered
from tasks.encode import encode_stream
from tasks.errors import EncoderChanged
from tasks.originals import job_of, spooled
from tasks.progress import Filled, Landed, Progress
from tasks.project import Project
from tasks.releases import encoder_of


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
    """Give every item a vector in the space of a release; durable window by window.

    Texts are those stored; images and audio are read again from where they were listed last, and are
    rejects if they are not there, or not the same, any more. An imported item without a text stays out.

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
    job = job_of(project, snapshot, release, spec, facts)
    parts = spooled(snapshot, lacking, release.chunking_id, folder / f"complete-{number}")
    total = sum(part.items for part in parts)
    stream = encode_stream(project, project.collection(collection).resources, job, parts, np.empty(0, "S16"))
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
) -> Filled:
    """Complete the spaces of all releases that are kept, so that a switch between them loses no item.

    Those that were never live are somebody's work in progress and stay as they are. A release that is not
    live and whose encoder cannot be used is passed over with a note: the live one does not need it.
    """
    snapshot = Snapshot.open(project.lake / collection)
    head = snapshot.head
    filled = Filled(snapshot.version)
    if head is None:
        return filled
    for release in head.releases:
        if release.retired or not release.encoder or release.version is None:
            continue
        number, name = release.release, f"release {release.release} ({release.space_id})"
        try:
            done = complete(project, collection, number, folder, run_id, lease, progress, retry=retry)
        except (EncoderError, EncoderChanged) as error:
            if number == head.live_release:
                raise
            filled.notes.append(f"{name} was not filled, and a rollback to it would miss items: {error}")
            continue
        filled.version = done.version
        if done.counts.encoded:
            filled.notes.append(
                f"{done.counts.encoded:,} items encoded for {name} too, in {done.encode_seconds:.1f} s"
            )
    return filled


def _rejected(snapshot: Snapshot) -> pa.Array:
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


def _window(snapshot: Snapshot, release: Release, done: pa.Table, run_id: str) -> transaction.Window:
    now = datetime.now(UTC)
    attributes = snapshot.attributes()
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
