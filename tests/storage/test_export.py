"""Exports hold exactly the live rows, with their types; killed ones leave nothing."""

import datetime as dt
import decimal
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import duckdb
import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import export as exports
from storage import ordered, transaction
from storage.errors import StorageError, UnreadableTable
from storage.schemas import items_schema, vectors_schema
from storage.snapshot import Snapshot

KINDS = ("parquet", "delta", "lance")


def path_of(tmp_path, kind):
    return tmp_path / ("out.lance" if kind == "lance" else "out")


def read_chunks(path, kind):
    """(item_id, chunk_no, start, end, vector) of an export, sorted."""
    if kind == "parquet":
        table = pq.read_table(path / "chunks.parquet")
    elif kind == "lance":
        table = lancedb.connect(str(path.parent)).open_table(path.stem).to_arrow()
    else:
        table = DeltaTable(str(path / "vectors")).to_pyarrow_table()
    rows = table.to_pylist()
    return sorted(
        (r["item_id"], r["chunk_no"], r["chunk_start"], r["chunk_end"], tuple(r["vector"])) for r in rows
    )


def read_items(path, kind):
    table = (
        pq.read_table(path / "items.parquet")
        if kind == "parquet"
        else DeltaTable(str(path / "items")).to_pyarrow_table()
    )
    return sorted(
        (r["item_id"], r["text"], r["n"] if kind == "parquet" else r["attributes"]["n"])
        for r in table.to_pylist()
    )


def chunks_of(toy, items):
    return sorted(
        (item_id, no, no * 5, no * 5 + len(text), tuple(toy.vector_of(text)))
        for item_id, item in items.items()
        for no, text in enumerate(item.chunks)
    )


@pytest.fixture
def filled(toy, commit):
    """Three commits of which the second and third mask rows of the first; what then stands."""
    first = {f"i{n}": toy.Item(f"text number {n}", n) for n in range(12)}
    commit(toy.window(first))
    commit(toy.window({"i3": toy.Item("three anew", 33), "x": toy.Item("späte Zeile", None)}, deleted=["i5"]))
    commit(toy.window(refreshed={"i7": toy.Item("text number 7", 77)}))
    standing = {**first, "i3": toy.Item("three anew", 33), "x": toy.Item("späte Zeile", None)}
    standing["i7"] = toy.Item("text number 7", 77)
    del standing["i5"]
    return standing


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_holds_exactly_the_live_rows(toy, lake, head, filled, tmp_path, kind):
    """Masked rows are gone, changed ones are there once, every vector is the one that was committed."""
    path = path_of(tmp_path, kind)
    done = exports.export(lake, head(), kind, path)
    expected = chunks_of(toy, filled)
    assert read_chunks(path, kind) == expected
    assert (done.rows, done.items) == (len(expected), len(filled))
    assert {p.name.lstrip("_") for p in path.iterdir()} == {
        "parquet": {"chunks.parquet", "items.parquet", "export.json"},
        "delta": {"items", "vectors", "export.json"},
        "lance": {"versions", "transactions", "data", "export.json"},
    }[kind]
    if kind != "lance":
        assert read_items(path, kind) == sorted((i, item.text, item.n) for i, item in filled.items())


def test_parquet_shows_the_text_and_the_attributes_of_every_chunk(toy, lake, head, filled, tmp_path):
    """One row a chunk is all that another tool needs: its own text, the item's facts, the hash in hex."""
    exports.export(lake, head(), "parquet", tmp_path / "out")
    rows = pq.read_table(tmp_path / "out/chunks.parquet").to_pylist()
    for row in rows:
        item = filled[row["item_id"]]
        assert row["text"] == item.chunks[row["chunk_no"]]
        assert (row["n"], row["uri"], row["modality"]) == (item.n, f"file:{row['item_id']}", "text")
        assert (row["space_id"], row["origin"]) == (toy.SPACE, "encoded")
        assert row["content_hash"] == hashlib.sha256(item.text.encode()).hexdigest()
    assert [(r["item_id"], r["chunk_no"]) for r in rows] == sorted(
        (r["item_id"], r["chunk_no"]) for r in rows
    )


def test_an_export_says_what_it_was_made_from(toy, lake, head, filled, tmp_path):
    """The manifest names version, space and encoder, so that an import needs not be told."""
    exports.export(lake, head(), "parquet", tmp_path / "out")
    manifest = exports.read_manifest(tmp_path / "out")
    assert (manifest.version, manifest.space_id, manifest.fingerprint) == (3, toy.SPACE, "f")
    assert (manifest.encoder, manifest.items, manifest.collection) == ({"model": "toy"}, len(filled), "docs")


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_keep_their_type(lake, head, filled, tmp_path, kind):
    """float32 of fixed length, but in Delta, which knows lists only."""
    path = path_of(tmp_path, kind)
    exports.export(lake, head(), kind, path)
    if kind == "delta":
        stored = DeltaTable(str(path / "vectors")).to_pyarrow_table().schema.field("vector").type
        assert stored == pa.list_(pa.field("element", pa.float32()))
    elif kind == "lance":
        table = lancedb.connect(str(path.parent)).open_table("out")
        assert table.schema.field("vector").type == pa.list_(pa.float32(), 4)
        assert table.search([1.0, 2, 3, 4]).limit(2).to_arrow().num_rows == 2
        table.delete("item_id = 'i0'")
        table.optimize()
        assert exports.is_export(path)
    else:
        assert pq.read_schema(next((path / "chunks.parquet").iterdir())).field("vector").type == pa.list_(
            pa.float32(), 4
        )
        found = duckdb.sql(f"SELECT vector::FLOAT[4] AS v FROM '{path}/chunks.parquet/*.parquet' LIMIT 1")
        assert str(found.types[0]) == "FLOAT[4]"


def test_delta_links_what_it_can_and_rewrites_what_is_masked(toy, lake, commit, head, tmp_path):
    """Files without masked rows are the lake's own, at no cost; the others hold their live rows only."""
    commit(toy.window({"a": toy.Item("one", 1)}))
    commit(toy.window({"b": toy.Item("two", 2), "c": toy.Item("three", 3)}))
    commit(toy.window(deleted=["b"]))
    done = exports.export(lake, head(), "delta", tmp_path / "out")
    assert done.linked == 2
    files = {p.stat().st_ino for p in (tmp_path / "out").rglob("*.parquet")}
    own = {p.stat().st_ino: p for p in (lake / "docs/data").rglob("*.parquet")}
    assert len(files) == 4
    assert {own[i].parent.name for i in files & set(own)} == {"items", toy.SPACE}
    table = DeltaTable(str(tmp_path / "out/items"))
    counted = [
        json.loads(a["stats"])["numRecords"] if "stats" in a else a["num_records"] for a in _adds(table)
    ]
    assert sorted(counted) == [1, 1]
    assert read_items(tmp_path / "out", "delta") == [("a", "one", 1), ("c", "three", 3)]


def _adds(table):
    return pa.table(table.get_add_actions(flatten=True)).to_pylist()


def test_delta_copies_where_links_cannot_be(lake, head, filled, tmp_path, monkeypatch, toy):
    """On another file system the export costs its bytes, and is the same."""

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    done = exports.export(lake, head(), "delta", tmp_path / "out")
    assert done.linked == 0
    assert read_chunks(tmp_path / "out", "delta") == chunks_of(toy, filled)


def test_a_delta_export_outlives_the_files_of_the_lake(toy, lake, commit, head, tmp_path):
    """A hard link keeps its data when the lake lets go of the file, as the docstring warns."""
    commit(toy.window({"a": toy.Item("one", 1)}))
    exports.export(lake, head(), "delta", tmp_path / "out")
    for file in (lake / "docs/data").rglob("*.parquet"):
        file.unlink()
    assert read_items(tmp_path / "out", "delta") == [("a", "one", 1)]


def test_every_version_can_be_exported(toy, lake, filled, tmp_path):
    """An export of the past holds what that version held."""
    exports.export(lake, Snapshot.open(lake / "docs", 1), "parquet", tmp_path / "out")
    assert [i for i, _, _ in read_items(tmp_path / "out", "parquet")] == sorted(f"i{n}" for n in range(12))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_lake_in_an_object_store_is_exported_to_a_folder(toy, s3, tmp_path, kind):
    """Data files are read from, or copied out of, the store; nothing can be linked."""
    first = {f"i{n}": toy.Item(f"text number {n}", n) for n in range(4)}
    transaction.commit(s3, "docs", toy.window(first))
    transaction.commit(s3, "docs", toy.window({"x": toy.Item("another", 7)}, deleted=["i1"]))
    standing = {i: item for i, item in {**first, "x": toy.Item("another", 7)}.items() if i != "i1"}
    path = path_of(tmp_path, kind)
    done = exports.export(s3, Snapshot.open(s3 / "docs"), kind, path)
    assert read_chunks(path, kind) == chunks_of(toy, standing)
    assert done.linked == 0


ODD = {
    "small": (pa.uint8(), 200),
    "large": (pa.uint64(), 2**63 + 5),
    "half": (pa.float16(), 1.5),
    "local": (pa.timestamp("us"), dt.datetime(2020, 1, 2, 3, 4, 5, 6)),
    "nanos": (pa.timestamp("ns"), dt.datetime(2020, 1, 2)),
    "berlin": (pa.timestamp("us", "Europe/Berlin"), dt.datetime(2020, 1, 2, tzinfo=dt.UTC)),
    "clock": (pa.time64("us"), dt.time(1, 2, 3)),
    "day": (pa.date32(), dt.date(2020, 1, 2)),
    "price": (pa.decimal128(10, 2), decimal.Decimal("1.25")),
    "long_text": (pa.large_string(), "ä"),
    "raw": (pa.binary(), b"\x00\xff"),
    "nested": (pa.struct([("a", pa.list_(pa.uint16()))]), {"a": [1, 65535]}),
    "truth": (pa.bool_(), True),
}


def odd_window(toy, names):
    attributes = pa.struct([(n, ODD[n][0]) for n in names])
    plain = toy.window({"a": toy.Item("one", 1), "b": toy.Item("two", 2)})
    values = {n: ODD[n][1] for n in names}
    structs = pa.StructArray.from_arrays(
        [pa.array([np.float16(v) if n == "half" else v, None], ODD[n][0]) for n, v in values.items()],
        fields=list(attributes),
    )
    items = plain.items.set_column(plain.items.schema.get_field_index("attributes"), "attributes", structs)
    index = next(iter(plain.index.values())).drop_columns(["n"])
    for field, column in zip(attributes, structs.flatten(), strict=True):
        index = index.add_column(index.num_columns - 1, field, column)
    return toy.window(
        {"a": toy.Item("one", 1), "b": toy.Item("two", 2)},
        attributes=attributes,
        items=items.cast(items_schema(attributes)),
        index={toy.SPACE: index},
    )


DELTA_HAS = {
    "small": (pa.int16(), 200),
    "large": (pa.decimal128(20, 0), decimal.Decimal(2**63 + 5)),
    "half": (pa.float32(), 1.5),
    "nanos": (pa.timestamp("us"), dt.datetime(2020, 1, 2)),
    "berlin": (pa.timestamp("us", "UTC"), dt.datetime(2020, 1, 2, tzinfo=dt.UTC)),
    "clock": (pa.string(), "01:02:03.000000"),
    "long_text": (pa.string(), "ä"),
    "nested": (pa.struct([("a", pa.list_(pa.field("element", pa.int32())))]), {"a": [1, 65535]}),
}


def test_attributes_of_every_type_come_out_as_they_went_in(toy, lake, commit, head, tmp_path):
    """Parquet keeps every type; Delta gets the nearest that holds the value, where it lacks the type."""
    commit(odd_window(toy, list(ODD)))
    exports.export(lake, head(), "parquet", tmp_path / "parquet")
    for part in ("items", "chunks"):
        table = pq.read_table(tmp_path / f"parquet/{part}.parquet")
        assert {n: table.schema.field(n).type for n in ODD} == {n: kind for n, (kind, _) in ODD.items()}
        assert {n: table[n][0].as_py() for n in ODD} == {n: value for n, (_, value) in ODD.items()}
        assert all(table[n][1].as_py() is None for n in ODD)
    exports.export(lake, head(), "delta", tmp_path / "delta")
    found = DeltaTable(str(tmp_path / "delta/items")).to_pyarrow_table()["attributes"].combine_chunks()
    expected = {n: DELTA_HAS.get(n, both) for n, both in ODD.items()}
    assert {f.name: f.type for f in found.type} == {n: kind for n, (kind, _) in expected.items()}
    assert found[0].as_py() == {n: value for n, (_, value) in expected.items()}


def test_attributes_that_came_later_are_null_in_older_rows(toy, lake, commit, head, tmp_path):
    """Files of before a column was there are rewritten with it, so that one schema holds for all."""
    commit(toy.window({"old": toy.Item("old", 1)}))
    more = pa.struct([("n", pa.int64()), ("m", pa.string())])
    wide = pa.Table.from_pylist(
        [{**toy.items_table({"new": toy.Item("new", 2)}).to_pylist()[0], "attributes": {"n": 2, "m": "x"}}],
        items_schema(more),
    )
    index = toy.index_table({"new": toy.Item("new", 2)})
    index = index.add_column(index.num_columns - 1, pa.field("m", pa.string()), [["x"]])
    commit(toy.window({"new": toy.Item("new", 2)}, attributes=more, items=wide, index={toy.SPACE: index}))
    exports.export(lake, head(), "delta", tmp_path / "delta")
    rows = DeltaTable(str(tmp_path / "delta/items")).to_pyarrow_table().to_pylist()
    assert {r["item_id"]: r["attributes"] for r in rows} == {
        "old": {"n": 1, "m": None},
        "new": {"n": 2, "m": "x"},
    }
    exports.export(lake, head(), "parquet", tmp_path / "parquet")
    rows = pq.read_table(tmp_path / "parquet/items.parquet").to_pylist()
    assert {r["item_id"]: (r["n"], r["m"]) for r in rows} == {"old": (1, None), "new": (2, "x")}


def test_a_collection_without_attributes_exports(toy, lake, commit, head, tmp_path):
    """No attributes at all is a case of its own: there is no such column in the lake."""
    none = pa.struct([])
    items = toy.items_table({"a": toy.Item("one")}).drop_columns(["attributes"])
    index = toy.index_table({"a": toy.Item("one")}).drop_columns(["n"])
    commit(toy.window({"a": toy.Item("one")}, attributes=none, items=items, index={toy.SPACE: index}))
    for kind in KINDS:
        done = exports.export(lake, head(), kind, tmp_path / f"{kind}.lance")
        assert (done.rows, done.items) == (1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_export_leaves_nothing_under_its_path(lake, head, filled, tmp_path, monkeypatch, kind):
    """What was there before stays until the new export is whole."""
    path = path_of(tmp_path, kind)
    exports.export(lake, head(), kind, path)
    before = read_chunks(path, kind)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exports, "_settle", fail)
    with pytest.raises(OSError, match="No space"):
        exports.export(lake, head(), kind, path, overwrite=True)
    with pytest.raises(OSError, match="No space"):
        exports.export(lake, head(), kind, tmp_path / "other")
    assert read_chunks(path, kind) == before
    assert {p.name for p in tmp_path.iterdir()} == {"lake", path.name}


KILLER = """
import os, signal, sys
from pathlib import Path
from storage import export
from storage.snapshot import Snapshot
export._settle = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
lake, path = Path(sys.argv[1]), Path(sys.argv[2])
export.export(lake, Snapshot.open(lake / "docs"), sys.argv[3], path, overwrite=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_export_leaves_the_earlier_one_whole(lake, head, filled, tmp_path, kind):
    """kill -9 before the rename: what was under the path stands, of the new one nothing is to be seen."""
    path, other = path_of(tmp_path, kind), tmp_path / "new.lance"
    exports.export(lake, head(), kind, path)
    before = read_chunks(path, kind)
    for target in (path, other):
        arguments = [sys.executable, "-c", KILLER, str(lake), str(target), kind]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert read_chunks(path, kind) == before
    assert not other.exists()


def test_an_export_replaces_an_earlier_one_only_if_it_may(toy, lake, commit, head, filled, tmp_path):
    """Overwriting swaps the whole folder; without leave the folder stays as it is."""
    exports.export(lake, head(), "parquet", tmp_path / "out")
    commit(toy.window(deleted=["i1"]))
    with pytest.raises(StorageError, match="left as it is"):
        exports.export(lake, head(), "parquet", tmp_path / "out")
    assert len(read_items(tmp_path / "out", "parquet")) == len(filled)
    exports.export(lake, head(), "parquet", tmp_path / "out", overwrite=True)
    assert len(read_items(tmp_path / "out", "parquet")) == len(filled) - 1


def test_what_killed_exports_left_goes_with_the_next(lake, head, filled, tmp_path):
    """Leftovers an hour old are removed; younger ones may be another export at work."""
    old, young = tmp_path / ".out.1.unfinished", tmp_path / ".out.2.unfinished"
    for folder in (old, young):
        folder.mkdir()
        (folder / "part").write_text("x")
    past = time.time() - 7200
    os.utime(old / "part", (past, past))
    os.utime(old, (past, past))
    exports.export(lake, head(), "parquet", tmp_path / "out")
    assert not old.exists()
    assert young.exists()


def test_files_are_of_bounded_size(lake, head, filled, tmp_path, monkeypatch):
    """No file grows with the collection; together they hold every row once."""
    monkeypatch.setattr(exports, "PART_ROWS", 10)
    monkeypatch.setattr(ordered, "BATCH", 8)
    exports.export(lake, head(), "parquet", tmp_path / "out")
    parts = sorted((tmp_path / "out/chunks.parquet").iterdir())
    rows = [pq.read_metadata(p).num_rows for p in parts]
    assert len(parts) > 2
    assert max(rows) <= 10
    assert sum(rows) == sum(len(i.chunks) for i in filled.values())


def test_only_an_export_is_taken_for_one(tmp_path, lake, head, filled):
    """A folder of somebody's own files is never what --yes may replace."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.txt").write_text("x")
    lancedb.connect(str(tmp_path / "home")).create_table("own", data=[{"a": 1}])
    assert not exports.is_export(tmp_path / "home")
    assert not exports.is_export(tmp_path / "home/own.lance")
    for kind in KINDS:
        path = tmp_path / f"{kind}.lance"
        exports.export(lake, head(), kind, path)
        assert exports.is_export(path)


def test_delta_says_what_to_install(lake, head, filled, tmp_path, monkeypatch):
    """Without the extra the message names it, and nothing is left."""
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(StorageError, match=r"pip install 'evervec\[delta\]'"):
        exports.export(lake, head(), "delta", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def ids_and_counts():
    return st.lists(
        st.tuples(st.text("ab\U0001f600", min_size=1, max_size=3), st.integers(0, 4)), max_size=12
    )


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids_and_counts(), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))
def test_items_and_their_chunks_come_together_whatever_the_batches(counts, most, step, item_step):
    """Every item once, with all of its chunks and no other's, in tables of bounded size."""
    items = dict(sorted(counts))
    ids = pa.array(list(items), pa.string())
    chunks = pa.array([i for i, n in items.items() for _ in range(n)], pa.string())
    some = (pa.table({"item_id": ids}).slice(a, item_step) for a in range(0, len(ids), item_step))
    more = (pa.table({"item_id": chunks}).slice(a, step) for a in range(0, len(chunks), step))
    seen = {}
    for held, own in ordered.aligned(some, more, most):
        assert own.num_rows <= max(most, *items.values(), 1)
        names = held["item_id"].to_pylist()
        assert not seen.keys() & set(names)
        seen |= {name: own["item_id"].to_pylist().count(name) for name in names}
        assert set(own["item_id"].to_pylist()) <= set(names)
    assert seen == items


def test_streams_out_of_order_are_refused():
    """Rows that were moved are told, not paired wrongly."""
    good = pa.table({"item_id": ["a", "b"]})
    for items, chunks in ((["b", "a"], ["a"]), (["a", "b"], ["b", "a"]), (["a"], ["c"])):
        given_items, given_chunks = pa.table({"item_id": items}), pa.table({"item_id": chunks})
        with pytest.raises(UnreadableTable, match="export again"):
            list(ordered.aligned(iter([given_items]), iter([given_chunks]), 5))
    assert len(list(ordered.aligned(iter([good]), iter([good]), 5))) == 1


@pytest.mark.slow
def test_memory_does_not_grow_with_the_collection(toy, lake, tmp_path):
    """600,000 vectors of 256 numbers (600 MB) pass through a process that may take 2 GB more than at rest."""
    rng = np.random.default_rng(0)
    dim, each = 256, 50_000
    release = toy.RELEASE.model_copy(update={"dim": dim, "space_id": f"toy_{dim}_0"})
    for window in range(12):
        ids = [f"item-{(n * 7919) % 600_000:07}" for n in range(window * each, (window + 1) * each)]
        items = pa.table(
            {
                "item_id": ids,
                "modality": ["text"] * each,
                "uri": ["u"] * each,
                "text": pa.array(["words " * 20] * each, pa.large_string()),
                "bytes": [120] * each,
                "content_hash": pa.array([b"c" * 32] * each, pa.binary(32)),
                "attributes_hash": pa.array([b"a" * 16] * each, pa.binary(16)),
                "stale_since": pa.nulls(each, pa.timestamp("us", "UTC")),
                "observed_at": pa.array([dt.datetime.now(dt.UTC)] * each, pa.timestamp("us", "UTC")),
                "run_id": ["r"] * each,
            },
            schema=items_schema(pa.struct([])),
        )
        values = pa.FixedSizeListArray.from_arrays(pa.array(rng.random(each * dim, np.float32)), dim)
        vectors = pa.table(
            {
                "item_id": ids,
                "chunk_no": pa.array([0] * each, pa.int32()),
                "chunk_start": [0] * each,
                "chunk_end": [120] * each,
                "chunk_hash": pa.array([b"h" * 16] * each, pa.binary(16)),
                "origin": ["encoded"] * each,
                "basis_id": pa.nulls(each, pa.string()),
                "residual": pa.nulls(each, pa.float32()),
                "vector": values,
                "run_id": ["r"] * each,
            },
            schema=vectors_schema(dim),
        )
        given_window = toy.window(
            release=release, attributes=pa.struct([]), items=items,
            vectors={release.space_id: vectors}, index={},
        )  # fmt: skip
        transaction.commit(lake, "docs", given_window)
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from storage import export; from storage.snapshot import Snapshot\n"
        "rest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "lake, out = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "done = export.export(lake, Snapshot.open(lake / 'docs'), 'parquet', out)\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rest\n"
        "print(done.rows, grown // 1024)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(lake), str(tmp_path / "out")], check=True, capture_output=True
    )
    rows, megabytes = map(int, found.stdout.split())
    assert rows == 600_000
    assert megabytes < 2_000
