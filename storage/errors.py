"""What can go wrong in a lake.

StorageError
├── LakeBusy             another writer holds the collection
├── CommitConflict       the head moved, or the index is not where the log says
├── Damaged              a record or file is not what the log says it is
├── NewerFormat          a later version of Evervec wrote what is to be read
├── VersionGone          a version that retention or a purge has taken
├── NoSuchRelease        a release that is not there (yet), or has no vectors any more
├── UnreadableTable      a foreign Parquet, CSV or JSONL file cannot be used
└── QueryRefused         SQL that is not one read-only statement, or that DuckDB rejects
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storage.places import Place


class StorageError(Exception):
    """Base of all errors of this package; `exit_code` is what the command line ends with."""

    exit_code = 1


class LakeBusy(StorageError):
    """Another writer holds the lock; nothing was changed."""

    exit_code = 3

    def __init__(self, lock: "Place", holder: str) -> None:
        self.lock, self.holder = lock, holder
        super().__init__(
            f"{lock.name.partition('.')[0]} of collection {lock.parent.parent.name!r} is held by {holder}; "
            "wait for it with --wait SECONDS, or stop that process (its lock goes with it)"
        )


class CommitConflict(StorageError):
    """The commit was not made: the log or the index moved underneath it. Readers saw nothing."""

    exit_code = 3


class Damaged(StorageError):
    """A file of the lake is missing, torn or altered; `path` names it."""

    exit_code = 5

    def __init__(self, path: "Place", found: str, remedy: str) -> None:
        self.path, self.found, self.remedy = path, found, remedy
        super().__init__(f"{path}: {found}; {remedy}")


class NewerFormat(StorageError):
    """A record of a format that this program does not know; going on could lose what it says."""

    exit_code = 2


class VersionGone(StorageError):
    """There is no such version, or its files are not kept any more."""

    exit_code = 2


class NoSuchRelease(StorageError):
    """A release that does not exist, was retired, or is still being built."""

    exit_code = 2


class UnreadableTable(StorageError):
    """A table that a source points at cannot be used as declared."""

    exit_code = 2


class QueryRefused(StorageError):
    """The SQL statement was not run, or failed; the lake is untouched either way."""

    exit_code = 2
