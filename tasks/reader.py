"""The public Python API: search and query a project's lake.

from flows.settings import load_project
from tasks import reader

with reader.open(load_project(".")) as lake:
    found = lake.search("docs", "how do I parse JSON?")
    table = lake.sql("SELECT count(*) FROM docs")
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from encoders.catalog import describe, open_encoder
from encoders.errors import EncoderError
from encoders.protocol import Encoder
from encoders.spec import EncoderFacts, EncoderSpec
from storage.commits import Commit, Release
from storage.errors import QueryRefused
from storage.snapshot import Snapshot
from tasks.errors import EncoderChanged, NothingThere
from tasks.project import Project

if TYPE_CHECKING:
    from storage.sql import Connection
    from storage.vectors import Reading

_CHUNKS_PER_ITEM = 3
"""Chunks asked for per item wanted where items have several; more if these are of too few items."""


@dataclass(frozen=True)
class Hit:
    """One item of a result by its best chunk; `score` is the cosine to the query."""

    rank: int
    item_id: str
    chunk_no: int
    score: float
    origin: str
    uri: str
    text: str
    chunk_start: int
    chunk_end: int


@dataclass(frozen=True)
class Found:
    """The hits of one query, best first, and the release that gave them."""

    release: int
    space_id: str
    strategy: str
    hits: tuple[Hit, ...]
    milliseconds: float


@contextmanager
def open(project: Project) -> Iterator["Reader"]:
    """A reader of the project's lake; each call sees the newest version, whole."""
    reader = Reader(project)
    try:
        yield reader
    finally:
        reader.close()


class Reader:
    """Reads one lake. Encoders and tables are opened at first use and kept."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._snapshots: dict[str, Snapshot] = {}
        self._encoders: dict[str, Encoder] = {}
        self._indexes: dict[str, tuple[int, Reading]] = {}
        self._connections: list[Connection] = []
        self.bound: dict[str, int] = {}
        """Collections, with their versions, that the last SQL query saw."""

    def search(self, collection: str, query: str, k: int = 10) -> Found:
        """The `k` items whose best chunk is nearest to `query` in the live release's space."""
        started = time.perf_counter()
        head = self._head(collection)
        hits = tuple(self._nearest(collection, head, self._embed(collection, head, query), k))
        elapsed = (time.perf_counter() - started) * 1000
        return Found(head.live.release, head.live.space_id, head.live.strategy, hits, round(elapsed, 3))

    def nearest(self, collection: str, vector: np.ndarray, k: int = 10) -> list[Hit]:
        """Like `search`, for a vector (float32, (dim,)) that is at hand."""
        return list(self._nearest(collection, self._head(collection), vector, k))

    def embed(self, collection: str, query: str) -> np.ndarray:
        """The query's vector in the live release's space, float32 (dim,)."""
        return self._embed(collection, self._head(collection), query)

    def _embed(self, collection: str, head: Commit, query: str) -> np.ndarray:
        release = head.live
        if release.space_id not in self._encoders:
            spec, facts = live_encoder(self._project, collection, release)
            self._encoders[release.space_id] = open_encoder(spec, facts)
        return self._encoders[release.space_id].encode_query(query)

    def sql(self, query: str) -> pa.Table:
        """The result of one SELECT or EXPLAIN over the views. Raises `QueryRefused`."""
        from storage import sql

        names = sql.collections_named(query, self._project.collections)
        connection = self._connect(names)
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
        """A read-only DuckDB connection with the views of all collections, frozen at this moment."""
        connection = self._connect(list(self._project.collections))
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

    def _connect(self, names: list[str]) -> "Connection":
        """Views and functions of one moment: what `search` finds are rows that the views hold."""
        from storage import sql

        bound = {name: self.snapshot(name) for name in names}
        self.bound = {name: snapshot.version for name, snapshot in bound.items()}

        def head(collection: str) -> Commit:
            found = bound[collection].head if collection in bound else None
            return found or self._head(collection)

        def embed(collection: str, query: str) -> np.ndarray:
            return self._embed(collection, head(collection), query)

        def search(collection: str, query: str, k: int) -> list[dict[str, Any]]:
            hits = self._nearest(collection, head(collection), embed(collection, query), k)
            return [{"item_id": h.item_id, "chunk_no": h.chunk_no, "score": h.score} for h in hits]

        return sql.connect(self._project.lake, bound, embed, search)

    def _head(self, collection: str) -> Commit:
        head = self.snapshot(collection).head
        if head is None:
            raise NothingThere(f"collection {collection!r} is empty; fill it: evervec ingest {collection}")
        return head

    def _reading(self, collection: str, head: Commit) -> "Reading":
        from storage.vectors import Index  # lancedb: 1.5 s, and only searches need it

        held = self._indexes.get(collection)
        if held is None or held[0] != head.number:
            held = (head.number, Index(self._project.lake, head.index.table).open_at(head.index))
            self._indexes[collection] = held
        return held[1]

    def _nearest(self, collection: str, head: Commit, vector: np.ndarray, k: int) -> Iterator[Hit]:
        """Best chunk of each of `k` items: chunks are fetched until they are of enough items."""
        reading = self._reading(collection, head)
        k = min(k, reading.rows)
        if k < 1:
            return
        chunked = reading.rows > head.total_items
        limit = k * _CHUNKS_PER_ITEM if chunked else k
        while True:
            found = reading.nearest(vector, limit)
            first: dict[str, int] = {}
            for row, item_id in enumerate(found.rows["item_id"].to_pylist()):
                first.setdefault(item_id, row)
            if len(first) >= k or found.rows.num_rows < limit:
                break
            limit *= 4
        chosen = list(first.values())[:k]
        rows = found.rows.take(pa.array(chosen, pa.int64())).to_pylist()
        for rank, (row, at) in enumerate(zip(rows, chosen, strict=True), start=1):
            yield Hit(
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


def live_encoder(project: Project, collection: str, release: Release) -> tuple[EncoderSpec, EncoderFacts]:
    """The encoder of a release: as recorded, else the one in the configuration if it has its fingerprint.

    Raises `EncoderChanged` if the model's files are no longer what the release was made with.
    """
    hashes = project.hashes()
    own = project.encoders[project.collection(collection).encoder]
    recorded = EncoderSpec.model_validate(release.encoder)
    for spec in dict.fromkeys([recorded, own]):
        try:
            facts = describe(spec, hashes)
        except EncoderError:
            if spec == own:
                raise
            continue  # moved since: the configuration says where to
        if facts.fingerprint == release.fingerprint:
            return spec, facts
    raise EncoderChanged(
        f"collection {collection!r} holds vectors of {release.space_id}, but the files of {recorded.model} "
        f"now make {facts.space_id}: a query would be compared with vectors of another space. Put the "
        "earlier files back, or ingest into a new collection"
    )
