"""The index: readers see exactly the version that the log names, and an ANN index loses no hit."""

import hashlib
import logging
import shutil
import time
from datetime import timedelta

import lancedb
import numpy as np
import pyarrow as pa
import pytest

from storage import indexing
from storage.errors import Damaged
from storage.schemas import index_schema
from storage.vectors import EXACT_BELOW, Index, generation, table_name

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
    (made,) = (i for i in reading.table.list_indices() if i.columns == ["vector"])
    assert made.index_type.lower().replace("_", "") == "ivfsq"
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


def test_a_small_table_has_no_index_of_its_vectors(lake, random):
    """Exact search is kept as long as it is fast."""
    named = Index(lake, TABLE).write(None, SCHEMA, [], rows(clustered(random, 300)))
    indices = Index(lake, TABLE).open_at(named).table.list_indices()
    assert "vector" not in [column for index in indices for column in index.columns]


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


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def directory(lake, named):
    return lake / "index" / f"{named.table}.lance"


def delete_all(lake, named):
    """The table is gone."""
    shutil.rmtree(directory(lake, named))


def delete_manifests(lake, named):
    """No version of the table is left."""
    shutil.rmtree(directory(lake, named) / "_versions")


def go_back(lake, named):
    """The newest version of the table is lost, as in a restored backup."""
    path = directory(lake, named)
    versions = path / "_versions"
    for manifest in versions.glob("*.manifest"):
        if 2**64 - 1 - int(manifest.stem) >= named.version:
            manifest.unlink()
    (versions / "latest_version_hint.json").unlink(missing_ok=True)


def tear_manifests(lake, named):
    """Manifests lost their ends."""
    for manifest in (directory(lake, named) / "_versions").glob("*.manifest"):
        manifest.write_bytes(manifest.read_bytes()[:30])


def tear_data(lake, named):
    """Rows lost their ends."""
    for data in (directory(lake, named) / "data").iterdir():
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def delete_data(lake, named):
    """The table says which rows it has, but has them not."""
    shutil.rmtree(directory(lake, named) / "data")


def tear_deletions(lake, named):
    """Which rows are deleted cannot be told."""
    for file in (directory(lake, named) / "_deletions").iterdir():
        file.write_bytes(file.read_bytes()[:20])


def clean_up(lake, named):
    """Somebody's clean-up took the version that the record names."""
    table = lancedb.connect(lake / "index").open_table(named.table)
    table.delete("true")
    time.sleep(0.01)
    table.optimize(cleanup_older_than=timedelta(milliseconds=1), delete_unverified=True)


DAMAGE = [
    delete_all,
    delete_manifests,
    go_back,
    tear_manifests,
    tear_data,
    delete_data,
    tear_deletions,
    clean_up,
]


@pytest.fixture
def held(toy, commit):
    """Three windows with a change and a deletion among them; what the collection holds."""
    commit(toy.window({i: toy.Item(i * 7, k) for k, i in enumerate("abcd")}))
    commit(toy.window({"a": toy.Item("changed", 7)}, deleted=["b"]))
    commit(
        toy.window(
            refreshed={"c": toy.Item("ccccccc", 99)},
            index={toy.SPACE: toy.index_table({"c": toy.Item("ccccccc", 99)})},
        )
    )
    return {"a": toy.Item("changed", 7), "c": toy.Item("ccccccc", 99), "d": toy.Item("ddddddd", 3)}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_index_is_made_anew_by_the_next_writer(toy, lake, commit, head, held, caplog, damage):
    """In a generation of its own, with exactly the live rows, and one line that names the damage."""
    named = head().head.index
    damage(lake, named)
    caplog.clear()
    record = commit(toy.window({"e": toy.Item("eleven twelve", 11)}, deleted=["d"]))
    (said,) = warnings_of(caplog)
    assert str(directory(lake, named)) in said
    assert "new generation" in said
    assert generation(record.index.table) > generation(named.table)
    assert record.index.table == table_name("docs", toy.SPACE, generation(record.index.table))
    assert record.index.files != ()
    del held["d"]
    toy.assert_is(lake, head(), {**held, "e": toy.Item("eleven twelve", 11)})
    again = commit(toy.window({"a": toy.Item("again", 1)}))
    assert again.index.table == record.index.table
    toy.assert_is(lake, head(), {**held, "a": toy.Item("again", 1), "e": toy.Item("eleven twelve", 11)})
    assert len(warnings_of(caplog)) == 1


def test_a_table_that_a_record_names_is_never_another_one(toy, lake, commit, head, held):
    """Who holds an earlier version must not find rows of later ones under the name of its table."""
    earlier = head()
    delete_all(lake, earlier.head.index)
    for turn in range(4):
        commit(toy.window({"late": toy.Item("a late row", turn)}))
    with pytest.raises(Damaged):
        toy.read_index(lake, earlier.head)


def test_a_damaged_index_does_not_concern_a_window_without_rows_for_it(toy, lake, commit, head, held, caplog):
    """What needs nothing of the index is committed as ever; the next that does makes it anew."""
    delete_all(lake, head().head.index)
    commit(toy.window(rejects=[("x", "x", "bad")]))
    assert warnings_of(caplog) == []
    commit(toy.window(deleted=["a"]))
    assert len(warnings_of(caplog)) == 1
    toy.assert_is(lake, head(), {k: held[k] for k in "cd"}, [("x", "x", "bad")])


def test_an_index_of_one_space_is_made_anew_alone(toy, lake, commit, head, held, caplog):
    """The other space's table stays what it is."""
    commit(toy.filling({k: held[k] for k in "ac"}))
    damaged = head().head.indexes[toy.SECOND_SPACE]
    delete_all(lake, damaged)
    record = commit(toy.window(deleted=["a"]))
    assert len(warnings_of(caplog)) == 1
    assert record.index.table == table_name("docs", toy.SPACE)
    toy.assert_is(lake, head(), {k: held[k] for k in "cd"})
    toy.assert_space_is(lake, head(), {"c": held["c"]}, toy.SECOND_SPACE, toy.SECOND_DIM)


def test_an_empty_index_of_another_dimension_is_made_anew(toy, lake, commit, head, held):
    """A space without vectors yet has vectors of its own length, too."""
    commit(toy.window(release=toy.SECOND))
    delete_all(lake, head().head.indexes[toy.SECOND_SPACE])
    commit(toy.window(deleted=["a"]))
    commit(toy.filling({"c": held["c"]}))
    toy.assert_space_is(lake, head(), {"c": held["c"]}, toy.SECOND_SPACE, toy.SECOND_DIM)


def test_a_rebuilt_index_is_searched_like_the_one_before(lake, toy, commit, head, held, random):
    """Hits and scores of the table that is built from Parquet are those of the one that grew."""
    snapshot = head()
    grown = Index(lake, snapshot.head.index.table).open_at(snapshot.head.index)
    named = indexing.build(lake, snapshot, toy.SPACE)
    built = Index(lake, named.table).open_at(named)
    assert generation(named.table) > generation(snapshot.head.index.table)
    assert sorted(built.columns) == sorted(grown.columns)
    for query in random.normal(size=(5, toy.DIM)).astype(np.float32):
        one, other = grown.nearest(query, 9), built.nearest(query, 9)
        columns = sorted(grown.columns)
        assert one.rows.select(columns).to_pylist() == other.rows.select(columns).to_pylist()
        assert one.scores == pytest.approx(other.scores)


def test_rows_of_items_are_those_that_a_writer_made(lake, toy, head, held):
    """The index rows of some items, from Parquet, are what was merged for them; unknown ones have none."""
    found = indexing.rows_of(lake, head(), toy.SPACE, ["a", "c", "nobody"])
    made = toy.index_table({k: held[k] for k in "ac"})
    assert found.schema.equals(made.schema)
    assert (
        found.sort_by([("item_id", "ascending"), ("chunk_no", "ascending")]).to_pylist() == made.to_pylist()
    )
    assert indexing.rows_of(lake, head(), toy.SPACE, []).num_rows == 0


def test_an_index_says_which_files_are_new_in_it(lake, toy, commit, head, held):
    """Each record names the files of the table that it brought, with their hashes; together, all of them."""
    folder, told = directory(lake, head().head.index), {}
    for record in head().tail:
        assert not told.keys() & {f.path for f in record.index.files}
        told |= {f.path: f for f in record.index.files}
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(told) == {p for p in there if not p.endswith("latest_version_hint.json")}
    for path, file in told.items():
        content = (folder / path).read_bytes()
        assert (file.sha256, file.bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert head().state.index_files == {head().head.index.table: tuple(told.values())}
