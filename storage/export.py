"""Vectors out: a version of a collection as plain Parquet, as Delta tables, or as a Lance dataset.

Every export is written beside its path and renamed at the end, so that a killed one leaves nothing under
the path. `storage.foreign` reads the Parquet kind back.
"""

import glob
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from storage import delta, ordered, places, views
from storage.errors import StorageError
from storage.parquet import ROW_GROUP
from storage.places import Place
from storage.schemas import MEDIA, TIMESTAMP, items_schema, vectors_schema
from storage.snapshot import Snapshot
from storage.views import Bound

Format = Literal["parquet", "delta", "lance"]

PART_ROWS = 200_000
"""Rows of one Parquet file of an export, about 300 MB of 384 floats."""

CHUNKS, ITEMS, MANIFEST = "chunks.parquet", "items.parquet", "export.json"
_OF_DELTA = ("items", "vectors")
_OF_LANCE = ("data", "_deletions", "_indices", "_latest.manifest", "_transactions", "_versions")
_PARTS = {CHUNKS, ITEMS, MANIFEST, *_OF_DELTA, *_OF_LANCE}
"""What lies in an export: two folders of Parquet files, and what it was made from."""

_STALE_SECONDS = 3600.0


class Manifest(BaseModel):
    """What an export was made from. `encoder` is empty for vectors whose encoder is not at hand."""

    model_config = ConfigDict(frozen=True)

    evervec_export: int = 1
    kind: Format
    collection: str
    version: int
    space_id: str
    dim: int
    fingerprint: str
    encoder: dict[str, Any]
    chunking: dict[str, Any]
    chunking_id: str
    items: int
    rows: int


@dataclass(frozen=True)
class Exported:
    """What an export holds. `rows` are chunks; `linked` data files of the lake were not copied."""

    rows: int
    items: int
    linked: int = 0


def contents(snapshot: Snapshot) -> Exported:
    """What an export of this version would hold: its items, and the chunks of its live space."""
    head = _head(snapshot).head
    return Exported(head.spaces[head.live.space_id].rows, head.total_items)


def export(lake: Place, snapshot: Snapshot, to: Format, path: Path, *, overwrite: bool = False) -> Exported:
    """Write the live release's chunks and their items to `path`; durable and whole on return.

    - `parquet`: the folders `chunks.parquet` (one row a chunk, its vector among them) and
      `items.parquet`, in files of at most 200,000 rows ordered by `item_id`; nothing is lost.
    - `delta`: two Delta tables, `items` and `vectors`, with the columns that the lake has. Data files
      without masked rows are hard links where the file system allows, which costs no space, but outlives
      whatever the lake removes: a purge of the lake does not reach them. Others are written anew.
    - `lance`: one dataset with the columns of `chunks.parquet`.

    Beside the data lies `export.json`: what it was made from, and the sign that it may be replaced.

    Memory does not grow with the collection. `overwrite` replaces an earlier export; the new one is whole
    before the old one goes. Raises `StorageError` if a package is missing or `path` cannot be written.
    """
    one = _head(snapshot)
    write = {"parquet": _parquet, "delta": _delta, "lance": _lance}[to]
    with _renamed_to(path, overwrite=overwrite) as folder:
        done = write(lake, one, folder)
        manifest = _manifest(one, to, done).model_dump()
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return done


def read_manifest(path: Path) -> Manifest | None:
    """What the export in the folder `path` says of itself; None if it says nothing (any more)."""
    try:
        return Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None


def is_export(path: Path) -> bool:
    """Whether a folder is what an earlier export left, and nothing that a person would miss more."""
    return read_manifest(path) is not None


def not_ours(path: Path) -> Path | None:
    """Something in an export's folder that no export put there; None if there is nothing."""
    return next((entry for entry in sorted(path.iterdir()) if entry.name not in _PARTS), None)


def _head(snapshot: Snapshot) -> Bound:
    if snapshot.head is None:
        raise StorageError(f"collection {snapshot.root.name!r} is empty: there is nothing to export")
    return Bound(snapshot.root.name, snapshot, snapshot.head)


def _manifest(one: Bound, to: Format, done: Exported) -> Manifest:
    release = one.head.live
    kept = release.model_dump(
        include={"space_id", "dim", "fingerprint", "encoder", "chunking", "chunking_id"}, mode="json"
    )
    return Manifest(
        kind=to, collection=one.name, version=one.head.number, items=done.items, rows=done.rows, **kept
    )


@contextmanager
def _renamed_to(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A new folder beside `path`, which takes its place once the block is through; else it is removed."""
    places.make_directory(path.parent)
    _remove_leftovers(path)
    folder = path.parent / f".{path.name}.{uuid.uuid4().hex}.unfinished"
    folder.mkdir()
    try:
        yield folder
        _settle(folder)
        if path.is_dir() and (strange := not_ours(path)):
            raise StorageError(f"{strange} is no part of an export, so that {path} is left as it is")
        if path.is_dir() and any(path.iterdir()):
            if not overwrite:
                raise StorageError(f"{path} was filled meanwhile and is left as it is; nothing was exported")
            old = path.parent / f".{path.name}.{uuid.uuid4().hex}.unfinished"
            path.rename(old)
            folder.rename(path)
            shutil.rmtree(old)
        else:
            folder.rename(path)
        places.fsync_directory(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(path: Path) -> None:
    """Remove what exports to `path` that were killed have left; an hour old, lest one is still at work."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*.unfinished"):
        times = [folder.stat().st_mtime, *(entry.modified.timestamp() for entry in places.walk(folder))]
        if time.time() - max(times) > _STALE_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _settle(folder: Path) -> None:
    """Make a folder and all in it durable: the libraries that write it sync nothing."""
    for directory, _, files in os.walk(folder):
        for name in files:
            with Path(directory, name).open("rb") as file:
                os.fsync(file.fileno())
        places.fsync_directory(Path(directory))


def _parquet(lake: Place, one: Bound, folder: Path) -> Exported:
    count = items = 0
    with _Parts(folder / ITEMS) as of_items, _Parts(folder / CHUNKS) as of_chunks:
        for some, chunks in _rows(lake, one, folder):
            of_items.write(some)
            of_chunks.write(chunks)
            items += some.num_rows
            count += chunks.num_rows
    return Exported(count, items)


def _lance(lake: Place, one: Bound, folder: Path) -> Exported:
    import lancedb

    done = contents(one.snapshot)
    schema = _chunk_schema(one)
    batches = (b for _, chunks in _rows(lake, one, folder) for b in chunks.combine_chunks().to_batches())
    reader = pa.RecordBatchReader.from_batches(schema, batches)
    lancedb.connect(str(folder / "made")).create_table("export", data=reader, schema=schema)
    for entry in (folder / "made" / "export.lance").iterdir():
        entry.rename(folder / entry.name)
    shutil.rmtree(folder / "made")
    return done


def _delta(lake: Place, one: Bound, folder: Path) -> Exported:
    release = one.head.live
    schema = items_schema(_attributes(one), one.head.modality)
    items, some = delta.write(one.snapshot, "items", None, schema, folder / "items")
    schema = vectors_schema(release.dim)
    rows, more = delta.write(one.snapshot, "vectors", release.space_id, schema, folder / "vectors")
    return Exported(rows, items, some + more)


class _Parts:
    """Parquet files `part-00000.parquet`, … of bounded size in a new folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._writer: Any = None
        self._parts = self._rows = 0

    def __enter__(self) -> "_Parts":
        return self

    def write(self, table: pa.Table) -> None:
        if self._writer is None or (self._rows and self._rows + table.num_rows > PART_ROWS):
            self._open(table.schema)
        self._writer.write_table(table, row_group_size=ROW_GROUP)
        self._rows += table.num_rows

    def _open(self, schema: pa.Schema) -> None:
        if self._writer is not None:
            self._writer.close()
        # a dictionary of vectors would slow every reader down fourfold, statistics of them say nothing
        repeated = ("modality", "space_id", "origin")
        self._writer = pq.ParquetWriter(
            self._folder / f"part-{self._parts:05}.parquet",
            schema,
            compression="zstd",
            use_dictionary=[n for n in repeated if n in schema.names],
            column_encoding={"vector.list.element": "BYTE_STREAM_SPLIT"}
            if "vector" in schema.names
            else None,
            write_statistics=[n for n in ("item_id", "chunk_no") if n in schema.names],
        )
        self._parts, self._rows = self._parts + 1, 0

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()


def _rows(lake: Place, one: Bound, folder: Path) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Items with their chunks, as an export shows them, ordered by id."""
    item_schema, chunk_schema = _item_schema(one), _chunk_schema(one)
    spill = folder / "spilled"
    release = one.head.live
    media = "" if one.head.modality == "text" else "media, "
    with ordered.sorting(lake, spill) as first, ordered.sorting(lake, spill) as second:
        of_items = ordered.stream(
            first,
            f"SELECT item_id, modality, uri, text, bytes, {media}lower(hex(content_hash)) AS content_hash, "
            f"{_flat(one)}stale_since, observed_at FROM {views.relation(first, one, 'items')} i "
            "ORDER BY item_id",
            ordered.BATCH // 8,  # texts can be long
        )
        of_chunks = ordered.stream(
            second,
            "SELECT item_id, chunk_no, chunk_start, chunk_end, origin, "
            f"vector::FLOAT[{release.dim}] AS vector "
            f"FROM {views.relation(second, one, 'vectors', release.space_id)} ORDER BY item_id, chunk_no",
            ordered.BATCH,
        )
        for items, chunks in ordered.aligned(of_items, of_chunks, ordered.BATCH):
            shown = items.select(item_schema.names).cast(item_schema)
            yield shown, _chunks(shown, chunks, chunk_schema, release.space_id)
    shutil.rmtree(spill, ignore_errors=True)


def _chunks(items: pa.Table, chunks: pa.Table, schema: pa.Schema, space_id: str) -> pa.Table:
    """Chunks with what their items say."""
    if not chunks.num_rows:
        return schema.empty_table()
    place = {item_id: row for row, item_id in enumerate(items["item_id"].to_pylist())}
    parents = [place[item_id] for item_id in chunks["item_id"].to_pylist()]
    texts = items["text"].to_pylist()
    spans = zip(parents, chunks["chunk_start"].to_pylist(), chunks["chunk_end"].to_pylist(), strict=True)
    cut = [None if texts[row] is None else texts[row][a:b] for row, a, b in spans]
    kept = [n for n in items.column_names if n not in ("item_id", "text", "bytes", "media")]
    own = items.select(kept).take(pa.array(parents, pa.int64()))
    columns = {name: chunks[name] for name in chunks.column_names}
    columns |= {name: own[name] for name in own.column_names}
    columns["text"] = pa.array(cut, pa.large_string())
    columns["space_id"] = pa.array([space_id] * chunks.num_rows)
    return pa.table([columns[name] for name in schema.names], names=schema.names).cast(schema)


def _attributes(one: Bound) -> pa.StructType:
    return one.snapshot.attributes()


def _flat(one: Bound) -> str:
    return "".join(f"i.attributes.{views.quoted(a)} AS {views.quoted(a)}, " for a in one.head.attributes)


def _item_schema(one: Bound) -> pa.Schema:
    return pa.schema(
        [
            ("item_id", pa.string()),
            ("modality", pa.string()),
            ("uri", pa.string()),
            ("text", pa.large_string()),
            ("bytes", pa.int64()),
            *([] if one.head.modality == "text" else [("media", MEDIA)]),
            ("content_hash", pa.string()),
            *_attributes(one),
            ("stale_since", TIMESTAMP),
            ("observed_at", TIMESTAMP),
        ]
    )


def _chunk_schema(one: Bound) -> pa.Schema:
    return pa.schema(
        [
            ("item_id", pa.string()),
            ("chunk_no", pa.int32()),
            ("chunk_start", pa.int64()),
            ("chunk_end", pa.int64()),
            ("text", pa.large_string()),
            ("uri", pa.string()),
            ("modality", pa.string()),
            *_attributes(one),
            ("space_id", pa.string()),
            ("origin", pa.string()),
            ("content_hash", pa.string()),
            ("stale_since", TIMESTAMP),
            ("observed_at", TIMESTAMP),
            ("vector", pa.list_(pa.float32(), one.head.live.dim)),
        ]
    )
