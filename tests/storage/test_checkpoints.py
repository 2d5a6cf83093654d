"""Checkpoints: what they say is what the log says, and without them nothing but time is lost."""

import logging
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings

from storage import checkpoints, places, transaction
from storage.commits import Log, sealed, succeeding
from storage.drafting import drafting
from storage.snapshot import Snapshot

PARTS = ["json", "files.parquet", "masks.parquet", "history.parquet"]


@pytest.fixture
def every(monkeypatch):
    """Set how many commits lie between checkpoints, and every which of the old ones are kept."""

    def patch(commits, landmark=None):
        monkeypatch.setattr(checkpoints, "EVERY", commits)
        monkeypatch.setattr(checkpoints, "_LANDMARK", landmark or 10 * commits)

    return patch


@pytest.fixture
def reads(monkeypatch):
    """The files that were read whole (records and checkpoints are), by their folder."""
    noted = []
    real = places.read

    def read(file):
        noted.append(file.parent.name)
        return real(file)

    monkeypatch.setattr(places, "read", read)
    return noted


@pytest.fixture
def grow(toy, lake):
    """Commit that many quick versions: each replaces a reject by another, and so masks a row."""

    def more(count, known=None):
        known = known or Snapshot.open(lake / "docs")
        for number in range(known.version + 1, known.version + count + 1):
            rejects = [("again", "again.txt", f"at {number}"), (f"bad {number}", f"{number}.txt", "binary")]
            known = transaction.commit(lake, "docs", toy.window(rejects=rejects), known=known)
        return known

    return more


def numbers(root):
    return checkpoints.numbers(root / "_checkpoints")


def path_of(root, number, part):
    return root / "_checkpoints" / f"{number:020d}.{part}"


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def seen(snapshot):
    """All that a snapshot says of its version, comparable."""
    state = snapshot.state
    masked = {path: rows.tolist() for path, rows in snapshot.masked.items()}
    return state.head, list(state.files.items()), state.index_files, masked, snapshot.history().to_pylist()


def folded(root, at=None):
    """A version as the log alone has it."""
    with tempfile.TemporaryDirectory() as aside:
        hidden = Path(aside) / "checkpoints"
        shutil.move(root / "_checkpoints", hidden)
        try:
            snapshot = Snapshot.open(root, at=at)
            assert snapshot.base is None
            return seen(snapshot)
        finally:
            shutil.move(hidden, root / "_checkpoints")


def test_any_history_is_the_same_with_and_without(toy, every):
    """Files in their order, masks, history and rows of every version: before, at and after a checkpoint."""
    # no shrinking: with a real lake for every try it would take minutes
    phases = [Phase.explicit, Phase.generate]
    every(2, landmark=4)

    @settings(max_examples=8, deadline=None, derandomize=True, database=None, phases=phases)
    @given(toy.windows)
    def check(history):
        with tempfile.TemporaryDirectory() as folder:
            lake, model, told = Path(folder), toy.Model(), []
            held = first = Snapshot.open(lake / "docs")
            for actions in history:
                held = transaction.commit(lake, "docs", model.window(actions), known=held)
                told.append((dict(model.items), list(model.rejects.values())))
            root = lake / "docs"
            if len(history) < 2:
                assert not (root / "_checkpoints").exists()
                return
            assert numbers(root) == list(range(2, len(history) + 1, 2))
            for version, expected in enumerate(told, start=1):
                past = Snapshot.open(root, at=version)
                assert (past.base.number if past.base else 0) == version // 2 * 2
                assert seen(past) == folded(root, version)
                toy.assert_is(lake, past, *expected)
                assert seen(past.advanced()) == seen(held)
            assert seen(first.advanced()) == seen(Snapshot.open(root)) == seen(held)

    check()


def test_a_removed_file_stays_removed(toy, lake, commit, head, every):
    """Files that a commit took out, with their masks, are in no later checkpoint; earlier ones have them."""
    every(3)
    for text in ("one", "two"):
        commit(toy.window({"a": toy.Item(text), "b": toy.Item(text)}))
    old = head().files("items")[0]
    with drafting(lake / "docs") as draft:
        before = draft.before.head
        record = succeeding(before, verb="compact", run_id="run", started_at=before.started_at)
        draft.publish(record.model_copy(update={"removed": (old.path,)}))
    assert numbers(lake / "docs") == [3]
    commit(toy.window({"a": toy.Item("three")}))
    for version in (2, 3, 4):
        snapshot = Snapshot.open(lake / "docs", at=version)
        assert seen(snapshot) == folded(lake / "docs", version)
        assert (old in snapshot.all_files()) == (old.path in snapshot.masked) == (version < 3)
    assert toy.read_items(head()) == {"a": toy.Item("three"), "b": toy.Item("two")}


def test_two_spaces_and_their_indexes_are_in_a_checkpoint(toy, lake, commit, head, every):
    """Vectors keep their space, and files of index tables their table."""
    every(3)
    items = {"a": toy.Item("one two three"), "b": toy.Item("four")}
    commit(toy.window(items))
    commit(toy.filling(items))
    commit(toy.window({"a": toy.Item("changed")}))
    snapshot = head()
    assert (snapshot.base.number, snapshot.tail) == (3, ())
    assert seen(snapshot) == folded(lake / "docs")
    assert {f.space_id for f in snapshot.state.files.values()} == {"", toy.SPACE, toy.SECOND_SPACE}
    assert set(snapshot.state.index_files) == {i.table for i in snapshot.head.indexes.values()}
    assert all(snapshot.state.index_files.values())


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("how", ["missing", "empty", "cut", "one bit", "of another version"])
def test_a_damaged_checkpoint_costs_nothing_but_a_warning(lake, grow, every, caplog, part, how):
    """Whichever part is lost or altered: the one before is read instead, then the log, to the same result."""
    every(3)
    grow(7)
    root = lake / "docs"
    expected = folded(root)
    assert numbers(root) == [3, 6]
    damaged = path_of(root, 6, part)
    content = damaged.read_bytes()
    if how == "missing":
        damaged.unlink()
    else:
        changed = {
            "empty": b"",
            "cut": content[: len(content) // 2],
            "one bit": content[:-20] + bytes([content[-20] ^ 1]) + content[-19:],
            "of another version": path_of(root, 3, part).read_bytes(),
        }
        damaged.write_bytes(changed[how])
    snapshot = Snapshot.open(root)
    assert snapshot.base.number == 3
    assert seen(snapshot) == expected
    said = warnings_of(caplog)
    if (part, how) == ("json", "missing"):
        assert said == [], "it is as if it had never been"
    else:
        assert len(said) == 1
        assert path_of(root, 6, "").name in said[0], "it is named"
    caplog.clear()
    path_of(root, 3, "history.parquet").write_bytes(b"torn")
    snapshot = Snapshot.open(root)
    assert snapshot.base is None
    assert seen(snapshot) == expected
    grow(2)
    assert numbers(root)[-1] == 9, "and a new one is made"
    assert Snapshot.open(root).base.number == 9


@pytest.mark.parametrize("part", PARTS)
def test_a_checkpoint_that_the_disk_cannot_read_is_passed_over(lake, grow, every, monkeypatch, caplog, part):
    """A bad sector under a checkpoint costs a warning and time, no more than one that is torn."""
    every(3)
    grow(7)
    root = lake / "docs"
    expected = seen(Snapshot.open(root))
    read_bytes = Path.read_bytes

    def bad_sector(path):
        if path == path_of(root, 6, part):
            raise OSError(5, "Input/output error", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", bad_sector)
    snapshot = Snapshot.open(root)
    assert (snapshot.base.number, len(warnings_of(caplog))) == (3, 1)
    assert seen(snapshot) == expected


def test_a_checkpoint_that_cannot_be_written_does_not_fail_the_commit(lake, grow, every, caplog):
    """The commit stands; opening the log only takes longer, and one line says why."""
    every(3)
    grow(2)
    (lake / "docs" / "_checkpoints").write_text("a file where the folder should be")
    assert grow(2).version == 4
    (said,) = warnings_of(caplog)
    assert "no checkpoint of version 3" in said
    assert Snapshot.open(lake / "docs").version == 4


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_half_written_checkpoint_is_none(lake, grow, every, monkeypatch, step):
    """Whichever of its files is the last that was written: it is found with all of them, or not at all."""
    every(3)
    known = grow(2)
    real, done = places.replace, []

    def replace(file, data):
        if file.parent.name == "_checkpoints":
            done.append(file)
            if len(done) == step:
                raise OSError(28, "No space left on device")
        real(file, data)

    monkeypatch.setattr(places, "replace", replace)
    grow(1, known)
    monkeypatch.undo()
    assert len(done) == step
    assert Snapshot.open(lake / "docs").base is None
    assert Snapshot.open(lake / "docs").version == 3
    assert seen(grow(3)) == seen(Snapshot.open(lake / "docs"))


def test_damage_found_by_a_checkpoint_does_not_fail_the_commit(toy, lake, commit, every):
    """A commit that needed nothing of a torn file stands, and its writer is told so."""
    every(3)
    commit(toy.window({"a": toy.Item("one")}))
    record = commit(toy.window({"a": toy.Item("two")}))
    (lake / "docs" / record.deletes[0].path).write_bytes(b"torn")
    after = transaction.commit(lake, "docs", toy.window())
    assert after.version == Snapshot.open(lake / "docs").version == 3


def test_opening_reads_one_checkpoint_and_the_records_after_it(lake, grow, every, reads):
    """However long the log: at most EVERY records and the four files of one checkpoint."""
    every(20)
    root, known = lake / "docs", None
    for version in (19, 20, 21, 39, 65):
        known = grow(version - (known.version if known else 0), known)
        reads.clear()
        snapshot = Snapshot.open(root)
        assert snapshot.version == version
        count = Counter(reads)
        assert len(snapshot.tail) == version % 20
        assert count["_commits"] == len(snapshot.tail) + (version >= 20), "and that of the checkpoint"
        assert count["_checkpoints"] == (len(PARTS) if version >= 20 else 0)
        assert set(count) <= {"_commits", "_checkpoints"}
        reads.clear()
        snapshot.history()
        assert reads == [], "history costs no more"
    reads.clear()
    assert len(Snapshot.open(root, at=45).tail) == 5
    assert Counter(reads)["_commits"] <= 20 + 2, "the newest says what is kept"


def test_a_checkpoint_of_a_record_that_was_lost_is_not_believed(lake, grow, every):
    """Where a number was lost in both places and given anew, the log is right and the checkpoint is stale."""
    every(4)
    root = lake / "docs"
    grow(4)
    Log(root).path(4).unlink()
    Log(root).copy(4).unlink()
    held = checkpoints.newest(root, None)
    checkpoints.remove(root, 4)
    again = grow(1, Snapshot.open(root))
    for part, content in held.parts.items():
        (root / "_checkpoints" / f"{4:020d}.{part}.parquet").write_bytes(content)
    (root / "_checkpoints" / f"{4:020d}.json").write_bytes(sealed(held.contents))
    assert seen(Snapshot.open(root)) == seen(again)
    assert Snapshot.open(root).base is None


def test_advancing_reads_only_what_is_new(lake, grow, every, reads):
    """A held snapshot reads each record once, and no checkpoint."""
    every(4)
    held = grow(6)
    grow(5)
    reads.clear()
    assert held.advanced().version == 11
    assert reads == ["_commits"] * 5


def test_the_default_interval_is_a_hundred_commits(lake, grow, reads):
    """The first hundred records need no checkpoint; then there is one, and it is used."""
    assert checkpoints.EVERY == 100
    root, known = lake / "docs", grow(3)
    while known.version < 101:
        assert known.version > 99 or not (root / "_checkpoints").exists()
        with drafting(root, known) as draft:
            head = draft.before.head
            record = succeeding(head, verb="idle", run_id="run", started_at=head.started_at)
            known = draft.publish(record)
    grow(1, known)
    reads.clear()
    snapshot = Snapshot.open(root)
    assert (snapshot.version, snapshot.base.number, len(snapshot.tail)) == (102, 100, 2)
    assert Counter(reads) == {"_commits": 3, "_checkpoints": 4}
    assert seen(snapshot) == folded(root)


def test_old_checkpoints_go_but_for_landmarks(lake, grow, every):
    """The newest three are kept, of the older ones every tenth (here: fourth); no part of others is left."""
    every(2, landmark=8)
    grow(21)
    root = lake / "docs"
    assert numbers(root) == [8, 16, 18, 20]
    left = sorted(p.name for p in (root / "_checkpoints").iterdir())
    assert left == sorted(f"{n:020d}.{part}" for n in (8, 16, 18, 20) for part in PARTS)
    for version in range(1, 22):
        past = Snapshot.open(root, at=version)
        expected = max((n for n in (8, 16, 18, 20) if n <= version), default=0)
        assert (past.base.number if past.base else 0) == expected
        assert seen(past) == folded(root, version)


def test_a_removed_checkpoint_leaves_no_part(lake, grow, every):
    """Removing one takes all of it, twice is once, and the others stay."""
    every(2)
    grow(4)
    root = lake / "docs"
    for _ in range(2):
        checkpoints.remove(root, 4)
        assert numbers(root) == [2]
    assert len(list((root / "_checkpoints").iterdir())) == len(PARTS)


def test_a_checkpoint_can_be_written_at_any_version(lake, grow, every):
    """`checkpoint()` writes one of the version at hand, again if need be; of the empty one there is none."""
    every(1000)
    root = lake / "docs"
    Snapshot.open(root).checkpoint()
    assert not lake.exists()
    grow(5)
    for _ in range(2):
        Snapshot.open(root, at=3).checkpoint()
        assert numbers(root) == [3]
    assert seen(Snapshot.open(root)) == folded(root)
    Snapshot.open(root, at=5).checkpoint()
    assert seen(Snapshot.open(root, at=5)) == folded(root, 5)


def test_the_newest_checkpoint_is_one_not_after_the_version(lake, grow, every):
    """`upto` bounds it; None means any."""
    every(2)
    grow(6)
    root = lake / "docs"
    found = {upto: checkpoints.newest(root, upto) for upto in (None, 7, 6, 5, 2, 1, 0)}
    assert {upto: c and c.number for upto, c in found.items()} == {
        None: 6, 7: 6, 6: 6, 5: 4, 2: 2, 1: None, 0: None,
    }  # fmt: skip


def test_records_before_a_checkpoint_are_not_needed_for_the_newest_version(lake, grow, every):
    """The checkpoint has all that they say: damage to old records does not keep readers from the head."""
    every(3)
    grow(7)
    root = lake / "docs"
    expected = seen(Snapshot.open(root))
    for number in (2, 3):
        for path in (Log(root).path(number), Log(root).copy(number)):
            path.write_bytes(b"torn")
    assert seen(Snapshot.open(root)) == expected
