"""What holds at a version: the live files, as the fold of all records up to it."""

from dataclasses import dataclass, field
from typing import NamedTuple

from storage.commits import Commit
from storage.parquet import DataFile
from storage.schemas import Kind


class LiveFile(NamedTuple):
    """A data file that is part of a version.

    `space_id` is empty but for vectors, `since` the version that brought it, `attributes` the columns
    (as in the record, joined) that items had then.
    """

    kind: Kind
    space_id: str
    file: DataFile
    since: int
    attributes: str


def label(attributes: dict[str, str]) -> str:
    """Columns of attributes, with their types, in one word: equal ones read alike."""
    return ",".join(f"{name}:{kind}" for name, kind in sorted(attributes.items()))


@dataclass
class Fold:
    """The state after some records: `head` is the last of them, None before the first.

    `files` are the live data files by path, oldest first; `index_files` those of the LanceDB tables
    that the head names, by table.
    """

    head: Commit | None = None
    files: dict[str, LiveFile] = field(default_factory=dict)
    index_files: dict[str, tuple[DataFile, ...]] = field(default_factory=dict)

    @property
    def number(self) -> int:
        return self.head.number if self.head else 0

    def copy(self) -> "Fold":
        """A state of its own to go on from."""
        return Fold(self.head, dict(self.files), dict(self.index_files))

    def apply(self, commit: Commit) -> None:
        """Go on by one record, which must be the next."""
        left = [self.files.pop(path) for path in commit.removed]
        attributes = label(commit.attributes)
        rewritten = {file.attributes for file in left if file.kind == "items"}
        if len(rewritten) == 1:  # a file that replaces others has the columns that those had
            (attributes,) = rewritten
        for kind in ("items", "rejects", "deletes"):
            for file in getattr(commit, kind):
                shown = attributes if kind == "items" else ""
                self.files[file.path] = LiveFile(kind, "", file, commit.number, shown)
        for space, files in commit.vectors.items():
            for file in files:
                self.files[file.path] = LiveFile("vectors", space, file, commit.number, "")
        self.index_files = {
            index.table: (*self.index_files.get(index.table, ()), *index.files)
            for index in commit.indexes.values()
        }
        self.head = commit
