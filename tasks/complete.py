"""Complete a space: encode, from stored texts or raw media, the items that have no vector in it yet."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from encoders.errors import EncoderError
from storage import releases
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
