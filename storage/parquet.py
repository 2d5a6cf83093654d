"""Data files: written whole under unguessable names, fsynced, hashed; immutable from then on."""

import hashlib
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from storage.errors import Damaged

ROW_GROUP = 16_384
"""Rows a row group: a point read decodes 25 MB of 384-d vectors, not the file."""


class DataFile(BaseModel):
    """One immutable Parquet file as a commit record names it; `path` is relative to the collection."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    rows: int
    bytes: int
    sha256: str


def write(root: Path, folder: str, table: pa.Table) -> DataFile:
    """Write `table` to a new file under `root/folder`, durable on return.

    zstd and byte-stream-split on vectors: 261 MB where the defaults need 318 (200,000 × 384), with
    reads four times as fast as of dictionary-encoded vectors. Statistics on keys only.
    """
    directory = root / folder
    make_directory(directory)
    path = directory / f"{uuid.uuid4().hex}.parquet"
    vectors = "vector" in table.column_names
    sink = _HashingFile(path)
    with sink:
        pq.write_table(
            table,
            sink,
            compression="zstd",
            compression_level=1,
            row_group_size=ROW_GROUP,
            use_dictionary=[n for n in ("origin", "run_id", "path", "stage") if n in table.column_names],
            column_encoding={"vector.list.element": "BYTE_STREAM_SPLIT"} if vectors else None,
            write_statistics=[n for n in ("item_id", "chunk_no", "path") if n in table.column_names],
            write_page_checksum=True,
        )
        sink.flush()
        os.fsync(sink.fileno())
    fsync_directory(directory)
    return DataFile(path=f"{folder}/{path.name}", rows=table.num_rows, bytes=sink.size, sha256=sink.digest())


def read(root: Path, file: DataFile, columns: Sequence[str] | None = None) -> pa.Table:
    """Read columns of a data file; `Damaged` if it is gone or is not the Parquet file it was."""
    path = root / file.path
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as opened:
            present = set(opened.schema_arrow.names)
            _require_columns(path, opened.schema_arrow, columns or ())
            table = opened.read(columns=[c for c in columns if c in present] if columns else None)
    except (OSError, pa.ArrowException) as error:
        raise Damaged(path, f"cannot be read ({error})", "restore this file from a backup") from error
    if table.num_rows != file.rows:
        raise Damaged(
            path,
            f"holds {table.num_rows} rows, the log says {file.rows}",
            "restore this file from a backup",
        )
    return table


def _require_columns(path: Path, found: pa.Schema, columns: Sequence[str]) -> None:
    """A flipped bit in the footer renames or retypes a column: only attributes may be missing."""
    missing = [c for c in columns if c != "attributes" and c not in found.names]
    vector = found.field("vector").type if "vector" in columns and not missing else None
    if missing or (vector is not None and not pa.types.is_fixed_size_list(vector)):
        what = f"lacks column {missing[0]!r}" if missing else "has vectors of another type"
        raise Damaged(path, what, "restore this file from a backup")


def schema(root: Path, file: DataFile) -> pa.Schema:
    """The Arrow schema of a data file; `Damaged` if it cannot be read."""
    try:
        return pq.read_schema(root / file.path)
    except (OSError, pa.ArrowException) as error:
        raise Damaged(
            root / file.path, f"cannot be read ({error})", "restore this file from a backup"
        ) from error


def make_directory(directory: Path) -> None:
    """Make a directory and its missing parents, each durable in its own parent."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    fsync_directory(directory.parent)


def fsync_directory(directory: Path) -> None:
    """Make the entries of a directory durable: without it a new file's name can be lost with the power."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class _HashingFile:
    """A binary file to write once that keeps the SHA-256 and size of what went in."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._hash = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> "_HashingFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(memoryview(data).cast("B"))
        return self._file.write(data)

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()

    @property
    def closed(self) -> bool:
        return self._file.closed

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def digest(self) -> str:
        return self._hash.hexdigest()
