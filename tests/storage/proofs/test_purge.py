"""After a purge no byte of the lake holds what was deleted, edited or rejected; all else is as it was."""

import contextlib
import os
import shutil
import time

import lancedb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.maintain import MaintainRequest
from flows.maintain import maintain as run_maintain
from storage import checkpoints, maintenance, parquet, places, transaction
from storage.commits import Log
from storage.errors import CommitConflict, LakeBusy, VersionGone
from storage.locks import lock
from storage.releases import make_live
from storage.snapshot import Snapshot
from storage.vectors import Index
from tasks.errors import Refused

WORDS = ["zqdel", "zqold", "zqlng"]
GONE = [
    *WORDS,
    "zq-deleted-id",
    "zq-rejected-id",
    "zqreason",
    "zqnoid",
    "zqorphan",
    "zqahead",
    "zqspool",
    "zqreport",
]
"""What must not be found; in lower case, for words are indexed so. `WORDS` are chunks of five letters."""


def dig(lake):
    """Everything below a lake as text: raw bytes, decoded Parquet, every readable version of every table."""
    for path in sorted(lake.rglob("*")):
        if not path.is_file():
            continue
        yield str(path), path.read_bytes().lower()
        if path.suffix == ".parquet":
            yield f"{path} decoded", repr(pq.read_table(path).to_pylist()).encode().lower()
    database = lancedb.connect(lake / "index")
    for name in database.list_tables().tables if (lake / "index").exists() else ():
        for version in database.open_table(name).list_versions():
            table = database.open_table(name)
            table.checkout(version["version"])
            place = f"{name} at {version['version']}"
            yield place, repr(table.to_arrow().to_pylist()).encode().lower()
            for word in WORDS:
                with contextlib.suppress(RuntimeError, ValueError):  # a version without an index of words
                    rows = table.search(word, query_type="fts", fts_columns="text").to_arrow()
                    yield f"{place}, words", repr(rows.to_pylist()).encode().lower()


def found(lake, needles=GONE):
    """Which needles lie where."""
    where = {}
    for place, content in dig(lake):
        for needle in needles:
            if needle.encode() in content:
                where.setdefault(needle, []).append(place)
    return where


class Died(BaseException):
    """A process that is killed."""


@pytest.fixture(scope="module")
def soiled(tmp_path_factory):
    """The folder of a lake in which everything that a purge must find is somewhere."""
    return tmp_path_factory.mktemp("soiled")


LIVE = {"kept": ("zkkept text of some length", 1), "edited": ("zknew", 2), "short": ("zkend", None)}


def soil(toy, lake):
    """Deleted, edited, shrunk, rejected and left-behind data; what then is live is `LIVE`."""

    def items(**given):
        return {i.replace("_", "-"): toy.Item(text, n) for i, (text, n) in given.items()}

    def commit(window):
        return transaction.commit(lake, "docs", window)

    first = {**LIVE, "edited": ("zqold of before", 1), "short": ("zkendzqlngzqlng", None)}
    deleted = items(zq_deleted_id=("zqdel", 5))
    commit(toy.window({**items(**first), **deleted}))
    rejected = [("zq-rejected-id", "zq-rejected-id.txt", "zqreason"), (None, "zqnoid.csv#row=1", "zqreason")]
    commit(toy.window(rejects=rejected))
    commit(toy.filling({**items(**first), **deleted}))
    make_live(lake / "docs", 2, "promote", "run")
    make_live(lake / "docs", 1, "rollback", "run")
    commit(toy.window({"edited": toy.Item(*LIVE["edited"])}, deleted=["zq-deleted-id"]))
    commit(toy.window({"short": toy.Item(*LIVE["short"])}, resolved=["zq-rejected-id", "zqnoid.csv#row=1"]))
    commit(toy.filling({"edited": toy.Item(*LIVE["edited"])}))
    head = commit(toy.window(rejects=[("bad", "bad.txt", "zk stands")])).head
    # what dead writers left: files without a record, rows ahead of the log, a spool, reports
    orphan = {"zqorphan": toy.Item("zqorphan")}
    parquet.write(lake / "docs", "data/items", toy.items_table(orphan))
    parquet.write(lake / "docs", f"data/vectors/{toy.SPACE}", toy.vectors_table(orphan))
    table = lancedb.connect(lake / "index").open_table(head.index.table)
    table.add(toy.index_table({"zqahead": toy.Item("zqahead")}))
    for folder, word in (("_spool/run", "zqspool"), ("reports/1", "zqreport")):
        (lake / "docs" / folder).mkdir(parents=True)
        (lake / "docs" / folder / "x.arrow").write_text(word)


@pytest.fixture
def dirty(toy, lake, soiled, monkeypatch):
    """A lake of one's own with all of that; a checkpoint every other version."""
    monkeypatch.setattr(checkpoints, "EVERY", 2)
    if not (soiled / "lake").exists():
        soil(toy, soiled / "lake")
    shutil.copytree(soiled / "lake", lake)
    return lake


def assert_live(toy, lake):
    snapshot = Snapshot.open(lake / "docs")
    items = {i: toy.Item(*facts) for i, facts in LIVE.items()}
    toy.assert_is(lake, snapshot, items, [("bad", "bad.txt", "zk stands")])
    second = {i: item for i, item in items.items() if i != "short"}  # it was not filled again
    toy.assert_space_is(lake, snapshot, second, toy.SECOND_SPACE, toy.SECOND_DIM)
    return snapshot


def test_what_was_deleted_is_nowhere(toy, dirty, purge):
    """No id or text of a deleted item, no old text of an edited one, no cleared reject, no leftover."""
    before = found(dirty)
    assert set(before) == set(GONE), "the search finds all of it before"
    for needle in ("zqdel", "zqold"):
        assert any("decoded" in place for place in before[needle])
        assert any("__g1 at" in place for place in before[needle])
        assert any(place.endswith("words") for place in before[needle])
    version = Snapshot.open(dirty / "docs").version
    done = purge()
    assert found(dirty) == {}
    assert "zkkept" in found(dirty, ["zkkept"]), "and what is live afterwards"
    after = assert_live(toy, dirty)
    assert done.version == after.version > version
    assert done.pending == [], "no process holds a removed file open"


def test_versions_before_a_purge_cannot_be_read(toy, dirty, purge):
    """Each of them says that it was purged, and at which version; a release that names one does not help."""
    done = purge()
    assert Snapshot.open(dirty / "docs").head.purged_at == done.version
    for version in range(1, done.version):
        with pytest.raises(VersionGone, match=f"version {version} of .* was purged at {done.version}"):
            Snapshot.open(dirty / "docs", at=version)
    toy.assert_is(
        dirty,
        Snapshot.open(dirty / "docs", at=done.version),
        {i: toy.Item(*facts) for i, facts in LIVE.items()},
        [("bad", "bad.txt", "zk stands")],
    )
    history = Snapshot.open(dirty / "docs").history()
    assert history["version"].to_pylist() == list(range(1, done.version + 1)), "what happened is still told"


def test_a_purged_collection_goes_on(toy, dirty, purge, maintain):
    """Windows, maintenance and another purge work as ever, and bring nothing back."""
    purge()
    transaction.commit(dirty, "docs", toy.window({"later": toy.Item("zklater")}, deleted=["kept"]))
    maintain(rebuild=True)
    done = purge()
    assert found(dirty) == {}
    assert found(dirty, ["zkkept"]) == {}
    items = {i: toy.Item(*facts) for i, facts in LIVE.items() if i != "kept"} | {"later": toy.Item("zklater")}
    toy.assert_is(dirty, Snapshot.open(dirty / "docs"), items, [("bad", "bad.txt", "zk stands")])
    with pytest.raises(VersionGone, match=f"purged at {done.version}"):
        Snapshot.open(dirty / "docs", at=done.version - 1)


def test_a_purge_after_maintenance_finds_what_that_kept(toy, dirty, purge, maintain):
    """Files that compaction replaced and earlier generations of the index hold old texts: they go as well."""
    maintain(rebuild=True)
    assert found(dirty, ["zqdel"]) != {}
    purge()
    assert found(dirty) == {}
    assert_live(toy, dirty)


def test_the_times_of_files_do_not_matter(toy, dirty, purge):
    """Files that a clock which ran ahead has dated tomorrow are purged like all others."""
    tomorrow = time.time() + 86_400
    for path in dirty.rglob("*"):
        os.utime(path, (tomorrow, tomorrow))
    purge()
    assert found(dirty) == {}
    assert_live(toy, dirty)


def test_another_collection_is_not_touched(toy, dirty, purge):
    """A purge is of one collection, even if another holds the same items under a name that begins alike."""
    items = {"zq-deleted-id": toy.Item("zqdel", 5)}
    for name in ("docs_old", "other"):
        transaction.commit(dirty, name, toy.window(items))
        transaction.commit(dirty, name, toy.window({"x": toy.Item("x")}))
    purge()
    for name in ("docs_old", "other"):
        toy.assert_is(dirty, Snapshot.open(dirty / name), {**items, "x": toy.Item("x")})
        toy.assert_is(dirty, Snapshot.open(dirty / name, at=1), items)


@pytest.mark.parametrize("lost", ["ingest", "maintain"])
def test_a_purge_needs_both_leases(toy, dirty, lost):
    """With either lease lost nothing is removed: versions and rows are what they were."""
    root = dirty / "docs"
    files = {p for p in (root / "data").rglob("*.parquet")}
    with lock(root, "ingest") as ingest, lock(root, "maintain") as lease:
        (root / f"_locks/{lost}.owner.json").unlink()
        with pytest.raises(CommitConflict, match="was lost"):
            maintenance.purge(dirty, Snapshot.open(root), "run", ingest, lease)
    assert files <= {p for p in (root / "data").rglob("*.parquet")}
    assert_live(toy, dirty)
    assert toy.read_items(Snapshot.open(root, at=1))["zq-deleted-id"] == toy.Item("zqdel", 5)


STEPS = {
    places: ("create", "replace", "remove", "remove_tree", "sink"),
    Index: ("build",),
    Log: ("append",),
}


def dying(monkeypatch, at):
    """Die at the `at`-th step that changes anything; the steps seen so far."""
    seen = []

    def patched(owner, name):
        whole = getattr(owner, name)

        def step(*given, **more):
            seen.append(name)
            if len(seen) == at:
                raise Died
            return whole(*given, **more)

        monkeypatch.setattr(owner, name, step)

    for owner, names in STEPS.items():
        for name in names:
            patched(owner, name)
    return seen


def check_crash(toy, dirty, purge, at):
    with pytest.MonkeyPatch.context() as patch:
        dying(patch, at)
        with pytest.raises(Died):
            purge()
    assert_live(toy, dirty)
    purge()
    assert found(dirty) == {}, f"after a crash at step {at}"
    assert_live(toy, dirty)


def steps_of(dirty, purge):
    with pytest.MonkeyPatch.context() as patch:
        seen = dying(patch, None)
        purge()
    return seen


@pytest.mark.parametrize("share", [pytest.param(0.4, marks=pytest.mark.slow), 0.8])
def test_a_purge_that_died_is_finished_by_the_same_command(toy, dirty, purge, lake, share, tmp_path):
    """Wherever it dies, readers see the live rows, and the next purge leaves nothing behind."""
    copy = tmp_path / "copy"
    shutil.copytree(dirty, copy)
    total = len(steps_of(dirty, purge))
    shutil.rmtree(lake)
    shutil.copytree(copy, lake)
    check_crash(toy, lake, purge, round(total * share))


@pytest.mark.slow
def test_a_purge_that_died_anywhere_is_finished_by_the_same_command(toy, dirty, purge, lake, tmp_path):
    """The same at every step that changes a file; of many removals in a row at every fifth."""
    copy = tmp_path / "copy"
    shutil.copytree(dirty, copy)
    names = steps_of(dirty, purge)
    assert len(names) > 30
    for at, name in enumerate(names, start=1):
        if name == "remove" and at % 5:
            continue
        shutil.rmtree(lake)
        shutil.copytree(copy, lake)
        check_crash(toy, lake, purge, at)


def test_rows_masked_while_it_runs_stop_a_purge(toy, dirty, monkeypatch):
    """A program that holds no lease and deletes meanwhile makes it a conflict, before anything is removed."""
    build = maintenance.indexing.build
    todo = [1]

    def meanwhile(*given):
        made = build(*given)
        if todo:
            todo.clear()
            transaction.commit(dirty, "docs", toy.window(deleted=["kept"]))
        return made

    monkeypatch.setattr(maintenance.indexing, "build", meanwhile)
    root = dirty / "docs"
    with lock(root, "ingest") as ingest, lock(root, "maintain") as lease:
        with pytest.raises(CommitConflict, match="were masked while it was purged"):
            maintenance.purge(dirty, Snapshot.open(root), "run", ingest, lease)
        assert toy.read_items(Snapshot.open(root, at=1)), "nothing was removed yet"
        maintenance.purge(dirty, Snapshot.open(root), "run", ingest, lease)
    assert found(dirty) == {}
    assert found(dirty, ["zkkept"]) == {}


def test_rows_of_a_release_without_texts_are_purged_too(toy, lake, purge):
    """An empty collection, one that only ever rejected, and one whose items are all gone can be purged."""
    assert purge().version == 0
    transaction.commit(lake, "docs", toy.window(rejects=[("zqnoid", "zqnoid", "zqreason")]))
    transaction.commit(lake, "docs", toy.window({"zqorphan": toy.Item("zqorphan")}, resolved=["zqnoid"]))
    transaction.commit(lake, "docs", toy.window(deleted=["zqorphan"]))
    purge()
    assert found(lake) == {}
    toy.assert_is(lake, Snapshot.open(lake / "docs"), {})


def test_a_purge_must_be_meant_and_waits_for_nobody(make_project, run_ingest):
    """Without `yes` it is refused and says what would be lost; beside an ingest it ends at once."""
    project = make_project()
    for name in ("zqorphan", "kept"):
        (project.root / f"docs/{name}.txt").write_text(f"{name} text")
    run_ingest(project)
    (project.root / "docs/zqorphan.txt").unlink()
    run_ingest(project)
    version = Snapshot.open(project.lake / "docs").version
    with pytest.raises(Refused, match=f"versions before {version + 1} alone hold"):
        run_maintain(project, MaintainRequest("docs", purge=True))
    for name in ("ingest", "maintain"):
        with (
            lock(project.lake / "docs", name),
            pytest.raises(LakeBusy, match=f"{name} of collection"),
        ):
            run_maintain(project, MaintainRequest("docs", purge=True, yes=True))
    assert "zqorphan" in found(project.lake)
    report = run_maintain(project, MaintainRequest("docs", purge=True, yes=True))
    assert report.readable_from == report.version
    assert "cannot be read any more" in report.done[-1]
    assert found(project.lake) == {}
    again = run_ingest(project)
    assert (again.unchanged, again.version) == (1, report.version)


def test_the_search_would_find_a_needle_in_any_column(tmp_path):
    """The digging itself: compressed Parquet and nested columns are read."""
    table = pa.table({"a": [{"b": ["zqspool"] * 50}] * 50})
    pq.write_table(table, tmp_path / "x.parquet", compression="zstd")
    assert list(found(tmp_path)) == ["zqspool"]
