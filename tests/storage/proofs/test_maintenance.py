"""Maintenance changes files, never rows: whatever is compacted, indexed anew, let go or swept."""

import json
import os
import time
from datetime import UTC, datetime, timedelta

import pytest

from flows.maintain import MaintainRequest
from flows.maintain import maintain as run_maintain
from storage import compaction, generations, indexing, maintenance, parquet, places, retention
from storage.commits import Log
from storage.errors import CommitConflict, VersionGone
from storage.locks import lock
from storage.retention import Retention
from storage.snapshot import Snapshot
from storage.vectors import Index, generation, tables


def bytes_of(folder):
    """Every file below a folder with its bytes and time."""
    found = [p for p in folder.rglob("*") if p.is_file()]
    return {p.relative_to(folder): (p.read_bytes(), p.stat().st_mtime_ns) for p in found}


def live_paths(snapshot):
    return {f.path for f in snapshot.all_files()}


@pytest.mark.parametrize("seed", [1, *(pytest.param(k, marks=pytest.mark.slow) for k in range(2, 8))])
def test_maintenance_changes_no_row_of_any_version(story, lake, maintain, seed):
    """Rows, masks, totals, indexes and every earlier version are the same; only files become fewer."""
    tale = story(lake, seed)
    tale.grow(6)
    before = tale.head
    done = maintain(rebuild=True)
    after = tale.head
    assert (done.version, done.readable_from) == (after.version, 1)
    assert after.version > before.version
    assert sum(len(after.files(kind)) for kind in ("items", "rejects", "deletes")) <= 3
    assert all(len(after.files("vectors", space)) <= 1 for space in after.spaces())
    assert not after.masked, "files that were rewritten hold live rows only"
    tale.is_live()
    for version in tale.told:
        tale.holds(version)
    for kept in ("attributes", "releases", "live_release", "offset"):
        assert getattr(after.head, kept) == getattr(before.head, kept), kept


def test_a_second_maintenance_does_nothing(tale, lake, maintain):
    """What was just maintained needs nothing: no version, no byte, and a plan that is empty."""
    tale.grow(4)
    maintain(rebuild=True)
    before = bytes_of(lake)
    done = maintain()
    assert (done.rewritten, done.indexes, done.retired, done.removed) == (0, [], [], 0)
    assert bytes_of(lake).keys() == before.keys()
    assert {p: b for p, (b, _) in bytes_of(lake).items()} == {p: b for p, (b, _) in before.items()}
    assert maintenance.plan(lake, tale.head, Retention(14, 1), rebuild=False).is_empty


def test_an_empty_collection_needs_nothing(lake, maintain):
    """Nothing is made where there is nothing."""
    done = maintain()
    assert (done.version, done.rewritten, done.removed) == (0, 0, 0)


def between(monkeypatch, owner, name, do):
    """Right after a function was called for the first time, do something."""
    whole, todo = getattr(owner, name), [do]

    def called(*given, **more):
        made = whole(*given, **more)
        while todo:
            todo.pop()()
        return made

    monkeypatch.setattr(owner, name, called)


@pytest.mark.parametrize(
    "group",
    [
        pytest.param(0, id="items"),
        pytest.param(1, id="first space", marks=pytest.mark.slow),
        pytest.param(2, id="second space", marks=pytest.mark.slow),
        pytest.param(3, id="rejects", marks=pytest.mark.slow),
    ],
)
def test_what_is_committed_while_files_are_joined_is_taken_over(tale, maintain, monkeypatch, group):
    """Rows that others mask between the writing of a file and its commit are masked there; new ones stay."""
    tale.grow(4)
    tale.act({i: ("put", f"text of {i} and more", 1) for i in tale.toy.IDS[:5]} | {"r": ("reject", "x", 1)})
    tale.act({tale.toy.IDS[5]: ("reject", "bad", None)})
    tale.fill(1.0)
    a, b, c, d, e, _ = tale.toy.IDS

    def meanwhile():
        tale.act({a: ("delete", "", None), b: ("put", "edited", 2), "new": ("put", "quite new", 3)})
        tale.act({c: ("refresh", "", 7), d: ("stale", "why", None), "r": ("resolve", "", None)})
        tale.fill(0.7)
        tale.act({"new": ("put", "n", None), e: ("put", "x" * 12, None)})

    whole, calls = compaction.rewrite, []

    def rewrite(snapshot, given):
        made = whole(snapshot, given)
        calls.append(given.kind)
        if len(calls) == group + 1:
            meanwhile()
        return made

    monkeypatch.setattr(compaction, "rewrite", rewrite)
    maintain()
    assert calls == ["items", "vectors", "vectors", "rejects"]
    tale.is_live()
    tale.tell(tale.head.version)
    for version in tale.told:
        tale.holds(version)
    monkeypatch.undo()
    maintain()
    tale.is_live()


def test_files_that_left_meanwhile_are_not_replaced(tale, lake, monkeypatch):
    """A group of which a file is not live any more is left alone, and its new file removed."""
    tale.grow(4)
    snapshot = tale.head
    group = compaction.groups(snapshot)[0]
    with lock(lake / "docs", "maintain") as lease:
        first = compaction.compact(snapshot, group, "run", datetime.now(UTC), lease)
        files = bytes_of(lake / "docs/data")
        again = compaction.compact(snapshot, group, "run", datetime.now(UTC), lease)
    assert again.version == first.version == snapshot.version + 1
    assert bytes_of(lake / "docs/data") == files
    tale.is_live()


def test_a_group_without_live_rows_leaves_no_file(tale, maintain):
    """Where everything was deleted, no file of items, vectors, rejects or masks stays live."""
    tale.act({i: ("put", "text", 1) for i in "abc"} | {"r": ("reject", "x", 1)})
    tale.fill(1.0)
    tale.act({i: ("delete", "", None) for i in "abcr"})
    maintain()
    assert tale.head.all_files() == []
    tale.is_live()
    tale.act({"a": ("put", "back", 1)})
    tale.is_live()


@pytest.mark.parametrize(
    "second",
    [pytest.param(False, id="live space"), pytest.param(True, id="other space", marks=pytest.mark.slow)],
)
def test_a_new_generation_has_what_was_committed_while_it_was_built(
    tale, lake, maintain, monkeypatch, second
):
    """New, edited, deleted, refreshed and newly filled items are in the new table as they are in Parquet."""
    tale.act({i: ("put", f"text of {i}", 1) for i in tale.toy.IDS})
    tale.fill(0.5)
    a, b, c, *_ = tale.toy.IDS
    whole, calls = indexing.build, []

    def build(*given):
        made = whole(*given)
        calls.append(made.table)
        if len(calls) == (2 if second else 1):
            tale.act({a: ("delete", "", None), b: ("put", "shrunk", 2), "new": ("put", "quite new", 3)})
            tale.act({c: ("refresh", "", 7)})
            tale.fill(1.0)
        return made

    monkeypatch.setattr(indexing, "build", build)
    done = maintain(rebuild=True)
    head = tale.head.head
    assert sorted(done.indexes) == sorted([tale.toy.SPACE, tale.toy.SECOND_SPACE])
    assert sorted(i.table for i in head.indexes.values()) == sorted(calls)
    assert all(generation(table) > 1 for table in calls)
    tale.is_live()
    tale.act({b: ("put", "after that", 2), c: ("delete", "", None)})
    tale.is_live()


def test_an_index_of_many_files_is_made_anew(tale, lake, maintain, monkeypatch):
    """When a table has gathered many files the next generation has few, and answers the same."""
    monkeypatch.setattr(maintenance, "MOST_INDEX_FILES", 12)
    tale.grow(4)
    many = len(tale.head.index_files(tale.head.head.index))
    assert many > 12
    assert tale.toy.SPACE in maintain().indexes
    head = tale.head
    files = head.index_files(head.head.index)
    assert len(files) <= 12
    directory = Index(lake, head.head.index.table).directory
    assert {f.path: f.sha256 for f in files} == {f.path: parquet.sha256(directory / f.path) for f in files}
    tale.is_live()


def aged(path, hours):
    """Make a file (or all files of a folder) as old as that."""
    then = time.time() - hours * 3600
    for one in [path] if path.is_file() else path.rglob("*"):
        os.utime(one, (then, then))


def test_the_sweep_takes_what_nobody_needs_and_nothing_else(tale, lake, clock, maintain):
    """Old files and tables of our own naming that no kept version names go; all others stay."""
    tale.grow(4)
    maintain(rebuild=True)
    root, head = lake / "docs", tale.head
    left = ["data/items/" + "0" * 32 + ".parquet", f"data/vectors/{tale.toy.SPACE}/" + "1" * 32 + ".parquet"]
    left += ["data/deletes/" + "2" * 32 + ".parquet", "_commits/." + "3" * 32 + ".tmp"]
    fresh = "data/rejects/" + "4" * 32 + ".parquet"
    foreign = ["data/items/notes.txt", "README.md", "data/items/" + "5" * 31 + ".parquet", "data/x.parquet"]
    for name in (*left, fresh, *foreign):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"left behind")
    named = {index.table for index in head.head.indexes.values()}
    for path in (*root.rglob("*"), lake / "index"):
        aged(path, 2)
    clock.move(hours=2)
    soon = time.time() + 7200
    os.utime(root / fresh, (soon, soon))
    others = [t for t in tables(lake) if t not in named]
    assert others
    kept = {p for p in root.rglob("*") if p.is_file()} - {root / name for name in left}
    done = maintain()
    assert done.removed == len(left) + len(others)
    assert {p for p in root.rglob("*") if p.is_file()} == kept
    assert set(tables(lake)) == named
    tale.is_live()
    for version in tale.told:
        tale.holds(version)


def test_the_tables_of_a_collection_with_a_longer_name_are_not_swept(story, lake, maintain):
    """`docs` and `docs__old` are two collections: maintaining the one leaves the index of the other."""
    one, other = story(lake, 3), story(lake, 4, collection="docs__old")
    one.grow(2)
    other.grow(2)
    aged(lake / "index", 2)
    maintain()
    other.is_live()


def test_versions_older_than_retention_are_let_go_and_younger_ones_are_not(tale, lake, clock, maintain):
    """The version that was the head so many days ago is the oldest that can be read; its files are kept."""
    clock.move(days=-5)
    for _ in range(5):
        tale.step()
        clock.move(days=1)
    assert maintain(days=2.5).readable_from == 3
    with pytest.raises(VersionGone, match="give a version from 3 on"):
        Snapshot.open(lake / "docs", at=2)
    aged(lake, 200)
    maintain(days=2.5)
    for version in (3, 4, 5):
        tale.holds(version)
    tale.is_live()
    # version 1 is named by release 1; 2 is not, and what it alone held is gone
    tale.holds(1)
    assert maintain(days=2.5).removed == 0, "once is enough"
    assert maintain(days=100).readable_from == 3, "what was let go does not come back"


def test_nothing_of_the_last_hour_is_let_go(tale, maintain):
    """With `days: 0` there still is a grace for whoever is reading."""
    tale.grow(3)
    assert maintain(days=0).readable_from == 1
    for version in tale.told:
        tale.holds(version)


def test_what_is_let_go_is_removed(tale, lake, clock, maintain):
    """After retention only files of kept versions are there, each of them once and whole."""
    tale.grow(5)
    clock.move(days=3)
    tale.step()
    maintain(days=1)
    clock.move(days=3)
    aged(lake, 1000)
    maintain(days=1)
    head = tale.head
    kept = live_paths(head) | live_paths(Snapshot.open(lake / "docs", at=1))
    on_disk = {p.relative_to(lake / "docs").as_posix() for p in (lake / "docs/data").rglob("*.parquet")}
    assert on_disk == kept
    tale.is_live()
    tale.holds(1)


def test_a_version_that_a_release_names_stays_readable(tale, lake, clock, maintain):
    """However old it is, `release N@V` can be read while the release is not retired."""
    from storage.releases import make_live

    tale.grow(4)
    clock.move(days=1)
    version = make_live(lake / "docs", 2, "promote", "run").version
    tale.tell(version)
    clock.move(days=1)
    tale.step()
    for _ in range(3):
        clock.move(days=20)
        tale.commit(tale.toy.filling({}))
        tale.tell(maintain(days=14, releases=1).version)
        aged(lake, 2000)
    maintain(days=14, releases=1)
    head = tale.head.head
    assert [(r.release, r.retired) for r in head.releases] == [(1, True), (2, False)], "14 days are over"
    assert head.readable_from > version
    frozen = Snapshot.open(lake / "docs", at=version)
    items, rejects, filled = tale.told[version]
    toy = tale.toy
    assert toy.read_items(frozen) == items
    assert len(toy.read_rejects(frozen)) == len(rejects)
    chunks = {(i, number) for i in filled for number in range(len(items[i].chunks))}
    assert {row[:2] for row in toy.read_vectors(frozen, toy.SECOND_SPACE)} == chunks
    assert frozen.spaces() == [toy.SECOND_SPACE], "the space of the retired release is gone"
    with pytest.raises(VersionGone):
        Snapshot.open(lake / "docs", at=version - 1)
    with pytest.raises(VersionGone):
        Snapshot.open(lake / "docs", at=1)


def test_a_reader_of_an_old_version_goes_on_within_the_grace(tale, lake, maintain):
    """Who opened a version before maintenance reads all of it afterwards, from Parquet."""
    tale.grow(5)
    held, version = tale.head, tale.head.version
    aged(lake, 30)  # a quiet night: nothing was written for long
    maintain(days=0, rebuild=True)
    tale.holds(version, held)


def test_a_reader_of_an_old_index_goes_on_within_the_grace(tale, lake, toy, maintain):
    """Who opened the index before a new generation was made searches it afterwards, however old its files."""
    tale.act({i: ("put", f"text of {i}", 1) for i in toy.IDS})
    named = tale.head.head.index
    reading = Index(lake, named.table).open_at(named)
    aged(lake, 30)
    maintain(days=0, rebuild=True)
    assert Index(lake, named.table).open_at(named).rows == named.rows, "opened by who holds the old version"
    assert sorted(reading.table.to_arrow()["item_id"].to_pylist()) == sorted(
        i for i in toy.IDS for _ in toy.Item(f"text of {i}").chunks
    )


def test_the_old_index_goes_once_the_grace_is_over(tale, lake, clock, maintain):
    """The generation before is removed by a maintenance an hour later."""
    tale.step()
    maintain(days=0, rebuild=True)
    assert len(tables(lake)) == 2
    aged(lake, 3)
    clock.move(hours=2)
    assert maintain(days=0).removed >= 1
    assert tables(lake) == [tale.head.head.index.table]
    tale.is_live()


def test_a_lost_lease_stops_maintenance(tale, lake, monkeypatch):
    """Compaction, a new generation and the sweep commit nothing once the lease is another's."""
    tale.grow(3)
    version = tale.head.version
    root = lake / "docs"
    with lock(root, "maintain") as lease:
        snapshot = tale.head
        work = maintenance.plan(lake, snapshot, Retention(14, 1), rebuild=True)
        (root / "_locks/maintain.owner.json").write_text(json.dumps({"nonce": "another"}))
        with pytest.raises(CommitConflict, match="was lost"):
            maintenance.carry_out(lake, snapshot, work, Retention(14, 1), "run", lease)
        facts = {"verb": "maintain", "run_id": "run", "started_at": datetime.now(UTC), "lease": lease}
        with pytest.raises(CommitConflict, match="was lost"):
            generations.make(lake, snapshot, tale.toy.SPACE, **facts)
    assert tale.head.version == version
    tale.is_live()


def test_retiring_a_release_takes_its_vectors_and_nothing_else(tale, lake, clock, maintain):
    """Its space, vectors and index leave the head, and its table goes once the grace is over."""
    from storage.releases import make_live

    tale.grow(4)
    toy = tale.toy
    make_live(lake / "docs", 2, "promote", "run")
    clock.move(hours=2)
    make_live(lake / "docs", 1, "rollback", "run")
    tale.tell(tale.head.version)
    done = maintain(releases=0)
    assert done.retired == [2]
    head = tale.head
    assert list(head.head.spaces) == list(head.head.indexes) == [toy.SPACE]
    assert head.files("vectors", toy.SECOND_SPACE) == []
    tale.is_live()
    tale.filled.clear()
    tale.step()
    tale.is_live()
    aged(lake, 1000)
    clock.move(days=20)
    maintain(releases=0)
    assert [t for t in tables(lake) if toy.SECOND_SPACE in t] == []
    tale.is_live()


def test_the_files_of_a_retired_release_go_in_the_end(tale, lake, clock, maintain):
    """When no version of the last days has its vectors any more, they are gone from the disk."""
    from storage.releases import make_live

    tale.grow(4)
    make_live(lake / "docs", 2, "promote", "run")
    make_live(lake / "docs", 1, "rollback", "run")
    assert maintain(releases=0).retired == [2]
    tale.filled.clear()
    for _ in range(2):
        clock.move(days=20)
        tale.step()
        aged(lake, 1000)
        maintain(releases=0)
    assert not list((lake / "docs/data/vectors" / tale.toy.SECOND_SPACE).glob("*"))


def test_retiring_a_release_needs_no_second_maintenance(tale, lake, maintain):
    """Masks of vectors that leave with a release leave with it."""
    from storage.releases import make_live

    tale.act({i: ("put", "text", 1) for i in "abc"})
    tale.fill(1.0)
    make_live(lake / "docs", 2, "promote", "run")
    make_live(lake / "docs", 1, "rollback", "run")
    maintain(releases=1)
    # vectors of the second space alone have masked rows, too few for their file to be rewritten
    tale.commit(tale.toy.filling({"a": tale.model.items["a"]}))
    compaction_only_when_many = pytest.MonkeyPatch()
    compaction_only_when_many.setattr(compaction, "SMALL_ROWS", 0)
    compaction_only_when_many.setattr(compaction, "MASKED_SHARE", 0.9)
    try:
        assert maintain(releases=0).retired == [2]
        assert maintenance.plan(lake, tale.head, Retention(14, 0), rebuild=False).is_empty
    finally:
        compaction_only_when_many.undo()


def test_a_release_that_a_bridge_leads_through_stays_as_long_as_the_bridge(tale, lake, clock, maintain):
    """It is not retired before, however old; nor can a record be made in which it is."""
    from storage.releases import make_live

    toy, root = tale.toy, lake / "docs"
    tale.grow(2)
    bridge = toy.RELEASE.model_copy(update={"release": 3, "strategy": "bridge", "through": 2})
    tale.commit(tale.toy.window(release=bridge))
    for number in (2, 3, 1):
        make_live(root, number, "promote", "run")
    tale.tell(tale.head.version)
    assert maintain(releases=1).retired == [], "the bridge was live last, and needs the other"
    assert [r.release for r in retention.dispensable(tale.head.head, tale.head.head.releases[1:2])] == []
    record = tale.head.head
    assert retention.without(record, record.releases[1:2]) == record
    clock.move(days=20)
    tale.step()
    assert sorted(maintain(days=1, releases=5).retired) == [2, 3], "together they can go"
    assert list(tale.head.head.spaces) == [toy.SPACE], "which the live release has, too"
    tale.filled.clear()
    tale.is_live()
    clock.move(days=20)
    tale.step()
    assert maintain(days=1, releases=5).readable_from > tale.head.head.live.version
    then = Snapshot.open(root, at=tale.head.head.live.version).head
    assert [r.release for r in then.releases if not r.retired] == [1], "the bridge has no basis any more"


def test_a_space_that_two_releases_have_stays_with_the_other(tale, lake, clock, maintain):
    """Retiring the one takes nothing from the other, whose index is maintained at the same time."""
    from storage.releases import make_live

    toy, root = tale.toy, lake / "docs"
    tale.grow(2)
    same = toy.RELEASE.model_copy(update={"release": 3, "strategy": "reuse", "fingerprint": "another"})
    tale.commit(toy.window(release=same))
    make_live(root, 3, "promote", "run")
    tale.tell(tale.head.version)
    before = tale.head.head.indexes[toy.SPACE].table
    done = maintain(releases=0, rebuild=True)
    assert done.retired == [1]
    assert toy.SPACE in done.indexes
    assert tale.head.head.indexes[toy.SPACE].table != before
    tale.is_live()


def test_a_dry_run_changes_no_byte(make_project, run_ingest):
    """`maintain --dry-run` says what would be done, and every file and its time stay as they were."""
    project = make_project()
    for turn in range(3):
        for name in "abc":
            (project.root / f"docs/{name}.txt").write_text(f"text {turn} of {name}")
        run_ingest(project)
    before = bytes_of(project.lake)
    for rebuild in (False, True):
        report = run_maintain(project, MaintainRequest("docs", rebuild_index=rebuild, dry_run=True))
        assert report.dry_run
        assert report.done
        assert (report.bytes_before, report.files_before) == (report.bytes_after, report.files_after)
        assert bytes_of(project.lake) == before
    report = run_maintain(project, MaintainRequest("docs", rebuild_index=True))
    assert bytes_of(project.lake) != before
    assert any("rewritten into fewer" in line for line in report.done)
    assert report.version == Log(project.lake / "docs").numbers()[-1]


def test_needed_files_are_those_of_kept_versions(tale, lake, clock):
    """What retention calls needed is what the kept versions, opened one by one, have."""
    tale.grow(6)
    head = tale.head
    every = {p for v in tale.told for p in live_paths(Snapshot.open(lake / "docs", at=v))}
    assert retention.needed_files(head) == every
    assert {e.path for e in places.walk(lake / "docs") if e.path.startswith("data/")} == every
    assert retention.unneeded(lake, head, timedelta(0)) == ([], [])
