"""Examining a collection: every file that a readable version needs, every row that is live, its index.

Nothing is changed, no lock is taken, and what is damaged in one place is still examined in all others.
`repair.py` mends what an examination found.
"""

import json
import os
import re
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import numpy as np

from storage import checks, parquet, places, views
from storage.bases import BASIS_FILE
from storage.checks import Rows, Wrong
from storage.commits import Commit, Log, Release
from storage.errors import Damaged
from storage.findings import MISSING, Finding, because, mend, notice, restore
from storage.fold import Fold
from storage.kept import ASKED_FILE, KEPT_FILE
from storage.ledger import Ledger, Needed, checkpoint_file, without
from storage.parquet import DATA_FILE, DataFile
from storage.places import TEMPORARY, Place
from storage.remote import Remote
from storage.retention import GRACE, files_of_releases, own_tables
from storage.schemas import Kind
from storage.snapshot import Snapshot
from storage.vectors import Index
from storage.views import Bound

_THREADS = 4
_PIECE = 2**20

_OURS = {
    "data": DATA_FILE,
    "bases": BASIS_FILE,
    "_kept": KEPT_FILE,
    "_asked": ASKED_FILE,
    "_commits": re.compile(r"_commits/\d{20}\.json"),
    "_copies": re.compile(r"_copies/\d{20}\.json"),
    "_checkpoints": re.compile(r"_checkpoints/\d{20}\.(json|(files|masks|history)\.parquet)"),
}
_LANCE = re.compile(
    r"_versions/(\d+\.manifest|latest_version_hint\.json)|_transactions/[^/]+\.txn"
    r"|_deletions/[^/]+\.(arrow|bin)|data/[^/]+\.lance|_indices/.+"
    r"|.*\.tmp\w{6}|_versions/\d+\.manifest#\d+"  # of a writer that died; the next generation has none
)


@dataclass
class Diagnosis:
    """What an examination found, and what a repair needs of it.

    `bad` are data files that are not what the log says, `wrong` rows that cannot stay, `contradicted`
    says that rows and record disagree. `indexes` are the spaces whose index is damaged, `canaries` and
    `bases` the releases whose canaries or basis are, `leftovers` files that a writer that died left behind.
    """

    ledger: Ledger
    findings: list[Finding] = field(default_factory=list)
    bad: set[str] = field(default_factory=set)
    wrong: list[Wrong] = field(default_factory=list)
    contradicted: bool = False
    indexes: set[str] = field(default_factory=set)
    canaries: set[int] = field(default_factory=set)
    bases: set[int] = field(default_factory=set)
    leftovers: list[Place] = field(default_factory=list)


def examine(lake: Place, collection: str, *, deep: bool = False) -> list[Finding]:
    """All that is wrong with a collection; empty, or notices alone, if it is whole.

    Checks the log, the checksum of every file that a readable version needs, the counts, keys and
    vectors of the live rows, and the index of each space against them. With `deep` every page of every
    file is decoded, and the content of the index compared. A collection without any version has none.
    """
    return diagnose(lake, collection, deep=deep).findings


def diagnose(lake: Place, collection: str, *, deep: bool = False) -> Diagnosis:
    """Like `examine`, with what a repair needs."""
    root = lake / collection
    ledger = Ledger.read(root)
    found = Diagnosis(ledger, list(ledger.findings))
    needed = ledger.needed()
    found.findings += _damaged_files(found, needed, deep=deep)
    found.findings += _damaged_masks(found, needed)
    snapshot = without(root, ledger.state, found.bad)
    if (head := ledger.state.head) is not None:
        with closing(views.connect(lake)) as connection:
            if snapshot is not None:
                found.findings += _rows(connection, found, snapshot, head)
            found.findings += _indexes(connection, lake, found, snapshot, head, deep=deep)
        found.findings += _old_tables(lake, found, head)
    found.findings += _strays(found, needed)
    found.findings += left_locks(root)
    _forget_passing(found)
    return found


def _damaged_files(found: Diagnosis, needed: dict[str, Needed], *, deep: bool) -> Iterator[Finding]:
    """Data files that are not what the log says, of the head and of other versions that can be read."""
    root = found.ledger.root
    name = root.name
    for path, what in _damages(root, [n.file.file for n in needed.values()], deep=deep):
        found.bad.add(path)
        past = f" (needed by {needed[path].past} alone)" if needed[path].past else ""
        yield because(root / path, what + past, restore(name))
    head = found.ledger.state.head
    releases = [r for r in (head.releases if head else ()) if not r.retired]
    canaries = {r.canaries.path: r.canaries for r in releases if r.canaries}
    for path, what in _damages(root, canaries.values(), deep=deep):
        found.canaries |= {r.release for r in releases if r.canaries and r.canaries.path == path}
        yield because(root / path, what, mend(name))
    yield from _damaged_bases(found, releases)


def _damaged_bases(found: Diagnosis, releases: Iterable[Release]) -> Iterator[Finding]:
    """Bases that are not what the log says."""
    root, head = found.ledger.root, found.ledger.state.head
    users = {r.basis.file.path: r for r in releases if r.basis}
    files = [r.basis.file for r in users.values() if r.basis]
    for path, what in _damages(root, files, deep=False):
        one = users[path]
        found.bases |= {r.release for r in releases if r.basis and r.basis.file.path == path}
        remedy = f"restore it from a backup, or go on without it: {mend(root.name)}"
        if one.basis and one.basis.direction == "queries":
            live = head is not None and head.live_release == one.release
            back = f"go back: evervec rollback {root.name}" if live else f"evervec upgrade {root.name} again"
            remedy = f"restore it from a backup, or {back}"
        yield because(root / path, f"{what}: it is the basis of release {one.release}", remedy)


def _damages(root: Place, files: Iterable[DataFile], *, deep: bool) -> Iterator[tuple[str, str]]:
    """The path of each damaged file, and what is wrong with it."""
    given = list(files)
    with ThreadPoolExecutor(_THREADS) as pool:
        for file, what in zip(given, pool.map(lambda one: _damage(root, one, deep=deep), given), strict=True):
            if what:
                yield file.path, what


def _damage(root: Place, file: DataFile, *, deep: bool) -> str:
    digest, size = sha256(), 0
    try:
        with places.opened(root / file.path) as opened:
            while piece := opened.read(_PIECE):
                digest.update(piece)
                size += len(piece)
    except FileNotFoundError:
        return MISSING
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if size != file.bytes:
        return f"has {size:,} bytes, the log says {file.bytes:,}"
    if digest.hexdigest() != file.sha256:
        return "is not the file that was committed: its SHA-256 differs"
    if deep:
        try:
            for _ in parquet.batches(root, file):
                pass
        except Damaged as error:
            return error.found
    return ""


def _damaged_masks(found: Diagnosis, needed: dict[str, Needed]) -> Iterator[Finding]:
    """Checkpoints whose masked rows are not those of the files that were live."""
    ledger = found.ledger
    for number, files in ledger.marks.items():
        deletes = [f.file.path for f in files if f.kind == "deletes"]
        if any(path in found.bad or path not in needed for path in deletes):
            continue  # nothing (that was found to be whole) to compare with
        live = Fold(files={f.file.path: f for f in files})
        due = Snapshot(ledger.root, live, None, ()).masked
        held = ledger.masks(number)
        if due.keys() != held.keys() or any(not np.array_equal(due[p], held[p]) for p in due):
            ledger.wrong.append(number)
            path = checkpoint_file(ledger.root, number, "masks.parquet")
            yield because(path, "is whole, but not what the log says", mend(ledger.root.name))


def _rows(connection: Any, found: Diagnosis, snapshot: Snapshot, head: Commit) -> Iterator[Finding]:
    rows = Rows(Bound(snapshot.root.name, snapshot, head), _lacking(found))
    for finding in rows.findings(connection):
        found.contradicted |= finding.severity == "damage"
        yield finding
    found.wrong = rows.wrong
    found.bad |= rows.unusable


def _lacking(found: Diagnosis) -> frozenset[tuple[Kind, str]]:
    """Kinds and spaces of which a live file is damaged."""
    files = found.ledger.state.files
    return frozenset((files[p].kind, files[p].space_id) for p in found.bad if p in files)


def _indexes(
    connection: Any, lake: Place, found: Diagnosis, snapshot: Snapshot | None, head: Commit, *, deep: bool
) -> Iterator[Finding]:
    """The files of each index that the head names, then what it holds."""
    root, state = found.ledger.root, found.ledger.state
    lacking = _lacking(found)
    for space, named in head.indexes.items():
        table = Index(lake, named.table)
        directory = table.directory
        yield from _foreign_in_index(directory)
        files = state.index_files.get(named.table, ())
        damages = _damages(directory, files, deep=False)
        told = [because(directory / path, what, mend(root.name)) for path, what in damages]
        if not told:
            whole = snapshot is not None and not found.contradicted
            whole = whole and not lacking & {("items", ""), ("vectors", space)}
            one = Bound(root.name, snapshot or Snapshot(root, state, None, ()), head)
            told = list(checks.index(connection, table, one, space, deep=deep, whole=whole))
        if told:
            found.indexes.add(space)
        yield from told
    for release in head.releases:  # one that was never live is being built, and is indexed at the end
        due = not release.retired and release.version is not None
        if due and release.space_id not in {*head.indexes, *found.indexes}:
            found.indexes.add(release.space_id)
            what = f"names no index of {release.space_id}, in which release {release.release} is searched"
            yield because(Log(root).path(head.number), what, mend(root.name))


def _foreign_in_index(directory: Place) -> Iterator[Finding]:
    """Files in an index table that are not LanceDB's; of its own, some that no version names are usual."""
    for entry in places.walk(directory):
        if not _LANCE.fullmatch(entry.path):
            yield _foreign(directory / entry.path)


def _old_tables(lake: Place, found: Diagnosis, head: Commit) -> Iterator[Finding]:
    """Index tables that the head does not name."""
    root = found.ledger.root
    named = {index.table for index in head.indexes.values()}
    for table in own_tables(lake, Snapshot(root, found.ledger.state, None, ())):
        if table not in named:
            what = "is an index that the newest version does not use"
            yield notice(lake / "index" / f"{table}.lance", what, f"evervec maintain {root.name}")


def _strays(found: Diagnosis, needed: dict[str, Needed]) -> Iterator[Finding]:
    """Files in the collection that no kept version names, or that Evervec does not make."""
    ledger = found.ledger
    root, head = ledger.root, ledger.state.head
    wanted = set(needed)
    if head is not None:
        wanted |= {file.path for file in files_of_releases(Log(root), head)}
    now = datetime.now(UTC)
    for folder, ours in _OURS.items():
        for entry in places.walk(root / folder):
            path, fresh = f"{folder}/{entry.path}", now - entry.modified < GRACE
            if TEMPORARY.fullmatch(path):
                found.leftovers += [] if fresh else [root / path]
                yield notice(root / path, "was left by a write that was cut off", mend(root.name))
            elif not ours.fullmatch(path):
                yield _foreign(root / path)
            elif folder in ("data", "bases") and path not in wanted:
                yield _unneeded(ledger, path, fresh=fresh)
            elif folder == "_checkpoints" and not entry.path.endswith(".json"):
                whole = root / folder / f"{entry.path[:20]}.json"
                if not places.exists(whole):
                    found.leftovers += [] if fresh else [root / path]
                    yield notice(root / path, "is a part of a checkpoint that is not there", mend(root.name))


def _unneeded(ledger: Ledger, path: str, *, fresh: bool) -> Finding:
    """A data file that no version that can be read needs: known from before, just being written, or lost."""
    place, maintain = ledger.root / path, f"evervec maintain {ledger.root.name}"
    releases = ledger.state.head.releases if ledger.state.head else ()
    if path in ledger.known or any(file.path == path for r in releases for file in r.files):
        return notice(place, "belongs to versions that are not kept any more", maintain)
    if fresh:
        return notice(place, "is not committed (yet): a run writes it, or died", maintain)
    if ledger.gaps:
        what = "may be of a version whose record is lost"
        return notice(place, what, "keep it, and restore the log from a backup")
    return because(place, "is of no version: a run that died left it", maintain)


def _foreign(place: Place) -> Finding:
    return because(place, "is not a file of Evervec", "move it elsewhere by hand")


def left_locks(root: Place) -> Iterator[Finding]:
    """Signs of lock owners that are gone; the locks themselves went with them."""
    if isinstance(root, Remote):
        return  # there a lease ends by itself
    for sign in sorted((root / "_locks").glob("*.owner.json")):
        try:
            owner = json.loads(sign.read_text())
            gone = owner["host"] == socket.gethostname() and _is_gone(int(owner["pid"]))
            who = f"process {owner['pid']}"
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError):
            gone, who = True, "a process"
        if gone:
            what = f"was left behind by {who}, which is gone; it holds nobody up"
            yield notice(sign, what, mend(root.name))


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        return False
    return False


def _forget_passing(found: Diagnosis) -> None:
    """Drop what writers of this very moment gave cause for.

    A record gets its copy a moment later, and maintenance lets versions and their files go.
    """
    missing = [f for f in found.findings if f.what.startswith(MISSING)]
    if not missing:
        return
    root, numbers = found.ledger.root, Log(found.ledger.root).numbers()
    let_go: set[str] = set()
    if numbers and numbers[-1] > found.ledger.state.number:
        let_go = found.bad - Ledger.read(root).needed().keys()
        found.bad -= let_go
    gone = {str(root / path) for path in let_go}
    passed = {f for f in missing if f.path in gone or places.exists(places.parse(f.path))}
    found.findings = [f for f in found.findings if f not in passed]
