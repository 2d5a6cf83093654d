"""A version is the fold of its log: which files and which rows of them are live."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from storage.errors import Damaged
from storage.snapshot import Snapshot


def test_a_collection_never_committed_to_is_empty(lake, head):
    """Opening what is not there gives version 0 and makes no folder."""
    snapshot = head()
    assert (snapshot.version, snapshot.head, snapshot.masked) == (0, None, {})
    assert list(snapshot.read("items", ["item_id"])) == []
    assert snapshot.attribute_types() == {}
    assert snapshot.advanced() is snapshot
    assert not lake.exists()


def test_advanced_sees_the_new_head(toy, commit, head):
    """A held snapshot stays what it is, and says so until there is a newer version."""
    empty = head()
    commit(toy.window({"a": toy.Item("one")}))
    first = empty.advanced()
    assert first.version == 1
    assert first.advanced() is first
    for text in ("two", "three"):
        commit(toy.window({"a": toy.Item(text)}))
    newest = first.advanced()
    assert newest.version == 3
    assert toy.read_items(newest) == {"a": toy.Item("three")}
    assert toy.read_items(first) == {"a": toy.Item("one")}
    assert toy.read_items(empty) == {}


def test_every_version_can_be_read_again(toy, commit, head):
    """A prefix of the log is the collection as it then was."""
    told = []
    for text in ("one", "two", "three"):
        commit(toy.window({"a": toy.Item(text), text: toy.Item(text)}))
        told.append({"a": toy.Item(text), **{t["a"].text: toy.Item(t["a"].text) for t in told}})
        told[-1][text] = toy.Item(text)
    snapshot = head()
    for version, expected in enumerate(told, start=1):
        assert toy.read_items(Snapshot(snapshot.root, snapshot.commits[:version])) == expected


def test_read_tells_the_positions_of_the_live_rows(toy, commit, head):
    """Positions count all rows of the file, so that they can be masked; masked rows are not among them."""
    commit(toy.window({i: toy.Item(i) for i in "abcde"}))
    commit(toy.window({"c": toy.Item("new")}, deleted=["a"]))
    found = {
        file.path: (positions.tolist(), table["item_id"].to_pylist())
        for file, positions, table in head().read("items", ["item_id"])
    }
    assert list(found.values()) == [([1, 3, 4], ["b", "d", "e"]), ([0], ["c"])]
    old = next(iter(found))
    assert head().masked[old].tolist() == [0, 2]


def test_positions_of_items_are_those_of_live_rows(toy, commit, head):
    """An id is found where its newest row lies, and an unknown one nowhere."""
    commit(toy.window({"a": toy.Item("1234567"), "b": toy.Item("x")}))
    commit(toy.window({"a": toy.Item("new")}))
    snapshot = head()
    newest = snapshot.files("items")[-1].path
    located = [(p, r.tolist()) for p, r in snapshot.positions_of("items", pa.array(["a", "nobody"]))]
    assert located == [(newest, [0])]
    assert list(snapshot.positions_of("items", pa.array(["nobody"]))) == []
    assert list(snapshot.positions_of("items", pa.array([], pa.string()))) == []
    chunks = [r.tolist() for _, r in snapshot.positions_of("vectors", pa.array(["b"]), toy.SPACE)]
    assert chunks == [[2]]


def test_rows_of_items_come_from_all_files(toy, commit, head):
    """The live rows of some items, whichever window wrote them; None if there are none."""
    for item_id in "abc":
        commit(toy.window({item_id: toy.Item(item_id * 7)}))
    rows = head().rows_of("vectors", pa.array(["a", "c"]), ["chunk_no"], toy.SPACE)
    assert [tuple(r.values()) for r in rows.to_pylist()] == [("a", 0), ("a", 1), ("c", 0), ("c", 1)]
    assert head().rows_of("items", pa.array(["nobody"]), ["text"]) is None


def test_files_are_those_of_one_kind_and_space(toy, commit, head):
    """Each kind lists its own files, oldest first; vectors only of the space that is asked for."""
    commit(toy.window({"a": toy.Item("one")}, rejects=[("x", "x", "bad")]))
    commit(toy.window({"a": toy.Item("two")}))
    snapshot = head()
    folders = {kind: {f.path.split("/")[1] for f in snapshot.files(kind)} for kind in ("items", "rejects")}
    assert folders == {"items": {"items"}, "rejects": {"rejects"}}
    assert [f.path.split("/")[2] for f in snapshot.files("vectors", toy.SPACE)] == [toy.SPACE] * 2
    assert snapshot.files("vectors", "other_space") == []
    assert len(snapshot.files("items")) == 2
    assert len(snapshot.delete_files()) == 1


def test_stored_vectors_are_found_by_the_hash_of_their_chunk(toy, commit, head):
    """Live chunks can be reused in the order asked for, repeated ones too; dead ones cannot."""
    commit(toy.window({"a": toy.Item("alpha" + "betas"), "b": toy.Item("gamma")}))
    commit(toy.window({"c": toy.Item("alpha" + "delta")}, deleted=["b"]))
    snapshot = head()

    def key(text):
        return hashlib.sha256(text.encode()).digest()[:16]

    stored = snapshot.chunk_hashes(toy.SPACE)
    assert stored.dtype == np.dtype("S16")
    expected = sorted(np.array([key(t) for t in ("alpha", "betas", "delta")], "S16").tolist())
    assert stored.tolist() == expected
    asked = ["delta", "alpha", "betas", "alpha"]
    got = snapshot.vectors_of_chunks(toy.SPACE, pa.array([key(t) for t in asked], pa.binary(16)), toy.DIM)
    assert got.dtype == np.float32
    assert got.tolist() == [toy.vector_of(t) for t in asked]
    with pytest.raises(KeyError, match="1 chunks are not stored"):
        snapshot.vectors_of_chunks(toy.SPACE, pa.array([key("gamma")], pa.binary(16)), toy.DIM)


def test_a_hash_that_ends_in_zero_bytes_is_found(toy, commit, head):
    """Trailing NUL bytes are part of a hash, not padding."""
    keys = [bytes(16), b"\x01" + bytes(15), b"\x01" * 16]
    items = {str(k): toy.Item(f"text{k}") for k in range(3)}
    vectors = toy.vectors_table(items)
    vectors = vectors.set_column(4, vectors.schema.field("chunk_hash"), pa.array(keys, pa.binary(16)))
    commit(toy.window(items, vectors=vectors))
    got = head().vectors_of_chunks(toy.SPACE, pa.array(keys[::-1], pa.binary(16)), toy.DIM)
    assert got.tolist() == [toy.vector_of(f"text{k}") for k in (2, 1, 0)]
    assert len(head().chunk_hashes(toy.SPACE)) == 3


def test_attribute_types_are_those_of_the_newest_file(toy, commit, head):
    """Attributes keep the Arrow types that they were stored with."""
    commit(toy.window({"a": toy.Item("one", 1)}))
    assert head().attribute_types() == {"n": pa.int64()}


def test_a_damaged_deletes_file_is_not_passed_over(toy, commit, head):
    """Without its masks a version would show dead rows: it is refused instead."""
    commit(toy.window({"a": toy.Item("one")}))
    record = commit(toy.window({"a": toy.Item("two")}))
    path = head().root / record.deletes[0].path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Damaged, match=path.name):
        toy.read_items(head())
