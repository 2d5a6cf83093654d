"""The index: readers see exactly the version that the log names, and an ANN index loses no hit."""

import lancedb
import numpy as np
import pyarrow as pa
import pytest

from storage.schemas import index_schema
from storage.vectors import EXACT_BELOW, Index, table_name

DIM = 16
SCHEMA = index_schema(DIM, pa.struct([]))
TABLE = "docs__space__g1"


def rows(vectors, prefix="i", **columns):
    """Index rows, one chunk an item, with these vectors (float32, (n, DIM))."""
    count = len(vectors)
    made = {
        "item_id": pa.array([f"{prefix}{k}" for k in range(count)]),
        "chunk_no": pa.array(np.zeros(count, np.int32)),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).ravel()), DIM),
        **columns,
    }
    fields = [f for f in SCHEMA if f.name != "vector"]
    fields += [pa.field(name, array.type) for name, array in columns.items()]
    schema = pa.schema([*fields, SCHEMA.field("vector")])
    return pa.table({f.name: made.get(f.name, pa.nulls(count, f.type)) for f in schema}, schema=schema)


def clustered(random, count):
    """Vectors around a hundred centres, as texts lie around subjects."""
    centres = random.normal(size=(100, DIM))
    return (centres[random.integers(0, 100, count)] + 0.4 * random.normal(size=(count, DIM))).astype(
        np.float32
    )


def ids_of(hits):
    return hits.rows["item_id"].to_pylist()


def brute_force(vectors, query, k):
    """Rows of the `k` highest cosines, best first, with the cosines."""
    cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    best = np.argsort(-cosines)[:k]
    return best, cosines[best]


def test_a_table_is_named_after_collection_space_and_generation():
    """Two spaces of a collection never share a table."""
    assert table_name("docs", "minilm_384_a3ac94f2") == "docs__minilm_384_a3ac94f2__g1"


def test_search_is_exact_and_scores_are_cosines(lake, random):
    """A small table gives exactly the hits of a brute force, best first, with their cosines."""
    vectors = clustered(random, 500)
    index = Index(lake, TABLE)
    named = index.write(None, SCHEMA, [], rows(vectors))
    reading = index.open_at(named)
    for query in clustered(random, 10):
        best, cosines = brute_force(vectors, query, 7)
        hits = reading.nearest(query, 7)
        assert ids_of(hits) == [f"i{k}" for k in best]
        assert hits.scores == pytest.approx(cosines, abs=1e-5)
    assert "vector" not in hits.rows.column_names
    assert set(hits.rows.column_names) == set(SCHEMA.names) - {"vector"}


def test_a_search_may_ask_for_more_than_there_is(lake, random):
    """All rows come, and no more; an empty table gives none."""
    index = Index(lake, TABLE)
    empty = index.write(None, SCHEMA, [], SCHEMA.empty_table())
    full = index.write(empty, SCHEMA, [], rows(clustered(random, 3)))
    query = np.ones(DIM, np.float32)
    assert sorted(ids_of(index.open_at(full).nearest(query, 50))) == ["i0", "i1", "i2"]
    assert ids_of(index.open_at(empty).nearest(query, 50)) == []


def test_later_versions_do_not_touch_the_named_one(lake, random):
    """A reader of a version sees its rows and vectors, whatever was written, changed or deleted since."""
    vectors = clustered(random, 20)
    index = Index(lake, TABLE)
    first = index.write(None, SCHEMA, [], rows(vectors))
    held = index.open_at(first)
    second = index.write(first, SCHEMA, ["i0", "i1"], rows(-vectors[:1]))
    third = index.write(second, SCHEMA, [], rows(vectors[:1], prefix="copy"))
    for reading in (held, Index(lake, TABLE).open_at(first)):
        assert reading.rows == 20
        assert ids_of(reading.nearest(vectors[0], 1)) == ["i0"]
        assert ids_of(reading.nearest(vectors[1], 1)) == ["i1"]
        assert len(ids_of(reading.nearest(vectors[0], 100))) == 20
    assert ids_of(index.open_at(second).nearest(-vectors[0], 1)) == ["i0"]
    assert "i1" not in ids_of(index.open_at(second).nearest(vectors[1], 100))
    assert ids_of(index.open_at(third).nearest(vectors[0], 1)) == ["copy0"]
    assert (first.rows, second.rows, third.rows) == (20, 19, 20)


def test_writing_starts_from_the_named_version(lake, random):
    """What a writer that died left behind the named version is not in the next one."""
    vectors = clustered(random, 4)
    index = Index(lake, TABLE)
    first = index.write(None, SCHEMA, [], rows(vectors))
    index.write(first, SCHEMA, ["i3"], rows(vectors, prefix="lost"))
    again = index.write(first, SCHEMA, ["i0"], rows(vectors[:1], prefix="new"))
    assert sorted(ids_of(index.open_at(again).nearest(vectors[0], 99))) == ["i1", "i2", "i3", "new0"]


def test_a_merge_replaces_rows_by_their_key(lake, random):
    """Item and chunk number are the key: the same key twice is one row, the newest."""
    vectors = clustered(random, 3)
    index = Index(lake, TABLE)
    named = index.write(None, SCHEMA, [], rows(vectors))
    moved = rows(vectors).set_column(SCHEMA.get_field_index("uri"), "uri", pa.array(["u"] * 3))
    for _ in range(2):
        named = index.write(named, SCHEMA, [], moved)
    found = index.open_at(named).table.to_arrow()
    assert sorted(zip(found["item_id"].to_pylist(), found["uri"].to_pylist(), strict=True)) == [
        ("i0", "u"),
        ("i1", "u"),
        ("i2", "u"),
    ]


def test_the_key_is_declared(lake):
    """LanceDB knows the key, without which two merges at once would duplicate rows."""
    Index(lake, TABLE).write(None, SCHEMA, [], SCHEMA.empty_table())
    stored = lancedb.connect(lake / "index").open_table(TABLE).schema
    declared = {f.name for f in stored if b"lance-schema:unenforced-primary-key" in (f.metadata or {})}
    assert declared == {"item_id", "chunk_no"}
    assert not any(stored.field(name).nullable for name in declared)


def test_a_large_table_is_indexed_and_finds_what_a_brute_force_finds(lake, random):
    """Above the threshold there is an IVF_SQ index whose top ten are those of a brute force; new rows too."""
    vectors = clustered(random, EXACT_BELOW + 500)
    index = Index(lake, TABLE)
    named = index.write(None, SCHEMA, [], rows(vectors))
    reading = index.open_at(named)
    (made,) = reading.table.list_indices()
    assert (made.columns, made.index_type.lower().replace("_", "")) == (["vector"], "ivfsq")
    assert reading.table.index_stats("vector_idx").num_indexed_rows == len(vectors)
    found = 0
    queries = clustered(random, 40)
    for query in queries:
        best, cosines = brute_force(vectors, query, 10)
        hits = reading.nearest(query, 10)
        found += len({f"i{k}" for k in best} & set(ids_of(hits)))
        assert hits.scores[0] == pytest.approx(cosines[0], abs=1e-3)
    assert found / (10 * len(queries)) >= 0.95

    late = np.vstack([queries[:3], -queries[:2]])
    later = index.write(named, SCHEMA, ["i0"], rows(late, prefix="late"))
    assert later.rows == len(vectors) + 4
    for k, vector in enumerate(late):
        best = index.open_at(later).nearest(vector, 3)
        assert ids_of(best)[0] == f"late{k}"
        assert best.scores[0] == pytest.approx(1, abs=1e-5)
        assert f"late{k}" not in ids_of(reading.nearest(vector, 3))
    assert "i0" not in ids_of(index.open_at(later).nearest(vectors[0], 10))


def test_the_index_is_trained_again_when_the_rows_have_doubled(lake, random):
    """Few new rows stay outside the index (they are scanned); as many as it has lead to a new training."""
    vectors = clustered(random, EXACT_BELOW + 1)
    index = Index(lake, TABLE)
    first = index.write(None, SCHEMA, [], rows(vectors))
    second = index.write(first, SCHEMA, [], rows(vectors[:10], prefix="few"))
    third = index.write(second, SCHEMA, [], rows(vectors, prefix="many"))
    indexed = [
        index.open_at(named).table.index_stats("vector_idx").num_indexed_rows
        for named in (first, second, third)
    ]
    assert indexed == [len(vectors), len(vectors), 2 * len(vectors) + 10]


def test_a_small_table_has_no_index(lake, random):
    """Exact search is kept as long as it is fast."""
    named = Index(lake, TABLE).write(None, SCHEMA, [], rows(clustered(random, 300)))
    assert Index(lake, TABLE).open_at(named).table.list_indices() == []


def test_a_table_gains_new_attribute_columns(lake, random):
    """Attributes that a collection keeps from now on are null in older rows; older versions lack them."""
    vectors = clustered(random, 3)
    index = Index(lake, TABLE)
    first = index.write(None, SCHEMA, [], rows(vectors))
    wider = rows(vectors[:1], price=pa.array([2.5]), label=pa.array(["new"]))
    second = index.write(first, wider.schema, ["i0"], wider)
    hits = index.open_at(second).nearest(vectors[0], 3).rows.to_pylist()
    assert {h["item_id"]: (h["price"], h["label"]) for h in hits} == {
        "i0": (2.5, "new"),
        "i1": (None, None),
        "i2": (None, None),
    }
    assert "price" not in index.open_at(first).nearest(vectors[0], 1).rows.column_names


def test_a_table_loses_attribute_columns_that_are_not_kept(lake, random):
    """Attributes taken out of the configuration go, and one with a new type begins anew."""
    vectors = clustered(random, 2)
    index = Index(lake, TABLE)
    before = rows(vectors, price=pa.array([1.0, 2.0]), size=pa.array([1, 2]))
    first = index.write(None, before.schema, [], before)
    after = rows(vectors[:1], size=pa.array(["XL"]))
    second = index.write(first, after.schema, ["i0"], after)
    hits = index.open_at(second).nearest(vectors[0], 2).rows.to_pylist()
    assert {h["item_id"]: h["size"] for h in hits} == {"i0": "XL", "i1": None}
    assert "price" not in hits[0]


@pytest.mark.parametrize("name", ["n", "größe", "with space", "Mixed Case", "1st", 'quo"te', "it's"])
def test_attributes_may_have_any_name(lake, random, name):
    """A column named as the user's table has it can be stored and comes back with its hit."""
    index = Index(lake, TABLE)
    wider = rows(clustered(random, 2), **{name: pa.array([1, 2])})
    named = index.write(None, wider.schema, [], wider)
    named = index.write(named, wider.schema, ["i1"], wider.slice(1))
    hits = index.open_at(named).nearest(np.ones(DIM, np.float32), 5).rows.to_pylist()
    assert sorted(h[name] for h in hits) == [1, 2]
