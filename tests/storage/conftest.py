"""Windows made from plain Python values, for the tests of the commit protocol."""

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from storage import transaction
from storage.commits import Release
from storage.schemas import REJECTS, index_schema, items_schema, vectors_schema
from storage.snapshot import Snapshot
from storage.vectors import Index

DIM = 4
CHUNK = 5
SPACE = "toy_4_00000000"
ATTRIBUTES = pa.struct([("n", pa.int64())])
NOW = datetime(2026, 1, 2, tzinfo=UTC)
RELEASE = Release(
    release=1,
    space_id=SPACE,
    dim=DIM,
    fingerprint="f",
    strategy="native",
    encoder={"model": "toy"},
    chunking={},
    chunking_id="c",
)


@dataclass(frozen=True)
class Item:
    """An item as a test thinks of it; a chunk is every five characters."""

    text: str
    n: int | None = None
    stale: bool = False

    @property
    def chunks(self) -> list[str]:
        return [self.text[at : at + CHUNK] for at in range(0, len(self.text), CHUNK)]

    def marked(self) -> "Item":
        return replace(self, stale=True)


def vector_of(text):
    """A vector of small whole numbers that depends on the text alone."""
    return [float(b) + 1 for b in hashlib.sha256(text.encode()).digest()[:DIM]]


def _short_hash(text):
    return hashlib.sha256(text.encode()).digest()[:16]


def items_table(items, attributes=ATTRIBUTES):
    rows = [
        {
            "item_id": item_id,
            "modality": "text",
            "uri": f"file:{item_id}",
            "text": item.text,
            "bytes": len(item.text.encode()),
            "content_hash": hashlib.sha256(item.text.encode()).digest(),
            "attributes_hash": _short_hash(repr(item.n)),
            "attributes": {"n": item.n},
            "stale_since": NOW if item.stale else None,
            "observed_at": NOW,
            "run_id": "run",
        }
        for item_id, item in items.items()
    ]
    schema = items_schema(attributes)
    return pa.Table.from_pylist([{k: r[k] for k in schema.names} for r in rows], schema)


def _chunk_rows(items):
    for item_id, item in items.items():
        for number, text in enumerate(item.chunks):
            start = number * CHUNK
            span = {"chunk_no": number, "chunk_start": start, "chunk_end": start + len(text)}
            yield item, text, {"item_id": item_id, **span, "origin": "encoded", "vector": vector_of(text)}


def vectors_table(items):
    rows = [
        {**row, "chunk_hash": _short_hash(text), "basis_id": None, "residual": None, "run_id": "run"}
        for _, text, row in _chunk_rows(items)
    ]
    return pa.Table.from_pylist(rows, vectors_schema(DIM))


def index_table(items, attributes=ATTRIBUTES):
    rows = [{**row, "uri": None, "text": text, "n": item.n} for item, text, row in _chunk_rows(items)]
    schema = index_schema(DIM, attributes)
    return pa.Table.from_pylist([{k: r[k] for k in schema.names} for r in rows], schema)


def rejects_table(rejects):
    """Rejects given as (item id or None, uri, reason)."""
    rows = [
        {
            "item_id": item_id,
            "uri": uri,
            "stage": "decode",
            "reason": reason,
            "error_type": "Undecodable",
            "content_hash": None,
            "run_id": "run",
            "rejected_at": NOW,
        }
        for item_id, uri, reason in rejects
    ]
    return pa.Table.from_pylist(rows, REJECTS)


def window(put=None, *, refreshed=None, stale=None, rejects=(), deleted=(), resolved=(), **more):
    """A window: items that are new or have new content, refreshed ones (new attributes), marked ones."""
    put, refreshed, stale = put or {}, refreshed or {}, stale or {}
    given = {
        "verb": "ingest",
        "run_id": "run",
        "started_at": NOW,
        "release": RELEASE,
        "attributes": ATTRIBUTES,
        "items": items_table(put),
        "vectors": vectors_table(put),
        "refreshed": items_table({**refreshed, **stale}),
        "rejects": rejects_table(rejects),
        "index": index_table({**put, **refreshed}),
        "deleted": list(deleted),
        "resolved": list(resolved),
    }
    return transaction.Window(**{**given, **more})


def read_items(snapshot):
    """The live items by id; fails if one is there twice."""
    rows = [r for _, _, t in snapshot.read("items", items_schema(ATTRIBUTES).names) for r in t.to_pylist()]
    found = {
        r["item_id"]: Item(r["text"], (r.get("attributes") or {}).get("n"), r["stale_since"] is not None)
        for r in rows
    }
    assert len(found) == len(rows), "an item has two live rows"
    return found


def read_vectors(snapshot):
    """The live chunks: (item_id, chunk_no, start, end, vector), sorted."""
    columns = ["item_id", "chunk_no", "chunk_start", "chunk_end", "vector"]
    return sorted(
        (*(row[c] for c in columns[:-1]), tuple(row["vector"]))
        for _, _, table in snapshot.read("vectors", columns, SPACE)
        for row in table.to_pylist()
    )


def read_rejects(snapshot):
    """Standing rejects, (item id or None, uri, reason), sorted by id and uri."""
    columns = ["item_id", "uri", "reason"]
    rows = [
        tuple(r[c] for c in columns) for _, _, t in snapshot.read("rejects", columns) for r in t.to_pylist()
    ]
    return sorted(rows, key=lambda row: (row[0] or "", row[1]))


def read_index(lake, head):
    """The rows of the LanceDB table at the version that a record names, sorted by their key."""
    table = Index(lake, head.index.table).open_at(head.index).table.to_arrow()
    rows = [
        (r["item_id"], r["chunk_no"], r["text"], r.get("n"), tuple(r["vector"])) for r in table.to_pylist()
    ]
    return sorted(rows, key=lambda row: row[:2])


def assert_is(lake, snapshot, items, rejects=()):
    """Items, chunks, rejects, index and the totals of the record are what the model says."""
    head = snapshot.head
    assert read_items(snapshot) == items
    chunks = [row for _, _, row in _chunk_rows(items)]
    columns = ("item_id", "chunk_no", "chunk_start", "chunk_end")
    assert read_vectors(snapshot) == sorted((*(r[c] for c in columns), tuple(r["vector"])) for r in chunks)
    assert read_rejects(snapshot) == sorted(rejects, key=lambda row: (row[0] or "", row[1]))
    expected = [
        (r["item_id"], r["chunk_no"], text, item.n, tuple(r["vector"]))
        for item, text, r in _chunk_rows(items)
    ]
    assert read_index(lake, head) == sorted(expected, key=lambda row: row[:2])
    assert (head.total_items, head.total_rejects) == (len(items), len(rejects))
    assert head.spaces[SPACE].encoded == head.spaces[SPACE].rows == head.index.rows == len(chunks)


@pytest.fixture
def toy():
    """Builders and readers of a toy collection."""
    return SimpleNamespace(
        Item=Item,
        ATTRIBUTES=ATTRIBUTES,
        DIM=DIM,
        RELEASE=RELEASE,
        SPACE=SPACE,
        assert_is=assert_is,
        index_table=index_table,
        items_table=items_table,
        read_index=read_index,
        read_items=read_items,
        read_rejects=read_rejects,
        read_vectors=read_vectors,
        rejects_table=rejects_table,
        vector_of=vector_of,
        vectors_table=vectors_table,
        window=window,
    )


@pytest.fixture
def lake(tmp_path):
    """An empty lake."""
    return tmp_path / "lake"


@pytest.fixture
def commit(lake):
    """Commit a window to the collection `docs`; its record."""
    return lambda given: transaction.commit(lake, "docs", given)


@pytest.fixture
def head(lake):
    """The newest snapshot of `docs`."""
    return lambda: Snapshot.open(lake / "docs")


@pytest.fixture
def random():
    """Random numbers that are the same in every run."""
    return np.random.default_rng(7)
