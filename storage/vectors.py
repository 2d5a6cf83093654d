"""The serving index: one LanceDB table per collection, space and generation; derived and rebuildable.

Readers check out the version that a commit record names, so that a table that ran ahead of the log
is never seen.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import IvfSq

from storage.commits import IndexVersion
from storage.errors import CommitConflict
from storage.parquet import fsync_directory

EXACT_BELOW = 20_000
"""Rows up to which every search is exact: 50,000 × 384 take 98 ms, and no index can lose a hit."""

REFINE = 5
"""Candidates per hit read again in full precision: IVF_SQ recall 0.958 without, 1.000 with (50,000 rows)."""

_IDS_PER_DELETE = 10_000


def table_name(collection: str, space_id: str) -> str:
    """Name of the table of a space's first generation."""
    return f"{collection}__{space_id}__g1"


@dataclass(frozen=True)
class Hits:
    """Nearest chunks, best first: `rows` has every column of the index but the vector, `scores` cosines."""

    rows: pa.Table
    scores: np.ndarray


class Index:
    """The LanceDB table of one collection and space."""

    def __init__(self, lake: Path, table: str) -> None:
        self.directory = lake / "index" / f"{table}.lance"
        self.name = table
        self._db = lancedb.connect(lake / "index")

    def open_at(self, named: IndexVersion) -> "Reading":
        """A frozen view of the version that a commit names."""
        table = self._db.open_table(self.name)
        table.checkout(named.version)
        columns = tuple(name for name in table.schema.names if name != "vector")
        return Reading(table, named.rows, columns)

    def write(
        self, named: IndexVersion | None, schema: pa.Schema, gone: list[str], rows: pa.Table
    ) -> IndexVersion:
        """Apply one window: remove every row of the items `gone`, merge `rows`; durable on return.

        Starts from exactly the version that the last commit `named` (None: nothing yet), whatever a
        writer that died left behind. Raises `CommitConflict` if any step gave another version than
        expected, after restoring the table; the commit must not be made then.
        """
        before = _files_below(self.directory)
        table = self._at(named, schema)
        expected = start = table.version
        ids = [gone[at : at + _IDS_PER_DELETE] for at in range(0, len(gone), _IDS_PER_DELETE)]
        steps = [_deletion(table, some) for some in ids]
        if rows.num_rows:
            steps.append(_merge(table, rows))
        for step in steps:
            found = step()
            if found not in (expected, expected + 1):  # a deletion that finds nothing makes no version
                table.restore(start)
                raise CommitConflict(
                    f"index {self.name} went to version {found}, expected {expected + 1}: another program "
                    "writes to it. The table was restored; run the command again once that writer is gone"
                )
            expected = found
        self._train(table)
        self._fsync_new(before)
        return IndexVersion(table=self.name, version=table.version, rows=table.count_rows())

    def _at(self, named: IndexVersion | None, schema: pa.Schema) -> Any:
        """The table, writable, holding what `named` says and having the columns of `schema`."""
        if named is None:
            if self.directory.exists():  # of a first commit that was never made
                self._db.drop_table(self.name)
            return self._db.create_table(self.name, schema=schema)
        table = self._db.open_table(self.name)
        if table.version != named.version:
            table.restore(named.version)
        stored = table.schema
        other = [f.name for f in stored if f.name not in schema.names or schema.field(f.name).type != f.type]
        if other:
            table.drop_columns(other)
        missing = [f for f in schema if f.name not in table.schema.names]
        if missing:
            table.add_columns(pa.schema(missing))
        return table

    def _train(self, table: Any) -> None:
        """Build IVF_SQ once the table outgrew exact search, and again when its rows have doubled.

        Rows that came after a training are scanned exactly by LanceDB, so hits are never missed.
        """
        rows = table.count_rows()
        if rows <= EXACT_BELOW:
            return
        stats = table.index_stats("vector_idx")
        if stats is None or rows >= 2 * stats.num_indexed_rows:
            table.create_index("vector", config=IvfSq(distance_type="cosine"), name="vector_idx")

    def _fsync_new(self, before: set[Path]) -> None:
        """LanceDB syncs nothing itself, and a record must not name what a power cut can take."""
        directories = {self.directory, self.directory.parent, self.directory.parent.parent}
        for path in _files_below(self.directory) - before:
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            directories.add(path.parent)
        for directory in directories:
            fsync_directory(directory)


@dataclass(frozen=True)
class Reading:
    """One frozen version of an index table."""

    table: Any
    rows: int
    columns: tuple[str, ...]

    def nearest(self, vector: np.ndarray, limit: int) -> Hits:
        """The `limit` chunks of highest cosine to `vector` (float32, (dim,)), best first."""
        query = self.table.search(vector.astype(np.float32)).distance_type("cosine").limit(limit)
        if self.rows > EXACT_BELOW:
            query = query.refine_factor(REFINE)
        found = query.select([*self.columns, "_distance"]).to_arrow()
        scores = 1.0 - found["_distance"].to_numpy()
        return Hits(found.drop_columns(["_distance"]), scores)


def _deletion(table: Any, item_ids: list[str]) -> Callable[[], int]:
    """Remove all rows of these items; the table's version afterwards."""
    listed = ", ".join(map(_quoted, item_ids))
    return lambda: int(table.delete(f"item_id IN ({listed})").version)


def _merge(table: Any, rows: pa.Table) -> Callable[[], int]:
    """Insert or replace rows by their key; the table's version afterwards.

    `use_index(False)`: with an index on the key, concurrent merges duplicate rows.
    """
    merge = table.merge_insert(["item_id", "chunk_no"])
    merge = merge.when_matched_update_all().when_not_matched_insert_all().use_index(False)
    ordered = rows.select(table.schema.names).cast(table.schema)
    return lambda: int(merge.execute(ordered).version)


def _files_below(directory: Path) -> set[Path]:
    return {path for path in directory.rglob("*") if path.is_file()} if directory.exists() else set()


def _quoted(item_id: str) -> str:
    return "'" + item_id.replace("'", "''") + "'"
