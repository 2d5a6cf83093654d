"""Maintenance: compaction, new generations of the index, retention, sweep; and the purge.

Safe beside readers, and beside an ingest that starts meanwhile: the long work is done without the
commit lock, and each commit takes over what others have committed since.
"""

import contextlib
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from storage import checkpoints, compaction, generations, indexing, parquet, places, retention
from storage.commits import Release, succeeding
from storage.drafting import drafting
from storage.errors import CommitConflict
from storage.kept import SPOOLS
from storage.locks import Lease
from storage.places import Entry, Place
from storage.remote import Remote
from storage.retention import Retention
from storage.snapshot import Snapshot

MOST_INDEX_FILES = 200
"""Files of an index beyond which the next generation is made: about 50 commits' worth."""


@dataclass(frozen=True)
class Maintenance:
    """What there is to do: groups of files to join, spaces to index anew, releases and versions to let go.

    `files` and `tables` are what the sweep would remove now. `version` is the head it was planned at,
    `readable_from` and `readable_now` the oldest versions that could be read after it and can be read now.
    """

    version: int
    groups: tuple[compaction.Group, ...]
    masks: bool
    indexes: tuple[str, ...]
    retire: tuple[Release, ...]
    readable_from: int
    readable_now: int
    files: tuple[Entry, ...]
    tables: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """The collection is as maintenance would leave it."""
        older = self.readable_from > self.readable_now
        work = (self.groups, self.masks, self.indexes, self.retire, self.files, self.tables)
        return not (older or any(work))


@dataclass
class Maintained:
    """What was done. `pending` are processes that still hold files open that were removed."""

    version: int
    rewritten: int = 0
    indexes: list[str] = field(default_factory=list)
    retired: list[int] = field(default_factory=list)
    readable_from: int = 1
    removed: int = 0
    pending: list[str] = field(default_factory=list)


def plan(lake: Place, snapshot: Snapshot, keep: Retention, *, rebuild: bool) -> Maintenance:
    """Look what there is to do; changes nothing. With `rebuild` every index is made anew."""
    head = snapshot.head
    retire = retention.releases_to_retire(snapshot, keep)
    indexes = [
        space
        for space, index in (retention.without(head, retire).indexes if head else {}).items()
        if rebuild or len(snapshot.index_files(index)) > MOST_INDEX_FILES
    ]
    files, tables = retention.unneeded(lake, snapshot)
    return Maintenance(
        version=snapshot.version,
        groups=tuple(compaction.groups(snapshot)),
        masks=compaction.consolidate(snapshot) is not None,
        indexes=tuple(indexes),
        retire=tuple(retire),
        readable_from=retention.readable_from(snapshot, keep),
        readable_now=head.readable_from if head else 1,
        files=tuple(files),
        tables=tuple(tables),
    )


def plan_purge(lake: Place, snapshot: Snapshot) -> Maintenance:
    """What a purge would do; changes nothing."""
    files, tables = retention.unneeded(lake, snapshot, timedelta(0))
    groups = compaction.groups(snapshot, every_mask=True)
    return Maintenance(
        version=snapshot.version,
        groups=tuple(groups),
        masks=bool(snapshot.files("deletes")),
        indexes=tuple(snapshot.head.indexes) if snapshot.head else (),
        retire=(),
        readable_from=snapshot.version + 1,
        readable_now=snapshot.head.readable_from if snapshot.head else 1,
        files=tuple(files),
        tables=tuple(tables),
    )


def carry_out(
    lake: Place, snapshot: Snapshot, work: Maintenance, keep: Retention, run_id: str, lease: Lease
) -> Maintained:
    """Do it, in commits of its own each, and sweep. `lease` is the collection's `maintain` lease."""
    started = datetime.now(UTC)
    done = Maintained(snapshot.version, readable_from=work.readable_now)
    if work.is_empty:
        return done
    head = snapshot
    for group in work.groups:
        after = compaction.compact(head, group, run_id, started, lease)
        done.rewritten += len(group.files) if after.version > head.version else 0
        head = after
    for space in work.indexes:
        head = generations.make(
            lake, head, space, verb="maintain", run_id=run_id, started_at=started, lease=lease
        )
        done.indexes.append(space)
    head, done.retired = _settle(head, work, keep, run_id, started, lease)
    files, tables = retention.unneeded(lake, head)
    with drafting(head.root, head, lease) as draft:
        head = draft.before
        done.removed = retention.sweep(lake, head, files, tables)
    done.version = head.version
    done.readable_from = head.head.readable_from if head.head else 1
    return done


def _settle(
    known: Snapshot, work: Maintenance, keep: Retention, run_id: str, started: datetime, lease: Lease
) -> tuple[Snapshot, list[int]]:
    """One commit for the masks together, the releases that retire (returned) and the versions let go."""
    with drafting(known.root, known, lease) as draft:
        head = draft.before.head
        due = {r.release for r in retention.releases_to_retire(draft.before, keep)}
        if head is None:
            return draft.before, []
        # one of them may have been made live meanwhile
        retire = retention.dispensable(head, [r for r in work.retire if r.release in due])
        record = succeeding(head, verb="maintain", run_id=run_id, started_at=started)
        slim = retention.without(record, retire) if retire else record
        gone = record.spaces.keys() - slim.spaces
        leaving = [file.path for space in gone for file in draft.before.files("vectors", space)]
        masks = compaction.consolidate(draft.before, frozenset(leaving))
        oldest = retention.readable_from(draft.before, keep)
        if not (masks or retire or oldest > head.readable_from):
            return draft.before, []
        table, replaced = masks if masks is not None else (None, ())
        after = draft.publish(
            slim.model_copy(
                update={
                    "readable_from": oldest,
                    "deletes": parquet.write_some(known.root, "data/deletes", table),
                    "removed": (*replaced, *leaving),
                }
            )
        )
        return after, [r.release for r in retire]


def purge(lake: Place, snapshot: Snapshot, run_id: str, ingest: Lease, maintain: Lease) -> Maintained:
    """Make deletion real: after it no file of the collection holds what is not live now.

    Files with masked rows are rewritten, the indexes made anew, and everything that only earlier
    versions name is removed at once; those versions cannot be read any more. Call it with both leases
    held, so that no run has old texts in its spool. Raises `CommitConflict` if a lease is lost.
    """
    started = datetime.now(UTC)
    done = Maintained(snapshot.version)
    root = snapshot.root
    head = snapshot
    for group in compaction.groups(head, every_mask=True):
        head = compaction.compact(head, group, run_id, started, maintain)
        done.rewritten += len(group.files)
    built = {space: indexing.build(lake, head, space) for space in (head.head.indexes if head.head else ())}
    with drafting(root, head, ingest) as draft:
        now = draft.before
        if now.head is None:
            return done
        if now.masked:
            raise CommitConflict(
                f"rows of collection {root.name!r} were masked while it was purged; nothing was removed yet. "
                "Run the command again"
            )
        if now.head.indexes.keys() != built.keys():
            raise CommitConflict(
                f"an index of collection {root.name!r} was made while it was purged; nothing was removed "
                "yet. Run the command again"
            )
        number = now.head.number + 1
        indexes = {
            space: generations.caught_up(lake, head, now, space, index) for space, index in built.items()
        }
        record = succeeding(now.head, verb="purge", run_id=run_id, started_at=started)
        after = draft.publish(
            record.model_copy(
                update={
                    "indexes": indexes,
                    "removed": tuple(now_file.path for now_file in now.files("deletes")),
                    "readable_from": number,
                    "purged_at": number,
                }
            )
        )
        _clear(lake, after, done)
    done.version = after.version
    done.readable_from = number
    done.indexes = list(built)
    return done


def _clear(lake: Place, head: Snapshot, done: Maintained) -> None:
    """Remove at once what only versions before the purge name, and every place that may quote from them."""
    root = head.root
    files, tables = retention.unneeded(lake, head, timedelta(0))
    done.removed = retention.sweep(lake, head, files, tables)
    for folder in ("_spool", "reports", *SPOOLS):
        places.remove_tree(root / folder)
    head.checkpoint()
    for number in checkpoints.numbers(root / "_checkpoints"):
        if number < head.version:
            checkpoints.remove(root, number)
    done.pending = [] if isinstance(lake, Remote) else _holding(lake.resolve())


def _holding(lake: Path) -> list[str]:
    """Processes that still have removed files of the lake open: until they close them, the disk has them."""
    holding = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # of another user, or gone meanwhile
            opened = [os.readlink(link) for link in (process / "fd").iterdir()]
            held = [path for path in opened if path.startswith(f"{lake}/") and path.endswith(" (deleted)")]
            if held:
                holding.append(f"process {process.name} holds {len(held)} removed files open")
    return holding
