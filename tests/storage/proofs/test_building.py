"""A release that is built beside the live one: what is searched at the end is what the items are then."""

import contextlib
import threading

import pyarrow as pa
import pytest

from storage import building, indexing, parquet, transaction
from storage.building import Appended
from storage.commits import Calibrator, Log, Origins, succeeding
from storage.doctor import examine
from storage.drafting import discard, drafting
from storage.errors import CommitConflict, NoSuchRelease
from storage.locks import lock
from storage.releases import make_live, missing
from storage.repair import repair
from storage.snapshot import Snapshot
from storage.vectors import Index, tables


@pytest.fixture
def root(lake):
    return lake / "docs"


@pytest.fixture
def lease(root):
    """The lease of an upgrade."""
    with lock(root, "upgrade") as held:
        yield held


@pytest.fixture
def began(tale, root, lease):
    """A collection with some items, and a release that is to be mapped; nothing of it is yet."""
    tale.grow(1)
    tale.act({i: ("put", f"text of {i}, some chunks long", 1) for i in tale.toy.IDS})
    after = building.start(root, [tale.toy.mapping(root)], "upgrade", "run", lease)
    tale.tell(after.version)
    return after


def files_below(root):
    return {p.relative_to(root).as_posix() for p in (root / "data").rglob("*.parquet")}


def carry_all(toy, lake, snapshot, lease, rows=4):
    """Map whatever is lacking, as an upgrade does; again and again until nothing is."""
    while appended := list(toy.carry(snapshot, rows=rows)):
        try:
            snapshot = toy.append(lake, snapshot, appended, lease)
        except CommitConflict:
            snapshot = snapshot.advanced()
    return snapshot


def holds_all(tale, snapshot, *, indexed):
    toy = tale.toy
    given = {"indexed": indexed}
    toy.assert_space_is(tale.lake, snapshot, tale.model.items, toy.SECOND_SPACE, toy.SECOND_DIM, **given)


# ---- start


def test_releases_are_added_without_vectors_and_without_an_index(toy, root, lease, commit, lake):
    """A bridge and the release that it leads through, in one commit; readers get what they got before."""
    commit(toy.window({"a": toy.Item("one two")}))
    before = tables(lake)
    bridge = toy.RELEASE.model_copy(
        update={"release": 2, "strategy": "bridge", "through": 3, "upgraded_from": 1}
    )
    bridge = bridge.model_copy(update={"basis": toy.basis(root, "queries"), "fingerprint": "g"})
    native = toy.SECOND.model_copy(update={"release": 3, "calibrators": calibrators(toy)})
    head = building.start(root, [bridge, native], "upgrade", "run", lease).head
    assert (head.number, head.verb, head.live_release) == (2, "upgrade", 1)
    assert head.releases[1:] == (bridge, native)
    assert head.spaces == {toy.SPACE: Origins(encoded=2), toy.SECOND_SPACE: Origins()}
    assert list(head.indexes) == [toy.SPACE]
    assert tables(lake) == before
    assert examine(lake, "docs", deep=True) == []


def calibrators(toy):
    return (Calibrator(space_id=toy.SPACE, origin="mapped", scores=(0.1, 1 / 3), relevance=(0.0, 0.7)),)


def test_what_is_there_already_is_left(began, toy, root, lease):
    """Starting again changes nothing, whatever its canaries are this time."""
    again = toy.mapping(root)
    canaries = parquet.write(root, "data/canaries", pa.table({"text": ["x"]}))
    for same in (again, again.model_copy(update={"canaries": canaries})):
        assert building.start(root, [same], "upgrade", "run", lease).version == began.version
    both = [again, toy.RELEASE.model_copy(update={"release": 3, "strategy": "reuse"})]
    after = building.start(root, both, "upgrade", "run", lease)
    assert after.version == began.version + 1
    assert [r.release for r in after.head.releases] == [1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"release": 4}, "not the next"),
        ({"cascade": 51}, "another one by now"),
        ({"release": 1}, "another one by now"),
        ({"release": 3, "through": 9}, "leads through release 9, which is not there"),
    ],
)
def test_a_release_that_is_another_is_a_conflict(began, toy, root, lease, changes, message):
    """Nothing is added; numbers are given out once."""
    with pytest.raises(CommitConflict, match=message):
        building.start(root, [toy.mapping(root, **changes)], "upgrade", "run", lease)
    assert Snapshot.open(root).version == began.version


@pytest.mark.parametrize("changes", [{"version": 2}, {"retired": True}, {"dim": 7}])
def test_a_release_that_cannot_be_begun_is_a_mistake(began, toy, root, lease, changes):
    """One that was live or retired, or whose space has another dim."""
    with pytest.raises(ValueError, match="release 3"):
        building.start(root, [toy.mapping(root, release=3, **changes)], "upgrade", "run", lease)


def test_an_empty_collection_has_nothing_to_upgrade(toy, root, lease):
    with pytest.raises(NoSuchRelease, match="is empty"):
        building.start(root, [toy.mapping(root, release=1)], "upgrade", "run", lease)


# ---- append


def test_many_files_are_one_commit_and_no_index_is_touched(tale, began, lake, root, lease, monkeypatch):
    """Vectors are there, counted by origin, and readable by SQL; no table of LanceDB is opened or made."""
    toy = tale.toy
    before = tables(lake)
    monkeypatch.setattr(Index, "__init__", None)
    appended = list(toy.carry(began, rows=5))
    halves = [list(appended[:2]), list(appended[2:])]
    assert len(appended) > 4
    after = toy.append(lake, began, halves[0], lease, encode_seconds=0.5)
    last = toy.append(lake, after, halves[1], lease)
    monkeypatch.undo()
    assert (after.head.encode_seconds, after.head.counts.chunks) == (0.5, 1)
    assert last.version == began.version + 2
    holds_all(tale, last, indexed=False)
    rows = sum(one.written.rows for one in appended)
    assert last.head.spaces[toy.SECOND_SPACE] == Origins(mapped=rows)
    native = list(toy.carry(began, rows=100, origin="encoded"))
    discard(root, [one.written for one in native], unless=None)
    assert tables(lake) == before
    assert examine(lake, "docs", deep=True) == []


def test_rows_that_were_encoded_lie_among_those_that_were_mapped(tale, began, lake, root, lease):
    """The counts by origin are those of the files."""
    toy = tale.toy
    *_, one = list(toy.carry(began, rows=1000))
    rows = parquet.read(root, one.written)
    origins = ["encoded" if n % 3 else "mapped" for n in range(rows.num_rows)]
    mixed = rows.set_column(rows.column_names.index("origin"), rows.schema.field("origin"), pa.array(origins))
    file = parquet.write(root, f"data/vectors/{toy.SECOND_SPACE}", mixed)
    head = toy.append(lake, began, [Appended(one.source, one.rows, file)], lease).head
    native = sum(n % 3 > 0 for n in range(rows.num_rows))
    assert head.spaces[toy.SECOND_SPACE] == Origins(encoded=native, mapped=rows.num_rows - native)


@pytest.mark.parametrize("seed", [1, 2, *(pytest.param(k, marks=pytest.mark.slow) for k in range(3, 15))])
def test_whatever_happens_meanwhile_no_item_has_an_old_vector(story, lake, root, lease, seed, tools):
    """Items change, go, come back and are refreshed, files are joined: the space is what the items are."""
    tale = story(lake, seed)
    toy, chance = tale.toy, tale.random
    tale.step()
    tale.step()
    head = building.start(root, [toy.mapping(root)], "upgrade", "run", lease)
    tale.tell(head.version)
    conflicts = 0
    for _ in range(6):
        known = tale.head
        appended = list(toy.carry(known, rows=chance.choice([2, 5, 50])))
        if chance.random() < 0.8:
            tale.step()
        if chance.random() < 0.4:
            tools.maintain(lake)
        try:
            toy.append(lake, known, appended, lease)
        except CommitConflict:
            conflicts += 1
        snapshot = tale.head
        tale.tell(snapshot.version)
        held = {row[0] for row in toy.read_vectors(snapshot, toy.SECOND_SPACE)}
        there = {i: tale.model.items[i] for i in held}
        toy.assert_space_is(lake, snapshot, there, toy.SECOND_SPACE, toy.SECOND_DIM, indexed=False)
        assert [f for f in examine(lake, "docs") if f.severity == "damage"] == []
    if seed == 1:
        assert conflicts, "a compaction came in between at least once"
    snapshot = carry_all(toy, lake, tale.head, lease)
    holds_all(tale, snapshot, indexed=False)
    holds_all(tale, building.index(lake, snapshot, toy.SECOND, "run", lease), indexed=True)
    tale.filled = set(tale.model.items)
    for _ in range(2):
        tale.step()
        tale.is_live()


def test_a_deleted_item_that_is_added_again_gets_its_new_vector(tale, began, lake, lease):
    """Though its id, its text and its chunks may be the same."""
    toy = tale.toy
    appended = list(toy.carry(began))
    first = toy.IDS[0]
    item = tale.model.items[first]
    tale.act({first: ("delete", "", None)})
    tale.act({first: ("put", item.text, item.n)})
    after = toy.append(lake, began, appended, lease)
    assert first in missing(after, toy.SECOND).to_pylist()
    holds_all(tale, carry_all(toy, lake, after, lease), indexed=False)


def test_the_same_files_twice_are_one_commit(tale, began, lake, root, lease):
    """Whoever was not told of a commit makes it again: nothing is twice, and nothing is removed."""
    toy = tale.toy
    appended = list(toy.carry(began))
    after = toy.append(lake, began, appended, lease)
    assert toy.append(lake, began, appended, lease).version == after.version
    assert toy.append(lake, after, appended[:1], lease).version == after.version
    assert toy.append(lake, after, [], lease).version == after.version
    holds_all(tale, Snapshot.open(root), indexed=False)


def test_files_that_are_live_are_never_discarded(tale, began, lake, root, lease):
    """Also not by somebody who believes that his window failed, and has no record of it."""
    toy = tale.toy
    first, second, *_ = list(toy.carry(began))
    toy.append(lake, began, [first], lease)
    discard(root, [first.written, second.written], unless=None)
    assert (root / first.written.path).exists()
    assert not (root / second.written.path).exists()


@pytest.mark.parametrize("joined", [False, True])
def test_a_delivery_that_fails_takes_nothing_with_it_that_was_committed(
    tale, began, lake, root, lease, maintain, joined
):
    """Of files of which some were committed before, and perhaps joined since, only the others are removed."""
    toy = tale.toy
    first, second, *_ = list(toy.carry(began))
    after = toy.append(lake, began, [first], lease)
    if joined:
        tale.act({i: ("put", "other text", 1) for i in toy.IDS[:2]})
        maintain()
        after = Snapshot.open(root)
        assert first.written.path not in after.state.files
    (root / "_locks/upgrade.owner.json").unlink()
    assert toy.append(lake, began, [first], lease).version == after.version
    with pytest.raises(CommitConflict, match=r"was lost|was rewritten"):
        toy.append(lake, began, [first, second], lease)
    assert (root / first.written.path).exists()
    assert not (root / second.written.path).exists()


def test_rows_that_the_space_got_meanwhile_are_not_added_again(tale, began, lake, root, lease):
    """Made of the same rows a second time, in other files, or encoded by somebody: the first ones stay."""
    toy = tale.toy
    first = {toy.IDS[0]: tale.model.items[toy.IDS[0]]}
    transaction.commit(lake, "docs", toy.filling(first, release=toy.mapping(root)))
    appended = list(toy.carry(began))
    after = toy.append(lake, began, appended, lease)
    holds_all(tale, after, indexed=False)
    assert after.head.spaces[toy.SECOND_SPACE].encoded == len(first[toy.IDS[0]].chunks)
    discard_me = list(toy.carry(began))
    assert discard_me, "carry sees the space as it was"
    holds_all(tale, toy.append(lake, began, discard_me, lease), indexed=False)


@pytest.mark.parametrize("what", ["source", "index", "retired", "lease"])
def test_what_cannot_be_appended_leaves_nothing(tale, began, lake, root, what, maintain, lease):
    """A source that was rewritten, a space with an index, a release that is gone, a lease that was lost."""
    toy = tale.toy
    appended = list(toy.carry(began))
    message = {
        "source": "was rewritten while vectors were made of it",
        "index": "has its index already",
        "retired": "is not there any more",
        "lease": "was lost",
    }
    release = toy.SECOND
    if what == "source":
        tale.act({i: ("put", "other text", 1) for i in toy.IDS[:3]})
        maintain()
        assert appended[0].source not in Snapshot.open(root).state.files
    elif what == "index":
        building.index(lake, began, release, "run", lease)
    elif what == "retired":
        release = toy.SECOND.model_copy(update={"release": 3})
    else:
        (root / "_locks/upgrade.owner.json").unlink()
    before = Snapshot.open(root)
    with pytest.raises(CommitConflict, match=message[what]):
        toy.append(lake, began, appended, lease, release=release)
    assert Snapshot.open(root).version == before.version
    assert not any((root / one.written.path).exists() for one in appended)


def test_rows_that_do_not_fit_their_file_are_a_mistake(tale, began, lake, root, lease):
    """As many positions as rows, ascending, and in the space of the release."""
    toy = tale.toy
    for spoil in (
        lambda one: Appended(one.source, one.rows[:-1], one.written),
        lambda one: Appended(one.source, one.rows[::-1], one.written),
        lambda one: Appended(one.source, one.rows - one.rows[0] - 1, one.written),
    ):
        *_, one = list(toy.carry(began, rows=1000))
        with pytest.raises(ValueError, match="not in order"):
            toy.append(lake, began, [spoil(one)], lease)
        assert not (root / one.written.path).exists()
    *_, one = list(toy.carry(began, rows=1000))
    with pytest.raises(ValueError, match="does not lie in the space"):
        toy.append(lake, began, [one], lease, release=toy.RELEASE)


def test_a_file_that_was_swept_meanwhile_is_a_conflict(tale, began, lake, root, lease):
    """Nothing that is not there is ever named."""
    appended = list(tale.toy.carry(began))
    (root / appended[0].written.path).unlink()
    with pytest.raises(CommitConflict, match="was swept away"):
        tale.toy.append(lake, began, appended, lease)
    assert Snapshot.open(root).version == began.version


def test_an_ingest_and_a_maintenance_at_the_same_time(story, lake, root, lease, tools):
    """Three threads, each with its own work: all ends well, and the space is what the items are."""
    tale = story(lake, 5)
    toy = tale.toy
    tale.step()
    tale.step()
    building.start(root, [toy.mapping(root)], "upgrade", "run", lease)
    failed, busy = [], threading.Event()

    def until_done(work):
        def turn():
            try:
                work()
            except Exception as error:  # noqa: BLE001  whatever it is, it must not be there
                failed.append(error)

        return threading.Thread(target=turn)

    def ingest():
        for _ in range(12):
            tale.model_step()
        busy.set()

    def upkeep():
        while not busy.is_set():
            tools.maintain(lake)

    tale.model_step = lambda: transaction.commit(lake, "docs", tale.model.window(actions(tale)))
    threads = [until_done(ingest), until_done(upkeep)]
    for thread in threads:
        thread.start()
    while not busy.is_set():
        known = Snapshot.open(root)
        with contextlib.suppress(CommitConflict):
            toy.append(lake, known, list(toy.carry(known, rows=3)), lease)
    for thread in threads:
        thread.join()
    assert failed == []
    snapshot = carry_all(toy, lake, Snapshot.open(root), lease)
    holds_all(tale, building.index(lake, snapshot, toy.SECOND, "run", lease), indexed=True)
    assert [f for f in examine(lake, "docs", deep=True) if f.severity == "damage"] == []


def actions(tale):
    """A random window's."""
    kinds = ["leave", "put", "put", "delete", "refresh"]
    r = tale.random
    return {i: (r.choice(kinds), "".join(r.choices("abc", k=r.randint(1, 14))), 1) for i in tale.toy.IDS}


# ---- what others do meanwhile


def test_other_windows_make_no_index_for_it(tale, began, lake, root):
    """Ingests, refreshes, deletions, and vectors that are encoded into it: all leave it without one."""
    toy = tale.toy
    a, b, c = toy.IDS[:3]
    tale.act({a: ("put", "new text", 2), b: ("refresh", "", 7), c: ("delete", "", None)})
    tale.commit(toy.filling({b: tale.model.items[b]}, release=toy.mapping(root)))
    assert toy.SECOND_SPACE not in tale.head.head.indexes
    assert not any(toy.SECOND_SPACE in name for name in tables(lake))
    assert {row[0] for row in toy.read_vectors(tale.head, toy.SECOND_SPACE)} == {b}
    assert examine(lake, "docs", deep=True) == []


def test_it_is_not_made_live_before_it_is_indexed(tale, began, lake, root, lease):
    """Searches would find nothing; what to do is said."""
    with pytest.raises(NoSuchRelease, match=r"is not built yet.*evervec upgrade docs"):
        make_live(root, 2, "promote", "run")
    assert Snapshot.open(root).version == began.version
    snapshot = carry_all(tale.toy, lake, began, lease)
    building.index(lake, snapshot, tale.toy.SECOND, "run", lease)
    assert make_live(root, 2, "promote", "run").live == 2


def test_maintenance_leaves_it_and_joins_its_files(tale, began, lake, root, lease, clock, maintain):
    """However old, it is somebody's work; its small files are joined like all others."""
    toy = tale.toy
    for one in list(toy.carry(began, rows=3)):
        snapshot = toy.append(lake, tale.head, [one], lease)
    tale.tell(snapshot.version)
    assert len(snapshot.files("vectors", toy.SECOND_SPACE)) > 2
    clock.move(days=400)
    tale.step()
    done = maintain(days=1, releases=0, rebuild=True)
    assert (done.retired, done.indexes) == ([], [toy.SPACE])
    assert len(tale.head.files("vectors", toy.SECOND_SPACE)) == 1
    holds_all(tale, carry_all(toy, lake, tale.head, lease), indexed=False)


def test_a_purge_leaves_it_and_takes_what_was_deleted(tale, began, lake, root, lease, purge):
    """Mapped vectors of what was deleted go with the others; what is left is built on."""
    toy = tale.toy
    carry_all(toy, lake, began, lease)
    tale.act({toy.IDS[0]: ("delete", "", None)})
    in_flight = list(toy.carry(tale.head))
    purge()
    head = tale.head
    assert not head.masked
    assert files_below(root) == {f.path for f in head.all_files()}
    assert in_flight == []
    holds_all(tale, head, indexed=False)
    holds_all(tale, building.index(lake, head, toy.SECOND, "run", lease), indexed=True)


def test_an_index_that_is_made_during_a_purge_stops_it(tale, began, lake, lease, purge, monkeypatch):
    """It could hold texts of what was deleted: nothing is removed, and the next purge makes it anew."""
    toy, build = tale.toy, indexing.build
    snapshot = carry_all(toy, lake, began, lease)
    todo = [1]

    def meanwhile(*given):
        made = build(*given)
        if todo:
            todo.clear()
            building.index(lake, snapshot, toy.SECOND, "run", lease)
        return made

    monkeypatch.setattr(indexing, "build", meanwhile)
    with pytest.raises(CommitConflict, match=r"an index .* was made while it was purged"):
        purge()
    assert Snapshot.open(lake / "docs").head.purged_at is None
    assert set(purge().indexes) == {toy.SPACE, toy.SECOND_SPACE}
    holds_all(tale, Snapshot.open(lake / "docs"), indexed=True)


def test_an_item_of_which_only_a_part_was_mapped_is_no_damage_yet(tale, began, lake, root, lease):
    """The rest may come with the next window; once the space is indexed it must be there."""
    toy = tale.toy
    one, *_ = toy.carry(began, rows=100)
    part = parquet.write(
        root, f"data/vectors/{toy.SECOND_SPACE}", parquet.read(root, one.written).slice(0, 1)
    )
    after = toy.append(lake, began, [Appended(one.source, one.rows[:1], part)], lease)
    assert [f for f in examine(lake, "docs", deep=True) if f.severity == "damage"] == []
    rest = parquet.write(root, f"data/vectors/{toy.SECOND_SPACE}", parquet.read(root, one.written).slice(1))
    after = toy.append(lake, after, [Appended(one.source, one.rows[1:], rest)], lease)
    holds_all(tale, carry_all(toy, lake, after, lease), indexed=False)


def test_a_release_that_was_live_must_have_an_index(tale, began, lake, root, lease):
    """A record that names none is told, and mended: the index is made of the files."""
    toy = tale.toy
    building.index(lake, carry_all(toy, lake, began, lease), toy.SECOND, "run", lease)
    make_live(root, 2, "promote", "run")
    make_live(root, 1, "rollback", "run")
    with drafting(root) as draft:
        head = draft.before.head
        record = succeeding(head, verb="odd", run_id="run", started_at=head.started_at)
        draft.publish(record.model_copy(update={"indexes": {toy.SPACE: record.indexes[toy.SPACE]}}))
    (found,) = [f for f in examine(lake, "docs") if f.severity == "damage"]
    assert found.path == str(Log(root).path(head.number + 1))
    assert f"names no index of {toy.SECOND_SPACE}" in found.what
    assert [f for f in repair(lake, "docs").left if f.severity == "damage"] == []
    holds_all(tale, Snapshot.open(root), indexed=True)


def test_without_a_damaged_file_only_whole_items_are_left(tale, began, lake, root, lease):
    """Those of which a chunk is lost are mapped again; there is no index that could tell which they are."""
    toy = tale.toy
    appended = list(toy.carry(began, rows=3))
    snapshot = toy.append(lake, began, appended, lease)
    lost = appended[1].written
    gone = set(parquet.read(root, lost)["item_id"].to_pylist())
    (root / lost.path).unlink()
    done = repair(lake, "docs", drop=True, deep=True)
    assert [f for f in done.left if f.severity == "damage"] == []
    after = Snapshot.open(root)
    assert toy.read_items(after) == tale.model.items
    assert {row[0] for row in toy.read_vectors(after, toy.SECOND_SPACE)} == set(tale.model.items) - gone
    assert after.version > snapshot.version
    holds_all(tale, carry_all(toy, lake, after, lease), indexed=False)


# ---- index


def between(monkeypatch, *work):
    """Right after an index was built, each time the next of these is done."""
    build, todo = indexing.build, list(work)
    built = []

    def interrupted(*given):
        made = build(*given)
        built.append(made.table)
        if todo:
            todo.pop(0)()
        return made

    monkeypatch.setattr(indexing, "build", interrupted)
    return built


def test_an_index_has_what_was_committed_while_it_was_built(tale, began, lake, lease, monkeypatch):
    """Items that changed or went meanwhile are not in it, refreshed ones are as they are now."""
    toy = tale.toy
    a, b, c = toy.IDS[:3]
    snapshot = carry_all(toy, lake, began, lease)

    def meanwhile():
        tale.act({a: ("put", "new text", 2), b: ("refresh", "", 7), c: ("delete", "", None)})

    built = between(monkeypatch, meanwhile)
    after = building.index(lake, snapshot, toy.SECOND, "run", lease)
    assert len(built) == 1
    there = {i: item for i, item in tale.model.items.items() if i != a}
    toy.assert_space_is(lake, after, there, toy.SECOND_SPACE, toy.SECOND_DIM)
    assert (after.head.verb, after.head.indexes[toy.SECOND_SPACE].table) == ("upgrade", built[0])
    assert examine(lake, "docs", deep=True) == []


def test_an_index_is_built_again_if_files_were_joined_meanwhile(
    tale, began, lake, lease, maintain, monkeypatch
):
    """What had been masked in them cannot be told any more; and a deletion is not to be missed."""
    toy = tale.toy
    snapshot = carry_all(toy, lake, began, lease)

    def meanwhile():
        tale.act({toy.IDS[0]: ("delete", "", None)})
        maintain()

    built = between(monkeypatch, meanwhile)
    holds_all(tale, building.index(lake, snapshot, toy.SECOND, "run", lease), indexed=True)
    assert len(built) == 2


def test_an_index_that_is_there_is_left(tale, began, lake, root, lease, monkeypatch):
    """Made before, or by another one meanwhile."""
    toy = tale.toy
    snapshot = carry_all(toy, lake, began, lease)
    built = between(monkeypatch, lambda: building.index(lake, snapshot, toy.SECOND, "other", lease))
    after = building.index(lake, snapshot, toy.SECOND, "run", lease)
    assert len(built) == 2
    assert after.head.run_id == "other"
    assert after.head.indexes[toy.SECOND_SPACE].table == built[1]
    assert building.index(lake, snapshot, toy.SECOND, "run", lease).version == after.version
    assert len(built) == 2
    holds_all(tale, Snapshot.open(root), indexed=True)


def test_a_release_that_is_gone_gets_no_index(tale, began, lake, lease):
    """Nobody would drop it again."""
    other = tale.toy.SECOND.model_copy(update={"release": 3, "space_id": "other_3_22222222"})
    with pytest.raises(CommitConflict, match=r"release 3 .* is not there any more"):
        building.index(lake, began, other, "run", lease)


def test_an_empty_space_can_be_indexed(tale, began, lake, root, lease):
    """Of a release whose items are all still to be encoded, in another dim than the live one's."""
    toy = tale.toy
    after = building.index(lake, began, toy.SECOND, "run", lease)
    toy.assert_space_is(lake, after, {}, toy.SECOND_SPACE, toy.SECOND_DIM)
    tale.commit(toy.filling(tale.model.items))
    holds_all(tale, tale.head, indexed=True)


def test_all_of_it_in_an_object_store(toy, s3):
    """Start, append, index, promote."""
    root = s3 / "docs"
    items = {i: toy.Item(f"text of {i}") for i in toy.IDS}
    transaction.commit(s3, "docs", toy.window(items))
    with lock(root, "upgrade") as lease:
        snapshot = building.start(root, [toy.mapping(root)], "upgrade", "run", lease)
        snapshot = carry_all(toy, s3, snapshot, lease)
        after = building.index(s3, snapshot, toy.SECOND, "run", lease)
    toy.assert_space_is(s3, after, items, toy.SECOND_SPACE, toy.SECOND_DIM)
    assert make_live(root, 2, "promote", "run").live == 2
