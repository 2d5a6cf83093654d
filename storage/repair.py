"""Mending what an examination found: from second copies, from Parquet, and by going on without what is lost.

Records, checkpoints and indexes exist twice or can be derived, and are restored. A damaged data file is
neither: a commit takes it out of the newest version, with the rows that hang on it, so that the next
ingest pulls and encodes those items again. Older versions that need the file are given up.
"""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast, get_args

from storage import checkpoints, doctor, indexing, locks, parquet, places, views
from storage.checks import Rows
from storage.commits import Commit, Counts, Log, Release, parse, succeeding
from storage.doctor import Diagnosis
from storage.drafting import COMMIT_WAIT_SECONDS, Draft, drafting
from storage.errors import Damaged, LakeBusy, StorageError
from storage.findings import Finding
from storage.locks import Lease
from storage.places import Place
from storage.remains import Remains, remains
from storage.snapshot import Snapshot
from storage.views import Bound


@dataclass(frozen=True)
class Repaired:
    """What was done, as sentences, and the findings of an examination afterwards."""

    done: tuple[str, ...]
    left: tuple[Finding, ...]


def repair(
    lake: Place, collection: str, *, drop: bool = False, deep: bool = False, wait: float = 0.0
) -> Repaired:
    """Mend a collection as far as it can be; with `drop` also go on without what is lost.

    Nothing that is whole is removed, and no version is made that would have findings of its own. Without
    `drop` data files are left as they are, and a sentence says what it would do. Raises `LakeBusy` if
    another writer holds the collection, `CommitConflict` if the lease is lost meanwhile.
    """
    root = lake / collection
    if not Log(root).numbers():  # nothing to lock, and nothing to mend from
        return Repaired((), tuple(doctor.examine(lake, collection, deep=deep)))
    with locks.lock(root, "maintain", wait=wait) as lease, ExitStack() as held:
        if drop:  # an ingest under way reckons with the items that would be let go
            held.enter_context(locks.lock(root, "ingest", wait=wait))
        done = list(_release_locks(root))
        with locks.lock(root, "commit", wait=COMMIT_WAIT_SECONDS):
            found = doctor.diagnose(lake, collection, deep=deep)
            done += _mend_log(found)
            done += _mend_checkpoints(found)
            done += _remove_leftovers(found)
        done += _mend_version(lake, found, lease, drop=drop)
    return Repaired(tuple(done), tuple(doctor.examine(lake, collection, deep=deep)))


def _release_locks(root: Place) -> Iterator[str]:
    """Take over what an owner that is gone left behind, and let it go: what every writer does."""
    for sign in doctor.left_locks(root):
        name = sign.path.rpartition("/")[2].partition(".")[0]
        if name not in get_args(locks.Name):
            continue
        try:
            with locks.lock(root, cast(locks.Name, name)):
                yield f"the {name} lock of a process that is gone was released"
        except LakeBusy:
            continue  # taken over meanwhile


def _mend_log(found: Diagnosis) -> Iterator[str]:
    """Write each record, or copy, that is not whole from the one that is."""
    for torn, whole, number in found.ledger.twins:
        content = places.read(whole)
        parse(whole, number)
        places.replace(torn, content)
    if found.ledger.twins:
        yield f"{_many(len(found.ledger.twins), 'record')} restored from the other copy"


def _mend_checkpoints(found: Diagnosis) -> Iterator[str]:
    """Make damaged checkpoints anew where that is possible, else remove them."""
    root = found.ledger.root
    for number in sorted(set(found.ledger.wrong)):
        checkpoints.remove(root, number)
        try:
            Snapshot.open(root, number, strict=True).checkpoint()
        except StorageError as error:
            yield f"the damaged checkpoint of version {number} was removed; it cannot be made anew ({error})"
        else:
            yield f"the checkpoint of version {number} was made anew"


def _remove_leftovers(found: Diagnosis) -> Iterator[str]:
    for place in found.leftovers:
        places.remove(place)
    if found.leftovers:
        yield f"{_many(len(found.leftovers), 'leftover file')} removed"


def _mend_version(lake: Place, found: Diagnosis, lease: Lease, *, drop: bool) -> list[str]:
    """One commit for everything that needs one; what was done, or why not."""
    if not (found.bad or found.contradicted or found.indexes or found.canaries or found.bases):
        return []
    try:
        with drafting(found.ledger.root, lease=lease) as draft:
            return _Mending(lake, found, draft).carry_out(drop=drop)
    except Damaged as error:
        return [f"data files and indexes were left as they are: {error}"]


class _Mending:
    """The version that mends the head, while the commit lock is held."""

    def __init__(self, lake: Place, found: Diagnosis, draft: Draft) -> None:
        if draft.before.head is None:
            raise ValueError(f"{draft.before.root} is empty")
        self._lake, self._found, self._draft = lake, found, draft
        self._root, self._head = draft.before.root, draft.before.head
        self._removed = sorted(found.bad & set(draft.before.state.files))
        self._done: list[str] = []

    def carry_out(self, *, drop: bool) -> list[str]:
        started, run_id = datetime.now(UTC), uuid.uuid4().hex[:12]
        record = succeeding(self._head, verb="repair", run_id=run_id, started_at=started)
        changes: dict[str, object] = {}
        spaces = set(self._found.indexes)
        rows_wrong = bool(self._removed or self._found.contradicted)
        if rows_wrong or self._found.bad:
            left = self._remains() if rows_wrong else None
            sentence = self._loss(left, record)
            if drop:
                changes = self._without(left, record)
                self._done.append(sentence)
            else:
                self._done.append(f"data files were left as they are; with --yes: {sentence}")
            if rows_wrong:  # an index can be made from whole files alone
                spaces = set(self._head.indexes) if drop else set()
        if self._found.canaries or self._found.bases:
            releases = tuple(self._without_files(record))
            changes |= {"releases": releases} if releases != record.releases else {}
        if changes or spaces:
            self._publish(record.model_copy(update=changes), spaces, check=drop or not rows_wrong)
        return self._done

    def _remains(self) -> Remains:
        found = self._found
        return remains(self._lake, self._draft.before, found.bad, found.wrong, found.indexes)

    def _loss(self, left: Remains | None, record: Commit) -> str:
        """What going on without the damage costs."""
        head, lowest, said = self._head, self._lowest(record), []
        if left is not None:
            lost = head.total_items - left.items
            if lost > 0:
                said.append(
                    f"{lost:,} of {head.total_items:,} items are left out of version {record.number}, and "
                    "encoded again by the next ingest if the source still has them"
                )
            vectors = sum(o.rows for o in head.spaces.values()) - sum(o.rows for o in left.spaces.values())
            if vectors > 0:
                said.append(f"{_many(vectors, 'vector')} left out")
            if head.total_rejects > left.rejects:
                said.append(f"{_many(head.total_rejects - left.rejects, 'reject')} forgotten")
            if not said:
                said.append("no live row is lost")
        if lowest > max(head.readable_from, head.purged_at or 1):
            said.append(f"versions before {lowest} cannot be read any more")
        return "; ".join(said)

    def _lowest(self, record: Commit) -> int:
        """The first version from which on no version needs a damaged file."""
        known = self._found.ledger.known
        past = [known[p].until or 1 for p in self._found.bad if p not in self._removed]
        return max([record.number if self._removed else 1, *past])

    def _without(self, left: Remains | None, record: Commit) -> dict[str, object]:
        """Changes to the record that leave out what is lost."""
        changes: dict[str, object] = {}
        lowest = self._lowest(record)
        if lowest > max(record.readable_from, record.purged_at or 1):
            changes |= {"readable_from": lowest, "purged_at": lowest}
        if left is not None:
            changes |= {
                "removed": tuple(self._removed),
                "deletes": parquet.write_some(self._root, "data/deletes", left.masks),
                "total_items": left.items,
                "total_rejects": left.rejects,
                "spaces": left.spaces,
                "counts": Counts(deleted=max(0, self._head.total_items - left.items)),
            }
        return changes

    def _without_files(self, record: Commit) -> Iterator[Release]:
        """The releases without their damaged canaries, and without bases that they can do without."""
        if self._found.canaries:
            self._done.append("damaged canary vectors were let go; stored chunks are compared instead")
        for release in record.releases:
            changes: dict[str, object] = {}
            if release.release in self._found.canaries:
                changes["canaries"] = None
            if release.release in self._found.bases and release.basis:
                name = f"the damaged basis of release {release.release}"
                if release.basis.direction == "rows":
                    changes["basis"] = None
                    self._done.append(f"{name} was let go; rows that were mapped with it stay")
                else:
                    self._done.append(f"{name} was left as it is: it maps the queries, and nothing else can")
            yield release.model_copy(update=changes)

    def _publish(self, record: Commit, spaces: set[str], *, check: bool) -> None:
        """Build the indexes of `spaces` anew, look whether all is well, and commit."""
        try:
            after = self._draft.before.followed_by(record)
            built = {space: indexing.build(self._lake, after, space) for space in sorted(spaces)}
            record = record.model_copy(update={"indexes": {**record.indexes, **built}})
            if check:
                self._require_sound(record)
            self._draft.publish(record)
        except BaseException:
            for file in record.deletes:
                places.remove(self._root / file.path)
            raise
        self._done += [f"the index of {space} was made anew" for space in built]

    def _require_sound(self, record: Commit) -> None:
        after = self._draft.before.followed_by(record)
        with closing(views.connect(self._lake)) as connection:
            found = list(Rows(Bound(self._root.name, after, record)).findings(connection))
        for finding in found:
            if finding.severity == "damage":
                what = f"the version that would mend it would not be sound: {finding.path} {finding.what}"
                raise Damaged(self._root, what, "restore the collection from a backup")


def _many(count: int, what: str) -> str:
    return f"{count:,} {what} was" if count == 1 else f"{count:,} {what}s were"
