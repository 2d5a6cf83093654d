"""The public Python API: search and query a project's lake.

from flows.settings import load_project
from tasks import reader

with reader.open(load_project(".")) as lake:
    found = lake.search("docs", "how do I parse JSON?")
    table = lake.sql("SELECT count(*) FROM docs")
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from storage import exact, indexing, releases
from storage.commits import Modality, Release
from storage.errors import Damaged, QueryRefused
from storage.snapshot import Snapshot
from storage.vectors import Index, Reading
from tasks.cascade import Cascade
from tasks.errors import NothingThere
from tasks.paths import QueryPath, path_of
from tasks.project import Project
from tasks.questions import Asker, Query
from tasks.ranking import Leg, Ranking, joined
from tasks.releases import encoder_of

if TYPE_CHECKING:
    from storage.filters import Filter
    from storage.sql import Connection

logger = logging.getLogger(__name__)

Mode = Literal["vector", "text", "hybrid"]
Origin = Literal["encoded", "mapped"]

_OF_ORIGIN: dict[Origin | None, str | None] = {
    None: None,
    "encoded": "origin <> 'mapped'",  # what was imported is as an encoder made it, too
    "mapped": "origin = 'mapped'",
}

_CHUNKS_PER_ITEM = 3
"""Chunks asked for per item wanted where items have several; more if these are of too few items."""

_FUSED = 60
"""k of reciprocal rank fusion, 1 / (k + rank), as Cormack, Clarke and Büttcher (2009) propose it."""

_FUSED_DEPTH = 5
"""Items per item wanted that each ranking gives to a fusion."""


@dataclass(frozen=True)
class Hit:
    """One item of a result by its best chunk.

    `text` is None for images and audio; `chunk_start` and `chunk_end` are code points of a text,
    milliseconds of audio.
    `score` is the cosine to the query in mode `vector` (an estimated relevance where the release has
    calibrators), BM25 in mode `text`, and the sum of reciprocal ranks in mode `hybrid`; scores of different
    modes, or releases, cannot be compared.
    """

    rank: int
    item_id: str
    chunk_no: int
    score: float
    origin: str
    uri: str
    text: str | None
    chunk_start: int
    chunk_end: int


@dataclass(frozen=True)
class Found:
    """The hits of one query, best first, with what they are, and the release and version that gave them."""

    release: int
    space_id: str
    strategy: str
    version: int
    hits: tuple[Hit, ...]
    milliseconds: float
    modality: Modality = "text"


@dataclass(frozen=True)
class Pinned:
    """A release to read, at the head or frozen at a version."""

    release: int
    version: int | None = None


@contextmanager
def open(project: Project) -> Iterator["Reader"]:
    """A reader of the project's lake; each call sees the newest version, whole."""
    reader = Reader(project)
    try:
        yield reader
    finally:
        reader.close()


@dataclass(frozen=True)
class _View:
    """What one search reads: a snapshot, and the release of it that is asked for."""

    snapshot: Snapshot
    release: Release

    @property
    def collection(self) -> str:
        return self.snapshot.root.name

    @property
    def modality(self) -> Modality:
        return self.snapshot.head.modality if self.snapshot.head else "text"


@dataclass(frozen=True)
class _Asked:
    """A query on its path: `native` as encoded, `recall` in the space of the rows; float32 (dim,) each."""

    path: QueryPath
    cascade: Cascade
    native: np.ndarray
    recall: np.ndarray


class Reader:
    """Reads one lake. Encoders and tables are opened at first use and kept."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._verified = project.verified()
        self._snapshots: dict[str, Snapshot] = {}
        self._paths: dict[tuple[str, int], tuple[QueryPath, Asker, Cascade]] = {}
        self._indexes: dict[tuple[str, str], tuple[int, Reading | None]] = {}
        self._connections: list[Connection] = []
        self.bound: dict[str, int] = {}
        """Collections, with their versions, that the last SQL query saw."""

    def search(
        self,
        collection: str,
        query: Query,
        k: int = 10,
        *,
        mode: Mode = "vector",
        where: str | None = None,
        release: Pinned | None = None,
    ) -> Found:
        """The `k` items whose best chunk ranks highest, among the chunks that `where` admits.

        `query` is a text, or a `MediaQuery` where the encoder knows such.

        `mode` ranks by the cosine to the query in the release's space (`vector`), by BM25 over the
        words (`text`), or by both, fused by their reciprocal ranks (`hybrid`). `where` is a condition
        on the columns of the index, applied before ranking. Raises `QueryRefused`, `EncoderChanged`,
        `NothingThere`, `NoSuchRelease`, `VersionGone`.
        """
        started = time.perf_counter()
        view = self._view(collection, release)
        if mode == "vector":
            hits = self._ranked(view, query, k, where)
        elif not isinstance(query, str):
            raise QueryRefused(f"--mode {mode} ranks by words, which {query.path} has none of; use vector")
        elif mode == "text":
            hits = self._by_text(view, query, k, where)
        else:
            near = self._ranked(view, query, k * _FUSED_DEPTH, where)
            hits = fused([near, self._by_text(view, query, k * _FUSED_DEPTH, where)], k)
        elapsed = (time.perf_counter() - started) * 1000
        own, version = view.release, view.snapshot.version
        return Found(
            own.release, own.space_id, own.strategy, version, tuple(hits), round(elapsed, 3), view.modality
        )

    def nearest(self, collection: str, vector: np.ndarray, k: int = 10) -> list[Hit]:
        """Like `search`, for a vector (float32, (dim,)) of the live release's space that is at hand.

        Nothing is encoded, so no cascade ranks again.
        """
        view = self._view(collection)
        return _best(lambda limit: Ranking.of(self._leg(view, view.release, vector, limit, None)), view, k)

    def embed(self, collection: str, query: Query) -> np.ndarray:
        """The query's vector in the live release's space, float32 (dim,); by a bridge mapped into it."""
        return self._asked(self._view(collection), query).recall

    def sql(self, query: str, at: int | None = None) -> pa.Table:
        """The result of one SELECT or EXPLAIN over the views, at version `at` if given.

        A version is of one collection, so `at` needs a query over just one. Raises `QueryRefused`,
        `VersionGone`, `NothingThere`.
        """
        from storage import sql

        names = sql.collections_named(query, self._project.collections)
        if at is not None and len(names) != 1:
            raise QueryRefused(
                f"a version is of one collection, and this query is over {', '.join(names)}; "
                "name one of them alone with --as-of"
            )
        connection = self._connect({name: self._at(name, at) for name in names})
        try:
            return sql.run(connection, query)
        except QueryRefused as error:
            empty = [n for n in names if self.snapshot(n).head is None]
            if "does not exist" in str(error) and empty:
                said = str(error).splitlines()[0]
                raise NothingThere(
                    f"{said} Collection {empty[0]!r} is empty; fill it: evervec ingest {empty[0]}"
                ) from None
            raise
        finally:
            connection.close()

    def connect(self) -> "Connection":
        """A read-only DuckDB connection with the views of all collections, frozen at this moment.

        It has `sql` (a DuckDB relation: `.df()`, `.fetchall()`, `.to_arrow_table()`, ...), `execute` with
        parameters, and `close`; every statement is checked first.
        """
        connection = self._connect({name: self.snapshot(name) for name in self._project.collections})
        self._connections.append(connection)
        return connection

    def snapshot(self, collection: str) -> Snapshot:
        """The newest version of a collection."""
        self._project.collection(collection)
        held = self._snapshots.get(collection)
        found = held.advanced() if held else Snapshot.open(self._project.lake / collection)
        self._snapshots[collection] = found
        return found

    def close(self) -> None:
        for connection in self._connections:
            connection.close()

    def _at(self, collection: str, version: int | None) -> Snapshot:
        self._project.collection(collection)
        return (
            self.snapshot(collection)
            if version is None
            else Snapshot.open(self._project.lake / collection, version)
        )

    def _view(self, collection: str, pinned: Pinned | None = None) -> _View:
        return self._view_of(self._at(collection, pinned.version if pinned else None), pinned)

    def _view_of(self, snapshot: Snapshot, pinned: Pinned | None = None) -> _View:
        head = snapshot.head
        if head is None:
            name = snapshot.root.name
            raise NothingThere(f"collection {name!r} is empty; fill it: evervec ingest {name}")
        return _View(snapshot, releases.find(snapshot, pinned.release) if pinned else head.live)

    def _connect(self, bound: dict[str, Snapshot]) -> "Connection":
        """Views and functions of one moment: what `search` finds are rows that the views hold."""
        from storage import sql

        self.bound = {name: snapshot.version for name, snapshot in bound.items()}
        for snapshot in bound.values():
            self._verified.require(snapshot.root, snapshot.all_files())

        def view(collection: str) -> _View:
            return self._view_of(bound[collection]) if collection in bound else self._view(collection)

        def embed(collection: str, query: str) -> np.ndarray:
            return self._asked(view(collection), query).recall

        def search(collection: str, query: str, k: int) -> list[dict[str, Any]]:
            seen = view(collection)
            hits = self._ranked(seen, query, k, None)
            return [{"item_id": h.item_id, "chunk_no": h.chunk_no, "score": h.score} for h in hits]

        return sql.connect(self._project.lake, bound, embed, search)

    def _asked(self, view: _View, query: Query) -> "_Asked":
        key = view.collection, view.release.release
        if key not in self._paths:
            path = path_of(view.snapshot, view.release)
            spec, facts = encoder_of(self._project, view.collection, path.asked_by)
            asker = Asker(spec, facts, path.asked_by)
            self._paths[key] = path, asker, Cascade(self._project, view.snapshot, path, asker)
        path, asker, cascade = self._paths[key]
        native = asker.vector(query)
        return _Asked(path, cascade, native, path.recall(native[None, :])[0])

    def _reading(self, view: _View, release: Release) -> "Reading | None":
        """The index of a release; None, with a warning, if it cannot be read: then Parquet is searched."""
        head, space = view.snapshot.head, release.space_id
        if head is None or space not in head.indexes:
            return None
        held = self._indexes.get((view.collection, space))
        if held is not None and held[0] == head.number:
            return held[1]
        named = head.indexes[space]
        index = Index(self._project.lake, named.table)
        reading = None
        try:
            self._verified.require(index.directory, view.snapshot.index_files(named))
            reading = index.open_at(named)
        except Damaged as error:
            if self._names(view.collection, named.table):  # else it was replaced since
                logger.warning(
                    "%s: %s. Searches go over Parquet, exactly, until it is made anew: evervec maintain %s "
                    "--rebuild-index", error.path, error.found, view.collection,
                )  # fmt: skip
        self._indexes[view.collection, space] = (head.number, reading)
        return reading

    def _names(self, collection: str, table: str) -> bool:
        """Whether the newest version names an index table."""
        head = self.snapshot(collection).head
        return head is not None and table in {index.table for index in head.indexes.values()}

    def _ranked(self, view: _View, query: Query, k: int, where: str | None) -> list[Hit]:
        """Hits by the release's whole path: recall, then its cascade or its calibrators if it has some."""
        asked, release = self._asked(view, query), view.release

        def found(limit: int) -> Ranking:
            if release.cascade:
                return self._cascaded(view, asked, max(limit, release.cascade), where)
            if not release.calibrators:
                return Ranking.of(self._leg(view, release, asked.recall, limit, where))
            # each origin by itself: the first of all by raw scores need not be the most relevant
            native = self._leg(view, asked.path.asked_by, asked.native, limit, where, "encoded")
            if asked.path.basis is None:
                others = self._leg(view, release, asked.recall, limit, where, "mapped")
            else:
                others = replace(self._leg(view, release, asked.recall, limit, where), origin="bridged")
            return Ranking.merged([native, others], release.calibrators)

        return _best(found, view, k)

    def _cascaded(self, view: _View, asked: "_Asked", depth: int, where: str | None) -> Ranking:
        """The best `depth` candidates by the recall, in the order of their native vectors.

        Of a bridge also what the native space finds among its own rows, which are native already.
        """
        pool = self._leg(view, view.release, asked.recall, depth, where).hits
        own = None
        if asked.path.basis is not None:
            own = self._reading(view, asked.path.asked_by)
            beside = self._leg(view, asked.path.asked_by, asked.native, depth, where).hits if own else None
            if beside is not None and beside.rows.num_rows:
                pool = joined(beside, pool)
        native = asked.cascade.rerank(view.snapshot, asked.native, pool, own)
        return Ranking.of(Leg(asked.path.native.space_id, native))

    def _leg(
        self,
        view: _View,
        release: Release,
        vector: np.ndarray,
        limit: int,
        where: str | None,
        origin: Origin | None = None,
    ) -> Leg:
        """What one space has nearest to a vector of its own: by its index, else exactly over Parquet.

        With `origin` only maps are admitted, or only what is none.
        """
        reading, space = self._reading(view, release), release.space_id
        condition = self._filter(view, release, reading, where, origin)
        if reading is not None:
            return Leg(space, reading.nearest(vector, limit, condition), origin)
        self._verified.require(view.snapshot.root, view.snapshot.all_files())
        lake = self._project.lake
        return Leg(space, exact.nearest(lake, view.snapshot, space, vector, limit, condition), origin)

    def _by_text(self, view: _View, query: str, k: int, where: str | None) -> list[Hit]:
        if view.modality != "text":
            raise QueryRefused(
                f"collection {view.collection!r} is of {view.modality}, which has no words; use --mode vector"
            )
        reading = self._reading(view, view.release)
        if reading is None and view.snapshot.version < self.snapshot(view.collection).version:
            raise QueryRefused(
                f"the words of version {view.snapshot.version} cannot be searched any more: its index was "
                "replaced since. Use --mode vector, or search the newest version"
            )
        if reading is None:
            raise QueryRefused(
                "words cannot be searched: the index is damaged. Use --mode vector, or make it anew: evervec "
                f"maintain {view.collection} --rebuild-index"
            )
        condition = self._filter(view, view.release, reading, where)
        space = view.release.space_id
        return _best(lambda limit: Ranking.of(Leg(space, reading.matching(query, limit, condition))), view, k)

    def _filter(
        self, view: _View, release: Release, reading: "Reading | None", where: str | None,
        origin: Origin | None = None,
    ) -> "Filter | None":  # fmt: skip
        """What rows of a release's space must meet to be found; None if all may be."""
        asked = [one for one in (where, _OF_ORIGIN[origin]) if one is not None]
        if not asked:
            return None
        from storage import filters

        schema = reading.schema if reading else indexing.columns_of(view.snapshot, release.space_id)
        columns = {f.name: f.type for f in schema if f.name != "vector"}
        return filters.every([filters.parse(one, columns) for one in asked])


def fused(rankings: list[list[Hit]], k: int) -> list[Hit]:
    """The first `k` items by reciprocal rank fusion: the sum over rankings of 1 / (60 + rank).

    An item's chunk is the one of the ranking that has it highest. Ties are broken by id.
    """
    scores: dict[str, float] = {}
    best: dict[str, Hit] = {}
    for ranking in rankings:
        for hit in ranking:
            scores[hit.item_id] = scores.get(hit.item_id, 0.0) + 1 / (_FUSED + hit.rank)
            if hit.item_id not in best or hit.rank < best[hit.item_id].rank:
                best[hit.item_id] = hit
    order = sorted(scores, key=lambda item_id: (-scores[item_id], item_id))[:k]
    return [
        Hit(**{**vars(best[item_id]), "rank": rank, "score": scores[item_id]})
        for rank, item_id in enumerate(order, start=1)
    ]


def _best(find: Callable[[int], Ranking], view: _View, k: int) -> list[Hit]:
    """Best chunk of each of `k` items: chunks are fetched until they are of enough items."""
    head = view.snapshot.head
    rows = head.spaces[view.release.space_id].rows if head else 0
    k = min(k, rows)
    if head is None or k < 1:
        return []
    limit = k * _CHUNKS_PER_ITEM if rows > head.total_items else k
    while True:
        found = find(limit)
        first: dict[str, int] = {}
        for row, item_id in enumerate(found.rows["item_id"].to_pylist()):
            first.setdefault(item_id, row)
        if len(first) >= k or found.rows.num_rows < limit:
            break
        limit *= 4
    chosen = list(first.values())[:k]
    table = found.rows.take(pa.array(chosen, pa.int64())).to_pylist()
    return [
        Hit(
            rank=rank,
            item_id=row["item_id"],
            chunk_no=row["chunk_no"],
            score=float(found.scores[at]),
            origin=row["origin"],
            uri=row["uri"],
            text=row["text"],
            chunk_start=row["chunk_start"],
            chunk_end=row["chunk_end"],
        )
        for rank, (row, at) in enumerate(zip(table, chosen, strict=True), start=1)
    ]
