"""The commit log: numbered JSON records, the single source of truth of a collection.

A record is written with fail-if-exists under its number, whole and durable; that is the commit. A
second copy follows in `_copies`, so that a record that is torn or lost later is known, and restored
by `doctor --repair`. `FORMAT.md` describes what is stored.
"""

import hashlib
import json
import logging
import re
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from storage import places
from storage.errors import CommitConflict, Damaged, NewerFormat, StorageError
from storage.migrations import migrated
from storage.parquet import DataFile
from storage.places import Place
from storage.schemas import FORMAT, SCHEMA

logger = logging.getLogger(__name__)

_SEAL, _BODY = b'{"checksum":"', b'","record":'
_NUMBERED = re.compile(r"^[0-9]{20}\.json$")
_BODY_AT = len(_SEAL) + 64 + len(_BODY)


Modality = Literal["text", "image", "audio"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Counts(_Record):
    """What a verb did to items in one window (or, summed, in one run)."""

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
    """The LanceDB table and version that holds exactly the live chunks of a space at a commit.

    `files` are those of the table's files that this commit added (`path` relative to the table).
    """

    table: str
    version: int
    rows: int
    files: tuple[DataFile, ...] = ()


class BasisFile(_Record):
    """A basis as a record names it: a fitted map from the space `source` into the space `target`.

    `direction` says what is mapped: stored vectors (`rows`), or each query (`queries`). `metrics` are
    what was measured on pairs held out of the fit, `pairs` how many it was fitted on. `file` is
    `bases/<basis_id>.safetensors`; its `rows` are none.
    """

    basis_id: str
    family: str
    direction: Literal["rows", "queries"]
    source: str
    target: str
    pairs: int
    metrics: dict[str, FiniteFloat]
    file: DataFile


class Calibrator(_Record):
    """A monotone map from a cosine in a space to the share of relevant hits, for vectors of one origin.

    Linear between the points (`scores` ascending, `relevance` not descending), constant beyond them.
    """

    space_id: str
    origin: str
    scores: tuple[FiniteFloat, ...]
    relevance: tuple[FiniteFloat, ...]


class Release(_Record):
    """A query path: the encoder whose space the rows are in, and the chunking that made them.

    `encoder` and `chunking` are the specs as JSON; storage keeps them without reading them. `encoder`
    is empty for a space whose vectors were made elsewhere by an encoder that is not at hand.
    `version` is the one in which it was last made live, None before. `canaries` are fixed inputs with
    the vectors that this encoder once gave for them. A `retired` release has no vectors any more.

    `strategy` is `native`, `imported`, or how an upgrade made it out of `upgraded_from`: `reuse`,
    `bridge`, `map`, `reencode`. `basis` maps its rows, or a bridge's queries. `through` is, of a
    bridge, the release whose encoder encodes its queries and whose space has what is encoded natively
    meanwhile; it is needed as long as the bridge is. `cascade` is how many candidates a search encodes
    natively and ranks again, `forced` that the gate had not let it pass, `report` where the measurement
    lies. Releases of one space may have different fingerprints (`reuse`).
    """

    release: int
    space_id: str
    dim: int
    fingerprint: str
    strategy: str
    encoder: dict[str, Any]
    chunking: dict[str, Any]
    chunking_id: str
    version: int | None = None
    canaries: DataFile | None = None
    retired: bool = False
    basis: BasisFile | None = None
    through: int | None = None
    cascade: int = 0
    calibrators: tuple[Calibrator, ...] = ()
    forced: bool = False
    report: str | None = None
    upgraded_from: int | None = None

    @property
    def files(self) -> tuple[DataFile, ...]:
        """What it has beside its rows: canaries and basis."""
        basis = self.basis.file if self.basis else None
        return tuple(file for file in (self.canaries, basis) if file is not None)


class Commit(_Record):
    """One version of a collection: what it added, masked and removed, and what then held.

    `items`, `vectors`, `rejects` and `deletes` are the files that came with it, `removed` the paths of
    those that left (rewritten by compaction; older versions still have them). `readable_from` is the
    oldest version whose files retention has kept; versions before `purged_at` were rewritten.
    """

    format: int = FORMAT
    schema_id: int = SCHEMA
    number: int
    parent: int
    nonce: str = Field(default_factory=lambda: uuid.uuid4().hex)
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
    removed: tuple[str, ...] = ()
    total_items: int
    total_rejects: int
    spaces: dict[str, Origins]
    attributes: dict[str, str]
    modality: Modality = "text"
    indexes: dict[str, IndexVersion]
    releases: tuple[Release, ...]
    live_release: int
    offset: str | None = None
    readable_from: int = 1
    purged_at: int | None = None

    @property
    def live(self) -> Release:
        """The release that readers get."""
        return self.release(self.live_release)

    @property
    def index(self) -> IndexVersion:
        """The index of the live release's space."""
        return self.indexes[self.live.space_id]

    def added_files(self) -> list[DataFile]:
        """Data files of every kind that came with this version."""
        vectors = [file for files in self.vectors.values() for file in files]
        return [*self.items, *vectors, *self.rejects, *self.deletes]

    def release(self, number: int) -> Release:
        """A release by its number; `KeyError` if there is none."""
        found = next((r for r in self.releases if r.release == number), None)
        if found is None:
            raise KeyError(number)
        return found


def succeeding(head: Commit | None, *, verb: str, run_id: str, started_at: datetime) -> Commit:
    """The record after `head` (None: the first) that changes nothing yet; its time is now."""
    fresh = {
        "number": head.number + 1 if head else 1,
        "parent": head.number if head else 0,
        "verb": verb,
        "run_id": run_id,
        "started_at": started_at,
        "committed_at": datetime.now(UTC),
    }
    if head is None:
        return Commit(
            **fresh,
            total_items=0,
            total_rejects=0,
            spaces={},
            attributes={},
            indexes={},
            releases=(),
            live_release=0,
        )
    carried = (
        "total_items", "total_rejects", "spaces", "attributes", "modality", "releases", "live_release",
    )  # fmt: skip
    kept = {name: getattr(head, name) for name in (*carried, "offset", "readable_from", "purged_at")}
    indexes = {space: index.model_copy(update={"files": ()}) for space, index in head.indexes.items()}
    return Commit(**fresh, **kept, indexes=indexes)


class Log:
    """The records of one collection, in `<collection>/_commits`, each with a copy in `_copies`."""

    def __init__(self, collection: Place) -> None:
        self.directory = collection / "_commits"
        self.copies = collection / "_copies"

    def numbers(self) -> list[int]:
        """All committed numbers, ascending; empty for a collection that was never committed to.

        A record that was lost, but has its copy, counts: a later one must not take its number.
        """
        return sorted(_numbers(self.directory) | _numbers(self.copies))

    def path(self, number: int) -> Place:
        return self.directory / _name(number)

    def copy(self, number: int) -> Place:
        return self.copies / _name(number)

    def read(self, number: int, *, strict: bool = False) -> Commit:
        """The record of one version. Raises `Damaged` if it is missing, torn or altered.

        Its second copy stands in for it, with a warning; with `strict`, as writers read, it does not.
        """
        try:
            return parse(self.path(number), number)
        except Damaged as error:
            if strict:
                raise
            try:
                commit = parse(self.copy(number), number)
            except Damaged:
                raise error from None
            logger.warning("%s; its second copy is used meanwhile", error)
            return commit

    def settle(self) -> None:
        """Make the names of all records durable."""
        if isinstance(self.directory, Path) and self.directory.is_dir():
            places.fsync_directory(self.directory)

    def append(self, commit: Commit) -> None:
        """Make `commit` durable and visible, or raise `CommitConflict` if its number is taken."""
        content = sealed(commit)
        try:
            places.create(self.path(commit.number), content)
        except FileExistsError:
            raise CommitConflict(
                f"version {commit.number} of {self.directory.parent.name!r} was committed by another "
                "writer meanwhile; nothing of this window was kept. Run the command again"
            ) from None
        try:
            places.replace(self.copy(commit.number), content)
        except (OSError, StorageError) as error:  # the commit stands; only its insurance is missing
            logger.warning("no second copy of %s could be written (%s)", self.path(commit.number), error)


def sealed(record: BaseModel) -> bytes:
    """A record as it is stored: one JSON object, its checksum over the very bytes of the record in it."""
    return _sealed(record.model_dump_json().encode())


def unsealed(path: Place, content: bytes) -> dict[str, Any]:
    """The record in a stored file. Raises `Damaged` unless every byte is as it was sealed."""
    if not content.startswith(_SEAL):
        return _format_1(path, content)
    body = content[_BODY_AT:-1]
    if _sealed(body) != content:
        raise Damaged(path, "does not match its checksum", _REPAIR)
    document: dict[str, Any] = json.loads(body)
    return document


def _sealed(body: bytes) -> bytes:
    return _SEAL + hashlib.sha256(body).hexdigest().encode() + _BODY + body + b"}"


def parse(path: Place, number: int) -> Commit:
    """The record in a file, whatever its format. Raises `Damaged`."""
    try:
        content = places.read(path)
    except FileNotFoundError as error:
        raise Damaged(path, "is missing from the commit log", _REPAIR) from error
    except OSError as error:
        raise Damaged(path, f"cannot be read ({error.strerror})", _REPAIR) from error
    document = unsealed(path, content)
    if document["format"] > FORMAT:
        raise NewerFormat(
            f"{path} is of format {document['format']}, this program reads up to {FORMAT}; update Evervec"
        )
    if document["number"] != number:
        raise Damaged(path, f"is the record of version {document['number']}", _REPAIR)
    return Commit.model_validate(migrated(document, FORMAT))


_REPAIR = "mend it with `evervec doctor --repair`, or restore it from a backup of the lake"


def _name(number: int) -> str:
    return f"{number:020d}.json"


def _numbers(folder: Place) -> set[int]:
    return {int(n[:20]) for n in places.names(folder) if _NUMBERED.match(n)}


def _format_1(path: Place, content: bytes) -> dict[str, Any]:
    """Records of format 1 carry their checksum inside, over their canonical JSON."""
    try:
        document: dict[str, Any] = json.loads(content)
        checksum = document.pop("checksum")
        canonical = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        whole = checksum == hashlib.sha256(canonical).hexdigest() and document["format"] == 1
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise Damaged(path, f"is not a whole commit record ({error})", _REPAIR) from error
    if not whole:
        raise Damaged(path, "does not match its checksum", _REPAIR)
    return document
