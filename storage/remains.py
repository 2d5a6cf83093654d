"""What stays of a version without its damaged files: which rows of the others are still of use.

An item stays if its row and all its vectors in the live space do; a vector if its item does. All is
worked out by DuckDB from keys, so that memory does not grow with the collection.
"""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from storage import checks, views
from storage.checks import Wrong
from storage.commits import Commit, Origins
from storage.errors import Damaged
from storage.fold import Fold, LiveFile
from storage.ledger import without
from storage.places import Place
from storage.schemas import DELETES, Kind
from storage.snapshot import Snapshot
from storage.vectors import Index

_TABLES = """
CREATE TABLE _lake.items (path VARCHAR, since BIGINT, pos BIGINT, item_id VARCHAR, seen TIMESTAMPTZ,
    fresh BOOLEAN, length BIGINT);
CREATE TABLE _lake.vectors (path VARCHAR, since BIGINT, pos BIGINT, space VARCHAR, item_id VARCHAR,
    chunk_no INTEGER, chunk_end BIGINT, origin VARCHAR, h UBIGINT);
CREATE TABLE _lake.rejects (path VARCHAR, since BIGINT, pos BIGINT, key VARCHAR, item_id VARCHAR,
    seen TIMESTAMPTZ);
CREATE TABLE _lake.keys (space VARCHAR, item_id VARCHAR, chunk_no INTEGER, h UBIGINT);
CREATE TABLE _lake.incomplete (space VARCHAR, item_id VARCHAR);
"""
_COMPARED = ("vector", "chunk_start", "chunk_end", "origin")


@dataclass(frozen=True)
class Remains:
    """What a version without the damage would hold.

    `masks` are rows, of files that stay, which no file that stays masks already.
    """

    masks: pa.Table
    items: int
    rejects: int
    spaces: dict[str, Origins]


def remains(lake: Place, before: Snapshot, bad: set[str], wrong: Iterable[Wrong], torn: set[str]) -> Remains:
    """What stays of `before` without the files `bad` and the rows `wrong`; `torn` indexes are not asked.

    Which rows are masked is known from the `deletes` files that stay, or from a later checkpoint. Else the
    live keys are those of the indexes, which hold them a second time, and of several rows with one key
    the newest is live. Raises `Damaged` if an index that is needed for that is not to be had either.
    """
    if before.head is None:
        raise ValueError(f"{before.root} is empty")
    with closing(views.connect(lake)) as connection:
        weighed = _Weighed(lake, before, before.head, bad, torn, connection)
        return weighed.remains(wrong)


class _Weighed:
    """The tables of a connection: rows of files that stay, and by and by which of them are live."""

    def __init__(
        self, lake: Place, before: Snapshot, head: Commit, bad: set[str], torn: set[str], connection: Any
    ) -> None:
        self._lake, self._before, self._head = lake, before, head
        self._bad, self._torn, self._connection = bad, torn, connection
        self._good = [f for f in before.state.files.values() if f.file.path not in bad]
        self._lost = [f for f in before.state.files.values() if f.file.path in bad]

    def remains(self, wrong: Iterable[Wrong]) -> Remains:
        run = self._connection.execute
        run(_TABLES)
        known = without(self._before.root, self._before.state, self._bad)
        told = Snapshot(self._before.root, Fold(self._head, {f.file.path: f for f in self._good}), None, ())
        self._positions("masked", told.masked)
        self._positions("dead", (known or told).masked)
        self._positions("wrong", {w.path: w.rows for w in wrong})
        self._read_rows()
        self._read_keys(needed=known is None)
        self._live_rows(sure=known is not None)
        self._incomplete()
        masks = self._connection.sql(
            "SELECT path, pos AS row FROM (SELECT path, pos FROM _lake.items UNION ALL "
            "SELECT path, pos FROM _lake.vectors UNION ALL SELECT path, pos FROM _lake.rejects) "
            "ANTI JOIN _lake.masked m USING (path, pos) "
            "ANTI JOIN (SELECT path, pos FROM live_items UNION ALL SELECT path, pos FROM live_vectors "
            "UNION ALL SELECT path, pos FROM live_rejects) l "
            "USING (path, pos) ORDER BY ALL"
        ).to_arrow_table()
        spaces = {space: Origins() for space in self._head.spaces}
        counted = run("SELECT space, origin, count(*) FROM live_vectors GROUP BY ALL").fetchall()
        for space, origin, count in counted:
            spaces[space] = spaces[space].model_copy(update={origin: count})
        return Remains(masks.cast(DELETES), self._count("live_items"), self._count("live_rejects"), spaces)

    def _count(self, table: str) -> int:
        return int(self._connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])

    def _positions(self, name: str, rows: dict[str, np.ndarray]) -> None:
        paths = [path for path, positions in rows.items() for _ in range(len(positions))]
        flat = np.concatenate([np.empty(0, np.int64), *rows.values()])
        table = pa.table({"path": pa.array(paths, pa.string()), "pos": pa.array(flat, pa.int64())})
        views.create(self._connection, f"_lake.{name}", table)

    def _read_rows(self) -> None:
        places = [(str(self._before.root / f.file.path), f.file.path, f.since) for f in self._good]
        columns = {
            "place": pa.array([p[0] for p in places], pa.string()),
            "path": pa.array([p[1] for p in places], pa.string()),
            "since": pa.array([p[2] for p in places], pa.int64()),
        }
        views.create(self._connection, "_lake.files", pa.table(columns))
        blank = "E' \\t\\n\\r'"
        shown = f"item_id, observed_at, stale_since IS NULL, length(rtrim(text, {blank}))"
        self._insert("items", shown, [f for f in self._good if f.kind == "items"])
        self._insert(
            "rejects",
            "coalesce(item_id, uri), item_id, rejected_at",
            [f for f in self._good if f.kind == "rejects"],
        )
        for space in self._head.spaces:
            files = [f for f in self._good if f.kind == "vectors" and f.space_id == space]
            h = checks.hashed(_COMPARED, self._dim(space))
            self._insert("vectors", f"'{space}', item_id, chunk_no, chunk_end, origin, {h}", files)

    def _insert(self, kind: Kind, columns: str, files: list[LiveFile]) -> None:
        if not files:
            return
        listed = ", ".join("'" + str(self._before.root / f.file.path).replace("'", "''") + "'" for f in files)
        self._connection.execute(
            f"INSERT INTO _lake.{kind} SELECT f.path, f.since, file_row_number, {columns} FROM read_parquet("
            f"[{listed}], union_by_name = true, filename = '_place', file_row_number = true) r "
            "JOIN _lake.files f ON r._place = f.place"
        )

    def _dim(self, space: str) -> int:
        return next(r.dim for r in self._head.releases if r.space_id == space)

    def _read_keys(self, *, needed: bool) -> None:
        """The keys of the indexes, of those spaces where they are asked for."""
        for space, named in self._head.indexes.items():
            if space in self._torn:
                if needed:
                    raise Damaged(
                        self._before.root / next(f.file.path for f in self._lost if f.kind == "deletes"),
                        f"says which rows are live, and the index of {space}, which could say it too, is "
                        "damaged as well",
                        "restore one of them from a backup",
                    )
                continue
            if needed or self._has_lost(space):
                table = Index(self._lake, named.table).open_at(named).table
                checks.load(self._connection, table, _COMPARED if needed else (), self._dim(space))
                self._connection.execute(f"INSERT INTO _lake.keys SELECT '{space}', * FROM _lake.held")

    def _has_lost(self, space: str) -> bool:
        return any(f.kind == "vectors" and f.space_id == space for f in self._lost)

    def _live_rows(self, *, sure: bool) -> None:
        """Rows that are not masked; if that is not `sure`, those with the keys of the indexes, the newest."""
        run, alive = self._connection.execute, "ANTI JOIN _lake.dead d USING (path, pos)"
        among = "" if sure else "SEMI JOIN _lake.keys k USING (item_id)"
        run(
            f"CREATE TABLE live_items AS SELECT * FROM _lake.items {alive} {among} QUALIFY row_number() "
            "OVER (PARTITION BY item_id ORDER BY seen DESC, since DESC, pos DESC) = 1"
        )
        same = "0" if sure else "CAST(v.h = k.h AS INTEGER)"
        keyed = "" if sure else "JOIN _lake.keys k USING (space, item_id, chunk_no)"
        run(
            f"CREATE TABLE live_vectors AS SELECT v.* FROM (SELECT * FROM _lake.vectors {alive} "
            "ANTI JOIN _lake.wrong w USING (path, pos) SEMI JOIN live_items i USING (item_id)) v "
            f"{keyed} QUALIFY row_number() OVER (PARTITION BY v.space, v.item_id, v.chunk_no "
            f"ORDER BY {same} DESC, v.since DESC, v.pos DESC) = 1"
        )
        newest = "QUALIFY row_number() OVER (PARTITION BY key ORDER BY seen DESC, since DESC, pos DESC) = 1"
        run(f"CREATE TABLE live_rejects AS SELECT * FROM _lake.rejects {alive} {'' if sure else newest}")
        if not sure:  # an item that landed has no reject any more
            run("DELETE FROM live_rejects WHERE item_id IN (SELECT item_id FROM live_items WHERE fresh)")

    def _incomplete(self) -> None:
        """Take out items that lack vectors of the live space, and in other spaces what is left of them."""
        run = self._connection.execute
        run(
            "INSERT INTO _lake.incomplete SELECT space, item_id FROM live_vectors GROUP BY ALL "
            "HAVING min(chunk_no) <> 0 OR max(chunk_no) + 1 <> count(*)"
        )
        run(
            "INSERT INTO _lake.incomplete SELECT space, item_id FROM _lake.vectors "
            "SEMI JOIN _lake.wrong w USING (path, pos)"
        )
        for space in filter(self._has_lost, self._head.spaces):
            run(f"INSERT INTO _lake.incomplete SELECT '{space}', item_id FROM ({self._short(space)})")
        live = self._head.live
        if live.encoder:  # items whose vectors an ingest cannot make again are worth more than nothing
            run(
                "DELETE FROM live_items WHERE item_id IN (SELECT item_id FROM _lake.incomplete "
                f"WHERE space = '{live.space_id}')"
            )
        run(
            "DELETE FROM live_vectors WHERE (space, item_id) IN "
            "(SELECT (space, item_id) FROM _lake.incomplete)"
        )
        run("DELETE FROM live_vectors WHERE item_id NOT IN (SELECT item_id FROM live_items)")

    def _short(self, space: str) -> str:
        """SQL for the items that lost vectors of a space with a file."""
        held = f"(SELECT * FROM live_vectors WHERE space = '{space}')"
        if space in self._head.indexes and space not in self._torn:
            keys = f"(SELECT * FROM _lake.keys WHERE space = '{space}')"
            return f"SELECT item_id FROM {keys} ANTI JOIN {held} v USING (item_id, chunk_no)"
        # nobody knows how many chunks there were: the last one must reach the end of the text
        return (
            "SELECT item_id FROM live_items LEFT JOIN "
            f"(SELECT item_id, max(chunk_end) AS reached FROM {held} GROUP BY item_id) USING (item_id) "
            "WHERE reached IS NULL OR reached < length"
        )
