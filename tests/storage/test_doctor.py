"""Damage is named with its file and its repair; the repair mends it, or loses only what it says."""

import json
import os
import shutil
import socket
import subprocess
import tarfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from storage import checkpoints, compaction, parquet, transaction
from storage.commits import Log, Origins, sealed, succeeding
from storage.doctor import examine
from storage.drafting import drafting
from storage.errors import LakeBusy, VersionGone
from storage.findings import drop, mend, restore
from storage.locks import lock
from storage.repair import repair
from storage.retention import GRACE
from storage.snapshot import Snapshot

DATA = ("items", "vectors", "second", "rejects", "deletes")
TWICE = (
    "record",
    "copy",
    "checkpoint",
    "lance-data",
    "lance-version",
    "lance-deletion",
    "lance-txn",
    "canaries",
)
DAMAGES = ("empty", "half", "short", "flip", "delete", "older", "longer")


MADE = {}


@pytest.fixture
def template(toy, tmp_path_factory, monkeypatch):
    """A lake of several versions with two spaces, deletions, rejects, canaries, checkpoints; made once."""
    if not MADE:
        monkeypatch.setattr(checkpoints, "EVERY", 2)
        lake = tmp_path_factory.mktemp("template") / "lake"
        for window in history(toy, lake):
            transaction.commit(lake, "docs", window)
        MADE["lake"] = lake
    return MADE["lake"]


def history(toy, lake):
    """Windows of additions, edits, deletions, rejects, and vectors of a second space."""
    item = toy.Item
    canaries = parquet.write(lake / "docs", "data/canaries", pa.table({"text": ["one"], "vector": [[1.0]]}))
    release = toy.RELEASE.model_copy(update={"canaries": canaries})
    first = {
        "a": item("aaaaabbbbb", 1),
        "b": item("one two three"),
        "c": item("c" * 17),
        "d": item("gone soon"),
    }
    rejects = [("r", "file:r", "not text"), (None, "file:?", "no id")]
    yield toy.window(first, rejects=rejects, release=release)
    yield toy.filling(first, release=toy.SECOND.model_copy(update={"release": 2}))
    second = {"b": item("one two three four"), "e": item("brand new")}
    yield toy.window(second, deleted=["d"])
    refreshed = {"a": item("aaaaabbbbb", 2)}
    index = {
        toy.SPACE: toy.index_table(refreshed),
        toy.SECOND_SPACE: toy.index_table(refreshed, dim=toy.SECOND_DIM),
    }
    yield toy.window(refreshed=refreshed, index=index, rejects=[("s", "file:s", "too large")], resolved=["r"])
    third = {"c": item("shorter")}
    yield toy.window(third)
    yield toy.filling({**second, **third})
    yield toy.window({"f": item("the last one")})


@pytest.fixture
def lake(template, tmp_path):
    """A copy of the template that may be damaged."""
    return Path(shutil.copytree(template, tmp_path / "lake"))


def files_of(lake, toy, kind):
    """Files of a kind, oldest first, as the records name them."""
    root = lake / "docs"
    log = Log(root)
    if kind == "record":
        return [log.path(n) for n in log.numbers()]
    if kind == "copy":  # the newest may be missing
        return [log.copy(n) for n in log.numbers()[:-1]]
    if kind == "checkpoint":
        return sorted((root / "_checkpoints").iterdir(), key=lambda p: (p.name[20:], p.name))
    commits = [log.read(n) for n in log.numbers()]
    if kind == "canaries":
        return [root / commits[-1].live.canaries.path]
    if kind.startswith("lance"):
        folder = {
            "data": "data/",
            "version": "_versions/",
            "deletion": "_deletions/",
            "txn": "_transactions/",
        }
        begin = folder[kind.partition("-")[2]]
        return [
            lake / "index" / f"{index.table}.lance" / file.path
            for commit in commits
            for index in commit.indexes.values()
            for file in index.files
            if file.path.startswith(begin)
        ]
    space = {"vectors": toy.SPACE, "second": toy.SECOND_SPACE}.get(kind)
    named = [c.vectors.get(space, ()) if space else getattr(c, kind) for c in commits]
    return [root / file.path for files in named for file in files]


def damaged(file, damage, older):
    """Damage a file in place."""
    content = file.read_bytes()
    if damage == "delete":
        file.unlink()
    elif damage == "flip":
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 4
        file.write_bytes(flipped)
    else:
        parts = {
            "empty": b"",
            "half": content[: len(content) // 2],
            "short": content[:-1],
            "longer": content + b"\0",
        }
        file.write_bytes(older if damage == "older" else parts[damage])


def damage_of(findings):
    return {(f.path, f.repair) for f in findings if f.severity == "damage"}


def contents(toy, lake):
    """Everything that readers get from the head."""
    snapshot = Snapshot.open(lake / "docs")
    spaces = [s for s in (toy.SPACE, toy.SECOND_SPACE) if s in snapshot.spaces()]
    return {
        "items": toy.read_items(snapshot),
        "rejects": toy.read_rejects(snapshot),
        **{s: toy.read_vectors(snapshot, s) for s in spaces},
        **{f"index of {s}": toy.read_index(lake, snapshot.head, s) for s in spaces},
    }


def expected_repair(kind, file):
    if kind in DATA:
        return restore("docs")
    return mend("docs")


def require_named(toy, lake, kind, damage, file, older):
    """Damage, and require that the examination names just this file with just its repair."""
    damaged(file, damage, older)
    found = damage_of(examine(lake, "docs"))
    if kind == "checkpoint" and file.suffix == ".json" and damage == "delete":
        assert not found  # its parts are leftovers: nobody reads them
    else:
        assert found == {(str(file), expected_repair(kind, file))}


def require_mended(toy, lake, kind, file, before):
    """Follow the repair; then all is well, and nothing is lost but what had no second copy."""
    if kind in TWICE:
        done = repair(lake, "docs", deep=True)
        assert not damage_of(done.left), done
        assert contents(toy, lake) == before
        return
    left = repair(lake, "docs")
    assert damage_of(left.left) == {(str(file), restore("docs"))}
    assert any("--yes" in sentence for sentence in left.done)
    done = repair(lake, "docs", drop=True, deep=True)
    assert not damage_of(done.left), done
    require_only_lost(toy, lake, kind, before)


def require_only_lost(toy, lake, kind, before):
    after = contents(toy, lake)
    if kind == "deletes":
        assert {**after, "rejects": 0} == {**before, "rejects": 0}
        return
    for what, rows in after.items():
        assert (
            all(rows[key] == before[what][key] for key in rows)
            if what == "items"
            else set(rows) <= set(before[what])
        )
    for space in (toy.SPACE, toy.SECOND_SPACE):
        assert {row[0] for row in after[space]} <= set(after["items"])
        assert {row[:2] for row in after[space]} == {row[:2] for row in after[f"index of {space}"]}
    if kind == "second":
        assert after["items"] == before["items"]
        assert after[toy.SPACE] == before[toy.SPACE]
    elif kind == "rejects":
        assert {**after, "rejects": 0} == {**before, "rejects": 0}
    else:  # no item is there with a part of its chunks, or without any
        lost = set(before["items"]) - set(after["items"])
        assert after[toy.SPACE] == [row for row in before[toy.SPACE] if row[0] not in lost]


def older_of(files, file):
    """The content of another file of the kind, an older one if there is any."""
    alike = (
        [f for f in files if f.name[20:] == file.name[20:]] if file.parent.name == "_checkpoints" else files
    )
    place = alike.index(file)
    return alike[place - 1 if place else 1].read_bytes()


def test_a_whole_lake_has_no_findings(lake):
    """Several versions, spaces, deletions and checkpoints are no cause for complaint."""
    assert examine(lake, "docs") == examine(lake, "docs", deep=True) == []
    assert repair(lake, "docs").done == ()


QUICK = [
    ("items", "half"),
    ("vectors", "delete"),
    ("deletes", "empty"),
    ("record", "older"),
    ("checkpoint", "short"),
    ("lance-data", "flip"),
    ("canaries", "delete"),
]


@pytest.mark.parametrize(("kind", "damage"), QUICK)
def test_damage_is_named_and_mended(kind, damage, toy, lake):
    """One damage to the newest file of the main kinds."""
    before = contents(toy, lake)
    files = files_of(lake, toy, kind)
    require_named(
        toy, lake, kind, damage, files[-1], older_of(files, files[-1]) if damage == "older" else b""
    )
    require_mended(toy, lake, kind, files[-1], before)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", [*DATA, *TWICE])
def test_every_damage_to_every_file_is_named(kind, damage, toy, lake):
    """The finding names just that file, with the one repair that fits."""
    files = files_of(lake, toy, kind)
    for file in files:
        whole = file.read_bytes()
        if damage == "older" and len(files) == 1:
            continue
        require_named(toy, lake, kind, damage, file, older_of(files, file) if damage == "older" else b"")
        file.write_bytes(whole)
    assert examine(lake, "docs", deep=True) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*DATA, *TWICE])
def test_damage_to_every_file_is_mended(kind, toy, lake, tmp_path):
    """After the repair all is well, and nothing is lost but what had no second copy."""
    before = contents(toy, lake)
    files = files_of(lake, toy, kind)
    if kind.startswith("lance"):  # whichever it is, the whole index is made anew
        files = [files[0], files[-1]]
    for at, file in enumerate(files):
        own = Path(shutil.copytree(lake, tmp_path / f"case-{at}" / "lake"))
        target = own / file.relative_to(lake)
        damaged(target, "half", b"")
        require_mended(toy, own, kind, target, before)
        Snapshot.open(own / "docs").checkpoint()
        assert not damage_of(examine(own, "docs"))


def replaced(table, column, values):
    return table.set_column(
        table.column_names.index(column),
        table.schema.field(column),
        pa.array(values, table.schema.field(column).type),
    )


def put(lake, toy, shown, /, *, vectors=None, index=None, **more):
    """Commit a window whose vectors or index are not what its items say."""
    given = {"vectors": {toy.SPACE: toy.vectors_table(shown) if vectors is None else vectors}}
    given["index"] = {toy.SPACE: toy.index_table(shown) if index is None else index}
    return transaction.commit(lake, "odd", replace(toy.window(shown, **given), **more)).head


def published(lake, collection, **changes):
    """Commit a record that no window would make."""
    with drafting(lake / collection) as draft:
        record = succeeding(draft.before.head, verb="odd", run_id="run", started_at=datetime.now(UTC))
        return draft.publish(record.model_copy(update=changes)).head


def odd(lake):
    return examine(lake, "odd", deep=True)


@pytest.mark.parametrize("value", [float("nan"), pytest.param(0.0, marks=pytest.mark.slow)])
def test_vectors_that_cannot_be_compared_are_named(value, toy, lake):
    """NaN, infinite and zero vectors are found; a repair leaves their items to the next ingest."""
    items = {"a": toy.Item("aaaaabb"), "b": toy.Item("b")}
    vectors = toy.vectors_table(items)
    rows = vectors["vector"].to_pylist()
    rows[1] = [value] * toy.DIM
    head = put(lake, toy, items, vectors=replaced(vectors, "vector", rows))
    [found] = odd(lake)
    assert found.path == str(lake / "odd" / head.vectors[toy.SPACE][0].path)
    assert found.repair == drop("odd")
    assert "('a', 1)" in found.what
    done = repair(lake, "odd", drop=True, deep=True)
    assert done.left == (*[f for f in done.left if f.severity == "notice"],)
    assert list(toy.read_items(Snapshot.open(lake / "odd"))) == ["b"]


def test_single_vectors_of_another_norm_are_named(toy, lake):
    """Where all others have norm 1, one that has not is damage; where norms differ anyway none is."""
    items = {f"i{n:02}": toy.Item("x") for n in range(20)}
    unit = [[1.0, 0.0, 0.0, 0.0]] * 20
    table = toy.vectors_table(items)
    put(lake, toy, items, vectors=replaced(table, "vector", [*unit[:-1], [0.9, 0.0, 0.0, 0.0]]))
    [found] = examine(lake, "odd")
    assert "('i19', 0)" in found.what
    assert "norm is not 1" in found.what


@pytest.mark.slow
def test_an_item_that_is_live_twice_is_named_and_the_newer_row_stays(toy, lake):
    """Duplicate keys are found; the repair keeps one row of each."""
    items = {"a": toy.Item("one"), "b": toy.Item("two")}
    twice = pa.concat_tables([toy.items_table(items), toy.items_table({"a": items["a"]})])
    put(lake, toy, items, items=twice)
    assert [f.what for f in examine(lake, "odd")] == ["has items that are live twice: 'a'"]
    assert not damage_of(repair(lake, "odd", drop=True).left)
    assert toy.read_items(Snapshot.open(lake / "odd")) == items


@pytest.mark.slow
def test_vectors_without_their_item_and_chunks_without_their_neighbours_are_named(toy, lake):
    """Orphans and gaps are found; the repair takes out the orphans and the items with gaps."""
    items = {"a": toy.Item("aaaaabbbbbccccc"), "b": toy.Item("two")}
    vectors = toy.vectors_table(items)
    put(lake, toy, items, vectors=pa.concat_tables([vectors.slice(0, 1), vectors.slice(2)]))
    ghost = parquet.write(
        lake / "odd", f"data/vectors/{toy.SPACE}", toy.vectors_table({"ghost": toy.Item("boo")})
    )
    published(lake, "odd", vectors={toy.SPACE: (ghost,)}, spaces={toy.SPACE: Origins(encoded=4)})
    found = [f.what for f in examine(lake, "odd")]
    assert found == ["lacks chunks of items: 'a'", "has vectors of items that are not there: 'ghost'"]
    assert not damage_of(repair(lake, "odd", drop=True).left)
    assert list(toy.read_items(Snapshot.open(lake / "odd"))) == ["b"]


def test_items_without_a_vector_are_a_notice(toy, lake):
    """A space that is not complete is no damage."""
    items = {"a": toy.Item("one"), "b": toy.Item("two")}
    some = {"a": items["a"]}
    put(lake, toy, items, vectors=toy.vectors_table(some), index=toy.index_table(some))
    [found] = odd(lake)
    assert (found.severity, found.repair) == ("notice", "evervec promote odd 1 --complete")
    assert "'b'" in found.what


def test_an_index_that_is_not_what_the_log_says_is_named_and_made_anew(toy, lake):
    """Rows that the index lacks, has more, or has with another content (only with --deep)."""
    items = {"a": toy.Item("one"), "b": toy.Item("two")}
    ghost = {"ghost": toy.Item("boo")}
    put(lake, toy, items, index=toy.index_table({"a": items["a"], **ghost}))
    [found] = examine(lake, "odd")
    assert found.path == str(lake / "index" / f"odd__{toy.SPACE}__g1.lance")
    assert found.repair == mend("odd")
    assert (
        "lacks chunks of the log: ('b', 0); has chunks that the log does not have: ('ghost', 0)" in found.what
    )
    assert not damage_of(repair(lake, "odd").left)
    toy.assert_is(lake, Snapshot.open(lake / "odd"), items)
    changed = toy.Item("three", 3)
    put(lake, toy, {"c": changed}, index=replaced(toy.index_table({"c": changed}), "n", [4]))
    assert not damage_of(examine(lake, "odd"))
    [found] = [f for f in odd(lake) if f.severity == "damage"]
    assert "another content: ('c', 0)" in found.what


@pytest.mark.slow
def test_an_index_that_is_gone_is_made_anew(toy, lake):
    """Nothing in the index folder is needed to make it again."""
    before = contents(toy, lake)
    shutil.rmtree(lake / "index")
    assert all(f.repair == mend("docs") for f in examine(lake, "docs"))
    assert not damage_of(repair(lake, "docs").left)
    assert contents(toy, lake) == before


@pytest.mark.slow
def test_totals_that_the_files_do_not_have_are_named_and_counted_anew(toy, lake):
    """A record whose totals are wrong names itself."""
    record = published(lake, "docs", total_items=99)
    [found] = examine(lake, "docs")
    assert found.path == str(Log(lake / "docs").path(record.number))
    assert found.what == "says 99 items, the files hold 5"
    assert not damage_of(repair(lake, "docs", drop=True).left)
    assert Snapshot.open(lake / "docs").head.total_items == 5


def test_a_record_with_another_parent_or_another_copy_is_named(lake):
    """Whole files that contradict each other are found."""
    log = Log(lake / "docs")
    record = log.read(7)
    for place in (log.path(7), log.copy(7)):
        place.write_bytes(sealed(record.model_copy(update={"parent": 3})))
    [found] = examine(lake, "docs")
    assert (found.path, found.what) == (str(log.path(7)), "names version 3 as its parent, expected 6")
    log.copy(7).write_bytes(sealed(record))
    assert "they say different things" in examine(lake, "docs")[0].what


@pytest.mark.parametrize("number", [7, pytest.param(3, marks=pytest.mark.slow)])
def test_a_record_that_is_lost_twice_needs_a_backup(number, toy, lake):
    """Nothing is repaired over a gap in the log, and everything else is still examined."""
    log = Log(lake / "docs")
    items = next(file for _, _, file in [(0, 0, f) for f in log.read(1).items])
    log.path(number).unlink()
    log.copy(number).write_bytes(b"torn")
    (lake / "docs" / items.path).write_bytes(b"")
    found = examine(lake, "docs")
    backup = "restore it from a backup of the lake: both copies are damaged"
    assert {(str(log.path(number)), backup), (str(log.copy(number)), backup)} <= damage_of(found)
    assert (str(lake / "docs" / items.path), restore("docs")) in damage_of(found)
    assert all(f.severity == "notice" for f in found if "record is lost" in f.what)
    before = {p: p.read_bytes() for p in lake.rglob("*") if p.is_file() and "_locks" not in p.parts}
    left = repair(lake, "docs", drop=True)
    assert any("were left as they are" in sentence for sentence in left.done) or number == 3
    if number == 7:
        assert before == {
            p: p.read_bytes() for p in lake.rglob("*") if p.is_file() and "_locks" not in p.parts
        }


def test_the_newest_copy_may_be_missing(lake):
    """As after a crash: a notice, and the next commit writes it."""
    log = Log(lake / "docs")
    copy = log.copy(log.numbers()[-1])
    copy.unlink()
    [found] = examine(lake, "docs")
    assert (found.severity, found.path) == ("notice", str(copy))


def test_second_copies_that_are_gone_are_one_finding(lake):
    """A folder that somebody removed is named once, and made again."""
    copies = Log(lake / "docs").copies
    before = {path.name: path.read_bytes() for path in copies.iterdir()}
    shutil.rmtree(copies)
    [found] = examine(lake, "docs")
    assert (found.path, found.repair) == (str(copies), mend("docs"))
    assert repair(lake, "docs").left == ()
    assert {path.name: path.read_bytes() for path in copies.iterdir()} == before


def test_records_that_are_missing_in_a_row_are_one_finding(lake):
    """A gap names its first record and says how far it goes."""
    log = Log(lake / "docs")
    for number in (1, 2):
        log.path(number).unlink()
        log.copy(number).unlink()
    for path in sorted((lake / "docs/_checkpoints").iterdir())[4:]:
        path.unlink()
    [found] = [f for f in examine(lake, "docs") if f.severity == "damage"]
    assert found.path == str(log.path(1))
    assert found.what.endswith("so are those up to version 2")


def test_a_log_that_ends_before_its_checkpoint_is_named(lake):
    """Newest records that are gone without a trace leave the checkpoint that was made of them."""
    log = Log(lake / "docs")
    for number in (6, 7):
        log.path(number).unlink()
        log.copy(number).unlink()
    found = [f for f in examine(lake, "docs") if "records are lost" in f.what]
    assert [f.path for f in found] == [str(lake / "docs/_checkpoints" / f"{6:020d}.json")]


@pytest.mark.slow
def test_masks_without_index_and_checkpoint_need_a_backup(toy, lake):
    """Where nothing says which rows are live, nothing is guessed."""
    shutil.rmtree(lake / "docs/_checkpoints")
    files_of(lake, toy, "deletes")[-1].unlink()
    shutil.rmtree(lake / "index")
    kept = sorted(p for p in (lake / "docs/data").rglob("*.parquet"))
    done = repair(lake, "docs", drop=True)
    assert any("restore one of them from a backup" in sentence for sentence in done.done)
    assert sorted(p for p in (lake / "docs/data").rglob("*.parquet")) == kept


@pytest.mark.slow
def test_damage_that_only_the_past_needs_says_so(toy, lake):
    """Compaction leaves a file to older versions; giving it up loses no live row."""
    snapshot = Snapshot.open(lake / "docs")
    group = next(g for g in compaction.groups(snapshot) if g.kind == "items")
    with lock(lake / "docs", "maintain") as lease:
        compaction.compact(snapshot, group, "run", datetime.now(UTC), lease)
    file = lake / "docs" / group.files[-1].path
    file.write_bytes(b"")
    [found] = [f for f in examine(lake, "docs") if f.severity == "damage"]
    assert found.path == str(file)
    assert found.what.endswith("(needed by version 7 alone)")
    before = contents(toy, lake)
    done = repair(lake, "docs", drop=True)
    assert not damage_of(done.left)
    assert contents(toy, lake) == before
    with pytest.raises(VersionGone):
        Snapshot.open(lake / "docs", 7)


def aged(path):
    """Make a file older than the grace period."""
    old = (datetime.now(UTC) - 2 * GRACE).timestamp()
    os.utime(path, (old, old))


def test_foreign_files_are_named_and_left_alone(lake):
    """What Evervec did not make is somebody's."""
    names = ["data/items/notes.txt", "data/.DS_Store", "data/vectors/x.parquet", "_commits/7.json.bak"]
    names += ["_copies/copy of 1.json", "_checkpoints/old.parquet"]
    files = [lake / "docs" / name for name in names]
    for file in files:
        file.write_text("mine")
    assert damage_of(examine(lake, "docs")) == {(str(file), "move it elsewhere by hand") for file in files}
    repair(lake, "docs", drop=True)
    assert {file.read_text() for file in files} == {"mine"}


def test_a_foreign_file_in_an_index_is_named(toy, lake):
    """LanceDB's own leftovers are usual there, other files are not."""
    table = lake / "index" / f"docs__{toy.SPACE}__g1.lance"
    (table / "data" / "0123456789.lance").write_bytes(b"of a writer that died")
    (table / "data" / "notes.txt").write_text("mine")
    assert damage_of(examine(lake, "docs")) == {(str(table / "data/notes.txt"), "move it elsewhere by hand")}


def test_files_of_no_version_are_a_finding_once_they_are_old(lake):
    """Within the grace period somebody may be writing them."""
    file = lake / "docs/data/items" / f"{'0' * 32}.parquet"
    file.write_bytes(b"uncommitted")
    [found] = examine(lake, "docs")
    assert (found.path, found.severity) == (str(file), "notice")
    aged(file)
    assert damage_of(examine(lake, "docs")) == {(str(file), "evervec maintain docs")}


@pytest.mark.parametrize("job", ["ingest", "upgrade"])
def test_leftovers_are_notices_and_a_repair_removes_the_old_ones(toy, lake, job):
    """Temporary files, parts of checkpoints and signs of dead owners do no harm."""
    root = lake / "docs"
    fresh, old = (root / "_commits" / f".{n * 32}.tmp" for n in "ab")
    for file in (fresh, old):
        file.write_bytes(b"{")
    aged(old)
    (root / "_checkpoints" / f"{4:020d}.json").unlink()
    sign = root / "_locks" / f"{job}.owner.json"
    gone = subprocess.Popen(["true"])
    gone.wait()
    sign.write_text(json.dumps({"host": socket.gethostname(), "pid": gone.pid, "since": "?", "nonce": "x"}))
    found = examine(lake, "docs")
    assert {f.severity for f in found} == {"notice"}
    assert {str(fresh), str(old), str(sign)} < {f.path for f in found}
    before = contents(toy, lake)
    repair(lake, "docs")
    assert fresh.exists()
    assert not old.exists()
    assert not sign.exists()
    assert contents(toy, lake) == before


def test_a_lock_that_is_held_is_no_leftover_and_stops_a_repair(lake):
    """An examination takes no lock; a repair waits its turn."""
    with lock(lake / "docs", "maintain"):
        assert examine(lake, "docs") == []
        with pytest.raises(LakeBusy):
            repair(lake, "docs")


def test_a_lake_of_the_first_format_is_whole(tmp_path):
    """Its records have no second copies: a notice, until a repair makes them."""
    with tarfile.open(Path(__file__).parents[1] / "golden/lake_format_1.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    lake = tmp_path / "lake"
    assert not damage_of(examine(lake, "goods", deep=True))
    assert any("second copies" in f.what for f in examine(lake, "docs"))
    assert repair(lake, "docs", deep=True).left == ()
    log = Log(lake / "docs")
    log.path(2).unlink()
    assert damage_of(examine(lake, "docs")) == {(str(log.path(2)), mend("docs"))}


def test_a_collection_without_a_version_has_no_findings(tmp_path):
    """There is nothing to examine, nothing to repair, and nothing is made."""
    assert examine(tmp_path, "docs") == []
    assert repair(tmp_path, "docs").done == ()
    assert list(tmp_path.iterdir()) == []
