"""The commit log: numbered JSON records, the single source of truth of a collection.

A record is written to a temporary name, fsynced, and linked to its number with fail-if-exists; the
link is the commit. Nobody sees a part of one: readers list numbers and check each record's checksum.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from storage.errors import CommitConflict, Damaged
from storage.parquet import DataFile, fsync_directory, make_directory
from storage.schemas import FORMAT


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Counts(_Record):
    """What an ingest did to items in one window (or, summed, in one run)."""

    added: int = 0
    updated: int = 0
    deleted: int = 0
    rejected: int = 0
    encoded: int = 0
    chunks: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in Counts.model_fields})


class Origins(_Record):
    """Chunks of one space by how their vector came to be."""

    encoded: int = 0
    mapped: int = 0
    imported: int = 0

    @property
    def rows(self) -> int:
        return self.encoded + self.mapped + self.imported


class IndexVersion(_Record):
    """The LanceDB table and version that holds exactly the live chunks of a commit."""

    table: str
    version: int
    rows: int


class Release(_Record):
    """A query path: the encoder whose space the rows are in, and the chunking that made them.

    `encoder` and `chunking` are the specs as JSON; storage keeps them without reading them.
    """

    release: int
    space_id: str
    dim: int
    fingerprint: str
    strategy: str
    encoder: dict[str, Any]
    chunking: dict[str, Any]
    chunking_id: str


class Commit(_Record):
    """One version of a collection: what it added and masked, and the totals that then held."""

    format: int = FORMAT
    number: int
    parent: int
    verb: str
    run_id: str
    started_at: datetime
    committed_at: datetime
    encode_seconds: float = 0.0
    counts: Counts = Counts()
    items: tuple[DataFile, ...] = ()
    vectors: dict[str, tuple[DataFile, ...]] = {}
    rejects: tuple[DataFile, ...] = ()
    deletes: tuple[DataFile, ...] = ()
    total_items: int
    total_rejects: int
    spaces: dict[str, Origins]
    attributes: dict[str, str]
    index: IndexVersion
    live: Release
    offset: str | None = None


class Log:
    """The records of one collection, in `<collection>/_commits`."""

    def __init__(self, collection: Path) -> None:
        self.directory = collection / "_commits"

    def numbers(self) -> list[int]:
        """All committed numbers, ascending; empty for a collection that was never committed to."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        return sorted(int(n[:-5]) for n in names if n.endswith(".json") and n[:-5].isdecimal())

    def path(self, number: int) -> Path:
        return self.directory / f"{number:020d}.json"

    def read(self, number: int) -> Commit:
        """The record of one version. Raises `Damaged` if it is missing, torn or altered."""
        path = self.path(number)
        try:
            document = json.loads(path.read_bytes())
            checksum = document.pop("checksum")
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise Damaged(path, f"is not a whole commit record ({error})", _RESTORE) from error
        if checksum != _checksum(document):
            raise Damaged(path, "does not match its checksum", _RESTORE)
        if document["format"] != FORMAT:
            raise Damaged(
                path, f"is of format {document['format']}, this program reads {FORMAT}", "update Evervec"
            )
        if document["number"] != number:
            raise Damaged(path, f"is the record of version {document['number']}", _RESTORE)
        return Commit.model_validate(document)

    def records(self) -> Iterator[Commit]:
        """Every record from version 1 to the head; a gap in the numbers is `Damaged`."""
        for expected, number in enumerate(self.numbers(), start=1):
            if number != expected:
                raise Damaged(self.path(expected), "is missing from the commit log", _RESTORE)
            yield self.read(number)

    def append(self, commit: Commit) -> None:
        """Make `commit` durable and visible, or raise `CommitConflict` if its number is taken."""
        document = commit.model_dump(mode="json")
        document["checksum"] = _checksum(document)
        make_directory(self.directory)
        temporary = self.directory / f".{uuid.uuid4().hex}.tmp"
        with temporary.open("xb") as file:
            file.write(json.dumps(document, indent=1).encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, self.path(commit.number))
        except FileExistsError:
            raise CommitConflict(
                f"version {commit.number} of {self.directory.parent.name!r} was committed by another "
                "writer meanwhile; nothing of this window was kept. Run the command again"
            ) from None
        finally:
            temporary.unlink()
        fsync_directory(self.directory)


_RESTORE = "restore it from a backup of the lake"


def _checksum(document: dict[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
