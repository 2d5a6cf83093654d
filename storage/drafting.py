"""Making the next version: the right to do so, the record that is the commit, and taking back.

Repair of what a dead writer left behind is done here, by the holder of the commit lock, and nowhere else.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from storage import checkpoints, locks, places
from storage.commits import Commit, Log, parse
from storage.errors import CommitConflict, Damaged, NewerFormat, StorageError
from storage.locks import Lease
from storage.parquet import DataFile
from storage.places import Place
from storage.snapshot import Snapshot

logger = logging.getLogger(__name__)

COMMIT_WAIT_SECONDS = 60.0
"""How long a window waits for others to commit theirs."""


class Draft:
    """The right to make the next version, while the commit lock is held; `before` is the head."""

    def __init__(self, before: Snapshot, leases: Iterable[Lease]) -> None:
        self.before = before
        self._leases = tuple(leases)

    def publish(self, record: Commit) -> Snapshot:
        """Append the record, which is the commit, and return the version that it makes.

        Raises `CommitConflict` if a lease was lost meanwhile, or the number is taken.
        """
        if not all(lease.still_held() for lease in self._leases):
            raise CommitConflict(
                f"the lease of collection {self.before.root.name!r} was lost while this process slept: "
                "another one has gone on meanwhile. Nothing of this window was kept; run the command again"
            )
        root = self.before.root
        if record.live.retired or record.live.space_id not in record.indexes:
            raise CommitConflict(
                f"release {record.live_release} of collection {root.name!r} was made live meanwhile; nothing "
                "was changed. Run the command again"
            )
        there = {r.release for r in record.releases if not r.retired}
        stranded = [r for r in record.releases if r.release in there and r.through not in {None, *there}]
        if stranded:
            raise CommitConflict(
                f"release {stranded[0].release} of collection {root.name!r} leads through release "
                f"{stranded[0].through}, which is not there (any more); nothing was changed"
            )
        known = {f.path for r in self.before.head.releases for f in r.files} if self.before.head else set()
        beside = [f for r in record.releases for f in r.files if f.path not in known]
        require_there(root, (*record.added_files(), *beside))
        log = Log(root)
        if isinstance(root, Path) and isinstance(log.directory, Path):
            places.make_directory(log.directory)
            named = [file.path for file in (*record.added_files(), *beside)]
            places.settle(root, [*named, "_commits/record"])
        log.append(record)
        after = self.before.followed_by(record)
        if record.number % checkpoints.EVERY == 0:
            try:
                after.checkpoint()
            except (OSError, StorageError) as error:  # the commit stands; only opening it costs more
                logger.warning("no checkpoint of version %d could be written (%s)", record.number, error)
        return after


def require_there(root: Place, files: Iterable[DataFile]) -> None:
    """Raise `CommitConflict` if a file that is to be committed is not there any more."""
    for file in files:
        if not places.exists(root / file.path):
            raise CommitConflict(
                f"{root / file.path} was swept away before it was committed: this process must have "
                "slept for long. Nothing of this window was kept; run the command again"
            )


@contextmanager
def drafting(root: Place, known: Snapshot | None = None, lease: Lease | None = None) -> Iterator[Draft]:
    """Hold the commit lock of the collection in `root`, at its head.

    `known` is an earlier version at hand, to go on from. `lease` is the job's, which must still be held
    when the record is written. Raises `LakeBusy`, and `Damaged` if a record is torn: writers do not go
    on over damage.
    """
    with locks.lock(root, "commit", wait=COMMIT_WAIT_SECONDS) as held:
        before = known.advanced(strict=True) if known else Snapshot.open(root, strict=True)
        _restore_copy(before)
        yield Draft(before, [held, *([lease] if lease else [])])


def _restore_copy(before: Snapshot) -> None:
    """Write the second copy of the head where the one who made it died before that."""
    if before.head is None:
        return
    log = Log(before.root)
    path, copy = log.path(before.version), log.copy(before.version)
    if not places.exists(copy):
        places.replace(copy, places.read(path))
        if before.head.nonce:  # records of format 1 never had one
            logger.warning("%s had no second copy, as after a crash; it was written", path)


def discard(root: Place, files: Iterable[DataFile], *, unless: Commit | None) -> None:
    """Remove the files of a window that failed; not if its record was written all the same.

    `unless` is that record, if there is one. A file that the head names stays in any case, and all do if
    that cannot be told: the sweep takes them later.
    """
    if unless is not None and places.exists(path := Log(root).path(unless.number)):
        try:
            if parse(path, unless.number).nonce == unless.nonce:
                return
        except (Damaged, OSError):  # it may be ours
            return
    try:
        live = Snapshot.open(root).state.files
    except NewerFormat:  # this program cannot have committed to it
        live = {}
    except (StorageError, OSError) as error:
        logger.warning("files of a window that failed were left for the next maintenance (%s)", error)
        return
    for file in files:
        if file.path not in live:
            places.remove(root / file.path)
