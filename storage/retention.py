"""What is kept: which versions and releases, and which files nobody needs any more."""

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow.compute as pc

from storage import places, vectors
from storage.bases import BASIS_FILE
from storage.commits import Commit, Log, Release
from storage.errors import Damaged
from storage.kept import KEPT_FILE
from storage.parquet import DATA_FILE, DataFile
from storage.places import TEMPORARY, Entry, Place
from storage.releases import earlier_of
from storage.snapshot import Snapshot
from storage.vectors import tables

logger = logging.getLogger(__name__)

GRACE = timedelta(hours=1)
"""How long files stay that no kept version names: a reader or a writer may be in the middle of something."""


@dataclass(frozen=True)
class Retention:
    """Versions of the last `days` are kept, and `releases` releases that were live before the present one."""

    days: float
    releases: int


def clock_is_behind(head: Commit) -> bool:
    """Whether the newest version is dated well ahead of the clock: one is wrong, and ages mean nothing."""
    return head.committed_at > datetime.now(UTC) + GRACE


def now_of(head: Commit) -> datetime:
    """The time by which ages are told: the clock's, but never before the last commit (clocks jump back)."""
    return max(datetime.now(UTC), head.committed_at)


def readable_from(snapshot: Snapshot, retention: Retention) -> int:
    """The oldest version to keep: the one that was the head `days` (at least the grace period) ago."""
    head = snapshot.head
    if head is None:
        return 1
    if clock_is_behind(head):
        return head.readable_from
    cutoff = now_of(head) - max(timedelta(days=retention.days), GRACE)
    return max(head.readable_from, _head_at(snapshot, cutoff), 1)


def _head_at(snapshot: Snapshot, cutoff: datetime) -> int:
    """The version that was the head then; 0 if there was none."""
    times = pc.cumulative_max(snapshot.history()["committed_at"].cast("int64")).to_numpy()
    return int((times <= cutoff.timestamp() * 1e6).sum())


def releases_to_retire(snapshot: Snapshot, retention: Retention) -> list[Release]:
    """Earlier releases beyond the newest `releases`, or not live any more for `days`.

    One that was never live is somebody's work in progress and stays; so does one that a bridge leads through.
    """
    head = snapshot.head
    if head is None or clock_is_behind(head):
        return []
    ended = _last_live(snapshot)
    cutoff = now_of(head) - timedelta(days=retention.days)
    due = [
        r
        for place, r in enumerate(earlier_of(head))
        if place >= retention.releases or ended[r.release] <= cutoff
    ]
    return dispensable(head, due)


def dispensable(head: Commit, releases: Iterable[Release]) -> list[Release]:
    """Those of `releases` that can be retired together: no bridge that stays leads through them."""
    due = list(releases)
    while True:
        going = {r.release for r in due}
        needed = {r.through for r in head.releases if not r.retired and r.release not in going}
        if not going & needed:
            return due
        due = [r for r in due if r.release not in needed]


def _last_live(snapshot: Snapshot) -> dict[int, datetime]:
    """When each release was last live: the time of the version that made another one so."""
    history = snapshot.history()
    times = pc.cumulative_max(history["committed_at"].cast("int64")).cast(history["committed_at"].type)
    rows = zip(history["release"].to_pylist(), times.to_pylist(), strict=True)
    ended: dict[int, datetime] = {}
    before: int | None = None
    for release, committed_at in rows:
        if before is not None and before != release:
            ended[before] = committed_at
        before = release
    return ended


def without(record: Commit, releases: Iterable[Release]) -> Commit:
    """The record with those of these releases retired that can be.

    Their spaces, as far as no other release has them, go with all vectors.
    """
    gone = {r.release for r in dispensable(record, releases)}
    kept = tuple(r.model_copy(update={"retired": True}) if r.release in gone else r for r in record.releases)
    needed = {r.space_id for r in kept if not r.retired}
    return record.model_copy(
        update={
            "releases": kept,
            "spaces": {s: o for s, o in record.spaces.items() if s in needed},
            "indexes": {s: i for s, i in record.indexes.items() if s in needed},
        }
    )


def needed_files(snapshot: Snapshot) -> set[str]:
    """Data files of all versions that are kept, and what the releases name."""
    head = snapshot.head
    if head is None:
        return set()
    paths = set(snapshot.state.files)
    log = Log(snapshot.root)
    history = snapshot.history()
    # what is not live any more, but was at a kept version, has left with a record after that version
    left = pc.and_(pc.greater(history["version"], head.readable_from), pc.greater(history["removed"], 0))
    for number in history["version"].filter(left).to_pylist():
        paths |= set(log.read(number).removed)
    for number in _named_versions(head):
        paths |= set(Snapshot.open(snapshot.root, number).state.files)  # but those of retired spaces
    return paths | {file.path for file in files_of_releases(log, head)}


def files_of_releases(log: Log, head: Commit) -> list[DataFile]:
    """What releases have beside their rows, as long as a version is kept at which they were not retired."""
    try:
        oldest = log.read(head.readable_from) if head.readable_from < head.number else head
        let_go = {r.release for r in oldest.releases if r.retired}
    except Damaged as error:  # doctor mends it; until then every file is left
        logger.warning("%s", error)
        let_go = set()
    return [file for r in head.releases if r.release not in let_go for file in r.files]


def _named_versions(head: Commit) -> set[int]:
    """Versions that releases name, as far as a purge has left them."""
    named = {r.version for r in head.releases if not r.retired and r.version is not None}
    return {v for v in named if v >= (head.purged_at or 1)}


def unneeded(lake: Place, snapshot: Snapshot, grace: timedelta = GRACE) -> tuple[list[Entry], list[str]]:
    """Data and temporary files, and index tables, that no kept version names and that are older than `grace`.

    Only names that Evervec gives are looked at; anything else is somebody's.
    """
    head = snapshot.head
    if head is None:
        return [], []
    before = datetime.now(UTC) - grace if grace else datetime.max.replace(tzinfo=UTC)
    files = [entry for entry in _needless(snapshot, places.walk(snapshot.root)) if entry.modified <= before]
    named = _recent_tables(lake, snapshot, grace)
    old = [t for t in own_tables(lake, snapshot) if t not in named and _touched(lake, t) <= before]
    return files, old


def _needless(snapshot: Snapshot, entries: Iterable[Entry]) -> Iterator[Entry]:
    """Those of the files, of our own naming, that no kept version needs, nor any release its spool."""
    needed = needed_files(snapshot)
    spaces = {r.space_id for r in snapshot.head.releases if not r.retired} if snapshot.head else set()
    for entry in entries:
        ours = any(kind.fullmatch(entry.path) for kind in (DATA_FILE, BASIS_FILE, TEMPORARY))
        spooled = KEPT_FILE.fullmatch(entry.path)
        if (ours and entry.path not in needed) or (spooled and spooled[1] not in spaces):
            yield entry


def _recent_tables(lake: Place, snapshot: Snapshot, grace: timedelta) -> set[str]:
    """Index tables that the head names, or another version that was the head within the grace."""
    head = snapshot.head
    if head is None:
        return set()
    named = {index.table for index in head.indexes.values()}
    if not grace:
        return named
    log = Log(snapshot.root)
    for number in range(max(_head_at(snapshot, now_of(head) - grace), head.purged_at or 1, 1), head.number):
        try:
            named |= {index.table for index in log.read(number).indexes.values()}
        except Damaged as error:  # doctor mends it; until then every table is left
            logger.warning("%s", error)
            return {*named, *tables(lake)}
    return named


def own_tables(lake: Place, snapshot: Snapshot) -> list[str]:
    """Index tables of this collection, of every generation."""
    name = snapshot.root.name
    ours = re.compile(rf"^{re.escape(name)}__[a-z0-9]+(_[a-z0-9]+)*__g\d+$")
    return [table for table in tables(lake) if ours.match(table)]


def sweep(lake: Place, snapshot: Snapshot, files: Iterable[Entry], old_tables: Iterable[str]) -> int:
    """Remove these, unless they are needed; how many went. Call it with the commit lock held, at the head.

    Under that lock a writer either has named its files already, or finds them gone before it names them.
    """
    gone = list(_needless(snapshot, files))
    for entry in gone:
        places.remove(snapshot.root / entry.path)
    named = {index.table for index in snapshot.head.indexes.values()} if snapshot.head else set()
    dropped = [table for table in old_tables if table not in named]
    for table in dropped:
        vectors.drop(lake, table)
    return len(gone) + len(dropped)


def _touched(lake: Place, table: str) -> datetime:
    times = [entry.modified for entry in places.walk(vectors.directory(lake, table))]
    return max(times, default=datetime.min.replace(tzinfo=UTC))
