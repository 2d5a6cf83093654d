"""Clocks jump: versions are in the order of their numbers, and nothing is let go or taken over too early."""

import json
import logging
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest

from storage import locks, maintenance, retention, transaction
from storage.commits import Log
from storage.errors import CommitConflict, LakeBusy, VersionGone
from storage.locks import lock
from storage.parquet import DataFile
from storage.releases import make_live
from storage.retention import Retention
from storage.snapshot import Snapshot

JUMPS = [{"hours": -1}, {"days": 365}, {"days": -730}, {"hours": 1}, {"days": 365}]
"""To and fro; in the end the clock is right again."""


def test_versions_are_in_the_order_of_their_numbers(tale, lake, clock):
    """Whatever the times in the records: the head is the newest number, and each version is what it was."""
    tale.step()
    for jump in JUMPS:
        clock.move(**jump)
        tale.step()
    head = tale.head
    assert [c.number for c in head.tail] == list(range(1, 7))
    times = [c.committed_at for c in head.tail]
    assert times != sorted(times), "they say something else"
    tale.is_live(head)
    for version in tale.told:
        tale.holds(version)
    assert head.history()["version"].to_pylist() == list(range(1, 7))


@pytest.mark.parametrize("jump", [{"days": 365}, {"days": -365}], ids=str)
def test_versions_of_the_last_days_are_kept_though_the_clock_jumped_between(
    tale, lake, clock, maintain, jump
):
    """A clock that was wrong for some commits and is right again lets go of nothing of the last days."""
    for _ in range(3):
        tale.step()
    clock.move(**jump)
    for _ in range(2):
        tale.step()
    clock.shift = timedelta(0)
    tale.step()
    done = maintain(days=14)
    assert done.readable_from == 1
    tale.tell(done.version)
    for version in tale.told:
        tale.holds(version)


@pytest.mark.parametrize("jump", [{"hours": -1}, {"days": -365}], ids=str)
def test_a_clock_that_is_late_at_maintenance_lets_go_of_nothing_new(tale, lake, clock, maintain, jump):
    """Ages are told by the later of the clock and the last commit, and what retention keeps it keeps."""
    clock.move(days=-30)
    tale.step()
    clock.move(days=29)
    tale.step()
    clock.move(days=1)
    tale.step()
    clock.move(**jump)
    assert retention.now_of(tale.head.head) == tale.head.head.committed_at
    done = maintain(days=14)
    assert done.readable_from == 1, "version 1 was the head until yesterday"
    assert maintain(days=0.5).readable_from <= 2
    for version in (2, 3):
        tale.holds(version)
    tale.is_live()


def test_a_clock_that_is_early_at_maintenance_leaves_the_head(tale, lake, clock, maintain):
    """A year too early, all that is older goes (who could tell?), but the head, and it goes on from there."""
    tale.grow(4)
    newest = tale.head.version
    clock.move(days=365)
    for path in lake.rglob("*"):
        os.utime(path, (1, 1))
    done = maintain(days=14, releases=5)
    assert done.readable_from >= newest, "the version that was the head 14 days ago, and what came since"
    with pytest.raises(VersionGone):
        Snapshot.open(lake / "docs", at=2)
    tale.tell(done.version)
    tale.holds(newest)
    tale.holds(1)
    clock.shift = timedelta(0)
    tale.step()
    tale.is_live()
    assert maintain(days=14).readable_from == done.readable_from


@pytest.mark.parametrize(
    "jump",
    [{"days": 365}, {"days": -365}],
    ids=str,
)
def test_a_release_is_not_retired_because_the_clock_was_wrong_at_its_promotion(
    tale, clock, lake, maintain, jump
):
    """A release that was live a minute ago can be rolled back to, whatever time its end was given."""
    tale.grow(2)
    clock.move(**jump)
    make_live(lake / "docs", 2, "promote", "run")
    clock.shift = timedelta(0)
    tale.step()
    assert maintain(days=14, releases=1).retired == []
    assert not tale.head.head.release(1).retired


def in_flight(monkeypatch, meanwhile):
    """When a window has written its files and is about to take the commit lock, something happens."""
    drafting, todo = transaction.drafting, [meanwhile]

    def late(*given):
        while todo:
            todo.pop()()
        return drafting(*given)

    monkeypatch.setattr(transaction, "drafting", late)


@pytest.mark.parametrize("jump", [{"hours": -1}, {"hours": 2}, {"days": 365}], ids=str)
def test_files_in_flight_are_never_missing_from_a_version(tale, lake, clock, maintain, monkeypatch, jump):
    """A sweep under a clock that jumped takes a writer's files: then it is told so, and commits nothing."""
    tale.grow(3)
    items, version = dict(tale.model.items), tale.head.version
    swept = jump != {"hours": -1}

    def sweep():
        clock.move(**jump)
        done = maintain(days=14, releases=5)
        tale.tell(done.version)
        assert (done.removed > 0) == swept

    in_flight(monkeypatch, sweep)
    window = tale.toy.window({"new": tale.toy.Item("new text")})
    if swept:
        with pytest.raises(CommitConflict, match=r"was swept away before it was committed"):
            transaction.commit(lake, "docs", window)
        tale.is_live()
        assert tale.head.version == max(version, max(tale.told)), "no version was made of it"
    tale.model.items = {**items, "new": tale.toy.Item("new text")}
    tale.model.rejects.pop("new", None)
    tale.commit(window)
    tale.is_live()
    for file in tale.head.all_files():
        assert (lake / "docs" / file.path).exists()


def test_a_compaction_in_flight_is_told_that_its_file_was_swept(tale, lake, monkeypatch):
    """The same for the new file of a compaction, swept by one who took its lease away."""
    tale.grow(4)
    rewrite = maintenance.compaction.rewrite

    def slow(*given):
        made = rewrite(*given)
        (lake / "docs" / made.file.path).unlink()
        return made

    monkeypatch.setattr(maintenance.compaction, "rewrite", slow)
    with lock(lake / "docs", "maintain") as lease:
        work = maintenance.plan(lake, tale.head, Retention(14, 1), rebuild=False)
        with pytest.raises(CommitConflict, match="was swept away"):
            maintenance.carry_out(lake, tale.head, work, Retention(14, 1), "run", lease)
    monkeypatch.undo()
    tale.is_live()


@pytest.mark.parametrize("what", ["canaries", "basis"])
def test_the_files_of_a_release_are_there_when_it_is_committed(toy, lake, commit, head, what):
    """A window that brings a release whose canaries, or basis, were swept meanwhile is a conflict, too."""
    commit(toy.window({"a": toy.Item("one")}))
    basis = toy.basis(lake / "docs")
    (lake / "docs" / basis.file.path).unlink()
    lost = DataFile(path="data/canaries/" + "0" * 32 + ".parquet", rows=8, bytes=1, sha256="0" * 64)
    files = {"canaries": lost} if what == "canaries" else {"basis": basis}
    with pytest.raises(CommitConflict, match="was swept away"):
        commit(toy.filling({}, release=toy.SECOND.model_copy(update=files)))
    assert head().version == 1


@pytest.mark.parametrize("since", ["1970-01-01T00:00:00+00:00", "2199-01-01T00:00:00+00:00", "soon"])
def test_a_lease_is_held_by_who_holds_it_whatever_its_time(lake, since, caplog):
    """A holder whose clock is decades off is still the holder; one that is gone is not."""
    place = lake / "docs"
    with lock(place, "ingest") as lease:
        sign = place / "_locks/ingest.owner.json"
        owner = json.loads(sign.read_text())
        sign.write_text(json.dumps({**owner, "since": since}))
        with pytest.raises(LakeBusy, match=f"process {os.getpid()}"), lock(place, "ingest"):
            pass
        assert lease.still_held()
    sign.write_text(json.dumps({**owner, "since": since, "nonce": "of one that was killed"}))
    with caplog.at_level(logging.WARNING), lock(place, "ingest") as lease:
        assert lease.still_held()
    assert f"since {since}" in caplog.text


def test_a_wait_is_measured_by_a_clock_that_does_not_jump(lake, monkeypatch):
    """Who waits for a lease waits his time, though the time of day jumps by years meanwhile."""

    class Jumping(datetime):
        years = iter(range(1000))

        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=365 * (-1) ** next(cls.years))

    monkeypatch.setattr(locks, "datetime", Jumping)
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with lock(lake / "docs", "maintain"):
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(30)
    threading.Timer(0.3, leave.set).start()
    with lock(lake / "docs", "maintain", wait=30) as lease:
        assert lease.still_held()
    thread.join()


def test_another_time_zone_is_the_same_time(toy, lake, commit, head):
    """A process in another zone writes and reads the same times."""
    before = commit(toy.window({"a": toy.Item("one")})).committed_at
    script = (
        "import sys, pathlib; from storage.snapshot import Snapshot\n"
        "print(Snapshot.open(pathlib.Path(sys.argv[1])).head.committed_at.isoformat())"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, str(lake / "docs")],
        env={**os.environ, "TZ": "Pacific/Kiritimati"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert datetime.fromisoformat(told.stdout.strip()) == before
    assert before.tzinfo is not None
    assert abs(datetime.now(UTC) - before) < timedelta(minutes=5)
    assert Log(lake / "docs").read(1).committed_at == head().head.committed_at
