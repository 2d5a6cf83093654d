"""New generations of an index: made from Parquet without a lock, and committed with what came meanwhile."""

import logging
from datetime import datetime

import numpy as np
import pyarrow as pa

from storage import arrays, indexing, parquet
from storage.commits import IndexVersion, succeeding
from storage.drafting import drafting
from storage.locks import Lease
from storage.places import Place
from storage.snapshot import Snapshot
from storage.vectors import Index

logger = logging.getLogger(__name__)


def make(
    lake: Place,
    known: Snapshot,
    space_id: str,
    *,
    verb: str,
    run_id: str,
    started_at: datetime,
    lease: Lease,
    first: bool = False,
) -> Snapshot:
    """Make the index of a space anew, and a version that names it; the new head.

    With `first` it must not have one yet, else it must. Nothing happens (the head is returned) if that, or
    the space itself, changed meanwhile. Memory does not grow with the space.
    """
    while True:
        built = indexing.build(lake, known, space_id)
        with drafting(known.root, known, lease) as draft:
            now = draft.before
            if now.head is None or space_id not in now.head.spaces:
                return now
            if (space_id in now.head.indexes) == first:
                return now
            if not _rewritten(known, now, space_id):
                named = caught_up(lake, known, now, space_id, built)
                record = succeeding(now.head, verb=verb, run_id=run_id, started_at=started_at)
                return draft.publish(
                    record.model_copy(update={"indexes": {**record.indexes, space_id: named}})
                )
        logger.info("files of %s were compacted while it was indexed; it is indexed once more", space_id)
        known = now


def _rewritten(before: Snapshot, now: Snapshot, space_id: str) -> bool:
    """Whether files left between two versions: what they lost before that cannot be told any more."""
    files = (*before.files("items"), *before.files("vectors", space_id))
    return any(file.path not in now.state.files for file in files)


def caught_up(
    lake: Place, before: Snapshot, now: Snapshot, space_id: str, built: IndexVersion
) -> IndexVersion:
    """A table that was built at one version, with what was committed until a later one.

    No file may have left between the two.
    """
    touched = sorted(_touched(before, now, space_id))
    if not touched or now.head is None:
        return built
    rows = indexing.rows_of(lake, now, space_id, touched)
    after = Index(lake, built.table).write(built, rows.schema, touched, rows)
    return after.model_copy(update={"files": (*built.files, *after.files)})


def _touched(before: Snapshot, now: Snapshot, space_id: str) -> set[str]:
    """Items with rows that came or went between two versions."""
    ids: set[str] = set()
    for live in (*now.live_files("items"), *now.live_files("vectors", space_id)):
        if live.since > before.version:
            ids.update(parquet.read(now.root, live.file, ["item_id"])["item_id"].to_pylist())
            continue
        old = before.masked.get(live.file.path, np.empty(0, np.int64))
        new = np.setdiff1d(now.masked.get(live.file.path, np.empty(0, np.int64)), old)
        if len(new):
            column = parquet.read(now.root, live.file, ["item_id"])["item_id"]
            ids.update(column.take(arrays.from_numpy(new, pa.int64())).to_pylist())
    return ids
