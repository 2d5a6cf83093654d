"""Complete a space: encode, from stored texts or raw media, the items that have no vector in it yet."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from encoders.errors import EncoderError
from storage import releases
from storage.commits import Release
from storage.locks import Lease
from storage.snapshot import Snapshot
from tasks.errors import EncoderChanged
from tasks.filling import encode_items, rejected
from tasks.progress import Filled, Landed, Progress
from tasks.project import Project


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
        lacking = lacking.filter(pc.invert(pc.is_in(lacking, value_set=rejected(snapshot))))
    name = folder / f"complete-{number}"
    return encode_items(project, snapshot, release, lacking, name, run_id, "complete", lease, progress)


def _with_arrivals(
    project: Project, snapshot: Snapshot, bridge: Release, done: Landed, folder: Path, run_id: str,
    lease: Lease, progress: Progress,
) -> Landed:  # fmt: skip
    """Encode what this run brought into the space that a bridge asks in, so that it need not be asked for.

    The rest of that space is filled by cascades and by backfill.
    """
    snapshot = snapshot.advanced(strict=True)
    native = releases.find(snapshot, bridge.through or 0)
    lacking = releases.missing(snapshot, native)
    brought = [
        table.filter(pc.equal(table["run_id"], run_id))["item_id"]
        for _, _, table in snapshot.read("items", ["item_id", "run_id"])
    ]
    ids = pa.chunked_array([c for column in brought for c in column.chunks], pa.string())
    ids = ids.filter(pc.is_in(ids, value_set=lacking)).combine_chunks()
    name = folder / f"arrived-{native.release}"
    found = encode_items(project, snapshot, native, ids, name, run_id, "complete", lease, progress)
    found.counts += done.counts
    found.version = max(found.version, done.version)
    found.encode_seconds += done.encode_seconds
    return found


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
        if release.through is not None:
            done = _with_arrivals(project, snapshot, release, done, folder, run_id, lease, progress)
        filled.version = done.version
        if done.counts.encoded:
            filled.notes.append(
                f"{done.counts.encoded:,} items encoded for {name} too, in {done.encode_seconds:.1f} s"
            )
    return filled
