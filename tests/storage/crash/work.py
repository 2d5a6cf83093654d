"""Work that tests interrupt: jobs on a toy collection that go on from wherever the lake stands.

Each job is what a user would simply run again. The source offset in the record says how many windows
came in, and with that what every version must hold.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from storage import (
    building,
    checkpoints,
    commits,
    compaction,
    indexing,
    maintenance,
    parquet,
    releases,
    retention,
    transaction,
    vectors,
)
from storage import doctor as examination
from storage.drafting import Draft
from storage.errors import CommitConflict, Damaged, VersionGone
from storage.locks import lock
from storage.retention import Retention
from storage.snapshot import Snapshot
from tests.storage import conftest as toy

A, B, C, D, E, F = toy.IDS
WINDOWS = (
    {
        A: ("put", "one two three four", 1),
        B: ("put", "bbb bbb bbb", 2),
        C: ("put", "ccc", None),
        D: ("reject", "binary", None),
        E: ("put", "emoji emoji", 5),
    },
    {
        A: ("put", "z", 7),
        B: ("delete", "", None),
        C: ("refresh", "", 9),
        D: ("put", "ddddd ddddd d", 4),
        E: ("stale", "unreadable", None),
        F: ("put", "tab tab tab", None),
    },
    {
        A: ("delete", "", None),
        B: ("put", "b is back again", 3),
        D: ("reject", "broken", None),
        E: ("put", "new emoji", 6),
        F: ("resolve", "", None),
    },
    {A: ("put", "a is back", 1), C: ("delete", "", None), F: ("refresh", "", 8)},
    {A: ("put", "a again", 2), D: ("delete", "", None), C: ("put", "ccc once more", None)},
    {B: ("put", "bb", 1), F: ("delete", "", None), E: ("refresh", "", 1)},
)
FIRST, STORED = 3, 4
"""Windows of the job `ingest`, and windows that the other jobs find in the lake; two more come meanwhile."""

STRAY = f"docs__{toy.SPACE}__g99"
"""An index table that no record names."""

KEEP = Retention(days=1, releases=1)
TOLD = []
PAST = datetime.now(UTC) - timedelta(days=3)


class _Past(datetime):
    @classmethod
    def now(cls, tz=None):
        return PAST if tz else PAST.replace(tzinfo=None)


def tell(version):
    """What a user is told, and may rely on from then on: one call of the system."""
    TOLD.append(version)
    sys.stdout.flush()
    os.write(1, f"ACK {version}\n".encode())


def small_scale():
    """A few rows are trained on, every commit has a checkpoint, and is told of: `ACK` with its number."""
    vectors.EXACT_BELOW = 3
    checkpoints.EVERY = 1
    publish = Draft.publish

    def told(draft, record):
        after = publish(draft, record)
        tell(after.version)
        return after

    Draft.publish = told


def model_at(offset):
    """What the collection holds after so many windows."""
    model = toy.Model()
    for actions in WINDOWS[:offset]:
        model.window(actions)
    return model


def window(number):
    """The window with this number, from 0; the record that it makes says that one more is in."""
    return replace(model_at(number).window(WINDOWS[number]), offset=str(number + 1))


def offset_of(snapshot):
    return int(snapshot.head.offset or 0) if snapshot.head else 0


def pull(lake, upto):
    """Commit the windows that the lake does not have yet."""
    with lock(lake / "docs", "ingest") as lease:
        snapshot = Snapshot.open(lake / "docs", strict=True)
        for number in range(offset_of(snapshot), upto):
            snapshot = transaction.commit(lake, "docs", window(number), known=snapshot, lease=lease)


def _meanwhile(lake, wanted):
    """An ingest commits one window while another job works."""
    snapshot = Snapshot.open(lake / "docs", strict=True)
    if offset_of(snapshot) == wanted:
        transaction.commit(lake, "docs", window(wanted), known=snapshot)


def maintain(lake):
    """Compact, index anew and sweep, while two windows come in; then what is left of the windows."""
    rewrite, build = compaction.rewrite, indexing.build

    def interrupted_rewrite(*args):
        made = rewrite(*args)
        _meanwhile(lake, STORED)
        return made

    def interrupted_build(*args):
        built = build(*args)
        _meanwhile(lake, STORED + 1)
        return built

    compaction.rewrite, indexing.build = interrupted_rewrite, interrupted_build
    try:
        with lock(lake / "docs", "maintain") as lease:
            snapshot = Snapshot.open(lake / "docs", strict=True)
            work = maintenance.plan(lake, snapshot, KEEP, rebuild=True)
            maintenance.carry_out(lake, snapshot, work, KEEP, "run", lease)
    finally:
        compaction.rewrite, indexing.build = rewrite, build
    pull(lake, len(WINDOWS))


def purge(lake):
    root = lake / "docs"
    with lock(root, "ingest") as ingest, lock(root, "maintain") as lease:
        maintenance.purge(lake, Snapshot.open(root, strict=True), "run", ingest, lease)


def promote(lake):
    releases.make_live(lake / "docs", 2, "promote", "run")


def upgrade(lake):
    """Build a second release, window by window, while windows and a compaction come in; make it live.

    What came too late to be mapped is encoded.
    """
    root = lake / "docs"
    with lock(root, "upgrade") as lease:
        snapshot = building.start(root, [toy.mapping(root)], "upgrade", "run", lease)
        if toy.SECOND_SPACE not in snapshot.head.indexes:
            _built(lake, snapshot, lease)
    pull(lake, len(WINDOWS))
    snapshot = Snapshot.open(root, strict=True)
    lacking = releases.missing(snapshot, toy.SECOND).to_pylist()
    if lacking:
        items = model_at(len(WINDOWS)).items
        fill = toy.filling({i: items[i] for i in lacking})
        transaction.commit(lake, "docs", replace(fill, offset=snapshot.head.offset))
    releases.make_live(root, 2, "promote", "run")


def _built(lake, snapshot, lease):
    while appended := list(toy.carry(snapshot, rows=5)):
        _meanwhile(lake, STORED)
        try:
            snapshot = toy.append(lake, snapshot, appended[:2], lease)
        except CommitConflict:
            snapshot = snapshot.advanced(strict=True)
    build = indexing.build

    def interrupted_build(*args):
        built = build(*args)
        indexing.build = build  # a window that finds its own index torn builds one, too
        _meanwhile(lake, STORED + 1)
        return built

    indexing.build = interrupted_build
    try:
        building.index(lake, snapshot, toy.SECOND, "run", lease)
    finally:
        indexing.build = build


def _stored(lake):
    """Four windows, a compaction and a second generation of the index, all of some days ago.

    Two files and a table lie about that no record names.
    """
    commits.datetime = _Past
    try:
        pull(lake, STORED - 1)
        with lock(lake / "docs", "maintain") as lease:
            snapshot = Snapshot.open(lake / "docs")
            work = maintenance.plan(lake, snapshot, KEEP, rebuild=True)
            maintenance.carry_out(lake, snapshot, work, KEEP, "run", lease)
        pull(lake, STORED)
    finally:
        commits.datetime = datetime
    root = lake / "docs"
    for name in ("0" * 32, "f" * 32):
        shutil.copy(root / Snapshot.open(root).files("items")[0].path, root / f"data/items/{name}.parquet")
    (root / "_commits" / f".{'a' * 32}.tmp").write_bytes(b"half a record")
    named = Snapshot.open(root).head.indexes[toy.SPACE].table
    shutil.copytree(lake / f"index/{named}.lance", lake / f"index/{STRAY}.lance")
    age(lake, lake)


def age(lake, before):
    """Files that were in the lake `before` were there long before the grace period."""
    for path in before.rglob("*"):
        same = lake / path.relative_to(before)
        if same.is_file():
            os.utime(same, (PAST.timestamp(), PAST.timestamp()))


def _two_releases(lake):
    pull(lake, STORED)
    fill = toy.filling(model_at(STORED).items)
    transaction.commit(lake, "docs", fill)


def _maintained(lake):
    """Another maintenance, undisturbed, leaves nothing to do but what the grace period protects."""
    with lock(lake / "docs", "maintain") as lease:
        snapshot = Snapshot.open(lake / "docs", strict=True)
        work = maintenance.plan(lake, snapshot, KEEP, rebuild=False)
        maintenance.carry_out(lake, snapshot, work, KEEP, "run", lease)
    left = maintenance.plan(lake, Snapshot.open(lake / "docs"), KEEP, rebuild=False)
    assert left.is_empty, left
    old = [path for path in (lake / "docs/data").rglob("*") if path.is_file() and _is_old(path)]
    needed = retention.needed_files(Snapshot.open(lake / "docs"))
    assert {path.relative_to(lake / "docs").as_posix() for path in old} <= needed
    assert not (lake / f"index/{STRAY}.lance").exists()


def _is_old(path):
    return path.stat().st_mtime < time.time() - 86_400


def _purged(lake):
    """No file is left that the head does not name, and no earlier version can be read."""
    snapshot = Snapshot.open(lake / "docs")
    assert snapshot.head.purged_at == snapshot.head.readable_from == snapshot.version
    assert not snapshot.masked
    assert retention.unneeded(lake, snapshot, timedelta(0)) == ([], [])
    assert checkpoints.numbers(lake / "docs/_checkpoints") == [snapshot.version]
    try:
        Snapshot.open(lake / "docs", snapshot.version - 1)
    except VersionGone:
        return
    raise AssertionError("a version before the purge can be read")


def _promoted(lake):
    snapshot = Snapshot.open(lake / "docs")
    head = snapshot.head
    assert head.live_release == 2
    assert sum(r.version is not None for r in head.releases) == 2
    items = model_at(offset_of(snapshot)).items
    toy.assert_space_is(lake, snapshot, items, toy.SECOND_SPACE, toy.SECOND_DIM)


@dataclass(frozen=True)
class Job:
    """`prepare` makes the lake as it is found, `run` is done again and again, `done` must hold at the end."""

    prepare: Callable
    run: Callable
    offset: int
    done: Callable = lambda lake: None


JOBS = {
    "ingest": Job(lambda lake: None, lambda lake: pull(lake, FIRST), FIRST),
    "one window": Job(lambda lake: pull(lake, 1), lambda lake: pull(lake, 2), 2),
    "maintain": Job(_stored, maintain, len(WINDOWS), _maintained),
    "purge": Job(_stored, purge, STORED, _purged),
    "promote": Job(_two_releases, promote, STORED, _promoted),
    "upgrade": Job(lambda lake: pull(lake, STORED), upgrade, len(WINDOWS), _promoted),
}


def version_of(lake):
    return Snapshot.open(lake / "docs").version


def do(lake, job):
    """Do a job, and say which version it is done with."""
    JOBS[job].run(lake)
    tell(version_of(lake))


def look(lake, *, after_power_cut=False):
    """Read all that readers may read, and compare it with the model; what the head says, in a few words.

    A power cut may leave a half-written index beside the one that the head names, and LanceDB opens none
    of them then: it must be named as damaged, and the vectors in Parquet must be whole.
    """
    root = lake / "docs"
    head = Snapshot.open(root).head
    if head is None:
        return {"version": 0, "offset": 0, "live": 0, "index": True}
    oldest = head.number if after_power_cut else max(head.readable_from, head.purged_at or 1)
    for version in range(oldest, head.number + 1):
        snapshot = Snapshot.open(root, version)
        model = model_at(offset_of(snapshot))
        assert toy.read_items(snapshot) == model.items, f"items of version {version}"
        by_key = sorted(model.rejects.values(), key=lambda row: (row[0] or "", row[1]))
        assert toy.read_rejects(snapshot) == by_key, f"rejects of version {version}"
    for file in snapshot.all_files():
        assert parquet.sha256(root / file.path) == file.sha256, file.path
    for index in head.indexes.values():
        for file in snapshot.index_files(index):
            assert parquet.sha256(lake / "index" / f"{index.table}.lance" / file.path) == file.sha256, file
    state = {"version": head.number, "offset": offset_of(snapshot), "live": head.live_release}
    if after_power_cut and not _index_opens(lake, head):
        _equals_but_for_the_index(snapshot, model)
        return {**state, "index": False}
    toy.assert_is(lake, snapshot, model.items, model.rejects.values())
    if toy.SECOND_SPACE in head.spaces:
        _second_is(lake, snapshot, model)
    _searched(lake, head, model)
    return {**state, "index": True}


def _second_is(lake, snapshot, model):
    """The second space holds whole items as they are now, however many of them; so does its index, if any."""
    held = {row[0] for row in toy.read_vectors(snapshot, toy.SECOND_SPACE)}
    assert held <= model.items.keys()
    there = {i: item for i, item in model.items.items() if i in held}
    indexed = toy.SECOND_SPACE in snapshot.head.indexes
    toy.assert_space_is(lake, snapshot, there, toy.SECOND_SPACE, toy.SECOND_DIM, indexed=indexed)


def _index_opens(lake, head):
    try:
        for index in head.indexes.values():
            vectors.Index(lake, index.table).open_at(index)
    except Damaged as error:
        if str(lake / "index" / index.table) not in str(error):
            raise
        return False
    return True


def _equals_but_for_the_index(snapshot, model):
    """What an exact search reads is whole."""
    for space in snapshot.head.spaces:
        dim = next(r.dim for r in snapshot.head.releases if r.space_id == space)
        held = {row[0] for row in toy.read_vectors(snapshot, space)}
        assert space != toy.SPACE or held == model.items.keys()
        expected = toy.vectors_table({i: item for i, item in model.items.items() if i in held}, dim).select(
            ["item_id", "chunk_no", "chunk_start", "chunk_end", "vector"]
        )
        rows = sorted((*list(row.values())[:-1], tuple(row["vector"])) for row in expected.to_pylist())
        assert toy.read_vectors(snapshot, space) == rows


def _searched(lake, head, model):
    """The index answers: a text is found by its words and by its vector."""
    named = head.indexes[toy.SPACE]
    reading = vectors.Index(lake, named.table).open_at(named)
    chunks = [chunk for item in model.items.values() for chunk in item.chunks]
    for chunk in chunks[:2]:
        query = toy.np.array(toy.vector_of(chunk), toy.np.float32)
        assert chunk in reading.nearest(query, 3).rows["text"].to_pylist()
    assert reading.matching("emoji", 9).rows.num_rows == sum("emoji" in chunk.split() for chunk in chunks)


def finished(lake, job, *, deep=True):
    """The job is done, and the lake is whole by every check there is; `deep` as the doctor has it."""
    state = look(lake)
    assert state["offset"] == JOBS[job].offset, state
    JOBS[job].done(lake)
    if not deep:
        return state
    damage = [f for f in examination.examine(lake, "docs", deep=True) if f.severity == "damage"]
    later = str(
        commits.Log(lake / "docs").copy(state["version"])
    )  # the next commit writes it, if it is missing
    assert [f for f in damage if f.path != later] == [], damage
    return state
