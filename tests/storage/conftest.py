"""Windows made from plain Python values, for the tests of the commit protocol."""

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st

from storage import bases, building, parquet, transaction
from storage.commits import BasisFile, Counts, Release
from storage.schemas import CONTENT_HASH, REJECTS, index_schema, items_schema, vectors_schema
from storage.snapshot import Snapshot
from storage.vectors import Index

DIM = 4
CHUNK = 5
SPACE = "toy_4_00000000"
SECOND_DIM = 3
SECOND_SPACE = "toy_3_11111111"
ATTRIBUTES = pa.struct([("n", pa.int64())])
NOW = datetime(2026, 1, 2, tzinfo=UTC)
IDS = ["a", "b/c", "it's", "../d", "\N{GRINNING FACE}", "tab\t"]
ACTIONS = ["leave", "leave", "leave", "put", "put", "delete", "refresh", "stale", "reject", "resolve"]
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
SECOND = RELEASE.model_copy(
    update={"release": 2, "space_id": SECOND_SPACE, "dim": SECOND_DIM, "fingerprint": "g"}
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


def vector_of(text, dim=DIM):
    """A vector of small whole numbers that depends on the text alone."""
    return [float(b) + 1 for b in hashlib.sha256(text.encode()).digest()[:dim]]


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


def _chunk_rows(items, dim=DIM, origin="encoded"):
    for item_id, item in items.items():
        for number, text in enumerate(item.chunks):
            start = number * CHUNK
            span = {"chunk_no": number, "chunk_start": start, "chunk_end": start + len(text)}
            yield item, text, {"item_id": item_id, **span, "origin": origin, "vector": vector_of(text, dim)}


def vectors_table(items, dim=DIM, origin="encoded"):
    rows = [
        {**row, "chunk_hash": _short_hash(text), "basis_id": None, "residual": None, "run_id": "run"}
        for _, text, row in _chunk_rows(items, dim, origin)
    ]
    return pa.Table.from_pylist(rows, vectors_schema(dim))


def index_table(items, attributes=ATTRIBUTES, dim=DIM, origin="encoded"):
    rows = [
        {**row, "uri": f"file:{row['item_id']}", "text": text, "n": item.n}
        for item, text, row in _chunk_rows(items, dim, origin)
    ]
    schema = index_schema(dim, attributes)
    return pa.Table.from_pylist([{k: r[k] for k in schema.names} for r in rows], schema)


def made_from(items):
    """What a window says of the standing items that its vectors were made from."""
    contents = [hashlib.sha256(item.text.encode()).digest() for item in items.values()]
    return pa.table(
        {"item_id": pa.array(items, pa.string()), "content_hash": pa.array(contents, CONTENT_HASH)}
    )


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
        "vectors": {SPACE: vectors_table(put)} if put else {},
        "refreshed": items_table({**refreshed, **stale}),
        "rejects": rejects_table(rejects),
        "index": {SPACE: index_table({**put, **refreshed})} if put or refreshed else {},
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


def filling(items, *, origin="encoded", **more):
    """A window of the second release: vectors in its space, made of items that stand."""
    given = {
        "release": SECOND,
        "made_from": made_from(items),
        "vectors": {SECOND_SPACE: vectors_table(items, SECOND_DIM, origin)},
        "index": {SECOND_SPACE: index_table(items, dim=SECOND_DIM, origin=origin)},
    }
    return window(**{**given, **more})


def basis(root, direction="rows", content=b"weights", basis_id="b" * 64):
    """A basis between the two spaces, written below a collection."""
    source, target = (SPACE, SECOND_SPACE) if direction == "rows" else (SECOND_SPACE, SPACE)
    return BasisFile(
        basis_id=basis_id,
        family="ridge",
        direction=direction,
        source=source,
        target=target,
        pairs=9,
        metrics={"cosine": 0.75},
        file=bases.write(root, basis_id, content),
    )


def carry(snapshot, *, rows=4, origin="mapped"):
    """Files with what the second space lacks of the first: its vectors are beginnings of their sources."""
    root, columns = snapshot.root, [n for n in vectors_schema(DIM).names if n != "vector"]
    have = {row[:2] for row in read_vectors(snapshot, SECOND_SPACE)}
    for source, positions, table in snapshot.batches("vectors", [*columns, "vector"], SPACE, rows):
        keys = zip(table["item_id"].to_pylist(), table["chunk_no"].to_pylist(), strict=True)
        new = np.array([key not in have for key in keys])
        if new.any():
            kept = [row for row, lacks in zip(table.to_pylist(), new, strict=True) if lacks]
            changes = {"origin": origin, "basis_id": "b" * 64, "residual": 0.5}
            made = [{**row, **changes, "vector": row["vector"][:SECOND_DIM]} for row in kept]
            written = pa.Table.from_pylist(made, vectors_schema(SECOND_DIM))
            file = parquet.write(root, f"data/vectors/{SECOND_SPACE}", written)
            yield building.Appended(source.path, positions[new], file)


def mapping(root, **changes):
    """A release that is to be mapped into the second space."""
    given = {"strategy": "map", "basis": basis(root), "upgraded_from": 1, "cascade": 50}
    return SECOND.model_copy(update={**given, **changes})


def append(lake, known, appended, lease, release=SECOND, **more):
    """Commit such files."""
    given = {"run_id": "run", "started_at": NOW, "counts": Counts(chunks=1), **more}
    return building.append(lake, known, release, appended, lease=lease, **given)


def read_vectors(snapshot, space=SPACE):
    """The live chunks of a space: (item_id, chunk_no, start, end, vector), sorted."""
    columns = ["item_id", "chunk_no", "chunk_start", "chunk_end", "vector"]
    return sorted(
        (*(row[c] for c in columns[:-1]), tuple(row["vector"]))
        for _, _, table in snapshot.read("vectors", columns, space)
        for row in table.to_pylist()
    )


def read_rejects(snapshot):
    """Standing rejects, (item id or None, uri, reason), sorted by id and uri."""
    columns = ["item_id", "uri", "reason"]
    rows = [
        tuple(r[c] for c in columns) for _, _, t in snapshot.read("rejects", columns) for r in t.to_pylist()
    ]
    return sorted(rows, key=lambda row: (row[0] or "", row[1]))


def read_index(lake, head, space=SPACE):
    """The rows of a space's LanceDB table at the version that a record names, sorted by their key."""
    named = head.indexes[space]
    table = Index(lake, named.table).open_at(named).table.to_arrow()
    rows = [
        (r["item_id"], r["chunk_no"], r["text"], r.get("n"), tuple(r["vector"])) for r in table.to_pylist()
    ]
    return sorted(rows, key=lambda row: row[:2])


def assert_space_is(lake, snapshot, items, space=SPACE, dim=DIM, *, indexed=True):
    """Vectors and index of a space hold the chunks of these items and no others; or it has no index yet."""
    chunks = [row for _, _, row in _chunk_rows(items, dim)]
    columns = ("item_id", "chunk_no", "chunk_start", "chunk_end")
    expected = sorted((*(r[c] for c in columns), tuple(r["vector"])) for r in chunks)
    assert read_vectors(snapshot, space) == expected
    if not indexed:
        assert space not in snapshot.head.indexes
        assert snapshot.head.spaces[space].rows == len(chunks)
        return
    rows = [
        (r["item_id"], r["chunk_no"], text, item.n, tuple(r["vector"]))
        for item, text, r in _chunk_rows(items, dim)
    ]
    head = snapshot.head
    assert read_index(lake, head, space) == sorted(rows, key=lambda row: row[:2])
    assert head.spaces[space].rows == head.indexes[space].rows == len(chunks)


def assert_is(lake, snapshot, items, rejects=()):
    """Items, chunks, rejects, index and the totals of the record are what the model says."""
    head = snapshot.head
    assert read_items(snapshot) == items
    assert read_rejects(snapshot) == sorted(rejects, key=lambda row: (row[0] or "", row[1]))
    assert (head.total_items, head.total_rejects) == (len(items), len(rejects))
    assert_space_is(lake, snapshot, items)
    assert head.spaces[SPACE].encoded == head.spaces[SPACE].rows


class Model:
    """What a collection should hold: plain values, changed by the words of a window."""

    def __init__(self):
        self.items, self.rejects = {}, {}

    def window(self, actions):
        """Apply actions, (what, text, n) by id, and return them as a window."""
        put, refreshed, stale, rejects, deleted, resolved = {}, {}, {}, [], [], []
        for item_id, (what, text, n) in actions.items():
            known = item_id in self.items
            if what == "put":
                put[item_id] = Item(text, n)
                self.rejects.pop(item_id, None)
            elif what == "delete":
                deleted.append(item_id)
                self.items.pop(item_id, None)
                self.rejects.pop(item_id, None)
            elif what == "refresh" and known:
                refreshed[item_id] = Item(self.items[item_id].text, n)
                self.rejects.pop(item_id, None)
            elif what in ("stale", "reject"):
                if known:
                    stale[item_id] = self.items[item_id].marked()
                rejects.append((item_id, f"file:{item_id}", text))
                self.rejects[item_id] = rejects[-1]
            elif what == "resolve":
                resolved.append(item_id)
                self.rejects.pop(item_id, None)
        self.items |= {**put, **refreshed, **stale}
        return window(
            put, refreshed=refreshed, stale=stale, rejects=rejects, deleted=deleted, resolved=resolved
        )


windows = st.lists(
    st.fixed_dictionaries(
        {
            item_id: st.tuples(
                st.sampled_from(ACTIONS),
                st.text("ab\N{GRINNING FACE}", min_size=1, max_size=14),
                st.one_of(st.none(), st.integers(0, 9)),
            )
            for item_id in IDS
        }
    ),
    min_size=1,
    max_size=6,
)


def with_two_releases(lake, history, fills):
    """Commit windows, filling items into a second space after each: the version, the model, who is there."""
    model, filled = Model(), set()
    transaction.commit(lake, "docs", window())
    for actions, fill in zip(history, fills, strict=False):
        refresh = {i for i, (what, *_) in actions.items() if what == "refresh"} & filled
        one = model.window(actions)
        filled -= {i for i, (what, *_) in actions.items() if what in ("put", "delete")}
        moved = index_table({i: model.items[i] for i in refresh}, dim=SECOND_DIM)
        index = {**one.index, SECOND_SPACE: moved} if refresh else one.index
        transaction.commit(lake, "docs", replace(one, index=index))
        filled |= fill & set(model.items)
        made = filling({i: model.items[i] for i in sorted(fill & set(model.items))})
        yield transaction.commit(lake, "docs", made), model, filled


@pytest.fixture
def toy():
    """Builders and readers of a toy collection."""
    return SimpleNamespace(
        Item=Item,
        Model=Model,
        ATTRIBUTES=ATTRIBUTES,
        DIM=DIM,
        IDS=IDS,
        RELEASE=RELEASE,
        SECOND=SECOND,
        SECOND_DIM=SECOND_DIM,
        SECOND_SPACE=SECOND_SPACE,
        SPACE=SPACE,
        append=append,
        assert_is=assert_is,
        assert_space_is=assert_space_is,
        basis=basis,
        carry=carry,
        filling=filling,
        index_table=index_table,
        items_table=items_table,
        made_from=made_from,
        mapping=mapping,
        read_index=read_index,
        read_items=read_items,
        read_rejects=read_rejects,
        read_vectors=read_vectors,
        rejects_table=rejects_table,
        vector_of=vector_of,
        vectors_table=vectors_table,
        window=window,
        windows=windows,
        with_two_releases=with_two_releases,
    )


@pytest.fixture
def lake(tmp_path):
    """An empty lake."""
    return tmp_path / "lake"


@pytest.fixture
def commit(lake):
    """Commit a window to the collection `docs`; its record."""
    return lambda given: transaction.commit(lake, "docs", given).head


@pytest.fixture
def head(lake):
    """The newest snapshot of `docs`."""
    return lambda: Snapshot.open(lake / "docs")


@pytest.fixture
def random():
    """Random numbers that are the same in every run."""
    return np.random.default_rng(7)
