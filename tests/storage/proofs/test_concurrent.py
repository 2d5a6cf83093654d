"""Writers at once: what was acknowledged is there, in the order of versions, each row once; and why it is so.

The matrix is a canary: it says what LanceDB does today, and is to fail on the day that this changes.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import lancedb
import pyarrow as pa
import pytest
from lancedb.index import BTree

from storage import drafting, transaction
from storage.commits import Log
from storage.drafting import Draft
from storage.errors import CommitConflict, LakeBusy
from storage.locks import lock
from storage.schemas import index_schema
from storage.snapshot import Snapshot
from storage.vectors import Index

ROOT = Path(__file__).parents[3]
SHARED = [f"s{k}" for k in range(6)]
BUSY, CONFLICT = "LakeBusy", "CommitConflict"

# ---- LanceDB's own merges, which our rule is made for


def duplicates(folder, *, key, index, use_index, composite):
    """Rows after four writers, each with a table of its own at one version, merged the same 50 new keys."""
    declared = {b"lance-schema:unenforced-primary-key": b"true"} if key else None
    fields = [pa.field("id", pa.string(), nullable=False, metadata=declared)]
    if composite:
        fields.append(pa.field("no", pa.int32(), nullable=False, metadata=declared))
    schema = pa.schema([*fields, pa.field("v", pa.int64())])

    def rows(names, value):
        columns = {"id": names, "no": [0] * len(names), "v": [value] * len(names)}
        return pa.table({name: columns[name] for name in schema.names}, schema=schema)

    first = lancedb.connect(folder).create_table("t", data=rows(["there"], 0), schema=schema)
    for column in index:
        first.create_index(column, config=BTree())
    held = [lancedb.connect(folder).open_table("t") for _ in range(4)]
    assert {table.version for table in held} == {first.version}
    for number, table in enumerate(held):
        merge = table.merge_insert(["id", "no"] if composite else "id")
        merge = merge.when_matched_update_all().when_not_matched_insert_all()
        if use_index is not None:
            merge = merge.use_index(use_index)
        merge.execute(rows([f"k{k}" for k in range(50)], number))
    return lancedb.connect(folder).open_table("t").count_rows() - 1


@pytest.mark.parametrize(
    ("key", "index", "use_index", "composite", "expected"),
    [
        (False, [], None, False, 200),
        (False, [], False, False, 200),
        (False, ["id"], None, False, 200),
        (True, [], None, False, 50),
        (True, ["id"], None, False, 200),
        (True, ["id"], True, False, 200),
        (True, ["id"], False, False, 50),
        (True, ["id"], None, True, 50),
        (True, ["id", "no"], None, True, 200),
        (True, ["id", "no"], True, True, 200),
        (True, ["id", "no"], False, True, 50),
    ],
    ids=str,
)
def test_which_merges_of_lancedb_duplicate_rows(tmp_path, key, index, use_index, composite, expected):
    """As of 0.40: without a declared key, or with an index that the merge uses, every writer adds all."""
    made = duplicates(tmp_path / "db", key=key, index=index, use_index=use_index, composite=composite)
    assert made == expected, "LanceDB does otherwise now: see what Index.write relies on"


def test_our_merges_do_not_duplicate(toy, lake, commit):
    """With the key declared and no index asked, merges of two stale writers leave each row once."""
    named = commit(toy.window({"a": toy.Item("one")})).index
    first = lancedb.connect(lake / "index").open_table(named.table)
    for column in ("item_id", "chunk_no"):
        first.create_index(column, config=BTree())  # as if somebody had made them
    held = [lancedb.connect(lake / "index").open_table(named.table) for _ in range(4)]
    rows = toy.index_table({f"k{k}": toy.Item("text") for k in range(20)})
    from storage.vectors import _merge

    for table in held:
        _merge(table, rows)()
    assert lancedb.connect(lake / "index").open_table(named.table).count_rows() == 21
    keyed = [f.name for f in index_schema(toy.DIM, toy.ATTRIBUTES) if f.metadata and not f.nullable]
    assert keyed == ["item_id", "chunk_no"]


# ---- writers that sleep


def sleeping(monkeypatch):
    """A commit that stops right before its record is made, until it is let go on."""
    asleep, wake = threading.Event(), threading.Event()
    publish = Draft.publish

    def late(draft, record):
        if threading.current_thread().name == "sleeper":
            asleep.set()
            assert wake.wait(60)
        return publish(draft, record)

    monkeypatch.setattr(Draft, "publish", late)
    return asleep, wake


def in_thread(call):
    """Run `call` in a thread named `sleeper`; what it gave or raised."""
    outcome = []

    def run():
        try:
            outcome.append(call())
        except Exception as error:  # noqa: BLE001  whatever it is, the test looks at it
            outcome.append(error)

    thread = threading.Thread(target=run, name="sleeper")
    thread.start()
    return thread, outcome


@pytest.mark.parametrize("how", ["locks removed", "owner replaced", "number taken"])
def test_a_stale_writer_that_wakes_up_cannot_commit(toy, lake, commit, head, monkeypatch, how):
    """Its locks removed by hand, its sign replaced, or its number taken: the other's version stands."""
    items = {"a": toy.Item("one"), "b": toy.Item("two")}
    commit(toy.window(items))
    asleep, wake = sleeping(monkeypatch)
    late = toy.window({"a": toy.Item("late"), "c": toy.Item("late too")}, deleted=["b"])
    thread, outcome = in_thread(lambda: transaction.commit(lake, "docs", late))
    assert asleep.wait(60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drafting, "COMMIT_WAIT_SECONDS", 0.05)
        with pytest.raises(LakeBusy, match=f"process {os.getpid()}"):
            commit(toy.window({"a": toy.Item("too early")}))
    if how == "locks removed":
        shutil.rmtree(lake / "docs/_locks")
        commit(toy.window({"a": toy.Item("other")}))
        items["a"] = toy.Item("other")
    elif how == "owner replaced":
        (lake / "docs/_locks/commit.owner.json").write_text(json.dumps({"nonce": "another"}))
    else:
        shutil.copytree(lake / "docs/_locks", lake / "mine")
        shutil.rmtree(lake / "docs/_locks")
        commit(toy.window({"a": toy.Item("other")}))
        items["a"] = toy.Item("other")
        shutil.copytree(lake / "mine", lake / "docs/_locks", dirs_exist_ok=True)
    before = Log(lake / "docs").numbers()
    wake.set()
    thread.join()
    assert isinstance(outcome[0], CommitConflict), outcome
    assert Log(lake / "docs").numbers() == before
    toy.assert_is(lake, head(), items)
    shutil.rmtree(lake / "docs/_locks", ignore_errors=True)
    commit(toy.window({"d": toy.Item("next")}))
    toy.assert_is(lake, head(), {**items, "d": toy.Item("next")})


def test_an_ingest_whose_lease_was_taken_does_not_commit_its_next_window(toy, lake, commit, head):
    """A job that lost its lease between two windows keeps the first, and the second is refused."""
    with lock(lake / "docs", "ingest") as lease:
        transaction.commit(lake, "docs", toy.window({"a": toy.Item("one")}), lease=lease)
        shutil.rmtree(lake / "docs/_locks")
        with lock(lake / "docs", "ingest") as other:
            transaction.commit(lake, "docs", toy.window({"b": toy.Item("two")}), lease=other)
            with pytest.raises(CommitConflict, match="was lost"):
                transaction.commit(lake, "docs", toy.window({"a": toy.Item("late")}), lease=lease)
    toy.assert_is(lake, head(), {"a": toy.Item("one"), "b": toy.Item("two")})


# ---- many processes

WORKER = """
import os, sys
from pathlib import Path
os.fsync = lambda handle: None
from tests.storage.proofs import test_concurrent as play
role, folder, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
play.ready(folder, f"{role}{number}")
getattr(play, role)(folder, number)
"""


def ready(folder, name):
    """Wait until everybody is there."""
    (folder / f"{name}.ready").touch()
    while not (folder / "go").exists():
        time.sleep(0.005)


def actions_of(writer, turn, there):
    """What a writer does in a window: put and delete of shared keys; refresh of its own, if `there`."""
    r = random.Random(1000 * writer + turn)
    done = {}
    for key in r.sample(SHARED, 3):
        text = "".join(r.choices("abc", k=r.randint(1, 12)))
        done[key] = ("put", text, turn) if r.random() < 0.7 else ("delete", "", None)
    own = f"own{writer}"
    done[own] = ("refresh" if there and turn % 4 else "put", f"text {writer}", turn)
    if turn % 3 == 0:
        done[f"new{writer}-{turn}"] = ("put", f"new {turn}", None)
    return done


def window_of(writer, turn, there):
    from tests.storage import conftest as toy

    done = actions_of(writer, turn, there)

    def chosen(what):
        return {i: toy.Item(text, n) for i, (kind, text, n) in done.items() if kind == what}

    return toy.window(
        chosen("put"),
        refreshed=chosen("refresh"),
        deleted=list(chosen("delete")),
        run_id=f"{writer}-{turn}-{there:d}",
    )


def writer(folder, number):
    """Commit window after window; a line for each with what came of it."""
    if number == 2:
        drafting.COMMIT_WAIT_SECONDS = 0.02  # one who does not wait
    with (folder / f"writer{number}.jsonl").open("w") as log:
        there = False
        for turn in range(int((folder / "turns").read_text())):
            window = window_of(number, turn, there)
            try:
                came = transaction.commit(folder / "lake", "docs", window).version
                there = True
            except (LakeBusy, CommitConflict) as error:
                came = type(error).__name__
            print(json.dumps({"run_id": window.run_id, "came": came}), file=log, flush=True)
            time.sleep(random.uniform(0.05, 0.2))  # the lock is not fair: who polls for it needs a gap
    (folder / f"writer{number}.done").touch()


def upkeep(folder, number):
    """Compact, make indexes anew and sweep, again and again, with next to no grace."""
    from datetime import timedelta

    from storage import retention
    from tests.storage.proofs import conftest

    retention.GRACE = timedelta(seconds=3)
    retention.unneeded.__defaults__ = (retention.GRACE,)
    with (folder / f"upkeep{number}.jsonl").open("w") as log:
        turn = 0
        while not (folder / "stop").exists():
            try:
                done = conftest.maintain_lake(folder / "lake", days=0, rebuild=turn % 2 == 0)
                print(json.dumps([done.rewritten, len(done.indexes), done.removed]), file=log, flush=True)
            except CommitConflict as error:
                print(json.dumps(str(error)), file=log, flush=True)
            turn += 1
            time.sleep(0.05)


def reading(folder, number):
    """Open the head, again and again: whatever version it is, it is whole."""
    seen = 0
    with (folder / f"reading{number}.jsonl").open("w") as log:
        while not (folder / "stop").exists():
            snapshot = Snapshot.open(folder / "lake/docs")
            assert snapshot.version >= seen, "never back"
            if snapshot.version > seen:
                check_whole(folder / "lake", snapshot)
                print(json.dumps(snapshot.version), file=log, flush=True)
            seen = snapshot.version


def check_whole(lake, snapshot):
    """Keys once, totals right, chunks and index rows those of the items' very texts."""
    from tests.storage import conftest as toy

    items = toy.read_items(snapshot)
    chunks = toy.read_vectors(snapshot)
    cut = {(i, number): text for i, item in items.items() for number, text in enumerate(item.chunks)}
    assert sorted(row[:2] for row in chunks) == sorted(cut), "each chunk once"
    for item_id, number, _, _, vector in chunks:
        assert list(vector) == toy.vector_of(cut[item_id, number])
    named = snapshot.head.index
    rows = Index(lake, named.table).open_at(named).table.to_arrow().to_pylist()
    assert {(r["item_id"], r["chunk_no"]): r["text"] for r in rows} == cut
    assert {r["item_id"]: r["n"] for r in rows} == {i: item.n for i, item in items.items()}
    assert len(rows) == len(cut) == named.rows == snapshot.head.spaces[toy.SPACE].rows
    assert len(items) == snapshot.head.total_items


def play(folder, turns, **roles):
    """Start processes by role, let them all go at once, and wait for the writers; what everybody noted."""
    folder.mkdir(exist_ok=True)
    (folder / "turns").write_text(str(turns))
    cast = [(role, number) for role, count in roles.items() for number in range(count)]
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WORKER, role, str(folder), str(number)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for role, number in cast
    ]
    try:
        deadline = time.monotonic() + 200
        while len(list(folder.glob("*.ready"))) < len(cast):
            assert time.monotonic() < deadline
            assert all(p.poll() is None for p in running), [p.stderr.read() for p in running if p.poll()]
            time.sleep(0.02)
        (folder / "go").touch()
        while len(list(folder.glob("writer*.done"))) < roles["writer"]:
            assert time.monotonic() < deadline
            assert all(not p.poll() for p in running), [p.stderr.read() for p in running if p.poll()]
            time.sleep(0.02)
        (folder / "stop").touch()
        told = [p.communicate(timeout=60)[1] for p in running]
        assert [p.returncode for p in running] == [0] * len(cast), told
    finally:
        for process in running:
            process.kill()
            process.wait()
    return {p.stem: [json.loads(line) for line in p.read_text().splitlines()] for p in folder.glob("*.jsonl")}


@pytest.mark.slow
def test_windows_of_many_processes_are_some_order_of_them(toy, tmp_path):
    """Three writers, upkeep and a reader: the head is the committed windows, applied in order to a dict.

    None that was acknowledged is missing, none that was refused is there, no key is there twice, and each
    version of the log that can be read holds just the windows up to it.
    """
    turns = 10
    noted = play(tmp_path / "play", turns, writer=3, upkeep=1, reading=1)
    lake = tmp_path / "play/lake"
    log = Log(lake / "docs")
    numbers = log.numbers()
    assert numbers == list(range(1, len(numbers) + 1))
    committed = {r.run_id: r.number for r in map(log.read, numbers) if r.verb == "ingest"}
    attempts = [line for k in range(3) for line in noted[f"writer{k}"]]
    assert len(attempts) == 3 * turns
    done = {a["run_id"]: a["came"] for a in attempts if isinstance(a["came"], int)}
    assert done == committed, "acknowledged is committed, refused is not"
    assert {a["came"] for a in attempts} - set(done.values()) <= {BUSY, CONFLICT}
    assert len(done) >= 2 * turns, "those who wait get through"

    model, told = {}, {}
    for number in numbers:
        record = log.read(number)
        if record.verb == "ingest":
            given = map(int, record.run_id.split("-"))
            for item_id, (what, text, n) in actions_of(*given).items():
                if what == "delete":
                    model.pop(item_id, None)
                else:
                    model[item_id] = toy.Item(text, n)
        told[number] = dict(model)
    head = Snapshot.open(lake / "docs")
    toy.assert_is(lake, head, model)
    for number in numbers[head.head.readable_from - 1 :]:
        assert toy.read_items(Snapshot.open(lake / "docs", at=number)) == told[number]

    upkept = [line for line in noted["upkeep0"] if isinstance(line, list)]
    assert sum(line[0] for line in upkept) > 0, "files were compacted meanwhile"
    assert sum(line[1] for line in upkept) > 0, "indexes were made anew meanwhile"
    assert len(noted["reading0"]) > 3, "the reader saw several versions"
