"""DuckDB over the lake: one view per table of a collection, two functions, and a locked door.

Nothing of the file layout shows: views bind the snapshot's own file list with its position deletes.
The connection reads files below the lake and nothing else, and runs one SELECT or EXPLAIN at a time.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import checkpoints, views
from storage.commits import BasisFile, Release
from storage.errors import QueryRefused
from storage.places import Place
from storage.sandbox import lock_down, require_read_only, without_trace
from storage.schemas import TIMESTAMP, VIEW_SUFFIXES
from storage.snapshot import Snapshot
from storage.views import Bound

_COLLECTION = ("collection", pa.string())
_UNSHOWN = ("started_at", "written", "removed")
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
    ("retired", pa.bool_()),
    ("since_version", pa.int64()),
    ("cascade", pa.int64()),
    ("through", pa.int64()),
    ("forced", pa.bool_()),
    ("upgraded_from", pa.int64()),
    ("report", pa.string()),
    ("basis_id", pa.string()),
]
_BASIS = [
    _COLLECTION,
    ("release", pa.int64()),
    *((name, pa.string()) for name in ("basis_id", "family", "direction", "source", "target")),
    ("pairs", pa.int64()),
    ("metrics", pa.string()),
    ("bytes", pa.int64()),
    ("since_version", pa.int64()),
]
_RUN = [
    _COLLECTION,
    ("run_id", pa.string()),
    ("verb", pa.string()),
    ("started_at", TIMESTAMP),
    ("finished_at", TIMESTAMP),
    ("windows", pa.int64()),
    ("version", pa.int64()),
    *((name, pa.int64()) for name in (*checkpoints.COUNTED, "chunks")),
]

Embed = Callable[[str, str], np.ndarray]
Search = Callable[[str, str, int], list[dict[str, Any]]]


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


def connect(lake: Place, snapshots: dict[str, Snapshot], embed: Embed, search: Search) -> Connection:
    """A connection with the views and functions bound to these snapshots, locked down.

    `embed(collection, text)` gives a query vector, `search(collection, text, k)` rows of `item_id`,
    `chunk_no`, `score`. Close it when done.
    """
    bound = [Bound(n, s, s.head) for n, s in snapshots.items() if s.head is not None]
    connection = views.connect(lake)
    for one in bound:
        views.bind(connection, one)
    _bind_history(connection, bound)
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


def _bind_history(connection: Any, bound: Sequence[Bound]) -> None:
    """C_versions of each collection, and the views over all: collections, spaces, releases, bases, runs."""
    connection.execute("CREATE SCHEMA evervec")
    collections, runs = [], []
    spaces: list[dict[str, Any]] = []
    releases: list[dict[str, Any]] = []
    bases: list[dict[str, Any]] = []
    for one in bound:
        history = one.snapshot.history()
        shown = history.drop_columns(list(_UNSHOWN))
        views.create(connection, views.quoted(one.name + "_versions"), shown)
        name = pa.array([one.name] * history.num_rows)
        collections.append(shown.slice(shown.num_rows - 1).add_column(0, "collection", name.slice(0, 1)))
        runs.append(_runs(history.add_column(0, "collection", name)))
        spaces += [
            {"collection": one.name, "space_id": s, **o.model_dump()} for s, o in one.head.spaces.items()
        ]
        releases += [_release(one, release) for release in one.head.releases]
        bases += [_basis(one, release, release.basis) for release in one.head.releases if release.basis]
    empty = pa.schema([_COLLECTION, *list(checkpoints.HISTORY)]).empty_table()
    none = empty.drop_columns(list(_UNSHOWN))
    for table, rows in (
        ("collections", pa.concat_tables([none, *collections])),
        ("runs", pa.concat_tables([pa.schema(_RUN).empty_table(), *runs])),
        ("spaces", pa.Table.from_pylist(spaces, schema=pa.schema(_SPACE))),
        ("releases", pa.Table.from_pylist(releases, schema=pa.schema(_RELEASE))),
        ("bases", pa.Table.from_pylist(bases, schema=pa.schema(_BASIS))),
    ):
        views.create(connection, f"evervec.{table}", rows)


def _release(one: Bound, release: Release) -> dict[str, Any]:
    """A line of `evervec.releases`."""
    kept = release.model_dump(include={name for name, _ in _RELEASE})
    own = {"model": release.encoder.get("model"), "since_version": release.version}
    own["basis_id"] = release.basis.basis_id if release.basis else None
    return {"collection": one.name, **kept, **own, "live": release.release == one.head.live_release}


def _basis(one: Bound, release: Release, basis: BasisFile) -> dict[str, Any]:
    """A line of `evervec.bases`; the metrics as a JSON object."""
    own = {"metrics": json.dumps(basis.metrics), "bytes": basis.file.bytes, "since_version": release.version}
    kept = basis.model_dump(exclude={"file", "metrics"})
    return {"collection": one.name, "release": release.release, **kept, **own}


def _runs(history: pa.Table) -> pa.Table:
    """One line a run: its windows together."""
    summed = [(name, "sum") for name in (*checkpoints.COUNTED, "written")]
    ends = [("started_at", "min"), ("committed_at", "max"), ("version", "max"), ("version", "count")]
    grouped = history.group_by(["collection", "run_id", "verb"]).aggregate([*summed, *ends])
    named = {
        "started_at_min": "started_at",
        "committed_at_max": "finished_at",
        "version_count": "windows",
        "version_max": "version",
        "written_sum": "chunks",
        **{f"{name}_sum": name for name in checkpoints.COUNTED},
    }
    runs = grouped.rename_columns([named.get(n, n) for n in grouped.column_names])
    ordered = runs.take(pc.sort_indices(runs, [("version", "ascending")]))
    return ordered.select(pa.schema(_RUN).names).cast(pa.schema(_RUN))


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
