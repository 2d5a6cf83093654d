"""What the rows of a version must satisfy: counts, keys, vectors, and an index that holds just these.

All of it by DuckDB and batch by batch, so that memory does not grow with the collection.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import arrays, parquet, views
from storage.commits import Log, Origins, Release
from storage.errors import Damaged
from storage.findings import Finding, because, drop, mend, notice, restore, some
from storage.fold import LiveFile
from storage.schemas import Kind
from storage.vectors import Index
from storage.views import Bound

UNIT = 1e-3
"""How far from 1 the norm of a vector may be where those of its space have norm 1."""

_FEW = 10
"""Vectors of another norm are odd ones only if at most one in so many is."""

_COMPARED = ("vector", "chunk_start", "chunk_end", "origin", "uri", "text")


@dataclass(frozen=True)
class Wrong:
    """Rows that cannot stay: `path` is their file, `rows` their positions in it."""

    space_id: str
    path: str
    rows: np.ndarray


@dataclass
class Rows:
    """A version as its whole files have it; `lacking` says of which (kind, space) a file is damaged.

    Checks that need what such a file held are left out: they would only repeat that it is missing.
    """

    one: Bound
    lacking: frozenset[tuple[Kind, str]] = frozenset()
    wrong: list[Wrong] = field(default_factory=list)
    unusable: set[str] = field(default_factory=set)
    _live: dict[tuple[Kind, str], str] = field(default_factory=dict)

    def findings(self, connection: Any) -> Iterator[Finding]:
        """Counts, keys and vectors; rows that cannot stay are put into `wrong`, files into `unusable`."""
        yield from self._counts(connection)
        yield from self._keys(connection)
        for release in _by_space(self.one):
            yield from self._vectors(release)

    @property
    def _name(self) -> str:
        return self.one.name

    def _relation(self, connection: Any, kind: Kind, space: str = "") -> str:
        """SQL for live rows; made once, for it takes as long as a small query."""
        if (kind, space) not in self._live:
            self._live[kind, space] = views.relation(connection, self.one, kind, space or None)
        return self._live[kind, space]

    def _is_whole(self, kind: Kind, space: str = "") -> bool:
        return (kind, space) not in self.lacking

    def _counts(self, connection: Any) -> Iterator[Finding]:
        head = self.one.head
        told: list[tuple[str, object, object]] = []
        kinds: tuple[tuple[Kind, int], ...] = (("items", head.total_items), ("rejects", head.total_rejects))
        for kind, total in kinds:
            if self._is_whole(kind):
                found = _rows(connection, f"SELECT count(*) FROM {self._relation(connection, kind)}")
                told.append((kind, total, found[0][0]))
        for space, origins in head.spaces.items():
            if self._is_whole("vectors", space):
                live = self._relation(connection, "vectors", space)
                found = _rows(connection, f"SELECT origin, count(*) FROM {live} GROUP BY origin")
                told.append((f"vectors of {space}", _shown(origins), _shown(Origins(**dict(found)))))
        path = Log(self.one.snapshot.root).path(head.number)
        for what, says, holds in told:
            if says != holds:
                yield because(path, f"says {says} {what}, the files hold {holds}", drop(self._name))

    def _keys(self, connection: Any) -> Iterator[Finding]:
        items = self._relation(connection, "items")
        twice = f"SELECT item_id FROM {items} GROUP BY item_id HAVING count(*) > 1"
        yield from self._named(connection, twice, "items", "", "has items that are live twice")
        for release in _by_space(self.one):
            space = release.space_id
            live = self._relation(connection, "vectors", space)
            twice = f"SELECT item_id FROM {live} GROUP BY item_id, chunk_no HAVING count(*) > 1"
            yield from self._named(connection, twice, "vectors", space, "has chunks that are live twice")
            if self._is_whole("vectors", space) and space in self.one.head.indexes:
                holes = (
                    f"SELECT item_id FROM {live} GROUP BY item_id "
                    "HAVING min(chunk_no) <> 0 OR max(chunk_no) + 1 <> count(DISTINCT chunk_no)"
                )
                yield from self._named(connection, holes, "vectors", space, "lacks chunks of items")
            if self._is_whole("items"):
                orphans = f"SELECT item_id FROM {live} ANTI JOIN {items} i USING (item_id)"
                yield from self._named(
                    connection, orphans, "vectors", space, "has vectors of items that are not there"
                )
        live_space = self.one.head.live.space_id
        if self._is_whole("vectors", live_space):
            live = self._relation(connection, "vectors", live_space)
            bare = _rows(connection, f"SELECT item_id FROM {items} ANTI JOIN {live} v USING (item_id)", 4)
            if bare[0][1]:
                keys = some([row[0] for row in bare], bare[0][1])
                what = f"has items without a vector in {live_space}, which searches do not find: {keys}"
                encode = f"evervec promote {self._name} {self.one.head.live.release} --complete"
                bring = f"evervec import {self._name} FILE"
                yield notice(self.one.snapshot.root, what, encode if self.one.head.live.encoder else bring)

    def _named(self, connection: Any, query: str, kind: Kind, space: str, what: str) -> Iterator[Finding]:
        """A finding of the items that a query gives, at the newest file that holds any of them."""
        found = _rows(connection, f"SELECT DISTINCT item_id FROM ({query})", 4)
        if not found[0][1]:
            return
        keys, snapshot = [row[0] for row in found], self.one.snapshot
        places = [p for p, _ in snapshot.positions_of(kind, pa.array(keys, pa.string()), space or None)]
        told = f"{what}: {some(keys, found[0][1])}"
        yield because(snapshot.root / places[-1], told, drop(self._name))

    def _vectors(self, release: Release) -> Iterator[Finding]:
        """Dim, finite, norm above 0; and norm 1 where all but a few encoded ones have it."""
        unlike: list[tuple[LiveFile, np.ndarray, list[object]]] = []
        encoded = 0
        for live in self.one.snapshot.live_files("vectors", release.space_id):
            path = self.one.snapshot.root / live.file.path
            try:
                dim = parquet.schema(self.one.snapshot.root, live.file).field("vector").type.list_size
                if dim != release.dim:
                    what = f"has vectors of {dim} dims, {release.space_id} has {release.dim}"
                    self.unusable.add(live.file.path)
                    yield because(path, what, restore(self._name))
                    continue
                unusable, odd, count = self._norms(live, dim)
            except Damaged as error:
                self.unusable.add(live.file.path)
                yield because(path, error.found, restore(self._name))
                continue
            encoded += count
            if len(unusable[0]):
                self.wrong.append(Wrong(release.space_id, live.file.path, unusable[0]))
                what = f"has vectors that are not finite or all zero: {some(unusable[1], len(unusable[0]))}"
                yield because(path, what, drop(self._name))
            if len(odd[0]):
                unlike.append((live, *odd))
        if 0 < sum(len(rows) for _, rows, _ in unlike) * _FEW <= encoded:
            for live, rows, keys in unlike:
                self.wrong.append(Wrong(release.space_id, live.file.path, rows))
                what = f"has vectors whose norm is not 1, as those of all others is: {some(keys, len(rows))}"
                yield because(self.one.snapshot.root / live.file.path, what, drop(self._name))

    def _norms(
        self, live: LiveFile, dim: int
    ) -> tuple[tuple[np.ndarray, list[object]], tuple[np.ndarray, list[object]], int]:
        """Positions and keys of unusable vectors; of encoded ones without norm 1; how many are encoded."""
        root, masked = self.one.snapshot.root, self.one.snapshot.masked.get(live.file.path)
        bad: list[np.ndarray] = [np.empty(0, np.int64)]
        odd: list[np.ndarray] = [np.empty(0, np.int64)]
        bad_keys: list[object] = []
        odd_keys: list[object] = []
        at = encoded = 0
        for batch in parquet.batches(root, live.file, ["item_id", "chunk_no", "origin", "vector"]):
            matrix = arrays.to_numpy(batch["vector"].combine_chunks().flatten()).reshape(-1, dim)
            with np.errstate(invalid="ignore"):
                norms = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
            alive = np.ones(batch.num_rows, dtype=bool)
            if masked is not None:
                here = masked[(masked >= at) & (masked < at + batch.num_rows)] - at
                alive[here] = False
            native = alive & arrays.to_numpy(pc.equal(batch["origin"], "encoded").combine_chunks())
            unusable = alive & ~(np.isfinite(norms) & (norms > 0))
            unlike = native & ~unusable & (np.abs(norms - 1) > UNIT)
            encoded += int(native.sum())
            for hit, rows, keys in ((unusable, bad, bad_keys), (unlike, odd, odd_keys)):
                rows.append(np.flatnonzero(hit) + at)
                for row in np.flatnonzero(hit)[: max(0, 4 - len(keys))].tolist():
                    keys.append((batch["item_id"][row].as_py(), batch["chunk_no"][row].as_py()))
            at += batch.num_rows
        return (np.concatenate(bad), bad_keys), (np.concatenate(odd), odd_keys), encoded


def index(
    connection: Any, table: Index, one: Bound, space: str, *, deep: bool, whole: bool
) -> Iterator[Finding]:
    """Whether the index of a space holds the chunks of the log, each once; with `deep` also their content.

    Not `whole`: a file with items or vectors is damaged, so it is only opened and counted.
    """
    named = one.head.indexes[space]
    name = one.name
    try:
        reading = table.open_at(named)
        rows = reading.table.count_rows()
        wrong = [] if rows == named.rows else [f"has {rows} rows, the log says {named.rows}"]
        if whole:
            dim = next(r.dim for r in one.head.releases if r.space_id == space)
            attributes = [a for a in one.head.attributes if a in reading.schema.names]
            compared = (*_COMPARED, *attributes) if deep else ()
            load(connection, reading.table, compared, dim)
            due = views.index_rows(connection, one, space)
            wrong += _differences(connection, due, compared, dim)
    except Damaged as error:
        yield because(table.directory, error.found, mend(name))
        return
    except (duckdb.InvalidInputException, pa.ArrowException, RuntimeError, OSError, ValueError) as error:
        what = f"version {named.version} of the index cannot be read ({str(error).splitlines()[0]})"
        yield because(table.directory, what, mend(name))
        return
    if wrong:
        yield because(table.directory, "; ".join(wrong), mend(name))


def load(connection: Any, table: Any, compared: Sequence[str], dim: int) -> None:
    """Make `_lake.held` of an opened index: its keys, and a hash `h` of the columns `compared`."""
    connection.register("_incoming", table.search().select(["item_id", "chunk_no", *compared]).to_batches())
    connection.execute(
        f"CREATE OR REPLACE TABLE _lake.held AS SELECT item_id, chunk_no, {hashed(compared, dim)} AS h "
        "FROM _incoming"
    )
    connection.unregister("_incoming")


def hashed(columns: Sequence[str], dim: int) -> str:
    """SQL for a hash of some columns of an index row, the same wherever the row comes from.

    As text, because Parquet has no seconds and gives back what was a `timestamp[s]` as milliseconds.
    """
    vector = f"vector::FLOAT[{dim}]"
    typed = (vector if name == "vector" else f"{views.quoted(name)}::VARCHAR" for name in columns)
    return f"hash(ROW({', '.join(typed)}))" if columns else "0"


def _differences(connection: Any, rows: str, compared: Sequence[str], dim: int) -> Iterator[str]:
    """What the keys in `_lake.held` lack or have more than the rows of the log, and what differs."""
    connection.execute(
        f"CREATE OR REPLACE TABLE _lake.due AS SELECT item_id, chunk_no, {hashed(compared, dim)} AS h "
        f"FROM ({rows})"
    )
    key = "USING (item_id, chunk_no)"
    for what, query in (
        ("lacks chunks of the log", f"FROM _lake.due ANTI JOIN _lake.held h {key}"),
        ("has chunks that the log does not have", f"FROM _lake.held ANTI JOIN _lake.due d {key}"),
        ("has chunks twice", "FROM _lake.held GROUP BY item_id, chunk_no HAVING count(*) > 1"),
        ("has chunks with another content", f"FROM _lake.due d JOIN _lake.held h {key} WHERE d.h <> h.h"),
    ):
        found = _rows(connection, f"SELECT item_id, chunk_no {query}", 4)
        if found[0][1]:
            yield f"{what}: {some([(row[0], row[2]) for row in found], found[0][1])}"


def _rows(connection: Any, query: str, limit: int | None = None) -> list[tuple[Any, ...]]:
    """The rows of a query; with `limit` the first few, each with the number of all after its first column."""
    if limit is None:
        fetched: list[tuple[Any, ...]] = connection.execute(query).fetchall()
        return fetched
    found = connection.execute(f"WITH q AS ({query}) SELECT * FROM q ORDER BY ALL LIMIT {limit}").fetchall()
    total = connection.execute(f"SELECT count(*) FROM ({query})").fetchall()[0][0] if found else 0
    return [(row[0], total, *row[1:]) for row in found] or [(None, 0)]


def _by_space(one: Bound) -> Iterable[Release]:
    """A release for each space that can hold vectors."""
    return {r.space_id: r for r in one.head.releases if not r.retired}.values()


def _shown(origins: Origins) -> str:
    return ", ".join(f"{n} {name}" for name, n in origins.model_dump().items() if n) or "0"
