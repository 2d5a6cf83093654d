"""SQL over the files of a snapshot: what is live in them, with position deletes applied.

Used by the SQL surface (`sql.py`, locked down) and, on a connection of its own, by everything inside
storage that joins or sorts more than fits into memory.
"""

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from storage import remote
from storage.commits import Commit
from storage.parquet import DataFile
from storage.places import Place
from storage.remote import Remote
from storage.schemas import REJECTS, Kind, items_schema, vectors_schema
from storage.snapshot import Snapshot

MEMORY = "1GB"
"""What joins and sorts inside storage hold in memory; the rest of a large collection goes to disk."""


@cache
def spill() -> str:
    """A folder of this process alone for what DuckDB puts on disk; removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="evervec-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@dataclass(frozen=True)
class Bound:
    """A collection as the views show it."""

    name: str
    snapshot: Snapshot
    head: Commit


def connect(lake: Place) -> Any:
    """A connection that can read the files of a lake, and may spill to disk; nothing is locked."""
    import duckdb  # 0.1 s, which a run that joins nothing must not pay

    connection = duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"})
    connection.execute("SET autoload_known_extensions = false; SET python_enable_replacements = false")
    connection.execute("SET enable_progress_bar = false")
    connection.execute(f"SET memory_limit = '{MEMORY}'")
    connection.execute(f"SET temp_directory = '{quoted_text(spill())}'")
    connection.execute("CREATE SCHEMA _lake")  # what only the views need, out of SHOW TABLES
    if isinstance(lake, Remote):
        connection.register_filesystem(remote.filesystem(lake))
    return connection


def bind(connection: Any, one: Bound) -> None:
    """Make the views of a collection: C, C_items, C_vectors, C_rejects, C_versions."""
    name = one.name
    flat = _flat(one)
    connection.execute(
        f"CREATE VIEW {quoted(name + '_items')} AS SELECT item_id, modality, uri, text, bytes{_media(one)}, "
        f"lower(hex(content_hash)) AS content_hash{flat}, stale_since, observed_at, run_id "
        f"FROM {relation(connection, one, 'items')} i"
    )
    spaces = " UNION ALL ".join(
        f"SELECT item_id, chunk_no, chunk_start, chunk_end, '{s}' AS space_id, origin, basis_id, residual, "
        f"vector::FLOAT[] AS vector, run_id FROM {relation(connection, one, 'vectors', s)}"
        for s in one.head.spaces
    )
    connection.execute(f"CREATE VIEW {quoted(name + '_vectors')} AS {spaces}")
    connection.execute(f"CREATE VIEW {quoted(name)} AS {chunks(connection, one)}")
    connection.execute(
        f"CREATE VIEW {quoted(name + '_rejects')} AS SELECT item_id, uri, stage, reason, error_type, "
        f"lower(hex(content_hash)) AS content_hash, run_id, rejected_at "
        f"FROM {relation(connection, one, 'rejects')}"
    )


def chunks(connection: Any, one: Bound) -> str:
    """SQL for the chunks with their items: of the live space; without a vector those of items it lacks."""
    space, dim = one.head.live.space_id, one.head.live.dim
    items = relation(connection, one, "items")
    live = relation(connection, one, "vectors", space)
    columns = "item_id, chunk_no, chunk_start, chunk_end, origin, run_id"
    parts = [f"SELECT {columns}, '{space}' AS space_id, vector::FLOAT[{dim}] AS vector FROM {live}"]
    shown = [live]
    for other in one.head.spaces:
        if other == space or not one.head.spaces[other].rows:
            continue
        theirs = relation(connection, one, "vectors", other)
        missing = " ".join(f"ANTI JOIN {s} s{n} USING (item_id)" for n, s in enumerate(shown))
        parts.append(
            f"SELECT item_id, chunk_no, chunk_start, chunk_end, NULL AS origin, run_id, NULL AS space_id, "
            f"NULL::FLOAT[{dim}] AS vector FROM {theirs} {missing}"
        )
        shown.append(theirs)
    seconds = ""
    if one.head.modality == "audio":
        seconds = ", v.chunk_start / 1000 AS start_seconds, v.chunk_end / 1000 AS end_seconds"
    return (
        f"SELECT v.item_id, v.chunk_no, v.chunk_start, v.chunk_end{seconds}, "
        "substring(i.text, v.chunk_start + 1, v.chunk_end - v.chunk_start) AS text, i.uri, i.modality"
        f"{_media(one)}{_flat(one)}, v.space_id, v.origin, v.vector, i.stale_since, i.observed_at, v.run_id "
        f"FROM ({' UNION ALL '.join(parts)}) v JOIN {items} i ON i.item_id = v.item_id"
    )


def index_rows(connection: Any, one: Bound, space: str, only: str | None = None) -> str:
    """SQL for the rows that the index of a space must hold; of the items in the table `only`, if given."""
    dim = _dim(one, space)
    flat = "".join(f", i.attributes.{quoted(a)} AS {quoted(a)}" for a in one.head.attributes)
    chosen = f" SEMI JOIN {only} o USING (item_id)" if only else ""
    return (
        "SELECT v.item_id, v.chunk_no, v.chunk_start, v.chunk_end, v.origin, i.uri, "
        f"substring(i.text, v.chunk_start + 1, v.chunk_end - v.chunk_start) AS text{flat}, "
        f"v.vector::FLOAT[{dim}] AS vector "
        f"FROM (SELECT * FROM {relation(connection, one, 'vectors', space)}{chosen}) v "
        f"JOIN {relation(connection, one, 'items')} i ON i.item_id = v.item_id"
    )


def _dim(one: Bound, space: str | None) -> int:
    """Components of the vectors of a space; of the live one, if no release has it."""
    return next((r.dim for r in one.head.releases if r.space_id == space), one.head.live.dim)


def relation(connection: Any, one: Bound, kind: Kind, space: str | None = None) -> str:
    """SQL for the live rows of one kind of file, to be put after FROM."""
    files = one.snapshot.live_files(kind, space)
    if not files:
        return _empty(connection, one, kind, space)
    masked = one.snapshot.masked
    whole = [f.file for f in files if f.file.path not in masked]
    holed = [f.file for f in files if f.file.path in masked]
    evolved = len({f.attributes for f in files}) > 1
    parts = []
    if whole:
        parts.append(f"SELECT * FROM {_parquet(one, whole, union_by_name=evolved)}")
    if holed:
        masks = _masks(connection, one)
        scan = _parquet(one, holed, union_by_name=evolved, filename="_path", file_row_number="true")
        parts.append(
            f"SELECT * EXCLUDE (_path, file_row_number) FROM {scan} f ANTI JOIN {masks} m "
            "ON f._path = m.path AND f.file_row_number = m.row"
        )
    return "(" + " UNION ALL BY NAME ".join(parts) + ")"


def create(connection: Any, name: str, table: pa.Table) -> None:
    """Make a DuckDB table of an Arrow one."""
    connection.register("_incoming", table)
    connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM _incoming")
    connection.unregister("_incoming")


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def quoted_text(text: str) -> str:
    """A text as it stands between the quotes of a SQL literal."""
    return text.replace("'", "''")


def _media(one: Bound) -> str:
    return "" if one.head.modality == "text" else ", i.media"


def _flat(one: Bound) -> str:
    return "".join(f", i.attributes.{quoted(a)} AS {quoted(a)}" for a in one.head.attributes)


def _masks(connection: Any, one: Bound) -> str:
    """A table of the masked rows: (path, row)."""
    name = f"_lake.{quoted(f'masked_{one.name}')}"
    there = connection.execute(
        "SELECT 1 FROM duckdb_tables() WHERE schema_name = '_lake' AND table_name = ?", [f"masked_{one.name}"]
    )
    if not there.fetchall():
        masked = one.snapshot.masked
        paths = [str(one.snapshot.root / p) for p, rows in masked.items() for _ in range(len(rows))]
        rows = pa.table({"path": paths, "row": np.concatenate(list(masked.values()))})
        create(connection, name, rows)
    return name


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


def _empty(connection: Any, one: Bound, kind: Kind, space: str | None) -> str:
    fields = [(n, pa.string()) for n in one.head.attributes]
    schemas = {
        "items": items_schema(pa.struct(fields), one.head.modality),
        "vectors": vectors_schema(_dim(one, space)),
        "rejects": REJECTS,
    }
    name = f"_lake.{quoted(f'no_{kind}_{one.name}_{space or str()}')}"
    create(connection, name, schemas[kind].empty_table())
    return name
