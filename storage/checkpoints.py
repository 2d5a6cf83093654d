"""Checkpoints: the fold of the log at some version, so that opening it does not read every record.

Derived and rebuildable: a checkpoint that is missing or damaged costs time, never data.
"""

import hashlib
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from storage import arrays, places
from storage.commits import Commit, sealed, unsealed
from storage.errors import Damaged
from storage.fold import Fold, LiveFile
from storage.migrations import migrated
from storage.parquet import DataFile
from storage.places import Place
from storage.schemas import FORMAT, TIMESTAMP

logger = logging.getLogger(__name__)

EVERY = 100
"""Commits between checkpoints: what opening a log reads at most, beside the newest checkpoint."""

_KEPT, _LANDMARK = 3, 10 * EVERY
"""The newest checkpoints are kept, and of the older ones every tenth: for reading the past."""

COUNTED = ("added", "updated", "deleted", "rejected", "encoded")
HISTORY = pa.schema(
    [
        ("version", pa.int64()),
        ("verb", pa.string()),
        ("committed_at", TIMESTAMP),
        *((name, pa.int64()) for name in (*COUNTED, "items", "chunks", "rejects", "release")),
        ("space_id", pa.string()),
        ("run_id", pa.string()),
        ("started_at", TIMESTAMP),
        ("written", pa.int64()),
        ("removed", pa.int64()),
    ]
)
"""One line a version; `chunks` are those of the live space, `written` those that this version brought,
`removed` how many files left with it."""

_FILES = pa.schema(
    [
        ("kind", pa.string()),
        ("space_id", pa.string()),
        ("path", pa.string()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("since", pa.int64()),
        ("attributes", pa.string()),
    ]
)
_MASKS = pa.schema([("path", pa.string()), ("row", pa.int64())])
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PARTS = ("files", "masks", "history")


class _Contents(BaseModel):
    """What the sealed file of a checkpoint says: the last record folded in, and the hash of each part."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    head: Commit
    parts: dict[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """The state at version `number`, checked against its hashes; its parts are parsed when asked for."""

    contents: _Contents
    parts: dict[str, bytes]

    @property
    def number(self) -> int:
        return self.contents.number

    def fold(self) -> Fold:
        """The live files."""
        state = Fold(self.contents.head)
        rows = [c.to_pylist() for c in self._part("files").columns]
        index: dict[str, list[DataFile]] = {}
        for kind, space, path, count, size, sha256, since, attributes in zip(*rows, strict=True):
            file = DataFile.model_construct(path=path, rows=count, bytes=size, sha256=sha256)
            if kind == "index":
                index.setdefault(space, []).append(file)
            else:
                state.files[path] = LiveFile(kind, space, file, since, attributes)
        state.index_files = {table: tuple(files) for table, files in index.items()}
        return state

    def masks(self) -> dict[str, np.ndarray]:
        """Masked row positions by data file, ascending."""
        return by_path(self._part("masks"))

    def history(self) -> pa.Table:
        """A line for every version from the first to this one."""
        return self._part("history")

    def _part(self, name: str) -> pa.Table:
        return pq.read_table(io.BytesIO(self.parts[name]))


def newest(collection: Place, upto: int | None) -> Checkpoint | None:
    """The last whole checkpoint of a version not after `upto` (None: of any)."""
    directory = collection / "_checkpoints"
    for number in reversed(numbers(directory)):
        if upto is not None and number > upto:
            continue
        try:
            return read(directory, number)
        except Damaged as error:
            logger.warning("%s; an earlier checkpoint or the log itself is read instead", error)
    return None


def read(directory: Place, number: int) -> Checkpoint:
    """The checkpoint of a version, every byte checked. Raises `Damaged`."""
    path = directory / f"{number:020d}.json"
    try:
        document = unsealed(path, places.read(path))
        contents = _Contents.model_validate({**document, "head": migrated(document["head"], FORMAT)})
        parts = {name: places.read(_path(directory, number, name)) for name in _PARTS}
    except (OSError, ValueError, KeyError) as error:
        raise Damaged(path, f"is not a whole checkpoint ({error})", _REMOVE) from error
    if contents.number != number:
        raise Damaged(path, f"is the checkpoint of version {contents.number}", _REMOVE)
    for name, content in parts.items():
        if hashlib.sha256(content).hexdigest() != contents.parts[name]:
            raise Damaged(_path(directory, number, name), "is not what its checkpoint says", _REMOVE)
    return Checkpoint(contents, parts)


_REMOVE = "remove it: the log has all that it says"


def save(collection: Place, state: Fold, masks: dict[str, np.ndarray], history: pa.Table) -> None:
    """Write a checkpoint of `state` and drop those that it makes needless."""
    if state.head is None:
        return
    directory, number = collection / "_checkpoints", state.number
    tables = {"files": _files_table(state), "masks": _masks_table(masks), "history": history}
    hashes = {}
    for name, table in tables.items():
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        hashes[name] = hashlib.sha256(buffer.getvalue()).hexdigest()
        places.replace(_path(directory, number, name), buffer.getvalue())
    contents = _Contents(number=number, head=state.head, parts=hashes)
    places.replace(directory / f"{number:020d}.json", sealed(contents))
    for old in numbers(directory)[:-_KEPT]:
        if old % _LANDMARK:
            remove(collection, old)


def remove(collection: Place, number: int) -> None:
    """Remove a checkpoint; the sealed file first, so that no half of one is found."""
    directory = collection / "_checkpoints"
    places.remove(directory / f"{number:020d}.json")
    for part in _PARTS:
        places.remove(_path(directory, number, part))


def numbers(directory: Place) -> list[int]:
    """Versions that have a checkpoint, ascending."""
    return sorted(int(n[:-5]) for n in places.names(directory) if n.endswith(".json") and n[:-5].isdecimal())


def line(commit: Commit) -> dict[str, Any]:
    """A version's line of the history."""
    counts = commit.counts.model_dump()
    return {
        "version": commit.number,
        "verb": commit.verb,
        "committed_at": commit.committed_at,
        **{name: counts[name] for name in COUNTED},
        "items": commit.total_items,
        "chunks": commit.spaces[commit.live.space_id].rows,
        "rejects": commit.total_rejects,
        "release": commit.live_release,
        "space_id": commit.live.space_id,
        "run_id": commit.run_id,
        "started_at": commit.started_at,
        "written": counts["chunks"],
        "removed": len(commit.removed),
    }


def lines(commits: Sequence[Commit]) -> pa.Table:
    """The lines of some versions, as a table of `HISTORY`."""
    rows = [line(commit) for commit in commits]
    return pa.table([_column([row[f.name] for row in rows], f.type) for f in HISTORY], schema=HISTORY)


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Built from buffers: `pa.array` would import pandas, which takes longer than to read the log."""
    if pa.types.is_string(kind):
        return arrays.strings(values)
    if pa.types.is_timestamp(kind):
        micros = [round((v - _EPOCH) / timedelta(microseconds=1)) for v in values]
        return arrays.from_numpy(np.array(micros, np.int64), pa.int64()).view(kind)
    return arrays.from_numpy(np.array(values, np.int64), kind)


def by_path(table: pa.Table) -> dict[str, np.ndarray]:
    """Row positions of a deletes file by the data file they mask."""
    if table.num_rows == 0:
        return {}
    paths = table["path"].combine_chunks().dictionary_encode()
    positions = arrays.to_numpy(table["row"].combine_chunks())
    order = np.argsort(arrays.to_numpy(paths.indices), kind="stable")
    codes = arrays.to_numpy(paths.indices)[order]
    cuts = np.flatnonzero(np.diff(codes)) + 1
    groups = np.split(positions[order], cuts)
    return {
        paths.dictionary[int(codes[at])].as_py(): rows for at, rows in zip((0, *cuts), groups, strict=True)
    }


def _path(directory: Place, number: int, part: str) -> Place:
    return directory / f"{number:020d}.{part}.parquet"


def _files_table(state: Fold) -> pa.Table:
    rows: list[tuple[str, str, DataFile, int, str]] = [
        (f.kind, f.space_id, f.file, f.since, f.attributes) for f in state.files.values()
    ]
    rows += [("index", table, file, 0, "") for table, files in state.index_files.items() for file in files]
    columns = {
        "kind": [r[0] for r in rows],
        "space_id": [r[1] for r in rows],
        "path": [r[2].path for r in rows],
        "rows": [r[2].rows for r in rows],
        "bytes": [r[2].bytes for r in rows],
        "sha256": [r[2].sha256 for r in rows],
        "since": [r[3] for r in rows],
        "attributes": [r[4] for r in rows],
    }
    return pa.table(columns, schema=_FILES)


def _masks_table(masks: dict[str, np.ndarray]) -> pa.Table:
    paths = [path for path, rows in masks.items() for _ in range(len(rows))]
    rows = np.concatenate([np.empty(0, np.int64), *masks.values()])
    return pa.table({"path": paths, "row": rows}, schema=_MASKS)
