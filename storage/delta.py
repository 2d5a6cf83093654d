"""Delta tables of a version's data files: linked where every row is live, else written anew."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

from storage import arrays, parquet
from storage.errors import StorageError
from storage.parquet import DataFile
from storage.places import Place
from storage.remote import Remote
from storage.schemas import Kind
from storage.snapshot import Snapshot

_COPIED_AT_ONCE = 2**24


def write(
    snapshot: Snapshot, kind: Kind, space: str | None, schema: pa.Schema, folder: Path
) -> tuple[int, int]:
    """Make a table of the live rows of some files in a new folder; rows, and how many files were linked.

    Raises `StorageError` if the package for it is missing.
    """
    try:
        from deltalake import Schema
        from deltalake.transaction import AddAction, create_table_with_add_actions
    except ImportError as error:
        raise StorageError(
            f"an export to Delta needs a package that is missing ({error}); pip install 'evervec[delta]'"
        ) from None
    folder.mkdir()
    target = _for_delta(schema)
    adds, rows, linked = [], 0, 0
    for file in snapshot.files(kind, space):
        found = parquet.schema(snapshot.root, file)
        as_it_is = file.path not in snapshot.masked and target == schema and found.equals(schema)
        if as_it_is:
            added = file.model_copy(update={"path": file.path.rpartition("/")[2]})
            linked += _linked(snapshot.root / file.path, folder / added.path)
        else:
            added = _rewritten(snapshot, file, target, folder)
        if added.rows:
            facts = (folder / added.path).stat()
            stats = json.dumps({"numRecords": added.rows})
            modified = facts.st_mtime_ns // 1_000_000
            adds.append(AddAction(added.path, facts.st_size, {}, modified, True, stats))
            rows += added.rows
    # should others append: the bounds of texts do not belong into the log of a table
    keys = {"delta.dataSkippingStatsColumns": "item_id"}
    create_table_with_add_actions(str(folder), Schema.from_arrow(target), adds, configuration=keys)
    return rows, linked


def _linked(source: Place, target: Path) -> bool:
    """Link a data file, or copy it where that cannot be; both sides never change it."""
    if isinstance(source, Remote):
        with target.open("xb") as file:
            given = source.open_input()
            while piece := given.read(_COPIED_AT_ONCE):
                file.write(piece)
        return False
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
        return False
    return True


def _rewritten(snapshot: Snapshot, file: DataFile, schema: pa.Schema, folder: Path) -> DataFile:
    """A new file of the live rows of a data file, with the columns of `schema`."""
    masked = snapshot.masked.get(file.path, np.empty(0, np.int64))
    names = [n for n in schema.names]
    with parquet.Writer(folder.parent, folder.name, schema) as writer:
        at = 0
        for batch in parquet.batches(snapshot.root, file, names):
            live = ~np.isin(np.arange(at, at + batch.num_rows), masked)
            at += batch.num_rows
            rows = batch.filter(arrays.from_numpy(live, pa.bool_()))
            writer.write(_conformed(rows, schema))
    written = writer.written()
    if not written.rows:
        (folder.parent / written.path).unlink()
    return written.model_copy(update={"path": written.path.rpartition("/")[2]})


def _conformed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows with the columns, attributes and types of `schema`: null where a file has none."""
    columns = []
    for field in schema:
        if field.name == "attributes":
            columns.append(arrays.conformed(rows, field.type))
        else:
            columns.append(rows[field.name].cast(field.type, safe=False))
    return pa.table(columns, schema=schema)


def _for_delta(schema: pa.Schema) -> pa.Schema:
    """The schema with attribute types that Delta has: its own readers fail on, or distort, the others."""
    if "attributes" not in schema.names:
        return schema
    at = schema.get_field_index("attributes")
    return schema.set(at, schema.field(at).with_type(_delta_type(schema.field(at).type)))


def _delta_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([f.with_type(_delta_type(f.type)) for f in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _delta_type(kind.value_type)
        return kind if inner == kind.value_type else pa.list_(inner)
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC" if kind.tz else None)
    if pa.types.is_time(kind) or pa.types.is_decimal256(kind) or pa.types.is_null(kind):
        return pa.string()
    wider = {
        pa.uint8(): pa.int16(),
        pa.uint16(): pa.int32(),
        pa.uint32(): pa.int64(),
        pa.uint64(): pa.decimal128(20, 0),
        pa.float16(): pa.float32(),
    }
    return wider.get(kind, kind)
