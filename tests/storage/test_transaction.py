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
from storage.commits import Counts, Log
from storage.errors import CommitConflict, StorageError
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
IDS = ["a", "b/c", "it's", "../d", "\N{GRINNING FACE}", "tab\t"]
ACTIONS = ["leave", "leave", "leave", "put", "put", "delete", "refresh", "stale", "reject", "resolve"]


class Model:
    """What a collection should hold: plain values, changed by the words of a window."""

    def __init__(self, toy):
        self._toy = toy
        self.items, self.rejects = {}, {}

    def window(self, actions):
        """Apply actions, (what, text, n) by id, and return them as a window."""
        toy = self._toy
        put, refreshed, stale, rejects, deleted, resolved = {}, {}, {}, [], [], []
        for item_id, (what, text, n) in actions.items():
            known = item_id in self.items
            if what == "put":
                put[item_id] = toy.Item(text, n)
                self.rejects.pop(item_id, None)
            elif what == "delete":
                deleted.append(item_id)
                self.items.pop(item_id, None)
                self.rejects.pop(item_id, None)
            elif what == "refresh" and known:
                refreshed[item_id] = toy.Item(self.items[item_id].text, n)
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
        return toy.window(
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


def test_any_sequence_of_windows_equals_a_dict(toy):
    """After each commit items, chunks, rejects, index and totals equal the model; so do older versions."""

    # no shrinking: with a real lake for every try it would take minutes
    phases = [Phase.explicit, Phase.generate]

    @settings(max_examples=25, deadline=None, derandomize=True, database=None, phases=phases)
    @given(windows)
    def check(history):
        with tempfile.TemporaryDirectory() as folder:
            lake, model, told = Path(folder), Model(toy), []
            for actions in history:
                transaction.commit(lake, "docs", model.window(actions))
                told.append((dict(model.items), list(model.rejects.values())))
                toy.assert_is(lake, Snapshot.open(lake / "docs"), *told[-1])
            commits = Snapshot.open(lake / "docs").commits
            assert [c.number for c in commits] == list(range(1, len(history) + 1))
            assert [c.parent for c in commits] == list(range(len(history)))
            for version, expected in enumerate(told, start=1):
                toy.assert_is(lake, Snapshot(lake / "docs", commits[:version]), *expected)

    check()


def test_an_empty_window_is_a_version_that_changes_nothing(toy, lake, commit, head):
    """A record without files advances the head and keeps the index version it found."""
    first = commit(toy.window({"a": toy.Item("one")}))
    second = commit(toy.window())
    assert (second.number, second.index) == (2, first.index)
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
    assert (record.verb, record.run_id, record.offset) == ("ingest", "run", "17")
    assert (record.counts, record.encode_seconds) == (counts, 2.5)
    assert (record.attributes, record.live) == ({"n": "int64"}, toy.RELEASE)
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
    assert len(set((lake / "docs/data").rglob("*.parquet")) - files) == 3, "items, vectors, deletes"
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
    """When the index cannot be written, all data files are there, and readers see the version before."""
    items = {"a": toy.Item("one")}
    commit(toy.window(items))
    files = set((lake / "docs/data").rglob("*.parquet"))

    def broken(self, *_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Index, "write", broken)
    with pytest.raises(OSError, match="Input/output"):
        commit(toy.window({"a": toy.Item("two")}))
    monkeypatch.undo()
    written = set((lake / "docs/data").rglob("*.parquet")) - files
    assert {p.relative_to(lake / "docs/data").parts[0] for p in written} == {"items", "vectors", "deletes"}
    assert sorted(parquet.pq.read_metadata(p).num_rows for p in written) == [1, 1, 2], "all are whole"
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
            vectors=toy.vectors_table(items),
            refreshed=None,
            index=toy.index_table(items, none),
        )
    )
    assert record.attributes == {} == head().attribute_types()
    toy.assert_is(lake, head(), items)
