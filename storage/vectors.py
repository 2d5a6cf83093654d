"""The serving index: one LanceDB table per collection, space and generation; derived and rebuildable.

Readers check out the version that a commit record names, so that a table that ran ahead of the log
is never seen. Within a generation files are only ever added; maintenance builds the next generation
and drops the old one later, so that nothing is cleaned up underneath a reader.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from storage import places, remote
from storage.commits import IndexVersion
from storage.errors import CommitConflict, Damaged, QueryRefused, StorageError
from storage.parquet import DataFile
from storage.places import Place
from storage.remote import Remote

if TYPE_CHECKING:
    from storage.filters import Filter

EXACT_BELOW = 20_000
"""Rows up to which every search is exact: 50,000 × 384 take 98 ms, and no index can lose a hit."""

REFINE = 5
"""Candidates per hit read again in full precision: IVF_SQ recall 0.958 without, 1.000 with (50,000 rows)."""

_VECTORS, _WORDS = "vector_idx", "text_idx"
_BY_WORDS = {"base_tokenizer": "icu/split", "stem": False, "remove_stop_words": False, "with_position": False}
"""Words of any language as they stand, but for case and accents: a stemmer would be right for one only.

It finds parts of `foo_bar` and `json.loads`, and words where a script writes no spaces.
"""

_UNINDEXED = 5_000
"""Rows, or a twentieth of the table if that is more, whose words are scanned: 4 ms a thousand."""

_IDS_PER_DELETE = 10_000
_REWRITTEN = "latest_version_hint.json"
"""The one file of a table that LanceDB writes again; it only speeds up finding the newest version."""

_GENERATION = re.compile(r"__g(\d+)$")


def table_name(collection: str, space_id: str, generation: int = 1) -> str:
    """Name of the table of one generation of a space."""
    return f"{collection}__{space_id}__g{generation}"


def generation(table: str) -> int:
    """The generation that a table's name says."""
    found = _GENERATION.search(table)
    return int(found[1]) if found else 0


def directory(lake: Place, table: str) -> Place:
    """Where a table lies."""
    return lake / "index" / f"{table}.lance"


def drop(lake: Place, table: str) -> None:
    """Remove a table, if it is there."""
    places.remove_tree(directory(lake, table))


@dataclass(frozen=True)
class Hits:
    """Chunks, best first: `rows` has every column of the index but the vector, `scores` cosines or BM25."""

    rows: pa.Table
    scores: np.ndarray


class Index:
    """The LanceDB table of one collection, space and generation."""

    def __init__(self, lake: Place, table: str) -> None:
        import lancedb  # 1.5 s, which a run without changes must not pay

        self.directory = directory(lake, table)
        self.name, self._lake = table, lake
        folder = lake / "index"
        options = remote.lance_options(folder) if isinstance(folder, Remote) else None
        self._db = lancedb.connect(str(folder), storage_options=options)

    def open_at(self, named: IndexVersion) -> "Reading":
        """A frozen view of the version that a commit names. Raises `Damaged` if it cannot be read."""
        try:
            table = self._db.open_table(self.name)
            table.checkout(named.version)
            schema = table.schema
        except Exception as error:
            raise self._damaged(named, error) from error
        return Reading(table, named.rows, schema)

    def build(self, schema: pa.Schema, rows: Iterable[pa.RecordBatch]) -> IndexVersion:
        """Make the table anew from `rows`, whatever was there before; durable on return."""
        drop(self._lake, self.name)
        reader = pa.RecordBatchReader.from_batches(schema, rows)
        table = self._db.create_table(self.name, data=reader, schema=schema)
        self._train(table)
        return self._named(table, set())

    def write(
        self, named: IndexVersion | None, schema: pa.Schema, gone: Sequence[str], rows: pa.Table
    ) -> IndexVersion:
        """Apply one window: remove every row of the items `gone`, merge `rows`; durable on return.

        Starts from exactly the version that the last commit `named` (None: nothing yet), whatever a
        writer that died left behind. Raises `CommitConflict` if any step gave another version than
        expected, after restoring the table; the commit must not be made then. Raises `Damaged` if the
        named version cannot be had any more.
        """
        try:
            return self._written(named, schema, gone, rows)
        except StorageError:
            raise
        except Exception as error:
            if named is None or "(os error" in str(error):  # on a full disk a new table would fare no better
                raise
            # the torn manifest of a dead writer in the way, say
            raise self._damaged(named, error) from error

    def _written(
        self, named: IndexVersion | None, schema: pa.Schema, gone: Sequence[str], rows: pa.Table
    ) -> IndexVersion:
        before = _files_below(self.directory)
        table = self._at(named, schema)
        expected = start = table.version
        ids = [gone[at : at + _IDS_PER_DELETE] for at in range(0, len(gone), _IDS_PER_DELETE)]
        steps = [_deletion(table, some) for some in ids]
        if rows.num_rows:
            steps.append(_merge(table, rows) if table.count_rows() else _addition(table, rows))
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
        return self._named(table, before)

    def _at(self, named: IndexVersion | None, schema: pa.Schema) -> Any:
        """The table, writable, holding what `named` says and having the columns of `schema`."""
        if named is None:
            drop(self._lake, self.name)  # of a first commit that was never made
            return self._db.create_table(self.name, schema=schema)
        try:
            table = self._db.open_table(self.name)
            if table.version != named.version:
                table.restore(named.version)
            held = table.count_rows()
        except Exception as error:
            raise self._damaged(named, error) from error
        if held != named.rows:
            raise self._damaged(named, f"holds {held} rows, the log says {named.rows}")
        stored = table.schema
        other = [f.name for f in stored if f.name not in schema.names or schema.field(f.name).type != f.type]
        if other:
            table.drop_columns(other)
        missing = [f for f in schema if f.name not in table.schema.names]
        if missing:
            table.add_columns(pa.schema(missing))
        return table

    def _damaged(self, named: IndexVersion, error: object) -> Damaged:
        return Damaged(
            self.directory,
            f"version {named.version} of the index cannot be read ({str(error).splitlines()[0]})",
            f"make it anew: evervec maintain {self.name.partition('__')[0]} --rebuild-index",
        )

    def _train(self, table: Any) -> None:
        """Index vectors once the table outgrew scans and when its rows have doubled, words a little sooner.

        Rows that came after a training are scanned exactly by LanceDB, so hits are never missed. Words
        are indexed from the empty table on, for without any index LanceDB takes texts apart otherwise.
        """
        from lancedb.index import FTS, IvfSq

        rows = table.count_rows()
        words = table.index_stats(_WORDS)
        if words is None or words.num_unindexed_rows > max(_UNINDEXED, rows // 20):
            table.create_index("text", config=FTS(**_BY_WORDS), name=_WORDS)
        if rows <= EXACT_BELOW:
            return
        stats = table.index_stats(_VECTORS)
        if stats is None or rows >= 2 * stats.num_indexed_rows:
            table.create_index("vector", config=IvfSq(distance_type="cosine"), name=_VECTORS)

    def _named(self, table: Any, before: set[str]) -> IndexVersion:
        """What a record says of the table as it is now, its new files durable and hashed.

        LanceDB syncs nothing itself, and a record must not name what a power cut can take. An object
        store does both, durability and checksums, on its own.
        """
        files: list[DataFile] = []
        if isinstance(self.directory, Path):
            directories = {self.directory, self.directory.parent, self.directory.parent.parent}
            for name in sorted(_files_below(self.directory) - before):
                path = self.directory / name
                files.append(_synced(path, name))
                directories.update(p for p in path.parents if p.is_relative_to(self.directory))
            for directory in directories:
                places.fsync_directory(directory)
        return IndexVersion(
            table=self.name,
            version=table.version,
            rows=table.count_rows(),
            files=tuple(f for f in files if not f.path.endswith(_REWRITTEN)),
        )


@dataclass(frozen=True)
class Reading:
    """One frozen version of an index table."""

    table: Any
    rows: int
    schema: pa.Schema

    @property
    def columns(self) -> tuple[str, ...]:
        """What a hit shows: every column but the vector."""
        return tuple(name for name in self.schema.names if name != "vector")

    def nearest(self, vector: np.ndarray, limit: int, where: "Filter | None" = None) -> Hits:
        """The `limit` admitted chunks of highest cosine to `vector` (float32, (dim,)), best first."""
        query = self.table.search(vector.astype(np.float32)).distance_type("cosine").limit(limit)
        if where is not None:
            query = query.where(where.lance, prefilter=True)
        if self.rows > EXACT_BELOW:
            query = query.refine_factor(REFINE)
        found = query.select([*self.columns, "_distance"]).to_arrow()
        scores = 1.0 - found["_distance"].to_numpy()
        return Hits(found.drop_columns(["_distance"]), scores)

    def vectors_of(self, item_ids: Sequence[str]) -> pa.Table:
        """The chunks of some items that are no maps: `item_id`, `chunk_no`, `vector`."""
        listed = ", ".join(map(_quoted, item_ids))
        condition = f"origin <> 'mapped' AND item_id IN ({listed})"
        query = self.table.search().where(condition).select(["item_id", "chunk_no", "vector"])
        found: pa.Table = query.limit(self.rows).to_arrow()
        return found

    def matching(self, text: str, limit: int, where: "Filter | None" = None) -> Hits:
        """The `limit` admitted chunks with the highest BM25 score for the words of `text`, best first.

        Raises `QueryRefused` if the index is of a time before words were indexed.
        """
        if self.table.index_stats(_WORDS) is None:
            raise QueryRefused(
                f"the words of index {self.table.name} are not indexed yet; make it anew: "
                f"evervec maintain {self.table.name.partition('__')[0]} --rebuild-index"
            )
        from lancedb.query import MatchQuery

        try:
            text.encode()
        except UnicodeEncodeError:
            raise QueryRefused("the query is not valid text: it has half of a surrogate pair") from None
        # as a query object: a plain string in quotes would ask for a phrase, which needs positions
        query = self.table.search(MatchQuery(text, "text"), query_type="fts").limit(limit)
        if where is not None:
            query = query.where(where.lance, prefilter=True)
        found = query.select([*self.columns, "_score"]).to_arrow()
        return Hits(found.drop_columns(["_score"]), found["_score"].to_numpy())


def tables(lake: Place) -> list[str]:
    """Names of all index tables of a lake."""
    found = {entry.path.partition("/")[0] for entry in places.walk(lake / "index")}
    return sorted(name.removesuffix(".lance") for name in found if name.endswith(".lance"))


def _synced(path: Path, name: str) -> DataFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        return DataFile(path=name, rows=0, bytes=file.tell(), sha256=digest)


def _deletion(table: Any, item_ids: Sequence[str]) -> Callable[[], int]:
    """Remove all rows of these items; the table's version afterwards."""
    listed = ", ".join(map(_quoted, item_ids))
    return lambda: int(table.delete(f"item_id IN ({listed})").version)


def _addition(table: Any, rows: pa.Table) -> Callable[[], int]:
    """Put rows into a table that holds none; its version afterwards."""
    ordered = rows.select(table.schema.names).cast(table.schema)
    return lambda: int(table.add(ordered).version)


def _merge(table: Any, rows: pa.Table) -> Callable[[], int]:
    """Insert or replace rows by their key; the table's version afterwards.

    `use_index(False)`: with an index on the key, concurrent merges duplicate rows.
    """
    merge = table.merge_insert(["item_id", "chunk_no"])
    merge = merge.when_matched_update_all().when_not_matched_insert_all().use_index(False)
    ordered = rows.select(table.schema.names).cast(table.schema)
    return lambda: int(merge.execute(ordered).version)


def _files_below(directory: Place) -> set[str]:
    if isinstance(directory, Remote):
        return set()
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def _quoted(item_id: str) -> str:
    return "'" + item_id.replace("'", "''") + "'"
