"""Releases that are built beside the live one: begun, filled window by window, indexed once at the end.

Searches never see a space without an index. Meanwhile every other window masks rows of items that change
in it, as in all spaces, and makes no index for it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import arrays, generations, parquet
from storage.commits import Commit, Counts, Origins, Release, succeeding
from storage.drafting import discard, drafting, require_there
from storage.errors import CommitConflict, NoSuchRelease
from storage.locks import Lease
from storage.parquet import DataFile
from storage.places import Place
from storage.snapshot import Snapshot
from storage.transaction import Positions, deletes_table

_KEY = ("item_id", "chunk_no")


@dataclass(frozen=True)
class Appended:
    """A new file of vectors that were made of rows of a live file of another space.

    `source` is the path of that file, `rows` are the positions in it, ascending, of which the rows of
    `written` were made, in this order. `written` lies under `data/vectors/<space_id>`.
    """

    source: str
    rows: np.ndarray
    written: DataFile


def start(root: Place, releases: Sequence[Release], verb: str, run_id: str, lease: Lease) -> Snapshot:
    """Add releases, in one commit: new spaces are empty, and have no index yet. The new head.

    Those that are there already, as they are given (but for `version` and `canaries`), are left; if all
    are, there is no commit. Raises `NoSuchRelease` for a collection without items, `CommitConflict` if a
    number is another's, or not the next one.
    """
    started_at = datetime.now(UTC)
    with drafting(root, lease=lease) as draft:
        head = draft.before.head
        if head is None:
            raise NoSuchRelease(f"collection {root.name!r} is empty; fill it: evervec ingest {root.name}")
        new = list(_new(head, releases, root.name))
        if not new:
            return draft.before
        record = succeeding(head, verb=verb, run_id=run_id, started_at=started_at)
        empty = {r.space_id: Origins() for r in new}
        return draft.publish(
            record.model_copy(
                update={"releases": (*record.releases, *new), "spaces": {**empty, **record.spaces}}
            )
        )


def _new(head: Commit, releases: Sequence[Release], collection: str) -> Iterable[Release]:
    """Those that the head does not have."""
    known = {r.release: r for r in head.releases}
    dims = {r.space_id: r.dim for r in (*releases, *head.releases)}
    number = len(known)
    for release in releases:
        if release.version is not None or release.retired or dims[release.space_id] != release.dim:
            raise ValueError(
                f"release {release.release} was live, is retired, or has another dim than its space"
            )
        there = known.get(release.release)
        if there is None and release.release == number + 1:
            number += 1
            yield release
        elif there is None or _as_begun(there) != _as_begun(release):
            raise CommitConflict(
                f"release {release.release} of collection {collection!r} is another one by now, or not the "
                f"next; nothing was added. See: evervec history {collection}"
            )


def _as_begun(release: Release) -> Release:
    return release.model_copy(update={"version": None, "canaries": None})


def append(
    lake: Place,
    known: Snapshot,
    release: Release,
    appended: Sequence[Appended],
    *,
    run_id: str,
    started_at: datetime,
    counts: Counts,
    encode_seconds: float = 0.0,
    lease: Lease,
) -> Snapshot:
    """Commit files of vectors that were made of rows as they were at `known`; the new head, durable.

    No item is looked up, and no index is touched: the files are added as they are, with masks over rows
    whose source is masked by now. Chunks that the space got since `known`, from this run or another, are
    masked too (2 s a million of them). The same files twice are one commit.

    Raises `CommitConflict` if a source was rewritten meanwhile, or the release has an index or is gone.
    After any error the files are not there any more, unless they were committed all the same: they are to
    be made anew from the head.
    """
    root = lake / known.root.name
    head = known.advanced(strict=True)
    appended = _uncommitted(head, release.space_id, appended)
    if not appended:
        return head
    written = [one.written for one in appended]
    record: Commit | None = None
    try:
        for one in appended:
            _require_alike(one, release)
        require_there(root, written)
        with drafting(root, known, lease) as draft:
            now = _require_unindexed(draft.before, release)
            masks = list(_masks(known, draft.before, release.space_id, appended))
            deletes = parquet.write_some(root, "data/deletes", deletes_table(masks))
            written += deletes
            record = succeeding(now, verb="upgrade", run_id=run_id, started_at=started_at)
            record = record.model_copy(
                update={
                    "encode_seconds": encode_seconds,
                    "counts": counts,
                    "vectors": {release.space_id: tuple(one.written for one in appended)},
                    "deletes": deletes,
                    "spaces": {
                        **record.spaces,
                        release.space_id: _origins(root, now, release, appended, masks),
                    },
                }
            )
            return draft.publish(record)
    except BaseException:
        discard(root, written, unless=record)
        raise


def _uncommitted(head: Snapshot, space_id: str, appended: Sequence[Appended]) -> list[Appended]:
    """Those that no version names yet: only these may be removed if this delivery fails."""
    named = {file.path for commit in head.tail for file in commit.vectors.get(space_id, ())}
    named |= head.state.files.keys()
    return [one for one in appended if one.written.path not in named]


def _require_alike(one: Appended, release: Release) -> None:
    rows = one.rows
    if len(rows) != one.written.rows or (len(rows) and (rows[0] < 0 or (np.diff(rows) <= 0).any())):
        raise ValueError(
            f"{one.written.path} has {one.written.rows} rows, made of {len(rows)}: not in order?"
        )
    if not one.written.path.startswith(f"data/vectors/{release.space_id}/"):
        raise ValueError(f"{one.written.path} does not lie in the space {release.space_id}")


def _require_unindexed(now: Snapshot, release: Release) -> Commit:
    """The head; raise `CommitConflict` unless the release is there, in a space that has no index yet."""
    head, name = now.head, now.root.name
    there = next((r for r in head.releases if r.release == release.release), None) if head else None
    if head is None or there is None or there.retired or there.space_id != release.space_id:
        raise CommitConflict(
            f"release {release.release} of collection {name!r} is not there any more; nothing was kept. "
            f"See: evervec history {name}"
        )
    if release.space_id in head.indexes:
        raise CommitConflict(
            f"release {release.release} of collection {name!r} has its index already: files cannot be added "
            "without it any more, and nothing was kept. Encode what it lacks with: "
            f"evervec promote {name} {release.release} --complete"
        )
    return head


def _masks(
    known: Snapshot, now: Snapshot, space_id: str, appended: Sequence[Appended]
) -> Iterable[tuple[str, np.ndarray]]:
    """Positions in the new files of rows that are out of date, or whose chunk the space got since `known`."""
    since = [f.file for f in now.live_files("vectors", space_id) if f.since > known.version]
    for one, taken in zip(appended, _taken(now, since, appended), strict=True):
        if one.source not in now.state.files:
            raise CommitConflict(
                f"{now.root / one.source} was rewritten while vectors were made of it; nothing of this "
                "window was kept. Run the command again"
            )
        hit = taken | np.isin(one.rows, now.masked.get(one.source, np.empty(0, np.int64)))
        if hit.any():
            yield one.written.path, np.flatnonzero(hit)


def _taken(now: Snapshot, files: Sequence[DataFile], appended: Sequence[Appended]) -> list[np.ndarray]:
    """Which rows of each new file have the key of a live row in `files`; memory grows with the window."""
    sizes = [one.written.rows for one in appended]
    hit = np.zeros(sum(sizes), dtype=bool)
    if files:
        mine = pa.concat_tables([parquet.read(now.root, one.written, _KEY) for one in appended])
        mine = mine.append_column("row", arrays.from_numpy(np.arange(len(hit)), pa.int64()))
        for keys in _keys(now, files, len(hit)):
            found = mine.join(keys, list(_KEY), join_type="left semi")["row"]
            hit[arrays.to_numpy(found.combine_chunks())] = True
    return np.split(hit, np.cumsum(sizes)[:-1])


def _keys(now: Snapshot, files: Sequence[DataFile], rows: int) -> Iterator[pa.Table]:
    """Keys of the live rows of some files, a little more than `rows` at a time."""
    held: list[pa.Table] = []
    for file in files:
        table = parquet.read(now.root, file, _KEY)
        alive = np.delete(np.arange(table.num_rows), now.masked.get(file.path, np.empty(0, np.int64)))
        held.append(table.take(arrays.from_numpy(alive, pa.int64())))
        if sum(t.num_rows for t in held) >= rows:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _origins(
    root: Place, head: Commit, release: Release, appended: Sequence[Appended], masks: Positions
) -> Origins:
    """Rows of the space by origin, once the files are in."""
    counts = head.spaces[release.space_id].model_dump()
    masked = dict(masks)
    for one in appended:
        column = parquet.read(root, one.written, ["origin"])["origin"]
        alive = np.delete(np.arange(len(column)), masked.get(one.written.path, np.empty(0, np.int64)))
        for entry in pc.value_counts(column.take(arrays.from_numpy(alive, pa.int64()))).to_pylist():
            counts[entry["values"]] += entry["counts"]
    return Origins(**counts)


def index(lake: Place, known: Snapshot, release: Release, run_id: str, lease: Lease) -> Snapshot:
    """Make the index of a space that was built without one, and a version that names it; the new head.

    It holds what is live then, also what was committed meanwhile. Memory does not grow with the space. One
    that has an index already is left as it is. Raises `CommitConflict` if the release is gone.
    """
    started_at = datetime.now(UTC)
    head = known.advanced(strict=True)
    if head.head is not None and release.space_id in head.head.indexes:
        return head
    _require_unindexed(head, release)
    made = generations.make(
        lake,
        head,
        release.space_id,
        verb="upgrade",
        run_id=run_id,
        started_at=started_at,
        lease=lease,
        first=True,
    )
    if made.head is None or release.space_id not in made.head.indexes:
        _require_unindexed(made, release)
    return made
