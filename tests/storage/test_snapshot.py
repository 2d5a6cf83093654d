"""A version is the fold of its log: which files and which rows of them are live."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import transaction
from storage.commits import Counts, succeeding
from storage.drafting import drafting
from storage.errors import Damaged, VersionGone
from storage.snapshot import Snapshot


def test_a_collection_never_committed_to_is_empty(lake, head):
    """Opening what is not there gives version 0 and makes no folder."""
    snapshot = head()
    assert (snapshot.version, snapshot.head, snapshot.masked) == (0, None, {})
    assert list(snapshot.read("items", ["item_id"])) == []
    assert snapshot.attributes() == pa.struct({})
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
    for version, expected in enumerate(told, start=1):
        past = Snapshot.open(head().root, at=version)
        assert (past.version, past.head.number) == (version, version)
        assert toy.read_items(past) == expected


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


@pytest.mark.parametrize("kind", ["items", "vectors", "rejects"])
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
def test_batches_are_the_same_rows_in_pieces(toy, commit, head, kind, rows):
    """File by file, with the positions that `read` tells, masked rows left out, and no table empty."""
    commit(
        toy.window({i: toy.Item(i * 12) for i in "abcdefg"}, rejects=[(None, f"{n}", "no") for n in range(9)])
    )
    commit(
        toy.window({"c": toy.Item("new"), "h": toy.Item("h" * 30)}, deleted=["a", "b", "g"], resolved=["4"])
    )
    columns = {"items": ["item_id", "text"], "vectors": ["vector", "item_id"], "rejects": ["uri"]}[kind]
    whole, pieces = {}, {}
    for file, positions, table in head().read(kind, columns, toy.SPACE):
        whole[file.path] = (positions.tolist(), table.to_pylist())
    for file, positions, table in head().batches(kind, columns, toy.SPACE, rows):
        assert 0 < table.num_rows == len(positions)
        assert table.column_names == columns
        assert kind == "vectors" or table.num_rows <= rows
        held = pieces.setdefault(file.path, ([], []))
        held[0].extend(positions.tolist())
        held[1].extend(table.to_pylist())
    assert pieces == whole


def test_batches_cut_no_item(toy, tmp_path_factory):
    """Whatever is masked: an item's chunks come together, and no table is longer than it must be."""

    @settings(deadline=None, derandomize=True, database=None, max_examples=10)
    @given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.data())
    def check(chunks, data):
        root = tmp_path_factory.mktemp("lake") / "docs"
        items = {f"i{n}": toy.Item("x" * 5 * count) for n, count in enumerate(chunks)}
        snapshot = transaction.commit(root.parent, "docs", toy.window(items))
        gone = data.draw(st.sets(st.sampled_from(sorted(items))))
        snapshot = transaction.commit(root.parent, "docs", toy.window(deleted=sorted(gone)), known=snapshot)
        for rows in range(1, 9):
            seen = []
            for _, _, table in snapshot.batches("vectors", ["item_id", "chunk_no"], toy.SPACE, rows):
                ids = table["item_id"].to_pylist()
                assert len(ids) < rows + max(chunks)
                assert not set(ids) & set(seen), "an item in two batches"
                seen += ids
            assert seen == [i for i, item in items.items() if i not in gone for _ in item.chunks]

    check()


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
    assert len(snapshot.files("deletes")) == 1
    assert {f.path for f in snapshot.all_files()} == {
        f.path for kind in ("items", "rejects", "deletes", "vectors") for f in snapshot.files(kind, toy.SPACE)
    }


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
    commit(toy.window(items, vectors={toy.SPACE: vectors}))
    got = head().vectors_of_chunks(toy.SPACE, pa.array(keys[::-1], pa.binary(16)), toy.DIM)
    assert got.tolist() == [toy.vector_of(f"text{k}") for k in (2, 1, 0)]
    assert len(head().chunk_hashes(toy.SPACE)) == 3


def test_attribute_types_are_those_of_the_newest_file(toy, commit, head):
    """Attributes keep the Arrow types that they were stored with."""
    commit(toy.window({"a": toy.Item("one", 1)}))
    assert head().attributes() == pa.struct({"n": pa.int64()})


def test_a_damaged_deletes_file_is_not_passed_over(toy, commit, head):
    """Without its masks a version would show dead rows: it is refused instead."""
    commit(toy.window({"a": toy.Item("one")}))
    record = commit(toy.window({"a": toy.Item("two")}))
    path = head().root / record.deletes[0].path
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Damaged, match=path.name):
        toy.read_items(head())


@pytest.fixture
def publish(lake):
    """Commit a record that is like the head but for what is given."""

    def with_(**changed):
        with drafting(lake / "docs") as draft:
            before = draft.before.head
            record = succeeding(before, verb="maintain", run_id="run", started_at=before.started_at)
            return draft.publish(record.model_copy(update=changed))

    return with_


@pytest.fixture
def three(toy, commit):
    """Three versions of one item."""
    for text in ("one", "two", "three"):
        commit(toy.window({"a": toy.Item(text)}))


def text_at(toy, lake, version):
    return toy.read_items(Snapshot.open(lake / "docs", at=version))["a"].text


@pytest.mark.parametrize("version", [-1, 0, 4, 10**30])
def test_a_version_that_never_was_is_named_with_those_that_are(three, lake, version):
    """Asking for it says what there is, and is the asker's mistake."""
    with pytest.raises(VersionGone, match=f"'docs' has no version {version}; there are: 1 to 3") as caught:
        Snapshot.open(lake / "docs", at=version)
    assert caught.value.exit_code == 2


def test_an_empty_collection_has_no_version(lake):
    """Not even version 0 can be asked for, and looking makes nothing."""
    for version in (0, 1):
        with pytest.raises(VersionGone, match=f"no version {version}; there are: none"):
            Snapshot.open(lake / "docs", at=version)
    assert not lake.exists()


def test_a_version_that_is_not_kept_is_named_with_the_first_that_is(three, toy, lake, publish):
    """Before `readable_from` nothing can be read, whatever files may still lie there; from it on all can."""
    publish(readable_from=3, releases=(toy.RELEASE.model_copy(update={"version": 3}),))
    for version in (1, 2):
        with pytest.raises(VersionGone, match=rf"version {version} of .*'docs'.*`retain:`.*from 3 on"):
            Snapshot.open(lake / "docs", at=version)
    assert [text_at(toy, lake, version) for version in (3, 4)] == ["three", "three"]
    assert publish().head.readable_from == 3, "it is carried on"
    with pytest.raises(VersionGone):
        Snapshot.open(lake / "docs", at=2)


def test_a_version_that_a_release_names_is_kept(three, toy, lake, publish):
    """What a release was made live in can be read as long as the release is not retired."""
    first = toy.RELEASE.model_copy(update={"version": 1})
    second = toy.SECOND.model_copy(update={"version": 3})
    index = Snapshot.open(lake / "docs").head.index
    both = {toy.SPACE: index, toy.SECOND_SPACE: index}
    publish(readable_from=4, releases=(first, second), live_release=2, indexes=both)
    assert [text_at(toy, lake, version) for version in (1, 3, 4)] == ["one", "three", "three"]
    with pytest.raises(VersionGone, match="give a version from 4 on"):
        Snapshot.open(lake / "docs", at=2)
    publish(releases=(first.model_copy(update={"retired": True}), second), indexes=both)
    with pytest.raises(VersionGone, match="version 1 of"):
        Snapshot.open(lake / "docs", at=1)
    assert text_at(toy, lake, 3) == "three"


def test_a_purged_version_is_gone_for_good(three, toy, lake, publish):
    """Before a purge nothing can be read, named by a release or not; from it on all can."""
    publish(purged_at=4, releases=(toy.RELEASE.model_copy(update={"version": 1}),))
    for version in (1, 2, 3):
        with pytest.raises(VersionGone, match=rf"version {version} of .*purged at 4.*from 4 on"):
            Snapshot.open(lake / "docs", at=version)
    assert text_at(toy, lake, 4) == "three"
    assert publish().head.purged_at == 4, "it is carried on"
    with pytest.raises(VersionGone, match="purged"):
        Snapshot.open(lake / "docs", at=3)


def test_a_snapshot_held_is_not_called_back(three, toy, lake, publish):
    """Who holds a version when retention lets go of it keeps reading it, as long as its files are there."""
    held = Snapshot.open(lake / "docs", at=1)
    publish(readable_from=3)
    assert toy.read_items(held) == {"a": toy.Item("one")}
    assert held.advanced().version == 4


def test_the_past_does_not_change(three, toy, lake, commit):
    """A version opened by its number is the same whatever was committed since."""
    past = Snapshot.open(lake / "docs", at=2)
    told = (past.state, past.history().to_pylist())
    commit(toy.window(deleted=["a"]))
    again = Snapshot.open(lake / "docs", at=2)
    assert (again.state, again.history().to_pylist()) == told
    assert toy.read_items(again) == {"a": toy.Item("two")}


def test_history_has_a_line_for_each_version(toy, lake, commit, head):
    """What each version did, what then held, and in which space, oldest first."""
    assert head().history().num_rows == 0
    counts = Counts(added=1, chunks=2, encoded=1)
    commit(toy.window({"a": toy.Item("one two")}, counts=counts, run_id="r1"))
    commit(toy.window(rejects=[("b", "b", "bad")], counts=Counts(rejected=1), run_id="r2"))
    lines = head().history().to_pylist()
    expected = [
        {
            "version": 1,
            "verb": "ingest",
            "run_id": "r1",
            "added": 1,
            "rejected": 0,
            "encoded": 1,
            "written": 2,
        },
        {
            "version": 2,
            "verb": "ingest",
            "run_id": "r2",
            "added": 0,
            "rejected": 1,
            "encoded": 0,
            "written": 0,
        },
    ]
    assert [{key: line[key] for key in expected[0]} for line in lines] == expected
    for line, rejects in zip(lines, (0, 1), strict=True):
        assert (line["items"], line["chunks"], line["rejects"]) == (1, 2, rejects)
        assert (line["release"], line["space_id"]) == (1, toy.SPACE)
        assert line["committed_at"] == Snapshot.open(lake / "docs", at=line["version"]).head.committed_at


def test_the_next_version_is_known_before_it_is_read(toy, commit, head):
    """`followed_by` gives what opening the log then gives, and leaves its own snapshot as it was."""
    commit(toy.window({"a": toy.Item("one")}))
    first = head()
    told = first.state.copy()
    record = commit(toy.window({"a": toy.Item("two"), "b": toy.Item("three")}))
    after = first.followed_by(record)
    assert after.state == head().state
    assert toy.read_items(after) == {"a": toy.Item("two"), "b": toy.Item("three")}
    assert (first.state, first.version) == (told, 1)


def test_live_files_say_where_they_come_from(toy, commit, head):
    """Each file with its kind, space and version; items with the attributes that they had then."""
    commit(toy.window({"a": toy.Item("one")}, rejects=[("x", "x", "bad")]))
    commit(toy.window({"a": toy.Item("two")}))
    snapshot = head()
    found = [
        (f.kind, f.space_id, f.since, f.attributes)
        for kind in ("items", "vectors", "rejects", "deletes")
        for f in snapshot.live_files(kind, toy.SPACE)
    ]
    assert found == [
        ("items", "", 1, "n:int64"),
        ("items", "", 2, "n:int64"),
        ("vectors", toy.SPACE, 1, ""),
        ("vectors", toy.SPACE, 2, ""),
        ("rejects", "", 1, ""),
        ("deletes", "", 2, ""),
    ]
