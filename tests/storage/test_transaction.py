"""One window becomes one version, wholly or not at all, and a random history equals a plain dict."""

import os
import tempfile
import threading
from pathlib import Path

import lancedb
import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from storage import parquet, transaction
from storage.commits import Counts, Log, Origins, succeeding
from storage.drafting import drafting
from storage.errors import CommitConflict, Damaged, StorageError
from storage.locks import lock
from storage.snapshot import Snapshot
from storage.vectors import Index

NASTY_IDS = [
    "it's",
    '"double"',
    "'; DROP TABLE docs; --",
    "a/b\\c",
    "../../etc/passwd",
    "..",
    "%like_",
    "\N{GRINNING FACE}\N{ZERO WIDTH JOINER}\N{ROCKET}",
    "e\N{COMBINING ACUTE ACCENT}",
    "\N{LATIN SMALL LETTER E WITH ACUTE}",
    "tab\tline\nreturn\r",
    "\x01\x1b[31m\x7f",
    " leading and trailing ",
    "\N{RIGHT-TO-LEFT OVERRIDE}abc\N{LINE SEPARATOR}",
    "NULL",
    "long " * 1000,
]


def test_any_sequence_of_windows_equals_a_dict(toy):
    """After each commit items, chunks, rejects, index and totals equal the model; so do older versions.

    The snapshot that a commit returns, one opened anew and one held all along are the same.
    """

    # no shrinking: with a real lake for every try it would take minutes
    phases = [Phase.explicit, Phase.generate]

    @settings(max_examples=16, deadline=None, derandomize=True, database=None, phases=phases)
    @given(toy.windows)
    def check(history):
        with tempfile.TemporaryDirectory() as folder:
            lake, model, told = Path(folder), toy.Model(), []
            held = Snapshot.open(lake / "docs")
            for turn, actions in enumerate(history):
                known = held if turn % 2 else None
                after = transaction.commit(lake, "docs", model.window(actions), known=known)
                told.append((dict(model.items), list(model.rejects.values())))
                held = held.advanced()
                assert after.state == held.state == Snapshot.open(lake / "docs").state
                toy.assert_is(lake, after, *told[-1])
            assert [c.number for c in held.tail] == list(range(1, len(history) + 1))
            assert [c.parent for c in held.tail] == list(range(len(history)))
            for version, expected in enumerate(told, start=1):
                toy.assert_is(lake, Snapshot.open(lake / "docs", at=version), *expected)

    check()


def test_an_empty_window_is_a_version_that_changes_nothing(toy, lake, commit, head):
    """A record without files advances the head and keeps the index version it found."""
    first = commit(toy.window({"a": toy.Item("one")}))
    second = commit(toy.window())
    assert second.number == 2
    assert second.index == first.index.model_copy(update={"files": ()}), "the same, and nothing new in it"
    assert (second.items, second.vectors, second.rejects, second.deletes) == ((), {}, (), ())
    toy.assert_is(lake, head(), {"a": toy.Item("one")})


def test_the_first_window_may_hold_no_item(toy, lake, commit, head):
    """A run that only rejected is a version too, with an index that can be searched."""
    rejects = [(None, "broken.csv#row=3", "two values"), ("b", "b.txt", "binary")]
    commit(toy.window(rejects=rejects))
    toy.assert_is(lake, head(), {}, rejects)


def test_nasty_ids_survive_everywhere(toy, lake, commit, head):
    """Ids with quotes, slashes, emoji and control characters are stored, masked and deleted exactly."""
    items = {item_id: toy.Item(f"text {k}", k) for k, item_id in enumerate(NASTY_IDS)}
    commit(toy.window(items))
    toy.assert_is(lake, head(), items)
    changed = {item_id: toy.Item("new", 0) for item_id in NASTY_IDS[::3]}
    commit(toy.window(changed, deleted=NASTY_IDS[1::3]))
    left = {i: changed.get(i, item) for i, item in items.items() if i not in NASTY_IDS[1::3]}
    toy.assert_is(lake, head(), left)
    commit(toy.window(deleted=list(left)))
    toy.assert_is(lake, head(), {})


def test_an_item_that_shrinks_leaves_no_surplus_chunks(toy, lake, commit, head):
    """All chunks of an item are replaced together, in Parquet and in the index."""
    commit(toy.window({"a": toy.Item("x" * 42), "b": toy.Item("y" * 12)}))
    assert commit(toy.window({"a": toy.Item("z")})).index.rows == 4
    toy.assert_is(lake, head(), {"a": toy.Item("z"), "b": toy.Item("y" * 12)})


def test_many_deletions_in_one_window(toy, lake, commit, head):
    """More deletions than one statement of the index takes are all carried out."""
    commit(toy.window({f"i{k}": toy.Item("t") for k in range(10_050)}))
    record = commit(toy.window(deleted=[f"i{k}" for k in range(10_049)]))
    assert (record.total_items, record.index.rows) == (1, 1)
    toy.assert_is(lake, head(), {"i10049": toy.Item("t")})


def test_deleting_an_item_that_is_not_there_is_no_error(toy, lake, commit, head):
    """The same deletion delivered twice is one deletion."""
    commit(toy.window({"a": toy.Item("one"), "b": toy.Item("two")}))
    for _ in range(2):
        commit(toy.window(deleted=["b"]))
    toy.assert_is(lake, head(), {"a": toy.Item("one")})


def test_the_same_window_twice_is_one_window(toy, lake, commit, head):
    """A window that is delivered again leaves the same rows, none of them doubled."""
    items = {"a": toy.Item("one two three"), "b": toy.Item("four")}
    rejects = [("c", "c.txt", "binary"), (None, "t.csv#row=1", "two values")]
    for _ in range(2):
        commit(toy.window(items, rejects=rejects))
    toy.assert_is(lake, head(), items, rejects)


def test_rejects_are_cleared_by_id_or_by_uri(toy, commit, head):
    """A reject goes when its item lands, is deleted or is resolved; one without an id by its uri."""
    commit(toy.window(rejects=[(i, f"{i}.txt", "old") for i in "abcd"] + [(None, "t.csv#row=1", "old")]))
    commit(toy.window({"a": toy.Item("good")}, deleted=["b"], rejects=[("c", "c.txt", "new")]))
    left = [("c", "c.txt", "new"), ("d", "d.txt", "old"), (None, "t.csv#row=1", "old")]
    assert sorted(map(str, toy.read_rejects(head()))) == sorted(map(str, left))
    commit(toy.window(resolved=["d", "t.csv#row=1"]))
    assert toy.read_rejects(head()) == [("c", "c.txt", "new")]


def test_a_record_says_what_the_window_said(toy, commit):
    """Run, counts, offset, attributes and release stand in the record, with the files on disk."""
    counts = Counts(added=1, chunks=1)
    record = commit(toy.window({"a": toy.Item("one")}, counts=counts, offset="17", encode_seconds=2.5))
    live = toy.RELEASE.model_copy(update={"version": 1})
    assert (record.verb, record.run_id, record.offset) == ("ingest", "run", "17")
    assert (record.counts, record.encode_seconds) == (counts, 2.5)
    assert (record.attributes, record.live) == ({"n": "int64"}, live)
    assert [f.path.rpartition("/")[0] for f in record.items] == ["data/items"]
    assert {s: [f.rows for f in files] for s, files in record.vectors.items()} == {toy.SPACE: [1]}


def fail_at_the_record(monkeypatch):
    """The disk is full just when the record should be written."""

    def full(self, record):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Log, "append", full)


def newest(lake, table):
    """Version of the LanceDB table, whatever the log says."""
    return lancedb.connect(lake / "index").open_table(table).version


def test_the_record_is_the_last_step_and_the_next_commit_repairs(toy, lake, commit, head, monkeypatch):
    """Without its record a window is invisible though data and index were written; the next one is right."""
    items = {"a": toy.Item("one two"), "b": toy.Item("three")}
    first = commit(toy.window(items))
    files = set((lake / "docs/data").rglob("*.parquet"))
    fail_at_the_record(monkeypatch)
    with pytest.raises(OSError, match="No space"):
        commit(toy.window({"a": toy.Item("changed"), "c": toy.Item("new")}, deleted=["b"]))
    monkeypatch.undo()
    assert set((lake / "docs/data").rglob("*.parquet")) == files, "what failed takes up no room"
    assert newest(lake, first.index.table) > first.index.version, "the index ran ahead"
    toy.assert_is(lake, head(), items)
    commit(toy.window({"c": toy.Item("other")}))
    toy.assert_is(lake, head(), {**items, "c": toy.Item("other")})


def test_a_first_commit_that_failed_leaves_nothing(toy, lake, commit, head, monkeypatch):
    """The rows of a first window that was never committed are in no later version."""
    fail_at_the_record(monkeypatch)
    with pytest.raises(OSError, match="No space"):
        commit(toy.window({"a": toy.Item("one")}))
    monkeypatch.undo()
    assert head().version == 0
    commit(toy.window({"b": toy.Item("two")}))
    toy.assert_is(lake, head(), {"b": toy.Item("two")})


def test_a_number_that_is_taken_at_the_last_moment_is_a_conflict(toy, lake, commit, head, monkeypatch):
    """A writer that comes too late changes nothing that readers see, and the next commit is right."""
    items = {"a": toy.Item("one two"), "b": toy.Item("three")}
    first = commit(toy.window(items))
    append = Log.append

    def too_late(log, record):
        append(log, first.model_copy(update={"number": 2, "parent": 1, "items": (), "vectors": {}}))
        append(log, record)

    monkeypatch.setattr(Log, "append", too_late)
    with pytest.raises(CommitConflict, match="version 2 of 'docs'"):
        commit(toy.window({"a": toy.Item("changed")}, deleted=["b"]))
    monkeypatch.undo()
    assert newest(lake, first.index.table) > first.index.version, "the index ran ahead"
    toy.assert_is(lake, head(), items)
    assert commit(toy.window({"c": toy.Item("four")}, deleted=["a"])).number == 3
    toy.assert_is(lake, head(), {"b": toy.Item("three"), "c": toy.Item("four")})


def test_parquet_is_durable_before_the_index_is_touched(toy, lake, commit, head, monkeypatch):
    """When the index is written all data files are there, whole; if that fails, they go and none is seen."""
    items = {"a": toy.Item("one")}
    commit(toy.window(items))
    files = set((lake / "docs/data").rglob("*.parquet"))
    written = {}

    def broken(self, *_):
        new = set((lake / "docs/data").rglob("*.parquet")) - files
        written.update({p: parquet.pq.read_metadata(p).num_rows for p in new})
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Index, "write", broken)
    with pytest.raises(OSError, match="Input/output"):
        commit(toy.window({"a": toy.Item("two")}))
    monkeypatch.undo()
    assert {p.relative_to(lake / "docs/data").parts[0] for p in written} == {"items", "vectors", "deletes"}
    assert sorted(written.values()) == [1, 1, 2], "all were whole"
    assert set((lake / "docs/data").rglob("*.parquet")) == files, "nothing is left of them"
    toy.assert_is(lake, head(), items)


def test_everything_is_synced_before_the_record_is_linked(toy, lake, commit, monkeypatch):
    """Data files, then index files, then the record; each folder after its files; and the log's at last."""
    done = []
    fsync, link = os.fsync, os.link

    def synced(handle):
        fsync(handle)
        done.append(os.fstat(handle).st_ino)

    def linked(source, target):
        link(source, target)
        done.append("link")

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "link", linked)
    commit(toy.window({"a": toy.Item("one two"), "b": toy.Item("three")}))
    known, done[:] = set(lake.rglob("*")), []
    record = commit(toy.window({"a": toy.Item("changed")}, rejects=[("c", "c", "bad")], deleted=["b"]))
    place = {path.stat().st_ino: path for path in lake.rglob("*")}
    order = [place.get(entry, entry) for entry in done]
    new = set(place.values()) - known
    linked_at = order.index("link")

    def last(path):
        return max(at for at, entry in enumerate(order[:linked_at]) if entry == path)

    named = (*record.items, *record.vectors[toy.SPACE], *record.rejects, *record.deletes)
    data = [lake / "docs" / file.path for file in named]
    index = [p for p in new if p.is_file() and lake / "index" in p.parents]
    assert len(data) == 4
    assert index
    assert max(map(last, data)) < min(map(last, index)) < last(Log(lake / "docs").path(2)) < linked_at
    for path in (*data, *index):
        assert last(path) < last(path.parent), path
    assert lake / "docs/_commits" in order[linked_at:]


def test_new_folders_are_made_durable_in_their_parents(toy, lake, commit, monkeypatch):
    """A folder whose parent was not synced can be lost with all its files, however well they were synced."""
    synced = set()
    fsync = os.fsync

    def note(handle):
        fsync(handle)
        synced.add(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", note)
    commit(toy.window({"a": toy.Item("one")}, rejects=[("b", "b", "bad")]))
    folders = [p for p in lake.rglob("*") if p.is_dir() and p.name != "_locks"]
    assert [str(p.relative_to(lake)) for p in folders if p.parent.stat().st_ino not in synced] == []


def test_files_of_an_interrupted_commit_are_not_seen(toy, lake, commit, head):
    """Parquet files that no record names belong to no version, before and after the next commit."""
    items = {"a": toy.Item("one")}
    commit(toy.window(items))
    lost = {"a": toy.Item("lost"), "b": toy.Item("lost too")}
    parquet.write(lake / "docs", "data/items", toy.items_table(lost))
    parquet.write(lake / "docs", f"data/vectors/{toy.SPACE}", toy.vectors_table(lost))
    toy.assert_is(lake, head(), items)
    commit(toy.window({"c": toy.Item("three")}))
    toy.assert_is(lake, head(), {**items, "c": toy.Item("three")})


def test_a_table_moved_between_commits_is_restored(toy, lake, commit, head):
    """Rows that another program put into the index are in no version that a record names."""
    first = commit(toy.window({"a": toy.Item("one")}))
    table = lancedb.connect(lake / "index").open_table(first.index.table)
    table.add(toy.index_table({"x": toy.Item("foreign")}))
    table.delete("item_id = 'a'")
    toy.assert_is(lake, head(), {"a": toy.Item("one")})
    commit(toy.window({"b": toy.Item("two")}))
    toy.assert_is(lake, head(), {"a": toy.Item("one"), "b": toy.Item("two")})


class Meddled(list):
    """Ids to delete; when they are looked at, another program has just written to the table."""

    def __init__(self, ids, meddle):
        super().__init__(ids)
        self._meddle = meddle

    def __getitem__(self, at):
        self._meddle()
        return super().__getitem__(at)


def test_a_table_that_moves_during_the_write_is_a_conflict(toy, lake, commit, head):
    """A second writer of the table is noticed, its rows are taken out, and no record is made."""
    first = commit(toy.window({"a": toy.Item("one"), "b": toy.Item("two")}))
    other = lancedb.connect(lake / "index").open_table(first.index.table)
    foreign = toy.index_table({"x": toy.Item("foreign")})
    gone = Meddled(["a"], lambda: other.add(foreign))
    rows = toy.index_table({"a": toy.Item("new")})
    with pytest.raises(CommitConflict, match="another program writes to it"):
        Index(lake, first.index.table).write(first.index, rows.schema, gone, rows)
    assert Log(lake / "docs").numbers() == [1]
    now = lancedb.connect(lake / "index").open_table(first.index.table)
    assert sorted(now.to_arrow()["item_id"].to_pylist()) == ["a", "b"], "restored"
    commit(toy.window({"a": toy.Item("new")}))
    toy.assert_is(lake, head(), {"a": toy.Item("new"), "b": toy.Item("two")})


def test_windows_committed_at_once_all_land(toy, lake):
    """Writers that commit at the same time wait for each other: every window is a version, none is lost."""
    start = threading.Barrier(4)
    failed = []

    def write(writer):
        start.wait()
        for turn in range(3):
            items = {f"w{writer}-{turn}": toy.Item("new"), "shared": toy.Item(f"w{writer}", turn)}
            try:
                transaction.commit(lake, "docs", toy.window(items))
            except StorageError as error:
                failed.append(error)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    snapshot = Snapshot.open(lake / "docs")
    items = toy.read_items(snapshot)
    assert snapshot.version == 12
    assert set(items) == {"shared", *(f"w{writer}-{turn}" for writer in range(4) for turn in range(3))}
    toy.assert_is(lake, snapshot, items)


def test_collections_of_one_lake_do_not_meet(toy, lake):
    """Equal ids in two collections are two items, with logs and indexes of their own."""
    for name, text in (("docs", "one"), ("docs_old", "two")):
        transaction.commit(lake, name, toy.window({"a": toy.Item(text)}))
    transaction.commit(lake, "docs", toy.window(deleted=["a"]))
    toy.assert_is(lake, Snapshot.open(lake / "docs"), {})
    toy.assert_is(lake, Snapshot.open(lake / "docs_old"), {"a": toy.Item("two")})


def test_items_without_attributes(toy, lake, commit, head):
    """A collection that keeps no attributes has no such column, in Parquet or in the index."""
    none = pa.struct([])
    items = {"a": toy.Item("one")}
    record = commit(
        toy.window(
            attributes=none,
            items=toy.items_table(items, none),
            vectors={toy.SPACE: toy.vectors_table(items)},
            refreshed=None,
            index={toy.SPACE: toy.index_table(items, none)},
        )
    )
    assert record.attributes == {}
    assert head().attributes() == pa.struct([])
    toy.assert_is(lake, head(), items)


def test_an_item_is_either_new_or_refreshed(toy, lake, commit):
    """A window that says both of one item is a mistake of its maker, and leaves nothing behind."""
    with pytest.raises(ValueError, match="'a' is among the new and the refreshed"):
        commit(toy.window({"a": toy.Item("one")}, refreshed={"a": toy.Item("one", 2)}))
    assert not lake.exists()


def lake_files(lake):
    """Everything that a version could be made of, with its time."""
    found = [p for p in lake.rglob("*") if p.is_file() and "_locks" not in p.parts]
    return {p: p.stat().st_mtime_ns for p in found}


ITEMS = ("a", "one two three"), ("b", "four"), ("c", "five six")


@pytest.fixture
def two(toy, commit):
    """A collection whose items have vectors in the live space, and but for `c` in a second one; its items."""
    items = {item_id: toy.Item(text, k) for k, (item_id, text) in enumerate(ITEMS)}
    commit(toy.window(items))
    commit(toy.filling({k: items[k] for k in "ab"}))
    return items


def assert_second_is(toy, lake, snapshot, items):
    toy.assert_space_is(lake, snapshot, items, toy.SECOND_SPACE, toy.SECOND_DIM)


def test_a_second_release_is_added_beside_the_live_one(two, toy, lake, head):
    """Its vectors lie in a space and an index of their own; what readers get stays what it was."""
    snapshot = head()
    record = snapshot.head
    toy.assert_is(lake, snapshot, two)
    assert_second_is(toy, lake, snapshot, {k: two[k] for k in "ab"})
    assert (record.live_release, record.live.version) == (1, 1)
    assert record.releases[1:] == (toy.SECOND,), "never live yet"
    assert set(record.indexes) == set(record.spaces) == {toy.SPACE, toy.SECOND_SPACE}
    assert record.items == record.deletes == ()
    assert record.indexes[toy.SPACE].files == ()
    assert record.indexes[toy.SECOND_SPACE].files != ()
    before = Snapshot.open(lake / "docs", at=1)
    toy.assert_is(lake, before, two)
    assert list(before.head.indexes) == [toy.SPACE]
    assert before.files("vectors", toy.SECOND_SPACE) == []


def test_changed_and_deleted_items_go_from_every_space(two, toy, lake, commit, head):
    """A window that knows one space takes old vectors of its items out of the others, and their indexes."""
    changed = {"a": toy.Item("changed now", 9)}
    commit(toy.window(changed))
    left = {**two, **changed}
    toy.assert_is(lake, head(), left)
    assert_second_is(toy, lake, head(), {"b": two["b"]})
    commit(toy.window(deleted=["b"]))
    toy.assert_is(lake, head(), {k: left[k] for k in "ac"})
    assert_second_is(toy, lake, head(), {})
    commit(toy.filling(changed))
    assert_second_is(toy, lake, head(), changed)


def test_a_window_may_bring_vectors_of_every_space(two, toy, lake, commit, head):
    """New content with vectors in both spaces is in both at once."""
    changed = {"b": toy.Item("fourteen and more"), "d": toy.Item("new")}
    vectors = {
        toy.SPACE: toy.vectors_table(changed),
        toy.SECOND_SPACE: toy.vectors_table(changed, toy.SECOND_DIM),
    }
    index = {
        toy.SPACE: toy.index_table(changed),
        toy.SECOND_SPACE: toy.index_table(changed, dim=toy.SECOND_DIM),
    }
    commit(toy.window(changed, vectors=vectors, index=index))
    toy.assert_is(lake, head(), {**two, **changed})
    assert_second_is(toy, lake, head(), {"a": two["a"], **changed})


def test_new_attributes_reach_every_index(two, toy, lake, commit, head):
    """Items of which only attributes changed keep their vectors in both spaces; both indexes show the new."""
    refreshed = {"a": toy.Item(two["a"].text, 77)}
    both = {
        toy.SPACE: toy.index_table(refreshed),
        toy.SECOND_SPACE: toy.index_table(refreshed, dim=toy.SECOND_DIM),
    }
    commit(toy.window(refreshed=refreshed, index=both))
    toy.assert_is(lake, head(), {**two, **refreshed})
    assert_second_is(toy, lake, head(), {**refreshed, "b": two["b"]})


def test_vectors_made_again_replace_the_ones_before(two, toy, lake, commit, head):
    """Filling an item twice leaves it once; and counts move with the origin."""
    assert head().head.spaces[toy.SECOND_SPACE] == Origins(encoded=4)
    commit(toy.filling({"b": two["b"], "c": two["c"]}, origin="imported"))
    assert head().head.spaces[toy.SECOND_SPACE] == Origins(encoded=3, imported=3)
    assert_second_is(toy, lake, head(), two)
    for _ in range(2):
        commit(toy.filling({"c": two["c"]}, origin="mapped"))
    assert head().head.spaces[toy.SECOND_SPACE] == Origins(encoded=3, imported=1, mapped=2)
    assert_second_is(toy, lake, head(), two)
    commit(toy.window(deleted=["a", "c"]))
    assert head().head.spaces == {toy.SPACE: Origins(encoded=1), toy.SECOND_SPACE: Origins(imported=1)}
    assert head().head.total_items == 1


@pytest.mark.parametrize("what", ["changed", "deleted", "never there"])
def test_vectors_of_what_an_item_was_are_a_conflict(two, toy, lake, commit, head, what):
    """If an item is not what its vectors were made from any more, nothing of the window is kept."""
    filled = {"c": two["c"]}
    if what == "changed":
        commit(toy.window({"c": toy.Item("five seven")}))
    elif what == "deleted":
        commit(toy.window(deleted=["c"]))
    else:
        filled = {"d": toy.Item("nobody")}
    before, version = lake_files(lake), head().version
    with pytest.raises(CommitConflict, match=r"item '[cd]' of collection 'docs' was changed") as caught:
        commit(toy.filling({"a": two["a"], **filled}))
    assert caught.value.exit_code == 3
    assert (lake_files(lake), head().version) == (before, version)
    assert_second_is(toy, lake, head(), {k: two[k] for k in "ab"})


def test_vectors_of_an_item_whose_attributes_changed_are_no_conflict(two, toy, lake, commit, head):
    """What counts is the content: a refreshed or stale item still is what its vectors were made from."""
    commit(toy.window(stale={"c": two["c"].marked()}, rejects=[("c", "c", "bad")]))
    commit(toy.filling({"c": two["c"]}))
    assert_second_is(toy, lake, head(), two)


@pytest.mark.parametrize(
    "wrong",
    [{"release": 4}, {"space_id": "another_4_22222222"}, {"release": 1}],
    ids=["a number is left out", "its number is taken", "its number is of another space"],
)
def test_a_release_that_is_not_there_is_a_conflict(two, toy, lake, commit, head, wrong):
    """A window of a release that is not the collection's, by number and space, is not committed."""
    version = head().version
    window = toy.filling({"c": two["c"]}, release=toy.SECOND.model_copy(update=wrong))
    with pytest.raises(CommitConflict, match="is not there any more"):
        commit(window)
    assert head().version == version
    assert_second_is(toy, lake, head(), {k: two[k] for k in "ab"})


@pytest.fixture
def retired(two, toy, lake, head):
    """The same, its second release retired, with its index and its vectors gone."""
    with drafting(lake / "docs") as draft:
        before = draft.before.head
        record = succeeding(before, verb="maintain", run_id="run", started_at=before.started_at)
        changed = {
            "releases": (before.releases[0], before.releases[1].model_copy(update={"retired": True})),
            "indexes": {toy.SPACE: record.indexes[toy.SPACE]},
            "removed": tuple(f.path for f in draft.before.files("vectors", toy.SECOND_SPACE)),
            "spaces": {toy.SPACE: before.spaces[toy.SPACE]},
        }
        draft.publish(record.model_copy(update=changed))
    return two


def test_a_retired_release_is_written_to_no_more(retired, toy, lake, commit, head):
    """A window of it is a conflict, and windows of the live one make no index for it."""
    with pytest.raises(CommitConflict, match="release 2 of collection 'docs' is not there any more"):
        commit(toy.filling({"c": retired["c"]}))
    record = commit(toy.window({"a": toy.Item("changed", 9)}, deleted=["b"]))
    assert list(record.indexes) == list(record.spaces) == [toy.SPACE]
    toy.assert_is(lake, head(), {"a": toy.Item("changed", 9), "c": retired["c"]})


def test_the_next_release_after_a_retired_one_has_the_next_number(retired, toy, lake, commit, head):
    """Numbers are not given twice, and a space may come back under a new one."""
    third = toy.SECOND.model_copy(update={"release": 3})
    commit(toy.filling({"c": retired["c"]}, release=third))
    assert [(r.release, r.retired) for r in head().head.releases] == [(1, False), (2, True), (3, False)]
    assert_second_is(toy, lake, head(), {"c": retired["c"]})


def test_a_space_that_comes_back_does_not_change_the_past(retired, toy, lake, commit):
    """A version that names the table of a retired release never shows rows of the release that follows."""
    past = Snapshot.open(lake / "docs", at=2)
    told = toy.read_index(lake, past.head, toy.SECOND_SPACE)
    third = toy.SECOND.model_copy(update={"release": 3})
    for item_id in "cab":
        commit(toy.filling({item_id: retired[item_id]}, release=third))
    assert toy.read_index(lake, past.head, toy.SECOND_SPACE) == told


def test_a_release_without_vectors_yet_has_an_empty_index(toy, lake, commit, head):
    """From the version that adds it, it can be searched, and finds nothing."""
    commit(toy.window({"a": toy.Item("one")}))
    commit(toy.window(release=toy.SECOND))
    assert_second_is(toy, lake, head(), {})
    commit(toy.window({"a": toy.Item("two")}))
    assert_second_is(toy, lake, head(), {})
    toy.assert_is(lake, head(), {"a": toy.Item("two")})


def test_any_sequence_of_windows_with_two_releases_equals_a_dict(toy):
    """Whatever is put, deleted, refreshed and filled: both spaces and both indexes hold what they should."""
    fills = st.lists(st.sets(st.sampled_from(toy.IDS)), min_size=6, max_size=6)
    phases = [Phase.explicit, Phase.generate]

    @settings(max_examples=6, deadline=None, derandomize=True, database=None, phases=phases)
    @given(toy.windows, fills)
    def check(history, fills):
        with tempfile.TemporaryDirectory() as folder:
            lake = Path(folder)
            for held, model, filled in toy.with_two_releases(lake, history, fills):
                toy.assert_is(lake, held, model.items, list(model.rejects.values()))
                assert_second_is(toy, lake, held, {i: model.items[i] for i in filled})
            assert held.state == Snapshot.open(lake / "docs").state

    check()


@pytest.mark.parametrize("what", ["removed", "replaced", "let go"])
def test_a_lost_lease_cannot_commit(toy, lake, commit, head, what):
    """A job whose lease is not its own any more is refused at its commit, and readers see nothing of it."""
    items = {"a": toy.Item("one"), "b": toy.Item("two")}
    commit(toy.window(items))
    owner = lake / "docs" / "_locks" / "ingest.owner.json"
    with lock(lake / "docs", "ingest") as lease:
        transaction.commit(lake, "docs", toy.window({"b": toy.Item("two!")}), lease=lease)
        if what == "removed":
            owner.unlink()
        elif what == "replaced":
            owner.write_text('{"host": "there", "pid": 1, "since": "now", "nonce": "another"}')
    if what == "let go":
        assert not owner.exists()
    with pytest.raises(CommitConflict, match="lease of collection 'docs' was lost") as caught:
        transaction.commit(
            lake,
            "docs",
            toy.window({"a": toy.Item("late")}, deleted=["b"], rejects=[("c", "c", "bad")]),
            lease=lease,
        )
    assert caught.value.exit_code == 3
    items["b"] = toy.Item("two!")
    toy.assert_is(lake, head(), items)
    assert (head().version, Log(lake / "docs").numbers()) == (2, [1, 2])
    commit(toy.window({"c": toy.Item("three")}))
    toy.assert_is(lake, head(), {**items, "c": toy.Item("three")})


@pytest.mark.parametrize("lost", ["ingest", "commit"])
def test_a_lease_lost_while_the_window_is_written_is_noticed(toy, lake, commit, head, monkeypatch, lost):
    """Both leases are asked once more right before the record, after everything else was done."""
    items = {"a": toy.Item("one")}
    commit(toy.window(items))
    write = Index.write

    def slept(self, *given):
        done = write(self, *given)
        (lake / "docs" / "_locks" / f"{lost}.owner.json").unlink()
        return done

    monkeypatch.setattr(Index, "write", slept)
    window = toy.window({"a": toy.Item("late")})
    with lock(lake / "docs", "ingest") as lease, pytest.raises(CommitConflict, match="was lost"):
        transaction.commit(lake, "docs", window, lease=lease)
    monkeypatch.undo()
    toy.assert_is(lake, head(), items)
    commit(toy.window({"b": toy.Item("two")}))
    toy.assert_is(lake, head(), {**items, "b": toy.Item("two")})


def test_a_writer_goes_on_from_what_others_committed(toy, lake, commit, head):
    """`known` may be old: the window is made against the head, whatever the writer had in hand."""
    commit(toy.window({"a": toy.Item("one"), "b": toy.Item("two")}))
    known = head()
    commit(toy.window({"c": toy.Item("three")}, deleted=["b"]))
    after = transaction.commit(lake, "docs", toy.window({"a": toy.Item("new")}), known=known)
    assert after.version == 3
    toy.assert_is(lake, after, {"a": toy.Item("new"), "c": toy.Item("three")})
    assert after.state == head().state


def test_a_writer_does_not_go_on_over_damage(toy, lake, commit, head):
    """A record that is torn in one place is read by readers; a writer stops, and has written nothing."""
    commit(toy.window({"a": toy.Item("one")}))
    known = head()
    commit(toy.window({"a": toy.Item("two")}))
    path = Log(lake / "docs").path(2)
    path.write_bytes(path.read_bytes()[:-1])
    before = lake_files(lake)
    for hand in (None, known):
        with pytest.raises(Damaged, match=path.name) as caught:
            transaction.commit(lake, "docs", toy.window({"b": toy.Item("three")}), known=hand)
        assert caught.value.exit_code == 5
    assert lake_files(lake) == before
    toy.assert_is(lake, head(), {"a": toy.Item("two")})
