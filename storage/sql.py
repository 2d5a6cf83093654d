"""DuckDB over the lake: one view per table of a collection, two functions, and a locked door.

Nothing of the file layout shows: views bind the snapshot's own file list with its position deletes.
The connection reads files below the lake and nothing else, and runs one SELECT or EXPLAIN at a time.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from storage.commits import Commit
from storage.errors import QueryRefused
from storage.parquet import DataFile
from storage.sandbox import lock_down, require_read_only, without_trace
from storage.schemas import REJECTS, TIMESTAMP, VIEW_SUFFIXES, Kind, items_schema, vectors_schema
from storage.snapshot import Snapshot

_COLLECTION = ("collection", pa.string())
_COUNTED = ("added", "updated", "deleted", "rejected", "encoded")
_VERSION = [
    ("version", pa.int64()),
    ("verb", pa.string()),
    ("committed_at", TIMESTAMP),
    *((name, pa.int64()) for name in (*_COUNTED, "items", "chunks", "release")),
    ("space_id", pa.string()),
    ("run_id", pa.string()),
]
_SPACE = [
    _COLLECTION,
    ("space_id", pa.string()),
    *((name, pa.int64()) for name in ("encoded", "mapped", "imported")),
]
_RELEASE = [
    _COLLECTION,
    ("release", pa.int64()),
    ("space_id", pa.string()),
    ("dim", pa.int64()),
    ("fingerprint", pa.string()),
    ("strategy", pa.string()),
    ("model", pa.string()),
    ("live", pa.bool_()),
]
_RUN = [
    _COLLECTION,
    ("run_id", pa.string()),
    ("verb", pa.string()),
    ("started_at", TIMESTAMP),
    ("finished_at", TIMESTAMP),
    ("windows", pa.int64()),
    ("version", pa.int64()),
    *((name, pa.int64()) for name in (*_COUNTED, "chunks")),
]

Embed = Callable[[str, str], np.ndarray]
Search = Callable[[str, str, int], list[dict[str, Any]]]


@dataclass(frozen=True)
class Bound:
    """A collection as the views show it."""

    name: str
    snapshot: Snapshot
    head: Commit


class Connection:
    """A DuckDB connection that runs one SELECT or EXPLAIN at a time, over views that do not change.

    `lock_configuration` and `allowed_directories` alone would still let COPY overwrite files of the lake.
    """

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def sql(self, query: str) -> Any:
        """The query as a DuckDB relation (`.df()`, `.fetchall()`, `.to_arrow_table()`, ...)."""
        require_read_only(self._raw, query)
        return self._raw.sql(query)

    def execute(self, query: str, parameters: object = None) -> Any:
        """Run the query, with `?` or `$name` taken from `parameters`; a cursor to fetch from."""
        require_read_only(self._raw, query)
        return self._raw.execute(query, parameters)

    def close(self) -> None:
        self._raw.close()


def connect(lake: Path, snapshots: dict[str, Snapshot], embed: Embed, search: Search) -> Connection:
    """A connection with the views and functions bound to these snapshots, locked down.

    `embed(collection, text)` gives a query vector, `search(collection, text, k)` rows of `item_id`,
    `chunk_no`, `score`. Close it when done.
    """
    bound = [Bound(n, s, s.head) for n, s in snapshots.items() if s.head is not None]
    connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"})
    connection.execute("CREATE SCHEMA _lake")  # what only the views need, out of SHOW TABLES
    for one in bound:
        _bind_collection(connection, one)
    _bind_system(connection, bound)
    _bind_functions(connection, bound, embed, search)
    lock_down(connection, lake)
    return Connection(connection)


def run(connection: Connection, query: str) -> pa.Table:
    """The result of one SELECT or EXPLAIN as an Arrow table. Raises `QueryRefused`."""
    try:
        relation = connection.sql(query)
        table: pa.Table = relation.to_arrow_table() if relation is not None else pa.table({})
    except duckdb.Error as error:
        raise QueryRefused(without_trace(str(error))) from None
    return table.rename_columns(_distinct(table.column_names))


def collections_named(query: str, names: Iterable[str]) -> list[str]:
    """Those collections that a query can mean: by a view's name, or by a text that is just their name.

    All of them if it uses the `evervec` schema or names none.
    """
    raw, everything = query.encode(), list(names)
    starts = [at for at, _ in duckdb.tokenize(query)]
    tokens = [raw[a:b].decode().strip() for a, b in zip(starts, [*starts[1:], len(raw)], strict=True)]
    words = {token.strip("'\"").lower() for token in tokens}
    views = {n: {n, *(n + suffix for suffix in VIEW_SUFFIXES)} for n in everything}
    named = [n for n in everything if views[n] & words]
    return everything if "evervec" in words or not named else named


def _distinct(names: Sequence[str]) -> list[str]:
    """Column names made different by a number: a join can give one name twice."""
    given: dict[str, int] = {}
    distinct = []
    for name in names:
        given[name] = given.get(name, 0) + 1
        distinct.append(name if given[name] == 1 else f"{name}_{given[name] - 1}")
    return distinct


def _bind_collection(connection: Any, one: Bound) -> None:
    space, dim = one.head.live.space_id, one.head.live.dim
    masks = _mask_table(connection, one)
    name = one.name
    attributes = list(one.head.attributes)
    flat = "".join(f", i.attributes.{_quoted(a)} AS {_quoted(a)}" for a in attributes)
    items = _relation(connection, one, "items", masks)
    connection.execute(
        f"CREATE VIEW {_quoted(name + '_items')} AS SELECT item_id, modality, uri, text, bytes, "
        f"lower(hex(content_hash)) AS content_hash{flat}, stale_since, observed_at, run_id FROM {items} i"
    )
    spaces = " UNION ALL ".join(
        f"SELECT item_id, chunk_no, chunk_start, chunk_end, '{s}' AS space_id, origin, basis_id, residual, "
        f"vector::FLOAT[] AS vector, run_id FROM {_relation(connection, one, 'vectors', masks, s)}"
        for s in one.head.spaces
    )
    connection.execute(f"CREATE VIEW {_quoted(name + '_vectors')} AS {spaces}")
    chunks = _relation(connection, one, "vectors", masks, space)
    connection.execute(
        f"CREATE VIEW {_quoted(name)} AS SELECT v.item_id, v.chunk_no, v.chunk_start, v.chunk_end, "
        "substring(i.text, v.chunk_start + 1, v.chunk_end - v.chunk_start) AS text, i.uri, i.modality"
        f"{flat}, '{space}' AS space_id, v.origin, v.vector::FLOAT[{dim}] AS vector, i.stale_since, "
        f"i.observed_at, v.run_id FROM {chunks} v JOIN {items} i ON i.item_id = v.item_id"
    )
    rejects = _relation(connection, one, "rejects", masks)
    connection.execute(
        f"CREATE VIEW {_quoted(name + '_rejects')} AS SELECT item_id, uri, stage, reason, error_type, "
        f"lower(hex(content_hash)) AS content_hash, run_id, rejected_at FROM {rejects}"
    )
    versions = [version_row(c) for c in one.snapshot.commits]
    _table(connection, _quoted(name + "_versions"), versions, pa.schema(_VERSION))


def version_row(commit: Commit) -> dict[str, Any]:
    """One line of a collection's history."""
    return {
        "version": commit.number,
        "verb": commit.verb,
        "committed_at": commit.committed_at,
        "added": commit.counts.added,
        "updated": commit.counts.updated,
        "deleted": commit.counts.deleted,
        "rejected": commit.counts.rejected,
        "encoded": commit.counts.encoded,
        "items": commit.total_items,
        "chunks": sum(o.rows for o in commit.spaces.values()),
        "release": commit.live.release,
        "space_id": commit.live.space_id,
        "run_id": commit.run_id,
    }


def _bind_system(connection: Any, bound: Sequence[Bound]) -> None:
    connection.execute("CREATE SCHEMA evervec")
    collections: list[dict[str, Any]] = []
    spaces: list[dict[str, Any]] = []
    releases: list[dict[str, Any]] = []
    runs: dict[tuple[str, str], dict[str, Any]] = {}
    for one in bound:
        head = one.head
        collections.append({"collection": one.name, **version_row(head), "rejects": head.total_rejects})
        spaces += [{"collection": one.name, "space_id": s, **o.model_dump()} for s, o in head.spaces.items()]
        known = {c.live.release: c.live for c in one.snapshot.commits}
        for number, release in known.items():
            kept = release.model_dump(include={"release", "space_id", "dim", "fingerprint", "strategy"})
            model = release.encoder.get("model")
            live = number == head.live.release
            releases.append({"collection": one.name, **kept, "model": model, "live": live})
        for commit in one.snapshot.commits:
            run = runs.setdefault(
                (one.name, commit.run_id),
                {
                    "collection": one.name,
                    "run_id": commit.run_id,
                    "verb": commit.verb,
                    "started_at": commit.started_at,
                    "windows": 0,
                    **dict.fromkeys(commit.counts.model_dump(), 0),
                },
            )
            run["windows"] += 1
            run["finished_at"] = commit.committed_at
            run["version"] = commit.number
            for key, value in commit.counts.model_dump().items():
                run[key] += value
    for name, rows, columns in (
        ("collections", collections, [_COLLECTION, *_VERSION, ("rejects", pa.int64())]),
        ("spaces", spaces, _SPACE),
        ("releases", releases, _RELEASE),
        ("runs", list(runs.values()), _RUN),
    ):
        _table(connection, f"evervec.{name}", rows, pa.schema(columns))


def _bind_functions(connection: Any, bound: Sequence[Bound], embed: Embed, search: Search) -> None:
    dims = {one.head.live.dim for one in bound}
    # one array type only: comparisons with the FLOAT[d] columns then need no cast
    vector = duckdb.array_type("FLOAT", dims.pop()) if len(dims) == 1 else duckdb.list_type("FLOAT")
    connection.create_function(
        "embed",
        lambda c, t: embed(c, t).tolist(),
        ["VARCHAR", "VARCHAR"],
        vector,
        side_effects=False,
    )
    hit = duckdb.struct_type({"item_id": "VARCHAR", "chunk_no": "INTEGER", "score": "DOUBLE"})
    connection.create_function(
        "_search",
        search,
        ["VARCHAR", "VARCHAR", "INTEGER"],
        duckdb.list_type(hit),
        side_effects=False,
    )
    connection.execute(
        "CREATE MACRO search(c, q, k := 10) AS TABLE SELECT unnest(_search(c, q, k), recursive := true)"
    )


def _mask_table(connection: Any, one: Bound) -> str | None:
    """A table of the masked rows: (path, row); None if there are none."""
    masked = one.snapshot.masked
    if not masked:
        return None
    name = f"_lake.masked_{one.name}"
    paths = [str(one.snapshot.root / p) for p, rows in masked.items() for _ in range(len(rows))]
    rows = pa.table({"path": paths, "row": np.concatenate(list(masked.values()))})
    _create(connection, name, rows)
    return name


def _relation(connection: Any, one: Bound, kind: Kind, masks: str | None, space: str | None = None) -> str:
    """SQL for the live rows of one kind of file, to be put after FROM."""
    files = one.snapshot.files(kind, space)
    if not files:
        return _empty_relation(connection, one, kind, space)
    masked = one.snapshot.masked
    whole = [f for f in files if f.path not in masked]
    holed = [f for f in files if f.path in masked]
    evolved = kind == "items" and len({tuple(c.attributes.items()) for c in one.snapshot.commits}) > 1
    parts = []
    if whole:
        parts.append(f"SELECT * FROM {_parquet(one, whole, union_by_name=evolved)}")
    if holed:
        scan = _parquet(one, holed, union_by_name=evolved, filename="_path", file_row_number="true")
        parts.append(
            f"SELECT * EXCLUDE (_path, file_row_number) FROM {scan} f ANTI JOIN {masks} m "
            "ON f._path = m.path AND f.file_row_number = m.row"
        )
    return "(" + " UNION ALL BY NAME ".join(parts) + ")"


def _parquet(
    one: Bound,
    files: Sequence[DataFile],
    *,
    union_by_name: bool,
    filename: str = "",
    file_row_number: str = "",
) -> str:
    paths = ", ".join("'" + str(one.snapshot.root / f.path).replace("'", "''") + "'" for f in files)
    options = f", union_by_name = {str(union_by_name).lower()}"
    options += f", filename = '{filename}'" if filename else ""
    options += f", file_row_number = {file_row_number}" if file_row_number else ""
    return f"read_parquet([{paths}]{options})"


def _empty_relation(connection: Any, one: Bound, kind: Kind, space: str | None) -> str:
    fields = [(n, pa.string()) for n in one.head.attributes]
    schemas = {
        "items": items_schema(pa.struct(fields)),
        "vectors": vectors_schema(one.head.live.dim),
        "rejects": REJECTS,
    }
    name = f"_lake.no_{kind}_{one.name}_{space or ''}"
    _create(connection, name, schemas[kind].empty_table())
    return name


def _table(connection: Any, name: str, rows: list[dict[str, Any]], columns: pa.Schema) -> None:
    _create(connection, name, pa.Table.from_pylist(rows, schema=columns))


def _create(connection: Any, name: str, table: pa.Table) -> None:
    connection.register("_incoming", table)
    connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM _incoming")
    connection.unregister("_incoming")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
